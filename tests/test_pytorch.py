"""PyTorch state dicts: names, order and layouts of the authors' networks."""

from irnet_tf.models import cifar_resnet
from irnet_tf.pytorch import load_pytorch_state_dict, pytorch_state_dict
import numpy as np
import pytest

from tests.reference import BUILDERS, FOLDER, Reference

pytestmark = pytest.mark.skipif(
    not FOLDER.is_dir(), reason="the authors' numbers (shared/reference) are not here"
)


@pytest.mark.parametrize("name", BUILDERS)
def test_round_trip_in_the_authors_order(name, float64):
    reference = Reference(name)
    model = reference.build()
    load_pytorch_state_dict(model, reference.state_dict)
    back = pytorch_state_dict(model)
    assert [k for k in back if ".running_" not in k] == reference.param_names
    assert [k for k in back if ".running_" in k] == reference.buffer_names
    for key, value in reference.state_dict.items():
        np.testing.assert_array_equal(back[key], value, err_msg=key)


@pytest.fixture
def reference():
    return Reference("cifar_resnet20_1w1a")


def test_prefix_of_data_parallel_and_counters_are_passed_over(reference):
    model = reference.build()
    given = {f"module.{k}": v for k, v in reference.state_dict.items()}
    given["module.bn1.num_batches_tracked"] = np.array(7)
    load_pytorch_state_dict(model, given)
    np.testing.assert_allclose(
        pytorch_state_dict(model)["conv1.weight"], reference.state_dict["conv1.weight"], rtol=1e-6
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d.pop("layer2.0.conv1.weight"), "layer2.0.conv1.weight is missing"),
        (lambda d: d.update(extra=np.zeros(3)), "extra is not in this network"),
        (
            lambda d: d.update({"conv1.weight": np.zeros((16, 3, 5, 5))}),
            r"conv1.weight has shape \(16, 3, 5, 5\), expected \(16, 3, 3, 3\)",
        ),
        (
            lambda d: d.update({"linear.weight": np.zeros((64, 10))}),
            r"linear.weight has shape \(64, 10\), expected \(10, 64\)",
        ),
    ],
)
def test_what_does_not_fit_is_named_and_changes_nothing(reference, change, message):
    model = cifar_resnet(20, padding="symmetric")
    before = model.get_weights()
    state = dict(reference.state_dict)
    change(state)
    with pytest.raises(ValueError, match=message):
        load_pytorch_state_dict(model, state)
    for a, b in zip(before, model.get_weights()):
        np.testing.assert_array_equal(a, b)

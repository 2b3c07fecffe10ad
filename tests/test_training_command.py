"""train.py: its flags, what it says, and what it answers to nonsense."""

import dataclasses
import json
import shutil
import subprocess
import sys

from irnet_tf.training import Recipe
import numpy as np
from PIL import Image
import pytest

from tests.conftest import ROOT, result_of, run_train

# Flags are parsed and checked in a process that has TensorFlow loaded once.
_CHECK = """
import json, sys
sys.path.insert(0, {root!r})
import train
from absl import flags

answers = []
for arguments, environment in json.load(sys.stdin):
    train.FLAGS.unparse_flags()
    for name in train.FLAGS:
        train.FLAGS[name].unparse()
    train.os.environ.update(environment)
    answer = None
    try:
        train.run(train.FLAGS(["train.py", *arguments]))
        answer = [0, ""]
    except flags.Error as error:
        answer = [1, str(error)]
    except SystemExit as error:
        answer = [1, str(error)]
    except BaseException as error:
        answer = [2, repr(error)]
    for name in environment:
        del train.os.environ[name]
    answers.append(answer)
json.dump(answers, open(sys.argv[1], "w"))
"""

# Flags, and what the answer must contain. `O` is a folder, which must not be there afterwards.
NONSENSE = [
    (["--model=digits/resnet20_birael_1w1a"], "did you mean digits/resnet20_bireal_1w1a"),
    (["--model="], "model is empty"),
    (["--recipe=slow"], "unknown recipe 'slow'"),
    (["--epochs=0"], "epochs must be a whole number of at least 1, got 0"),
    (["--epochs=9223372036854775808"], "are too many; at most 97612893"),
    (["--epochs=1e3"], "epochs"),
    (["--batch_size=2000"], "batch_size 2000 is larger than the 1437 training images"),
    (["--batch_size=-1"], "batch_size must be"),
    (["--learning_rate=1e39"], "learning_rate must be"),
    (["--learning_rate=1e-50"], "learning_rate must be"),
    (["--learning_rate=nan"], "learning_rate must be"),
    (["--weight_decay=1e39"], "weight_decay must be"),
    (["--weight_decay=inf"], "weight_decay must be"),
    (["--momentum=1"], "momentum must be"),
    (["--nesterov=perhaps"], "nesterov"),
    (["--lr_schedule=zigzag"], "lr_schedule must be one of"),
    (["--decay_at=0.3,high"], "decay_at"),
    (["--decay_at=3"], "decay_at must hold shares"),
    (["--warmup=2"], "warmup must be"),
    (["--warmup_start_lr=0.1"], "warmup_start_lr needs warmup"),
    (["--decay_at=0.5"], "decay_at is for the lr_schedule 'step', and it is 'cosine'"),
    (["--lr_schedule=step"], "lr_schedule 'step' needs decay_at, such as 0.5,0.75"),
    (["--t_min=0"], "t_min"),
    (["--t_min=20"], "t_min"),
    (["--augmentation=nope"], "augmentation must be one of"),
    (["--mixed_precision=float8"], "mixed_precision must be one of"),
    (["--classifier_lr_scale=-1"], "classifier_lr_scale must be"),
    (["--data=cifra10"], "did you mean cifar10"),
    (["--data_dir=no/such/folder"], "data_dir 'no/such/folder' is not a folder"),
    (["--data_dir="], "data_dir is empty"),
    (["--validation_split=2"], "validation_split"),
    (["--output_dir={file}"], "is not a folder"),
    (["--output_dir={file}/run"], "is not a folder"),
    (["--output_dir="], "output_dir is empty"),
    (["--seed=-1"], "seed must be between"),
    (["--seed=2147483648"], "seed must be between"),
    (["--strategy=ring"], "strategy"),
    (["--strategy=multiworker"], "needs a cluster of several workers"),
    (["--ede=maybe"], "ede"),
    (["--weights="], "weights is empty"),
    (["--weights=no.safetensors"], "no.safetensors"),
    (["--mode=evaluate", "--weights=no.safetensors"], "no.safetensors"),
    (["--mode=evaluate"], "holds no run; which model is meant?"),
    (["--mode=predict"], "mode"),
    (["--kernel_quantizer=libra_bp"], "unknown quantizer 'libra_bp'; did you mean libra_pb"),
    (["--kernel_quantizer=NoOp"], "does not quantize; use weight_bits=32"),
    (["--input_quantizer=libra_pb"], "input_quantizer 'libra_pb' is for kernels"),
    (["--weight_bits=2"], "weight_bits must be one of 1, 32"),
    (["--depth=21"], "depth must be one of 20"),
    (["--depth=deep"], "depth"),
    (["--structure=normall"], "structure must be one of"),
    (["--padding=zero"], "padding must be one of"),
    (["--num_classes=0"], "num_classes"),
    (["--num_classes=20"], "10 classes, the network's output is [20] an image"),
    (["--input_shape=32"], "input_shape"),
    (["--input_shape=a,b,c"], "input_shape"),
    (["--input_shape=32,32,1"], "shape (32, 32, 1), and the data's are made square with 3 chann"),
    (["--input_shape=32,64,3"], "give input_shape=(size, size, 3)"),
    (
        ["--mode=evaluate", "--model=digits/resnet20_bireal_1w1a", "--data_dir={mine}"],
        "trained on the classes 0, 1, 2, 3, 4 and 5 more, images of mine has a, b, c",
    ),
    (
        [
            "--mode=evaluate",
            "--model=digits/resnet20_bireal_1w1a",
            "--data_dir={mine}",
            "--num_classes=3",
        ],
        "trained on the classes 0, 1, 2, 3, 4 and 5 more",
    ),
    (["--data=folder"], "data 'folder' needs data_dir"),
    (["--stem=cifar"], "has no argument 'stem'; it has depth"),
    (["--model=cifar10/vgg_small_1w1a", "--depth=20"], "has no argument 'depth'; it has"),
    (["--t_mni=0.1"], "Did you mean: t_min"),
    (["--lerning_rate=1"], "learning_rate"),
    (["epochs=3"], "did not understand epochs=3"),
]
CLUSTERS = [
    ({"TF_CONFIG": text}, "TF_CONFIG")
    for text in (
        "{cluster}", "[1, 2]", "1e400", '"x"', "null", '{"cluster": 3}', "[" * 5000,
        '{"cluster": {"worker": 3}}',
        '{"cluster": {"worker": ["nohost", "b:1"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": [1, 2]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:99999"]}, "task": {"type": "worker", "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": "worker", "index": 1e400}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": {"type": ["worker"], "index": 0}}',
        '{"cluster": {"worker": ["a:1", "b:1"]}, "task": 7}',
    )
] + [
    ({"SLURM_STEP_NUM_TASKS": "2"}, "SLURM_STEP_NODELIST is not set"),
    ({"SLURM_STEP_NUM_TASKS": "two"}, "not a number"),
    ({"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NODELIST": "n[", "SLURM_PROCID": "0",
      "SLURM_STEP_TASKS_PER_NODE": "x"}, "do not describe a cluster"),
]  # fmt: skip


def answers_to(questions, tmp_path):
    """(exit status, text) of train.py for each (flags, environment), in one process."""
    process = subprocess.run(
        [sys.executable, "-c", _CHECK.format(root=str(ROOT)), str(tmp_path / "answers.json")],
        input=json.dumps(questions),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    return json.loads((tmp_path / "answers.json").read_text())


def test_nonsense_gets_one_clear_line_and_leaves_nothing_behind(tmp_path):
    """The flag sweep: every flag with values that it cannot have, and odd environments."""
    (tmp_path / "file").write_text("")
    for part in ("train/a", "train/b", "train/c", "test/a", "test/b", "test/c"):
        (tmp_path / "mine" / part).mkdir(parents=True)
        Image.new("RGB", (8, 8)).save(tmp_path / "mine" / part / "1.png")
    fill = {"file": str(tmp_path / "file"), "mine": str(tmp_path / "mine")}
    questions, expected = [], []
    for arguments, message in NONSENSE:
        arguments = [a.format(**fill) for a in arguments]
        if not any(a.startswith("--output_dir") for a in arguments):
            arguments.append(f"--output_dir={tmp_path / 'run'}")
        questions.append((arguments, {}))
        expected.append(message)
    for environment, message in CLUSTERS:
        questions.append(([f"--output_dir={tmp_path / 'run'}"], environment))
        expected.append(message)
    answers = answers_to(questions, tmp_path)
    wrong = [
        (question, answer)
        for question, answer, message in zip(questions, answers, expected, strict=True)
        if answer[0] != 1 or message not in answer[1] or "\n" in answer[1].strip()
    ]
    assert not wrong, "\n".join(map(str, wrong))
    assert not (tmp_path / "run").exists()


def test_every_field_of_a_recipe_and_argument_of_a_network_is_a_flag():
    import inspect

    from irnet_tf.models import cifar_resnet, resnet, vgg_small

    text = run_train("--help", check=False).stdout
    names = {field.name for field in dataclasses.fields(Recipe)}
    for builder in (cifar_resnet, resnet, vgg_small):
        names |= set(inspect.signature(builder).parameters)
    names -= {"input_tensor", "include_top", "classifier_activation", "name"}
    missing = [name for name in names if f"--{name}:" not in text and f"--[no]{name}:" not in text]
    assert not missing
    words = " ".join(text.split())
    for said in (
        "cifar_resnet: 20, 32, 44, 56 or 110. resnet: 18 or 34.",
        "--t_max: recipe: EDE's sharpness towards the end.",
        'Keras policy, "mixed_bfloat16" or "mixed_float16"; none: float32.',
    ):
        assert said in words


@pytest.mark.slow
def test_a_run_folder_says_what_is_evaluated(tmp_path):
    """The shipped digits run gives its accuracy; flags that it contradicts are named."""
    name = "digits_resnet20_bireal_1w1a"
    shutil.copytree(ROOT / "zoo/results" / name, tmp_path / "run")
    shutil.copy(ROOT / f"zoo/weights/{name}.safetensors", tmp_path / "run/best.safetensors")
    (tmp_path / "begun").mkdir()
    shutil.copy(tmp_path / "run/config.json", tmp_path / "begun")
    (tmp_path / "moved").mkdir()
    shutil.copytree(tmp_path / "run", tmp_path / "moved", dirs_exist_ok=True)
    config = json.loads((tmp_path / "run/config.json").read_text())
    config["flags"]["data_dir"] = "gone/away"
    (tmp_path / "moved/config.json").write_text(json.dumps(config))
    cases = [
        ("run", ["--seed=0", "--epochs=40", "--structure=bireal", "--ede=on"], None),
        (
            "run",
            ["--model=cifar10/vgg_small_1w1a"],
            "model is digits/resnet20_bireal_1w1a in the run",
        ),
        ("run", ["--seed=1", "--t_max=5"], "t_max is 10.0 in the run, 5.0 in the flags"),
        ("run", ["--seed=1", "--t_max=5"], "seed is 0 in the run, 1 in the flags"),
        ("run", ["--structure=normal"], "structure is bireal in the run"),
        ("run", ["--ede=off"], "ede is on in the run"),
        ("run", ["--data=cifar10"], "data is digits in the run"),
        ("begun", [], "no epoch has finished"),
        ("moved", [], "data_dir 'gone/away' is not a folder here; give data_dir"),
    ]
    questions = [
        (["--mode=evaluate", f"--output_dir={tmp_path / folder}", *flags], {})
        for folder, flags, _ in cases
    ]
    shutil.copytree(tmp_path / "moved", tmp_path / "runs" / name)  # of the same name as the network
    gone = "data_dir 'gone/away'"
    cases += [
        ("", [], gone),
        ("", [f"--weights=runs/{name}/best.safetensors"], gone),  # of the run, and on its data
        ("", ["--weights=pretrained"], None),
    ]
    questions += [(["--mode=evaluate", *flags], {}) for _, flags, _ in cases[-3:]]
    for (folder, flags, message), answer in zip(cases, answers_to(questions, tmp_path)):
        expected = (0, "") if message is None else (1, message)
        assert answer[0] == expected[0] and expected[1] in answer[1], (folder, flags, answer)
    found = json.loads((tmp_path / "run/evaluation/evaluation.json").read_text())
    stated = result_of(tmp_path / "run")["final"]  # the shipped weights are the last epoch's
    assert found["accuracy"] == pytest.approx(stated["accuracy"], abs=1 / 360)
    assert not (tmp_path / "moved/evaluation").exists()


@pytest.mark.slow
def test_a_run_on_own_images_is_evaluated_without_another_flag(tmp_path):
    rng = np.random.default_rng(0)
    for k in range(24):
        folder = tmp_path / "images" / "abc"[k % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (40, 50, 3)).astype(np.uint8)
        Image.fromarray(pixels).save(folder / f"{k}.png")
    trained = [
        "--model=cifar10/resnet20_normal_1w1a",
        "--structure=bireal",
        "--activation_bits=32",
        "--epochs=1",
        "--batch_size=4",
        "--validation_split=0.5",
        f"--data_dir={tmp_path / 'images'}",
    ]
    run = tmp_path / "run"
    run_train(*trained, f"--output_dir={run}")
    out = run_train("--mode=evaluate", f"--output_dir={run}").stdout
    assert f"accuracy {result_of(run)['best']['accuracy']:.2%}" in out
    assert "all 12 test images" in out and "best.safetensors" in out
    assert "top-5" not in out, "there are three classes"
    assert (run / "evaluation/classes.csv").read_text().count("\n") == 4
    final = run / "final.safetensors"
    out = run_train("--mode=evaluate", f"--output_dir={run}", f"--weights={final}").stdout
    assert "final.safetensors" in out
    (tmp_path / "images/a/broken.png").write_text("")
    assert "accuracy" in run_train("--mode=evaluate", f"--output_dir={run}").stdout
    (tmp_path / "images/a/broken.png").unlink()
    two = tmp_path / "two"
    for name in "ab":
        shutil.copytree(tmp_path / "images" / name, two / name)
    refused = run_train("--mode=evaluate", f"--output_dir={run}", f"--data_dir={two}", check=False)
    assert "trained on the classes a, b, c, images of two has a, b; give" in refused.stderr


@pytest.mark.slow
def test_flags_make_the_run_and_evaluation_gives_its_accuracy(tmp_path):
    flags = ["--epochs=1", "--batch_size=128", "--t_min=0.02", "--lr_schedule=step",
             "--decay_at=0.5",
             "--depth=20", "--structure=normal", "--padding=symmetric",
             f"--output_dir={tmp_path}"]  # fmt: skip
    trained = run_train(*flags, env={"TF_CPP_MIN_LOG_LEVEL": "3"})
    config = json.loads((tmp_path / "config.json").read_text())["identity"]
    assert config["recipe"]["t_min"] == 0.02 and config["recipe"]["decay_at"] == [0.5]
    assert config["arguments"]["structure"] == "normal"
    assert config["arguments"]["padding"] == "symmetric"
    lines = trained.stdout.splitlines()
    assert lines[0].startswith("network") and "1-bit weights" in lines[0]
    assert "centre square, 32x32" in trained.stdout and "images/s" in trained.stdout
    assert "\r" not in trained.stderr and "compiling" not in trained.stderr
    noise = ("cuda", "TensorRT", "oneDNN", "NodeDef", "absl::InitializeLog", "service.cc")
    assert not [word for word in noise if word in trained.stderr], trained.stderr
    out = run_train(*flags, "--mode=evaluate").stdout
    assert f"accuracy {result_of(tmp_path)['best']['accuracy']:.2%}" in out
    assert "all 360 test images of digits (scikit-learn)" in out
    half = run_train(*flags, "--mode=evaluate", "--mixed_precision=mixed_bfloat16").stdout
    assert half.split("loss ")[1] != out.split("loss ")[1], "the precision was ignored"

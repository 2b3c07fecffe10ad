"""train.py: flags, output and error messages."""

import dataclasses
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from irnet_tf.models import cifar_resnet, resnet, vgg_small
from irnet_tf.training import Recipe
import numpy as np
from PIL import Image
import pytest

from tests.conftest import ROOT, result_of, run_train, start_python, wait_for

# Runs train.py's main for many flags in one process.
_CHECK = """
import json, sys
sys.path.insert(0, {root!r})
import train
from absl import flags

answers = []
for arguments in json.load(sys.stdin):
    train.FLAGS.unparse_flags()
    for name in train.FLAGS:
        train.FLAGS[name].unparse()
    answer = None
    try:
        train.main(train.FLAGS(["train.py", *arguments]))
        answer = [0, ""]
    except flags.Error as error:
        answer = [1, str(error)]
    except SystemExit as error:
        answer = [1, str(error)]
    except BaseException as error:
        answer = [2, repr(error)]
    answers.append(answer)
json.dump(answers, open(sys.argv[1], "w"))
"""

# Flags, and part of the error message. `{file}` is a file, `{images}` a folder of images.
ERRORS = [
    (["--model=digits/resnet20_birael_1w1a"], "did you mean digits/resnet20_bireal_1w1a"),
    (["--model="], "--model is empty"),
    (["--recipe=slow"], "unknown recipe 'slow'"),
    (["--epochs=0"], "epochs must be a whole number of at least 1, got 0"),
    (["--epochs=9223372036854775808"], "are too many; at most 97612893"),
    (["--epochs=1e3"], "epochs"),
    (["--learning_rate=nan"], "learning_rate must be"),
    (["--nesterov=perhaps"], "nesterov"),
    (["--lr_schedule=zigzag"], "lr_schedule=zigzag: value should be one of"),
    (["--decay_at=0.3,high"], "decay_at"),
    (["--decay_at=3"], "decay_at must hold fractions"),
    (["--warmup_start_lr=0.1"], "--warmup_start_lr needs --warmup"),
    (["--decay_at=0.5"], "--decay_at needs --lr_schedule=step"),
    (["--lr_schedule=step"], "--lr_schedule=step needs --decay_at, such as 0.5,0.75"),
    (["--t_min=20"], "t_min"),
    (["--mixed_precision=float8"], "mixed_precision=float8: value should be one of"),
    (["--data=cifra10"], "did you mean cifar10"),
    (["--data=folder"], "'folder' needs data_dir"),
    (["--data_dir=no/such/folder"], "data_dir 'no/such/folder' is not a folder"),
    (["--validation_split=2"], "validation_split"),
    (["--output_dir={file}/run"], "Not a directory"),
    (["--seed=-1"], "seed must be between"),
    (["--strategy=multiworker"], "needs a cluster of several workers"),
    (["--weights=no.safetensors"], "no.safetensors"),
    (["--mode=evaluate", "--weights=no.safetensors"], "no.safetensors"),
    (["--mode=evaluate"], "holds no run; give --output_dir, --model or --weights"),
    (["--kernel_quantizer=libra_bp"], "unknown quantizer 'libra_bp'; did you mean libra_pb"),
    (["--input_quantizer=libra_pb"], "quantizes kernels only; use ede_sign"),
    (["--depth=21"], "depth must be one of 20"),
    (["--depth=deep"], "depth"),
    (["--num_classes=20"], "10 classes"),
    (["--input_shape=a,b,c"], "input_shape"),
    (["--input_shape=32,32,1"], "(32, 32, 1)"),
    (
        [
            "--mode=evaluate",
            "--model=digits/resnet20_bireal_1w1a",
            "--data_dir={images}",
            "--num_classes=3",
        ],
        "trained on the classes 0, 1, 2, 3, 4 and 5 more, images of mine has a, b, c",
    ),
    (["--stem=cifar"], "has no argument 'stem'; it has depth"),
    (["--t_mni=0.1"], "Did you mean: t_min"),
    (["epochs=3"], "did not understand epochs=3"),
]


def make_images(folder, classes, count):
    """`count` noisy images of each class, whose mean depends on the class."""
    rng = np.random.default_rng(0)
    for i, name in enumerate(classes):
        (folder / name).mkdir(parents=True)
        for k in range(count):
            pixels = rng.integers(60 * i, 60 * i + 60, (40, 40, 3)).astype(np.uint8)
            Image.fromarray(pixels).save(folder / name / f"{k}.png")


def answers_to(questions, tmp_path):
    """(exit status, message) of train.py for each list of flags, in one process."""
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


def test_wrong_flags_give_one_line_and_leave_no_folder(tmp_path):
    (tmp_path / "file").write_text("")
    make_images(tmp_path / "mine/train", "abc", 1)
    make_images(tmp_path / "mine/test", "abc", 1)
    fill = {"file": str(tmp_path / "file"), "images": str(tmp_path / "mine")}
    run = f"--output_dir={tmp_path / 'run'}"
    questions = [[run, *(flag.format(**fill) for flag in flags)] for flags, _ in ERRORS]
    answers = answers_to(questions, tmp_path)
    wrong = [
        (flags, answer)
        for (flags, message), answer in zip(ERRORS, answers, strict=True)
        if answer[0] != 1 or message not in answer[1] or "\n" in answer[1].strip()
    ]
    assert not wrong, "\n".join(map(str, wrong))
    assert not (tmp_path / "run").exists()


def test_every_recipe_field_and_network_argument_is_a_flag():
    text = run_train("--help").stdout
    assert text.count("\n") <= 80 and max(map(len, text.splitlines())) <= 100
    assert text.index("--model") < text.index("--seed") < text.index("--[no]resume")
    names = {field.name for field in dataclasses.fields(Recipe)}
    for builder in (cifar_resnet, resnet, vgg_small):
        names |= set(inspect.signature(builder).parameters)
    names -= {"input_tensor", "include_top", "classifier_activation", "name"}
    assert [n for n in names if not re.search(rf"--(\[no\])?{n} ", text)] == []
    assert "digits, cifar10, imagenet2012 or folder" in text


def test_python_warnings_pass_and_start_up_messages_do_not():
    script = "import irnet_tf; from absl import logging; logging.warning('a skipped image')"
    process = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert "a skipped image" in process.stderr and "cuDNN" not in process.stderr


def test_ctrl_c_during_start_up_ends_without_a_traceback():
    process = start_python("train.py")
    begin = time.time()
    wait_for(process, "starting TensorFlow ...")
    assert time.time() - begin < 10
    process.send_signal(signal.SIGINT)
    assert "Traceback" not in process.communicate(timeout=60)[0]
    assert process.returncode == -signal.SIGINT


@pytest.mark.slow
def test_run_folder_is_evaluated(tmp_path):
    """The weights of a run on the run's data, in float32; contradicting flags are errors."""
    name = "digits_resnet20_bireal_1w1a"
    run = tmp_path / "run"
    shutil.copytree(ROOT / "zoo/results" / name, run)
    shutil.copy(ROOT / f"zoo/weights/{name}.safetensors", run / "best.safetensors")
    (tmp_path / "begun").mkdir()
    shutil.copy(run / "config.json", tmp_path / "begun")
    shutil.copytree(run, tmp_path / "moved")
    config = json.loads((run / "config.json").read_text())
    config["flags"]["data_dir"] = "gone/away"
    (tmp_path / "moved/config.json").write_text(json.dumps(config))
    cases = [
        (["--output_dir=run", "--seed=0", "--structure=bireal"], None),
        (["--output_dir=run", "--model=cifar10/vgg_small_1w1a"], "not of 'cifar10/vgg_small_1w1a'"),
        (["--output_dir=run", "--structure=normal"], "structure"),
        (["--output_dir=begun"], "no epoch has finished"),
        (["--output_dir=moved"], "data_dir 'gone/away' is not a folder"),
        (["--weights=moved/best.safetensors"], "data_dir 'gone/away' is not a folder"),
        (["--weights=pretrained"], None),
    ]
    answers = answers_to([["--mode=evaluate", *flags] for flags, _ in cases], tmp_path)
    for (flags, message), answer in zip(cases, answers):
        assert answer[0] == (message is not None) and (message or "") in answer[1], (flags, answer)
    found = json.loads((run / "evaluation/evaluation.json").read_text())
    stated = result_of(run)["final"]  # the shipped weights are the last epoch's
    assert found["accuracy"] == pytest.approx(stated["accuracy"], abs=1 / 360)
    assert not (tmp_path / "moved/evaluation").exists()


@pytest.mark.slow
def test_fine_tuning_on_90_images(tmp_path):
    """README's command: the recipe is `finetune`; the run is evaluated without other flags."""
    make_images(tmp_path / "images/train", "abc", 30)
    make_images(tmp_path / "images/test", "abc", 4)
    run = tmp_path / "run"
    trained = run_train(
        "--weights=pretrained",
        "--model=cifar10/resnet20_bireal_1w1a",
        f"--data_dir={tmp_path / 'images'}",
        f"--output_dir={run}",
        "--epochs=2",
        env={"TF_CPP_MIN_LOG_LEVEL": "3"},
    )
    noise = ("cuDNN", "TensorRT", "oneDNN", "cpu_feature_guard")
    assert not [word for word in noise if word in trained.stderr], trained.stderr
    recipe = json.loads((run / "config.json").read_text())["identity"]["recipe"]
    assert (recipe["batch_size"], recipe["learning_rate"]) == (16, 0.01)
    assert recipe["t_min"] == recipe["t_max"]
    assert "test accuracy" in trained.stdout
    out = run_train("--mode=evaluate", f"--output_dir={run}").stdout
    assert f"accuracy {result_of(run)['best']['accuracy']:.2%}" in out
    assert "on all 12 test images" in out and "float32" in out and "top-5" not in out
    assert "precision" in (run / "evaluation/classes.txt").read_text()
    half = run_train("--mode=evaluate", f"--output_dir={run}", "--mixed_precision=mixed_bfloat16")
    losses = [text.split("loss ")[1][:6] for text in (out, half.stdout)]
    assert "mixed_bfloat16" in half.stdout and losses[0] != losses[1]
    shutil.rmtree(tmp_path / "images/train/c")
    shutil.rmtree(tmp_path / "images/test/c")
    rejected = run_train("--mode=evaluate", f"--output_dir={run}", check=False)
    assert "trained on the classes a, b, c, images of images has a, b; give" in rejected.stderr

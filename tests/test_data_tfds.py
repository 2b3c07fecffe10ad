"""CIFAR-10 and ImageNet as TensorFlow Datasets prepares them: intact, damaged and hostile."""

import json
import os
import shutil
import struct

from irnet_tf import data
import numpy as np
import pytest
import tensorflow as tf

from tests.test_imagenet import pictures, write_imagenet


def test_cifar10_through_tfds(tmp_path):
    """A small data set in the format of cifar10, written by TFDS."""
    pixels = np.random.default_rng(0).integers(0, 256, (25, 32, 32, 3)).astype(np.uint8)
    write_cifar10(tmp_path, pixels, np.arange(25) % 10)
    images = data.load("cifar10", str(tmp_path))
    assert images.name == "CIFAR-10" and images.class_names[:2] == ("airplane", "automobile")
    x, y = images.train.read(tf.range(25))
    label = {image.tobytes(): i % 10 for i, image in enumerate(pixels)}  # TFDS shuffles
    assert [label.pop(image.tobytes()) for image in x.numpy()] == list(y.numpy())


def write_cifar10(folder, pixels, labels):
    """Writes `cifar10/3.0.2` under `folder` with TFDS."""
    import tensorflow_datasets as tfds

    builder = tfds.builder("cifar10", data_dir=folder)

    def examples(self, dl_manager):
        del self, dl_manager
        rows = [
            (i, {"id": f"train_{i}", "image": p, "label": int(c)})
            for i, (p, c) in enumerate(zip(pixels, labels))
        ]
        return {"train": iter(rows), "test": iter(rows)}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(builder), "_split_generators", examples)
        builder.download_and_prepare()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Both data sets, with 12 and 6 images."""
    root = tmp_path_factory.mktemp("whole")
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 32, 3)).astype(np.uint8)
    write_cifar10(root, pixels, np.arange(12) % 10)
    write_imagenet(root, pictures()[:6], shards=1)
    return root


@pytest.fixture
def copy(whole, tmp_path):
    shutil.copytree(whole, tmp_path / "copy")
    return tmp_path / "copy"


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_features_json_imports_no_code(copy, tmp_path, monkeypatch, name):
    (tmp_path / "hostile.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    monkeypatch.syspath_prepend(tmp_path)
    [path] = (copy / name).glob("*/features.json")
    features = json.loads(path.read_text())
    for key in ("pythonClassName", "type", "python_class_name"):
        features["featuresDict"]["features"]["image"][key] = "hostile.Feature"
    path.write_text(json.dumps(features))
    data.load(name, str(copy))
    assert not (tmp_path / "ran").exists()


def open_and_read(name, root):
    images = data.load(name, str(root))
    for split in (images.train, images.test):
        if split.side is None and split.unreadable_images():
            raise data.UnreadableImages(split.unreadable_images())
        if split.side:
            split.read(tf.range(split.num_examples))


def mutations(path, rng, count):
    """(change, changed content) of a file."""
    content = path.read_bytes()
    yield "empty", b""
    yield "half", content[: len(content) // 2]
    yield "a byte more", content + b"x"
    yield "twice", content * 2
    yield "zeros", bytes(len(content))
    yield "a huge record", struct.pack("<Q", 2**62) + content[8:]
    for _ in range(count):
        place = int(rng.integers(len(content)))
        changed = bytearray(content)
        changed[place] ^= int(rng.integers(1, 256))
        yield f"byte {place}", bytes(changed)
    for _ in range(count):
        begin, end = sorted(rng.integers(len(content), size=2))
        yield f"cut {begin} to {end}", content[:begin] + content[end:]


@pytest.mark.parametrize("count", [1, pytest.param(15, marks=pytest.mark.slow)])
def test_damaged_files_raise_value_errors(whole, tmp_path, rng, count):
    rejected = 0
    for name in ("cifar10", "imagenet2012"):
        for file in sorted(p for p in (whole / name).rglob("*") if p.is_file()):
            for change, content in mutations(file, rng, count):
                root = tmp_path / "mutant"
                shutil.rmtree(root, ignore_errors=True)
                shutil.copytree(whole / name, root / name)
                (root / file.relative_to(whole)).write_bytes(content)
                try:
                    open_and_read(name, root)
                except ValueError as error:
                    rejected += 1
                    assert str(error).strip(), (file, change)
                except Exception as error:
                    raise AssertionError(f"{file.name}, {change}: {error!r}") from error
                else:  # a changed byte of a JSON file may not matter
                    assert ".tfrecord" not in file.name, (file, change)
    assert rejected > 40 * min(count, 5)


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
@pytest.mark.parametrize("what", ["missing", "a folder", "a pipe"])
def test_a_shard_that_is_not_a_file_is_named(copy, name, what):
    shard = sorted((copy / name).glob("*/*train.tfrecord*"))[0]
    shard.unlink()
    if what == "a folder":
        shard.mkdir()
    elif what == "a pipe":
        os.mkfifo(shard)
    with pytest.raises(ValueError, match=f"{shard.name} is missing or not a regular file"):
        data.load(name, str(copy))


@pytest.mark.parametrize("name", ["cifar10", "imagenet2012"])
def test_a_wrong_count_is_rejected(copy, name):
    [path] = (copy / name).glob("*/dataset_info.json")
    info = json.loads(path.read_text())
    for length in ("10000000000000", "3"):
        for split in info["splits"]:
            split["shardLengths"] = [length]
        path.write_text(json.dumps(info))
        with pytest.raises(ValueError, match="copy it again, or prepare it again"):
            data.load(name, str(copy))

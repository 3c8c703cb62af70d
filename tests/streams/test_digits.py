"""The embedded digits: content, split, and preparing them anywhere."""

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest

from keras_plasticity import streams
from keras_plasticity.streams import digits

COUNTS = [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    return tmp_path_factory.mktemp("tfds")


@pytest.fixture(scope="module")
def source(data_dir):
    return streams.from_tfds("kp_digits", data_dir=data_dir)


def test_raw_content():
    images, labels = digits.load()
    content = images.tobytes() + labels.astype(np.uint8).tobytes()
    assert hashlib.sha256(content).hexdigest() == (
        "87ff0c9e40dc7e2c0e34e7257799c2e3f3aec1a016363bb11cad869ec428a826"
    )


def test_source(source):
    assert source.x_train.shape == (1437, 8, 8, 1) and source.x_test.shape == (360, 8, 8, 1)
    assert source.x_train.dtype == np.uint8 and source.num_classes == 10
    labels = np.concatenate([source.y_train, source.y_test])
    assert np.bincount(labels).tolist() == COUNTS
    assert source.x_train.min() == 0 and source.x_train.max() == 255
    assert source.name == "kp_digits"


def test_values_are_scaled_and_splits_do_not_overlap(source):
    images, _ = digits.load()
    scaled = {(round(v * 255 / 16)) for v in range(17)}
    assert set(np.unique(source.x_train)) == scaled
    both = np.concatenate([source.x_train, source.x_test])[..., 0]
    unscaled = np.rint(both * (16 / 255)).astype(np.uint8)
    key = lambda x: sorted(row.tobytes() for row in x)  # noqa: E731
    assert key(unscaled) == key(images)


def test_the_builder_is_registered(data_dir, source):
    import tensorflow_datasets as tfds

    assert streams.KpDigits is digits.KpDigits
    builder = tfds.builder("kp_digits", data_dir=data_dir)
    assert builder.is_prepared()
    assert {k: v.num_examples for k, v in builder.info.splits.items()} == {
        "train": 1437,
        "test": 360,
    }
    assert "CC BY 4.0" in builder.info.redistribution_info.license
    assert "alpaydin" in builder.info.citation.lower()


def test_files_and_memory_agree(source, tmp_path):
    blocked = tmp_path / "a_file"
    blocked.write_text("not a directory")
    other = streams.from_tfds("kp_digits", data_dir=blocked / "tfds")
    assert other.digest == source.digest


def test_splits_and_examples(data_dir, source):
    few = streams.from_tfds("kp_digits", data_dir=data_dir, examples=50, test_split=None)
    assert np.array_equal(few.x_train, source.x_train[:50]) and few.x_test is None
    half = streams.from_tfds("kp_digits", data_dir=data_dir, train_split="train[:50%]")
    assert len(half.x_train) == 718
    with pytest.raises(ValueError, match="`train_split` .*Received: train_split='nope'"):
        streams.from_tfds("kp_digits", data_dir=data_dir, train_split="nope")
    with pytest.raises(ValueError, match="`examples` .*1437.*Received: examples=2000"):
        streams.from_tfds("kp_digits", data_dir=data_dir, examples=2000)


def test_another_process_was_faster(tmp_path, monkeypatch, capsys):
    real = digits.KpDigits.download_and_prepare

    def beaten(self, **kwargs):
        other = digits.KpDigits(data_dir=tmp_path)
        real(other, **kwargs)
        raise OSError("Directory not empty")

    monkeypatch.setattr(digits.KpDigits, "download_and_prepare", beaten)
    assert digits.prepare(tmp_path).is_prepared()
    monkeypatch.undo()
    assert digits.prepare(tmp_path).is_prepared()
    assert capsys.readouterr().out == ""


@pytest.mark.slow
def test_two_processes_prepare_at_the_same_time(tmp_path, source):
    code = (
        "from keras_plasticity import streams\n"
        f"print(streams.from_tfds('kp_digits', data_dir={str(tmp_path / 'new')!r}).digest)"
    )
    env = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"}
    runs = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=env)
        for _ in range(2)
    ]
    digests = [run.communicate()[0].strip() for run in runs]
    assert digests == [source.digest] * 2
    kept = tmp_path / "new" / "kp_digits"
    assert [p.name for p in kept.iterdir()] == ["1.0.0"]

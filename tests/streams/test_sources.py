"""Sources: what arrays are accepted, and how a missing data set is reported."""

import hashlib
import time

import numpy as np
import pytest

from keras_plasticity import streams
from keras_plasticity.streams import sources

X = np.arange(24, dtype=np.uint8).reshape(6, 2, 2, 1)
Y = np.array([0, 1, 2, 0, 1, 2])


def test_from_arrays_types():
    made = streams.from_arrays(X, Y, x_test=X[:2], y_test=Y[:2])
    assert made.x_train.dtype == np.uint8 and made.y_train.dtype == np.int32
    assert made.num_classes == 3 and not made.is_regression and made.name == "arrays"
    assert streams.from_arrays(X.astype(np.float64), Y).x_train.dtype == np.float32
    assert streams.from_arrays(X.astype(np.int64), Y).x_train.dtype == np.float32
    regression = streams.from_arrays(X, Y.astype(np.float64))
    assert regression.is_regression and regression.y_train.dtype == np.float32
    assert streams.from_arrays(X, np.ones((6, 2))).y_train.shape == (6, 2)
    assert streams.from_arrays(X, Y, num_classes=10).num_classes == 10
    assert streams.from_arrays(X, Y, x_test=X[:1], y_test=[7]).num_classes == 8


def test_from_arrays_copies():
    x = X.copy()
    made = streams.from_arrays(x, Y)
    x[:] = 0
    assert np.array_equal(made.x_train, X)
    with pytest.raises(ValueError, match="read-only"):
        made.x_train[0] = 1


def test_digest():
    a, b = streams.from_arrays(X, Y), streams.from_arrays(X.copy(), Y.copy(), name="other")
    assert a.digest == b.digest and len(a.digest) == 64
    sha = hashlib.sha256(b"|u1(6, 2, 2, 1)" + X.tobytes())
    sha.update(b"<i4(6,)" + Y.astype("<i4").tobytes() + b"nonenone")
    assert a.digest == sha.hexdigest()
    changed = Y.copy()
    changed[0] = 1
    assert streams.from_arrays(X, changed).digest != a.digest
    assert streams.from_arrays(X, Y, x_test=X, y_test=Y).digest != a.digest


NAN = X.astype(np.float32)
NAN[0, 0, 0, 0] = np.nan


@pytest.mark.parametrize(
    ("args", "kwargs", "message"),
    [
        ((X, Y[:5]), {}, "`x` and `y` .*Received: x of length 6, y of length 5"),
        ((X[:0], Y[:0]), {}, "`x` must not be empty.*Received"),
        ((NAN, Y), {}, "`x` must be finite.*Received: x with 1"),
        ((X, np.full(6, np.inf)), {}, "`y` must be finite"),
        ((X, Y - 1), {}, "`y` .*at least 0. Received: y from -1 to 1"),
        ((X, Y), dict(num_classes=2), "`num_classes`.*Received: num_classes=2, y up to 2"),
        ((X, Y.astype(float)), dict(num_classes=3), "`num_classes` needs integer"),
        ((X, np.stack([Y, Y], 1)), {}, r"`y` .*Received: y of int64 \(6, 2\)"),
        ((X, Y > 0), {}, "`y` .*Received: y of bool"),
        ((Y, Y), {}, r"`x` .*Received: x of shape \(6,\)"),
        ((np.zeros((6, 0)), Y), {}, r"`x` .*Received: x of shape \(6, 0\)"),
        ((np.array([["a"]] * 6), Y), {}, "`x` must be an array of numbers"),
        ((X.astype(object), Y), {}, "`x` must be an array of numbers.*dtype object"),
        (([[1], [1, 2]], Y), {}, "`x` must be one array of numbers"),
        ((X, Y), dict(x_test=X), "`x_test` and `y_test` must be given together"),
        ((X, Y), dict(x_test=X[:, :1], y_test=Y), "`x_test` must have the type of `x`"),
        ((X, Y), dict(x_test=X / 2, y_test=Y), "`x_test` must have the type of `x`"),
        ((X, Y), dict(x_test=X, y_test=Y + 0.5), "`y_test` must have the type of `y`"),
        ((X, Y), dict(x_test=X, y_test=Y[:3]), "`x_test` and `y_test`.*length"),
    ],
)
def test_from_arrays_errors(args, kwargs, message):
    with pytest.raises(ValueError, match=message):
        streams.from_arrays(*args, **kwargs)


def test_unknown_and_unprepared_sets_fail_at_once(tmp_path):
    start = time.monotonic()
    with pytest.raises(ValueError, match="`name` .*Received: name='no_such_set'"):
        streams.from_tfds("no_such_set", data_dir=tmp_path)
    with pytest.raises(ValueError, match="`name` .*Received: name='no such set'"):
        streams.from_tfds("no such set", data_dir=tmp_path)
    with pytest.raises(FileNotFoundError, match="not prepared") as info:
        streams.from_tfds("fashion_mnist", data_dir=tmp_path)
    text = str(info.value)
    assert "python -c" in text and f"tfds.load('fashion_mnist', data_dir='{tmp_path}')" in text
    assert "Received: name='fashion_mnist', download=False" in text
    assert time.monotonic() - start < 10
    assert not list(tmp_path.iterdir())


def test_download_without_a_network_fails_soon(tmp_path, monkeypatch):
    for key in ("HTTP_PROXY", "HTTPS_PROXY", "http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(key, "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    start = time.monotonic()
    with pytest.raises(FileNotFoundError, match="cannot be downloaded.*does not answer"):
        streams.from_tfds("fashion_mnist", data_dir=tmp_path, download=True)
    assert time.monotonic() - start < 20


def test_examples_is_checked():
    with pytest.raises(ValueError, match="`examples` .*Received: examples=0"):
        streams.from_tfds("kp_digits", examples=0)


def test_progress_bars_come_back():
    from tensorflow_datasets.core.utils import tqdm_utils

    drawn = tqdm_utils._active
    with sources._quiet():
        assert not tqdm_utils._active
    assert tqdm_utils._active == drawn


def test_one_hot_labels_are_warned_of():
    with pytest.warns(UserWarning, match="looks one-hot"):
        streams.from_arrays(np.zeros((3, 2), "float32"), np.eye(3))

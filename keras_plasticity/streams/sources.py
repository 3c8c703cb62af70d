"""Where the examples of a stream come from: arrays in memory, or TensorFlow Datasets."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import logging
import os
import typing
import warnings
from collections.abc import Iterator

import numpy as np

PROBE_SECONDS = 10.0  # how long a host may take to answer before a download begins


@dataclasses.dataclass(frozen=True, eq=False)
class Source:
    """Examples before any transform. Make one with `from_arrays` or `from_tfds`.

    Attributes:
        name: str, what the source is called in configurations.
        x_train: (n, ...) uint8 images or float32.
        y_train: (n,) int32 class labels, or float32 (n,) or (n, d) regression targets.
        x_test: like `x_train`, or None.
        y_test: like `y_train`, or None.
        num_classes: number of classes, or None for regression.
    """

    name: str
    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    num_classes: int | None

    @property
    def is_regression(self) -> bool:
        """Whether the targets are numbers rather than classes."""
        return self.num_classes is None

    @functools.cached_property
    def digest(self) -> str:
        """Hexadecimal sha256 over all arrays, with their types and shapes."""
        sha = hashlib.sha256()
        for array in (self.x_train, self.y_train, self.x_test, self.y_test):
            if array is None:
                sha.update(b"none")
                continue
            sha.update(f"{array.dtype.str}{array.shape}".encode())
            sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()


def from_arrays(
    x: typing.Any,
    y: typing.Any,
    *,
    x_test: typing.Any = None,
    y_test: typing.Any = None,
    num_classes: int | None = None,
    name: str = "arrays",
) -> Source:
    """Return a source of arrays, which are checked and copied.

    Integer `y` are class labels, floating-point `y` the targets of a regression.

    Args:
        x: (n, ...) inputs. uint8 stays and is scaled by 1/255 when read; everything
            else becomes float32 and is read as it is.
        y: (n,) integer labels, or float (n,) or (n, d) targets.
        x_test: test inputs, shaped like `x`. Defaults to None, no test set.
        y_test: test targets, typed like `y`. Defaults to None.
        num_classes: number of classes. Defaults to the largest label plus one.
        name: str. Defaults to "arrays".

    Raises:
        ValueError: if arrays are empty, of unequal length, not finite, not numeric, or
            if labels are negative or not below `num_classes`.
    """
    if (x_test is None) != (y_test is None):
        raise ValueError(
            "`x_test` and `y_test` must be given together. Received: "
            f"x_test={_shape_of(x_test)}, y_test={_shape_of(y_test)}"
        )
    x_train, y_train = _inputs("x", x), _targets("y", y)
    _check_pair("x", x_train, "y", y_train)
    parts = [("y", y_train)]
    if x_test is not None:
        x_test, y_test = _inputs("x_test", x_test), _targets("y_test", y_test)
        _check_pair("x_test", x_test, "y_test", y_test)
        for key, test, train in (("x", x_test, x_train), ("y", y_test, y_train)):
            if test.shape[1:] != train.shape[1:] or test.dtype != train.dtype:
                raise ValueError(
                    f"`{key}_test` must have the type of `{key}` and its shape but for the first "
                    f"axis. Received: {key}_test of {test.dtype} {test.shape}, {key} of "
                    f"{train.dtype} {train.shape}"
                )
        parts.append(("y_test", y_test))
    if y_train.dtype == np.int32:
        num_classes = _check_classes(parts, num_classes)
    elif num_classes is not None:
        raise ValueError(
            "`num_classes` needs integer labels in `y`. Received: "
            f"num_classes={num_classes}, y of {y_train.dtype}"
        )
    return _source(name, x_train, y_train, x_test, y_test, num_classes)


def from_tfds(
    name: str,
    *,
    data_dir: str | os.PathLike[str] | None = None,
    download: bool = False,
    train_split: str = "train",
    test_split: str | None = "test",
    examples: int | None = None,
) -> Source:
    """Return a source of a TensorFlow Datasets data set, read once as a whole.

    "kp_digits" comes with this package and works anywhere, without a network.

    Args:
        name: name of the data set, such as "fashion_mnist".
        data_dir: directory of prepared data sets. Defaults to None, that of tfds.
        download: bool, whether to download and prepare a data set that is not there.
            Defaults to False.
        train_split: split of the training examples. Defaults to "train".
        test_split: split of the test examples, or None for no test set. Defaults to
            "test".
        examples: take only so many training examples, the first ones. Defaults to
            None, all.

    Raises:
        ValueError: if tfds knows no such data set or split, if it has no (input,
            target) pairs of one shape, or if there are fewer than `examples`.
        FileNotFoundError: if the data set is not prepared and `download` is False, or
            if it cannot be reached.
    """
    if examples is not None and (isinstance(examples, bool) or examples < 1):
        raise ValueError(f"`examples` must be a positive integer. Received: examples={examples!r}")
    if name == "kp_digits":
        train, test, classes = _digits(data_dir, train_split, test_split)
    else:
        with _quiet():
            builder = _builder(name, data_dir, download)
            train, test, classes = _read(builder, train_split, test_split)
    x, y = train
    if examples is not None:
        if examples > len(x):
            raise ValueError(
                f"`examples` must be at most the {len(x)} training examples of {name!r}. "
                f"Received: examples={examples}"
            )
        x, y = x[:examples], y[:examples]
    x_test, y_test = test if test is not None else (None, None)
    return from_arrays(x, y, x_test=x_test, y_test=y_test, num_classes=classes, name=name)


Pair = tuple[np.ndarray, np.ndarray]


def _digits(
    data_dir: str | os.PathLike[str] | None, train_split: str, test_split: str | None
) -> tuple[Pair, Pair | None, int | None]:
    from keras_plasticity.streams import digits

    try:
        with _quiet():
            return _read(digits.prepare(data_dir), train_split, test_split)
    except ValueError:
        raise
    except Exception:
        # Nowhere to write. The same examples in the same order, without files.
        names = (train_split, test_split or "test")
        if any(name not in ("train", "test") for name in names):
            raise
        test = digits.split(test_split) if test_split else None
        return digits.split(train_split), test, 10


def _builder(name: str, data_dir: str | os.PathLike[str] | None, download: bool) -> typing.Any:
    """Return the builder of a prepared data set."""
    import tensorflow_datasets as tfds

    try:
        builder = tfds.builder(name, data_dir=data_dir, try_gcs=False)
    except tfds.core.DatasetNotFoundError:
        raise ValueError(
            f"`name` must be a data set that tfds knows, or one prepared in `data_dir`; see "
            f"`tfds.list_builders()`. Received: name={name!r}, data_dir={data_dir!r}"
        ) from None
    except (AssertionError, ValueError) as error:
        raise ValueError(
            f"`name` must be `data_set`, `data_set/config` or `data_set:version`, and exist. "
            f"Received: name={name!r} ({str(error).splitlines()[0]})"
        ) from None
    if builder.is_prepared():
        return builder
    where = f", data_dir={str(data_dir)!r}" if data_dir else ""
    advice = (
        "Prepare it once on a machine with a network: "
        '`python -c "import tensorflow_datasets as tfds; '
        f'tfds.load({name!r}{where})"`, '
        "copy the directory if need be, and pass `data_dir=` if it is not that of tfds."
    )
    if not download:
        raise FileNotFoundError(
            f"The data set {name!r} is not prepared in {str(builder.data_path)!r}. {advice} "
            f"Received: name={name!r}, download=False"
        )
    reason = _unreachable(builder.url_infos or {})
    if reason:
        raise FileNotFoundError(
            f"The data set {name!r} cannot be downloaded: {reason}. {advice} "
            f"Received: name={name!r}, download=True"
        )
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    builder.download_and_prepare(download_config=config)
    return builder


def _unreachable(urls: typing.Iterable[str]) -> str | None:
    """Return why the first web address does not answer, or None.

    tfds would repeat the attempt for minutes. Any answer will do, an error as well.
    """
    import requests

    url = next((url for url in urls if url.startswith("http")), None)
    if url is None:
        return None
    try:
        requests.head(url, timeout=PROBE_SECONDS)
    except requests.exceptions.RequestException as error:
        return f"{url} does not answer ({type(error).__name__})"
    return None


def _read(
    builder: typing.Any, train_split: str, test_split: str | None
) -> tuple[Pair, Pair | None, int | None]:
    """Return whole splits as NumPy arrays, and the number of classes if there is one."""
    import tensorflow_datasets as tfds

    known = list(builder.info.splits)
    pairs: list[Pair] = []
    for key, split in (("train_split", train_split), ("test_split", test_split)):
        if split is None:
            continue
        try:
            loaded = builder.as_dataset(split=split, batch_size=-1, as_supervised=True)
            x, y = tfds.as_numpy(loaded)
        except (ValueError, KeyError, AssertionError, TypeError) as error:
            raise ValueError(
                f"`{key}` must be a split of (input, target) pairs of one shape; {builder.name!r} "
                f"has the splits {known}. Received: {key}={split!r} "
                f"({(str(error).splitlines() or [''])[0]})"
            ) from error
        pairs.append((x, y))
    target = builder.info.features[builder.info.supervised_keys[1]]
    num_classes = getattr(target, "num_classes", None)
    return pairs[0], pairs[1] if len(pairs) > 1 else None, num_classes


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep tfds from drawing progress bars and from logging what is no error."""
    import tensorflow_datasets as tfds

    logger = logging.getLogger("absl")
    level = logger.level
    drawn = getattr(tfds.core.utils.tqdm_utils, "_active", True)
    logger.setLevel(logging.ERROR)
    tfds.display_progress_bar(enable=False)
    try:
        yield
    finally:
        logger.setLevel(level)
        tfds.display_progress_bar(enable=drawn)


def _shape_of(value: typing.Any) -> str:
    return "None" if value is None else f"array of shape {np.shape(value)}"


def _array(name: str, value: typing.Any) -> np.ndarray:
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"`{name}` must be one array of numbers. Received: {error}") from None
    if array.dtype.kind not in "buif":
        raise ValueError(
            f"`{name}` must be an array of numbers. Received: {name} of dtype {array.dtype}"
        )
    if array.ndim and len(array) == 0:
        raise ValueError(f"`{name}` must not be empty. Received: {name} of shape {array.shape}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        bad = int((~np.isfinite(array)).sum())
        raise ValueError(f"`{name}` must be finite. Received: {name} with {bad} NaN or infinite")
    return array


def _inputs(name: str, value: typing.Any) -> np.ndarray:
    array = _array(name, value)
    if array.ndim < 2 or array.size == 0:
        raise ValueError(
            f"`{name}` must have an axis of examples and at least one of features, none of them "
            f"empty. Received: {name} of shape {array.shape}"
        )
    return np.array(array, np.uint8 if array.dtype == np.uint8 else np.float32)


def _targets(name: str, value: typing.Any) -> np.ndarray:
    array = _array(name, value)
    regression = array.dtype.kind == "f"
    if array.ndim not in ((1, 2) if regression else (1,)) or array.dtype.kind == "b":
        raise ValueError(
            f"`{name}` must be integer labels of shape (n,), or float targets of shape (n,) or "
            f"(n, d). Received: {name} of {array.dtype} {array.shape}"
        )
    if not regression and (array.min() < 0 or array.max() > np.iinfo(np.int32).max - 1):
        raise ValueError(
            f"`{name}` must be labels of at least 0. Received: {name} from {array.min()} to "
            f"{array.max()}"
        )
    if regression and array.ndim == 2 and array.shape[1] > 1 and _is_one_hot(array):
        warnings.warn(
            f"`{name}` looks one-hot and is taken as regression targets. For classification "
            f"pass integer labels, {name}.argmax(-1).",
            stacklevel=4,
        )
    return np.array(array, np.float32 if regression else np.int32)


def _is_one_hot(array: np.ndarray) -> bool:
    return bool(np.isin(array, (0, 1)).all() and (array.sum(-1) == 1).all())


def _check_pair(x_name: str, x: np.ndarray, y_name: str, y: np.ndarray) -> None:
    if len(x) != len(y):
        raise ValueError(
            f"`{x_name}` and `{y_name}` must have the same length. "
            f"Received: {x_name} of length {len(x)}, {y_name} of length {len(y)}"
        )


def _check_classes(parts: list[tuple[str, np.ndarray]], num_classes: int | None) -> int:
    if num_classes is None:
        return max(int(labels.max()) for _, labels in parts) + 1
    for name, labels in parts:
        if labels.max() >= num_classes:
            raise ValueError(
                f"`{name}` must be labels below `num_classes`. "
                f"Received: num_classes={num_classes}, {name} up to {labels.max()}"
            )
    return int(num_classes)


def _source(
    name: str,
    x_train: np.ndarray,
    y_train: np.ndarray,
    x_test: np.ndarray | None,
    y_test: np.ndarray | None,
    num_classes: int | None,
) -> Source:
    """Return a source whose arrays cannot be written, so that the digest stays true."""
    for array in (x_train, y_train, x_test, y_test):
        if array is not None:
            array.setflags(write=False)
    return Source(name, x_train, y_train, x_test, y_test, num_classes)

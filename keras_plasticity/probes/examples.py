"""The examples that probes look at."""

from __future__ import annotations

import typing

import keras
import numpy as np


def first_examples(data: typing.Any, count: int) -> tuple:
    """Returns (x, y) of the first `count` examples of arrays or of a data set of batches."""
    if hasattr(data, "as_numpy_iterator"):
        data = first_batches(data, count, "reference_data")
    if not isinstance(data, tuple):
        data = (data,)
    if not 1 <= len(data) <= 3:
        raise ValueError(
            "`reference_data` must be x, (x, y) or a data set of these. "
            f"Received: a tuple of {len(data)}"
        )
    x, y = (*data, None)[:2] if len(data) < 2 else data[:2]
    x, y = keras.tree.map_structure(lambda a: None if a is None else a[:count], (x, y))
    if x is None or not len(keras.tree.flatten(x)[0]):
        raise ValueError("`reference_data` must hold examples. Received: none")
    return x, y


def first_batches(data: typing.Any, count: int, name: str) -> tuple:
    """Returns `(x,)` or `(x, y)` of the first batches of a `tf.data.Dataset`, put together.

    Args:
        data: `tf.data.Dataset` of batches. Reading it moves the order of a shuffled one on.
        count: int, examples. There are as many or, from the last batch, more, if it holds them.
        name: str, the argument it was given as, for the error.

    Raises:
        ValueError: the data set is empty.
    """
    batches: list = []
    seen = 0
    for batch in data.as_numpy_iterator():
        batches.append(batch[:2] if isinstance(batch, tuple) else (batch,))
        seen += len(keras.tree.flatten(batches[-1])[0])
        if seen >= count:
            break
    if not batches:
        raise ValueError(f"`{name}` must hold examples. Received: an empty data set")
    return keras.tree.map_structure(lambda *parts: np.concatenate(parts), *batches)


def task_examples(task: typing.Any, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns (x, y) of up to `count` training examples of a task, spread evenly, as floats."""
    data = task.arrays()
    rows = np.asarray(data.index)
    if len(rows) > count:
        rows = rows[np.linspace(0, len(rows) - 1, count).astype(int)]
    x, y = np.asarray(data.x)[rows], np.asarray(data.y)[rows]
    if x.dtype.kind in "iu":
        x = x.astype(np.float32) * np.float32(task.scale)
    return x, y

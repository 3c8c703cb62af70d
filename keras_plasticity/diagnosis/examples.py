"""Brings what a user hands over as data into arrays that a model can read."""

from __future__ import annotations

import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.probes.examples import first_batches

LEAST = 1000  # examples that a data set is read for
MOST = 2000


def arrays(data: typing.Any, model: keras.Model, most: int = MOST) -> tuple:
    """Returns `(x, y, notes)`: at most `most` examples, without those that are not finite.

    Args:
        data: `(x, y)` or `(x,)` of arrays or structures of arrays, one array of inputs, or a
            `tf.data.Dataset` of batches or of single examples, with or without targets.
        model: `keras.Model` that reads `x`.
        most: int, examples. Default 2,000. Of arrays the first are taken.

    Raises:
        ValueError: there are no examples, none is finite, or inputs and targets differ in number.
    """
    if isinstance(data, tf.data.Dataset):
        x, y = _of_dataset(data, model)
    elif isinstance(data, (tuple, list)) and len(data) in (1, 2):
        x, y = (data[0], data[1] if len(data) == 2 else None)
    elif hasattr(data, "shape") or isinstance(data, dict):
        x, y = data, None
    else:
        raise ValueError(
            "`data` must be (x, y), an array of inputs, or a tf.data.Dataset. "
            f"Received: {type(data).__name__}"
        )
    x = keras.tree.map_structure(_array, x)
    y = None if y is None else keras.tree.map_structure(_array, y)
    counts = {a.shape[0] if a.ndim else 0 for a in keras.tree.flatten((x, y)) if a is not None}
    if len(counts) != 1 or 0 in counts:
        raise ValueError(
            "`data` must hold at least one example, and as many targets as inputs. "
            f"Received: {sorted(counts)} examples"
        )
    _check_shapes(x, model)
    return _finite(*_rows(slice(0, most), x, y))


def _of_dataset(data: tf.data.Dataset, model: keras.Model) -> tuple:
    spec = keras.tree.flatten(data.element_spec)[0]
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    if inputs and spec.shape.rank is not None and spec.shape.rank < len(inputs[0].shape):
        data = data.batch(LEAST)
    whole = first_batches(data, LEAST, "data")
    return whole[0], whole[1] if len(whole) == 2 else None


def _check_shapes(x: typing.Any, model: keras.Model) -> None:
    inputs = keras.tree.flatten(getattr(model, "inputs", None) or [])
    flat = keras.tree.flatten(x)
    if not inputs:
        return
    shapes = [tuple(i.shape[1:]) for i in inputs]
    fits = len(inputs) == len(flat) and all(
        len(want) == array.ndim - 1
        and all(w in (None, n) for w, n in zip(want, array.shape[1:], strict=True))
        for want, array in zip(shapes, flat, strict=True)
    )
    if not fits:
        raise ValueError(
            f"`data` must fit the model's inputs of shape {shapes}. "
            f"Received: {[array.shape[1:] for array in flat]}"
        )


def _finite(x: typing.Any, y: typing.Any) -> tuple:
    keep = np.ones(len(keras.tree.flatten(x)[0]), bool)
    for array in keras.tree.flatten((x, y)):
        if array is not None and array.dtype.kind == "f":
            keep &= np.isfinite(array.reshape(len(array), -1)).all(1)
    notes = []
    if not keep.all():
        left_out = int((~keep).sum())
        notes.append(f"{left_out} of {len(keep)} examples hold NaN or infinity and are left out")
    if not keep.any():
        raise ValueError(f"`data` must hold a finite example. Received: {len(keep)}, none finite")
    return *_rows(keep, x, y), notes


def _rows(rows: typing.Any, x: typing.Any, y: typing.Any) -> tuple:
    x = keras.tree.map_structure(lambda a: a[rows], x)
    return x, None if y is None else keras.tree.map_structure(lambda a: a[rows], y)


def _array(values: typing.Any) -> np.ndarray:
    array = np.asarray(values)
    return array.astype(np.float32) if array.dtype == np.float64 else array

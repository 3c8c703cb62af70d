"""Shapes and dtypes of targets beside those of outputs."""

from __future__ import annotations

import typing

import keras
from keras import ops


def at_least_float32(x: typing.Any) -> typing.Any:
    """Returns a tensor of float32, or of float64 where it is one."""
    x = ops.convert_to_tensor(x)
    dtype = keras.backend.standardize_dtype(x.dtype)
    return ops.cast(x, "float64" if dtype == "float64" else "float32")


def aligned(y: typing.Any, values: typing.Any) -> tuple[typing.Any, typing.Any]:
    """Returns targets and values of one shape: a last axis of size one is taken off.

    Args:
        y: targets, shape `(...,)` or `(..., 1)`.
        values: what is compared with them, shape `(...,)` or `(..., 1)`.

    Raises:
        ValueError: the shapes do not belong together.
    """
    y, values = at_least_float32(y), at_least_float32(values)
    ranks = len(y.shape), len(values.shape)
    if ranks[0] == ranks[1] + 1 and y.shape[-1] == 1:
        y = ops.squeeze(y, -1)
    elif ranks[1] == ranks[0] + 1 and values.shape[-1] == 1:
        values = ops.squeeze(values, -1)
    sizes = zip(y.shape, values.shape, strict=False)
    known = all(a == b for a, b in sizes if a is not None and b is not None)
    if len(y.shape) != len(values.shape) or not known:
        raise ValueError(
            "Targets and predictions must have the same shape, up to a last axis of size 1. "
            f"Received: {tuple(y.shape)} and {tuple(values.shape)}"
        )
    return y, values


def squared_errors(loss: typing.Any, y_true: typing.Any, y_pred: typing.Any) -> typing.Any:
    """Returns squared errors in squared units of the targets.

    Args:
        loss: the loss that the network is trained with. Its `decode` turns outputs into
            values; without one they are values.
        y_true: targets, shape `(...,)` or `(..., 1)`.
        y_pred: outputs of the network.

    Returns:
        A tensor of the shape of the targets, without a last axis of size one where the
        values have none.
    """
    values = loss.decode(y_pred) if hasattr(loss, "decode") else y_pred
    y, values = aligned(y_true, values)
    return ops.square(y - values)

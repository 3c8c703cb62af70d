"""Scales and offsets with which a new normalisation changes little."""

from __future__ import annotations

import collections.abc
import contextlib
import typing

import keras
import numpy as np


def make_transparent(
    model: keras.Model, norms: collections.abc.Collection[keras.layers.Layer], x: typing.Any
) -> None:
    """Sets scale and offset of each normalisation so that it returns nearly what it is given.

    By least squares over the batch, unit by unit, `scale * normalised + offset ~ given`. With
    batch normalisation the fit is exact, its moving statistics become those of the batch; what
    normalises each example by itself cannot give back how examples differ in mean and size.

    Args:
        model: the model that holds them.
        norms: normalisations with a scale, or of batches.
        x: inputs of the model.
    """
    with contextlib.ExitStack() as stack:
        for norm in norms:
            stack.enter_context(_fitted(norm))
        model(x, training=False)


@contextlib.contextmanager
def _fitted(norm: typing.Any) -> collections.abc.Iterator[None]:
    """Fits a layer when it is first called inside the block."""
    call = norm.call
    done = False

    def fit(inputs: typing.Any, *args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        nonlocal done
        if not done:
            done = True
            axis = norm.axis if isinstance(norm.axis, int) else -1
            given = _flat(inputs, axis)
            if isinstance(norm, keras.layers.BatchNormalization):
                norm.moving_mean.assign(given.mean(0))
                norm.moving_variance.assign(given.var(0))
            scale, offset = _parameters(norm)
            if scale is not None:
                x = _flat(call(inputs, *args, **kwargs), axis)
                centre = x.mean(0) if offset is not None else 0.0
                middle = given.mean(0) if offset is not None else 0.0
                spread = np.sum((x - centre) ** 2, 0)
                product = np.sum((x - centre) * (given - middle), 0)
                slope = np.divide(product, spread, out=np.ones_like(spread), where=spread > 0)
                scale.assign(slope)
                if offset is not None:
                    offset.assign(middle - slope * centre)
        return call(inputs, *args, **kwargs)

    vars(norm)["call"] = fit  # past the tracking of Keras, as it goes again at once
    try:
        yield
    finally:
        del vars(norm)["call"]


def _parameters(norm: typing.Any) -> tuple[typing.Any, typing.Any]:
    if isinstance(norm, keras.layers.RMSNormalization):
        return norm.scale, None
    return norm.gamma, norm.beta


def _flat(values: typing.Any, axis: int) -> np.ndarray:
    array = np.moveaxis(np.asarray(values, np.float64), axis, -1)
    return array.reshape(-1, array.shape[-1])

"""One forward pass over the examples, and what is kept of the units in it."""

from __future__ import annotations

import dataclasses
import math
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.units import UnitGroup, capture
from keras_plasticity.units.groups import Tap

_BYTES = 64e6  # of activations that one chunk of examples may hold
_SILENT = 1e-7  # |h| at or below it is no activity (Joudaki)


class Forward:
    """Runs a model in inference mode over all examples and adds up what is asked for.

    Traced once for each set of pieces, whatever the number of examples. Pieces:

    - `"outputs"`: what the model returns, as it returns it.
    - `"activity"`: of each unit's activation `h`: mean of |h|, and share of examples at which it
      is silent everywhere (|h| <= 1e-7).
    - `"preactivation"`: of what enters the nonlinearity: mean, variance, share of positive
      values.
    - `"moments"`: third and fourth central moment of it, beside mean and variance.
    - `"derivative"`: largest |phi'(a)|.
    - `"fit"`: covariance of preactivation and activation, and variance of the latter.
    - `"features"`: activation of each example, averaged over positions.
    - `"readout"`: what each output layer reads of each example, averaged over positions.
    - `"samples"`: preactivations of up to 2,048 examples and positions, spread evenly.
    - `"sketch"`: preactivations of fewer, so that a layer has about 16,000 numbers.

    Args:
        model: `keras.Model`.
        groups: list of `UnitGroup`.
        readouts: list of `UnitGroup`, those of output layers.
    """

    def __init__(
        self,
        model: keras.Model,
        groups: typing.Sequence[UnitGroup],
        readouts: typing.Sequence[UnitGroup] = (),
    ) -> None:
        self.model, self.groups = model, list(groups)
        self._read = [
            dataclasses.replace(
                readout, output=Tap(readout.layer, argument="call"), preactivation=None
            )
            for readout in readouts
        ]
        self._functions: dict[frozenset, typing.Callable] = {}
        self.rows = self._rows()

    def __call__(self, x: typing.Any, pieces: typing.Collection[str]) -> dict:
        """Returns a dict with a value for each piece.

        Args:
            x: inputs; a structure of arrays with examples along the first axis.
            pieces: names of pieces.

        Returns:
            The outputs, and for each other piece a dict from the name of a group to a dict of
            float64 arrays of shape `(size,)`, or to a float32 array of shape `(examples, size)`.
        """
        key = frozenset(pieces)
        if key not in self._functions:
            function = tf.function(
                lambda x: self._chunk(x, key), autograph=False, reduce_retracing=True
            )
            function._omit_frequent_tracing_warning = True  # a model is traced once, each of many
            self._functions[key] = function
        count = len(keras.tree.flatten(x)[0])
        chunks = np.array_split(np.arange(count), -(-count // self.rows))
        parts = []
        for chunk in chunks:
            part = x if len(chunks) == 1 else _slice(x, slice(chunk[0], chunk[-1] + 1))
            result = self._functions[key](part)
            parts.append(keras.tree.map_structure(lambda tensor: tensor.numpy(), result))
        return _merged(parts)

    def _rows(self) -> int:
        """Examples per chunk."""
        numbers = 0
        for group in self.groups:
            shape = getattr(getattr(group.layer, "output", None), "shape", None) or (
                None,
                group.size,
            )
            numbers += math.prod(n or 64 for n in shape[1:])
        return int(np.clip(_BYTES / 4 / max(numbers, 1), 16, 4096))

    def _chunk(self, x: typing.Any, pieces: frozenset) -> dict:
        result: dict = {}
        with (
            capture(self.groups) as outputs,
            capture(self.groups, True) as inputs,
            capture(self._read) as read,
        ):
            returned = self.model(x, training=False)
        if "outputs" in pieces:
            result["outputs"] = keras.tree.map_structure(lambda t: tf.cast(t, tf.float32), returned)
        if "readout" in pieces:
            result["readout"] = {
                group.name: _features(None, tf.cast(read[group], tf.float32), group)
                for group in self._read
                if group in read
            }
        for name in sorted(pieces - {"outputs", "readout"}):
            result[name] = {}
            for group in self.groups:
                h = tf.cast(outputs[group], tf.float32) if group in outputs else None
                a = tf.cast(inputs[group], tf.float32) if group in inputs else None
                values = _PIECES[name](a, h, group)
                if values is not None:
                    result[name][group.name] = values
        return result


def _slice(x: typing.Any, rows: slice) -> typing.Any:
    return keras.tree.map_structure(lambda array: array[rows], x)


def _flat(values: tf.Tensor) -> tf.Tensor:
    return tf.reshape(values, [-1, values.shape[-1]])


def _activity(a, h, group):
    if h is None:
        return None
    flat, magnitude = _flat(h), tf.abs(h)
    places = list(range(1, len(h.shape) - 1))
    loudest = tf.reduce_max(magnitude, places) if places else magnitude
    silent = tf.cast(loudest <= _SILENT, tf.float32)
    mean_abs = tf.reduce_mean(_flat(magnitude), 0)
    if a is not None:  # a ReLU makes zeros of NaN
        known = tf.math.is_finite(tf.reduce_sum(_flat(a), 0))
        mean_abs = tf.where(known, mean_abs, np.nan)
    return {
        "n": _count(flat),
        "mean_abs": mean_abs,
        "silent": tf.reduce_mean(silent, 0),
    }


def _preactivation(a, h, group):
    if a is None:
        return None
    flat = _flat(a)
    mean, m2 = _central(flat)
    return {
        "n": _count(flat),
        "mean": mean,
        "m2": m2,
        "positive": tf.reduce_mean(tf.cast(flat > 0, tf.float32), 0),
    }


def _moments(a, h, group):
    if a is None:
        return None
    flat = _flat(a)
    mean = tf.reduce_mean(flat, 0)
    centred = flat - mean
    square = centred * centred
    return {
        "n": _count(flat),
        "mean": mean,
        "m2": tf.reduce_mean(square, 0),
        "m3": tf.reduce_mean(square * centred, 0),
        "m4": tf.reduce_mean(square * square, 0),
    }


def _derivative(a, h, group):
    if a is None:
        return None
    slope = _slope(group, a)
    return None if slope is None else {"max": tf.reduce_max(tf.abs(_flat(slope)), 0)}


def _fit(a, h, group):
    if a is None or h is None:
        return None
    x, y = _flat(a), _flat(h)
    mean_x, xx = _central(x)
    mean_y, yy = _central(y)
    xy = tf.reduce_mean((x - mean_x) * (y - mean_y), 0)
    return {"n": _count(x), "mean": mean_x, "m2": xx, "mean_y": mean_y, "m2_y": yy, "m_xy": xy}


def _features(a, h, group):
    if h is None:
        return None
    places = list(range(1, len(h.shape) - 1))
    return tf.reduce_mean(h, places) if places else h


def _samples(a, h, group, rows=2048):
    if a is None:
        return None
    flat = _flat(a)
    step = tf.maximum(1, tf.shape(flat)[0] // rows)
    return flat[::step][:rows]


def _sketch(a, h, group):
    return _samples(a, h, group, max(16, 16384 // group.size))


_PIECES: dict[str, typing.Callable] = {
    "activity": _activity,
    "preactivation": _preactivation,
    "moments": _moments,
    "derivative": _derivative,
    "fit": _fit,
    "features": _features,
    "samples": _samples,
    "sketch": _sketch,
}


def _count(flat: tf.Tensor) -> tf.Tensor:
    return tf.cast(tf.shape(flat)[0], tf.float32)


def _central(flat: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    mean = tf.reduce_mean(flat, 0)
    return mean, tf.reduce_mean(tf.square(flat - mean), 0)


def _slope(group: UnitGroup, a: tf.Tensor) -> tf.Tensor | None:
    """phi'(a); None where a nonlinearity with weights of its own has its units elsewhere."""
    phi = group.nonlinearity
    axis = group.output.axis
    if phi is None or (getattr(phi, "weights", None) and axis not in (-1, len(a.shape) - 1)):
        return None
    with tf.GradientTape() as tape:
        tape.watch(a)
        value = phi(a)
    return tape.gradient(value, a, unconnected_gradients=tf.UnconnectedGradients.ZERO)


def _merged(parts: list[dict]) -> dict:
    """Puts the results of chunks together."""
    whole: dict = {}
    for name, first in parts[0].items():
        if name == "outputs":
            whole[name] = keras.tree.map_structure(
                lambda *arrays: np.concatenate(arrays), *[part[name] for part in parts]
            )
            continue
        whole[name] = {}
        for group, value in first.items():
            values = [part[name][group] for part in parts]
            together = np.concatenate if isinstance(value, np.ndarray) else _merged_moments
            whole[name][group] = together(values)
    return whole


def _merged_moments(parts: list[dict]) -> dict:
    """Merges counts, extremes, means and central moments (Pebay 2008), in float64."""
    total = {key: np.asarray(value, np.float64) for key, value in parts[0].items()}
    for part in parts[1:]:
        new = {key: np.asarray(value, np.float64) for key, value in part.items()}
        merged = {}
        if "n" in total:
            na, nb = total["n"], new["n"]
            n = na + nb
            p, q = na / n, nb / n
            merged["n"] = n
            for key in ("mean_abs", "silent", "positive"):
                if key in total:
                    merged[key] = p * total[key] + q * new[key]
        if "max" in total:
            merged["max"] = np.maximum(total["max"], new["max"])
        if "mean" in total:
            d = new["mean"] - total["mean"]
            merged["mean"] = total["mean"] + q * d
            merged["m2"] = p * total["m2"] + q * new["m2"] + p * q * d**2
        if "m3" in total:
            merged["m3"] = (
                p * total["m3"]
                + q * new["m3"]
                + p * q * (p - q) * d**3
                + 3 * p * q * d * (new["m2"] - total["m2"])
            )
            merged["m4"] = (
                p * total["m4"]
                + q * new["m4"]
                + p * q * (p * p - p * q + q * q) * d**4
                + 6 * p * q * d**2 * (p * new["m2"] + q * total["m2"])
                + 4 * p * q * d * (new["m3"] - total["m3"])
            )
        if "mean_y" in total:
            e = new["mean_y"] - total["mean_y"]
            merged["mean_y"] = total["mean_y"] + q * e
            merged["m2_y"] = p * total["m2_y"] + q * new["m2_y"] + p * q * e**2
            merged["m_xy"] = p * total["m_xy"] + q * new["m_xy"] + p * q * d * e
        total = merged
    return total

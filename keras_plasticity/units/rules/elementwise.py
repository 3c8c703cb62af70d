"""Rules for what acts on every channel alone: activations, dropout, pooling, padding."""

from __future__ import annotations

import collections.abc
import enum
import typing

import keras
import numpy as np

from keras_plasticity import layers as own
from keras_plasticity.units.trace import Kind, Step
from keras_plasticity.units.walk import Walk

SAME = Kind.FOLLOW | Kind.MEAN  # what changes no value


class Shape(enum.Enum):
    """How an activation function treats the channels of a tensor."""

    LINEAR = enum.auto()
    ELEMENTWISE = enum.auto()
    MIXING = enum.auto()
    UNKNOWN = enum.auto()


_MIXING = ("softmax", "log_softmax", "sparsemax")
_UNKNOWN = ("glu", "get", "serialize", "deserialize")
_KNOWN = {
    id(function): Shape.LINEAR
    if name == "linear"
    else Shape.MIXING
    if name in _MIXING
    else Shape.ELEMENTWISE
    for name, function in vars(keras.activations).items()
    if callable(function) and name not in _UNKNOWN
}
_NONLINEAR_LAYERS = (
    *(keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU),
    *(own.Rational, own.SmoothLeakyReLU),
)
_SIGMOIDS = ("sigmoid", "hard_sigmoid", "softmax", "sparse_sigmoid", "sparsemax")


def shape_of(function: typing.Any) -> Shape:
    """Returns how an activation function treats channels; tries functions it does not know."""
    if function is None:
        return Shape.LINEAR
    if id(function) in _KNOWN:
        return _KNOWN[id(function)]
    if isinstance(function, keras.layers.Layer):
        if type(function) is keras.layers.Activation:
            return shape_of(function.activation)
        return Shape.ELEMENTWISE if type(function) in _NONLINEAR_LAYERS else Shape.UNKNOWN
    return Shape.ELEMENTWISE if _acts_on_elements(function) else Shape.UNKNOWN


def is_gate(step: Step | None) -> bool:
    """Whether a step ends in a function that gates are made with: sigmoid, softmax."""
    if step is None:
        return False
    function = getattr(step.operation, "activation", None)
    name = getattr(function, "__name__", None) or type(step.operation).__name__
    return name.lower() in (*_SIGMOIDS, "hardsigmoid", "sparsesigmoid")


def keep(kind: Kind) -> collections.abc.Callable[[Walk, Step], None]:
    """Makes the rule of a step that leaves all axes where they are."""

    def rule(walk: Walk, step: Step) -> None:
        step.outputs[0].labels = step.inputs[0].labels
        step.kind = kind

    return rule


def activation(walk: Walk, step: Step) -> None:
    """The rule of `keras.layers.Activation`."""
    labels = step.inputs[0].labels
    found = shape_of(step.operation.activation)
    if found is Shape.UNKNOWN:
        walk.block(labels, f"the activation of {step.name} is not understood")
        return
    if found is Shape.MIXING:
        walk.mix(labels)
    step.outputs[0].labels = labels
    step.kind = {Shape.LINEAR: SAME, Shape.ELEMENTWISE: Kind.NONLINEAR}.get(found, Kind.PLAIN)


def prelu(walk: Walk, step: Step) -> None:
    """The rule of `keras.layers.PReLU`: slopes for each element, or shared along axes."""
    layer, x = typing.cast(typing.Any, step.operation), step.inputs[0]
    axes = {axis: axis - 1 for axis in range(1, len(x.shape))}
    if x.labels is not None and not walk.attach(x, layer.alpha, axes, layer.alpha_initializer):
        # Slopes that all units share stay as they are.
        shared = layer.alpha.shape[x.labels.start - 1 : x.labels.stop - 1]
        if any(n != 1 for n in shared):
            walk.block(x.labels, f"slopes of {step.name} are shared by several of its units")
    step.outputs[0].labels = x.labels
    step.kind = Kind.NONLINEAR


def spatial(kind: Kind) -> collections.abc.Callable[[Walk, Step], None]:
    """Makes the rule of a layer that works along all axes but the batch and the channels."""

    def rule(walk: Walk, step: Step) -> None:
        x, y = step.inputs[0], step.outputs[0]
        if x.labels is None:
            return
        first = getattr(step.operation, "data_format", None) == "channels_first"
        axis = 1 if first else len(x.shape) - 1
        if x.labels.axes != range(axis, axis + 1):
            walk.block(x.labels, f"{step.name} works along the axis of the units")
            return
        after = 1 if first else len(y.shape) - 1
        y.labels = x.labels.shift(after - axis)
        step.kind = kind
        pads = getattr(step.operation, "padding", None) == "same"
        if pads or getattr(step.operation, "interpolation", "nearest") != "nearest":
            step.kind &= ~Kind.MEAN

    return rule


def _acts_on_elements(function: typing.Any) -> bool:
    x = np.random.default_rng(0).permutation(np.linspace(-3, 3, 24, dtype="float32"))
    x = x.reshape(4, 6)
    try:
        with keras.StatelessScope():
            y = np.asarray(function(keras.ops.convert_to_tensor(x)))
            if y.shape != x.shape:
                return False
            for place in ((0, 0), (2, 3), (3, 5)):
                changed = x.copy()
                changed[place] += 1.5
                other = np.asarray(function(keras.ops.convert_to_tensor(changed)))
                same = y == other
                same[place] = True
                if not same.all():
                    return False
    except Exception:  # whatever a user's function does with an unexpected shape
        return False
    return True

"""Rules for normalisation: units keep their places; statistics over units mix them."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.units.trace import Kind, Step
from keras_plasticity.units.walk import Walk


def _axes(axis: typing.Any, rank: int) -> list[int]:
    return [a % rank for a in (axis if isinstance(axis, list | tuple) else (axis,))]


def keep(walk: Walk, step: Step, mixed: bool) -> None:
    """Leaves units where they are; notes whether they act on each other."""
    if mixed:
        walk.mix(step.inputs[0].labels)
    step.outputs[0].labels = step.inputs[0].labels
    step.kind = Kind.FOLLOW


def batch(walk: Walk, step: Step) -> None:
    """`BatchNormalization`: statistics for each channel, over everything else."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axis = layer.axis % len(x.shape)
    mixed = x.labels is not None and x.labels.axes != range(axis, axis + 1)
    if not mixed:
        pieces = [
            (layer.gamma, layer.gamma_initializer),
            (layer.beta, layer.beta_initializer),
            (layer.moving_mean, layer.moving_mean_initializer),
            (layer.moving_variance, layer.moving_variance_initializer),
            (getattr(layer, "moving_stddev", None), layer.moving_variance_initializer),
            (getattr(layer, "renorm_mean", None), layer.moving_mean_initializer),
            (getattr(layer, "renorm_stddev", None), layer.moving_variance_initializer),
        ]
        for variable, initializer in pieces:
            walk.attach(x, variable, {axis: 0}, initializer)
    keep(walk, step, mixed)


def layer_norm(walk: Walk, step: Step) -> None:
    """`LayerNormalization`: statistics over `axis`, scale and offset along it."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axes = _axes(layer.axis, len(x.shape))
    places = {axis: i for i, axis in enumerate(axes)}
    walk.attach(x, layer.gamma, places, layer.gamma_initializer)
    walk.attach(x, layer.beta, places, layer.beta_initializer)
    keep(walk, step, x.labels is not None and bool(set(axes) & set(x.labels.axes)))


def group_norm(walk: Walk, step: Step) -> None:
    """`GroupNormalization`: exact where each channel is a group of its own."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axis = layer.axis % len(x.shape)
    walk.attach(x, layer.gamma, {axis: 0}, layer.gamma_initializer)
    walk.attach(x, layer.beta, {axis: 0}, layer.beta_initializer)
    alone = layer.groups == x.shape[axis]
    own = x.labels is not None and x.labels.axes == range(axis, axis + 1)
    keep(walk, step, not (alone and own))


def rms_norm(walk: Walk, step: Step) -> None:
    """`RMSNormalization`, Keras' with a scale for each element of `axis`, ours per channel."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axes = _axes(layer.axis, len(x.shape))
    if layer.scale is not None and len(layer.scale.shape) == len(axes):
        places = {axis: i for i, axis in enumerate(sorted(axes))}
    else:
        places = {len(x.shape) - 1: 0}
    walk.attach(x, layer.scale, places, keras.initializers.Ones())
    keep(walk, step, x.labels is not None and bool(set(axes) & set(x.labels.axes)))


def along_axis(walk: Walk, step: Step) -> None:
    """What sets the elements along `axis` in relation: softmax, unit normalisation."""
    x = step.inputs[0]
    axis = getattr(step.operation, "axis", -1)
    axes = range(len(x.shape)) if axis is None else _axes(axis, len(x.shape))
    keep(walk, step, x.labels is not None and bool(set(axes) & set(x.labels.axes)))
    step.kind = Kind.PLAIN


def constant(walk: Walk, step: Step) -> None:
    """`Normalization`: a fixed scale and offset."""
    keep(walk, step, False)

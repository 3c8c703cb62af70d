"""Rules for layers of this library that are like no layer of Keras."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.units import labels as shapes
from keras_plasticity.units.rules import kernels, norms
from keras_plasticity.units.rules.kernels import whole
from keras_plasticity.units.trace import Kind, Step
from keras_plasticity.units.walk import Walk


def center_scale(walk: Walk, step: Step) -> None:
    """`CenterScale`: batch statistics for each channel leave units alone, others mix them."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axis = layer.axis % len(x.shape)
    pieces = {"gamma": "ones", "beta": "zeros", "moving_mean": "zeros", "moving_variance": "ones"}
    for name, initializer in pieces.items():
        walk.attach(x, getattr(layer, name), {axis: 0}, keras.initializers.get(initializer))
    found = x.labels
    own_axis = found is not None and found.axes == range(axis, axis + 1)
    mixed = False
    for kind in {layer.center_axis, layer.scale_axis} - {None}:
        alone = kind == "batch" or (kind == "group" and layer.groups == x.shape[axis])
        mixed |= not (alone and own_axis)
    norms.keep(walk, step, mixed and found is not None)


def standardized(walk: Walk, step: Step) -> None:
    """`WeightStandardization`: each unit's kernel is standardised apart.

    What it reads cannot be cut: with some weights of a unit at zero, its mean is none.
    """
    wrapper: typing.Any = step.operation
    layer = wrapper.layer
    walk.block(step.inputs[0].labels, f"read by {step.name}, whose kernel is centred")
    rule = kernels.dense if isinstance(layer, keras.layers.Dense) else kernels.conv
    inner = Step(
        layer, step.name, step.args, step.kwargs, step.inputs, step.outputs, step.call, True
    )
    before = len(walk.drafts)
    rule(walk, inner)
    step.kind = inner.kind
    for draft in walk.drafts[before:]:
        if wrapper.gain is not None:
            draft.attached.append(whole(wrapper.gain, 0, 1, keras.initializers.Ones()))


def hadamard(walk: Walk, step: Step) -> None:
    """`HadamardDense`: a unit is computed by a column of each of two kernels."""
    layer: typing.Any = step.operation
    x, incoming = step.inputs[0], []
    for name in ("", "second_"):
        kernel, bias = getattr(layer, f"{name}kernel"), getattr(layer, f"{name}bias")
        initializer = getattr(layer, f"{name}kernel_initializer")
        walk.read(step, x, kernel, initializer, {len(x.shape) - 1: 0}, bias, (1,))
        incoming.append(whole(kernel, 1, 2, initializer))
        if bias is not None:
            incoming.append(whole(bias, 0, 1, getattr(layer, f"{name}bias_initializer")))
    walk.begin(step, layer, layer.units, incoming, (-1,)).nonlinear = True


def doubled(walk: Walk, step: Step) -> None:
    """`CReLU` and `DeepFourier`: both channels made of one belong to its unit."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    step.kind = Kind.NONLINEAR
    if x.labels is None:
        return
    labels = shapes.concatenate([x.labels] * 2, [x.shape] * 2, layer.axis)
    if labels is None:
        walk.block(x.labels, f"doubled in {step.name} so that units mix")
    step.outputs[0].labels = labels


def adalin(walk: Walk, step: Step) -> None:
    """`AdaLin`: a slope for each channel."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    axes = {layer.axis % len(x.shape): 0}
    if not walk.attach(x, layer.alpha, axes, layer.alpha_initializer):
        walk.block(x.labels, f"slopes of {step.name} are shared by several of its units")
    step.outputs[0].labels = x.labels
    step.kind = Kind.NONLINEAR


def diagonal(walk: Walk, step: Step) -> None:
    """`Diagonal`: a factor for each element of the last axis."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    walk.attach(x, layer.scale, {len(x.shape) - 1: 0}, keras.initializers.Ones())
    norms.keep(walk, step, False)


def normalized_logits(walk: Walk, step: Step) -> None:
    """`NormalizedLogits`: what it reads is normalised together, its own units each alone."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    last = len(x.shape) - 1
    if x.labels is not None and last in x.labels.axes:
        walk.mix(x.labels)
    walk.read(step, x, layer.kernel, layer.kernel_initializer, {last: 0}, None, (1,))
    incoming = [whole(layer.kernel, 1, 2, layer.kernel_initializer)]
    walk.begin(step, layer, layer.units, incoming, (-1,))


def pop_art(walk: Walk, step: Step) -> None:
    """`PopArt`: a dense layer with statistics of the targets for each unit."""
    layer: typing.Any = step.operation
    kernels.dense(walk, step)
    y = step.outputs[0]
    for variable, initializer in ((layer.mu, "zeros"), (layer.variance, "ones")):
        walk.attach(y, variable, {len(y.shape) - 1: 0}, keras.initializers.get(initializer))

"""Rules for layers with a kernel: they read the units before and compute new ones."""

from __future__ import annotations

import math
import typing

import keras
import numpy as np

from keras_plasticity.layers.normalized_kernel import NormalizedKernel
from keras_plasticity.units import labels as shapes
from keras_plasticity.units.groups import Slice
from keras_plasticity.units.labels import Labels
from keras_plasticity.units.rules.elementwise import Shape, shape_of
from keras_plasticity.units.trace import Step, Value
from keras_plasticity.units.walk import Draft, Walk, alteration


def stored(layer: typing.Any, name: str) -> typing.Any:
    """Returns a variable of a layer; `kernel` is computed from it under LoRA."""
    variable = vars(layer).get(f"_{name}")
    return getattr(layer, name, None) if variable is None else variable


def whole(variable: typing.Any, start: int, stop: int, initializer: typing.Any) -> Slice:
    """Returns the slice whose positions are the units, in order."""
    size = math.prod(variable.shape[start:stop])
    return Slice(variable, start, stop, np.arange(size), initializer)


def activate(walk: Walk, draft: Draft, value: Value | None, function: typing.Any) -> None:
    """Notes what a layer's own activation does to the units it has just computed."""
    found = shape_of(function)
    draft.nonlinear = found is Shape.ELEMENTWISE
    if value is None or found in (Shape.LINEAR, Shape.ELEMENTWISE):
        return
    if found is Shape.MIXING:
        walk.mix(value.labels)
    else:
        walk.block(value.labels, "its activation is not understood")
        value.labels = None


def refused(walk: Walk, step: Step, size: int, axes: tuple[int, ...]) -> bool:
    """Whether the layer is quantized: its kernel is stored in another shape."""
    layer: typing.Any = step.operation
    if getattr(layer, "quantization_mode", None) is None:
        return False
    walk.block(step.inputs[0].labels, f"read by {step.name}, which {alteration(layer)}")
    activate(walk, walk.begin(step, layer, size, (), axes), step.outputs[0], layer.activation)
    return True


def dense(walk: Walk, step: Step) -> None:
    """`x @ kernel + bias`, kernel (inputs, units)."""
    layer: typing.Any = step.operation
    x = step.inputs[0]
    if refused(walk, step, layer.units, (-1,)):
        return
    kernel = whole(stored(layer, "kernel"), 1, 2, layer.kernel_initializer)
    bias, axes = _replacing(layer), {len(x.shape) - 1: 0}
    walk.read(step, x, kernel.variable, kernel.initializer, axes, bias, (1,))
    incoming = _with_bias(layer, kernel)
    draft = walk.begin(step, layer, layer.units, incoming, (-1,))
    draft.exact &= not isinstance(layer, NormalizedKernel)
    activate(walk, draft, step.outputs[0], layer.activation)


def _replacing(layer: typing.Any) -> typing.Any:
    """The bias that can take over what cut units gave, or None.

    Behind a kernel that is used at one norm it cannot: what is left of the kernel grows.
    """
    return None if isinstance(layer, NormalizedKernel) else layer.bias


def _channels(layer: typing.Any, x: Value) -> tuple[int, int]:
    """The axis of the channels, and the same counted from the end."""
    axis = 1 if layer.data_format == "channels_first" else len(x.shape) - 1
    return axis, axis - len(x.shape)


def _pads(layer: typing.Any) -> bool:
    return layer.padding != "valid" and any(n > 1 for n in layer.kernel_size)


def conv(walk: Walk, step: Step) -> None:
    """Kernel (*window, channels / groups, filters)."""
    layer: typing.Any = step.operation
    x, rank = step.inputs[0], layer.rank
    axis, from_end = _channels(layer, x)
    if refused(walk, step, layer.filters, (from_end,)):
        return
    kernel = whole(stored(layer, "kernel"), rank + 1, rank + 2, layer.kernel_initializer)

    def place(found: Labels) -> Labels | None:
        if found.axes != range(axis, axis + 1):
            return None
        # Output o belongs to a group of the convolution and sees that group's inputs.
        ids = found.ids.reshape(layer.groups, -1)
        ids = np.repeat(ids, layer.filters // layer.groups, axis=0).T
        return Labels(rank, rank + 2, ids.reshape(-1))

    grouped = place if layer.groups > 1 else None
    walk.read(
        step,
        x,
        kernel.variable,
        kernel.initializer,
        {axis: rank},
        _replacing(layer),
        (rank + 1,),
        _pads(layer),
        place=grouped,
    )
    incoming = _with_bias(layer, kernel)
    draft = walk.begin(step, layer, layer.filters, incoming, (from_end,))
    draft.exact &= not isinstance(layer, NormalizedKernel)
    activate(walk, draft, step.outputs[0], layer.activation)


def _with_bias(layer: typing.Any, kernel: Slice) -> list[Slice]:
    """What computes a unit: its part of the kernel, and of the bias where there is one."""
    if layer.bias is None:
        return [kernel]
    return [kernel, whole(layer.bias, 0, 1, layer.bias_initializer)]


def conv_transpose(walk: Walk, step: Step) -> None:
    """Kernel (*window, filters, channels)."""
    layer: typing.Any = step.operation
    x, rank = step.inputs[0], layer.rank
    axis, from_end = _channels(layer, x)
    kernel = whole(layer.kernel, rank, rank + 1, layer.kernel_initializer)
    # With strides a position of the output sees only some of the window.
    bias = layer.bias if all(n == 1 for n in layer.strides) else None
    walk.read(
        step,
        x,
        kernel.variable,
        kernel.initializer,
        {axis: rank + 1},
        bias,
        (rank,),
        any(n > 1 for n in layer.kernel_size),
    )
    incoming = _with_bias(layer, kernel)
    draft = walk.begin(step, layer, layer.filters, incoming, (from_end,))
    activate(walk, draft, step.outputs[0], layer.activation)


def depthwise(walk: Walk, step: Step) -> None:
    """Kernel (*window, channels, multiplier); the units are channels * multiplier."""
    layer: typing.Any = step.operation
    x, rank = step.inputs[0], layer.rank
    axis, from_end = _channels(layer, x)
    kernel = whole(layer.kernel, rank, rank + 2, layer.depthwise_initializer)
    walk.read(
        step,
        x,
        kernel.variable,
        kernel.initializer,
        {axis: rank},
        layer.bias,
        (rank, rank + 1),
        _pads(layer),
    )
    incoming = _with_bias(layer, kernel)
    draft = walk.begin(step, layer, kernel.size, incoming, (from_end,))
    activate(walk, draft, step.outputs[0], layer.activation)


def separable(walk: Walk, step: Step) -> None:
    """Kernels (*window, channels, multiplier) and (1, ..., channels * multiplier, filters)."""
    layer: typing.Any = step.operation
    x, rank = step.inputs[0], layer.rank
    axis, from_end = _channels(layer, x)
    first = whole(layer.depthwise_kernel, rank, rank + 1, layer.depthwise_initializer)
    walk.read(step, x, first.variable, first.initializer, {axis: rank}, None, (), _pads(layer))
    incoming = [whole(layer.pointwise_kernel, rank + 1, rank + 2, layer.pointwise_initializer)]
    if layer.bias is not None:
        incoming.append(whole(layer.bias, 0, 1, layer.bias_initializer))
    draft = walk.begin(step, layer, layer.filters, incoming, (from_end,))
    activate(walk, draft, step.outputs[0], layer.activation)


def embedding(walk: Walk, step: Step) -> None:
    """Table (tokens, units)."""
    layer: typing.Any = step.operation
    walk.block(step.inputs[0].labels, f"{step.name} looks them up")
    incoming = []
    if getattr(layer, "quantization_mode", None) is None:
        incoming = [whole(stored(layer, "embeddings"), 1, 2, layer.embeddings_initializer)]
    walk.begin(step, layer, layer.output_dim, incoming, (-1,))


class Equation:
    """The equation of an `EinsumDense`: which letter is which axis.

    Attributes:
        inputs: str, letters of the input, without an ellipsis.
        kernel: str, letters of the kernel.
        outputs: str, letters of the output, without an ellipsis.
        units: str, letters of the output that the kernel has too: they tell the unit.
    """

    def __init__(self, layer: typing.Any) -> None:
        left, self.outputs = layer.equation.replace(" ", "").split("->")
        self.inputs, self.kernel = left.split(",")
        self.trailing = self.inputs.endswith("...")  # the ellipsis stands last
        self.elided = "..." in self.inputs
        self.inputs, self.outputs = (s.replace("...", "") for s in (self.inputs, self.outputs))
        self.units = "".join(letter for letter in self.outputs if letter in self.kernel)

    def axis(self, letters: str, letter: str, rank: int) -> int:
        """Returns the axis of a letter of the input or output, from the start."""
        at = letters.index(letter)
        return at if self.trailing or not self.elided else rank - len(letters) + at

    def bias_letters(self, layer: typing.Any) -> str:
        """Returns the letters of the bias, "-" for axes of size one."""
        first = min(self.outputs.index(letter) for letter in layer.bias_axes)
        letters = "".join(c if c in layer.bias_axes else "-" for c in self.outputs[first:])
        return letters.ljust(len(layer.bias.shape), "-")


def einsum_read(walk: Walk, step: Step, x: Value, layer: typing.Any) -> None:
    """Ends the labels of a tensor in the kernel of an `EinsumDense`."""
    if getattr(layer, "quantization_mode", None) is not None:
        walk.block(x.labels, f"read by {step.name}, which {alteration(layer)}")
        return
    equation, rank = Equation(layer), len(x.shape)
    contracted = {
        equation.axis(equation.inputs, letter, rank): equation.kernel.index(letter)
        for letter in equation.kernel
        if letter in equation.inputs
    }
    bias = layer.bias
    if bias is not None:
        letters = equation.bias_letters(layer).replace("-", "")
        order = "".join(c for c in equation.kernel if c in equation.units)
        bias = bias if letters == order else None
    axes = [i for i, letter in enumerate(equation.kernel) if letter in equation.units]
    kernel, initializer = stored(layer, "kernel"), einsum_initializer(layer)
    walk.read(step, x, kernel, initializer, contracted, bias, axes, layer=layer)


def einsum_begin(
    walk: Walk, step: Step, layer: typing.Any, value: Value | None, name: str | None = None
) -> Draft:
    """Starts the units of an `EinsumDense`."""
    equation = Equation(layer)
    rank = len(layer.partial_output_shape) + 1 if value is None else len(value.shape)
    axes = [equation.axis(equation.outputs, c, rank) - rank for c in equation.units]
    incoming, size = [], 0
    if getattr(layer, "quantization_mode", None) is None:
        kernel = stored(layer, "kernel")
        at = [equation.kernel.index(letter) for letter in equation.units]
        size = math.prod(kernel.shape[a] for a in at)
        pieces = [(kernel, at, einsum_initializer(layer))]
        if layer.bias is not None and all(c in layer.bias_axes for c in equation.units):
            letters = equation.bias_letters(layer)
            at = [letters.index(letter) for letter in equation.units]
            pieces.append((layer.bias, at, layer.bias_initializer))
        for variable, at, initializer in pieces:
            rows = shapes.spread(variable.shape, at, np.arange(size))
            assert rows is not None
            incoming.append(Slice(variable, rows.start, rows.stop, rows.ids, initializer, size))
    elif value is not None:
        size = math.prod(value.shape[a] or 0 for a in axes)
    consecutive = axes == list(range(axes[0], axes[0] + len(axes)))
    draft = walk.begin(step, layer, size, incoming, axes, name=name, value=value)
    activate(walk, draft, value, layer.activation)
    if not consecutive and value is not None:
        walk.block(value.labels, "its units are not along consecutive axes")
        value.labels = None
    return draft


def einsum_dense(walk: Walk, step: Step) -> None:
    """`einsum(equation, x, kernel) + bias`."""
    einsum_read(walk, step, step.inputs[0], step.operation)
    einsum_begin(walk, step, step.operation, step.outputs[0])


def einsum_initializer(layer: typing.Any) -> typing.Any:
    """Returns what the kernel of an `EinsumDense` is drawn by.

    In `build` Keras derives fan-in and fan-out from the equation; the attribute
    `kernel_initializer` of the layer does not know them.
    """
    initializer = layer.kernel_initializer
    update = getattr(layer, "_update_kernel_initializer", None)
    if (
        update is None
        or not isinstance(initializer, keras.initializers.VarianceScaling)
        or getattr(initializer, "input_axes", None) is not None
    ):
        return initializer
    equation = Equation(layer)
    outputs = [i for i, letter in enumerate(equation.kernel) if letter in equation.outputs]
    inputs = [i for i in range(len(equation.kernel)) if i not in outputs]
    return update(inputs, outputs)

"""Kernels as the matrices that their layers multiply inputs with."""

from __future__ import annotations

import math
import typing

import keras
import numpy as np

from keras_plasticity.units.rules.kernels import Equation

_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
_DEPTHWISE = (
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
    keras.layers.SeparableConv1D,
    keras.layers.SeparableConv2D,
)


def matrix_blocks(
    kernel: typing.Any, layer: keras.layers.Layer | None = None, name: str = "kernel"
) -> np.ndarray:
    """Returns a kernel as the blocks of a block diagonal matrix of (inputs, units).

    | Layer | blocks | inputs | units |
    | --- | --- | --- | --- |
    | dense, recurrent | 1 | axis 0 | axis 1 |
    | convolution | groups | window * channels of a group | filters of a group |
    | depthwise, also of a separable convolution | channels | window | multiplier |
    | transposed convolution | 1 | channels | window * filters |
    | `EinsumDense`, projections of attention | letters of input and output | letters of the \
input alone | letters of the output alone |
    | others | 1 | all axes but the last | the last |

    Args:
        kernel: array of two axes or more.
        layer: the layer it belongs to, or None: as others.
        name: str, of the weight in its layer. Default "kernel".

    Returns:
        Array of shape `(blocks, inputs, units)`.
    """
    values = np.asarray(kernel)
    blocks: list[int] = []
    units = [values.ndim - 1]
    if isinstance(layer, keras.layers.EinsumDense) and name == "kernel":
        equation = Equation(layer)
        reads, writes = set(equation.inputs), set(equation.outputs)
        blocks = [i for i, c in enumerate(equation.kernel) if c in reads & writes]
        units = [i for i, c in enumerate(equation.kernel) if c in writes - reads]
    elif isinstance(layer, _DEPTHWISE) and name in ("kernel", "depthwise_kernel"):
        blocks = [values.ndim - 2]
    elif isinstance(layer, _TRANSPOSED) and name == "kernel":
        units = list(range(values.ndim - 1))
    elif isinstance(layer, _CONVOLUTIONS) and name == "kernel" and layer.groups > 1:
        values = values.reshape(*values.shape[:-1], layer.groups, -1)
        blocks, units = [values.ndim - 2], [values.ndim - 1]
    inputs = [i for i in range(values.ndim) if i not in (*blocks, *units)]
    sizes = [math.prod(values.shape[i] for i in axes) for axes in (blocks, inputs, units)]
    return values.transpose(*blocks, *inputs, *units).reshape(sizes)


def owners(model: keras.Model) -> dict[int, keras.layers.Layer]:
    """Returns by `id` of each weight to train the layer that multiplies with it."""
    return {id(v): layer for layer in model._flatten_layers() for v in layer._trainable_variables}

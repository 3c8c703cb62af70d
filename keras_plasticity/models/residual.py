"""ResNet-18 for small images."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.models.blocks import Blocks, check_image_shape, check_size

STRIDES = (1, 2, 2, 2)
BLOCKS_PER_STAGE = 2


def resnet18(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    width: int = 64,
    norm: str | None = None,
    affine: bool = False,
    activation: typing.Any = "relu",
    dropout: float = 0.0,
    kernel_initializer: typing.Any = "he_normal",
    kernel_regularizer: typing.Any = None,
    groups: int | None = None,
    name: str = "resnet18",
) -> keras.Model:
    """Makes a ResNet-18 with the stem used for CIFAR: a 3x3 convolution, no pooling.

    Four stages of two basic blocks with `width * (1, 2, 4, 8)` channels and strides
    1, 2, 2, 2; then the mean over positions and the output layer.

    ```python
    y = dropout(activation(norm(conv(x, strides=strides))))
    x = activation(norm(conv(y) + shortcut(x)))  # a block; shortcut: identity or 1x1 conv
    ```

    Example:
    >>> model = resnet18((32, 32, 3), 10, norm="batch", affine=True)

    Args:
        input_shape: (height, width, channels) of one example, usually from 8x8 up.
        num_outputs: int, number of logits or regression outputs.
        width: int, channels of the first stage. Defaults to 64.
        norm: see `mlp`.
        affine: see `mlp`.
        activation: see `mlp`.
        dropout: see `mlp`; between the two convolutions of every block.
        kernel_initializer: see `mlp`.
        kernel_regularizer: see `mlp`.
        groups: see `mlp`.
        name: str, name of the model.

    Returns:
        A functional `keras.Model`; see `mlp`.

    Raises:
        ValueError: see `mlp`; also if `input_shape` is not that of an image.

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2016,
        https://arxiv.org/abs/1512.03385, Table 1. Placement of `norm`: see `mlp`.

    Deviations:
        The second normalisation of a block stands after the addition, directly before
        its nonlinearity, where the paper has it before the addition; shortcuts have
        none. Convolutions have biases. See also `mlp`.
    """
    check_image_shape(input_shape)
    check_size("num_outputs", num_outputs)
    check_size("width", width)
    blocks = Blocks(
        norm, affine, activation, dropout, kernel_initializer, kernel_regularizer, groups
    )
    inputs = keras.Input(tuple(input_shape), name="input")
    x = blocks.nonlinearity(blocks.conv(inputs, width))
    for stage, stride in enumerate(STRIDES):
        for block in range(BLOCKS_PER_STAGE):
            x = _basic_block(blocks, x, width * 2**stage, stride if block == 0 else 1)
    x = keras.layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, blocks.output(x, num_outputs), name=name)


def _basic_block(blocks: Blocks, x: typing.Any, filters: int, strides: int) -> typing.Any:
    shortcut = x
    if strides != 1 or x.shape[-1] != filters:
        name = blocks.name("projection")
        shortcut = blocks.conv(x, filters, size=1, strides=strides, name=name)
    x = blocks.dropout(blocks.nonlinearity(blocks.conv(x, filters, strides=strides)))
    return blocks.nonlinearity(blocks.add(blocks.conv(x, filters), shortcut))

"""The plain convolutional network."""

from __future__ import annotations

import collections.abc
import typing

import keras

from keras_plasticity.models.blocks import Blocks, check_image_shape, check_size, check_sizes


def cnn(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    filters: collections.abc.Sequence[int] = (32, 64, 64),
    dense: collections.abc.Sequence[int] = (256,),
    norm: str | None = None,
    affine: bool = False,
    activation: typing.Any = "relu",
    dropout: float = 0.0,
    kernel_initializer: typing.Any = "he_normal",
    kernel_regularizer: typing.Any = None,
    groups: int | None = None,
    name: str = "cnn",
) -> keras.Model:
    """Makes a network of 3x3 convolutions and dense layers.

    ```python
    for n in filters:
        x = dropout(max_pool(activation(norm(conv(x, n)))))
    x = flatten(x)
    for units in dense:
        x = dropout(activation(norm(dense(x, units))))
    outputs = dense(x, num_outputs)
    ```

    Example:
    >>> model = cnn((32, 32, 3), 10, norm="layer")

    Args:
        input_shape: (height, width, channels) of one example.
        num_outputs: int, number of logits or regression outputs.
        filters: channels of the convolutions. Each is followed by 2x2 max-pooling
            while height and width are both at least 2. Defaults to (32, 64, 64).
        dense: units of the hidden dense layers; may be empty. Defaults to (256,).
        norm: see `mlp`. `"layer"` of a convolution is over (H, W, C) of an example,
            and its scale and offset, if any, are per channel.
        affine: see `mlp`.
        activation: see `mlp`.
        dropout: see `mlp`; after the pooling, where there is one.
        kernel_initializer: see `mlp`.
        kernel_regularizer: see `mlp`.
        groups: see `mlp`.
        name: str, name of the model.

    Returns:
        A functional `keras.Model`; see `mlp`.

    Raises:
        ValueError: see `mlp`; also if `input_shape` is not that of an image.

    Reference:
        See `mlp`.

    Deviations:
        See `mlp`.
    """
    check_image_shape(input_shape)
    check_size("num_outputs", num_outputs)
    check_sizes("filters", filters)
    check_sizes("dense", dense, empty=True)
    blocks = Blocks(
        norm, affine, activation, dropout, kernel_initializer, kernel_regularizer, groups
    )
    x = inputs = keras.Input(tuple(input_shape), name="input")
    for channels in filters:
        x = blocks.nonlinearity(blocks.conv(x, channels))
        if min(x.shape[1:3]) >= 2:
            x = keras.layers.MaxPooling2D(2, name=blocks.name("pool"))(x)
        x = blocks.dropout(x)
    x = keras.layers.Flatten(name="flatten")(x)
    for units in dense:
        x = blocks.dropout(blocks.nonlinearity(blocks.dense(x, units)))
    return keras.Model(inputs, blocks.output(x, num_outputs), name=name)

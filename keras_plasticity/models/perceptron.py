"""The multilayer perceptron."""

from __future__ import annotations

import collections.abc
import typing

import keras

from keras_plasticity.models.blocks import Blocks, check_size, check_sizes


def mlp(
    input_shape: tuple[int, ...],
    num_outputs: int,
    widths: collections.abc.Sequence[int] = (128, 128, 128),
    norm: str | None = None,
    affine: bool = False,
    activation: typing.Any = "relu",
    dropout: float = 0.0,
    kernel_initializer: typing.Any = "he_normal",
    kernel_regularizer: typing.Any = None,
    groups: int | None = None,
    name: str = "mlp",
) -> keras.Model:
    """Makes a multilayer perceptron; inputs of several axes are flattened.

    ```python
    x = flatten(inputs)
    for width in widths:
        x = dropout(activation(norm(dense(x, width))))
    outputs = dense(x, num_outputs)
    ```

    Example:
    >>> model = mlp((8, 8, 1), 10, norm="layer", kernel_regularizer=keras.regularizers.L2(1e-5))

    Args:
        input_shape: tuple of int, shape of one example, without the batch axis.
        num_outputs: int, number of logits or regression outputs.
        widths: units of the hidden layers. Defaults to (128, 128, 128).
        norm: None, `"layer"`, `"batch"`, `"rms"` or `"group"`: the normalisation
            placed directly before every nonlinearity and never on the output.
            `"layer"` and `"rms"` take their statistics over the features of a dense
            layer, over the features of a token, and over all of (H, W, C) of a
            convolution, for every example alone. `"group"` does so within groups of
            channels (of tokens: over all positions). Epsilon is 1e-3 in all of them.
            Defaults to None.
        affine: bool, whether normalisations learn a scale and (but for `"rms"`) an
            offset, one per channel. Defaults to False, because it decides the outcome:
            with layer normalisation and L2 on kernels, a network whose labels are
            re-drawn task after task stayed fully plastic without them and lost its
            plasticity with them undecayed, its dead units coming back.
        activation: name, callable, layer or layer class; a layer is copied for every
            place. Defaults to `"relu"`.
        dropout: float in [0, 1), rate after every hidden nonlinearity. Defaults to 0,
            which leaves the layers out.
        kernel_initializer: of every kernel. Each kernel gets draws of its own, also
            from one initializer object (an explicit seed counts up over the kernels).
            Defaults to `"he_normal"`, the usual one for ReLU.
        kernel_regularizer: of the kernels of all dense layers and convolutions, the
            output layer among them; never of biases or normalisation parameters.
            Keras' `L2(c)` is coupled: it adds `c * sum(kernel ** 2)` to the loss.
            Defaults to None.
        groups: int, number of groups for `norm="group"`; it must divide the channels
            of all normalised layers. Defaults to None: the largest divisor of a
            layer's channels that is at most 8 and leaves at least 4 channels in a
            group, else 1.
        name: str, name of the model.

    Returns:
        A functional `keras.Model`. Its layers have names that count from zero
        (`dense_0`, `norm_0`, `activation_0`, ..., `output`), so two builds are equal in
        names and variable paths. The outputs have no activation and are float32 under a
        mixed precision policy.

    Raises:
        ValueError: if a size is not positive, `widths` is empty, `norm` or
            `activation` is unknown, `dropout` is out of range, `affine` is set without
            `norm`, or `groups` does not fit.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
        2024, https://arxiv.org/abs/2402.18762: normalisation before every
        nonlinearity together with L2 of coefficient 1e-5.

    Deviations:
        The paper does not say how wide and deep its networks are, whether its layer
        normalisation learns a scale and offset, and whether biases and normalisation
        parameters are in the L2 term, which it writes over all parameters and in
        coupled form. Here only kernels are, and scale and offset are an option.
    """
    check_sizes("input_shape", input_shape)
    check_size("num_outputs", num_outputs)
    check_sizes("widths", widths)
    blocks = Blocks(
        norm, affine, activation, dropout, kernel_initializer, kernel_regularizer, groups
    )
    inputs = keras.Input(tuple(input_shape), name="input")
    x = inputs
    if len(input_shape) > 1:
        x = keras.layers.Flatten(name="flatten")(x)
    for width in widths:
        x = blocks.dropout(blocks.nonlinearity(blocks.dense(x, width)))
    return keras.Model(inputs, blocks.output(x, num_outputs), name=name)

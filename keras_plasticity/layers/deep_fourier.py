"""Deep Fourier features."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.layers.doubling import Doubling


@keras.saving.register_keras_serializable(package="keras_plasticity")
class DeepFourier(Doubling):
    """`concatenate([sin(x), cos(x)], axis)`: one of the two is always close to a line.

    Twice as many channels leave as enter. Lewandowski et al. halve the units before it, so
    that the network is as wide as with ReLU (and has fewer parameters): `Dense(128)`, then
    `DeepFourier()`, in place of `Dense(256, activation="relu")`. Left as they are, the units
    give a network twice as wide; see `CReLU`.

    Example:
    >>> DeepFourier()(np.zeros((1, 2), "float32")).numpy().tolist()
    [[0.0, 0.0, 1.0, 1.0]]

    Args:
        axis: int, of the channels. Default -1.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `axis` is no integer, or is 0.

    Reference:
        Lewandowski et al., "Plastic Learning with Deep Fourier Features", 2025,
        https://arxiv.org/abs/2410.20634.

    Deviations:
        None known. The paper puts it in every layer and regularises the weights beside it.
    """

    def halves(self, inputs: typing.Any) -> list:
        """Returns sine and cosine."""
        return [keras.ops.sin(inputs), keras.ops.cos(inputs)]

"""Concatenated ReLU."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.layers.doubling import Doubling


@keras.saving.register_keras_serializable(package="keras_plasticity")
class CReLU(Doubling):
    """`concatenate([relu(x), relu(-x)], axis)`: one of the two always passes the gradient.

    Twice as many channels leave as enter, so the layer that reads them has twice the
    weights. In comparisons control the capacity in one of two ways and say which:

    - as many units, and a wider network: `Dense(256)`, then `CReLU()`, gives 512 channels;
    - as many channels, and half the units: `Dense(128)`, then `CReLU()`, gives 256. Kumar et
      al. remove other shares (.09, .27, .31), which leave the number of parameters as it was.

    In `kp.models.mlp(widths=...)` the widths are those of units. Where a sum follows, as in
    residual blocks, the other branch has to have as many channels.

    Example:
    >>> CReLU()(np.array([[1.0, -2.0]], "float32")).numpy().tolist()
    [[1.0, 0.0, 0.0, 2.0]]

    Args:
        axis: int, of the channels. Default -1.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `axis` is no integer, or is 0.

    Reference:
        Abbas et al., "Loss of Plasticity in Continual Deep Reinforcement Learning", 2023,
        https://arxiv.org/abs/2303.07507; Shang et al., "Understanding and Improving
        Convolutional Neural Networks via Concatenated Rectified Linear Units", 2016,
        https://arxiv.org/abs/1603.05201.

    Deviations:
        None known.
    """

    def halves(self, inputs: typing.Any) -> list:
        """Returns the positive and the negative part."""
        return [keras.ops.relu(inputs), keras.ops.relu(-inputs)]

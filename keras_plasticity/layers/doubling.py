"""What activations share that give two values for each one."""

from __future__ import annotations

import typing

import keras


class Doubling(keras.layers.Layer):
    """Base of activations that make two channels of each: see `CReLU`.

    Args:
        axis: int, of the channels. Default -1.
        **kwargs: further arguments of `keras.layers.Layer`.
    """

    def __init__(self, axis: int = -1, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        if isinstance(axis, bool) or not isinstance(axis, int) or axis == 0:
            raise ValueError(
                "`axis` must be an integer other than 0, the axis of the batch. "
                f"Received: axis={axis!r}"
            )
        self.axis = axis

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        return keras.ops.concatenate(self.halves(inputs), self.axis)

    def halves(self, inputs: typing.Any) -> list:
        """Returns the two tensors that are joined, each of the shape of the inputs."""
        raise NotImplementedError

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        shape = list(input_shape)
        if shape[self.axis] is not None:
            shape[self.axis] *= 2
        return tuple(shape)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "axis": self.axis}

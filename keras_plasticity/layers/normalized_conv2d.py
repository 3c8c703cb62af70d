"""A convolution whose kernel keeps its norm, for normalise-and-project."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.layers.normalized_kernel import NormalizedKernel


@keras.saving.register_keras_serializable(package="keras_plasticity")
class NormalizedConv2D(NormalizedKernel, keras.layers.Conv2D):
    """A convolution whose kernel is used at the Frobenius norm it was born with.

    ```python
    outputs = activation(conv(inputs, kernel * radius / norm(kernel)) + bias)
    ```

    As `NormalizedDense`, where the use, the formula and the deviations are told.

    Args:
        filters: int, number of units.
        kernel_size: int or tuple of two, the window.
        activation: name or function, applied at the end. Default none.
        use_bias: bool. Default False: the offset belongs to the normalisation that follows.
        project: bool, whether the raw kernel goes back to its norm after each update. Default
            True.
        **kwargs: further arguments of `keras.layers.Conv2D`.

    Raises:
        ValueError: `kernel_constraint` is given together with `project`.

    Reference:
        Lyle et al., "Normalization and Effective Learning Rates in Reinforcement Learning",
        2024, https://arxiv.org/abs/2407.01800.
    """

    def __init__(
        self,
        filters: int,
        kernel_size: int | tuple[int, int],
        activation: typing.Any = None,
        use_bias: bool = False,
        project: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(filters, kernel_size, activation=activation, use_bias=use_bias, **kwargs)
        self._take_options(project)

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        outputs = self.convolution_op(inputs, self.normalized_kernel())
        if self.use_bias:
            shape = (1, 1, 1, -1) if self.data_format == "channels_last" else (1, -1, 1, 1)
            outputs = keras.ops.add(outputs, keras.ops.reshape(self.bias, shape))
        return outputs if self.activation is None else self.activation(outputs)

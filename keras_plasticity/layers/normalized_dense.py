"""A dense layer whose kernel keeps its norm, for normalise-and-project."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.layers.normalized_kernel import NormalizedKernel


@keras.saving.register_keras_serializable(package="keras_plasticity")
class NormalizedDense(NormalizedKernel, keras.layers.Dense):
    """A dense layer whose kernel is used at the Frobenius norm it was born with.

    Use it before a normalisation, where the scale of the kernel has no effect on the outputs
    but sets the effective learning rate: a kernel that grows learns ever more slowly. Do not
    use it as the output layer.

    ```python
    radius = norm(kernel)  # when it is built: a weight that is not trained
    outputs = activation(inputs @ (kernel * radius / norm(kernel)) + bias)
    kernel = kernel * radius / norm(kernel)  # after each update, with project=True
    ```

    Outputs do not depend on the scale of the raw `kernel`, and its gradient has no part along
    the kernel itself. What sets the size of steps is then the learning rate alone, so
    **give it a schedule**; weight decay of these kernels does nothing but change it.

    Example:
    >>> x = NormalizedDense(64)(keras.Input((10,)))
    >>> x = keras.layers.ReLU()(keras.layers.LayerNormalization()(x))

    Args:
        units: int, number of units.
        activation: name or function, applied at the end. Default none: the place before it
            belongs to the normalisation.
        use_bias: bool. Default False: the offset belongs to the normalisation, too.
        project: bool, whether the raw kernel goes back to its norm after each update, by a
            constraint of the variable. Without it the norm grows as under weight
            normalisation, and the effective learning rate falls. Default True.
        **kwargs: further arguments of `keras.layers.Dense`.

    Raises:
        ValueError: `kernel_constraint` is given together with `project`.

    Reference:
        Lyle et al., "Normalization and Effective Learning Rates in Reinforcement Learning",
        2024, https://arxiv.org/abs/2407.01800.

    Deviations:
        The paper projects weights after an update, now and then or each time; here the network
        never sees another norm than the first, also between a reset of units and the next
        update. A reset of some units scales the kernels of the others. The norm of learned
        scales and offsets of the normalisation, which the paper controls as well, is left to
        weight decay or to `affine=False`.
    """

    def __init__(
        self,
        units: int,
        activation: typing.Any = None,
        use_bias: bool = False,
        project: bool = True,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(units, activation=activation, use_bias=use_bias, **kwargs)
        self._take_options(project)

    def call(self, inputs: typing.Any, training: bool | None = None) -> typing.Any:
        """Computes the outputs."""
        x = keras.ops.matmul(inputs, self.normalized_kernel())
        if self.bias is not None:
            x = keras.ops.add(x, self.bias)
        return x if self.activation is None else self.activation(x)

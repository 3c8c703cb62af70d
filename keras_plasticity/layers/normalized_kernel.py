"""What layers share whose kernel is used at the norm it was born with."""

from __future__ import annotations

import typing

import keras

_TINY = 1e-30  # a kernel of zeros stays one, and so does its gradient


class NormalizedKernel:
    """Mixed into a Keras layer with a kernel, before it: see `NormalizedDense`."""

    add_weight: typing.Any
    compute_dtype: str
    kernel: typing.Any
    kernel_constraint: typing.Any
    project: bool

    def _take_options(self, project: bool) -> None:
        if project and self.kernel_constraint is not None:
            raise ValueError(
                "`kernel_constraint` must be None where the kernel is projected. "
                f"Received: kernel_constraint={self.kernel_constraint!r}, project={project!r}"
            )
        self.project = project

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        super().build(input_shape)  # type: ignore[misc]
        self.radius = self.add_weight(
            name="radius",
            shape=(),
            initializer=self.radius_initializer,
            trainable=False,
            autocast=False,
        )
        if self.project:
            self.kernel.constraint = Projection(self.radius)

    def radius_initializer(self, shape: tuple, dtype: typing.Any = None) -> typing.Any:
        """Returns the norm that the kernel has now."""
        norm = keras.ops.sqrt(squares(self.kernel))
        return norm if dtype is None else keras.ops.cast(norm, dtype)

    def normalized_kernel(self) -> typing.Any:
        """Returns the kernel that is used, in the compute dtype."""
        return keras.ops.cast(at_norm(self.kernel, self.radius), self.compute_dtype)

    def enable_lora(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        """Refuses: the norm of a sum is not that of its parts."""
        raise ValueError(f"{type(self).__name__} takes no LoRA: its kernel is used at one norm")

    def quantize(self, *args: typing.Any, **kwargs: typing.Any) -> None:
        """Refuses: the norm is taken of the kernel at every call."""
        raise ValueError(f"{type(self).__name__} is not quantized: its kernel is used at one norm")

    def save_own_variables(self, store: typing.Any) -> None:
        """Writes kernel, bias and norm."""
        keras.layers.Layer.save_own_variables(self, store)

    def load_own_variables(self, store: typing.Any) -> None:
        """Reads kernel, bias and norm."""
        keras.layers.Layer.load_own_variables(self, store)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "project": self.project}  # type: ignore[misc]


class Projection(keras.constraints.Constraint):
    """Puts a weight back to a norm after each update.

    Args:
        radius: the norm, a variable of the layer.
    """

    def __init__(self, radius: keras.Variable) -> None:
        self.radius = radius

    def __call__(self, w: typing.Any) -> typing.Any:
        """Returns the projected weight."""
        return keras.ops.cast(at_norm(w, self.radius), w.dtype)


def squares(kernel: typing.Any) -> typing.Any:
    """Returns the sum of squares of a weight, in float32 or better."""
    ops = keras.ops
    dtype = keras.backend.result_type(kernel.dtype, "float32")
    return ops.sum(ops.square(ops.cast(kernel, dtype)))


def at_norm(kernel: typing.Any, radius: typing.Any) -> typing.Any:
    """Returns `kernel * radius / ||kernel||_F`, in float32 or better.

    Args:
        kernel: floating-point tensor of any shape; one of zeros stays zero.
        radius: floating-point scalar.
    """
    ops = keras.ops
    total = squares(kernel)
    scale = ops.cast(radius, total.dtype) * ops.rsqrt(ops.maximum(total, _TINY))
    return ops.cast(kernel, total.dtype) * scale

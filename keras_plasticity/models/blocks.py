"""What the networks share: checked options, and layers with names that count from zero."""

from __future__ import annotations

import collections
import collections.abc
import inspect
import numbers
import typing

import keras

from keras_plasticity.layers import Dropout
from keras_plasticity.models.normalization import NORMS, normalization


class Blocks:
    """Adds the shared layers to one network; arguments as in `mlp`.

    Kinds of layers are counted apart: `dense_0`, `dense_1`, `norm_0`, ... A network
    built twice has the same names and variable paths, whatever else the process built.
    """

    def __init__(
        self,
        norm: typing.Any,
        affine: bool,
        activation: typing.Any,
        dropout: float,
        kernel_initializer: typing.Any,
        kernel_regularizer: typing.Any,
        groups: int | None,
    ) -> None:
        own = isinstance(norm, keras.layers.Layer)
        if norm is not None and not own and norm not in NORMS:
            raise ValueError(
                f"`norm` must be one of {(None, *NORMS)} or a layer. Received: norm={norm!r}"
            )
        if affine and (norm is None or own):
            raise ValueError(
                "`affine=True` needs a normalisation to scale. "
                f"Received: affine={affine!r}, norm={norm!r}"
            )
        if groups is not None and norm != "group":
            raise ValueError(
                f'`groups` is for norm="group". Received: groups={groups!r}, norm={norm!r}'
            )
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be in [0, 1). Received: dropout={dropout!r}")
        if groups is not None:
            check_size("groups", groups)
        if activation is None or isinstance(activation, str):
            try:
                keras.activations.get(activation)
            except ValueError as error:
                raise ValueError(
                    "`activation` must be a name known to keras.activations, a callable "
                    f"or a layer. Received: activation={activation!r}"
                ) from error
        self.norm = norm
        self.affine = affine
        self.activation: typing.Any = activation
        self.rate = dropout
        self.kernel_initializer = kernel_initializer
        self.kernel_regularizer = keras.regularizers.get(kernel_regularizer)
        self.groups = groups
        self._counts: dict[str, int] = collections.defaultdict(int)

    def name(self, kind: str) -> str:
        """Returns the next name of its kind: `dense_0`, `dense_1`, ..."""
        self._counts[kind] += 1
        return f"{kind}_{self._counts[kind] - 1}"

    def dense(self, x: typing.Any, units: int) -> typing.Any:
        """Adds a dense layer."""
        return keras.layers.Dense(units, name=self.name("dense"), **self._kernel_options())(x)

    def conv(
        self,
        x: typing.Any,
        filters: int,
        size: int = 3,
        strides: int = 1,
        padding: str = "same",
        name: str | None = None,
    ) -> typing.Any:
        """Adds a convolution with square kernels."""
        layer = keras.layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding=padding,
            name=name or self.name("conv"),
            **self._kernel_options(),
        )
        return layer(x)

    def output(self, x: typing.Any, units: int) -> typing.Any:
        """Adds the output layer, in full precision under a mixed policy."""
        dtype = keras.config.dtype_policy().variable_dtype
        return keras.layers.Dense(units, name="output", dtype=dtype, **self._kernel_options())(x)

    def nonlinearity(self, x: typing.Any) -> typing.Any:
        """Adds the activation, and directly before it the normalisation."""
        x = self.normalize(x, self.name("norm"))
        name = self.name("activation")
        activation = self.activation
        if inspect.isclass(activation) and issubclass(activation, keras.layers.Layer):
            layer_class: typing.Any = activation
            return layer_class(name=name)(x)
        if isinstance(activation, keras.layers.Layer):
            # One copy per place: a shared layer would share its parameters.
            return type(activation).from_config({**activation.get_config(), "name": name})(x)
        return keras.layers.Activation(activation, name=name)(x)

    def normalize(self, x: typing.Any, name: str) -> typing.Any:
        """Adds the normalisation, if there is one."""
        if self.norm is None:
            return x
        return normalization(self.norm, x.shape, self.affine, name, self.groups)(x)

    def dropout(self, x: typing.Any) -> typing.Any:
        """Adds dropout, if its rate is above zero."""
        return Dropout(self.rate, name=self.name("dropout"))(x) if self.rate > 0 else x

    def add(self, x: typing.Any, y: typing.Any) -> typing.Any:
        """Adds the sum of two branches."""
        return keras.layers.Add(name=self.name("add"))([x, y])

    def _kernel_options(self) -> dict[str, typing.Any]:
        initializer = keras.initializers.get(self.kernel_initializer)
        if isinstance(initializer, keras.initializers.Initializer):
            # An instance has one seed: shared, it would draw equal kernels for equal shapes.
            config = initializer.get_config()
            seed = config.get("seed", "none of its own")
            if isinstance(seed, int):
                config["seed"] = seed + self._counts["kernel"]
            if seed is None or isinstance(seed, int):
                initializer = type(initializer).from_config(config)
            self._counts["kernel"] += 1
        return {
            "kernel_initializer": initializer,
            "kernel_regularizer": self.kernel_regularizer,
        }


def check_size(argument: str, size: typing.Any) -> None:
    """Raises ValueError unless `size` is a positive integer."""
    if isinstance(size, bool) or not isinstance(size, numbers.Integral) or size <= 0:
        raise ValueError(f"`{argument}` must be a positive integer. Received: {argument}={size!r}")


def check_sizes(argument: str, sizes: typing.Any, empty: bool = False) -> None:
    """Raises ValueError unless `sizes` is a sequence of positive integers."""
    valid = isinstance(sizes, collections.abc.Sequence) and not isinstance(sizes, str)
    try:
        if not valid or not (sizes or empty):
            raise ValueError
        for size in sizes:
            check_size(argument, size)
    except ValueError:
        raise ValueError(
            f"`{argument}` must be a {'possibly empty' if empty else 'non-empty'} tuple of "
            f"positive integers. Received: {argument}={sizes!r}"
        ) from None


def check_image_shape(input_shape: typing.Any) -> None:
    """Raises ValueError unless `input_shape` is (height, width, channels)."""
    check_sizes("input_shape", input_shape)
    if len(input_shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels), without the batch axis. "
            f"Received: input_shape={input_shape!r}"
        )

"""A learnable rational function as activation."""

from __future__ import annotations

import typing

import keras

# |x| ~ (e0 + e2 x^2 + e4 x^4) / (1 + b2 x^2 + b4 x^4) by least squares on 3001 points of
# [-3, 3]. The same five numbers give every leaky ReLU, see `coefficients`; no other start of
# a free search over all ten coefficients found a better ReLU (tests/layers/test_rational.py).
_E0, _E2, _E4 = 0.06781431, 3.33923097, 1.88082246
_B2, _B4 = 3.97768907, 0.30144153


@keras.saving.register_keras_serializable(package="keras_plasticity")
class Rational(keras.layers.Layer):
    """A quotient of polynomials whose coefficients are learned, one function for the layer.

    ```python
    p = a[0] + a[1] * x + ... + a[5] * x**5
    q = b[0] * x + b[1] * x**2 + b[2] * x**3 + b[3] * x**4
    outputs = p / (1 + abs(q))  # never divides by less than 1
    ```

    It begins as a leaky ReLU of slope `negative_slope` below zero, fitted on [-3, 3]: for
    ReLU the error there is 0.006 in the root mean square and 0.034 at most, at zero. Beyond,
    it bends away from it (at -10 by 2.2), so **let a normalisation stand before it**. As other
    layers with weights it wants a place of its own in the network: as the `activation` of
    another layer its weights are made at the first call only.

    Example:
    >>> x = keras.layers.Dense(64)(keras.Input((10,)))
    >>> x = Rational()(keras.layers.LayerNormalization()(x))

    Args:
        negative_slope: float, of the leaky ReLU it begins as; 0 for ReLU. Default 0.01.
        **kwargs: further arguments of `keras.layers.Layer`.

    Raises:
        ValueError: `negative_slope` is no finite number.

    Reference:
        Delfosse et al., "Adaptive Rational Activations to Boost Deep Reinforcement Learning",
        2024, https://arxiv.org/abs/2102.09407; the form of the denominator: Molina et al.,
        "Pade Activation Units", 2020, https://arxiv.org/abs/1907.06732.

    Deviations:
        The first coefficients are a fit of our own. One function for several layers, the
        "joint" form of the paper, is one `Rational` that is called several times. Computed in
        float32 or better: powers overflow half precision.
    """

    def __init__(self, negative_slope: float = 0.01, **kwargs: typing.Any) -> None:
        super().__init__(**kwargs)
        if not abs(negative_slope) < float("inf"):
            raise ValueError(
                "`negative_slope` must be a finite number. "
                f"Received: negative_slope={negative_slope!r}"
            )
        self.negative_slope = float(negative_slope)
        self.supports_masking = True

    def build(self, input_shape: tuple) -> None:
        """Makes the variables."""
        numerator, denominator = coefficients(self.negative_slope)
        self.numerator = self._coefficients("numerator", numerator)
        self.denominator = self._coefficients("denominator", denominator)
        self.built = True

    def _coefficients(self, name: str, values: list[float]) -> keras.Variable:
        return self.add_weight(
            name=name,
            shape=(len(values),),
            initializer=lambda shape, dtype=None: keras.ops.array(values, dtype),
            autocast=False,
        )

    def call(self, inputs: typing.Any) -> typing.Any:
        """Computes the outputs."""
        outputs = rational(inputs, self.numerator, self.denominator)
        return keras.ops.cast(outputs, self.compute_dtype)

    def compute_output_shape(self, input_shape: tuple) -> tuple:
        """Returns the shape of the outputs."""
        return input_shape

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "negative_slope": self.negative_slope}


def coefficients(negative_slope: float) -> tuple[list[float], list[float]]:
    """Returns numerator and denominator of a leaky ReLU on [-3, 3], from degree 0 and 1.

    With `e / d` for `abs(x)`, where `d = 1 + q` is at least 1, a leaky ReLU of slope `s` is
    `((1 + s) * x + (1 - s) * e / d) / 2 = ((1 + s) * x * d + (1 - s) * e) / (2 * d)`.
    """
    odd, even = (1 + negative_slope) / 2, (1 - negative_slope) / 2
    numerator = [even * _E0, odd, even * _E2, odd * _B2, even * _E4, odd * _B4]
    return numerator, [0.0, _B2, 0.0, _B4]


def rational(x: typing.Any, numerator: typing.Any, denominator: typing.Any) -> typing.Any:
    """Returns `p(x) / (1 + abs(q(x)))`, in float32 or better.

    Args:
        x: floating-point tensor.
        numerator: float, shape `(m + 1,)`, from degree 0.
        denominator: float, shape `(n,)`, from degree 1.
    """
    ops = keras.ops
    x = ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
    p = _horner(x, ops.unstack(ops.cast(numerator, x.dtype)))
    q = x * _horner(x, ops.unstack(ops.cast(denominator, x.dtype)))
    return p / (1 + ops.abs(q))


def _horner(x: typing.Any, values: list) -> typing.Any:
    *rest, total = values
    for value in reversed(rest):
        total = total * x + value
    return total

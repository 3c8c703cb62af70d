"""Attention between queries and keys of one length."""

from __future__ import annotations

import math
import typing

import keras

from keras_plasticity.layers.unit_ball import unit_length

NORMS = ("l2", "layer")


@keras.saving.register_keras_serializable(package="keras_plasticity")
class NormalizedAttention(keras.layers.MultiHeadAttention):
    """Multi-head attention with normalised queries and keys and a learned temperature.

    Scores are bounded by the temperature, however far queries and keys grow, so the softmax
    does not saturate by their growth.

    ```python
    q, k = q / norm(q), k / norm(k)  # per head; norm="layer": their means are taken off first
    outputs = softmax(temperature * q @ k.T) @ v
    ```

    With `norm="layer"` and the temperature at its start this is layer normalisation, without
    scale and offset, of queries and keys in plain attention.

    Example:
    >>> x = keras.Input((16, 32))
    >>> y = NormalizedAttention(num_heads=4, key_dim=8)(x, x)

    Args:
        num_heads: int, number of heads.
        key_dim: int, size of a query and a key.
        norm: `"l2"` or `"layer"`. Default `"l2"`.
        temperature: float, what the learned factor of the cosines begins with, one for all
            heads. Default `sqrt(key_dim)`: scores then begin as far apart as in plain
            attention between queries and keys of variance 1.
        **kwargs: further arguments of `keras.layers.MultiHeadAttention`.

    Raises:
        ValueError: `norm` is none of these, or `temperature` is not positive.

    Reference:
        Henry et al., "Query-Key Normalization for Transformers", 2020,
        https://arxiv.org/abs/2010.04245; for `"layer"`: Dehghani et al., "Scaling Vision
        Transformers to 22 Billion Parameters", 2023, https://arxiv.org/abs/2302.05442.

    Deviations:
        Henry et al. begin with a temperature of `log2(n**2 - n)` for sequences of length `n`:
        pass it as `temperature`. Dehghani et al. learn scales within the normalisation and
        have no temperature.
    """

    def __init__(
        self,
        num_heads: int,
        key_dim: int,
        norm: str = "l2",
        temperature: float | None = None,
        **kwargs: typing.Any,
    ) -> None:
        super().__init__(num_heads, key_dim, **kwargs)
        if norm not in NORMS:
            raise ValueError(f"`norm` must be one of {NORMS}. Received: norm={norm!r}")
        if temperature is not None and not temperature > 0:
            raise ValueError(
                f"`temperature` must be positive or None. Received: temperature={temperature!r}"
            )
        self.norm = norm
        self.first_temperature = temperature

    def build(self, query_shape: tuple, value_shape: tuple, key_shape: tuple | None = None) -> None:
        """Makes the variables."""
        super().build(query_shape, value_shape, key_shape)
        first = (
            math.sqrt(self.key_dim) if self.first_temperature is None else self.first_temperature
        )
        self.temperature = self.add_weight(
            name="temperature",
            shape=(),
            initializer=keras.initializers.Constant(first),
            autocast=False,
        )

    def _compute_attention(
        self,
        query: typing.Any,
        key: typing.Any,
        value: typing.Any,
        *args: typing.Any,
        **kwargs: typing.Any,
    ) -> typing.Any:
        # Keras invites to override this method. It divides by the root of `key_dim` itself.
        factor = self.temperature * math.sqrt(self.key_dim)
        dtype = query.dtype
        query = keras.ops.cast(self._normalized(query) * factor, dtype)
        key = keras.ops.cast(self._normalized(key), dtype)
        return super()._compute_attention(query, key, value, *args, **kwargs)

    def _normalized(self, x: typing.Any) -> typing.Any:
        x = keras.ops.cast(x, keras.backend.result_type(x.dtype, "float32"))
        if self.norm == "layer":
            x = x - keras.ops.mean(x, axis=-1, keepdims=True)
        return unit_length(x, -1, 1e-6)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        own = {"norm": self.norm, "temperature": self.first_temperature}
        return {**super().get_config(), **own}

"""Cross-entropy of class labels with label smoothing and a price on large logits."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops

from keras_plasticity.losses.shapes import at_least_float32


@keras.saving.register_keras_serializable(package="keras_plasticity")
class SmoothedSparseCategoricalCrossentropy(keras.losses.Loss):
    """Cross-entropy on logits of integer labels, smoothed, with a price on large logits.

    Use it where logits grow until the softmax saturates, and a later change of labels meets
    gradients of zero and losses that spike. Keras has `label_smoothing` for one-hot labels
    alone. With both at 0 it is `keras.losses.SparseCategoricalCrossentropy(from_logits=True)`.

    ```python
    target = (1 - smoothing) * one_hot(y) + smoothing / classes
    loss = -sum(target * log_softmax(logits)) + logit_penalty * sum(logits**2)
    ```

    Smoothing bounds the margin at which the loss is least: `log((1 - a + a/C) / (a/C))`, 4.5
    for 0.1 and ten classes.

    Args:
        smoothing: float in [0, 1). Default 0.1.
        logit_penalty: float, at least 0. Default 0.0.
        reduction: as in Keras. Default `"sum_over_batch_size"`.
        name: str. Default `"smoothed_sparse_categorical_crossentropy"`.
        dtype: as in Keras. Default None. Computed in float32 at least.

    Raises:
        ValueError: an argument is out of its range.

    References:
        Smoothing: Szegedy et al., "Rethinking the Inception Architecture for Computer Vision",
        2016, https://arxiv.org/abs/1512.00567, section 7; against spikes of a saturated
        softmax: Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
        2024, https://arxiv.org/abs/2402.18762, who do not say how much; 0.1 is that of Szegedy
        et al. Penalty on logits: Kornblith et al., "Why Do Better Loss Functions Lead to Less
        Transferable Features?", 2021, https://arxiv.org/abs/2010.16402.
    """

    def __init__(
        self,
        smoothing: float = 0.1,
        logit_penalty: float = 0.0,
        reduction: str | None = "sum_over_batch_size",
        name: str | None = "smoothed_sparse_categorical_crossentropy",
        dtype: typing.Any = None,
    ) -> None:
        super().__init__(name=name, reduction=reduction, dtype=dtype)
        if not 0 <= smoothing < 1:
            raise ValueError(
                f"`smoothing` must be at least 0 and below 1. Received: smoothing={smoothing!r}"
            )
        if not 0 <= logit_penalty < math.inf:
            raise ValueError(
                f"`logit_penalty` must be at least 0. Received: logit_penalty={logit_penalty!r}"
            )
        self.smoothing, self.logit_penalty = smoothing, logit_penalty

    def call(self, y_true: typing.Any, y_pred: typing.Any) -> typing.Any:
        """Returns the loss of each example, shape `(...,)`.

        Args:
            y_true: labels, shape `(...,)` or `(..., 1)`.
            y_pred: logits, shape `(..., classes)`.
        """
        logits, labels = at_least_float32(y_pred), ops.convert_to_tensor(y_true)
        if len(labels.shape) == len(logits.shape) and labels.shape[-1] == 1:
            labels = ops.squeeze(labels, -1)
        loss = ops.sparse_categorical_crossentropy(
            ops.cast(labels, "int32"), logits, from_logits=True
        )
        if self.smoothing:
            everywhere = -ops.mean(ops.log_softmax(logits, axis=-1), axis=-1)
            loss = (1 - self.smoothing) * loss + self.smoothing * everywhere
        if self.logit_penalty:
            loss = loss + self.logit_penalty * ops.sum(ops.square(logits), axis=-1)
        return loss

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        own = {"smoothing": self.smoothing, "logit_penalty": self.logit_penalty}
        return {**super().get_config(), **own}

"""AdamW that decays kernels and leaves everything else alone."""

from __future__ import annotations

import collections.abc
import typing

import keras

EXCLUDED = ("bias", "gamma", "beta", "scale", "offset", "embeddings")


def adamw(
    learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
    weight_decay: float = 1e-4,
    exclude: collections.abc.Sequence[str] = EXCLUDED,
    **kwargs: typing.Any,
) -> keras.optimizers.AdamW:
    """Makes Adam with decoupled weight decay on kernels alone.

    Use it where Adam should pull kernels towards zero, apart from the loss and from
    the moments, and leave biases, normalisation parameters and embeddings alone.

    ```python
    w = w - learning_rate * weight_decay * w  # variables that are not excluded
    w = w - learning_rate * m / (sqrt(v) + epsilon)  # all; m, v: corrected moments
    ```

    **The decay is multiplied by the learning rate.** In 10,000 steps kernels without
    a gradient shrink by `(1 - learning_rate * weight_decay) ** 10_000`:

    | learning_rate | weight_decay | after 10,000 steps |
    | --- | --- | --- |
    | 1e-3 | 1e-5 | 0.99990, a placebo |
    | 1e-3 | 1e-4 (default) | 0.9990 |
    | 1e-3 | 1e-2 | 0.905 |
    | 1e-3 | 1e-1 | 0.368 |

    Coupled L2 is another method: `kernel_regularizer=keras.regularizers.L2(c)` adds
    `2 * c * w` to the gradient, which then passes through the moments. Adam divides
    by its size, so kernels whose gradient from the loss is small shrink by up to
    `learning_rate` a step whatever `c` is, and those with large gradients hardly. A
    coefficient of the one means nothing for the other, and papers that decay by
    `Adam(weight_decay=...)` of PyTorch used the coupled one.

    Example:
    >>> optimizer = adamw(1e-3, weight_decay=1e-2)

    Args:
        learning_rate: float or schedule, per step. Defaults to 1e-3.
        weight_decay: float, times the learning rate the share of a kernel that is
            taken off per step. Defaults to 1e-4.
        exclude: regular expressions; a variable of which one matches the whole name
            is not decayed. The name is the last part of the path: `"scale"` excludes
            `norm/scale` and neither `rescale_dense/kernel` nor `scale/kernel`.
            Defaults to the names Keras gives to biases, scales and offsets of
            normalisations, and embeddings (`embeddings`, with the position
            embeddings of `models.vit`); variables that a layer of yours names
            otherwise are decayed.
        **kwargs: further arguments of `keras.optimizers.AdamW`.

    Returns:
        A `keras.optimizers.AdamW` that keeps `exclude` when it is saved.

    Raises:
        ValueError: if `weight_decay` is negative or `exclude` is a string.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
        https://arxiv.org/abs/1711.05101, Algorithm 2.

    Deviations:
        As in Keras, the decay is multiplied by the learning rate itself, not by the
        paper's schedule multiplier, and is taken before the step of Adam.
    """
    return SelectiveAdamW(learning_rate, weight_decay, exclude=exclude, **kwargs)


@keras.saving.register_keras_serializable(package="keras_plasticity")
class SelectiveAdamW(keras.optimizers.AdamW):
    """`keras.optimizers.AdamW` that knows in its config what it does not decay.

    Keras' own forgets `exclude_from_weight_decay` when a model is saved and loaded.

    Args:
        learning_rate: see `adamw`.
        weight_decay: see `adamw`.
        exclude: see `adamw`.
        **kwargs: further arguments of `keras.optimizers.AdamW`.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        weight_decay: float = 1e-4,
        exclude: collections.abc.Sequence[str] = EXCLUDED,
        **kwargs: typing.Any,
    ) -> None:
        if not weight_decay >= 0:
            raise ValueError(
                f"`weight_decay` must not be negative. Received: weight_decay={weight_decay!r}"
            )
        if isinstance(exclude, str):
            raise ValueError(
                f"`exclude` must be a list or tuple of strings. Received: exclude={exclude!r}"
            )
        super().__init__(learning_rate, weight_decay=weight_decay, **kwargs)
        self.exclude = tuple(exclude)
        if self.exclude:
            # Keras searches in the name on some backends and in the path with ":0" at its
            # end on TensorFlow, so "scale" alone would find "rescale_dense/kernel:0".
            names = "|".join(f"(?:{pattern})" for pattern in self.exclude)
            self.exclude_from_weight_decay(var_names=[rf"(?:^|/)(?=[^/]*$)(?:{names})(?::\d+)?$"])

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {**super().get_config(), "exclude": list(self.exclude)}

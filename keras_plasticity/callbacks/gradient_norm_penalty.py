"""A penalty on the norm of the gradient, as a step of its own."""

from __future__ import annotations

import math

import keras
import tensorflow as tf

from keras_plasticity.batch_loss import loss_gradients
from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import StepOutputs
from keras_plasticity.layers.pop_art import PopArt
from keras_plasticity.surgery import weights


class GradientNormPenalty(Intervention):
    """Steps down the norm of the gradient, beside the step of the optimizer.

    Use it as the landscape-oriented baseline: it draws weights to where the loss is flat.

    ```python
    penalty = strength / 2 * sum(g**2)  # g: gradient of the batch's loss after the update
    w = w - learning_rate * strength * H @ g  # H: Hessian of that loss
    ```

    `H @ g` is the slope of the gradient along itself, by central differences:
    `(gradient(w + r * g / norm(g)) - gradient(w - r * g / norm(g))) * norm(g) / (2 * r)` with
    `r = radius * norm(w)`. It takes three gradients, so a step costs about four times that of
    plain training. The loss is that in inference mode without penalties. What is not finite
    (overflow in half precision) is not applied.

    Example:

    ```python
    kp.callbacks.GradientNormPenalty(1e-2)
    ```

    Args:
        strength: float, at least 0; with 0 the run is the plain one. Default 1e-2.
        period: int, steps from one act to the next; None for never. Default 1.
        radius: float above 0, length of the differences as a share of the norm of all weights.
            Default 1e-3.

    Raises:
        ValueError: an argument is out of its range, or the model has a `kp.layers.PopArt`,
            whose gradient in inference mode, in units of the targets, is not that of training.

    Reference:
        Barrett and Dherin, "Implicit Gradient Regularization", 2021,
        https://arxiv.org/abs/2009.11162. By differences of gradients: Zhao et al., "Penalizing
        Gradient Norm for Efficiently Improving Generalization in Deep Learning", 2022,
        https://arxiv.org/abs/2202.03599. As a baseline: Lyle et al., "Disentangling the Causes
        of Plasticity Loss in Neural Networks", 2024, https://arxiv.org/abs/2402.18762.

    Deviations:
        It is decoupled: it does not pass through the moments of the optimizer, and is taken at
        the weights after the update. Zhao et al. penalise the norm and not its square, in the
        loss, by forward differences.
    """

    def __init__(self, strength: float = 1e-2, period: int | None = 1, radius: float = 1e-3):
        super().__init__(period, "step")
        if not (isinstance(strength, (int, float)) and 0 <= strength < math.inf):
            raise ValueError(f"`strength` must be at least 0. Received: strength={strength!r}")
        if not (isinstance(radius, (int, float)) and 0 < radius < math.inf):
            raise ValueError(f"`radius` must be above 0. Received: radius={radius!r}")
        self.strength, self.radius = strength, radius

    def build(self, model):
        super().build(model)
        found = [layer.name for layer in model._flatten_layers() if isinstance(layer, PopArt)]
        if self.acts and found:
            raise ValueError(
                "`GradientNormPenalty` takes the gradient in inference mode, which `PopArt` does "
                "not divide by sigma**2: the model must have no such layer. "
                f"Received: a model with {found}"
            )
        self._weights = weights.Borrowed(model.trainable_variables)
        self.count(["network"])

    @property
    def acts(self) -> bool:
        return super().acts and self.strength > 0

    def act(self, outputs: StepOutputs):
        variables = list(self._weights)
        x, y, sample_weight = outputs.x, outputs.y, outputs.sample_weight

        def gradients():
            return loss_gradients(self.model, variables, x, y, sample_weight)

        products = gradient_slope(variables, gradients, self.radius)
        finite = tf.reduce_all([tf.reduce_all(tf.math.is_finite(h)) for h in products])
        rate = tf.cast(self.model.optimizer.learning_rate, tf.float32) * self.strength
        for variable, product in zip(variables, products, strict=True):
            step = tf.where(finite, rate * product, tf.zeros_like(product))
            variable.assign_sub(tf.cast(step, variable.dtype))
        self.counts.assign_add([1])

    def get_config(self) -> dict:
        return {"strength": self.strength, "period": self.period, "radius": self.radius}


def gradient_slope(variables: list[keras.Variable], gradients, radius: float) -> list[tf.Tensor]:
    """Returns the Hessian times the gradient, float32; the weights are as before.

    Args:
        variables: weights.
        gradients: function that returns the gradients at their present values.
        radius: float, see `GradientNormPenalty`.
    """
    start = [tf.identity(variable.value) for variable in variables]
    slope = gradients()
    norm = tf.linalg.global_norm(slope)
    length = radius * tf.linalg.global_norm([tf.cast(w, tf.float32) for w in start])
    scale = tf.math.divide_no_nan(length, norm)
    sides = []
    for sign in (1.0, -1.0):
        for variable, w, g in zip(variables, start, slope, strict=True):
            variable.assign(w + tf.cast(sign * scale * g, w.dtype))
        sides.append(gradients())
    for variable, w in zip(variables, start, strict=True):
        variable.assign(w)
    factor = tf.math.divide_no_nan(1.0, 2 * scale)
    return [(a - b) * factor for a, b in zip(*sides, strict=True)]

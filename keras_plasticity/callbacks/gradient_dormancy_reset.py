"""ReGraMa: recycles units whose weights get next to no gradient."""

from __future__ import annotations

import typing

import tensorflow as tf

from keras_plasticity.batch_loss import loss_gradients
from keras_plasticity.callbacks.redo import ReDo
from keras_plasticity.hooks import StepOutputs
from keras_plasticity.units import UnitGroup


class GradientDormancyReset(ReDo):
    """Recycles units that learn next to nothing, whatever their activation.

    Use it in place of `ReDo` where activations say little: units of smooth activations,
    behind normalisations, or that fire without learning. A unit is dormant if the gradient
    of its incoming weights is small beside its layer's:

    ```python
    score = mean(abs(d loss / d W_in))  # per unit, over its incoming weights
    dormant = score / mean(score, units) <= threshold
    ```

    Dormant units are recycled as in `ReDo`.

    Example:

    ```python
    model.fit(x, y, callbacks=[kp.callbacks.GradientDormancyReset(period=1000)])
    ```

    Args:
        period: int, `unit`s from one reset to the next; None for never. Default 1000.
        threshold: float, units at or below this score are dormant. Default 0.01.
        unit: `"step"`, `"epoch"` or `"task"`; see `ReDo`. Default `"step"`.
        batches: int, batches in a row over which scores are averaged. Default 4, or
            `period` steps if that is less.
        max_fraction: float, at most this share of a layer's units is reset at once; 0
            switches the method off. Default 1.
        layers: names of layers, see `kp.unit_groups(model)`. Default: all that can be.
        groups: `UnitGroup`s made by hand, for a model without a graph.
        seed: int, of the new weights. Default 0.

    Raises:
        ValueError: an argument is out of its range, or nothing can be reset.

    Reference:
        Liu et al., "Measure gradients, not activations! Enhancing neuronal activity in deep
        reinforcement learning" (GraMa, ReGraMa), 2025, https://arxiv.org/abs/2505.24061.

    Deviations:
        Gradients are those of the batch's loss without penalties, in inference mode and at
        the weights after the step, not those of the step itself; absolute values are taken
        per batch and averaged over `batches`. Biases do not count in the score. A layer whose
        gradients all vanish, as on a batch that is fitted perfectly, is left alone.
    """

    def __init__(
        self,
        period: int | None = 1000,
        threshold: float = 0.01,
        unit: str = "step",
        batches: int | None = None,
        max_fraction: float = 1.0,
        layers: typing.Sequence[str] | None = None,
        groups: typing.Sequence[UnitGroup] | None = None,
        seed: int = 0,
    ):
        super().__init__(period, threshold, unit, batches, max_fraction, layers, groups, seed)

    def activity(self, outputs: StepOutputs) -> list[tf.Tensor]:
        """Returns per group the mean absolute gradient of each unit, shape `(size,)`."""
        kernels = [group.incoming[0] for group in self._groups]
        variables = [part.variable for part in kernels]
        gradients = loss_gradients(
            self.model, variables, outputs.x, outputs.y, outputs.sample_weight
        )
        return [
            part.reduce(tf.abs(tf.cast(gradient, tf.float32)))
            for part, gradient in zip(kernels, gradients, strict=True)
        ]

    def dormant(self, activity: tf.Tensor) -> tf.Tensor:
        return super().dormant(activity) & (tf.reduce_mean(activity) > 0)

"""Selective weight reinitialisation: draws the least useful single weights anew."""

from __future__ import annotations

import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity import surgery
from keras_plasticity.batch_loss import loss_gradients
from keras_plasticity.callbacks.batch_intervention import BatchIntervention
from keras_plasticity.hooks import StepOutputs
from keras_plasticity.surgery import weights

UTILITIES = ("gradient", "magnitude", "random")


class SelectiveWeightReinit(BatchIntervention):
    """Draws a small share of single weights anew, those of the least utility.

    Use it in small networks and in networks with layer normalisation, where resetting whole
    units is too coarse. Per weight variable, every `period`:

    ```python
    utility = abs(gradient * weight)  # "gradient"; abs(weight) for "magnitude"
    credit += share * size; k = floor(credit); credit -= k
    weight[k smallest utilities] = draw of the layer's own initializer
    ```

    What the optimizer keeps for these weights goes back to its start.

    Example:

    ```python
    model.fit(x, y, callbacks=[kp.callbacks.SelectiveWeightReinit(period=100, share=1e-3)])
    ```

    Args:
        period: int, `unit`s from one reinitialisation to the next; None for never.
            Default 100.
        share: float in [0, 1], share of each variable's weights. Default 1e-3. 0 switches
            the method off.
        utility: `"gradient"`, `"magnitude"` or `"random"`. Default `"gradient"`.
        kernels_only: bool, whether biases, scales and offsets are left alone. Default True.
        unit: `"step"`, `"epoch"` or `"task"`; at epochs and tasks the utility is that of the
            next one's first batch. Default `"step"`.
        layers: names of layers. Default: all.
        seed: int, of the new weights. Default 0.

    Raises:
        ValueError: an argument is out of its range, or no weight can be reinitialised.

    Reference:
        Hernandez-Garcia, Dohare, Luo, Sutton, "Reinitializing weights vs units for
        maintaining plasticity in neural networks", 2025, https://arxiv.org/abs/2508.00212.

    Deviations:
        The number of weights is exact over time, where the published code draws its
        fraction at random. Gradients are those of the batch's loss without penalties, in
        inference mode, after the step. Only the proportional choice with fresh draws is
        offered. Defaults are ours.
    """

    def __init__(
        self,
        period: int | None = 100,
        share: float = 1e-3,
        utility: str = "gradient",
        kernels_only: bool = True,
        unit: str = "step",
        layers: typing.Sequence[str] | None = None,
        seed: int = 0,
    ):
        super().__init__(period, unit, 1, seed)
        if not 0 <= share <= 1:
            raise ValueError(f"`share` must lie in [0, 1]. Received: share={share}")
        if utility not in UTILITIES:
            raise ValueError(f"`utility` must be one of {UTILITIES}. Received: utility={utility!r}")
        self.share, self.utility = share, utility
        self.kernels_only, self.layers = kernels_only, layers

    def build(self, model):
        super().build(model)
        self._by = weights.initializers(model)
        chosen = {
            f"{name}/{variable.name}": variable
            for name, layer in weights.select_layers(model, self.layers).items()
            for variable in weights.float_variables(layer, trainable=True)
            if id(variable) in self._by and (weights.is_kernel(variable) or not self.kernels_only)
        }
        if not chosen:
            raise ValueError(f"No weight of model {model.name!r} can be reinitialised.")
        self.count(list(chosen))
        self._weights = weights.Borrowed(chosen.values())
        self._sizes = np.array([np.prod(w.shape) for w in self._weights], np.float32)
        self._credit = keras.Variable(np.zeros_like(self._sizes), trainable=False, name="credit")

    def bind_optimizer(self, model):
        self._slots = surgery.slots(model.optimizer)

    @property
    def acts(self) -> bool:
        return super().acts and self.share > 0

    def reset(self, outputs: StepOutputs):
        seed = self.next_seed()
        credit = self._credit + self.share * self._sizes
        counts = tf.floor(credit)
        self._credit.assign(credit - counts)
        utilities = self.utilities(outputs, self._weights, seed)
        for i, (variable, utility) in enumerate(zip(self._weights, utilities, strict=True)):
            mask = surgery.smallest(utility, tf.cast(counts[i], tf.int32))
            initializer = self._by[id(variable)]
            at = surgery.fold(seed, 2 * i)
            values = surgery.draw(initializer, variable.shape, variable.dtype, at)
            slots = self._slots.get(id(variable), ())
            surgery.replace_entries(variable, mask, values, slots)
        self.counts.assign_add(tf.cast(counts, tf.int64))

    def utilities(self, outputs: StepOutputs, variables: list, seed: tf.Tensor) -> list:
        """Returns the utility of every weight: float32 tensors of the weights' shapes."""
        if self.utility == "random":
            folds = [surgery.fold(seed, 2 * i + 1) for i in range(len(variables))]
            pairs = zip(variables, folds, strict=True)
            return [surgery.uniform(variable.shape, at) for variable, at in pairs]
        sizes = [tf.abs(tf.cast(variable.value, tf.float32)) for variable in variables]
        if self.utility == "magnitude":
            return sizes
        gradients = loss_gradients(
            self.model, variables, outputs.x, outputs.y, outputs.sample_weight
        )
        return [s * tf.abs(tf.cast(g, tf.float32)) for s, g in zip(sizes, gradients, strict=True)]

    def get_config(self) -> dict:
        return {
            "period": self.period,
            "share": self.share,
            "utility": self.utility,
            "kernels_only": self.kernels_only,
            "unit": self.unit,
            "layers": self.layers,
            "seed": self.seed,
        }

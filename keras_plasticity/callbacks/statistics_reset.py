"""What happens to running statistics at a task switch."""

from __future__ import annotations

import logging
import typing

import keras
import tensorflow as tf

from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import Clock, StepOutputs
from keras_plasticity.layers import CenterScale
from keras_plasticity.surgery import weights
from keras_plasticity.units.trace import Trace, graph_of

_LOG = logging.getLogger("keras_plasticity")
_TO = ("first_batch", "initial")
_NEVER = 2**30  # updates


class StatisticsReset(Intervention):
    """Gives running means and variances a new start at the begin of a task.

    Use it with `keras.layers.BatchNormalization` and `kp.layers.CenterScale`, whose
    statistics are those of the task before until `1 / (1 - momentum)` updates are over. They
    are read in inference alone (and with `renorm=True`): training is not changed by it,
    evaluation soon after a switch is.

    ```python
    moving = batch  # to="first_batch": after the first update of the task, its statistics
    moving = initializer(shape)  # to="initial": mean 0, variance 1, before the first update
    moving = moving  # period=None: they are kept, the plain run
    ```

    With `"first_batch"` the statistics of the old task stay until that update is over, and its
    batch is found from what the update did to them: `(new - momentum * old) / (1 -
    momentum)`, exact to about 1e-7 / (1 - momentum) of the old ones.

    Example:

    ```python
    kp.callbacks.StatisticsReset()  # the first batch of every task
    ```

    Args:
        period: int, tasks from one reset to the next; None for never. Default 1.
        to: `"first_batch"` or `"initial"`. Default `"first_batch"`.
        layers: names of layers, others are left alone. Default: all that have running
            statistics and are not frozen.

    Raises:
        ValueError: an argument is out of its range, or no layer has running statistics.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762, name the statistics of the old task as a weakness of
        batch normalisation. What to do about them is ours.

    Deviations:
        With `"first_batch"`, layers that renormalise (`renorm=True`), whose momentum is 1, or
        that the model calls at several places, where one training step moves statistics several
        times, are left alone, with a line in the log. Calls are counted in functional and
        sequential models; of others one call is taken for granted.
    """

    def __init__(
        self,
        period: int | None = 1,
        to: str = "first_batch",
        layers: typing.Sequence[str] | None = None,
    ):
        super().__init__(period, "task")
        if to not in _TO:
            raise ValueError(f"`to` must be one of {_TO}. Received: to={to!r}")
        if isinstance(layers, str):
            raise ValueError(f"`layers` must be a list of names. Received: layers={layers!r}")
        self.to, self.layers = to, layers

    def build(self, model):
        super().build(model)
        chosen = self._chosen(model)
        held = {name: _statistics(layer) for name, layer in chosen.items()}
        self._momenta = [chosen[name].momentum for name, found in held.items() for _ in found]
        self._moving = weights.Borrowed(v for found in held.values() for v in found)
        self._everything = weights.Borrowed(
            v
            for layer in chosen.values()
            for v in weights.float_variables(layer)
            if not v.trainable
        )
        self._by = weights.initializers(model)
        self._pending = keras.Variable(0, dtype="int32", trainable=False, name="pending")
        self._old = []
        if self.to == "first_batch":
            self._old = [weights.copy_of(variable) for variable in self._moving]
        self.count(list(chosen))
        self._sizes = [weights.entries(found) for found in held.values()]

    def _chosen(self, model: keras.Model) -> dict[str, typing.Any]:
        """The layers with running statistics, by name."""
        found = {layer.name: layer for layer in model._flatten_layers() if _statistics(layer)}
        chosen = weights.named(found, self.layers, model, "running statistics")
        if self.to == "first_batch":
            calls = _calls(model)
            for name, layer in list(chosen.items()):
                if calls.get(id(layer), 1) > 1:
                    _LOG.warning(
                        "%r is skipped: it is called %s times in a step, and a batch cannot be "
                        'told from its statistics; `to="initial"` resets it',
                        name,
                        calls[id(layer)],
                    )
                    del chosen[name]
                elif layer.momentum == 1 or getattr(layer, "renorm", False):
                    _LOG.warning("%r is skipped: a batch cannot be told from its statistics", name)
                    del chosen[name]
        if not chosen:
            raise ValueError(
                f"No layer with running statistics is left in model {model.name!r}; it has "
                f"{list(found)}. Received: layers={self.layers!r}"
            )
        return chosen

    def at_boundary(self):
        if self.to == "initial":
            for variable in self._everything:
                if id(variable) in self._by:
                    variable.assign(self._by[id(variable)](variable.shape, dtype=variable.dtype))
            self.counts.assign_add(self._sizes)
            return
        for old, moving in zip(self._old, self._moving, strict=True):
            old.assign(moving)
        self._pending.assign(1)

    @property
    def acts(self) -> bool:
        return self.period is not None and self.to == "first_batch"

    def due(self, clock: Clock) -> tf.Tensor:
        return tf.equal(self._pending, 1)

    def steps_until_due(self, clock: Clock) -> tf.Tensor:
        return tf.where(tf.equal(self._pending, 1), 1, _NEVER)

    def act(self, outputs: StepOutputs | None):
        parts = zip(self._moving, self._old, self._momenta, strict=True)
        for moving, old, momentum in parts:
            batch = (moving.value - momentum * old.value) / (1 - momentum)
            # Rounding may leave a variance of zero below it.
            moving.assign(tf.maximum(batch, 0) if moving.name == "moving_variance" else batch)
        self._pending.assign(0)
        self.counts.assign_add(self._sizes)

    def get_config(self) -> dict:
        return {"period": self.period, "to": self.to, "layers": self.layers}


def _calls(model: keras.Model) -> dict[int, int]:
    """How often a pass calls each operation, by its `id`; empty where that cannot be told."""
    graph = graph_of(model)
    return {} if graph is None else dict(Trace(graph, lambda operation: False).calls)


def _statistics(layer: typing.Any) -> list[keras.Variable]:
    """The running mean and variance of a layer that is not frozen; which of them it has."""
    if not isinstance(layer, (keras.layers.BatchNormalization, CenterScale)) or not layer.trainable:
        return []
    found = (getattr(layer, name, None) for name in ("moving_mean", "moving_variance"))
    return [variable for variable in found if variable is not None]

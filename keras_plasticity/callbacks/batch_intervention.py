"""Interventions that look at batches of training data before they act."""

from __future__ import annotations

import keras
import tensorflow as tf

from keras_plasticity.callbacks.intervention import Intervention
from keras_plasticity.hooks import Clock, StepOutputs, when


class BatchIntervention(Intervention):
    """Base of the interventions that score units or weights on training data.

    A subclass writes `score(outputs)`, which adds up what it needs, and
    `reset(outputs)`. With `unit="step"` the last `batches` steps of a period are scored,
    with `unit="epoch"` and `unit="task"` the first `batches` steps after the boundary; the
    last of them resets.

    Args:
        period: see `Intervention`.
        unit: see `Intervention`.
        batches: int, training batches in a row that are scored, each after its step; None
            for 4, or `period` steps if that is less.
        seed: see `Intervention`.
    """

    def __init__(self, period: int | None, unit: str, batches: int | None, seed: int):
        super().__init__(period, unit, seed)
        if batches is None:
            batches = min(4, period or 4) if unit == "step" else 4
        if batches < 1 or (unit == "step" and period is not None and batches > period):
            raise ValueError(
                "`batches` must be at least 1 and, with unit='step', at most `period`. "
                f"Received: batches={batches}, period={period}"
            )
        self.batches = batches

    def build(self, model):
        super().build(model)
        self._left = keras.Variable(0, dtype="int32", trainable=False, name="batches_left")

    @property
    def acts(self) -> bool:
        return self.period is not None

    def due(self, clock: Clock) -> tf.Tensor:
        if self.unit == "step":
            phase = self._updates % self.period
            return tf.equal(phase, 0) | (phase > self.period - self.batches)
        return (self._left > 0) | self._epoch_ends(clock)

    def steps_until_due(self, clock: Clock) -> tf.Tensor:
        if self.unit == "step":
            return self.period - self.batches + 1 - tf.cast(self._updates % self.period, tf.int32)
        rest = super().steps_until_due(clock) if self.unit == "epoch" else tf.int32.max // 2
        return tf.where(self._left > 0, 1, rest)

    def at_boundary(self):
        self._left.assign(self.batches)

    def act(self, outputs: StepOutputs):
        if self.unit == "step":
            self.score(outputs)
            when(tf.equal(self._updates % self.period, 0), lambda: self.reset(outputs))
            return
        last = tf.equal(self._left, 1)
        when(self._left > 0, lambda: self.score(outputs))
        when(last, lambda: self.reset(outputs))
        self._left.assign(tf.maximum(self._left - 1, 0))
        when(self._epoch_ends(outputs), self.at_boundary)

    def _epoch_ends(self, clock) -> tf.Tensor:
        return super().due(clock) if self.unit == "epoch" else tf.constant(False)

    def score(self, outputs: StepOutputs):
        """Adds up what `reset` needs to know of this batch, in the graph."""

    def reset(self, outputs: StepOutputs):
        """Resets, in the graph; `outputs` are those of the last batch that was scored."""
        raise NotImplementedError

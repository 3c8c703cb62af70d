"""Whether large targets explain the state of the units: fresh copies are trained on them."""

from __future__ import annotations

import dataclasses
import hashlib
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.diagnosis.growth import growth
from keras_plasticity.diagnosis.indicators import Measured, measure
from keras_plasticity.probes.behaviour import _order, _Trainer
from keras_plasticity.probes.copies import optimizer_key
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError

# Chosen on development seeds of tests/benchmarks/diagnosis.py, see there.
COPIES, STEPS, BATCH = 3, 300, 32
OWN = 0.2  # excess from which on targets do not explain what is there
_AS_FAR = 1.5  # times the network's error that copies may be left with
_FITTED = 0.1  # share of the targets' size that they may be left with in any case
_LEAST = 0.05  # share of a layer's units, for the weight of layers in which copies lose none


@dataclasses.dataclass(frozen=True)
class Excess:
    """What a network has lost beyond fresh copies that were trained on its targets.

    Attributes:
        dead: float, see `beyond`.
        linear: float, the same of linearised units.
        rank: float, lowest own rank of a kernel in the copies minus that in the network.
    """

    dead: float
    linear: float
    rank: float


def excess(measured: Measured, inputs: ProbeInputs) -> Excess:
    """Trains fresh copies on the examples and targets and compares their units.

    Three copies, each with weights drawn anew and a fresh optimizer of the compiled one's
    configuration, take 300 updates of 32 examples with the compiled loss. Model, optimizer and
    random states stay as they are. What is trained by a `train_step` of the model's own is
    trained in the usual way here.

    Args:
        measured: `Measured` of the network.
        inputs: `ProbeInputs` with targets of the shape of the outputs.

    Raises:
        NotApplicableError: the network cannot be copied or trained; or the copies have not come
            as far as the network in 300 updates, that is, to 1.5 times its root mean square
            error or a tenth of the targets'.
    """
    y = tf.cast(tf.reshape(keras.tree.flatten(inputs.y)[0], inputs.outputs.shape), tf.float32)
    trainer = inputs.kept(
        "retraining", lambda: _Copies(inputs.model, inputs.x, y), optimizer_key(inputs.model)
    )
    copies = inputs.kept(  # again for other weights, but not for other data
        "retrained",
        lambda: [trainer.trained(inputs, y, seed) for seed in range(COPIES)],
        (optimizer_key(inputs.model), trainer.digest(inputs, y)),
    )
    error = np.mean([left for _, left in copies])
    enough = max(_AS_FAR * _rms(inputs.outputs - y), _FITTED * _rms(y))
    if not error <= enough:  # nor NaN
        raise NotApplicableError(
            f"fresh copies were left with an error of {error:.3g} after {STEPS} updates, more "
            f"than the {enough:.3g} that a comparison needs"
        )
    others = [copy for copy, _ in copies]
    return Excess(
        beyond(*_shares(measured, others, "dead")),
        beyond(*_shares(measured, others, "linear")),
        float(np.mean([copy.own_rank for copy in others]) - measured.own_rank),
    )


def beyond(sizes: np.ndarray, here: np.ndarray, there: np.ndarray) -> float:
    """Share of units lost here of those that the copies keep, a mean over layers.

    ```python
    d = (here - there) / (1 - there)  # per layer
    sum(w * d) / sum(w), w = size * (1 - there) / max(there, 0.05)
    ```

    If a second cause takes a share d of the units whatever the targets do, `here` is
    `there + d * (1 - there)`. The weights are one over the variance that d has if each unit is
    lost with probability `there`.

    Args:
        sizes: units of each layer.
        here: share of them that is lost in the network.
        there: the same in the copies, on average.
    """
    left = 1 - there
    weights = sizes * left / np.maximum(there, _LEAST)
    d = np.divide(here - there, left, out=np.zeros_like(left), where=left > 0)
    return float(np.sum(weights * d) / max(np.sum(weights), 1e-30))


def _shares(measured: Measured, copies: list[Measured], kind: str) -> tuple:
    here = {u.group.name: getattr(u, kind) for u in measured.units}
    there = [{u.group.name: getattr(u, kind) for u in copy.units} for copy in copies]
    names = [n for n in here if all(n in c and c[n].size == here[n].size for c in there)]
    if len(names) != len(here):
        raise NotApplicableError("the copies have other groups of units")
    return (
        np.array([here[name].size for name in names], float),
        np.array([here[name].mean() for name in names]),
        np.array([np.mean([copy[name].mean() for copy in there]) for name in names]),
    )


class _Copies(_Trainer):
    """A copy that is trained on given targets, from other fresh weights each time."""

    def __init__(self, model: keras.Model, x: typing.Any, y: tf.Tensor) -> None:
        super().__init__(model, x, "functions", jit_compile=False)
        given = keras.tree.flatten(getattr(model, "loss", None)) or [None]
        self._given = keras.losses.get(given[0]) or keras.losses.MeanSquaredError()
        self._inputs = ProbeInputs(self.network, x, y)

    def digest(self, inputs: ProbeInputs, y: tf.Tensor) -> str:
        """A hash of what training depends on: the data, and what copies share with a network."""
        shared = [inputs.model.weights[i].value for i in self._aged_too]
        digest = hashlib.sha256()
        for values in keras.tree.flatten((inputs.x, y, shared)):
            digest.update(np.asarray(values).tobytes())
        return digest.hexdigest()

    def trained(self, inputs: ProbeInputs, y: tf.Tensor, seed: int) -> tuple[Measured, float]:
        """Returns what is measured of a trained copy, and its root mean square error."""
        self.start(inputs.model.weights, f"retraining/{seed}")
        rows = min(BATCH, inputs.examples)
        order = _order(np.random.default_rng(seed), inputs.examples, STEPS, rows)
        try:
            self._run(inputs.x, [y], [tf.constant(1.0)], tf.constant(order))
        except Exception as error:  # what the layers and losses of users raise is not known
            reason = str(error).strip().split("\n")[0]
            raise NotApplicableError(f"a fresh copy cannot be trained: {reason}") from error
        self._inputs.refresh(inputs.x, y)
        left = _rms(self._inputs.outputs - y)
        if not np.isfinite(left):
            return Measured(), left
        return measure(self._inputs, growth(self.network), None), left

    def _loss(self, y: list, outputs: list) -> tf.Tensor:
        return tf.reduce_mean(self._given(y[0], outputs[0]))


def _rms(values: typing.Any) -> float:
    return float(np.sqrt(np.mean(np.square(np.asarray(values, np.float64)))))

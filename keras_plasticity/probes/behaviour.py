"""How well a network still learns: the measurement of plasticity itself."""

from __future__ import annotations

import dataclasses
import math
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity import surgery
from keras_plasticity.probes.copies import assign_weights, copy_network, optimizer_key
from keras_plasticity.probes.copies import copy_optimizer as _copy_optimizer
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.probe import probe

KINDS = ("labels", "functions")


@dataclasses.dataclass(frozen=True)
class Trainability:
    """What a network and fresh ones of its architecture reached on the same random targets.

    Attributes:
        score: str, unit of the scores: `"accuracy"`, or `"explained"`, the share of the
            target's variance that is explained, at least 0.
        aged_curves: float32 array of shape `(targets, steps)`, the network's score on each
            batch before its update.
        fresh_curves: float32 array of shape `(targets, steps)`, that of the fresh ones.
        aged_final: float64 array of shape `(targets,)`, score on all examples after the budget.
        fresh_final: float64 array of shape `(targets,)`, that of the fresh ones.
    """

    score: str
    aged_curves: np.ndarray
    fresh_curves: np.ndarray
    aged_final: np.ndarray
    fresh_final: np.ndarray

    @property
    def aged(self) -> np.ndarray:
        """The network's score over the budget for each target: the mean of its curve."""
        return self.aged_curves.mean(1, dtype=np.float64)

    @property
    def fresh(self) -> np.ndarray:
        """Score of the fresh network for each target."""
        return self.fresh_curves.mean(1, dtype=np.float64)

    @property
    def gaps(self) -> np.ndarray:
        """Fresh minus aged for each target; positive where the network learns worse."""
        return self.fresh - self.aged

    @property
    def gap(self) -> float:
        """Mean of `gaps`."""
        return float(np.mean(self.gaps))

    @property
    def error(self) -> float:
        """Standard error of `gap` over targets and fresh networks; NaN of one target."""
        count = len(self.gaps)
        return float(np.std(self.gaps, ddof=1) / math.sqrt(count)) if count > 1 else math.nan


def trainability(
    inputs: ProbeInputs,
    steps: int = 400,
    targets: int = 3,
    seed: int = 0,
    examples: int = 256,
    batch_size: int = 32,
    kind: str | None = None,
    frequency: float = 3.0,
    jit_compile: bool = True,
) -> Trainability:
    """Trains copies of the network and of fresh ones on random targets, for a fixed budget.

    Use it to tell loss of plasticity from tasks that get harder: both start from the same
    targets, data, order of examples and a fresh optimizer of the class and configuration of the
    compiled one (else Adam with 1e-3). It measures plasticity itself; other probes are
    correlates.

    ```python
    y = uniform(classes)  # of each example, of a classifier
    y = mean(f(x)) + sin(frequency * standardised(f(x; random weights)))  # else
    score = accuracy(y, f(x))  # or 1 - mean((f(x) - y) ** 2) / variance(y), at least 0
    gap = mean(score of each batch before its update, fresh) - mean(score ..., aged)
    ```

    All steps are one compiled call, traced once for the network, the fresh ones and all targets.
    The model itself, its optimizer and all random states outside stay as they are.

    Example:

    ```python
    result = kp.probes.trainability(kp.probes.ProbeInputs(model, x, y))
    print(f"{result.gap:.3f} +- {2 * result.error:.3f}", result.aged, result.fresh)
    ```

    Args:
        inputs: `ProbeInputs`; targets are not read.
        steps: int, optimizer updates of each training. Default 400.
        targets: int, random targets; each with a fresh network of its own. Default 3.
        seed: int, everything random is a function of it. Default 0.
        examples: int, the first ones of the inputs are trained on and scored. Default 256.
        batch_size: int, examples per update. Default 32.
        kind: `"labels"` (random classes), `"functions"` (smooth random functions of the
            inputs), or None: labels where `inputs.classifies`.
        frequency: float, of the random functions. Default 3.
        jit_compile: bool, whether XLA compiles the training. Default True. Networks with random
            layers of Keras (dropout) go without, since XLA draws slowly on a CPU.

    Raises:
        ValueError: a size is not positive, or `kind` is unknown.
        NotApplicableError: the model cannot be copied, or has nothing to train.

    Reference:
        Lyle et al., "Understanding Plasticity in Neural Networks", 2023,
        https://arxiv.org/abs/2303.01486, section 3: `b - E[loss after a fixed budget]`.

    Deviations:
        The baseline `b` is a fresh network, so that hard targets are not mistaken for loss of
        plasticity. The score is the mean over the budget and not that at its end, which is 1
        of every network that learns all targets in time, early or late; see `aged_final`. The
        paper's functions are `a + sin(1e5 * f(x; w0))`, which no short budget fits; here `f` is
        standardised over the examples and the frequency is low. `a` is the mean output of each
        network at its start, so none has an offset to learn; outputs of a binary classifier
        that are probabilities are to reach `0.5 + 0.45 * sin(...)`. The loss is the
        crossentropy or the mean squared error, plus the model's penalties; a `train_step` of
        the model's own is not used. Frozen layers and `Normalization` are the network's in the
        fresh ones too.
    """
    sizes = {"steps": steps, "targets": targets, "examples": examples, "batch_size": batch_size}
    for name, size in sizes.items():
        if not isinstance(size, (int, np.integer)) or size < 1:
            raise ValueError(f"`{name}` must be a positive integer. Received: {name}={size!r}")
    if kind is not None and kind not in KINDS:
        raise ValueError(f"`kind` must be one of {KINDS} or None. Received: kind={kind!r}")
    if kind is None:
        kind = "labels" if inputs.classifies else "functions"
    x = keras.tree.map_structure(lambda a: a[:examples], inputs.x)
    key, version = ("trainability", kind, jit_compile), optimizer_key(inputs.model)
    trainer = inputs.kept(key, lambda: _Trainer(inputs.model, x, kind, jit_compile), version)
    rows = len(keras.tree.flatten(x)[0])
    results: dict[str, list] = {"aged": [], "fresh": []}
    aged = inputs.model.weights
    known = {"fresh": 0.0 if _finite(x) else math.nan}
    known["aged"] = known["fresh"] if _finite([v.value for v in aged]) else math.nan
    for target in range(targets):
        draw = np.random.default_rng([seed, target])
        y = trainer.targets(aged, x, f"{seed}/target/{target}", draw, frequency)
        order = _order(draw, rows, steps, min(batch_size, rows))
        for name in results:
            trainer.start(aged, None if name == "aged" else f"{seed}/fresh/{target}")
            curve, final = trainer.train(x, y, order)
            results[name].append((curve + np.float32(known[name]), final + known[name]))
    curves = {name: np.stack([curve for curve, _ in found]) for name, found in results.items()}
    final = {name: np.array([last for _, last in found]) for name, found in results.items()}
    score = "accuracy" if kind == "labels" else "explained"
    return Trainability(score, curves["aged"], curves["fresh"], final["aged"], final["fresh"])


def trainability_of(
    model: keras.Model, x: typing.Any, y: typing.Any = None, **parameters: typing.Any
) -> Trainability:
    """Returns `trainability` of a model without `ProbeInputs`.

    Args:
        model: built `keras.Model`.
        x: inputs, arrays with examples along the first axis.
        y: targets or None; they only tell whether the model classifies.
        **parameters: of `trainability`.
    """
    return trainability(ProbeInputs(model, x, y, groups=()), **parameters)


@probe("score", better="lower", expensive=True)
def trainability_gap(
    inputs: ProbeInputs,
    steps: int = 400,
    targets: int = 3,
    seed: int = 0,
    examples: int = 256,
    kind: str | None = None,
    jit_compile: bool = True,
) -> dict[str, float]:
    """How much worse the network learns random targets than fresh ones: `trainability(...).gap`.

    Use it as the verdict on plasticity. About 0 of a fresh network; in accuracy for
    classifiers, in share of the variance for regression; positive where plasticity was lost.

    Example:
    >>> kp.probes.trainability_gap(inputs)
    {'model': 0.412}

    Args:
        inputs: `ProbeInputs`.
        steps: int, optimizer updates of each training. Default 400.
        targets: int, random targets. Default 3.
        seed: int. Default 0.
        examples: int, the first ones of the inputs. Default 256.
        kind: `"labels"`, `"functions"` or None, see `trainability`.
        jit_compile: bool, whether XLA compiles the training. Default True.

    Raises:
        NotApplicableError: the model cannot be copied, or has nothing to train.

    Reference:
        See `trainability`.
    """
    result = trainability(
        inputs, steps, targets, seed, examples, kind=kind, jit_compile=jit_compile
    )
    return {MODEL: result.gap}


class _Trainer:
    """A copy of a network that is trained again and again by one compiled function."""

    def __init__(self, model: keras.Model, x: typing.Any, kind: str, jit_compile: bool) -> None:
        self.network, self.optimizer = copy_network(model), _copy_optimizer(model)
        self.optimizer.build(self.network.trainable_variables)
        self.kind = kind
        weights = {id(v) for v in self.network.weights}
        states = [v for v in self.network.variables if id(v) not in weights]
        self._states = [(v, tf.identity(v.value)) for v in states]  # of random layers
        self._aged_too = [i for i, v in enumerate(self.network.weights) if self._stays(v)]
        self._predict = tf.function(
            lambda x: _outputs(self.network, x, False), autograph=False, reduce_retracing=True
        )
        outputs = [o.numpy() for o in self._predict(x)]
        inside = all(np.all((o >= 0) & (o <= 1)) for o in outputs)
        self.probabilities = inside and np.allclose(outputs[0].sum(-1), 1, atol=1e-3)
        loss = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
        name = loss if isinstance(loss, str) else getattr(loss, "name", "")
        self.bounded = inside and "crossentropy" in (name or "")
        self._jit = jit_compile and not states
        self._run = self._compiled()

    def _compiled(self) -> typing.Callable:
        return tf.function(
            self._trained, autograph=False, reduce_retracing=True, jit_compile=self._jit
        )

    def _stays(self, variable: keras.Variable) -> bool:
        """Whether training does not change a weight, so fresh networks have it as it is."""
        if not keras.backend.is_float_dtype(variable.dtype):
            return True  # counters and seeds
        return any(
            any(variable is v for v in layer.variables)
            for layer in self.network._flatten_layers()
            if isinstance(layer, keras.layers.Normalization) or not layer.trainable
        )

    def start(self, aged: list, seed: str | None) -> None:
        """Puts the copy to the weights of the network, or to fresh ones, with a new optimizer."""
        if seed is None:
            assign_weights(self.network, aged)
        else:
            surgery.reinitialize(self.network, seed)
            for i in self._aged_too:
                self.network.weights[i].assign(aged[i].value)
        for variable, value in self._states:
            variable.assign(value)
        surgery.reset_optimizer(self.optimizer, self.network.trainable_variables)

    def targets(
        self, aged: list, x: typing.Any, seed: str, draw: np.random.Generator, frequency: float
    ) -> list:
        """Returns random labels, or sines of the outputs of a random network."""
        self.start(aged, seed)
        outputs = [o.numpy().astype(np.float64) for o in self._predict(x)]
        if self.kind == "labels":
            drawn = [draw.integers(o.shape[-1], size=o.shape[:-1], dtype=np.int32) for o in outputs]
            return [tf.constant(y) for y in drawn]
        return [tf.constant(np.sin(frequency * _standardised(o)), tf.float32) for o in outputs]

    def train(self, x: typing.Any, y: list, order: np.ndarray) -> tuple[np.ndarray, float]:
        """Trains from where the copy stands; returns scores of batches, and that at the end."""
        if self.kind == "functions":
            offsets = [0.5 if self.bounded else tf.reduce_mean(o, 0) for o in self._predict(x)]
            size = 0.45 if self.bounded else 1.0
            y = [offset + size * part for offset, part in zip(offsets, y, strict=True)]
        spread = [_spread(part) for part in y]
        try:
            curve, final = self._run(x, y, spread, tf.constant(order))
        except tf.errors.OpError:
            if not self._jit:
                raise
            self._jit = False  # an operation that XLA does not know; nothing was run
            self._run = self._compiled()
            curve, final = self._run(x, y, spread, tf.constant(order))
        return curve.numpy(), float(final)

    def _trained(self, x: typing.Any, y: list, spread: list, order: tf.Tensor) -> tuple:
        def body(i: tf.Tensor, curve: tf.Tensor) -> tuple:
            rows = tf.gather(order, i)
            some_x, some_y = keras.tree.map_structure(lambda a: tf.gather(a, rows), (x, y))
            score = self._score(some_y, self._step(some_x, some_y), spread)
            return i + 1, tf.tensor_scatter_nd_update(curve, [[i]], [score])

        steps = tf.shape(order)[0]
        start = (tf.constant(0), tf.zeros(steps))
        _, curve = tf.while_loop(lambda i, _: i < steps, body, start)
        return curve, self._score(y, _outputs(self.network, x, False), spread)

    def _step(self, x: typing.Any, y: list) -> list:
        network, optimizer = self.network, self.optimizer
        with tf.GradientTape() as tape:
            outputs = _outputs(network, x, True)
            total = self._loss(y, outputs)
            total += sum(tf.cast(tf.reduce_sum(p), tf.float32) for p in network.losses)
            total = optimizer.scale_loss(total)
        variables = network.trainable_variables
        gradients = tape.gradient(total, [v.value for v in variables])
        known = [(g, v) for g, v in zip(gradients, variables, strict=True) if g is not None]
        optimizer.apply([g for g, _ in known], [v for _, v in known])
        return outputs

    def _loss(self, y: list, outputs: list) -> tf.Tensor:
        if self.kind == "functions":
            losses = [tf.reduce_mean(tf.square(a - b)) for a, b in zip(y, outputs, strict=True)]
        else:
            logits = [tf.math.log(o + 1e-7) if self.probabilities else o for o in outputs]
            crossentropy = tf.nn.sparse_softmax_cross_entropy_with_logits
            losses = [tf.reduce_mean(crossentropy(a, b)) for a, b in zip(y, logits, strict=True)]
        return tf.add_n(losses) / len(losses)

    def _score(self, y: list, outputs: list, spread: list) -> tf.Tensor:
        scores = []
        for target, output, variance in zip(y, outputs, spread, strict=True):
            if self.kind == "labels":
                hits = tf.argmax(output, -1, tf.int32) == target
                hits &= tf.reduce_all(tf.math.is_finite(output), -1)  # diverged: a miss
                score = tf.reduce_mean(tf.cast(hits, tf.float32))
            else:
                loss = tf.reduce_mean(tf.square(output - target)) / variance
                score = tf.where(loss < 1, 1 - loss, 0.0)  # 0 also where it diverged
            scores.append(score)
        return tf.add_n(scores) / len(scores)


def _outputs(network: keras.Model, x: typing.Any, training: bool) -> list:
    outputs = keras.tree.flatten(network(x, training=training))
    return [tf.cast(o, tf.float32) for o in outputs]


def _finite(values: typing.Any) -> bool:
    """Whether no number is NaN or infinite; a ReLU may hide them from the outputs."""
    floats = [v for v in keras.tree.flatten(values) if v.dtype.is_floating]
    return all(bool(tf.reduce_all(tf.math.is_finite(v))) for v in floats)


def _spread(targets: tf.Tensor) -> tf.Tensor:
    """Mean variance of targets over examples; 1 where they do not vary, or are labels."""
    if not targets.dtype.is_floating:
        return tf.constant(1.0)
    variance = tf.reduce_mean(tf.math.reduce_variance(targets, 0))
    return tf.where(variance > 1e-9, variance, 1.0)


def _standardised(values: np.ndarray) -> np.ndarray:
    """Mean 0 and deviation 1 over examples; a single example, or a constant, is left as it is."""
    deviation = values.std(0)
    moves = deviation > 1e-9
    return np.where(moves, (values - values.mean(0)) / np.where(moves, deviation, 1.0), values)


def _order(draw: np.random.Generator, rows: int, steps: int, batch: int) -> np.ndarray:
    """Rows of each batch, shape `(steps, batch)`, epoch after epoch without repetition."""
    epochs = -(-steps * batch // rows)
    order = np.concatenate([draw.permutation(rows) for _ in range(epochs)])
    return order[: steps * batch].reshape(steps, batch).astype(np.int32)

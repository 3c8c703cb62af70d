"""Sizes of weights, gradients and updates, and how far weights have moved."""

from __future__ import annotations

import math

import numpy as np
import tensorflow as tf

from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError, probe
from keras_plasticity.surgery.slots import innermost


@probe("norm", better="lower", on="weights")
def weight_norm(inputs: ProbeInputs) -> dict[str, float]:
    """`||W||_F` of each kernel, and under `"model"` the norm of all trainable weights.

    Args:
        inputs: `ProbeInputs`.
    """
    sums = _sums(inputs)
    found = {name: math.sqrt(sums[p]["square"]) for name, p in inputs.kernel_paths.items()}
    return found | {MODEL: math.sqrt(sum(s["square"] for s in sums.values()))}


@probe("", better="lower", expensive=True, on="weights")
def weight_magnitude(inputs: ProbeInputs) -> dict[str, float]:
    """Mean absolute value of each kernel, `mean(|w|)`.

    Args:
        inputs: `ProbeInputs`.

    Reference:
        Dohare et al., "Loss of plasticity in deep continual learning", 2024.
    """
    sums = _sums(inputs)
    paths = inputs.kernel_paths
    return {k: sums[paths[k]]["abs"] / math.prod(v.shape) for k, v in inputs.kernels.items()}


@probe("norm", better="lower", expensive=True, on="weights")
def spectral_norm(inputs: ProbeInputs) -> dict[str, float]:
    """Largest singular value of each kernel, its axes but the last flattened.

    Args:
        inputs: `ProbeInputs`.
    """
    from keras_plasticity.probes.ranks import spectra

    return {name: float(sigma[0]) for name, sigma in spectra(inputs, "weights").items()}


@probe("norm", better="none")
def gradient_norm(inputs: ProbeInputs) -> dict[str, float]:
    """`||dL/dW||_F` of each kernel, and under `"model"` of all trainable weights.

    L is the mean loss without penalties over the first 256 examples.

    Args:
        inputs: `ProbeInputs`.

    Raises:
        NotApplicableError: there is no loss to compute.
    """
    squares = _gradient_sums(inputs)
    found = {name: math.sqrt(squares[p][0]) for name, p in inputs.kernel_paths.items()}
    return found | {MODEL: math.sqrt(sum(s[0] for s in squares.values()))}


@probe("share", better="lower", expensive=True)
def zero_gradient_fraction(inputs: ProbeInputs) -> dict[str, float]:
    """Share of the entries of each kernel whose gradient is exactly 0.

    Args:
        inputs: `ProbeInputs`.

    Raises:
        NotApplicableError: there is no loss to compute.
    """
    sums = _gradient_sums(inputs)
    paths = inputs.kernel_paths
    return {k: float(sums[paths[k]][1] / math.prod(v.shape)) for k, v in inputs.kernels.items()}


@probe("norm", better="none", on="weights")
def distance_from_initialisation(inputs: ProbeInputs) -> dict[str, float]:
    """`||W - W0||_F` of each kernel, and under `"model"` of all trainable weights.

    Args:
        inputs: `ProbeInputs` with an `initial` snapshot.

    Raises:
        NotApplicableError: there is none.
    """
    return _differences(inputs, "initial")


@probe("cosine", better="none", expensive=True, on="weights")
def cosine_to_initialisation(inputs: ProbeInputs) -> dict[str, float]:
    """`<W, W0> / (||W|| ||W0||)` of each kernel.

    Args:
        inputs: `ProbeInputs` with an `initial` snapshot.

    Raises:
        NotApplicableError: there is none.
    """
    return {name: _cosine(sums) for name, sums in _of_kernels(inputs, "initial").items()}


@probe("norm", better="none", expensive=True, on="weights")
def update_norm(inputs: ProbeInputs) -> dict[str, float]:
    """`||W - W_previous||_F` of each kernel since the snapshot before.

    Args:
        inputs: `ProbeInputs` with a `previous` snapshot.

    Raises:
        NotApplicableError: there is none.
    """
    return _differences(inputs, "previous")


@probe("ratio", better="higher", on="weights")
def relative_update(inputs: ProbeInputs) -> dict[str, float]:
    """`||W - W_previous|| / ||W_previous||` of each kernel since the snapshot before.

    Args:
        inputs: `ProbeInputs` with a `previous` snapshot.

    Raises:
        NotApplicableError: there is none.
    """
    found = {}
    for name, sums in _of_kernels(inputs, "previous").items():
        before = sums["then"]
        found[name] = math.sqrt(sums["difference"] / before) if before > 0 else float("nan")
    return found


@probe("radians", better="higher", expensive=True, on="weights")
def rotation(inputs: ProbeInputs) -> dict[str, float]:
    """Angle between each kernel and itself at the snapshot before.

    Args:
        inputs: `ProbeInputs` with a `previous` snapshot.

    Raises:
        NotApplicableError: there is none.
    """
    found = {}
    for name, sums in _of_kernels(inputs, "previous").items():
        cosine = _cosine(sums)
        # 2 asin(|u - v| / 2) of the unit vectors: small angles keep their digits.
        now, then = math.sqrt(sums["now"]), math.sqrt(sums["then"])
        chord = sums["difference"] - (now - then) ** 2
        if math.isfinite(cosine) and now * then > 0:
            half = math.sqrt(max(chord, 0.0) / (now * then)) / 2
            cosine = 2 * math.asin(min(half, 1.0))
        found[name] = cosine
    return found


@probe("1/step", better="higher", on="weights")
def effective_learning_rate(inputs: ProbeInputs) -> dict[str, float]:
    """How much a step turns a kernel whose scale a normalisation takes out.

    ```python
    learning_rate / ||W||**2  # SGD: gradients of a scale-invariant layer shrink with ||W||
    learning_rate / ||W||     # Adam and others whose steps have a size of their own
    ```

    Reported of all kernels; it means what it says of those that a normalisation follows.

    Args:
        inputs: `ProbeInputs` of a compiled model.

    Raises:
        NotApplicableError: the model has no optimizer.

    Reference:
        Lyle et al., "Normalization and effective learning rates in reinforcement learning",
        2024, https://arxiv.org/abs/2407.01800.
    """
    optimizer = getattr(inputs.model, "optimizer", None)
    if optimizer is None:
        raise NotApplicableError("the effective learning rate needs a compiled model")
    optimizer = innermost(optimizer)
    rate = float(optimizer.learning_rate)
    power = 2 if type(optimizer).__name__ == "SGD" else 1
    norms = weight_norm(inputs)
    return {k: rate / norms[k] ** power if norms[k] else float("inf") for k in inputs.kernels}


@probe("norm", better="none", expensive=True, needs=["features"])
def feature_norm(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over examples of `||h(x)||_2`, of each hidden layer, positions averaged first.

    Args:
        inputs: `ProbeInputs`.
    """
    features = inputs.units("features")
    return {
        name: float(np.linalg.norm(h.reshape(len(h), -1), axis=1).mean())
        for name, h in features.items()
    }


def _sums(inputs: ProbeInputs) -> dict[str, dict[str, float]]:
    """Of each trainable weight the sums of squares and of absolute values."""
    return _all_sums(inputs)["now"]


def _all_sums(inputs: ProbeInputs) -> dict[str, dict[str, dict[str, float]]]:
    """Sums over the entries of each trainable weight, all in one call.

    Under "now" of squares and absolute values; under "initial" and "previous", where there is
    such a snapshot, |now|^2, |then|^2, |now - then|^2 and <now, then>.
    """
    variables = inputs.variables
    snapshots = {"initial": inputs.initial, "previous": inputs.previous}
    then = {
        since: [snapshot.weights[path] for path in variables if path in snapshot.weights]
        for since, snapshot in snapshots.items()
        if snapshot is not None
    }

    def sums(then: dict[str, list[tf.Tensor]]) -> dict[str, tf.Tensor]:
        now = [tf.cast(v.value, tf.float32) for v in variables.values()]
        squares = [tf.reduce_sum(tf.square(w)) for w in now]
        rows = {"now": tf.stack([squares, [tf.reduce_sum(tf.abs(w)) for w in now]], 1)}
        for since, weights in then.items():
            old = [tf.cast(w, tf.float32) for w in weights]
            parts = [
                (tf.reduce_sum(w * w), tf.reduce_sum(tf.square(v - w)), tf.reduce_sum(v * w))
                for v, w in zip(now, old, strict=True)
            ]
            rows[since] = tf.stack([squares, *zip(*parts, strict=True)], 1)
        return rows

    def values() -> dict:
        found = inputs.compiled("sums of weights", sums)(then)
        names = {"now": ("square", "abs")}
        return {
            since: {
                path: dict(zip(names.get(since, _MOVED), row, strict=True))
                for path, row in zip(variables, rows.numpy().astype(np.float64), strict=True)
            }
            for since, rows in found.items()
        }

    return inputs.once("sums of weights", values)


_MOVED = ("now", "then", "difference", "product")


def _gradient_sums(inputs: ProbeInputs) -> dict[str, np.ndarray]:
    """Of the gradient of each trainable weight the sum of squares and the number of zeros."""

    def sums(gradients: list[tf.Tensor]) -> tf.Tensor:
        zeros = [tf.reduce_sum(tf.cast(tf.equal(g, 0), tf.float32)) for g in gradients]
        return tf.stack([[tf.reduce_sum(tf.square(g)) for g in gradients], zeros], 1)

    gradients = inputs.gradients
    values = inputs.once(
        "gradient sums",
        lambda: inputs.compiled("gradient sums", sums)(list(gradients.values())).numpy(),
    )
    return dict(zip(gradients, values.astype(np.float64), strict=True))


def _moved(inputs: ProbeInputs, since: str) -> dict[str, dict[str, float]]:
    """Of each trainable weight |now|^2, |then|^2, |now - then|^2 and <now, then>."""
    if getattr(inputs, since) is None:
        raise NotApplicableError(f"the distance needs a snapshot `{since}`")
    return _all_sums(inputs)[since]


def _of_kernels(inputs: ProbeInputs, since: str) -> dict[str, dict[str, float]]:
    moved = _moved(inputs, since)
    return {name: moved[p] for name, p in inputs.kernel_paths.items() if p in moved}


def _differences(inputs: ProbeInputs, since: str) -> dict[str, float]:
    moved = _moved(inputs, since)
    kernels = _of_kernels(inputs, since)
    total = math.sqrt(sum(sums["difference"] for sums in moved.values()))
    return {name: math.sqrt(s["difference"]) for name, s in kernels.items()} | {MODEL: total}


def _cosine(sums: dict[str, float]) -> float:
    size = math.sqrt(sums["now"] * sums["then"])
    return sums["product"] / size if size > 0 else float("nan")

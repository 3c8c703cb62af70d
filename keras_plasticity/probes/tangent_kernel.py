"""The empirical neural tangent kernel: how updates on one example move the others.

All probes raise `NotApplicableError` where `empirical_tangent_kernel` does.
"""

from __future__ import annotations

import math
import typing

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity.probes.gram_matrix import (
    CLAMP,
    condition_number,
    cosines,
    eigenvalues,
    off_diagonal,
    rank_one_residual,
    several,
)
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.per_example import example_gradients, gram
from keras_plasticity.probes.probe import NotApplicableError, probe
from keras_plasticity.probes.spectrum import effective_rank

SCALARISATIONS = ("sum", "true", "all")


def empirical_tangent_kernel(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> np.ndarray:
    """Returns the tangent kernel of the outputs over the first examples.

    Use it for what the probes of this file do not read from it, as blocks by class.

    ```python
    J[i] = d s(f(x_i)) / d weights  # s: sum of the outputs, that of the true class, or each
    K = J @ J.T
    ```

    Example:
    >>> kernel = kp.probes.empirical_tangent_kernel(inputs, scalarisation="true")

    Args:
        inputs: `ProbeInputs`.
        examples: int, the first ones of the inputs. Default 64.
        scalarisation: `"sum"` of the outputs, `"true"` for the output of the target's class, or
            `"all"`: a row for each output of each example. Default "sum".

    Returns:
        float64 array of shape `(examples, examples)`, with `"all"` `(examples * outputs,)`
        twice, outputs of one example side by side.

    Raises:
        ValueError: `scalarisation` is unknown.
        NotApplicableError: there is nothing to train, or `"true"` without classes.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762

    Deviations:
        Of a model that returns probabilities the outputs are their logarithms, which differ
        from its logits by a function of the input and the weights.
    """
    if scalarisation not in SCALARISATIONS:
        raise ValueError(
            f"`scalarisation` must be one of {SCALARISATIONS}. "
            f"Received: scalarisation={scalarisation!r}"
        )
    key = ("tangent_kernel", examples, scalarisation)
    return inputs.once(key, lambda: _kernel(inputs, examples, scalarisation))


@probe("ratio", better="lower", expensive=True)
def tangent_kernel_condition(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum", clamp: float = CLAMP
) -> dict[str, float]:
    """Condition number of the tangent kernel.

    Use it for how differently fast gradient descent learns different functions of these
    examples.

    ```python
    lambda_1 / max(lambda_n, clamp * lambda_1)  # eigenvalues of K, largest first
    ```

    Example:
    >>> kp.probes.tangent_kernel_condition(inputs)
    {'model': 5120.0}

    Args:
        inputs: `ProbeInputs`.
        examples: see `empirical_tangent_kernel`.
        scalarisation: see `empirical_tangent_kernel`.
        clamp: float, smallest eigenvalue as a share of the largest. Default 1e-10, below which
            float32 gradients are rounding.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762
    """
    return {
        MODEL: condition_number(empirical_tangent_kernel(inputs, examples, scalarisation), clamp)
    }


@probe("rank", better="higher", expensive=True)
def tangent_kernel_rank(
    inputs: ProbeInputs,
    examples: int = 64,
    scalarisation: str = "sum",
    epsilon: float = 1e-2,
) -> dict[str, float]:
    """Number of eigenvalues of the tangent kernel above a share of the largest.

    Use it for how many functions of these examples can be learned at a comparable speed.

    ```python
    sum(lambda > epsilon * lambda_1)
    ```

    Example:
    >>> kp.probes.tangent_kernel_rank(inputs)
    {'model': 31.0}

    Args:
        inputs: `ProbeInputs`.
        examples: see `empirical_tangent_kernel`; they bound the rank.
        scalarisation: see `empirical_tangent_kernel`.
        epsilon: float in (0, 1), share of the largest eigenvalue. Default 0.01.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762; the threshold is ours.
    """
    values = eigenvalues(empirical_tangent_kernel(inputs, examples, scalarisation))
    if np.isnan(values).any():
        return {MODEL: math.nan}
    return {MODEL: float(np.sum(values > max(epsilon * values[0], 0)))}


@probe("rank", better="higher", expensive=True)
def tangent_kernel_effective_rank(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> dict[str, float]:
    """Effective rank of the tangent kernel: its eigenvalues' entropy as a count.

    Use it as `tangent_kernel_rank`, without a threshold.

    ```python
    p = lambda / sum(lambda)
    exp(-sum(p * log(p)))
    ```

    Example:
    >>> kp.probes.tangent_kernel_effective_rank(inputs)
    {'model': 9.3}

    Args:
        inputs: `ProbeInputs`.
        examples: see `empirical_tangent_kernel`; they bound the rank.
        scalarisation: see `empirical_tangent_kernel`.

    Reference:
        Roy and Vetterli, "The Effective Rank: A Measure of Effective Dimensionality", 2007,
        https://ieeexplore.ieee.org/document/7098875
    """
    kernel = empirical_tangent_kernel(inputs, examples, scalarisation)
    return {MODEL: effective_rank(np.maximum(eigenvalues(kernel), 0))}


@probe("share", better="lower", expensive=True)
def tangent_kernel_top_share(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> dict[str, float]:
    """Share of the largest eigenvalue in the trace of the tangent kernel.

    Use it for one direction that takes over: near 1 every update moves all examples alike, as
    after regression on targets with a large offset.

    ```python
    lambda_1 / sum(lambda)
    ```

    Example:
    >>> kp.probes.tangent_kernel_top_share(inputs)
    {'model': 0.55}

    Args:
        inputs: `ProbeInputs`.
        examples: see `empirical_tangent_kernel`.
        scalarisation: see `empirical_tangent_kernel`.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762
    """
    kernel = empirical_tangent_kernel(inputs, examples, scalarisation)
    trace = float(np.trace(kernel))
    return {MODEL: float(eigenvalues(kernel)[0]) / trace if trace else math.nan}


@probe("cosine", expensive=True)
def tangent_kernel_offdiagonal(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> dict[str, float]:
    """Mean magnitude of the cosines between the output gradients of different examples.

    Use it for how much learning carries over: near 0 the network memorises, near 1 it cannot
    tell examples apart. Both are failures.

    ```python
    C = K / sqrt(outer(diag(K), diag(K)))
    mean(abs(C[i, j]))  # i != j; rows of zeros count as 0
    ```

    Example:
    >>> kp.probes.tangent_kernel_offdiagonal(inputs)
    {'model': 0.42}

    Args:
        inputs: `ProbeInputs` with two examples or more.
        examples: see `empirical_tangent_kernel`.
        scalarisation: see `empirical_tangent_kernel`.

    Raises:
        NotApplicableError: there is one example.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762; reading it as one number is ours.
    """
    kernel = several(empirical_tangent_kernel(inputs, examples, scalarisation))
    return {MODEL: float(np.mean(np.abs(off_diagonal(cosines(kernel)))))}


@probe("cosine", better="lower", expensive=True)
def tangent_kernel_collinearity(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> dict[str, float]:
    """Mean cosine between the output gradients of different examples, with its sign.

    Use it for the first failure alone: 1 where all examples are moved alike.

    ```python
    mean(C[i, j])  # i != j, C as in `tangent_kernel_offdiagonal`
    ```

    Example:
    >>> kp.probes.tangent_kernel_collinearity(inputs)
    {'model': 0.42}

    Args:
        inputs: `ProbeInputs` with two examples or more.
        examples: see `empirical_tangent_kernel`.
        scalarisation: see `empirical_tangent_kernel`.

    Raises:
        NotApplicableError: there is one example.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762; reading it as one number is ours.
    """
    kernel = several(empirical_tangent_kernel(inputs, examples, scalarisation))
    return {MODEL: float(np.mean(off_diagonal(cosines(kernel))))}


@probe("share", expensive=True)
def tangent_kernel_rank_one_residual(
    inputs: ProbeInputs, examples: int = 64, scalarisation: str = "sum"
) -> dict[str, float]:
    """How much of the tangent kernel its first direction and the diagonal leave unexplained.

    Use it with `tangent_kernel_offdiagonal`: 0 where the examples share one direction and have
    nothing else in common.

    ```python
    R = K - lambda_1 * u_1 @ u_1.T
    norm(R - diag(R)) / norm(K)  # Frobenius
    ```

    Example:
    >>> kp.probes.tangent_kernel_rank_one_residual(inputs)
    {'model': 0.21}

    Args:
        inputs: `ProbeInputs`.
        examples: see `empirical_tangent_kernel`.
        scalarisation: see `empirical_tangent_kernel`.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762; the formula is ours.
    """
    return {MODEL: rank_one_residual(empirical_tangent_kernel(inputs, examples, scalarisation))}


@probe("loss", better="higher", expensive=True)
def predicted_decrease(inputs: ProbeInputs) -> dict[str, float]:
    """How fast gradient descent would decrease the loss, per unit of learning rate.

    Use it for whether gradients have vanished. A step of plain gradient descent on these
    examples with a small learning rate `eta` lowers their mean loss by `eta` times this.

    ```python
    r = d mean(loss) / d f(x)  # holds the 1/n of the mean
    r @ K @ r  # K of all outputs; equal to sum(gradient ** 2), by which it is computed
    ```

    Example:
    >>> kp.probes.predicted_decrease(inputs)
    {'model': 0.083}

    Args:
        inputs: `ProbeInputs` with targets, of a compiled model; the first 256 examples count.

    Raises:
        NotApplicableError: there is no loss.

    Reference:
        Lyle et al., 2024, https://arxiv.org/abs/2402.18762
    """
    squares = [np.sum(np.square(g.numpy(), dtype=np.float64)) for g in inputs.gradients.values()]
    return {MODEL: float(np.sum(squares))}


def _kernel(inputs: ProbeInputs, examples: int, scalarisation: str) -> np.ndarray:
    model = inputs.model
    variables = list(model.trainable_variables)
    size = sum(math.prod(v.shape) for v in variables)
    if not size:
        raise NotApplicableError(f"{model.name!r} has no weights to train")
    count = min(inputs.examples, examples)
    x = keras.tree.map_structure(lambda a: a[:count], inputs.x)
    logarithms = inputs.classifies and inputs.logits is not inputs.outputs
    flat = sum(math.prod(o.shape[1:]) for o in keras.tree.flatten(inputs.outputs))
    which = np.zeros(count, np.int32)
    rows = np.arange(count)
    if scalarisation == "all":
        rows, which = np.repeat(rows, flat), np.tile(np.arange(flat, dtype=np.int32), count)
    elif scalarisation == "true":
        which = _classes(inputs, count)
    total = scalarisation == "sum"

    def value(x: typing.Any, which: tf.Tensor) -> tf.Tensor:
        parts = keras.tree.flatten(model(x, training=False))
        outputs = tf.concat([tf.reshape(tf.cast(o, tf.float32), [-1]) for o in parts], 0)
        if logarithms:
            outputs = tf.math.log(tf.maximum(outputs, 1e-30))
        return tf.reduce_sum(outputs) if total else tf.gather(outputs, which[0])

    compiled = inputs.compiled(
        f"tangent_kernel {total} {logarithms}",
        lambda x, which: example_gradients(value, variables, (x, which)),
    )

    def gradients(start: int, stop: int) -> np.ndarray:
        some = keras.tree.map_structure(lambda a: tf.gather(a, rows[start:stop]), x)
        return compiled(some, tf.constant(which[start:stop])).numpy()

    return gram(gradients, len(rows), size)


def _classes(inputs: ProbeInputs, count: int) -> np.ndarray:
    """The true classes as int32 of shape `(count,)`, from labels or one-hot targets."""
    if not inputs.classifies or inputs.y is None:
        raise NotApplicableError('`scalarisation="true"` needs a classifier and targets')
    labels, classes = np.asarray(inputs.y[:count]), inputs.outputs.shape[1]
    if labels.ndim == 2 and labels.shape[1] == classes:
        return labels.argmax(1).astype(np.int32)
    if labels.size != count:
        raise NotApplicableError(f"no class per example in targets of shape {labels.shape}")
    return labels.reshape(-1).astype(np.int32)

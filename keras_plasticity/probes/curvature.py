"""Eigenvalues of the Hessian of the loss.

All probes raise `NotApplicableError` where `hessian_product` does.
"""

from __future__ import annotations

import collections.abc
import math
import typing

import numpy as np
import scipy.linalg
import tensorflow as tf

from keras_plasticity.batch_loss import batch_loss
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.per_example import flat_gradient, half_scale
from keras_plasticity.probes.probe import NotApplicableError, probe

Matvec = collections.abc.Callable[[np.ndarray], typing.Any]


def lanczos(
    matvec: Matvec, dim: int, steps: int, seed: int = 0, tolerance: float = 0.0
) -> tuple[np.ndarray, np.ndarray]:
    """Returns approximate eigenvalues of a symmetric matrix, and their weights.

    With full re-orthogonalisation, in float64.

    ```python
    T = V.T @ A @ V  # tridiagonal; V spans v, A v, A A v ... of a random unit vector v
    values, U = eigh(T)
    weights = U[0] ** 2  # quadrature: v.T @ g(A) @ v is about sum(weights * g(values))
    ```

    Example:
    >>> values, weights = lanczos(lambda v: matrix @ v, dim=50, steps=20)

    Args:
        matvec: maps a float64 vector of shape `(dim,)` to the matrix times it.
        dim: int, size of the matrix.
        steps: int, products at most; fewer where the vectors span all that can be reached.
        seed: int, of the first vector. Default 0.
        tolerance: float, stop as soon as the least and the largest value are known this well,
            relative to the larger of their magnitude and a hundredth of the norm. Default 0:
            never.

    Returns:
        Values in ascending order and weights that add up to 1, float64. A product that is not
        finite gives the value NaN with weight 1.

    Reference:
        Golub and Meurant, "Matrices, Moments and Quadrature with Applications", 2010,
        https://press.princeton.edu/books/hardcover/9780691143415
    """
    steps = min(steps, dim)
    basis = np.zeros((steps, dim))
    diagonal: list[float] = []
    beside: list[float] = []
    vector = np.random.default_rng(seed).standard_normal(dim)
    basis[0] = vector / np.linalg.norm(vector)
    while True:
        k = len(diagonal)
        product = np.array(matvec(basis[k]), np.float64)
        if not np.all(np.isfinite(product)):
            return np.array([np.nan]), np.ones(1)
        diagonal.append(float(basis[k] @ product))
        product -= diagonal[k] * basis[k]
        if k:
            product -= beside[k - 1] * basis[k - 1]
        before = float(np.linalg.norm(product))
        product -= _projection(basis[: k + 1], product)
        norm = float(np.linalg.norm(product))
        if norm < 0.7 * before:  # little is left, so its direction is rounding: once more
            product -= _projection(basis[: k + 1], product)
            norm = float(np.linalg.norm(product))
        ended = k + 1 == steps or norm <= 1e-10 * max(map(abs, [*diagonal, *beside]))
        if ended or (tolerance and k % 4 == 3):
            values, vectors = scipy.linalg.eigh_tridiagonal(diagonal, beside)
            if ended or _converged(values, norm * np.abs(vectors[-1]), tolerance):
                return values, vectors[0] ** 2
        beside.append(norm)
        basis[k + 1] = product / norm


def hutchinson(matvec: Matvec, dim: int, vectors: int, seed: int = 0) -> np.ndarray:
    """Returns unbiased estimates of the trace, `v.T @ A @ v` with entries of `v` -1 or 1.

    Args:
        matvec: maps a float64 vector of shape `(dim,)` to the matrix times it.
        dim: int, size of the matrix.
        vectors: int, number of estimates.
        seed: int. Default 0.

    Reference:
        Hutchinson, "A Stochastic Estimator of the Trace of the Influence Matrix", 1989,
        https://doi.org/10.1080/03610918908812806
    """
    draw = np.random.default_rng(seed)
    signs = (draw.integers(2, size=dim) * 2.0 - 1.0 for _ in range(vectors))
    return np.array([v @ np.asarray(matvec(v), np.float64) for v in signs])


class SpectralDensity(typing.NamedTuple):
    """Density of eigenvalues.

    Attributes:
        grid: float64 array of shape `(points,)`, eigenvalues.
        density: float64 array of shape `(points,)`, which integrates to about 1.
        values: float64 array, nodes of the quadrature.
        weights: float64 array, weights of the nodes, adding up to 1.
    """

    grid: np.ndarray
    density: np.ndarray
    values: np.ndarray
    weights: np.ndarray


def smoothed(
    values: np.ndarray, weights: np.ndarray, points: int = 1000, width: float = 0.01
) -> SpectralDensity:
    """Returns nodes of a quadrature smoothed by a Gaussian.

    ```python
    density(t) = sum(weights * normal(t; mean=values, deviation=width * (max - min)))
    ```

    Args:
        values: float64 array, nodes.
        weights: float64 array, adding up to 1.
        points: int, size of the grid. Default 1000.
        width: float, deviation of the Gaussian as a share of the range. Default 0.01.
    """
    low, high = float(values.min()), float(values.max())
    deviation = width * ((high - low) or abs(high) or 1.0)
    grid = np.linspace(low - 5 * deviation, high + 5 * deviation, points)
    z = (grid[:, None] - values[None, :]) / deviation
    density = np.exp(-0.5 * z**2) @ weights / (deviation * math.sqrt(2 * math.pi))
    return SpectralDensity(grid, density, values, weights)


def hessian_product(inputs: ProbeInputs, examples: int = 256) -> tuple[Matvec, int]:
    """Returns a function that multiplies the Hessian with a vector, and its size.

    The Hessian is that of the mean loss without penalties, in inference mode, with respect to
    all trainable weights one after the other, by two backward passes.

    Args:
        inputs: `ProbeInputs` with targets, of a compiled model.
        examples: int, the first ones of the inputs. Default 256.

    Raises:
        NotApplicableError: there is no loss, or nothing to train.
    """
    inputs.need_loss()
    model = inputs.model
    variables = list(model.trainable_variables)
    dim = sum(math.prod(v.shape) for v in variables)
    if not dim:
        raise NotApplicableError(f"{model.name!r} has no weights to train")

    scale = half_scale(model)

    def product(vector: tf.Tensor, x: typing.Any, y: typing.Any) -> tf.Tensor:
        with tf.GradientTape() as outer:
            with tf.GradientTape() as inner:
                loss = batch_loss(model, x, y)
                loss *= scale
            along = tf.reduce_sum(flat_gradient(inner, loss, variables) * vector)
        return flat_gradient(outer, along, variables) / scale

    compiled = inputs.compiled("hessian_product", product)
    count = min(inputs.examples, examples)
    rows = _rows(inputs, count)
    ends = [(start, min(start + rows, count)) for start in range(0, count, rows)]
    batches = [(stop - start, inputs.batch(slice(start, stop))) for start, stop in ends]

    def matvec(vector: np.ndarray) -> np.ndarray:
        norm = float(np.linalg.norm(vector)) or 1.0  # a unit vector suits half precision
        tensor = tf.constant(vector / norm, tf.float32)
        parts = [(norm * size / count) * compiled(tensor, *data).numpy() for size, data in batches]
        return np.asarray(np.sum(parts, axis=0, dtype=np.float64))

    return matvec, dim


@probe("curvature", better="lower", expensive=True)
def hessian_top_eigenvalue(
    inputs: ProbeInputs,
    examples: int = 256,
    steps: int = 60,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Largest eigenvalue of the Hessian of the loss, by sign and not by magnitude.

    Use it for sharpness: above `2 / learning_rate` plain gradient descent diverges. It grows
    with the norm of the weights, so read both.

    ```python
    max(eigenvalues(hessian(mean(loss))))  # Lanczos, right also when |min| > max
    ```

    Example:
    >>> kp.probes.hessian_top_eigenvalue(inputs)
    {'model': 14.2}

    Args:
        inputs: `ProbeInputs`.
        examples: see `hessian_product`.
        steps: int, products with the Hessian at most. Default 60.
        tolerance: float, relative, at which it stops sooner. Default 1e-3.
        seed: int, of the first vector. Default 0.

    Reference:
        Lyle et al., "Understanding Plasticity in Neural Networks", 2023,
        https://arxiv.org/abs/2303.01486

    Deviations:
        Lanczos in place of power iteration, which finds the largest magnitude. Penalties are
        no part of the loss.
    """
    return {MODEL: float(_extremes(inputs, examples, steps, tolerance, seed)[-1])}


@probe("curvature", expensive=True)
def hessian_bottom_eigenvalue(
    inputs: ProbeInputs,
    examples: int = 256,
    steps: int = 60,
    tolerance: float = 1e-3,
    seed: int = 0,
) -> dict[str, float]:
    """Least eigenvalue of the Hessian of the loss; negative where it curves downwards.

    Use it beside `hessian_top_eigenvalue`; both come from one computation.

    ```python
    min(eigenvalues(hessian(mean(loss))))
    ```

    Example:
    >>> kp.probes.hessian_bottom_eigenvalue(inputs)
    {'model': -0.7}

    Args:
        inputs: `ProbeInputs`.
        examples: see `hessian_top_eigenvalue`.
        steps: see `hessian_top_eigenvalue`.
        tolerance: see `hessian_top_eigenvalue`.
        seed: see `hessian_top_eigenvalue`.
    """
    return {MODEL: float(_extremes(inputs, examples, steps, tolerance, seed)[0])}


@probe("curvature", expensive=True)
def hessian_trace(
    inputs: ProbeInputs, examples: int = 256, vectors: int = 16, seed: int = 0
) -> dict[str, float]:
    """Sum of the eigenvalues of the Hessian of the loss, estimated.

    Use it for the mean curvature (divide by the number of weights), where one direction says
    too little.

    ```python
    mean(v @ hessian(mean(loss)) @ v)  # over random v with entries -1 or 1
    ```

    Example:
    >>> kp.probes.hessian_trace(inputs)
    {'model': 96.0}

    Args:
        inputs: `ProbeInputs`.
        examples: see `hessian_product`.
        vectors: int, products with the Hessian; the error falls with the root. Default 16.
        seed: int, of the vectors. Default 0.

    Reference:
        See `hutchinson`.
    """
    matvec, dim = hessian_product(inputs, examples)
    return {MODEL: float(hutchinson(matvec, dim, vectors, seed).mean())}


def hessian_spectral_density(
    inputs: ProbeInputs,
    examples: int = 256,
    steps: int = 80,
    vectors: int = 4,
    points: int = 1000,
    width: float = 0.01,
    seed: int = 0,
) -> SpectralDensity:
    """Density of the eigenvalues of the Hessian of the loss, for plots; no probe.

    Use it at the start and the end of training. Its effective rank alone misleads: it falls
    when the largest eigenvalue grows.

    ```python
    mean(sum(weights * normal(t; values, width)))  # of `lanczos` from random vectors
    ```

    Example:
    >>> grid, density, _, _ = kp.probes.hessian_spectral_density(inputs)

    Args:
        inputs: `ProbeInputs`.
        examples: see `hessian_product`.
        steps: int, products with the Hessian for each vector. Default 80.
        vectors: int, random first vectors. Default 4.
        points: see `smoothed`.
        width: see `smoothed`.
        seed: int, of the vectors. Default 0.

    Reference:
        Ghorbani, Krishnan and Xiao, "An Investigation into Neural Net Optimization via Hessian
        Eigenvalue Density", 2019, https://arxiv.org/abs/1901.10159, Algorithm 2.
    """
    matvec, dim = hessian_product(inputs, examples)
    found = [lanczos(matvec, dim, steps, seed + i) for i in range(vectors)]
    values = np.concatenate([v for v, _ in found])
    weights = np.concatenate([w for _, w in found]) / vectors
    return smoothed(values, weights, points, width)


def _extremes(
    inputs: ProbeInputs, examples: int, steps: int, tolerance: float, seed: int
) -> np.ndarray:
    def run() -> np.ndarray:
        matvec, dim = hessian_product(inputs, examples)
        return lanczos(matvec, dim, steps, seed, tolerance)[0]

    return inputs.once(("hessian_extremes", examples, steps, tolerance, seed), run)


def _rows(inputs: ProbeInputs, count: int) -> int:
    """Examples per call; two backward passes hold some eight times what a forward pass does."""
    return min(count, max(8, inputs.rows // 8))


def _projection(basis: np.ndarray, vector: np.ndarray) -> np.ndarray:
    """`basis.T @ basis @ vector`, without threads of BLAS that fight those of TensorFlow."""
    shares = np.einsum("ij,j->i", basis, vector)
    return np.einsum("i,ij->j", shares, basis)


def _converged(values: np.ndarray, residuals: np.ndarray, tolerance: float) -> bool:
    magnitudes = np.abs(values)
    wanted = np.maximum(magnitudes, 0.01 * magnitudes.max())
    return bool(np.all(residuals[[0, -1]] <= tolerance * wanted[[0, -1]]))

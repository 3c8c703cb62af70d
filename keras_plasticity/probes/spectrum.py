"""Numbers that are all called the rank of a matrix, as functions of its singular values."""

from __future__ import annotations

import functools
import math

import numpy as np
import threadpoolctl


def singular_values(matrix: np.ndarray, centred: bool = False) -> np.ndarray:
    """Returns the singular values of a matrix in falling order, float64.

    By the eigenvalues of the smaller Gram matrix in float64, which resolves values down to
    about 1e-8 of the largest.

    Args:
        matrix: float, shape `(rows, columns)`, or `(blocks, rows, columns)` for the block
            diagonal matrix of these.
        centred: bool, whether the mean of each column is taken out first, in a block over the
            rows of the block. Default False.

    Returns:
        Array of shape `(min(rows, columns),)`, of `blocks` times as many for blocks; NaN where
        the matrix is not finite.
    """
    values = np.asarray(matrix, np.float64)
    rows, columns = values.shape[-2:]
    if not np.all(np.isfinite(values)):
        return np.full(math.prod(values.shape[:-2]) * min(rows, columns), np.nan)
    if centred:
        values = values - values.mean(-2, keepdims=True)
    turned = np.swapaxes(values, -2, -1)
    # BLAS threads that wait for more work would take time from TensorFlow's for a while after.
    with _blas().limit(limits=1, user_api="blas"):
        gram = values @ turned if rows < columns else turned @ values
        squares = np.sort(np.linalg.eigvalsh(gram), axis=None)[::-1]
    return np.sqrt(np.maximum(squares, 0))


@functools.cache
def _blas() -> threadpoolctl.ThreadpoolController:
    return threadpoolctl.ThreadpoolController()


def effective_rank(sigma: np.ndarray) -> float:
    """`exp(-sum(p * log(p)))` with `p = sigma / sum(sigma)`; 0 of the zero matrix.

    Reference:
        Roy and Vetterli, "The effective rank", 2007.
    """
    total = np.sum(sigma)
    if total == 0:
        return 0.0
    p = sigma / total
    return float(np.exp(-np.sum(p * np.log(np.where(p > 0, p, 1)))))


def stable_rank(sigma: np.ndarray) -> float:
    """`sum(sigma**2) / max(sigma)**2`; 0 of the zero matrix.

    Reference:
        Rudelson and Vershynin, "Sampling from large matrices", 2007.
    """
    top = np.max(sigma)
    return 0.0 if top == 0 else float(np.sum((sigma / top) ** 2))


def srank(sigma: np.ndarray, delta: float = 0.01) -> float:
    """Least k with `sum(sigma[:k]) >= (1 - delta) * sum(sigma)`.

    Reference:
        Kumar, Agarwal, Ghosh, Levine, "Implicit Under-Parameterization Inhibits Data-Efficient
        Deep Reinforcement Learning", 2021, https://arxiv.org/abs/2010.14498.
    """
    return _least(sigma, 1 - delta)


def pca_rank(sigma: np.ndarray, share: float = 0.99) -> float:
    """Least k with `sum(sigma[:k]**2) >= share * sum(sigma**2)`."""
    return _least(sigma**2, share)


def feature_rank(sigma: np.ndarray, examples: int, eps: float = 0.01) -> float:
    """Number of `sigma / sqrt(examples)` above `eps`.

    Reference:
        Lyle, Rowland, Dabney, "Understanding and Preventing Capacity Loss in Reinforcement
        Learning", 2022, https://arxiv.org/abs/2204.09560.
    """
    if not np.all(np.isfinite(sigma)):
        return float("nan")
    return float(np.sum(sigma / np.sqrt(examples) > eps))


def participation_ratio(sigma: np.ndarray) -> float:
    """`sum(sigma**2)**2 / sum(sigma**4)`; 0 of the zero matrix."""
    top = np.max(sigma)
    if top == 0:
        return 0.0
    values = (sigma / top) ** 2
    return float(np.sum(values) ** 2 / np.sum(values**2))


def _least(values: np.ndarray, share: float) -> float:
    total = np.sum(values)
    if not np.isfinite(total):
        return float("nan")
    if total == 0:
        return 0.0
    return float(np.searchsorted(np.cumsum(values), share * total * (1 - 1e-12)) + 1)

"""What a matrix of inner products says of the rows it comes from."""

from __future__ import annotations

import math

import numpy as np

from keras_plasticity.probes.probe import NotApplicableError

CLAMP = 1e-10  # of the largest eigenvalue; what is below is rounding of float32 gradients


def cosines(products: np.ndarray) -> np.ndarray:
    """Returns `K_ij / sqrt(K_ii * K_jj)`; 0 where a row is zero.

    Args:
        products: Gram matrix, float64.
    """
    norms = np.sqrt(np.maximum(np.diag(products), 0))
    norms = np.where(np.isnan(np.diag(products)), np.nan, norms)
    inverse = np.divide(1.0, norms, out=np.zeros_like(norms), where=norms != 0)
    return products * inverse[:, None] * inverse[None, :]


def off_diagonal(matrix: np.ndarray) -> np.ndarray:
    """Returns the entries that are not on the diagonal, as a vector."""
    return matrix[~np.eye(len(matrix), dtype=bool)]


def eigenvalues(matrix: np.ndarray) -> np.ndarray:
    """Returns the eigenvalues of a symmetric matrix, largest first; NaN where it has NaN."""
    if not np.all(np.isfinite(matrix)):
        return np.full(len(matrix), np.nan)
    return np.linalg.eigvalsh(matrix)[::-1]


def several(matrix: np.ndarray) -> np.ndarray:
    """Returns the matrix.

    Raises:
        NotApplicableError: it has one row, so there are no pairs.
    """
    if len(matrix) < 2:
        raise NotApplicableError("pairs need two examples or more")
    return matrix


def condition_number(kernel: np.ndarray, clamp: float = CLAMP) -> float:
    """Returns `max(lambda) / max(min(lambda), clamp * max(lambda))`; NaN of a zero matrix."""
    values = eigenvalues(kernel)
    if not values[0] > 0:
        return math.nan
    return float(values[0] / max(values[-1], clamp * values[0]))


def rank_one_residual(kernel: np.ndarray) -> float:
    """Returns how much of a kernel neither its first direction nor the diagonal explains.

    ```python
    R = K - lambda_1 * u_1 @ u_1.T
    norm(R - diag(R)) / norm(K)  # Frobenius
    ```

    Args:
        kernel: symmetric float64 matrix.
    """
    if not np.all(np.isfinite(kernel)):
        return math.nan
    norm = np.linalg.norm(kernel)
    if norm == 0:
        return math.nan
    values, vectors = np.linalg.eigh(kernel)
    rest = kernel - values[-1] * np.outer(vectors[:, -1], vectors[:, -1])
    return float(np.linalg.norm(off_diagonal(rest)) / norm)

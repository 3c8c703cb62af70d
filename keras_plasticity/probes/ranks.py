"""Ranks of features and of weights; each name carries its formula, see `spectrum`."""

from __future__ import annotations

import collections.abc
import math

import numpy as np

from keras_plasticity.probes import spectrum
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.kernel_matrix import matrix_blocks, owners
from keras_plasticity.probes.probe import probe

OF = ("last", "features", "weights")


@probe("rank", better="higher", needs=["readout"])
def effective_rank(
    inputs: ProbeInputs, of: str = "last", centred: bool = False, examples: int = 512
) -> dict[str, float]:
    """`exp(entropy(sigma / sum(sigma)))` of the singular values.

    At most `rank_ceiling`: compare networks at the same number of examples.

    Args:
        inputs: `ProbeInputs`.
        of: `"last"`, what the output layer reads, of several output layers each by its name;
            `"features"`, activations of each hidden layer; `"weights"`, each kernel as the
            matrix of its layer. Default `"last"`.
        centred: bool, whether the mean over examples is taken out first. Default False.
        examples: int, of features that are used at most, the first ones. Default 512.

    Reference:
        Roy and Vetterli, "The effective rank", 2007.
    """
    return _ranks(inputs, of, centred, spectrum.effective_rank, examples)


@probe("rank", needs=["readout"])
def rank_ceiling(
    inputs: ProbeInputs, of: str = "last", examples: int | None = 512
) -> dict[str, float]:
    """`min(rows, columns)` of the matrix, which no rank of it exceeds.

    Report it beside a rank. As it is for `effective_rank`; the other ranks count all examples,
    so theirs is `rank_ceiling(inputs, of="features", examples=None)`, and that of `stable_rank`
    is `rank_ceiling(inputs, of="weights")`.

    Args:
        inputs: `ProbeInputs`.
        of: see `effective_rank`. Default `"last"`. A grouped or depthwise kernel is block
            diagonal, and its ceiling the sum of those of the blocks.
        examples: int, of features that are used at most, or None for all. Default 512.
    """
    return {
        name: float(min(m.shape[-2:]) * math.prod(m.shape[:-2]))
        for name, m in _matrices(inputs, of, examples).items()
    }


@probe("rank", better="higher", expensive=True)
def stable_rank(
    inputs: ProbeInputs, of: str = "weights", centred: bool = False
) -> dict[str, float]:
    """`sum(sigma**2) / max(sigma)**2`; at most `rank_ceiling` of the weights.

    Args:
        inputs: `ProbeInputs`.
        of: see `effective_rank`. Default `"weights"`.
        centred: see `effective_rank`.
    """
    return _ranks(inputs, of, centred, spectrum.stable_rank)


@probe("rank", better="higher", expensive=True, needs=["features"])
def srank(
    inputs: ProbeInputs, delta: float = 0.01, of: str = "features", centred: bool = False
) -> dict[str, float]:
    """Least k with `sum(sigma[:k]) >= (1 - delta) * sum(sigma)`; at most `rank_ceiling`.

    Args:
        inputs: `ProbeInputs`.
        delta: float. Default 0.01.
        of: see `effective_rank`. Default `"features"`.
        centred: see `effective_rank`.

    Reference:
        Kumar et al. 2021, https://arxiv.org/abs/2010.14498; elsewhere "stable rank".
    """
    return _ranks(inputs, of, centred, lambda sigma: spectrum.srank(sigma, delta))


@probe("rank", better="higher", expensive=True, needs=["features"])
def pca_rank(
    inputs: ProbeInputs, share: float = 0.99, of: str = "features", centred: bool = True
) -> dict[str, float]:
    """Least k with `sum(sigma[:k]**2) >= share * sum(sigma**2)`; at most `rank_ceiling`.

    Args:
        inputs: `ProbeInputs`.
        share: float, of the variance. Default 0.99.
        of: see `effective_rank`. Default `"features"`.
        centred: see `effective_rank`. Default True.
    """
    return _ranks(inputs, of, centred, lambda sigma: spectrum.pca_rank(sigma, share))


@probe("rank", better="higher", expensive=True, needs=["features"])
def feature_rank(inputs: ProbeInputs, eps: float = 0.01) -> dict[str, float]:
    """Number of singular values of `features / sqrt(examples)` above `eps`, of each layer.

    At most `rank_ceiling` of the features.

    Args:
        inputs: `ProbeInputs`.
        eps: float. Default 0.01.

    Reference:
        Lyle et al. 2022, https://arxiv.org/abs/2204.09560.
    """
    count = inputs.examples
    return _ranks(inputs, "features", False, lambda s: spectrum.feature_rank(s, count, eps))


@probe("rank", better="higher", expensive=True, needs=["features"])
def participation_ratio(inputs: ProbeInputs, of: str = "features") -> dict[str, float]:
    """`sum(v)**2 / sum(v**2)` of the variances v along the principal axes; at most `rank_ceiling`.

    Args:
        inputs: `ProbeInputs`.
        of: see `effective_rank`. Default `"features"`.
    """
    return _ranks(inputs, of, True, spectrum.participation_ratio)


@probe("", better="lower", expensive=True, needs=["readout"])
def feature_top_singular_value(inputs: ProbeInputs, of: str = "last") -> dict[str, float]:
    """Largest singular value of `features / sqrt(examples)`.

    Large targets grow it: what all outputs share is carried by one direction of the features.

    Args:
        inputs: `ProbeInputs`.
        of: `"last"` or `"features"`, see `effective_rank`. Default `"last"`.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762.
    """
    size = np.sqrt(inputs.examples)
    return {name: float(sigma[0] / size) for name, sigma in spectra(inputs, of).items()}


def spectra(
    inputs: ProbeInputs, of: str, centred: bool = False, examples: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the singular values that the ranks are functions of, by layer.

    A kernel is the matrix that its layer multiplies inputs with, see
    `kernel_matrix.matrix_blocks`.

    Args:
        inputs: `ProbeInputs`.
        of: `"last"`, `"features"` or `"weights"`.
        centred: bool, whether the mean over rows is taken out first. Default False.
        examples: int, of features that are used at most. Default: all.

    Raises:
        ValueError: `of` is none of these.
    """

    def compute() -> dict[str, np.ndarray]:
        matrices = _matrices(inputs, of, examples)
        return {name: spectrum.singular_values(m, centred) for name, m in matrices.items()}

    return inputs.once(("spectra", of, centred, examples), compute)


def _matrices(inputs: ProbeInputs, of: str, examples: int | None) -> dict[str, np.ndarray]:
    """Matrices or their diagonal blocks, shape `(rows, columns)` or `(blocks, rows, columns)`."""
    if of not in OF:
        raise ValueError(f"`of` must be one of {OF}. Received: of={of!r}")
    if of == "weights":
        layers = owners(inputs.model)
        return {
            name: matrix_blocks(np.asarray(v.value, np.float32), layers.get(id(v)), v.name)
            for name, v in inputs.kernels.items()
        }
    if of == "features":
        found = inputs.units("features")
    else:
        found = inputs.units("readout")
        if len(found) == 1:
            found = {MODEL: next(iter(found.values()))}
    return {name: h[:examples].reshape(-1, h.shape[-1]) for name, h in found.items()}


def _ranks(
    inputs: ProbeInputs,
    of: str,
    centred: bool,
    rank: collections.abc.Callable,
    examples: int | None = None,
) -> dict[str, float]:
    return {name: rank(sigma) for name, sigma in spectra(inputs, of, centred, examples).items()}

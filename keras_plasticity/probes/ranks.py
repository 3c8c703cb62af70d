"""Ranks of features and of weights; each name carries its formula, see `spectrum`."""

from __future__ import annotations

import collections.abc

import numpy as np

from keras_plasticity.probes import spectrum
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.probe import probe

OF = ("last", "features", "weights")


@probe("rank", better="higher", needs=["readout"])
def effective_rank(
    inputs: ProbeInputs, of: str = "last", centred: bool = False, examples: int = 512
) -> dict[str, float]:
    """`exp(entropy(sigma / sum(sigma)))` of the singular values.

    At most `min(examples, size)`: compare networks at the same number of examples.

    Args:
        inputs: `ProbeInputs`.
        of: `"last"`, what the output layer reads; `"features"`, activations of each hidden layer;
            `"weights"`, each kernel, its axes but the last flattened. Default `"last"`.
        centred: bool, whether the mean over examples is taken out first. Default False.
        examples: int, of features that are used at most, the first ones. Default 512.

    Reference:
        Roy and Vetterli, "The effective rank", 2007.
    """
    return _ranks(inputs, of, centred, spectrum.effective_rank, examples)


@probe("rank", better="higher", expensive=True)
def stable_rank(
    inputs: ProbeInputs, of: str = "weights", centred: bool = False
) -> dict[str, float]:
    """`sum(sigma**2) / max(sigma)**2`.

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
    """Least k with `sum(sigma[:k]) >= (1 - delta) * sum(sigma)`.

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
    """Least k with `sum(sigma[:k]**2) >= share * sum(sigma**2)`.

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
    """`sum(v)**2 / sum(v**2)` of the variances v along the principal axes.

    Args:
        inputs: `ProbeInputs`.
        of: see `effective_rank`. Default `"features"`.
    """
    return _ranks(inputs, of, True, spectrum.participation_ratio)


def spectra(
    inputs: ProbeInputs, of: str, centred: bool = False, examples: int | None = None
) -> dict[str, np.ndarray]:
    """Returns the singular values that the ranks are functions of, by layer.

    Features and kernels of more than two axes are flattened to two; the last one stays.

    Args:
        inputs: `ProbeInputs`.
        of: `"last"`, `"features"` or `"weights"`.
        centred: bool, whether the mean over rows is taken out first. Default False.
        examples: int, of features that are used at most. Default: all.

    Raises:
        ValueError: `of` is none of these.
    """
    if of not in OF:
        raise ValueError(f"`of` must be one of {OF}. Received: of={of!r}")

    def compute() -> dict[str, np.ndarray]:
        if of == "weights":
            matrices = {k: np.asarray(v.value, np.float32) for k, v in inputs.kernels.items()}
        elif of == "last":
            matrices = {MODEL: inputs.features[:examples]}
        else:
            matrices = {k: h[:examples] for k, h in inputs.units("features").items()}
        flat = {k: m.reshape(-1, m.shape[-1]) for k, m in matrices.items()}
        return {k: spectrum.singular_values(m, centred) for k, m in flat.items()}

    return inputs.once(("spectra", of, centred, examples), compute)


def _ranks(
    inputs: ProbeInputs,
    of: str,
    centred: bool,
    rank: collections.abc.Callable,
    examples: int | None = None,
) -> dict[str, float]:
    return {name: rank(sigma) for name, sigma in spectra(inputs, of, centred, examples).items()}

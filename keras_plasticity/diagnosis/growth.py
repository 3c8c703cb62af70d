"""How large weights are beside the start of training."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np

from keras_plasticity.probes.inputs import Snapshot
from keras_plasticity.surgery.weights import initializers, is_kernel, law
from keras_plasticity.units import unit_groups

_ZERO = 1e-8  # weights that start at zero have no growth
# Offsets start at zero as a rule; tables of embeddings start small and grow in healthy networks.
_LEFT_OUT = ("bias", "beta", "offset", "embeddings")


@dataclasses.dataclass(frozen=True)
class Growth:
    """Growth of each weight: `rms(w) / rms(w at the start)`.

    Attributes:
        hidden: dict from paths of hidden kernels and scales to their growth.
        output: dict, the same of the kernels of the output layer.
        start: dict from all these paths to the root mean square at the start.
        unknown: tuple of paths of kernels of which no start is known.
    """

    hidden: dict[str, float]
    output: dict[str, float]
    start: dict[str, float]
    unknown: tuple[str, ...] = ()


def growth(model: keras.Model, reference: keras.Model | Snapshot | None = None) -> Growth:
    """Measures the growth of weights that do not start at zero.

    Args:
        model: `keras.Model`.
        reference: the model at its start, or one built as it was; weights are matched by
            their order (models) or path (snapshots). Default: what the layers' initializers
            give on average.

    Raises:
        ValueError: the reference has other weights.
    """
    start = _law(model) if reference is None else _of(model, reference)
    last = output_kernels(model)
    hidden: dict[str, float] = {}
    output: dict[str, float] = {}
    unknown: list[str] = []
    for variable in model.trainable_variables:
        if variable.name in _LEFT_OUT or not keras.backend.is_float_dtype(variable.dtype):
            continue
        if variable.path not in start:
            unknown += [variable.path] if is_kernel(variable) else []
            continue
        if start[variable.path] > _ZERO:
            kind = output if variable.path in last else hidden
            kind[variable.path] = rms(variable.value) / start[variable.path]
    return Growth(hidden, output, start, tuple(unknown))


def rms(values) -> float:
    """Returns the root mean square of an array."""
    return float(np.sqrt(np.mean(np.square(np.asarray(values, np.float64)))))


def output_kernels(model: keras.Model) -> set[str]:
    """Returns the paths of the kernels that compute the outputs; of unknown models the last."""
    try:
        groups = [g for g in unit_groups(model) if g.blocked == "output of the model"]
        found = {p.variable.path for g in groups for p in g.incoming if is_kernel(p.variable)}
    except ValueError:
        found = set()
    kernels = [v.path for v in model.trainable_variables if is_kernel(v)]
    return found or set(kernels[-1:])


def _law(model: keras.Model) -> dict[str, float]:
    known, start = initializers(model), {}
    for variable in model.trainable_variables:
        if id(variable) in known:
            mean, deviation = law(known[id(variable)], variable.shape)
            start[variable.path] = float(np.hypot(mean, deviation))
    return start


def _of(model: keras.Model, reference: keras.Model | Snapshot) -> dict[str, float]:
    variables = model.trainable_variables
    if isinstance(reference, Snapshot):
        pairs = {v.path: reference.weights.get(v.path) for v in variables}
    else:
        others = reference.trainable_variables
        pairs = {v.path: w.value for v, w in zip(variables, others, strict=False)}
        if len(variables) != len(others):
            pairs = {}
    shapes = {path: getattr(value, "shape", None) for path, value in pairs.items()}
    if not pairs or any(tuple(shapes[v.path] or ()) != tuple(v.shape) for v in variables):
        raise ValueError(
            "`reference` must have the weights of `model`: the model as it was before, or one "
            f"built in the same way. Received: reference={reference!r:.80}"
        )
    return {path: rms(value) for path, value in pairs.items()}

"""What the network returns: saturated softmaxes, large outputs, change since before."""

from __future__ import annotations

import numpy as np
import scipy.special

from keras_plasticity.probes import spectrum
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError, probe


@probe("nats", better="higher", needs=["outputs"])
def softmax_entropy(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over examples of `-sum(p * log(p))` of the softmax p of the logits.

    Args:
        inputs: `ProbeInputs` of a classifier.

    Raises:
        NotApplicableError: the model is no classifier.
    """
    log_p = scipy.special.log_softmax(inputs.logits.astype(np.float64), -1)
    return {MODEL: float(-np.sum(np.exp(log_p) * log_p, -1).mean())}


@probe("share", better="lower", expensive=True, needs=["outputs"])
def saturated_fraction(inputs: ProbeInputs, above: float = 0.99) -> dict[str, float]:
    """Share of examples at which the largest class probability exceeds `above`.

    Args:
        inputs: `ProbeInputs` of a classifier.
        above: float. Default 0.99.

    Raises:
        NotApplicableError: the model is no classifier.
    """
    top = _probabilities(inputs).max(-1)
    return {MODEL: float(np.mean(top > above)) if np.all(np.isfinite(top)) else float("nan")}


@probe("probability", better="none", expensive=True, needs=["outputs"])
def max_probability(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over examples of the largest class probability.

    Args:
        inputs: `ProbeInputs` of a classifier.

    Raises:
        NotApplicableError: the model is no classifier.
    """
    return {MODEL: float(_probabilities(inputs).max(-1).mean())}


@probe("norm", better="lower", needs=["outputs"])
def logit_norm(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over examples of the norm of the logits, less their mean: `||f - mean(f)||_2`.

    The mean over classes does not move the softmax.

    Args:
        inputs: `ProbeInputs` of a classifier.

    Raises:
        NotApplicableError: the model is no classifier.
    """
    logits = inputs.logits.astype(np.float64)
    return {MODEL: float(np.linalg.norm(logits - logits.mean(-1, keepdims=True), axis=-1).mean())}


@probe("nats", better="none", expensive=True, needs=["outputs"])
def logit_margin(inputs: ProbeInputs) -> dict[str, float]:
    """Mean over examples of the largest logit less the second largest.

    Args:
        inputs: `ProbeInputs` of a classifier.

    Raises:
        NotApplicableError: the model is no classifier.
    """
    first_two = np.sort(inputs.logits.astype(np.float64), -1)[:, -2:]
    return {MODEL: float((first_two[:, 1] - first_two[:, 0]).mean())}


@probe("", better="none", expensive=True, needs=["outputs"])
def output_mean(inputs: ProbeInputs) -> dict[str, float]:
    """Mean of what the model returns, over examples and outputs.

    Args:
        inputs: `ProbeInputs` of a model with one output.
    """
    return {MODEL: float(_one_output(inputs).mean())}


@probe("", better="none", expensive=True, needs=["outputs"])
def output_deviation(inputs: ProbeInputs) -> dict[str, float]:
    """Standard deviation over examples of what the model returns, root mean square over outputs.

    Args:
        inputs: `ProbeInputs` of a model with one output.
    """
    return {MODEL: float(np.sqrt(_one_output(inputs).var(0).mean()))}


@probe("cosine", better="lower", expensive=True, needs=["outputs", "readout"])
def pseudo_bias(inputs: ProbeInputs) -> dict[str, float]:
    """How much of the mean prediction of a regression rests on one direction of the features.

    Features that must carry a large mean grow along one direction, which acts as a bias:

    ```python
    v = first right singular vector of Phi  # what the output layer reads, (examples, size)
    |cos(W v, mean(f))| * sigma_1**2 / sum(sigma**2)
    ```

    with f the outputs and W, from least squares, the linear map from features to outputs. 1
    where the features have one direction alone and it makes the mean; 0 where it makes none.

    Args:
        inputs: `ProbeInputs` of a regression with one output.

    Raises:
        NotApplicableError: the model is a classifier, or its output layer is not known.

    Reference:
        Lyle et al. 2024 on regression to large targets; the number is ours.
    """
    if inputs.classifies:
        raise NotApplicableError("the pseudo-bias is one of regressions")
    outputs, features = _one_output(inputs), inputs.features.astype(np.float64)
    if not (np.all(np.isfinite(outputs)) and np.all(np.isfinite(features))):
        return {MODEL: float("nan")}
    flat = features.reshape(-1, features.shape[-1])
    sigma = spectrum.singular_values(flat)
    total = np.sum(sigma**2)
    if total == 0 or len(flat) != len(outputs):
        return {MODEL: 0.0}
    first = np.linalg.eigh(flat.T @ flat)[1][:, -1]
    weights = np.linalg.lstsq(flat, outputs, rcond=None)[0]
    along, mean = first @ weights, outputs.mean(0)
    size = np.linalg.norm(along) * np.linalg.norm(mean)
    cosine = abs(float(along @ mean)) / size if size > 0 else 0.0
    return {MODEL: float(cosine * sigma[0] ** 2 / total)}


@probe("", better="none", expensive=True, on="reference", needs=["outputs"])
def churn(inputs: ProbeInputs) -> dict[str, float]:
    """Mean |f(x) - f_previous(x)| over examples and outputs since the snapshot before.

    Args:
        inputs: `ProbeInputs` with a `previous` snapshot of the same examples that was taken
            after `inputs.outputs`.

    Raises:
        NotApplicableError: there is no such snapshot.

    Reference:
        Tang et al., "Mitigating Plasticity Loss in Continual Reinforcement Learning by Reducing
        Churn", 2025, https://arxiv.org/abs/2506.00592.
    """
    before = inputs.previous.outputs if inputs.previous is not None else None
    now = _one_output(inputs)
    if before is None or np.shape(before) != now.shape:
        raise NotApplicableError("churn needs a snapshot `previous` of the same examples")
    return {MODEL: float(np.mean(np.abs(now - before)))}


def _probabilities(inputs: ProbeInputs) -> np.ndarray:
    return scipy.special.softmax(inputs.logits.astype(np.float64), -1)


def _one_output(inputs: ProbeInputs) -> np.ndarray:
    outputs = inputs.outputs
    if not isinstance(outputs, np.ndarray):
        raise NotApplicableError("the model has several outputs")
    return outputs.reshape(len(outputs), -1).astype(np.float64)

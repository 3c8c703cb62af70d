"""How the loss gradients of single examples agree.

All probes raise `NotApplicableError` where `gradient_products` does.
"""

from __future__ import annotations

import math

import numpy as np

from keras_plasticity.batch_loss import batch_loss
from keras_plasticity.probes.gram_matrix import cosines, eigenvalues, off_diagonal, several
from keras_plasticity.probes.inputs import MODEL, ProbeInputs
from keras_plasticity.probes.per_example import example_gradients, gram, half_scale
from keras_plasticity.probes.probe import NotApplicableError, probe
from keras_plasticity.probes.spectrum import effective_rank


def gradient_products(
    inputs: ProbeInputs, examples: int = 64, first_layer: bool = False
) -> np.ndarray:
    """Returns inner products of the loss gradients of the first examples.

    ```python
    G[i] = d loss(x_i, y_i) / d weights  # without penalties, in inference mode
    G @ G.T
    ```

    Args:
        inputs: `ProbeInputs` with targets, of a compiled model.
        examples: int, the first ones of the inputs. Default 64.
        first_layer: bool, whether only the first kernel counts. Default False: all trainable
            weights.

    Returns:
        float64 array of shape `(examples, examples)`.

    Raises:
        NotApplicableError: there is no loss, or nothing to train.
    """
    inputs.need_loss()
    model = inputs.model
    variables = list(inputs.kernels.values())[:1] if first_layer else model.trainable_variables
    size = sum(math.prod(v.shape) for v in variables)
    if not size:
        raise NotApplicableError(f"{model.name!r} has no weights to train")

    scale = half_scale(model)

    def value(x, y):
        return batch_loss(model, x, y) * scale

    compiled = inputs.compiled(
        f"example_gradients {first_layer}",
        lambda x, y: example_gradients(value, variables, (x, y)),
    )

    def run() -> np.ndarray:
        count = min(inputs.examples, examples)

        def rows(start: int, stop: int) -> np.ndarray:
            return compiled(*inputs.batch(slice(start, stop))).numpy()

        return gram(rows, count, size) / scale**2

    return inputs.once(("gradient_products", examples, first_layer), run)


def gradient_cosines(inputs: ProbeInputs, examples: int = 64) -> np.ndarray:
    """Returns cosines between the loss gradients of the first examples.

    Use it for a picture, sorted by class.

    ```python
    C[i, j] = <g_i, g_j> / (|g_i| * |g_j|)  # 0 where a gradient is 0
    ```

    Example:
    >>> plt.imshow(kp.probes.gradient_cosines(inputs))

    Args:
        inputs: `ProbeInputs`.
        examples: see `gradient_products`.

    Returns:
        float64 array of shape `(examples, examples)`.

    Reference:
        Lyle et al., "Understanding Plasticity in Neural Networks", 2023,
        https://arxiv.org/abs/2303.01486
    """
    return cosines(gradient_products(inputs, examples))


@probe("cosine", better="lower", expensive=True)
def gradient_cosine_mean(inputs: ProbeInputs, examples: int = 64) -> dict[str, float]:
    """Mean cosine between the loss gradients of different examples.

    Use it for gradients that all point one way, in which a network has collapsed.

    ```python
    mean(C[i, j])  # i != j
    ```

    Example:
    >>> kp.probes.gradient_cosine_mean(inputs)
    {'model': 0.08}

    Args:
        inputs: `ProbeInputs`.
        examples: see `gradient_products`; two or more.

    Raises:
        NotApplicableError: there is one example.

    Reference:
        Lyle et al., 2023, https://arxiv.org/abs/2303.01486
    """
    return {MODEL: float(np.mean(off_diagonal(several(gradient_cosines(inputs, examples)))))}


@probe("rank", better="higher", expensive=True)
def gradient_effective_rank(inputs: ProbeInputs, examples: int = 64) -> dict[str, float]:
    """Effective rank of the cosines between the loss gradients of examples.

    Use it for how many different directions the examples pull in.

    ```python
    p = eigenvalues(C) / sum(eigenvalues(C))
    exp(-sum(p * log(p)))
    ```

    Example:
    >>> kp.probes.gradient_effective_rank(inputs)
    {'model': 23.5}

    Args:
        inputs: `ProbeInputs`.
        examples: see `gradient_products`; they bound the rank.

    Reference:
        Lyle et al., 2023, https://arxiv.org/abs/2303.01486; Roy and Vetterli, "The Effective
        Rank", 2007, https://ieeexplore.ieee.org/document/7098875
    """
    values = eigenvalues(gradient_cosines(inputs, examples))
    return {MODEL: effective_rank(np.maximum(values, 0))}


@probe("share", better="lower", expensive=True)
def gradient_alignment(inputs: ProbeInputs, examples: int = 64) -> dict[str, float]:
    """Share of pairs of examples whose gradients of the first kernel do not oppose each other.

    Use it for preactivations that drift: where updates of all examples move the first layer
    the same way, its units leave the range in which they are nonlinear.

    ```python
    mean(<g_i, g_j> > 0)  # i < j, gradients of the first kernel
    ```

    Example:
    >>> kp.probes.gradient_alignment(inputs)
    {'dense_0': 0.53}

    Args:
        inputs: `ProbeInputs`.
        examples: see `gradient_products`; two or more.

    Raises:
        NotApplicableError: there is no kernel, or one example.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks", 2024,
        https://arxiv.org/abs/2402.18762

    Deviations:
        One number of the paper's histogram.
    """
    products = off_diagonal(several(gradient_products(inputs, examples, first_layer=True)))
    share = float(np.mean(products > 0)) if np.all(np.isfinite(products)) else math.nan
    return {next(iter(inputs.kernels)): share}

"""Gradient descent with noise, both held back where a weight is useful."""

from __future__ import annotations

import math
import random
import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.surgery import draws
from keras_plasticity.surgery.noise import noise

_LEAST = 1e-12  # what utilities are divided by


@keras.saving.register_keras_serializable(package="keras_plasticity")
class UPGD(keras.optimizers.Optimizer):
    """Utility-based perturbed gradient descent, first order.

    A weight's utility is how much the loss would rise to first order without it, `-g * w`,
    averaged over updates. Useful weights are protected from gradient and noise, useless ones
    are moved by both and so become useful again: use it against forgetting and loss of
    plasticity at once, without knowing where tasks end.

    ```python
    u = beta * u + (1 - beta) * (-g * w);  utility = u / (1 - beta**t)
    scale = max(max(utility) over all weights, 1e-12)    # scope="global"
    scale = max(norm(utility) of one variable, 1e-12)    # scope="local"
    gate = 1 - sigmoid(utility / scale)                  # 1/2 for a weight of no utility
    x = normal(0, sigma), drawn anew for every weight
    w = (1 - lr * decay) * w - lr * (g + x) * gate       # protecting
    w = (1 - lr * decay) * w - lr * (g + x * gate)       # protecting=False
    ```

    With `adam=True` (AdaUPGD) the `g` of the last two lines is Adam's
    `m / (1 - beta_1**t) / (sqrt(v / (1 - beta_2**t)) + epsilon)`; utilities are those of the
    gradient itself.

    Best settings of the paper, as `learning_rate, sigma, beta, decay`: permuted MNIST `0.01,
    0.1, 0.9999, 0.01`; label-permuted EMNIST and mini-ImageNet `0.01, 0.001, 0.9, 0`;
    label-permuted CIFAR-10 `0.01, 0, 0.999, 1e-4`; PPO with `adam=True` sigma 0.001, beta 0.999.

    Example:

    ```python
    model.compile(kp.optimizers.UPGD(0.01, sigma=0.001, beta=0.9), loss)
    ```

    Args:
        learning_rate: float or schedule, per step. Default 0.01.
        sigma: float, at least 0, deviation of the noise beside the gradient. Default 0.001.
        beta: float in [0, 1), decay of utilities per step. Default 0.999.
        decay: float, at least 0, decoupled and multiplied by the learning rate, of all weights.
            Default 0.0.
        scope: `"global"` or `"local"`, what utilities are compared with: the greatest of the
            network, or the norm of those of the same variable. Default `"global"`.
        protecting: bool, whether the gate holds the gradient back too. Default True.
        adam: bool, see above. Default False.
        beta_1: float in [0, 1), with `adam`. Default 0.9.
        beta_2: float in [0, 1), with `adam`. Default 0.999.
        epsilon: float above 0, with `adam`. Default 1e-8.
        form: `"corrected"`, or `"released"` as in the authors' code: the greatest utility is
            that of `u`, without the correction of its bias, so that for the first `1 / (1 -
            beta)` updates useful weights are held still altogether. Only with
            `scope="global"`. Default `"corrected"`.
        seed: int, start of the noise. Default None: drawn from Python's generator when the
            optimizer is built, so that `keras.utils.set_random_seed` and the seed of a run
            decide it; from then on it is the seed in the configuration.
        name: str. Default `"upgd"`.
        **kwargs: further arguments of `keras.optimizers.Optimizer`, not `weight_decay`.

    Raises:
        ValueError: an argument is out of its range.

    Reference:
        Elsayed and Mahmood, "Addressing Loss of Plasticity and Catastrophic Forgetting in
        Continual Learning", 2024, https://arxiv.org/abs/2404.00781, algorithm 1; code
        https://github.com/mohmdelsayed/upgd.

    Deviations:
        The greatest utility is signed; where none is positive it is taken as 1e-12, which
        leaves the gate open, while the code divides by it as it is and inverts the gate. The
        optimizer of the code's README and its AdaUPGD step by twice the learning rate, to make
        up for gates of 1/2; this one and the paper's do not. `scope="local"` takes the norm of
        a variable, the code that along the last axis of a PyTorch weight. The noise comes from
        `surgery.noise`, equal with and without XLA and with fused steps; its seed and a
        counter of draws are saved. `kp.callbacks.OptimizerReset` moves neither, so no noise comes
        again; `kp.surgery.reset_optimizer` (`kp.callbacks.FreshNetwork`) builds everything anew:
        the same seed, counted from 0. There is no second-order utility.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 0.01,
        sigma: float = 0.001,
        beta: float = 0.999,
        decay: float = 0.0,
        scope: str = "global",
        protecting: bool = True,
        adam: bool = False,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-8,
        form: str = "corrected",
        seed: int | None = None,
        name: str = "upgd",
        **kwargs: typing.Any,
    ) -> None:
        for key, value in (("sigma", sigma), ("decay", decay)):
            if not 0 <= value < math.inf:
                raise ValueError(f"`{key}` must be at least 0. Received: {key}={value!r}")
        for key, value in (("beta", beta), ("beta_1", beta_1), ("beta_2", beta_2)):
            if not 0 <= value < 1:
                raise ValueError(
                    f"`{key}` must be at least 0 and below 1. Received: {key}={value!r}"
                )
        if not 0 < epsilon < math.inf:
            raise ValueError(f"`epsilon` must be positive. Received: epsilon={epsilon!r}")
        if scope not in ("global", "local"):
            raise ValueError(f"`scope` must be 'global' or 'local'. Received: scope={scope!r}")
        if form not in ("corrected", "released") or (form == "released" and scope == "local"):
            raise ValueError(
                "`form` must be 'corrected', or 'released' with scope='global'. "
                f"Received: form={form!r}, scope={scope!r}"
            )
        if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
            raise ValueError(f"`seed` must be an int or None. Received: seed={seed!r}")
        if kwargs.get("weight_decay") is not None:
            raise ValueError(
                "`decay` must be used in place of `weight_decay`. "
                f"Received: weight_decay={kwargs['weight_decay']!r}"
            )
        super().__init__(learning_rate=learning_rate, name=name, **kwargs)
        # In a dict: what is kept once and is an attribute is put back by `OptimizerReset`.
        self._kept: dict[str, keras.Variable] = {}
        self.sigma, self.beta, self.decay = sigma, beta, decay
        self.scope, self.protecting, self.form, self.seed = scope, protecting, form, seed
        self.adam, self.beta_1, self.beta_2, self.epsilon = adam, beta_1, beta_2, epsilon

    def build(self, variables: list) -> None:
        """Makes utilities, moments, and seed and counter of the noise."""
        if self.built:
            return
        super().build(variables)
        self._utilities = self.add_optimizer_variables(variables, "utility")
        if self.adam:
            self._momentums, self._velocities = self.add_optimizer_variables(
                variables, ["momentum", "velocity"]
            )
        if self.sigma:
            first = random.randint(1, 2**31 - 1) if self.seed is None else self.seed % 2**31
            for name, start in (("noise_seed", first), ("drawn", 0)):
                self._kept[name] = self.add_variable(
                    shape=(),
                    dtype="int32",
                    name=name,
                    initializer=lambda shape, dtype, start=start: ops.full(shape, start, dtype),
                )

    def _backend_update_step(self, grads: list, trainable_variables: list, learning_rate) -> None:
        """Updates all weights at once: the gate of one depends on all."""
        if self._distribution_strategy.num_replicas_in_sync > 1:
            raise ValueError(
                "UPGD works on one device. Train without a distribution strategy. "
                f"Received: {self._distribution_strategy.num_replicas_in_sync} replicas"
            )
        gradients = [ops.convert_to_tensor(g) for g in grads]
        weights = [ops.convert_to_tensor(v) for v in trainable_variables]
        indices = [self._get_variable_index(v) for v in trainable_variables]
        gradients = [ops.cast(g, w.dtype) for g, w in zip(gradients, weights, strict=True)]
        step = ops.cast(self.iterations + 1, "float32")
        traces = []
        for i, g, w in zip(indices, gradients, weights, strict=True):
            trace = self._utilities[i]
            self.assign(trace, self.beta * trace - (1 - self.beta) * g * w)
            traces.append(ops.convert_to_tensor(trace))
        correction = 1 - ops.power(self.beta, step)
        utilities = [trace / ops.cast(correction, trace.dtype) for trace in traces]
        greatest = None
        if self.scope == "global":
            greatest = greatest_utility(traces if self.form == "released" else utilities)
        for i, v, w, g, u in zip(
            indices, trainable_variables, weights, gradients, utilities, strict=True
        ):
            gate = openness(u, size(u) if greatest is None else ops.cast(greatest, u.dtype))
            direction = self._direction(i, g, step) if self.adam else g
            if self.protecting:
                direction = direction * gate
            if self.sigma:
                direction = direction + self.sigma * self._noise(i, w) * gate
            rate = ops.cast(learning_rate, w.dtype)
            self.assign(v, (1 - rate * self.decay) * w - rate * direction)
        if self.sigma:
            self._kept["drawn"].assign_add(1)

    def _direction(self, index: int, gradient, step):
        """Adam's, with bias corrections."""
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        first, second = (
            ops.cast(1 - ops.power(b, step), gradient.dtype) for b in (self.beta_1, self.beta_2)
        )
        return m / first / (ops.sqrt(v / second) + self.epsilon)

    def _noise(self, index: int, weight):
        seed = tf.stack([self._kept[name].value for name in ("noise_seed", "drawn")])
        return noise(None, weight.shape, weight.dtype, draws.fold(seed, index))

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        names = "sigma beta decay scope protecting adam beta_1 beta_2 epsilon form seed"
        own = {name: getattr(self, name) for name in names.split()}
        if self.seed is None and self._kept:  # the one drawn, or that of a checkpoint
            own["seed"] = int(self._kept["noise_seed"].numpy())
        return {**super().get_config(), **own}


def greatest_utility(utilities: list) -> typing.Any:
    """Returns the signed maximum over all weights, a float32 scalar.

    Args:
        utilities: tensors, one a variable.
    """
    return ops.max(ops.stack([ops.cast(ops.max(u), "float32") for u in utilities]))


def openness(utility: typing.Any, scale: typing.Any) -> typing.Any:
    """Returns how far each weight may move: `1 - sigmoid(utility / max(scale, 1e-12))`."""
    return ops.sigmoid(-utility / ops.maximum(scale, _LEAST))


def size(utility: typing.Any) -> typing.Any:
    """Returns the Euclidean norm of the utilities of one variable."""
    return ops.sqrt(ops.sum(ops.square(utility)))

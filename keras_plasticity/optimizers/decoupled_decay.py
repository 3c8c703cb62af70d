"""Decay of weights beside the gradient."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops

from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.optimizers.wrapper import Wrapper


@keras.saving.register_keras_serializable(package="keras_plasticity")
class DecoupledDecay(Wrapper):
    """Pulls weights toward zero, or toward where they began, beside the gradient.

    ```python
    w = w - learning_rate * decay * (w - goal)  # goal: 0 or w at the start
    w = inner.update(w, gradient)
    ```

    As in AdamW the decay is multiplied by the learning rate: at 1e-3 a decay of 1e-5 leaves
    0.9999 of a weight after 10,000 steps, and 0.1 leaves 0.37. Toward zero, on the same
    weights, it is `keras.optimizers.AdamW`, bit for bit.

    Example:

    ```python
    optimizer = kp.optimizers.DecoupledDecay(
        keras.optimizers.Adam(1e-3), 0.1, kp.optimizers.DecayPolicy("kernels", "initial")
    )
    ```

    Args:
        optimizer: `keras.optimizers.Optimizer`, what makes the step.
        decay: float, at least 0.
        policy: `DecayPolicy`. Default: kernels, toward zero.
        name: str. Default None.

    Raises:
        ValueError: an argument is out of its range.

    References:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
        https://arxiv.org/abs/1711.05101. Toward initial values: Kumar et al., "Maintaining
        Plasticity in Continual Learning via Regenerative Regularization", 2023,
        https://arxiv.org/abs/2308.11958, who put it into the loss.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        decay: float,
        policy: DecayPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(optimizer, name)
        if not 0 <= decay < math.inf:
            raise ValueError(f"`decay` must be at least 0. Received: decay={decay!r}")
        self.decay, self.policy = decay, policy or DecayPolicy()

    def build_state(self, variables: list) -> None:
        """Notes which weights decay, and where they began."""
        chosen = self.policy.chosen(variables)
        self._goals: dict[int, typing.Any] = dict.fromkeys(map(id, chosen))
        if self.policy.toward == "initial":
            self._goals = {id(v): initial_value(self, v) for v in chosen}

    def before(self, gradients: list, variables: list) -> list:
        """Decays the weights."""
        if not self.decay:
            return gradients
        for variable in variables:
            if id(variable) in self._goals:
                goal = self._goals[id(variable)]
                rate = ops.cast(self.learning_rate, variable.dtype)
                decay = ops.cast(self.decay, variable.dtype)
                apart = variable if goal is None else variable - goal
                variable.assign(variable - apart * decay * rate)
        return gradients

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        policy = keras.saving.serialize_keras_object(self.policy)
        return {**super().get_config(), "decay": self.decay, "policy": policy}


def initial_value(optimizer: keras.optimizers.Optimizer, variable: keras.Variable) -> typing.Any:
    """Returns a new variable of an optimizer that holds the present value of a weight."""
    return optimizer.add_variable_from_reference(
        variable, name="initial", initializer=lambda shape, dtype: ops.convert_to_tensor(variable)
    )

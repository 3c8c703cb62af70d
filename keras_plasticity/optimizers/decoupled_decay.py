"""Decay of weights beside the gradient."""

from __future__ import annotations

import math
import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.optimizers.decay_policy import DecayPolicy, checked_policy
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

    The initial values are noted when the optimizer is built, and saved and loaded with it. What
    resets the optimizer (`kp.callbacks.OptimizerReset`) or parts of the network (`ReDo`,
    `LayerReset`) leaves them: weights that are drawn anew are pulled to where the first ones
    began. After `kp.callbacks.FreshNetwork` and `kp.surgery.reset_optimizer` everything is as
    if it were built anew, and the initial values are those of the network of then.

    Example:

    ```python
    optimizer = kp.optimizers.DecoupledDecay(
        keras.optimizers.Adam(1e-3), 0.1, kp.optimizers.DecayPolicy("kernels", "initial")
    )
    ```

    Args:
        optimizer: `keras.optimizers.Optimizer`, what makes the step.
        decay: float, at least 0; times the learning rate the share of the distance to the goal
            that is taken off per step.
        policy: `DecayPolicy`. Default: kernels, toward zero.
        name: str. Default "decoupled_decay".

    Raises:
        ValueError: an argument is out of its range, or, when it is built, no weight decays.

    Reference:
        Loshchilov and Hutter, "Decoupled Weight Decay Regularization", 2019,
        https://arxiv.org/abs/1711.05101. Toward initial values: Kumar et al., "Maintaining
        Plasticity in Continual Learning via Regenerative Regularization", 2023,
        https://arxiv.org/abs/2308.11958, who put it into the loss.

    Deviations:
        As in Keras, the decay is multiplied by the learning rate itself, not by the multiplier
        of a schedule, and comes before the step. A weight without a gradient does not decay.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        decay: float,
        policy: DecayPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(optimizer, name)
        if not (isinstance(decay, (int, float)) and 0 <= decay < math.inf):
            raise ValueError(f"`decay` must be at least 0. Received: decay={decay!r}")
        self.decay, self.policy = decay, checked_policy(policy)

    def build_state(self, variables: list) -> None:
        """Notes which weights decay, and where they began."""
        self._decays, self._goals = places_and_goals(self, self.policy, variables)

    def before(self, gradients: list, variables: list) -> list:
        """Decays the weights."""
        if not self.decay:
            return gradients
        for variable in variables:
            index = self._get_variable_index(variable)
            if self._decays[index]:
                goal = self._goals[index]
                rate = ops.cast(self.learning_rate, variable.dtype)
                decay = ops.cast(self.decay, variable.dtype)
                apart = variable if goal is None else variable - goal
                self.assign_sub(variable, apart * decay * rate)  # as Keras does
        return gradients

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        policy = keras.saving.serialize_keras_object(self.policy)
        return {**super().get_config(), "decay": self.decay, "policy": policy}


def places_and_goals(
    optimizer: keras.optimizers.Optimizer, policy: DecayPolicy, variables: list
) -> tuple[list[bool], list]:
    """Returns of each weight whether it decays, and a variable of where it began, or None.

    Args:
        optimizer: the one that keeps where they began.
        policy: `DecayPolicy`.
        variables: weights.

    Raises:
        ValueError: no weight decays.
    """
    chosen = {id(variable) for variable in policy.chosen(variables)}
    decays = [id(variable) in chosen for variable in variables]
    if policy.toward == "zero":
        return decays, [None] * len(variables)
    return decays, [
        kept(optimizer, f"{place(v)}_initial", v, v.dtype) if decays[i] else None
        for i, v in enumerate(variables)
    ]


def kept(optimizer: keras.optimizers.Optimizer, name: str, value: typing.Any, dtype: str):
    """Returns a new variable of an optimizer that starts from a value."""
    return optimizer.add_variable(
        shape=tuple(value.shape),
        initializer=lambda shape, dtype: tf.cast(tf.identity(value), dtype),
        dtype=dtype,
        name=name,
    )


def place(variable: keras.Variable) -> str:
    """Returns the path of a weight as a part of a name."""
    return variable.path.replace("/", "_")

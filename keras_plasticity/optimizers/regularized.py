"""Penalties on weights, in the gradient and not in the loss that is reported."""

from __future__ import annotations

import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.optimizers.decay_policy import DecayPolicy
from keras_plasticity.optimizers.decoupled_decay import initial_value
from keras_plasticity.optimizers.wrapper import Wrapper


@keras.saving.register_keras_serializable(package="keras_plasticity")
class Regularized(Wrapper):
    """Adds the gradients of penalties on weights to those of the loss.

    ```python
    g = gradient + sum(gradient of penalty(w - goal) for penalty in penalties)
    w = inner.update(w, g)  # "coupled": Adam divides g by the root of its second moment
    ```

    It gives a penalty to a network that is built already, keeps it out of the loss that is
    reported, and saves what a penalty has to remember (initial values, singular vectors) with
    the optimizer.

    Example:

    ```python
    optimizer = kp.optimizers.Regularized(
        keras.optimizers.Adam(1e-3), [kp.regularizers.L2Init(1e-2)]
    )
    ```

    Args:
        optimizer: `keras.optimizers.Optimizer`, what makes the step.
        penalties: list of regularizers, Keras' or those of `kp.regularizers`.
        policy: `DecayPolicy`, which weights, and what is taken from them before penalties see
            them. Default: kernels, toward zero.
        name: str. Default None.

    Raises:
        ValueError: an argument is no such thing.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        penalties: typing.Sequence[keras.regularizers.Regularizer],
        policy: DecayPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(optimizer, name)
        if not isinstance(penalties, (list, tuple)) or not all(map(callable, penalties)):
            raise ValueError(f"`penalties` must be a list of regularizers. Received: {penalties!r}")
        self.penalties, self.policy = list(penalties), policy or DecayPolicy()

    def build_state(self, variables: list) -> None:
        """Notes which weights have penalties, where they began, and what penalties keep."""
        chosen = self.policy.chosen(variables)
        self._goals: dict[int, typing.Any] = dict.fromkeys(map(id, chosen))
        if self.policy.toward == "initial":
            self._goals = {id(v): initial_value(self, v) for v in chosen}
        self._states: dict[tuple[int, int], list] = {}
        for number, penalty in enumerate(self.penalties):
            for variable in chosen:
                arrays = penalty.state(variable) if hasattr(penalty, "state") else []
                self._states[number, id(variable)] = [
                    self._keep(f"{variable.path.replace('/', '_')}_{number}_{i}", array)
                    for i, array in enumerate(arrays)
                ]

    def _keep(self, name: str, array: typing.Any) -> keras.Variable:
        return self.add_variable(
            shape=tuple(array.shape),
            initializer=lambda shape, dtype: ops.cast(array, dtype),
            dtype="float32",
            name=name,
        )

    def before(self, gradients: list, variables: list) -> list:
        """Adds the gradients of the penalties."""
        return [g + self._added(v) if id(v) in self._goals else g for g, v in
                zip(gradients, variables, strict=True)]  # fmt: skip

    def _added(self, variable: keras.Variable) -> typing.Any:
        goal = self._goals[id(variable)]
        w = tf.convert_to_tensor(variable.value)
        w = w if goal is None else w - goal
        total = ops.zeros_like(w)
        for number, penalty in enumerate(self.penalties):
            state = self._states[number, id(variable)]
            if hasattr(penalty, "update"):  # before it is used, so that it belongs to these weights
                for kept, new in zip(state, penalty.update(w, *state), strict=True):
                    kept.assign(new)
            total = total + ops.cast(gradient(penalty, w, state), w.dtype)
        return total

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        penalties, policy = (
            keras.saving.serialize_keras_object(x) for x in (self.penalties, self.policy)
        )
        return {**super().get_config(), "penalties": penalties, "policy": policy}


def gradient(penalty: typing.Any, w: typing.Any, state: typing.Sequence = ()) -> typing.Any:
    """Returns the gradient of a regularizer, by its own formula where it has one.

    Args:
        penalty: regularizer.
        w: weights, a tensor.
        state: what `penalty.state` made for it.
    """
    state = [ops.convert_to_tensor(value) for value in state]
    if hasattr(penalty, "gradient"):
        return penalty.gradient(w, *state)
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = penalty(w, *state)
    return tape.gradient(value, w, unconnected_gradients=tf.UnconnectedGradients.ZERO)

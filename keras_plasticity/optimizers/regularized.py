"""Penalties on weights, in the gradient and not in the loss that is reported."""

from __future__ import annotations

import typing

import keras
import tensorflow as tf
from keras import ops

from keras_plasticity.optimizers.decay_policy import DecayPolicy, checked_policy
from keras_plasticity.optimizers.decoupled_decay import kept, place, places_and_goals
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
    the optimizer. As with a penalty in the loss, clipping of gradients acts on the sum. A weight
    that gets no gradient from the loss gets none from penalties; gradients of embeddings that
    have a penalty become dense.

    A penalty is any function of a weight that returns a scalar. It may have, besides:
    `applied_to(variable)`, what to use in its place for a weight, or None; `state(variable)`, a
    list of arrays to keep for it, in the dtype of the weight, float32 or better; `update(w,
    *state)`, the new arrays (None for one that stays), once per step before the gradient;
    `gradient(w, *state)` where that is cheaper than a tape.

    What is remembered is not reset: not by `kp.callbacks.OptimizerReset`, and not by callbacks
    that draw weights anew (`ReDo`, `LayerReset`), whose new weights are pulled to where the
    first ones began. After `kp.callbacks.FreshNetwork` and `kp.surgery.reset_optimizer` all of
    it is that of the network of then.

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
        name: str. Default "regularized".

    Raises:
        ValueError: an argument is no such thing; or, when it is built, no weight has a penalty,
            or a penalty that remembers something goes with `toward="initial"`.
    """

    def __init__(
        self,
        optimizer: keras.optimizers.Optimizer,
        penalties: typing.Sequence[keras.regularizers.Regularizer],
        policy: DecayPolicy | None = None,
        name: str | None = None,
    ) -> None:
        super().__init__(optimizer, name)
        if not isinstance(penalties, (list, tuple)) or not all(
            callable(one) and not isinstance(one, type) for one in penalties
        ):
            raise ValueError(
                f"`penalties` must be a list of regularizers. Received: penalties={penalties!r}"
            )
        self.penalties, self.policy = list(penalties), checked_policy(policy)

    def build_state(self, variables: list) -> None:
        """Notes which weights have penalties, where they began, and what penalties keep."""
        self._penalised, self._goals = places_and_goals(self, self.policy, variables)
        self._applied: list = []  # of each weight, pairs of a penalty and its state
        for i, variable in enumerate(variables):
            applied = []
            for number, penalty in enumerate(self.penalties if self._penalised[i] else ()):
                one = getattr(penalty, "applied_to", lambda _, same=penalty: same)(variable)
                arrays = one.state(variable) if hasattr(one, "state") else []
                if arrays and self.policy.toward != "zero":
                    raise ValueError(
                        f"`penalties` that remember something, as {type(one).__name__}, must see "
                        "the weights themselves: take toward='zero'. "
                        f"Received: policy={self.policy}"
                    )
                name = f"{place(variable)}_{type(one).__name__}_{number}"
                dtype = keras.backend.result_type(variable.dtype, "float32")
                state = [kept(self, f"{name}_{j}", a, dtype) for j, a in enumerate(arrays)]
                if one is not None:
                    applied.append((one, state))
            self._applied.append(applied)
            self._penalised[i] = bool(applied)

    def before(self, gradients: list, variables: list) -> list:
        """Adds the gradients of the penalties."""
        indices = [self._get_variable_index(variable) for variable in variables]
        return [
            dense(g) + self._added(v, i, g.dtype) if self._penalised[i] else g
            for g, v, i in zip(gradients, variables, indices, strict=True)
        ]

    def _added(self, variable: keras.Variable, index: int, dtype: typing.Any) -> typing.Any:
        goal = self._goals[index]
        w = tf.convert_to_tensor(variable)
        w = w if goal is None else w - goal
        total = ops.zeros_like(w)
        for penalty, state in self._applied[index]:
            if hasattr(penalty, "update"):  # before it is used, so that it belongs to these weights
                for old, new in zip(state, penalty.update(w, *state), strict=True):
                    if new is not None:
                        old.assign(new)
            total = total + ops.cast(gradient(penalty, w, state), w.dtype)
        return ops.cast(total, dtype)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        penalties, policy = (
            keras.saving.serialize_keras_object(x) for x in (self.penalties, self.policy)
        )
        return {**super().get_config(), "penalties": penalties, "policy": policy}


def dense(gradient: typing.Any) -> typing.Any:
    """Returns a gradient as a tensor, also one that an embedding gives as rows."""
    return tf.convert_to_tensor(gradient)


def gradient(penalty: typing.Any, w: typing.Any, state: typing.Sequence = ()) -> typing.Any:
    """Returns the gradient of a regularizer, by its own formula where it has one.

    Args:
        penalty: regularizer.
        w: weights, a tensor.
        state: what `penalty.state` made for it.
    """
    state = [tf.convert_to_tensor(value) for value in state]
    if hasattr(penalty, "gradient"):
        return penalty.gradient(w, *state)
    with tf.GradientTape() as tape:
        tape.watch(w)
        value = penalty(w, *state)
    return tape.gradient(value, w, unconnected_gradients=tf.UnconnectedGradients.ZERO)

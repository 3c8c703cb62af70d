"""What penalties that remember something have in common."""

from __future__ import annotations

import math
import typing

import keras


class StatefulRegularizer(keras.regularizers.Regularizer):
    """Base of penalties that remember something of each weight.

    `kp.optimizers.Regularized` keeps and saves what `state` returns. Where there is an
    `update`, it runs once per step, before the gradient is taken.

    A subclass writes `state(variable) -> list of arrays` and `penalty(x, *state)`, and may
    write `gradient(x, *state)` and `update(x, *state) -> list of new arrays`.

    Args:
        strength: float, at least 0.

    Raises:
        ValueError: `strength` is out of its range; or it is called without its state, as Keras
            calls a `kernel_regularizer`.
    """

    def __init__(self, strength: float) -> None:
        self.strength = checked(strength)

    def state(self, variable: keras.Variable) -> list:
        """What is kept for a weight, arrays."""
        raise NotImplementedError

    def penalty(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        """The penalty, a scalar."""
        raise NotImplementedError

    def __call__(self, x: typing.Any, *state: typing.Any) -> typing.Any:
        if not state:
            name = type(self).__name__
            raise ValueError(
                f"{name} needs what it remembers of a weight, which Keras does not keep for a "
                f"`kernel_regularizer`: use kp.optimizers.Regularized(optimizer, [{name}(...)])."
            )
        return self.penalty(x, *state)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {"strength": self.strength}


def checked(strength: float) -> float:
    """Returns a strength.

    Raises:
        ValueError: it is no finite number of at least 0.
    """
    if not (isinstance(strength, (int, float)) and 0 <= strength < math.inf):
        raise ValueError(f"`strength` must be at least 0. Received: strength={strength!r}")
    return strength

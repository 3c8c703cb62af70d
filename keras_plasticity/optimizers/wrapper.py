"""An optimizer around another one."""

from __future__ import annotations

import typing

import keras


class Wrapper(keras.optimizers.Optimizer):
    """Does something to gradients or weights and leaves the step to another optimizer.

    The learning rate, its schedule and the number of updates are those of the inner optimizer.
    Variables of both are saved and loaded with the model, and with a run. In mixed precision
    Keras' `LossScaleOptimizer` comes around it, as `compile` does by itself.

    Subclasses write `before`, and `build_state` if they keep anything.

    Args:
        optimizer: `keras.optimizers.Optimizer`, the inner one.
        name: str, default None.

    Raises:
        ValueError: `optimizer` is none, is built already, accumulates gradients, or is a
            `LossScaleOptimizer`.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, name: str | None = None) -> None:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"`optimizer` must be a Keras optimizer. Received: {optimizer!r}")
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                "`optimizer` must see gradients as they are: put the LossScaleOptimizer around "
                f"{type(self).__name__}. Received: {optimizer!r}"
            )
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "`optimizer` must update at every step. Received: "
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
            )
        super().__init__(learning_rate=0.0, name=name)
        self.inner_optimizer = optimizer

    def build(self, variables: list) -> None:
        """Makes the variables of both optimizers."""
        if not self.inner_optimizer.built:
            self.inner_optimizer.build(variables)
        super().build(variables)
        self.build_state(list(variables))

    def build_state(self, variables: list) -> None:
        """Makes what is kept for the weights."""

    def before(self, gradients: list, variables: list) -> list:
        """Returns the gradients for the inner optimizer; may write the weights."""
        return gradients

    def apply(self, grads: typing.Any, trainable_variables: typing.Any = None) -> None:
        """Updates the weights."""
        if not self.built:
            self.build(list(trainable_variables))
        variables = list(trainable_variables or self._trainable_variables)
        pairs = [(g, v) for g, v in zip(grads, variables, strict=True) if g is not None]
        if not pairs:
            return
        gradients, variables = (list(column) for column in zip(*pairs, strict=True))
        gradients = [keras.ops.convert_to_tensor(g) for g in gradients]
        self.inner_optimizer.apply(self.before(gradients, variables), variables)
        self._iterations.assign_add(1)

    @property
    def variables(self) -> list:
        """Variables of both, its own first."""
        return [*self._variables, *self.inner_optimizer.variables]

    @property
    def learning_rate(self) -> typing.Any:
        """That of the inner optimizer."""
        return self.inner_optimizer.learning_rate

    @learning_rate.setter
    def learning_rate(self, learning_rate: typing.Any) -> None:
        self.inner_optimizer.learning_rate = learning_rate

    @property
    def iterations(self) -> typing.Any:
        """Updates of the inner optimizer."""
        return self.inner_optimizer.iterations

    def finalize_variable_values(self, var_list: list) -> None:
        """See Keras; done by the inner optimizer."""
        self.inner_optimizer.finalize_variable_values(var_list)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        inner = keras.saving.serialize_keras_object(self.inner_optimizer)
        return {"optimizer": inner, "name": self.name}

    @classmethod
    def from_config(cls, config: dict, custom_objects: dict | None = None) -> typing.Any:
        """Makes one from `get_config`."""
        return cls(**keras.saving.deserialize_keras_object(config, custom_objects))

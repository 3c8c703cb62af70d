"""An optimizer around another one."""

from __future__ import annotations

import typing

import keras
import tensorflow as tf


class Wrapper(keras.optimizers.Optimizer):
    """Does something to gradients or weights and leaves the step to another optimizer.

    The learning rate, its schedule and the number of updates are those of the inner optimizer.
    Variables of both are saved and loaded with the model, and with a run. In mixed precision
    Keras' `LossScaleOptimizer` comes around it, as `compile` does by itself.

    Subclasses write `before`, and `build_state` if they keep anything: lists in step with the
    weights, so that `self._get_variable_index(weight)` finds what belongs to a weight.

    Args:
        optimizer: `keras.optimizers.Optimizer`, the inner one.
        name: str. Default: that of the class, so that a run that is resumed has the same.

    Raises:
        ValueError: `optimizer` is none, accumulates gradients, scales the loss, or is built for
            other weights.
    """

    def __init__(self, optimizer: keras.optimizers.Optimizer, name: str | None = None) -> None:
        if not isinstance(optimizer, keras.optimizers.Optimizer):
            raise ValueError(f"`optimizer` must be a Keras optimizer. Received: {optimizer!r}")
        own = type(self).__name__
        if isinstance(optimizer, keras.optimizers.LossScaleOptimizer):
            raise ValueError(
                f"`optimizer` must see gradients as they are: put the LossScaleOptimizer around "
                f"{own}. Received: {optimizer!r}"
            )
        if optimizer.loss_scale_factor is not None:
            raise ValueError(
                f"`optimizer` must see gradients as they are: put {own} into a "
                "keras.optimizers.LossScaleOptimizer. Received: "
                f"loss_scale_factor={optimizer.loss_scale_factor}"
            )
        if optimizer.gradient_accumulation_steps:
            raise ValueError(
                "`optimizer` must update at every step. Received: "
                f"gradient_accumulation_steps={optimizer.gradient_accumulation_steps}"
            )
        super().__init__(learning_rate=0.0, name=name or snake_case(own))
        self.inner_optimizer = optimizer

    def build(self, variables: list) -> None:
        """Makes the variables of both optimizers."""
        if self.built:
            return
        inner, variables = self.inner_optimizer, list(variables)
        if inner.built and [id(v) for v in inner._trainable_variables] != [
            id(v) for v in variables
        ]:
            raise ValueError("`optimizer` is built for other weights. Make a new one.")
        if not inner.built:
            inner.build(variables)
        with tf.init_scope():  # a step of one's own may be traced already
            self.build_state(variables)
        super().build(variables)

    def build_state(self, variables: list) -> None:
        """Makes what is kept for the weights, lists in step with `variables`."""

    def before(self, gradients: list, variables: list) -> list:
        """Returns the gradients for the inner optimizer; may write the weights.

        Args:
            gradients: tensors, `tf.IndexedSlices` where an embedding gives them.
            variables: the weights they belong to.
        """
        return gradients

    def apply(self, grads: typing.Any, trainable_variables: typing.Any = None) -> None:
        """Updates the weights."""
        grads = list(grads)
        if not self.built and trainable_variables is not None:
            self.build(list(trainable_variables))
        if grads and self.built:  # else the inner one says what is wrong
            variables = list(trainable_variables or self._trainable_variables)
            self._check_variables_are_known(variables)
            pairs = zip(grads, variables, strict=True)
            with tf.name_scope(self.name):
                places = [i for i, (g, v) in enumerate(pairs) if g is not None and learns(v)]
                known, their = [grads[i] for i in places], [variables[i] for i in places]
                for i, gradient in zip(places, self.before(known, their), strict=True):
                    grads[i] = gradient
        self.inner_optimizer.apply(grads, trainable_variables)
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

    def exclude_from_weight_decay(
        self, var_list: list | None = None, var_names: list[str] | None = None
    ) -> None:
        """See Keras; of the `weight_decay` of the inner optimizer, and of nothing else."""
        self.inner_optimizer.exclude_from_weight_decay(var_list, var_names)

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


def learns(variable: typing.Any) -> bool:
    """Whether the optimizer steps a weight; Keras overwrites those of float8 by gradients."""
    return not getattr(variable, "overwrite_with_gradient", False)


def snake_case(name: str) -> str:
    """Returns `"two_words"` for `"TwoWords"`."""
    return "".join(f"_{c.lower()}" if c.isupper() else c for c in name).lstrip("_")

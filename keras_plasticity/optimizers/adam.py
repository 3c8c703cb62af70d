"""Adam whose bias correction can count the steps of every unit or weight by itself."""

from __future__ import annotations

import math
import typing

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="keras_plasticity")
class Adam(keras.optimizers.Adam):
    """`keras.optimizers.Adam` for data that change: three things Keras' own does not have.

    **Bias correction by unit or weight.** Use it with callbacks that reset single units or
    layers. They set the moments of what they reset to zero, but the number of iterations
    goes on, so its bias correction is over: the first step on a new weight is 3.162 times
    the learning rate (at `beta_1=0.9, beta_2=0.999`). With `per_unit_steps=True` it is the
    learning rate, as at the start:

    ```python
    t = minimum(t_in, t_out) + 1  # updates since the inputs or the unit were reset
    m = beta_1 * m + (1 - beta_1) * g
    v = beta_2 * v + (1 - beta_2) * g**2
    w = w - learning_rate * sqrt(1 - beta_2**t) / (1 - beta_1**t) * m / (sqrt(v) + epsilon)
    ```

    Counts are kept per axis and not per weight: a kernel `(a, b)` has `a + b` of them. They
    are slots like moments, so whatever resets a unit resets its counts, and they are saved
    and loaded. Weights of other units step as without the reset, bit for bit. A weight that
    shares its input with one reset unit and its output with another takes the smaller count.
    A step of an MLP with 100,000 weights takes 1.04 times that of Keras' Adam.
    `per_weight_steps=True` keeps a count for every weight: for callbacks that reset single
    weights, such as `SelectiveWeightReinit`. It costs a third slot, and some
    three times the time of Keras' Adam under XLA on CPU.

    **Equal decays.** After a change of the data the first moment follows large new gradients
    faster than the second one, and a step can be up to
    `(1 - beta_1) / sqrt((1 - beta_2) * (1 - beta_1**2 / beta_2))` times the learning rate, 7.3
    by default. With `beta_2=beta_1` no step is longer than the learning rate
    (`m**2 <= v`, a mean squared against the mean of squares), bias correction included.

    **A guarded epsilon.** Where gradients vanish, `sqrt(v)` falls below every `epsilon` that
    was meant for rounding alone, and the step stays of full length in directions that are
    noise. Lyle et al. (2023) take `beta_2=0.9, epsilon=1e-3`, arguments that Keras has. With
    `epsilon_inside=True` the divisor is `sqrt(v + epsilon**2)`: `epsilon` where the root is
    smaller, the root alone where it is larger, so that only weights in need of it are slowed.

    Example:

    ```python
    model.compile(kp.optimizers.Adam(1e-3, per_unit_steps=True), loss)
    model.fit(x, y, callbacks=[kp.callbacks.ReDo(period=1000)])
    ```

    Args:
        learning_rate: float or schedule, per step. Default 1e-3.
        beta_1: float, decay of the first moment per step. Default 0.9.
        beta_2: float, decay of the second moment per step. Default 0.999.
        epsilon: float, added to the root of the second moment. Default 1e-7.
        amsgrad: bool, whether the largest second moment so far is used. Default False.
        per_unit_steps: bool, see above. Default False: Keras' Adam, bit for bit.
        per_weight_steps: bool, see above; not with `per_unit_steps`. Default False.
        epsilon_inside: bool, see above. Default False.
        **kwargs: further arguments of `keras.optimizers.Adam`. With `weight_decay` it is
            AdamW.

    Attributes:
        unit_steps: list of float32 variables, counts of updates, each of the rank of its
            weight and of size 1 along the axes it does not tell apart. Vectors have one,
            matrices `(a, 1)` and `(1, b)`, rank 3 `(a, b, 1)` and `(1, b, c)`, and higher
            ranks one over the last two axes. With `per_weight_steps` each has the shape of
            its weight.

    Raises:
        ValueError: an argument is no bool, or steps are to be counted in two ways.

    References:
        Kingma and Ba, "Adam: A Method for Stochastic Optimization", 2015,
        https://arxiv.org/abs/1412.6980, Algorithm 1. Counts per unit: Dohare et al., "Loss
        of Plasticity in Deep Continual Learning", 2024, https://arxiv.org/abs/2306.13812,
        whose AdamGnT keeps a count per weight. Equal decays: Dohare et al., "Overcoming Policy
        Collapse in Deep Reinforcement Learning", 2023,
        https://openreview.net/forum?id=m9Jfdz4ymO. Epsilon: Lyle et al., "Understanding
        Plasticity in Neural Networks", 2023, https://arxiv.org/abs/2303.01486.

    Deviations:
        With `per_unit_steps` counts per axis stand for counts per weight, and are exact as
        long as all weights of an input or of a unit are reset together, as they are by what
        resets units.
    """

    def __init__(
        self,
        learning_rate: float | keras.optimizers.schedules.LearningRateSchedule = 1e-3,
        beta_1: float = 0.9,
        beta_2: float = 0.999,
        epsilon: float = 1e-7,
        amsgrad: bool = False,
        *,
        per_unit_steps: bool = False,
        per_weight_steps: bool = False,
        epsilon_inside: bool = False,
        **kwargs: typing.Any,
    ) -> None:
        if not isinstance(per_unit_steps, bool):
            raise ValueError(
                f"`per_unit_steps` must be True or False. Received: {per_unit_steps=!r}"
            )
        if not isinstance(per_weight_steps, bool) or (per_weight_steps and per_unit_steps):
            raise ValueError(
                "`per_weight_steps` must be True or False, and False with `per_unit_steps`. "
                f"Received: {per_weight_steps=!r}, {per_unit_steps=!r}"
            )
        if not isinstance(epsilon_inside, bool):
            raise ValueError(
                f"`epsilon_inside` must be True or False. Received: {epsilon_inside=!r}"
            )
        super().__init__(learning_rate, beta_1, beta_2, epsilon, amsgrad, **kwargs)
        self.per_unit_steps, self.per_weight_steps = per_unit_steps, per_weight_steps
        self.epsilon_inside = epsilon_inside

    def build(self, var_list: list) -> None:
        """Makes moments and counts."""
        if self.built:
            return
        super().build(var_list)
        if self.per_unit_steps or self.per_weight_steps:
            # Lists in step with the weights, as those of the moments.
            self._input_steps = [self._counts(v, 0) for v in var_list]
            self._output_steps = [self._counts(v, 1) for v in var_list]

    @property
    def unit_steps(self) -> list:
        """The counts of updates, without those that are not there."""
        if not (self.built and (self.per_unit_steps or self.per_weight_steps)):
            return []
        return [count for count in (*self._input_steps, *self._output_steps) if count is not None]

    def _counts_of(self, index: int) -> list:
        """The counts of one weight; none where it has none."""
        if not (self.per_unit_steps or self.per_weight_steps):
            return []
        counts = self._input_steps[index], self._output_steps[index]
        return [count for count in counts if count is not None]

    def _counts(self, variable, which: int):
        shape = tuple(variable.shape)
        shapes = [shape] if shape and self.per_weight_steps else count_shapes(shape)
        if which >= len(shapes) or self._overwrite_variable_with_gradient(variable):
            return None
        name = f"{variable.path.replace('/', '_')}_{('input', 'output')[which]}_steps"
        return self.add_variable(shapes[which], dtype="float32", name=name)

    def update_step(self, gradient, variable, learning_rate) -> None:
        """Updates one weight."""
        index = self._get_variable_index(variable)
        counts = self._counts_of(index)
        if not counts and not self.epsilon_inside:
            super().update_step(gradient, variable, learning_rate)
            return
        dtype = variable.dtype
        gradient = ops.cast(gradient, dtype)
        for count in counts:
            self.assign_add(count, ops.ones(count.shape, count.dtype))
        rate, correction = bias_corrections(
            counts or [ops.cast(self.iterations + 1, "float32")],
            ops.cast(learning_rate, "float32"),
            self.beta_1,
            self.beta_2,
            many=self.per_weight_steps,
        )
        alpha = ops.cast(rate, dtype) / ops.cast(correction, dtype)
        m, v = self._momentums[index], self._velocities[index]
        self.assign_add(m, (gradient - m) * (1 - self.beta_1))
        self.assign_add(v, (ops.square(gradient) - v) * (1 - self.beta_2))
        if self.amsgrad:
            largest = self._velocity_hats[index]
            self.assign(largest, ops.maximum(largest, v))
            v = largest
        divisor = (
            ops.sqrt(v + self.epsilon**2) if self.epsilon_inside else ops.sqrt(v) + self.epsilon
        )
        self.assign_sub(variable, m * alpha / divisor)

    def get_config(self) -> dict:
        """Returns the arguments of the constructor."""
        return {
            **super().get_config(),
            "per_unit_steps": self.per_unit_steps,
            "per_weight_steps": self.per_weight_steps,
            "epsilon_inside": self.epsilon_inside,
        }


def count_shapes(shape: tuple[int, ...]) -> list[tuple[int, ...]]:
    """Returns the shapes of the counts of a weight: over its inputs and over its outputs."""
    if len(shape) < 2:
        return [shape] if shape else []
    if len(shape) > 3:
        return [(*[1] * (len(shape) - 2), *shape[-2:])]
    return [(*shape[:-1], 1), (1, *shape[1:])]


def bias_corrections(
    counts: list, learning_rate, beta_1: float, beta_2: float, many: bool = False
) -> tuple:
    """Returns `learning_rate * sqrt(1 - beta_2**t)` and `1 - beta_1**t` at `t = min(counts)`.

    Both grow with `t`, so the least over the counts is taken of the results: powers are
    computed once per count and not once per weight.

    Args:
        counts: tensors of shapes that broadcast against each other, at least 1.
        learning_rate: float or scalar.
        beta_1: float.
        beta_2: float.
        many: bool, whether there is a count for every weight, so that powers are too slow.
    """
    share = _share_of_many if many else _share
    rates = [learning_rate * ops.sqrt(share(beta_2, count)) for count in counts]
    corrections = [share(beta_1, count) for count in counts]
    if len(counts) == 1:
        return rates[0], corrections[0]
    return ops.minimum(*rates), ops.minimum(*corrections)


def _share(beta: float, count):
    """`1 - beta**count`, rounded as Keras does."""
    return 1 - ops.power(beta, count)


def _share_of_many(beta: float, count):
    """`1 - beta**count` for counts of at least 1, on CPU in a tenth of the time."""
    return -ops.expm1(count * (math.log(beta) if beta else -math.inf))

"""Finds what an optimizer keeps for each weight, in any Keras optimizer."""

from __future__ import annotations

import dataclasses

import keras
import numpy as np
import tensorflow as tf

_NOT_SLOTS = ("_variables", "_trainable_variables")


@dataclasses.dataclass(frozen=True, eq=False)
class Slot:
    """What an optimizer keeps for one weight: a moment, a velocity, an average.

    Attributes:
        variable: the optimizer's `keras.Variable`.
        initial: float, the value the optimizer starts from; None where it starts from
            the weight itself (averages of weights).
        axes: axes of the weight that `variable` has, in order; fewer than the weight's
            where the optimizer keeps factors.
    """

    variable: keras.Variable
    initial: float | None
    axes: tuple[int, ...]

    def where(self, mask: tf.Tensor, start: int, stop: int) -> tf.Tensor | None:
        """Brings a mask over the axes `[start, stop)` of the weight to this slot's shape.

        Args:
            mask: bool tensor of the weight's rank, of size 1 on all other axes.
            start: first axis of the weight the mask varies along.
            stop: axis after the last.

        Returns:
            A mask that broadcasts to the slot, or None if the slot lacks an axis.
        """
        kept = dict(zip(self.axes, self.variable.shape, strict=True))
        if any(kept.get(axis, 1) != mask.shape[axis] for axis in range(start, stop)):
            return None
        return tf.reshape(mask, [mask.shape[axis] for axis in self.axes])


def slots(optimizer: keras.optimizers.Optimizer) -> dict[int, list[Slot]]:
    """Returns the slots of a built optimizer by `id` of the weight they belong to.

    A slot is an entry of a list that the optimizer keeps in step with its trainable
    variables. The starting values are those of the same optimizer built anew.
    Wrappers (`LossScaleOptimizer`, `MultiOptimizer`, those of `kp.optimizers`) are looked into;
    what these keep, initial values and singular vectors, are no slots.
    """
    found: dict[int, list[Slot]] = {}
    for inner in _inner(optimizer):
        for weight, slot in _own_slots(inner):
            found.setdefault(id(weight), []).append(slot)
    return found


def fresh(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns a newly built optimizer of the same configuration for the same weights."""
    other = type(optimizer).from_config(optimizer.get_config())
    other.build(optimizer._trainable_variables)
    return other


def innermost(optimizer: keras.optimizers.Optimizer) -> keras.optimizers.Optimizer:
    """Returns the optimizer that makes the step, out of all wrappers around it."""
    while (wrapped := getattr(optimizer, "inner_optimizer", None)) is not None:
        optimizer = wrapped
    return optimizer


def _inner(optimizer) -> list:
    optimizer = innermost(optimizer)
    several = getattr(optimizer, "optimizers", None)
    return [leaf for one in several for leaf in _inner(one)] if several else [optimizer]


def _own_slots(optimizer):
    weights = optimizer._trainable_variables
    lists = {name: values for name, values in vars(optimizer).items() if name not in _NOT_SLOTS}
    lists = {name: values for name, values in lists.items() if _is_slots(values, len(weights))}
    start = fresh(optimizer) if lists else optimizer
    for name, values in lists.items():
        for weight, slot, new in zip(weights, values, getattr(start, name), strict=True):
            axes = None if slot is None else _axes(tuple(weight.shape), tuple(slot.shape), name)
            if axes is not None:
                yield weight, Slot(slot, _initial(np.asarray(new), np.asarray(weight), name), axes)


def _is_slots(values, count: int) -> bool:
    return (
        isinstance(values, (list, tuple))
        and len(values) == count
        and any(isinstance(value, keras.Variable) for value in values)
        and all(value is None or isinstance(value, keras.Variable) for value in values)
    )


def _axes(weight: tuple, slot: tuple, name: str) -> tuple[int, ...] | None:
    """Axes of the weight that the slot has; None where it belongs to no entry of it."""
    axes = tuple(range(len(weight)))
    if len(slot) == len(weight) and all(s in (1, w) for s, w in zip(slot, weight, strict=True)):
        return axes
    if len(weight) >= 2 and len(slot) == len(weight) - 1:
        # Adafactor's factors: `_r` lacks the last axis, `_c` the last but one.
        kept = axes[:-2] + axes[-1:] if name == "_c" else axes[:-1]
        return kept if tuple(weight[axis] for axis in kept) == slot else None
    return None


def _initial(start: np.ndarray, weight: np.ndarray, name: str) -> float | None:
    if name == "_model_variables_moving_average":
        return None  # Keras fills it with the weights at the first update
    if start.size == 0 or np.all(start == start.flat[0]):
        return float(start.flat[0]) if start.size else 0.0
    if start.shape == weight.shape and np.array_equal(start, weight):
        return None
    raise ValueError(
        f"The slot `{name}` of the optimizer starts neither from one number nor from the "
        "weights, so parts of it cannot be put back to the start."
    )

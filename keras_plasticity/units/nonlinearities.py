"""Where a network has nonlinearities, and whether a normalisation stands before each."""

from __future__ import annotations

import dataclasses

import keras

from keras_plasticity.units import rules
from keras_plasticity.units.graph import walked
from keras_plasticity.units.rules import (
    attention,
    elementwise,
    kernels,
    layout,
    merges,
    norms,
    own,
)
from keras_plasticity.units.rules import recurrent as recurrent_rules
from keras_plasticity.units.rules.elementwise import Shape
from keras_plasticity.units.trace import Kind, Step, Trace, Value


@dataclasses.dataclass(frozen=True, eq=False)
class Nonlinearity:
    """A nonlinearity in one pass over a model.

    Attributes:
        name: str, "outer/inner" within nested models.
        operation: `keras.Operation`, the activation, or the layer that has it as an argument.
        argument: bool, whether it is the `activation` argument of a layer with a kernel.
        call: int, how many calls of this operation the pass makes before this one.
        kept: why it is to stay as it is, or None: nothing normalises what enters it.
        shape: tuple of int or None, of what enters it, with the batch axis.
    """

    name: str
    operation: keras.Operation
    argument: bool
    call: int
    kept: str | None
    shape: tuple[int | None, ...]


def nonlinearities(model: keras.Model) -> list[Nonlinearity]:
    """Finds the nonlinearities of a model, in the order of computation.

    Args:
        model: Functional or built Sequential `keras.Model`.

    Raises:
        ValueError: the model has no graph, or does not compute what its graph says.
    """
    trace, _ = walked(model)
    found = []
    for step in trace.steps:
        argument, kept = _reading(step, trace)
        if argument is None:
            continue
        if kept is None and step.owner is not None:
            kept = f"inside {step.owner.name}, which calls it by itself"
        value = step.outputs[0] if argument else step.inputs[0]
        shape = tuple(value.shape)
        found.append(Nonlinearity(step.name, step.operation, argument, step.call, kept, shape))
    return found


def _reading(step: Step, trace: Trace) -> tuple[bool | None, str | None]:
    """Whether it is an argument (None: it is no nonlinearity), and why it is kept."""
    operation, rule = step.operation, rules.find(step.operation)
    if rule is None:
        return False, "it is not understood"
    if _of(rule, recurrent_rules):
        return True, "its nonlinearities lie within the recurrence"
    if _of(rule, attention):
        return True, "a softmax over positions"
    if rule is own.standardized:
        function = getattr(operation, "layer").activation  # noqa: B009, a wrapper's
        linear = elementwise.shape_of(function) is Shape.LINEAR
        return (None, None) if linear else (True, "inside a wrapper of the layer")
    function = getattr(operation, "activation", None)
    if function is not None and (_of(rule, kernels) or rule is elementwise.activation):
        argument, shape = _of(rule, kernels), elementwise.shape_of(function)
        if shape is Shape.LINEAR:
            return None, None
        if shape is Shape.UNKNOWN:
            return argument, "its activation is not understood"
        if shape is Shape.MIXING:
            return argument, "a softmax"
    elif step.kind & Kind.NONLINEAR:
        argument = False
        if not isinstance(operation, keras.layers.Layer) and not _activates(operation):
            return False, "an elementwise function, no activation"
    elif rule is norms.along_axis and "softmax" in type(operation).__name__.lower():
        return False, "a softmax"
    else:
        return None, None
    if _leaves(step.outputs[0], trace):
        return argument, "output of the model"
    if _is_gate(step):
        return argument, "a gate: what it returns multiplies something"
    before = None if argument else _normaliser(step.inputs[0])
    return argument, None if before is None else f"normalised by {before}"


def _of(rule: rules.Rule, module: object) -> bool:
    return getattr(rule, "__module__", "") == getattr(module, "__name__", None)


def _activates(operation: keras.Operation) -> bool:
    """Whether an operation that is no layer is meant as an activation."""
    kind = type(operation)
    return kind.__module__.startswith("keras.src.ops.nn") or kind.__name__ in ("Tanh", "Sin")


def _is_norm(rule: rules.Rule | None) -> bool:
    known = (norms.batch, norms.layer_norm, norms.group_norm, norms.rms_norm)
    return rule in (*known, own.center_scale)


def _passes(step: Step) -> bool:
    """Whether a step only moves, drops, shifts or scales what enters it."""
    rule = rules.find(step.operation)
    if rule is None or step.kind & Kind.NONLINEAR or _of(rule, kernels):
        return False
    if _of(rule, layout):
        return True
    if _of(rule, merges):
        return len(step.inputs) == 1
    return _of(rule, elementwise)


def _normaliser(value: Value) -> str | None:
    """The name of the normalisation whose outputs these are, or None."""
    step = value.step
    if step is None:
        return None
    if _is_norm(rules.find(step.operation)):
        return step.name
    if not _passes(step):
        return None
    names = [_normaliser(x) for x in step.inputs]
    return names[0] if names and all(names) else None


def _leaves(value: Value, trace: Trace) -> bool:
    """Whether it is an output of the model, at most shaped or cast anew."""
    if any(value is out for out in trace.outputs):
        return True
    readers = value.readers
    return bool(readers) and all(
        _of_layout(step) and _leaves(step.outputs[0], trace) for step in readers
    )


def _of_layout(step: Step) -> bool:
    rule = rules.find(step.operation)
    return rule is not None and (_of(rule, layout) or step.kind == elementwise.SAME)


def _is_gate(step: Step) -> bool:
    """Whether a function with bounds on both sides multiplies another tensor."""
    if not (elementwise.is_gate(step) or _shifted_clip(step)):
        return False
    values = list(step.outputs)
    for value in values:
        for reader in value.readers:
            rule = rules.find(reader.operation)
            if rule is merges.product and len(reader.inputs) > 1:
                return True
            if _passes(reader):
                values += reader.outputs
    return False


def _shifted_clip(step: Step) -> bool:
    """Whether it is part of a hard sigmoid written out: `relu6(x + 3) / 6`."""
    operation = step.operation
    clipped = type(operation).__name__ == "Relu6" or getattr(operation, "max_value", None)
    before = step.inputs[0].step
    rule = None if before is None else rules.find(before.operation)
    shifted = rule is not None and _of(rule, merges)
    return bool(clipped) and shifted and before is not None and len(before.inputs) == 1

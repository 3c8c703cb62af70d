"""Finds where the activations of each group are read, and finishes the groups."""

from __future__ import annotations

import collections.abc
import dataclasses
import typing

import keras
import numpy as np

from keras_plasticity.units.groups import Outgoing, Tap, UnitGroup
from keras_plasticity.units.trace import Kind, Step, Trace, Value
from keras_plasticity.units.walk import Draft, Walk


def finish(walk: Walk, trace: Trace) -> list[UnitGroup]:
    """Returns the groups of a model whose steps have all been gone through."""
    return [_group(draft, trace) for draft in walk.drafts]


def _group(draft: Draft, trace: Trace) -> UnitGroup:
    taps, values = _after_nonlinearity(draft, trace)
    output, preactivation = taps
    reached = _mean_reaches(values)
    outgoing = tuple(
        Outgoing(
            **_fields(reading.piece),
            **reading.fields,
            mean_passes=not reading.padded and all(id(v) in reached for v in reading.values),
        )
        for reading in draft.outgoing
    )
    return UnitGroup(
        draft.name,
        draft.layer,
        draft.size,
        draft.incoming,
        tuple(draft.attached),
        outgoing,
        output,
        preactivation,
        draft.exact,
        draft.blocked,
    )


def _fields(piece: typing.Any) -> dict:
    """The fields of a `Slice`."""
    names = ("variable", "start", "stop", "owner", "initializer", "size")
    return {name: getattr(piece, name) for name in names}


def _after_nonlinearity(draft: Draft, trace: Trace) -> tuple[tuple[Tap, Tap | None], list[Value]]:
    """The taps of a group, and the tensors at the first of them."""
    own = (draft.tap, None), draft.outputs
    if draft.nonlinear and callable(getattr(draft.tap.operation, "activation", None)):
        recurrent = isinstance(draft.tap.operation, keras.layers.RNN)
        argument = None if recurrent else dataclasses.replace(draft.tap, argument="activation")
        return (draft.tap, argument), draft.outputs
    if draft.nonlinear or not draft.outputs:
        return own
    steps = [_next_nonlinearity(value, draft, trace) for value in draft.outputs]
    found = [step for step in steps if step is not None]
    if len(found) < len(steps):
        return own
    entering = [step.inputs[0] for step in found]
    leaving = [step.outputs[0] for step in found]
    after, before = _tap(leaving, trace), _tap(entering, trace)
    return own if after is None else ((after, before), leaving)


def _next_nonlinearity(value: Value, draft: Draft, trace: Trace) -> Step | None:
    """The elementwise nonlinearity that directly follows, if all units reach it in order."""
    while len(value.readers) == 1 and not any(value is out for out in trace.outputs):
        step = value.readers[0]
        out = step.outputs[0]
        if step.kind & Kind.NONLINEAR:
            found = out.labels
            whole = np.arange(draft.first, draft.first + draft.size)
            return step if found is not None and np.array_equal(found.ids, whole) else None
        if not step.kind & Kind.FOLLOW:
            return None
        value = out
    return None


def _tap(values: list[Value], trace: Trace) -> Tap | None:
    """The tap that shows some tensors, one for each call; None if one tap cannot."""
    makers, functions = zip(*(_maker(value) for value in values), strict=True)
    operation = makers[0].operation
    if any(maker.operation is not operation for maker in makers):
        return None
    if functions[0] and len(values) > 1:
        return None
    labels = values[0].labels
    assert labels is not None
    axes = tuple(axis - len(values[0].shape) for axis in labels.axes)
    period, calls = trace.calls[id(operation)], tuple(maker.call for maker in makers)
    if len(calls) == period:
        calls, period = (), 1
    return Tap(operation, axes[0] if len(axes) == 1 else axes, calls, period, functions[0])


def _maker(value: Value) -> tuple[Step, tuple[collections.abc.Callable, ...]]:
    """The last call of a lasting operation before a tensor, and what is applied after it."""
    functions: list[collections.abc.Callable] = []
    step = typing.cast(Step, value.step)
    while not step.lasting:
        functions.insert(0, _function(step))
        step = typing.cast(Step, step.inputs[0].step)
    return step, tuple(functions)


def _function(step: Step) -> collections.abc.Callable:
    """A step with one tensor among its arguments, as a function of that tensor."""

    def function(tensor: typing.Any) -> typing.Any:
        def fill(x: typing.Any) -> typing.Any:
            return tensor if isinstance(x, Value) else x

        args = keras.tree.map_structure(fill, step.args)
        kwargs = keras.tree.map_structure(fill, step.kwargs)
        return step.operation(*args, **kwargs)

    return function


def _mean_reaches(values: collections.abc.Iterable[Value]) -> set[int]:
    """The tensors, by `id`, that have the mean of the units at `values`."""
    stack, reached = list(values), set()
    while stack:
        value = stack.pop()
        if id(value) in reached:
            continue
        reached.add(id(value))
        for step in value.readers:
            if step.kind & Kind.MEAN:
                stack.extend(step.outputs)
    return reached

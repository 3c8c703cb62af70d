"""The unit graph of a model: which weights compute, carry and read each unit."""

from __future__ import annotations

import typing

import keras
from keras.src.models.functional import Functional

from keras_plasticity.units import rules, taps
from keras_plasticity.units.groups import UnitGroups
from keras_plasticity.units.trace import Trace, graph_of
from keras_plasticity.units.walk import Walk


def unit_groups(model: keras.Model) -> UnitGroups:
    """Finds the units of a model and the weights that belong to each.

    The functional graph is gone through once, with a label for every channel of every
    tensor that says which unit of which layer it is. A layer with a kernel ends the labels
    of its input, whose outgoing weights are the rows that read them, and begins new ones.
    Nested models are walked into, layers made of other layers are followed through their
    `call`. Units that are added to others, leave the model or enter what is not understood
    are blocked: they have activations to look at and cannot be cut by their outgoing
    weights. Nothing of the model is changed.

    Example:
    >>> model = kp.models.mlp((8, 8, 1), 10, widths=(64, 32))
    >>> groups = kp.unit_groups(model)
    >>> print(groups)
    >>> [group.name for group in groups.free]
    ['dense_0', 'dense_1']

    Args:
        model: Functional or built Sequential `keras.Model`.

    Returns:
        `UnitGroups`, in the order of computation.

    Raises:
        ValueError: the model has no graph, or does not compute what its graph says.
    """
    trace, walk = walked(model)
    return UnitGroups(model, taps.finish(walk, trace), dict.fromkeys(walk.unknown))


def walked(model: keras.Model) -> tuple[Trace, Walk]:
    """Goes through a model: the steps of a pass, and the units in them.

    Args:
        model: Functional or built Sequential `keras.Model`.

    Raises:
        ValueError: the model has no graph, or does not compute what its graph says.
    """
    graph = _graph(model)
    trace = Trace(graph, lambda operation: rules.find(operation) is not None)
    walk = Walk(model)
    walk.used |= trace.read
    for step in trace.steps:
        rules.apply(walk, step)
    walk.finish(trace.outputs)
    return trace, walk


def _graph(model: typing.Any) -> typing.Any:
    graph = graph_of(model)
    if graph is not None:
        return graph
    if isinstance(model, keras.Sequential):
        rule = "is not built yet: begin it with keras.Input(shape) or call it once"
    elif isinstance(model, Functional):
        rule = "overrides `call`, so its graph does not say what it computes"
    elif isinstance(model, keras.Model):
        rule = (
            "has no graph: only Functional and Sequential models have one. "
            "Pass `groups=` by hand to what asks for units"
        )
    else:
        rule = "must be a keras.Model"
    raise ValueError(f"`model` {rule}. Received: model={model!r}")

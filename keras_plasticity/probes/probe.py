"""What a probe is, and what it says of itself."""

from __future__ import annotations

import collections.abc
import functools
import inspect
import typing

BETTER = ("lower", "higher", "none")
ON = ("task", "reference", "both", "weights")


class NotApplicableError(ValueError):
    """What a probe measures does not exist in this model or in these data."""


def probe(
    unit: str,
    better: str = "none",
    expensive: bool = False,
    on: str = "task",
    needs: collections.abc.Sequence[str] = (),
) -> collections.abc.Callable[[collections.abc.Callable], collections.abc.Callable]:
    """Marks a function of `ProbeInputs` as a probe; it stays a plain function.

    A probe returns a dict from a layer's name, or `"model"`, to a float. Further arguments
    have defaults; `functools.partial` sets them for a `Monitor`.

    Example:

    ```python
    @kp.probes.probe("share", better="lower")
    def negative_fraction(inputs, at_most=0.0):
        return {name: float((a <= at_most).mean()) for name, a in inputs.samples.items()}
    ```

    Args:
        unit: str, of the values: "share", "bits", "norm" ...
        better: `"lower"`, `"higher"` or `"none"`, which direction means more plasticity.
        expensive: bool, whether it costs much more than a pass over the examples, so that a
            `Monitor` measures it on its slow schedule. Default False.
        on: which examples a `Monitor` measures it on: `"task"`, those of the present task;
            `"reference"`, those that stay the same for the whole run, where it compares with
            an earlier time; `"both"`; or `"weights"`, no examples at all. Default `"task"`.
        needs: names of the pieces of `ProbeInputs.units` that it asks for, so that one pass
            computes those of all probes. Others are computed as well, in a pass of their own.
    """
    if better not in BETTER:
        raise ValueError(f"`better` must be one of {BETTER}. Received: better={better!r}")
    if on not in ON:
        raise ValueError(f"`on` must be one of {ON}. Received: on={on!r}")

    def mark(function: collections.abc.Callable) -> collections.abc.Callable:
        marked = typing.cast(typing.Any, function)
        marked.unit, marked.better, marked.expensive, marked.on = unit, better, expensive, on
        marked.needs = tuple(needs)
        return function

    return mark


def describe(function: collections.abc.Callable) -> dict:
    """Returns what a probe, also a partial one, says of itself.

    The name holds those parameters that differ from their defaults: "dead_fraction(0.01)".

    Raises:
        ValueError: it is no function of one argument.
    """
    given: dict = {}
    inner = function
    while isinstance(inner, functools.partial):
        if inner.args:
            raise ValueError(f"Parameters of a probe are passed by name. Received: {inner!r}")
        given = {**inner.keywords, **given}
        inner = inner.func
    if not callable(inner):
        hint = f", not its name: kp.probes.{inner}" if isinstance(inner, str) else ""
        raise ValueError(f"A probe is a function of `ProbeInputs`{hint}. Received: {inner!r}")
    parameters = list(inspect.signature(inner).parameters.values())[1:]
    defaults = {p.name: p.default for p in parameters if p.default is not p.empty}
    different = [str(v) for k, v in given.items() if defaults.get(k, inspect._empty) != v]
    name = getattr(inner, "__name__", type(inner).__name__)
    return {
        "name": f"{name}({','.join(different)})" if different else name,
        "unit": getattr(inner, "unit", ""),
        "better": getattr(inner, "better", "none"),
        "expensive": getattr(inner, "expensive", False),
        "on": getattr(inner, "on", "task"),
        "needs": getattr(inner, "needs", ()),
        "params": defaults | given,
    }

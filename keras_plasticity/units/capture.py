"""Reads the activations of units from whatever calls the model."""

from __future__ import annotations

import collections.abc
import functools
import typing

import keras

from keras_plasticity.units.groups import Tap, UnitGroup

_MISSING = object()


class capture:  # noqa: N801, a context manager is used like a function
    """Keeps the activations that pass while its block runs.

    ```python
    with capture(groups) as captured:
        model(x)
    captured[group]  # shape (..., group.size)
    ```

    Inside the block the tapped operations have a `call` of their own, which returns what
    theirs returns; after it, also after an exception, they are as before. It works in
    eager code, in a `tf.function` and in `model.train_step` while that is traced. Nothing
    is added to what the model computes. A tensor of a traced function can be read inside
    that function alone.

    Example:
    >>> groups = kp.unit_groups(model)
    >>> with capture(groups) as captured:
    ...     model(x)
    >>> dead = [keras.ops.all(captured[group] == 0, 0) for group in groups if group in captured]

    Args:
        groups: iterable of `UnitGroup`.
        preactivation: bool, whether to read `group.preactivation` in place of
            `group.output`. Groups without one are not captured. Default False.
    """

    def __init__(
        self, groups: collections.abc.Iterable[UnitGroup], preactivation: bool = False
    ) -> None:
        self._taps: dict[int, tuple[UnitGroup, Tap]] = {}
        for group in groups:
            tap = group.preactivation if preactivation else group.output
            if tap is not None:
                self._taps[id(group)] = (group, tap)
        self._tensors: dict[tuple, list] = {}  # of each operation, in order of its calls
        self._before: list[tuple[keras.Operation, str, typing.Any]] = []

    def __enter__(self) -> capture:
        if self._before:
            raise RuntimeError("A `capture` cannot be entered again inside its own block.")
        self._tensors.clear()
        for _, tap in self._taps.values():
            if _key(tap) in self._tensors:
                continue
            operation, calls = tap.operation, self._tensors.setdefault(_key(tap), [])
            name = "quantized_call" if getattr(operation, "quantization_mode", None) else "call"
            name = "activation" if tap.argument == "activation" else name
            self._before.append((operation, name, vars(operation).get(name, _MISSING)))
            # Written past `__setattr__`: Keras and TensorFlow track nothing of it.
            vars(operation)[name] = _recorder(getattr(operation, name), calls, bool(tap.argument))
        return self

    def __exit__(self, *exception: object) -> None:
        for operation, name, before in reversed(self._before):
            if before is _MISSING:
                del vars(operation)[name]
            else:
                vars(operation)[name] = before
        self._before.clear()

    def __contains__(self, group: object) -> bool:
        tensors = self._of(typing.cast(UnitGroup, group))
        return bool(tensors) and all(_readable(tensor) for tensor in tensors)

    def __getitem__(self, group: UnitGroup) -> typing.Any:
        if group not in self:
            raise KeyError(
                "No activations of this group that can be read here: its layer was not "
                "called inside the block, or within another traced function. "
                f"Received: {group!r}"
            )
        _, tap = self._taps[id(group)]
        tensors = []
        for tensor in self._of(group):
            for function in tap.then:
                tensor = function(tensor)
            tensors.append(_units_last(tensor, tap.axis))
        if len(tensors) == 1:
            return tensors[0]
        return keras.ops.concatenate(
            [keras.ops.reshape(tensor, (-1, group.size)) for tensor in tensors]
        )

    def _of(self, group: UnitGroup) -> list:
        if id(group) not in self._taps:
            return []
        _, tap = self._taps[id(group)]
        tensors = self._tensors.get(_key(tap), [])
        if not tap.calls:
            return tensors
        return [t for i, t in enumerate(tensors) if i % tap.period in tap.calls]


def _key(tap: Tap) -> tuple[int, str]:
    return id(tap.operation), tap.argument


def _recorder(
    call: collections.abc.Callable, calls: list, argument: bool
) -> collections.abc.Callable:
    """A function like `call` that keeps what it returns, or its first argument."""

    @functools.wraps(call)
    def recorded(*args: typing.Any, **kwargs: typing.Any) -> typing.Any:
        outputs = call(*args, **kwargs)
        calls.append(args[0] if argument else outputs)
        return outputs

    return recorded


def _units_last(tensor: typing.Any, axis: int | tuple[int, ...]) -> typing.Any:
    """Moves the axes of units to the end and makes one of them."""
    axes = [a % len(tensor.shape) for a in ((axis,) if isinstance(axis, int) else axis)]
    others = [a for a in range(len(tensor.shape)) if a not in axes]
    if others + axes != list(range(len(tensor.shape))):
        tensor = keras.ops.transpose(tensor, others + axes)
    if len(axes) == 1:
        return tensor
    shape = keras.ops.shape(tensor)
    return keras.ops.reshape(tensor, (*shape[: len(others)], -1))


def _readable(tensor: typing.Any) -> bool:
    """Whether the tensor belongs to the function that is being traced, or to none."""
    if keras.backend.backend() != "tensorflow":
        return True
    import tensorflow as tf

    if not tf.is_symbolic_tensor(tensor):
        return True
    graph = tf.compat.v1.get_default_graph()
    while graph is not None:
        if graph is tensor.graph:
            return True
        graph = getattr(graph, "outer_graph", None)
    return False

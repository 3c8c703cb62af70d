"""What the unit graph consists of: slices of weights, taps of activations, groups of units."""

from __future__ import annotations

import collections.abc
import dataclasses
import functools
import math
import typing

import keras
import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """Where the units of a group lie in one variable.

    The consecutive axes `[start, stop)` of the variable, flattened in C order, are
    positions; `owner[p]` is the unit that position `p` belongs to. A kernel of shape
    (inputs, units) holds the incoming weights of unit `j` in column `j`:

    ```python
    Slice(kernel, 1, 2, np.arange(units), layer.kernel_initializer)
    ```

    Attributes:
        variable: `keras.Variable`.
        start: int, first axis that is indexed by unit.
        stop: int, one past the last such axis.
        owner: int32, shape `(prod(shape[start:stop]),)`, unit of each position; -1
            where it belongs to none of this group.
        initializer: callable `(shape, dtype)`, the layer's own initializer of the whole
            variable. Keras' random initializers draw the same numbers at every call.
        size: int, number of units in the group. Defaults to `max(owner) + 1`.

    Example:
    >>> kernel = keras.Variable([[1.0, 2.0], [3.0, 4.0]])
    >>> piece = Slice(kernel, 1, 2, np.arange(2), keras.initializers.GlorotUniform())
    >>> np.asarray(piece.mask([True, False])).tolist()
    [[True, False]]
    >>> np.asarray(piece.reduce(kernel)).tolist()
    [2.0, 3.0]
    """

    variable: keras.Variable
    start: int
    stop: int
    owner: np.ndarray
    initializer: collections.abc.Callable
    size: int = -1

    def __post_init__(self) -> None:
        owner = np.asarray(self.owner, np.int32)
        positions = math.prod(self.variable.shape[self.start : self.stop])
        if owner.shape != (positions,):
            raise ValueError(
                "`owner` must have one entry per position of the variable's axes "
                f"[{self.start}, {self.stop}), shape ({positions},). "
                f"Received: owner.shape={owner.shape}, variable.shape={self.variable.shape}"
            )
        object.__setattr__(self, "owner", owner)
        if self.size < 0:
            object.__setattr__(self, "size", int(owner.max(initial=-1)) + 1)

    @functools.cached_property
    def counts(self) -> np.ndarray:
        """Number of entries of the variable that belong to each unit, int64, shape `(size,)`."""
        positions = np.bincount(self.owner[self.owner >= 0], minlength=self.size)
        return positions * (math.prod(self.variable.shape) // max(1, len(self.owner)))

    def mask(self, units: typing.Any) -> typing.Any:
        """Marks the entries that belong to some of the units.

        Args:
            units: bool, shape `(size,)`.

        Returns:
            A bool tensor that broadcasts to the variable's shape.
        """
        return self.spread(keras.ops.convert_to_tensor(units, "bool"))

    def spread(self, values: typing.Any) -> typing.Any:
        """Puts a value per unit where the entries of the unit are.

        Args:
            values: tensor of any type, shape `(size,)`.

        Returns:
            A tensor that broadcasts to the variable's shape; zero or False at entries
            that belong to no unit.
        """
        ops, shape = keras.ops, self.variable.shape
        values = ops.convert_to_tensor(values)
        if self._tiling:
            tiles, repeats = self._tiling
            values = ops.reshape(values, (1, self.size, 1))
            if tiles * repeats > 1:
                values = ops.broadcast_to(values, (tiles, self.size, repeats))
        else:
            # One more entry, zero, for the positions that belong to none.
            values = ops.concatenate([values, ops.zeros((1,), values.dtype)])
            values = ops.take(values, np.where(self.owner < 0, self.size, self.owner))
        dims = [n if self.start <= i < self.stop else 1 for i, n in enumerate(shape)]
        return ops.reshape(values, dims)

    def sum(self, values: typing.Any) -> typing.Any:
        """Adds up the entries that belong to each unit.

        Args:
            values: float tensor of the variable's shape.

        Returns:
            A float tensor of shape `(size,)`, zero for a unit without entries.
        """
        ops = keras.ops
        values = ops.convert_to_tensor(values)
        others = [i for i in range(len(values.shape)) if not self.start <= i < self.stop]
        values = ops.sum(values, others) if others else values
        if self._tiling:
            tiles, repeats = self._tiling
            values = ops.reshape(values, (tiles, self.size, repeats))
            return ops.sum(values, (0, 2))
        owner = np.where(self.owner < 0, self.size, self.owner)
        return ops.segment_sum(ops.reshape(values, (-1,)), owner, self.size + 1)[: self.size]

    def reduce(self, values: typing.Any) -> typing.Any:
        """Averages the entries that belong to each unit.

        Args:
            values: float tensor of the variable's shape.

        Returns:
            A float tensor of shape `(size,)`, zero for a unit without entries.
        """
        total = self.sum(values)
        return total / keras.ops.cast(np.maximum(self.counts, 1), total.dtype)

    @functools.cached_property
    def _tiling(self) -> tuple[int, int] | None:
        """(t, r) if `owner` is `tile(repeat(arange(size), r), t)`: no gather is needed then."""
        if not self.size or len(self.owner) % self.size:
            return None
        repeats = int(np.argmax(self.owner != self.owner[0])) or len(self.owner)
        tiles = len(self.owner) // (self.size * repeats)
        if tiles * self.size * repeats != len(self.owner):
            return None
        owner = np.tile(np.repeat(np.arange(self.size), repeats), tiles)
        return (tiles, repeats) if np.array_equal(owner, self.owner) else None


@dataclasses.dataclass(frozen=True, eq=False)
class Outgoing(Slice):
    """A slice of the kernel that reads the units, and what follows from cutting it.

    Where a unit is replaced by its mean activation `h`, the consumer's bias takes over:
    `bias += sum over replaced units of W_out * h`, see `contribution`.

    Attributes:
        layer: the consumer.
        bias: `keras.Variable` the consumer adds right after the product, or None. The
            statistics of a batch normalisation are no bias.
        output_axes: tuple of int, axes of the kernel that `bias`, flattened, is indexed by.
        mean_passes: bool, whether the mean of what the consumer reads, over examples and
            positions, is the mean at the unit's `output`: dropout, reshaping, average
            pooling and up-sampling pass it on; a normalisation, a gate, a maximum, a padding
            with zeros (also the consumer's own) do not, and the formula is an estimate.
    """

    layer: keras.layers.Layer | None = None
    bias: keras.Variable | None = None
    output_axes: tuple[int, ...] = ()
    mean_passes: bool = False

    def contribution(self, values: typing.Any) -> typing.Any:
        """Returns what units of constant activation add to the consumer's outputs.

        Args:
            values: float tensor, shape `(size,)`, activation of each unit; zero for units
                that are left out.

        Returns:
            A float tensor of the shape of `bias`.

        Raises:
            ValueError: the consumer has no bias.
        """
        if self.bias is None:
            raise ValueError(f"`contribution` needs a consumer with a bias. Received: {self.layer}")
        ops, kernel = keras.ops, self.variable
        product = ops.convert_to_tensor(kernel) * self.spread(values)
        others = [i for i in range(len(kernel.shape)) if i not in self.output_axes]
        return ops.reshape(ops.sum(product, others) if others else product, self.bias.shape)


@dataclasses.dataclass(frozen=True, eq=False)
class Tap:
    """Where the activations of units can be read.

    Attributes:
        operation: `keras.Operation`, a layer or the operation of a `keras.ops` call.
        axis: int or tuple of consecutive int, axis of its output that is indexed by unit;
            several are flattened in C order. Counted from the end.
        calls: tuple of int, those of the operation's calls that are meant, in the order in
            which a pass over the model makes them. Defaults to (): all of them.
        period: int, calls of the operation in one pass over the model. Default 1.
        then: tuple of functions of a tensor, to be applied in order to what the operation
            returns: a layer's `call` may itself apply a nonlinearity to what a part of it
            computed. Defaults to ().
        argument: str, a method of the operation whose first argument is meant, and not what
            the operation returns: `"activation"` or `"call"`. Default none.
    """

    operation: keras.Operation
    axis: int | tuple[int, ...] = -1
    calls: tuple[int, ...] = ()
    period: int = 1
    then: tuple[collections.abc.Callable, ...] = ()
    argument: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class UnitGroup:
    """The units of one layer, and all weights that belong to them.

    Attributes:
        name: str, unique in the model; "outer/inner" within nested models and layers.
        layer: the `keras.layers.Layer` that computes the units.
        size: int, number of units.
        incoming: tuple of `Slice`, what computes a unit: kernel columns, bias.
        attached: tuple of `Slice`, what acts on a unit alone before it is read: scale,
            offset and moving statistics of normalisations, slopes, layer scales.
        outgoing: tuple of `Outgoing`, the rows of the kernels that read the units.
        output: `Tap`, the activations; after the nonlinearity that directly follows.
        preactivation: `Tap`, what enters that nonlinearity, or None where none follows and
            in recurrent layers.
        exact: bool, whether a unit without outgoing weights has no effect at all. A
            normalisation or softmax over units lets it act on its neighbours.
        blocked: str, why a unit cannot be cut by its outgoing weights, or None.
    """

    name: str
    layer: keras.layers.Layer
    size: int
    incoming: tuple[Slice, ...]
    attached: tuple[Slice, ...]
    outgoing: tuple[Outgoing, ...]
    output: Tap
    preactivation: Tap | None = None
    exact: bool = True
    blocked: str | None = None

    @property
    def nonlinearity(self) -> collections.abc.Callable | None:
        """The function that makes `output` of `preactivation`; None where there is none."""
        if self.preactivation is None:
            return None
        if self.preactivation.argument:
            return self.preactivation.operation.activation
        return self.output.then[-1] if self.output.then else self.output.operation

    def __repr__(self) -> str:
        state = f"blocked: {self.blocked}" if self.blocked else "free"
        return f"<UnitGroup {self.name!r}, {self.size} units, {state}>"


class UnitGroups(collections.abc.Sequence):
    """The groups of units of a model, in the order of computation; prints as a table.

    Example:
    >>> groups = kp.unit_groups(model)
    >>> groups["dense_0"].size, groups[0].name, len(groups.free)

    Attributes:
        model: the `keras.Model`.
        free: tuple of those `UnitGroup` that are not blocked.
        unknown: tuple of str, layers with weights whose units are not known.
    """

    def __init__(
        self,
        model: keras.Model | None,
        groups: collections.abc.Iterable[UnitGroup],
        unknown: collections.abc.Iterable[str] = (),
    ) -> None:
        self.model = model
        self.unknown = tuple(unknown)
        self._groups = tuple(groups)
        self._by_name = {group.name: group for group in self._groups}
        self.free = tuple(group for group in self._groups if group.blocked is None)

    def __len__(self) -> int:
        return len(self._groups)

    def __getitem__(self, key: typing.Any) -> typing.Any:
        if not isinstance(key, str):
            return self._groups[key]
        if key not in self._by_name:
            raise KeyError(f"No group of units has this name. Received: {key!r}. {self!r}")
        return self._by_name[key]

    def __contains__(self, key: object) -> bool:
        return key in self._by_name if isinstance(key, str) else key in self._groups

    def __repr__(self) -> str:
        names = ", ".join(group.name for group in self._groups)
        return f"<UnitGroups of {getattr(self.model, 'name', None)!r}: {names}>"

    def __str__(self) -> str:
        from keras_plasticity.units.table import render

        return render(self)

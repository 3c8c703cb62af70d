"""What changes from one task to the next: the contract, and changes of the rows.

A transform is a frozen dataclass whose fields are its configuration. It takes the
`Data` of the source and returns the `Data` of one task; it is a pure function of its
fields, the data, and (seed, task), so any task can be made without the ones before.
"""

# ruff: noqa: D102  (what a method of Transform does is said there)

from __future__ import annotations

import collections
import dataclasses
import typing
import weakref
import zlib
from collections.abc import Iterable

import numpy as np


@dataclasses.dataclass(frozen=True, eq=False)
class Data:
    """What transforms take and return. Arrays are never modified in place.

    The arrays keep one shape over all tasks, because they live in fixed buffers on
    the device: a subset is expressed by `index`, not by slicing. A transform that
    leaves an array as it is returns the same object.

    Attributes:
        x_train: (n, ...) uint8 or float32, inputs of the training rows.
        y_train: (n,) int32 labels, or float32 (n,) or (n, d) targets. A label of -1
            marks a row whose class is not part of the task; `index` leaves it out.
        x_test: like `x_train`, or None.
        y_test: like `y_train`, or None.
        index: int32, the rows of `x_train` in the task, ascending.
        test_index: int32, the rows of `x_test` in the task, ascending, or None.
        num_classes: number of classes, or None for regression.
        test_labels_meaningful: False where training labels were drawn at random, so
            that the test labels say nothing about what was learned.
        previous: int32, as long as `index`: for each row, the row that holds the
            version of the task before. Set by `Gradual`, otherwise None.
        over: share of the task's updates during which `previous` is used.
    """

    x_train: np.ndarray
    y_train: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    index: np.ndarray
    test_index: np.ndarray | None
    num_classes: int | None
    test_labels_meaningful: bool = True
    previous: np.ndarray | None = None
    over: float = 0.0


@dataclasses.dataclass(frozen=True)
class Transform:
    """Base class of everything that makes one task differ from the next.

    A subclass is a frozen dataclass with `__call__`. Randomness comes from
    `self.generator(seed, task)` alone.

    Class attributes:
        needs_inputs: whether `index`, `previous` or the labels depend on the values
            or the shape of the inputs. Where no transform of a stream needs them,
            the row order of a task is made without building its images.
        selects_rows: whether `index` may differ from the one received.
    """

    needs_inputs: typing.ClassVar[bool] = True
    selects_rows: typing.ClassVar[bool] = True

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        """Return the data of one task.

        Args:
            data: `Data` as the source, or the transform before, gives it.
            seed: non-negative int, the stream's seed.
            task: int, index of the task, from 0.
            num_tasks: int, number of tasks in the stream.
        """
        raise NotImplementedError

    def check(self, data: Data) -> None:
        """Raise ValueError if the transform cannot work on data like this.

        Args:
            data: `Data` of the first task. Unless `needs_inputs`, its inputs have
                the right number of axes but no features.
        """

    def get_config(self) -> dict[str, typing.Any]:
        """Return the fields as a JSON-able dict."""
        return dataclasses.asdict(self)

    def kinds(self) -> tuple[str, ...]:
        """Return the class names under which this transform draws random numbers."""
        return (type(self).__name__,)

    def generator(self, seed: int, task: int, *key: int) -> np.random.Generator:
        """Return the random generator of (seed, task), apart from all other classes'."""
        return np.random.default_rng([seed, zlib.crc32(type(self).__name__.encode()), task, *key])


def check_share(name: str, value: float) -> None:
    """Raise ValueError unless `value` is a number in [0, 1]."""
    number = isinstance(value, int | float | np.number) and not isinstance(value, bool)
    if not number or not 0.0 <= value <= 1.0:
        raise ValueError(f"`{name}` must be a number in [0, 1]. Received: {name}={value!r}")


def check_labels(transform: Transform, data: Data) -> None:
    """Raise ValueError unless `data` has class labels."""
    if data.num_classes is None:
        raise ValueError(
            f"`{type(transform).__name__}` needs class labels, and the data are a regression "
            f"(num_classes=None). Received: labels of dtype {data.y_train.dtype}"
        )


def apply(
    transforms: Iterable[Transform],
    data: Data,
    *,
    seed: int,
    task: int,
    num_tasks: int,
    check: bool = False,
) -> Data:
    """Return the data of one task after all transforms, in order.

    The first transform of a class draws with `seed` itself, the k-th with a seed
    derived from (seed, k). So two of a class are independent, and adding a transform
    of another class changes nothing for the rest.
    """
    seen: collections.Counter[str] = collections.Counter()
    for transform in transforms:
        kinds = transform.kinds()
        earlier = sum(seen[kind] for kind in kinds)
        own = seed
        if earlier:
            words = np.random.SeedSequence([seed, earlier]).generate_state(1, np.uint64)
            own = int(words[0])
        if check:
            transform.check(data)
        data = transform(data, seed=own, task=task, num_tasks=num_tasks)
        seen.update(kinds)
    return data


@dataclasses.dataclass(frozen=True)
class Subsample(Transform):
    """Keeps a random share of the training rows.

    `round(fraction * rows)` of the rows present are drawn without replacement; the
    test rows stay.

    Args:
        fraction: share of the training rows, in [0, 1].
        fixed: bool, whether every task has the same subset. Defaults to False, a new
            subset per task.

    Raises:
        ValueError: if `fraction` is not in [0, 1].
    """

    needs_inputs: typing.ClassVar[bool] = False

    fraction: float
    fixed: bool = False

    def __post_init__(self) -> None:
        check_share("fraction", self.fraction)

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        count = round(self.fraction * len(data.index))
        if count == len(data.index):
            return data
        rng = self.generator(seed, 0 if self.fixed else task)
        rows = rng.choice(data.index, count, replace=False, shuffle=False)
        return dataclasses.replace(data, index=np.sort(rows))


@dataclasses.dataclass(frozen=True)
class Grow(Transform):
    """Lets the training set grow from task to task.

    Task t has the share `start + (end - start) * t / (num_tasks - 1)` of the training
    rows present: the first ones of a fixed random order, so each subset contains the
    one before. The test rows stay.

    Args:
        start: share at task 0, in [0, 1]. Defaults to 0.1.
        end: share at the last task, in [0, 1]. Defaults to 1.0.

    Raises:
        ValueError: if a share is not in [0, 1].

    Reference:
        Ash, Adams, "On Warm-Starting Neural Network Training", 2020,
        https://arxiv.org/abs/1910.08475, section 2.

    Deviations:
        The paper's data arrive in two or more equal chunks; here the first share and
        the last are free, and the growth between them is linear.
    """

    needs_inputs: typing.ClassVar[bool] = False

    start: float = 0.1
    end: float = 1.0

    def __post_init__(self) -> None:
        check_share("start", self.start)
        check_share("end", self.end)

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        done = task / (num_tasks - 1) if num_tasks > 1 else 0.0
        count = round((self.start + (self.end - self.start) * done) * len(data.index))
        if count == len(data.index):
            return data
        # The order is of all rows, so that it does not depend on which are present.
        order = self.generator(seed, 0).permutation(len(data.y_train))
        present = np.zeros(len(order), bool)
        present[data.index] = True
        rows = order[present[order]][:count]
        return dataclasses.replace(data, index=np.sort(rows).astype(np.int32))


# Inputs that a transform of labels left alone are doubled once, not once per task.
# Keyed by identity; an entry goes when the array it was made from does.
_doubled: dict[int, np.ndarray] = {}


def _stack(old: np.ndarray, new: np.ndarray, source: np.ndarray) -> np.ndarray:
    if old is not new or new is not source:
        return np.concatenate([old, new])
    if id(source) not in _doubled:
        _doubled[id(source)] = np.concatenate([source, source])
        weakref.finalize(source, _doubled.pop, id(source), None)
    return _doubled[id(source)]


@dataclasses.dataclass(frozen=True)
class Gradual(Transform):
    """Blends each task into the next instead of switching at once.

    Within task t > 0, each presentation at update u of U is taken from the version
    that `transforms` make for task t-1 with probability

    ```python
    max(0, 1 - u / (over * U))
    ```

    and from the version of task t otherwise. Test data are those of task t. It has to
    be the last transform of a stream; transforms before it switch at once. The inputs
    hold both versions, so they take twice the memory.

    Args:
        transforms: a `Transform` or a list of them.
        over: share of the task's updates after which only the new version is left,
            in [0, 1]; 0 switches at once. Defaults to 0.5.

    Raises:
        ValueError: if `over` is not in [0, 1], or `transforms` is empty, contains
            something that is no transform, or another `Gradual`.
    """

    transforms: Transform | Iterable[Transform]
    over: float = 0.5

    def __post_init__(self) -> None:
        inner = self.transforms
        inner = (inner,) if isinstance(inner, Transform) else tuple(inner)
        if not inner or any(not isinstance(t, Transform) or isinstance(t, Gradual) for t in inner):
            raise ValueError(
                "`transforms` must be one or more transforms other than `Gradual`. "
                f"Received: transforms={self.transforms!r}"
            )
        check_share("over", self.over)
        object.__setattr__(self, "transforms", inner)

    @property
    def inner(self) -> tuple[Transform, ...]:
        """The transforms whose versions are blended."""
        return typing.cast("tuple[Transform, ...]", self.transforms)

    @property
    def needs_inputs(self) -> bool:  # type: ignore[override]
        """Whether one of the transforms needs the inputs."""
        return any(transform.needs_inputs for transform in self.inner)

    @property
    def selects_rows(self) -> bool:  # type: ignore[override]
        """Whether one of the transforms selects rows."""
        return any(transform.selects_rows for transform in self.inner)

    def kinds(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(t for transform in self.inner for t in transform.kinds()))

    def get_config(self) -> dict[str, typing.Any]:
        inner = [[type(t).__name__, t.get_config()] for t in self.inner]
        return {"transforms": inner, "over": self.over}

    def check(self, data: Data) -> None:
        apply(self.inner, data, seed=0, task=0, num_tasks=1, check=True)

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        new = apply(self.inner, data, seed=seed, task=task, num_tasks=num_tasks)
        old = new
        if task > 0:
            old = apply(self.inner, data, seed=seed, task=task - 1, num_tasks=num_tasks)
        rows = old.index
        if len(rows) != len(new.index):
            rows = self.generator(seed, task).choice(rows, len(new.index))
        return dataclasses.replace(
            new,
            x_train=_stack(old.x_train, new.x_train, data.x_train),
            y_train=_stack(old.y_train, new.y_train, data.y_train),
            index=new.index + np.int32(len(old.y_train)),
            previous=rows if task > 0 else None,
            over=self.over if task > 0 else 0.0,
        )

"""A stream of tasks that are made when they are asked for, each on its own."""

from __future__ import annotations

import dataclasses
import functools
import operator
import typing
from collections.abc import Iterable, Iterator

import numpy as np

from keras_plasticity.streams import transforms as transforms_lib
from keras_plasticity.streams.sources import Source
from keras_plasticity.streams.task import Device, Task, check_positive
from keras_plasticity.streams.transforms import Data, Gradual, Transform

if typing.TYPE_CHECKING:
    import tensorflow as tf

_CHECKED_TASKS = 100  # how many tasks `make` looks at for enough examples


@dataclasses.dataclass(frozen=True, eq=False)
class Stream:
    """A sequence of tasks over one source. Make one with `make`.

    `stream[i]` makes task i alone, without the tasks before; negative indices count
    from the end. The stream keeps no task, so memory does not grow with their number.

    Attributes:
        name: str.
        source: where the examples come from.
        transforms: what changes from task to task, in order.
        num_tasks: int, number of tasks.
        batch_size: int, examples per update.
        epochs: int, passes over the training rows per task.
        seed: int, of the transforms and of the order of rows.
    """

    name: str
    source: Source = dataclasses.field(repr=False)
    transforms: tuple[Transform, ...]
    num_tasks: int
    batch_size: int
    epochs: int
    seed: int
    _device: Device = dataclasses.field(default_factory=Device, repr=False)

    def __len__(self) -> int:
        return self.num_tasks

    def __getitem__(self, index: int) -> Task:
        place = operator.index(index)
        if not -self.num_tasks <= place < self.num_tasks:
            raise IndexError(
                f"`index` must be at least {-self.num_tasks} and below {self.num_tasks}. "
                f"Received: index={place}"
            )
        place %= self.num_tasks
        whole = functools.partial(self._build, place)
        return Task(
            index=place,
            name=f"{self.name}/{place}",
            seed=self.seed,
            batch_size=self.batch_size,
            epochs=self.epochs,
            build=whole,
            build_rows=None if self._needs_inputs else functools.partial(self._build_rows, place),
            scale=1 / 255 if self.source.x_train.dtype == np.uint8 else 1.0,
            device=self._device,
        )

    def __iter__(self) -> Iterator[Task]:
        return (self[i] for i in range(self.num_tasks))

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one input."""
        inputs = self._first.x_train if self._needs_inputs else self.source.x_train
        return tuple(inputs.shape[1:])

    @property
    def num_classes(self) -> int | None:
        """Number of classes after the transforms, or None for regression."""
        return self._first.num_classes

    @property
    def num_outputs(self) -> int:
        """Outputs that a network needs: classes, or target dimensions for regression."""
        if self.num_classes is not None:
            return self.num_classes
        return int(np.prod(self._first.y_train.shape[1:]))

    @property
    def element_spec(self) -> tuple[tf.TensorSpec, tf.TensorSpec]:
        """Specification of a training batch: (x, y)."""
        import tensorflow as tf

        targets = self._first.y_train
        return (
            tf.TensorSpec((self.batch_size, *self.input_shape), tf.float32),
            tf.TensorSpec((self.batch_size, *targets.shape[1:]), tf.as_dtype(targets.dtype)),
        )

    def get_config(self) -> dict[str, typing.Any]:
        """Return what makes this stream, as a JSON-able dict."""
        return {
            "name": self.name,
            "source": self.source.name,
            "source_digest": self.source.digest,
            "transforms": [[type(t).__name__, t.get_config()] for t in self.transforms],
            "num_tasks": self.num_tasks,
            "batch_size": self.batch_size,
            "epochs": self.epochs,
            "seed": self.seed,
        }

    @property
    def _needs_inputs(self) -> bool:
        return any(transform.needs_inputs for transform in self.transforms)

    @functools.cached_property
    def _first(self) -> Data:
        return _slim(self._build(0, inputs=self._needs_inputs))

    def _build(self, task: int, *, inputs: bool = True, check: bool = False) -> Data:
        return transforms_lib.apply(
            self.transforms,
            _data(self.source, inputs),
            seed=self.seed,
            task=task,
            num_tasks=self.num_tasks,
            check=check,
        )

    def _build_rows(self, task: int) -> Data:
        return self._build(task, inputs=False)


def make(
    source: Source,
    *,
    num_tasks: int,
    transforms: Transform | Iterable[Transform] = (),
    batch_size: int = 32,
    epochs: int = 1,
    seed: int = 0,
    name: str | None = None,
) -> Stream:
    """Return a stream of tasks over one source.

    Example:
    ```python
    digits = kp.streams.from_tfds("kp_digits")
    stream = kp.streams.make(digits, num_tasks=50, transforms=[kp.streams.ResetLabels()])
    for x, y in stream[0].train():
        ...
    ```

    Args:
        source: a `Source`, see `from_arrays` and `from_tfds`.
        num_tasks: int, number of tasks.
        transforms: a `Transform` or several, applied in order. Defaults to none: each
            task is the same.
        batch_size: int, examples per update; the remainder is dropped. Defaults to 32.
        epochs: int, passes over the training rows per task. Defaults to 1.
        seed: int, at least 0, of the transforms and of the order. Defaults to 0.
        name: str. Defaults to None, that of the source.

    Raises:
        ValueError: if an argument breaks its rule, if a transform does not fit the
            source, or if a task has fewer examples than `batch_size`. The first
            100 tasks and the last are looked at; later ones raise when read.
    """
    if not isinstance(source, Source):
        raise ValueError(
            "`source` must be a `Source`, made by `from_arrays` or `from_tfds`. "
            f"Received: source={source!r} of type {type(source).__name__}"
        )
    for key, value in (("num_tasks", num_tasks), ("batch_size", batch_size), ("epochs", epochs)):
        check_positive(key, value)
    if isinstance(seed, bool) or not isinstance(seed, int | np.integer) or seed < 0:
        raise ValueError(f"`seed` must be an integer of at least 0. Received: seed={seed!r}")
    steps = (transforms,) if isinstance(transforms, Transform) else tuple(transforms)
    for place, transform in enumerate(steps):
        if not isinstance(transform, Transform):
            raise ValueError(
                f"`transforms` must be instances of `Transform`. Received: {transform!r}"
            )
        if isinstance(transform, Gradual) and place != len(steps) - 1:
            raise ValueError(
                "`Gradual` must be the last of `transforms`; it can hold several. Received: "
                f"transforms={[type(t).__name__ for t in steps]}"
            )
    stream = Stream(
        name=source.name if name is None else name,
        source=source,
        transforms=steps,
        num_tasks=int(num_tasks),
        batch_size=int(batch_size),
        epochs=int(epochs),
        seed=int(seed),
    )
    _check_tasks(stream)
    return stream


def _check_tasks(stream: Stream) -> None:
    """Raise ValueError if a transform does not fit, or a task is smaller than a batch."""
    light = not stream._needs_inputs
    first = stream._build(0, inputs=not light, check=True)
    stream.__dict__["_first"] = _slim(first)
    _check_size(stream, 0, first)
    selecting = [i for i, t in enumerate(stream.transforms) if t.selects_rows]
    if not selecting or not light:
        return
    # Transforms after the last that selects rows cannot change how many there are.
    short = dataclasses.replace(stream, transforms=stream.transforms[: selecting[-1] + 1])
    last = stream.num_tasks - 1
    for task in {*range(1, min(_CHECKED_TASKS, last)), last}:
        _check_size(stream, task, short._build_rows(task))


def _check_size(stream: Stream, task: int, data: Data) -> None:
    if len(data.index) < stream.batch_size:
        raise ValueError(
            "`batch_size` must be at most the number of examples of every task. Received: "
            f"batch_size={stream.batch_size}, {len(data.index)} examples in task {task}"
        )


def _slim(data: Data) -> Data:
    """Return `data` with one input, for its shape."""
    return dataclasses.replace(data, x_train=data.x_train[:1].copy(), x_test=None)


def _rows_of(array: np.ndarray) -> np.ndarray:
    return np.arange(len(array), dtype=np.int32)


def _data(source: Source, inputs: bool = True) -> Data:
    """Return the data of a source; without `inputs`, each has no features."""

    def take(x: np.ndarray) -> np.ndarray:
        # All axes but the channels are emptied: transforms see the right rank, and
        # cost next to nothing.
        if inputs:
            return x
        inner = x.shape[1:]
        empty = (0,) * max(1, len(inner) - 1) + inner[1:][-1:]
        return np.empty((len(x), *empty), x.dtype)

    return Data(
        x_train=take(source.x_train),
        y_train=source.y_train,
        x_test=None if source.x_test is None else take(source.x_test),
        y_test=source.y_test,
        index=_rows_of(source.y_train),
        test_index=None if source.y_test is None else _rows_of(source.y_test),
        num_classes=source.num_classes,
    )

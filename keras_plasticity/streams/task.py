"""One task of a stream: its arrays, the order of its rows, and its batches."""

from __future__ import annotations

import dataclasses
import functools
import typing
import zlib
from collections.abc import Callable

import numpy as np

from keras_plasticity.streams.transforms import Data

if typing.TYPE_CHECKING:
    import tensorflow as tf

_ORDER = zlib.crc32(b"order")
_BLEND = zlib.crc32(b"blend")


class Device:
    """Tensors of the arrays in use: an array that the next task shares stays there."""

    def __init__(self) -> None:
        self._slots: dict[str, tuple[np.ndarray, tf.Tensor]] = {}

    def put(self, slot: str, array: np.ndarray) -> tf.Tensor:
        """Return the tensor of `array`, which takes the place of the last in `slot`."""
        import tensorflow as tf

        held = self._slots.get(slot)
        if held is None or held[0] is not array:
            self._slots.pop(slot, None)  # free the memory before taking more
            with tf.device("CPU"):  # where tf.data runs
                held = self._slots[slot] = (array, tf.constant(array))
        return held[1]


@dataclasses.dataclass(frozen=True, eq=False)
class TaskArrays:
    """The arrays of one task. `x` and `y` have the same shapes in every task.

    Attributes:
        x: (n, ...) uint8 or float32, training inputs, unscaled.
        y: (n,) int32 labels, or float32 (n,) or (n, d) targets.
        index: int32, the rows of `x` that are in the task, ascending.
        x_test: like `x`, or None.
        y_test: like `y`, or None.
        test_index: int32, the rows of `x_test` in the task, or None without test data.
        num_classes: number of classes, or None for regression.
        test_labels_meaningful: whether the test labels follow the rule that the
            training labels follow.
    """

    x: np.ndarray
    y: np.ndarray
    index: np.ndarray
    x_test: np.ndarray | None
    y_test: np.ndarray | None
    test_index: np.ndarray | None
    num_classes: int | None
    test_labels_meaningful: bool


@dataclasses.dataclass(frozen=True, eq=False)
class Task:
    """One task of a stream. Cheap to make; the data are built when first read.

    Attributes:
        index: int, place in the stream, from 0.
        name: str, the stream's name and the index.
        seed: int, seed of the stream.
        batch_size: int, examples per update.
        epochs: int, passes over the training rows.
        build: function that returns the task's `Data`.
        build_rows: function that returns `Data` in which only `index`, `previous` and
            `over` count, and which is faster; or None.
        scale: factor for integer inputs. Defaults to 1/255. Floats are not scaled.
    """

    index: int
    name: str
    seed: int
    batch_size: int
    epochs: int
    build: Callable[[], Data] = dataclasses.field(repr=False)
    build_rows: Callable[[], Data] | None = dataclasses.field(default=None, repr=False)
    scale: float = 1 / 255
    device: Device = dataclasses.field(default_factory=Device, repr=False)

    @functools.cached_property
    def data(self) -> Data:
        """What the transforms made of the source."""
        return self.build()

    @functools.cached_property
    def _rows(self) -> Data:
        data = self.data if self.build_rows is None or "data" in self.__dict__ else None
        if data is None:
            data = typing.cast("Callable[[], Data]", self.build_rows)()
        return data

    def arrays(self) -> TaskArrays:
        """Return the arrays of the task, built at the first call and then kept."""
        data = self.data
        return TaskArrays(
            x=data.x_train,
            y=data.y_train,
            index=data.index,
            x_test=data.x_test,
            y_test=data.y_test,
            test_index=data.test_index,
            num_classes=data.num_classes,
            test_labels_meaningful=data.test_labels_meaningful,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Updates per epoch; the remainder of a batch is dropped.

        Raises:
            ValueError: if there are fewer examples than `batch_size`.
        """
        steps = len(self._rows.index) // self.batch_size
        if steps == 0:
            raise ValueError(
                f"`batch_size` must be at most the number of examples of every task. Received: "
                f"batch_size={self.batch_size}, {len(self._rows.index)} examples in {self.name!r}"
            )
        return steps

    @property
    def steps(self) -> int:
        """Updates in all epochs."""
        return self.epochs * self.steps_per_epoch

    def order(self, epoch: int | None = None) -> np.ndarray:
        """Return the rows that each update reads.

        A function of (seed, task, epoch) alone: each epoch has its own permutation of
        the rows in the task. With `Gradual`, some of them point to the old version.

        Args:
            epoch: int, from 0. Defaults to None, all epochs one after the other.

        Returns:
            int32 (steps_per_epoch, batch_size), or (steps, batch_size) for all epochs.

        Raises:
            ValueError: if there is no such epoch.
        """
        if epoch is None:
            return np.concatenate([self.order(e) for e in range(self.epochs)])
        if not 0 <= epoch < self.epochs:
            raise ValueError(
                f"`epoch` must be at least 0 and below {self.epochs}. Received: epoch={epoch}"
            )
        rows, per_epoch = self._rows, self.steps_per_epoch
        shape = (per_epoch, self.batch_size)
        place = self._generator(_ORDER, epoch).permutation(len(rows.index))
        place = place[: per_epoch * self.batch_size].reshape(shape)
        order = rows.index[place]
        if rows.previous is not None and rows.over > 0:
            update = np.arange(epoch * per_epoch, (epoch + 1) * per_epoch)
            chance = 1 - update / (rows.over * self.steps)
            old = self._generator(_BLEND, epoch).random(shape) < chance[:, None]
            order = np.where(old, rows.previous[place], order)
        return order

    def _generator(self, kind: int, epoch: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, kind, self.index, epoch])

    def train(self, repeat: bool = True) -> tf.data.Dataset:
        """Return the training batches in exactly the order of `order`.

        Integer inputs are scaled, `tf.cast(x, tf.float32) * scale`. The inputs lie on
        the device once, and are gathered by row.

        Args:
            repeat: bool, whether to run over all epochs; otherwise the first alone.
                Defaults to True.

        Returns:
            a `tf.data.Dataset` of (x, y), x float32 (batch_size, ...).
        """
        x = self.device.put("x_train", self.data.x_train)
        y = self.device.put("y_train", self.data.y_train)
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices(self.order(None if repeat else 0))
        return _read(rows, x, y, self.scale)

    def test(self, batch_size: int | None = None) -> tf.data.Dataset:
        """Return the test batches in the order of the rows, the remainder included.

        Args:
            batch_size: int, examples per batch. Defaults to None, that of the task.

        Returns:
            a `tf.data.Dataset` of (x, y), x float32 (batch, ...), scaled as in `train`.

        Raises:
            ValueError: if the source has no test data.
        """
        data = self.data
        if data.x_test is None or data.y_test is None or data.test_index is None:
            raise ValueError(
                "`test` needs test data; give the source `x_test` and `y_test`, or a test "
                f"split. Received: x_test=None in {self.name!r}"
            )
        size = self.batch_size if batch_size is None else batch_size
        check_positive("batch_size", size)
        x = self.device.put("x_test", data.x_test)
        y = self.device.put("y_test", data.y_test)
        import tensorflow as tf

        rows = tf.data.Dataset.from_tensor_slices(data.test_index).batch(size)
        return _read(rows, x, y, self.scale)


def _read(rows: tf.data.Dataset, x: tf.Tensor, y: tf.Tensor, scale: float) -> tf.data.Dataset:
    """Return the data set of the batches (x, y) at batches of rows."""
    import tensorflow as tf

    def read(batch: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        inputs = tf.gather(x, batch)
        if x.dtype.is_integer:
            inputs = tf.cast(inputs, tf.float32) * scale
        return inputs, tf.gather(y, batch)

    return rows.map(read, num_parallel_calls=4).prefetch(8)


def check_positive(name: str, value: typing.Any) -> None:
    """Raise ValueError unless `value` is a positive integer."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < 1:
        raise ValueError(f"`{name}` must be a positive integer. Received: {name}={value!r}")

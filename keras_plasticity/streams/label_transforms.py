"""Transforms of the labels: drawn anew, permuted, noisy, or of some classes only."""

# ruff: noqa: D102  (what a method of Transform does is said there)

from __future__ import annotations

import dataclasses
import typing

import numpy as np

from keras_plasticity.streams.transforms import Data, Transform, check_labels, check_share


@dataclasses.dataclass(frozen=True)
class ResetLabels(Transform):
    """Draws the labels of a share of the training rows anew at each task.

    Use it for the classic test of trainability: random labels have to be memorised
    again and again. At every task, task 0 included, `round(fraction * n)` of all n
    training rows are drawn without replacement, and each gets a label drawn uniformly
    from all classes (its own included). The test labels stay true, and are reported
    as not meaningful.

    Args:
        fraction: share of the training rows per task, in [0, 1]. 0 changes nothing.
            Defaults to 1.0.
        cumulative: bool. If True, labels drawn at a task stay until the row is drawn
            again; if False, each task starts from the original labels. Defaults to True.

    Raises:
        ValueError: if `fraction` is not in [0, 1]; from `make`, for regression.

    Reference:
        Lyle et al., "Disentangling the Causes of Plasticity Loss in Neural Networks",
        2024, https://arxiv.org/abs/2402.18762. The non-stationarity goes back to
        Zhang et al., "Understanding Deep Learning Requires Rethinking
        Generalization", 2017, https://arxiv.org/abs/1611.03530.

    Deviations:
        The share is exact, not a coin thrown for each row. It is a share of all rows
        of the source, whether or not a subset of them is present.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    fraction: float = 1.0
    cumulative: bool = True

    def __post_init__(self) -> None:
        check_share("fraction", self.fraction)

    def check(self, data: Data) -> None:
        check_labels(self, data)

    def draw(
        self, count: int, num_classes: int, *, seed: int, task: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the rows redrawn at one task, and their new labels."""
        rng = self.generator(seed, task)
        share = round(self.fraction * count)
        if share == count:
            rows = np.arange(count)
        else:
            rows = rng.choice(count, share, replace=False, shuffle=False)
        return rows, rng.integers(num_classes, size=share, dtype=np.int32)

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if self.fraction == 0 or data.num_classes is None:
            return data
        labels = data.y_train.copy()
        # Backwards: the latest draw of a row decides, so most draws are never made.
        open_rows = labels >= 0
        left = int(open_rows.sum())
        for t in range(task, -1 if self.cumulative else task - 1, -1):
            rows, drawn = self.draw(len(labels), data.num_classes, seed=seed, task=t)
            fresh = open_rows[rows]
            labels[rows[fresh]] = drawn[fresh]
            open_rows[rows] = False
            left -= int(fresh.sum())
            if left == 0:
                break
        return dataclasses.replace(data, y_train=labels, test_labels_meaningful=False)


@dataclasses.dataclass(frozen=True)
class PermuteLabels(Transform):
    """Renames the classes by a new random permutation at each task.

    Training and test labels are renamed alike: `y_t = p_t[y]`.

    Raises:
        ValueError: from `make`, for regression.

    Deviations:
        Other label transforms leave the test labels alone. This one renames them too,
        because the task stays the same but for the names, and so the test accuracy
        keeps its meaning.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    def check(self, data: Data) -> None:
        check_labels(self, data)

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if data.num_classes is None:
            return data
        names = self.generator(seed, task).permutation(data.num_classes)
        return _rename(data, names.astype(np.int32), data.num_classes)


@dataclasses.dataclass(frozen=True)
class LabelNoise(Transform):
    """Gives a share of the training rows a wrong label.

    At each task `round(rate * n)` of all n training rows are drawn without
    replacement, and each gets one of the other classes, drawn uniformly. Each task
    starts from the labels it receives. The test labels stay true and meaningful.

    Args:
        rate: share of the training rows, in [0, 1]. 0 changes nothing.

    Raises:
        ValueError: if `rate` is not in [0, 1]; from `make`, for regression or a single
            class.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    rate: float

    def __post_init__(self) -> None:
        check_share("rate", self.rate)

    def check(self, data: Data) -> None:
        check_labels(self, data)
        if data.num_classes is not None and data.num_classes < 2:
            raise ValueError(
                f"`LabelNoise` needs at least two classes. Received: num_classes={data.num_classes}"
            )

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if self.rate == 0 or data.num_classes is None:
            return data
        rng = self.generator(seed, task)
        count = len(data.y_train)
        rows = rng.choice(count, round(self.rate * count), replace=False, shuffle=False)
        shift = rng.integers(1, data.num_classes, size=len(rows), dtype=np.int32)
        old = data.y_train[rows]
        labels = data.y_train.copy()
        labels[rows] = np.where(old < 0, old, (old + shift) % data.num_classes)
        return dataclasses.replace(data, y_train=labels)


@dataclasses.dataclass(frozen=True)
class ClassSubset(Transform):
    """Shows a few classes at a time, or ever more of them.

    The classes are shuffled, and each task sees the next `classes` of that order, in
    training and test rows. When fewer than `classes` are left they are passed over
    and a new order is drawn. With `incremental` there is one order, and task t sees
    its first `(t + 1) * classes` classes, in the end all of them.

    Args:
        classes: int, number of classes per task, or added per task.
        incremental: bool, whether classes stay once they were seen. Defaults to False.
        relabel: bool, whether the classes of a task are numbered from 0 in the order
            in which they were drawn, so that the network needs `classes` outputs.
            Not used with `incremental`. Defaults to True.

    Raises:
        ValueError: if `classes` is not a positive int; from `make`, for regression or
            if there are fewer classes than `classes`.

    Reference:
        With `incremental=True`: Dohare et al., "Loss of Plasticity in Deep Continual
        Learning", Nature, 2024, https://doi.org/10.1038/s41586-024-07711-7,
        class-incremental CIFAR-100; with `classes=2`: continual ImageNet, same paper.

    Deviations:
        Continual ImageNet in the paper draws pairs of classes; here each class is seen
        once before one comes back.
    """

    needs_inputs: typing.ClassVar[bool] = False

    classes: int
    incremental: bool = False
    relabel: bool = True

    def __post_init__(self) -> None:
        whole = isinstance(self.classes, int) and not isinstance(self.classes, bool)
        if not whole or self.classes < 1:
            raise ValueError(
                f"`classes` must be a positive integer. Received: classes={self.classes!r}"
            )

    def check(self, data: Data) -> None:
        check_labels(self, data)
        if data.num_classes is not None and self.classes > data.num_classes:
            raise ValueError(
                f"`classes` must be at most the number of classes, {data.num_classes}. "
                f"Received: classes={self.classes}"
            )

    def group(self, num_classes: int, *, seed: int, task: int) -> np.ndarray:
        """Return the classes of one task, in the order in which they were drawn."""
        if self.incremental:
            order = self.generator(seed, 0).permutation(num_classes)
            return order[: (task + 1) * self.classes]
        cycle, place = divmod(task, num_classes // self.classes)
        order = self.generator(seed, cycle).permutation(num_classes)
        return order[place * self.classes : (place + 1) * self.classes]

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if data.num_classes is None:
            return data
        group = self.group(data.num_classes, seed=seed, task=task)
        names = np.full(data.num_classes, -1, np.int32)
        names[group] = np.arange(len(group))
        seen = _rename(data, names, self.classes)
        test_index = data.test_index
        if test_index is not None and seen.y_test is not None:
            test_index = test_index[seen.y_test[test_index] >= 0]
        index = data.index[seen.y_train[data.index] >= 0]
        if self.incremental or not self.relabel:
            return dataclasses.replace(data, index=index, test_index=test_index)
        return dataclasses.replace(seen, index=index, test_index=test_index)


def _rename(data: Data, names: np.ndarray, num_classes: int) -> Data:
    """Return `data` with labels `names[y]`; rows of no class (-1) stay."""
    names = np.append(names, np.int32(-1))  # -1 reads the last entry, and stays -1
    return dataclasses.replace(
        data,
        y_train=names[data.y_train],
        y_test=None if data.y_test is None else names[data.y_test],
        num_classes=num_classes,
    )

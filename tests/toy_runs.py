"""A toy stream and runs of a small network on it."""

import keras
import numpy as np

import keras_plasticity as kp
from keras_plasticity.experiment import run

TIMES = ("seconds", "wall_time")


def source(regression=False, n=96, test=True):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, 4, 4, 1)).astype("uint8")
    y = rng.normal(size=n).astype("float32") if regression else rng.integers(0, 3, n)
    extra = {"x_test": x[:20], "y_test": y[:20]} if test else {}
    return kp.streams.from_arrays(x, y, name="toy", **extra)


def stream(transforms=(), num_tasks=3, epochs=2, **options):
    options = {"batch_size": 8, "seed": 5} | options
    transforms = transforms or [kp.streams.ResetLabels()]
    return kp.streams.make(
        source(**{k: options.pop(k) for k in ("regression", "n", "test") if k in options}),
        num_tasks=num_tasks, transforms=transforms, epochs=epochs, **options,
    )  # fmt: skip


def small(input_shape, num_outputs, **options):
    return kp.models.mlp(input_shape, num_outputs, widths=(16,), **options)


def go(tmp_path, *args, **options):
    options = {"progress": False, "jit_compile": False, "run_dir": tmp_path / "run"} | options
    return run(*(args or (stream(), small, keras.optimizers.Adam(1e-2))), **options)


def rows_without_times(rows):
    return [{k: v for k, v in row.items() if k not in TIMES} for row in rows]


class CountTasks(keras.callbacks.Callback):
    def __init__(self):
        super().__init__()
        self.begun, self.ended = [], []

    def on_task_begin(self, task, model):
        self.begun.append(task.index)

    def on_task_end(self, task, model):
        self.ended.append(task.index)

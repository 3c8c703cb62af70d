"""Measures speed and memory; prints JSON lines with ratios from one run on one machine.

Command: python tests/benchmarks/speed.py [NAME ...]      (names: see BENCHMARKS below)

Contenders take turns within one process, task by task; each figure is the median over
pairs. The load of the machine is printed beside it: a busy machine lowers all ratios.
PyTorch is measured where it is installed.
"""

import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
ROOT = pathlib.Path(__file__).parent.parent.parent
sys.path[:0] = [str(ROOT), str(pathlib.Path(__file__).parent)]

import contenders  # noqa: E402
import keras  # noqa: E402
import numpy as np  # noqa: E402

import keras_plasticity as kp  # noqa: E402

PAIRS = 5


def show(name, **figures):
    """Prints one line."""
    print(json.dumps({"name": name, "load": round(os.getloadavg()[0], 2), **figures}), flush=True)


def digits(num_tasks, updates):
    """The quickstart's stream."""
    source = kp.streams.from_tfds("kp_digits", examples=1280)
    return kp.streams.make(
        source, num_tasks=num_tasks, transforms=[kp.streams.ResetLabels()], epochs=updates // 40
    )


def images(num_tasks, updates, batch_size, examples=10_000):
    """Random images of MNIST's size."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (examples, 28, 28, 1), dtype="uint8")
    source = kp.streams.from_arrays(x, rng.integers(0, 10, examples), name="random")
    return kp.streams.make(
        source,
        num_tasks=num_tasks,
        transforms=[kp.streams.ResetLabels()],
        batch_size=batch_size,
        epochs=-(-updates // (examples // batch_size)),
    )


def against(name, stream, widths, optimizer, learning_rate, skip_fit=False):
    """Times `run` and its contenders on the same tasks."""
    adam = optimizer is keras.optimizers.Adam
    sizes = (int(np.prod(stream.input_shape)), *widths, 10)
    build = {"input_shape": stream.input_shape, "num_outputs": 10, "widths": widths}
    others = {
        "xla_loop": contenders.xla_loop(sizes, learning_rate, adam),
        "torch": contenders.torch_loop(sizes, learning_rate, adam),
    }
    if not skip_fit:
        model = kp.models.mlp(**build)
        others["fit"] = contenders.plain_fit(model, optimizer(learning_rate), stream.epochs)
    others = {key: train for key, train in others.items() if train}
    seconds = {key: [] for key in others}

    class Contenders(keras.callbacks.Callback):
        def on_task_end(self, task, model):
            data, order = task.arrays(), task.order()
            for key, train in others.items():
                seconds[key].append(train(data.x, data.y, order))

    with tempfile.TemporaryDirectory() as directory:
        rows = kp.experiment.run(
            stream,
            lambda input_shape, num_outputs: kp.models.mlp(**build),
            optimizer(learning_rate),
            [Contenders()],
            run_dir=directory,
            progress=False,
        )
    ours = [row["seconds"] for row in rows][1:]  # the first task traces and compiles
    show(
        name,
        updates_per_second=round(stream[0].steps / statistics.median(ours)),
        pairs=len(ours),
        **{
            f"times_faster_than_{key}": round(
                statistics.median(b / a for a, b in zip(ours, theirs[1:], strict=True)), 2
            )
            for key, theirs in seconds.items()
        },
    )


def quickstart():
    """The quickstart's network and data."""
    stream = digits(PAIRS + 1, 1600)
    name = "quickstart: 64-160x2-10, Adam, batch 32"
    against(name, stream, (160,) * 2, keras.optimizers.Adam, 1e-3)


def online():
    """Batch 1, as in online permuted MNIST."""
    stream = images(PAIRS + 1, 10_000, 1)
    against("784-100x3-10, SGD, batch 1", stream, (100,) * 3, keras.optimizers.SGD, 1e-2)


def wide():
    """A network that fills the cores."""
    stream = images(PAIRS + 1, 600, 128)
    against("784-256x3-10, Adam, batch 128", stream, (256,) * 3, keras.optimizers.Adam, 1e-3)


def streams():
    """Examples per second of a stream: in the graph, and through tf.data."""
    import tensorflow as tf

    stream = images(1, 468 * 4, 128, examples=60_000)
    task = stream[0]
    order = tf.constant(task.order())
    x, y = (tf.constant(array) for array in (task.arrays().x, task.arrays().y))

    @tf.function(jit_compile=True)
    def gathered():
        def body(i, total):
            rows = tf.gather(order, i)
            batch = tf.cast(tf.gather(x, rows), tf.float32) * (1 / 255)
            return i + 1, total + tf.reduce_sum(batch[:, 0]) + tf.cast(tf.gather(y, rows)[0], float)

        return tf.while_loop(lambda i, _: i < order.shape[0], body, [0, 0.0])[1]

    def reduced():
        return task.train().reduce(0.0, lambda total, batch: total + batch[0][0, 0, 0, 0])

    def iterated():
        for _ in task.train():
            pass

    for name, read in (("graph", gathered), ("tf.data", reduced), ("python", iterated)):
        read()
        times = []
        for _ in range(PAIRS):
            start = time.perf_counter()
            read()
            times.append(time.perf_counter() - start)
        rate = order.shape[0] * 128 / statistics.median(times)
        show(f"stream of 60,000 28x28 images, batch 128, {name}", examples_per_second=round(rate))


def memory():
    """Resident memory over 200 tasks."""
    import psutil

    sizes = {}

    class Watch(keras.callbacks.Callback):
        def on_task_end(self, task, model):
            sizes[task.index] = psutil.Process().memory_info().rss / 2**20

    with tempfile.TemporaryDirectory() as directory:
        kp.experiment.run(
            digits(200, 40), kp.models.mlp, "adam", [Watch()], run_dir=directory, progress=False
        )
    show("memory, MiB", task_20=round(sizes[20]), task_199=round(sizes[199]),
         growth=round(sizes[199] - sizes[20], 1))  # fmt: skip


def start_up():
    """From the command to the end of the first 40 updates."""
    with tempfile.TemporaryDirectory() as directory:
        arguments = ["--gin_file", "gin/label_reset/plain.gin", "--run_dir", directory]
        arguments += ["--gin_param", "label_reset.num_tasks = 1"]
        arguments += ["--gin_param", "label_reset.updates = 40"]
        start = time.time()
        subprocess.run(
            [sys.executable, "-m", "keras_plasticity.train", "train", *arguments],
            cwd=ROOT, check=True, capture_output=True,
        )  # fmt: skip
        (row,) = pathlib.Path(directory).rglob("metrics.jsonl")
        seconds = json.loads(row.read_text())["wall_time"] - start
        show("command to first 40 updates", seconds=round(seconds, 1))


BENCHMARKS = [quickstart, online, wide, streams, memory, start_up]

if __name__ == "__main__":
    asked = sys.argv[1:] or [benchmark.__name__ for benchmark in BENCHMARKS]
    for benchmark in BENCHMARKS:
        if benchmark.__name__ in asked:
            benchmark()

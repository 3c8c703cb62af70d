"""Measures what a monitor costs; prints JSON lines with ratios to the same run without.

Command: python tests/benchmarks/monitor.py [PART ...]      (parts of the names below)

The quickstart's network and stream, and a small CNN, in fused steps. Runs without a monitor,
with the default one (two records a task) and with all probes and `budget=0.05` take turns task
by task in one process. `ratio` is the median over tasks, `ratio_of_totals` that of whole runs
without the task in which everything is compiled, `with_start` with it. The load is printed
beside them.
"""

import json
import os
import pathlib
import statistics
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
sys.path.insert(0, str(pathlib.Path(__file__).parent.parent.parent))

import keras  # noqa: E402

import keras_plasticity as kp  # noqa: E402
from keras_plasticity import experiment  # noqa: E402
from keras_plasticity.hooks import StepHooks, steps_per_call  # noqa: E402
from keras_plasticity.progress import Progress  # noqa: E402
from keras_plasticity.training import Training  # noqa: E402
from keras_plasticity.writers import EventWriter  # noqa: E402

NETWORKS = {  # name: (network, tasks, epochs of 40 updates)
    "mlp 160x2, 1600 updates": (
        lambda *shape: kp.models.mlp(*shape, widths=(160, 160), norm="layer"),
        40,
        40,
    ),
    "mlp 160x2, 6400 updates": (
        lambda *shape: kp.models.mlp(*shape, widths=(160, 160), norm="layer"),
        20,
        160,
    ),
    "cnn 16-32, 1600 updates": (
        lambda *shape: kp.models.cnn(*shape, filters=(16, 32), dense=(64,)),
        15,
        40,
    ),
}
MONITORS = {
    "plain": lambda: [],
    "default": lambda: [kp.callbacks.Monitor()],
    "all, budget 0.05": lambda: [kp.callbacks.Monitor(probes=kp.probes.ALL, budget=0.05)],
}


class Run:
    """A run that is taken task by task."""

    def __init__(self, network, tasks, epochs, callbacks, directory):
        self.seconds = []
        begun = time.perf_counter()
        source = kp.streams.from_tfds("kp_digits", examples=1280)
        stream = kp.streams.make(
            source,
            num_tasks=tasks,
            transforms=[kp.streams.ResetLabels()],
            batch_size=32,
            epochs=epochs,
        )
        with kp.surgery.seeded(0):
            loss = experiment._loss(None, stream)
            model = experiment._build(network, stream, loss)
            experiment._compile(model, keras.optimizers.Adam(1e-3), loss, stream, True)
            size = steps_per_call(model, stream.batch_size)
            self.training = Training(stream, model, callbacks, loss, size, directory)
        self.training.restore(checkpoint_seconds=30)
        monitors = self.training.monitors
        about = monitors[0].descriptions if monitors else {}
        self.events = self.training.events = EventWriter(directory, {}, (), about)
        self.start = time.perf_counter() - begun

    def task(self, index):
        begun = time.perf_counter()
        self.events.task_begin(index, time.time())
        with Progress("", 1, 0, enabled=False) as display:
            row = self.training.train(self.training.stream[index], display)
        self.events.row(row)
        self.training.finish(row)
        self.seconds.append(time.perf_counter() - begun)

    def close(self):
        self.events.close()
        StepHooks.of(self.training.model).release()


def measure(network):
    """Prints a line for each monitor."""
    make_network, tasks, epochs = NETWORKS[network]
    with tempfile.TemporaryDirectory() as root:
        runs = {}
        for name, make in MONITORS.items():
            directory = pathlib.Path(root) / name.replace(" ", "_")
            directory.mkdir()
            runs[name] = Run(make_network, tasks, epochs, make(), directory)
        for index in range(tasks):
            order = list(runs)[index % 3 :] + list(runs)[: index % 3]
            for name in order:
                runs[name].task(index)
        plain = runs.pop("plain")
        for name, run in runs.items():
            run.close()
            (monitor,) = run.training.monitors
            pairs = list(zip(plain.seconds, run.seconds, strict=True))[1:]
            figures = {
                "network": network,
                "monitor": name,
                "ratio": round(statistics.median(b / a for a, b in pairs), 3),
                "ratio_of_totals": round(sum(b for _, b in pairs) / sum(a for a, _ in pairs), 3),
                "with_start": round(
                    (run.start + sum(run.seconds)) / (plain.start + sum(plain.seconds)), 3
                ),
                "task_seconds": round(statistics.median(plain.seconds), 3),
                "records": sum("kind" in row for row in run.training.records),
                "probes": len(monitor.latest),
                "left_out": monitor.skipped,
                "load": round(os.getloadavg()[0], 2),
            }
            print(json.dumps(figures), flush=True)
        plain.close()


if __name__ == "__main__":
    for network in NETWORKS:
        if all(part in network for part in sys.argv[1:]):
            measure(network)

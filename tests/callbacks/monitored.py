"""Networks, data and runs that a monitor is tested on."""

import json

import keras
import numpy as np
import tensorflow as tf
from keras import layers

import keras_plasticity as kp

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
TIMES = ("seconds", "wall_time")


def network(jit=False, make=None):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((4,))
    x = layers.Dense(8, activation="relu", name="dense_0")(inputs)
    x = layers.Dropout(0.5)(layers.BatchNormalization(name="norm")(x))
    x = layers.Dense(6, activation="tanh", name="dense_1")(x)
    model = make() if make else keras.Model(inputs, layers.Dense(3, name="output")(x))
    model.compile(keras.optimizers.Adam(0.01), LOSS, metrics=["accuracy"], jit_compile=jit)
    return model


def data(shape=(4,), count=64):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(count, *shape)).astype("float32")
    return x, generator.integers(0, 3, count).astype("int32")


def rows_of(path):
    return [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]


def values(row):
    return {key: value for key, value in row.items() if key not in TIMES}


def fit(model, callbacks, **options):
    x, y = data(model.input_shape[1:])
    arguments = {"epochs": 2, "batch_size": 16, "verbose": 0, "shuffle": False} | options
    return model.fit(x, y, callbacks=callbacks, **arguments)


def stream(tasks=3):
    x, y = data((4, 4, 1), 96)
    source = kp.streams.from_arrays(x, y, x_test=x[:16], y_test=y[:16])
    transforms = [kp.streams.ResetLabels(), kp.streams.PermutePixels()]
    return kp.streams.make(source, num_tasks=tasks, transforms=transforms, batch_size=16, epochs=4)


def run(path, callbacks, jit=False, fused=None, **options):
    return kp.experiment.run(
        stream(),
        lambda shape, classes: kp.models.mlp(shape, classes, widths=(8, 6)),
        keras.optimizers.Adam(0.01),
        callbacks,
        run_dir=path,
        jit_compile=jit,
        fused_steps=fused,
        progress=False,
        **options,
    )


def tags(path):
    """Steps of each tag of the event files of a run."""
    found: dict = {}
    for file in path.glob("events.*"):
        for event in tf.compat.v1.train.summary_iterator(str(file)):
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found

"""Two ways to train that take turns, in fused steps on random images of MNIST's size."""

import os
import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import keras_plasticity as kp

PAIRS = 21
SECONDS = 0.4  # of one timed run, about


def trainer(build, optimizer, batch, jit_compile=True, callbacks=()):
    """Returns a function that trains for a number of updates and returns the seconds."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (5000, 784)).astype("uint8")
    y = rng.integers(0, 10, 5000)
    keras.utils.set_random_seed(0)
    model = build()
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        jit_compile=jit_compile,
    )
    model._symbolic_build(data_batch=(tf.zeros((batch, 784)), tf.zeros((batch,), tf.int64)))
    fused = kp.hooks.FusedSteps(x, y)
    size = kp.hooks.steps_per_call(model, batch)

    def train(updates):
        order = rng.integers(0, 5000, (updates, batch)).astype(np.int32)
        blocks = kp.hooks.FusedSteps.blocks(order, size)
        start = time.perf_counter()
        model.fit(blocks, shuffle=False, verbose=0, callbacks=[fused, *callbacks])
        return time.perf_counter() - start

    train(2 * size)  # traces and compiles
    return train


def compare(plain, changed):
    """Returns ratios of the second to the first, the median over pairs and that of minima."""
    updates = max(100, int(100 * SECONDS / plain(100)))
    pairs = [(plain(updates), changed(updates)) for _ in range(PAIRS)]
    best = [min(side) for side in zip(*pairs, strict=True)]
    return {
        "ratio": round(statistics.median(b / a for a, b in pairs), 3),
        "ratio_of_minima": round(best[1] / best[0], 3),
        "microseconds": round(best[0] / updates * 1e6, 1),
        "load": round(os.getloadavg()[0], 2),
    }

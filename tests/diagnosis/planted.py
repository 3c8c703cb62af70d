"""Networks in which one mechanism of plasticity loss was made on purpose.

Small networks, trained for a moment on digits or left as they were drawn, and functions that
plant a mechanism at a dose. Everything is a function of the seed.
"""

from __future__ import annotations

import functools

import keras
import numpy as np
import tensorflow as tf

from keras_plasticity import models, unit_groups
from keras_plasticity.streams import digits
from keras_plasticity.surgery.network import seeded
from keras_plasticity.surgery.weights import is_kernel

SHAPE, CLASSES = (8, 8, 1), 10
DEVELOPMENT = {
    "mlp": lambda: models.mlp(SHAPE, CLASSES, widths=(64, 64)),
    "mlp+ln": lambda: models.mlp(SHAPE, CLASSES, widths=(64, 64), norm="layer", affine=True),
    "cnn": lambda: models.cnn(SHAPE, CLASSES, filters=(16, 32), dense=(64,)),
}
# Held out at seeds 100 to 109; two rules were mended after that, so they are seen by now.
SEEN = {
    "gelu": lambda: models.mlp(SHAPE, CLASSES, widths=(48,) * 5, activation="gelu"),
    "resnet+bn": lambda: residual(),
    "vit": lambda: models.vit(
        SHAPE, CLASSES, patch=2, dim=32, depth=2, heads=4, activation="gelu", affine=True
    ),
    "leaky": lambda: models.mlp(SHAPE, CLASSES, widths=(96, 48, 24), activation="leaky_relu"),
}
# First looked at with seeds 200 to 209.
HELD_OUT = {
    "tanh+rms": lambda: models.mlp(
        SHAPE, CLASSES, widths=(80, 40, 40), activation="tanh", norm="rms", affine=True
    ),
    "cnn+gn": lambda: models.cnn(
        SHAPE, CLASSES, filters=(24, 24), dense=(), norm="group", affine=True, activation="silu"
    ),
    "deep vit": lambda: models.vit(
        SHAPE, CLASSES, patch=4, dim=24, depth=4, heads=2, mlp_ratio=3, affine=True
    ),
    "wide": lambda: models.mlp(SHAPE, CLASSES, widths=(256,)),
}
IMMORTAL = ("leaky",)  # whose units pass gradient everywhere: none can be made dead
ARCHITECTURES = DEVELOPMENT | SEEN | HELD_OUT


def residual():
    """Two residual blocks of convolutions with batch normalisation."""
    layers = keras.layers
    x = inputs = keras.Input(SHAPE)
    x = layers.ReLU()(layers.BatchNormalization()(layers.Conv2D(16, 3, padding="same")(x)))
    for strides in (2, 1):
        y = layers.Conv2D(32, 3, strides=strides, padding="same")(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.BatchNormalization()(layers.Conv2D(32, 3, padding="same")(y))
        shortcut = layers.Conv2D(32, 1, strides=strides)(x)
        x = layers.ReLU()(layers.Add()([y, shortcut]))
    return keras.Model(inputs, layers.Dense(CLASSES)(layers.GlobalAveragePooling2D()(x)))


@functools.cache
def data(split: str = "train") -> tuple[np.ndarray, np.ndarray]:
    """Digits as float32 in [0, 1], and labels."""
    x, y = digits.split(split)
    return x.astype(np.float32) / 255, y.astype(np.int32)


def targets(seed: int, offset: float = 0.0) -> np.ndarray:
    """Regression targets: a random function of the digits of unit deviation, plus an offset."""
    x, _ = data()
    rng = np.random.default_rng(seed)
    flat = x.reshape(len(x), -1)
    hidden = np.tanh(flat @ rng.standard_normal((flat.shape[1], 32)))
    y = hidden @ rng.standard_normal((32, CLASSES))
    return ((y - y.mean(0)) / y.std(0) + offset).astype(np.float32)


def network(architecture: str, seed: int, epochs: float = 0, regression=None) -> keras.Model:
    """Builds a network, compiled, and trains it with Adam.

    Args:
        architecture: a key of `ARCHITECTURES`.
        seed: int.
        epochs: passes over the digits in batches of 48. Default 0: as drawn.
        regression: offset of regression targets; None to classify.
    """
    with seeded(seed):
        keras.backend.clear_session()
        model = ARCHITECTURES[architecture]()
        if regression is None:
            loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        else:
            loss = keras.losses.MeanSquaredError()
        model.compile(keras.optimizers.Adam(2e-3), loss)
        model.optimizer.build(model.trainable_variables)
    if epochs:
        x, labels = data()
        fit(model, x, labels if regression is None else targets(seed, regression), epochs, seed)
    return model


def fit(model, x, y, epochs, seed) -> None:
    """Trains a compiled model in batches of 48, all steps in one call of the graph."""
    if not epochs:
        return
    batch = 48
    rng = np.random.default_rng(seed)
    rows = np.concatenate([rng.permutation(len(x)) for _ in range(int(epochs) + 1)])
    rows = rows[: round(epochs * len(x) / batch) * batch].reshape(-1, batch)
    optimizer, weights = model.optimizer, model.trainable_variables

    def steps(x, y, rows):
        def body(i):
            part = rows[i]
            with tf.GradientTape() as tape:
                outputs = model(tf.gather(x, part), training=True)
                loss = model.loss(tf.gather(y, part), outputs)
            gradients = tape.gradient(loss, [weight.value for weight in weights])
            optimizer.apply(gradients, weights)
            return (i + 1,)

        return tf.while_loop(
            lambda i: i < tf.shape(rows)[0], body, (tf.constant(0),), parallel_iterations=1
        )

    if not hasattr(model, "planted_steps"):
        object.__setattr__(model, "planted_steps", tf.function(steps, reduce_retracing=True))
    model.planted_steps(tf.constant(x), tf.constant(y), tf.constant(rows))


def dead(model, dose, seed=0):
    """Large negative biases for a share of the units of each hidden layer."""
    _push(model, dose, seed, -30.0)


def linearised(model, dose, seed=0):
    """Large positive biases for a share of the units of each hidden layer."""
    _push(model, dose, seed, 30.0, last=True)


def norms(model, dose, seed=0):
    """All kernels times a factor."""
    for variable in _kernels(model):
        variable.assign(variable.value * dose)


def logits(model, dose, seed=0):
    """Kernel and bias of the output layer times a factor."""
    layer = [layer for layer in model.layers if layer.trainable_variables][-1]
    for variable in layer.trainable_variables:
        variable.assign(variable.value * dose)


def clones(model, dose, seed=0):
    """A share of the units of each hidden layer become copies of another unit."""
    rng = np.random.default_rng([seed, 1])
    for group in _hidden(model):
        order = rng.permutation(group.size)
        count = round(dose * group.size)
        copies, kept = order[:count], order[count:]
        source = np.arange(group.size)
        source[copies] = rng.choice(kept, count)
        for piece in (*group.incoming, *group.attached):
            value = np.asarray(piece.variable.value)
            axis = piece.start
            if piece.stop - piece.start == 1 and np.array_equal(piece.owner, np.arange(group.size)):
                piece.variable.assign(np.take(value, source, axis))


def rank(model, dose, seed=0):
    """All hidden kernels are cut to a share of their singular directions, at least two.

    Their Frobenius norm stays, so that nothing but the rank changes.
    """
    for variable in _kernels(model)[:-1]:
        value = np.asarray(variable.value, np.float64)
        flat = value.reshape(-1, value.shape[-1])
        if min(flat.shape) < 4:
            continue
        u, s, v = np.linalg.svd(flat, full_matrices=False)
        keep = max(2, round(dose * len(s)))
        low = (u[:, :keep] * s[:keep]) @ v[:keep]
        low *= np.linalg.norm(flat) / np.linalg.norm(low)
        variable.assign(low.reshape(value.shape))


def shifted(model, dose, preactivation):
    """All hidden units are pushed down by so many deviations of their own preactivations.

    Args:
        model: classifier of `network`.
        dose: float, deviations.
        preactivation: the piece of `ProbeInputs.units`, as the network is now.
    """
    for group in _hidden(model):
        attached = {p.variable.name: p for p in group.attached}
        piece = attached["beta"] if "beta" in attached else group.incoming[1]
        deviation = np.sqrt(preactivation[group.name]["m2"])[piece.owner]
        piece.variable.assign(np.asarray(piece.variable.value) - dose * deviation)


# Name of the mechanism: planter, full dose, doses of a sweep.
# In the order in which planting one does not undo another.
PLANTS = {
    "rank_collapse": (rank, 0.1, (0.5, 0.35, 0.2, 0.1, 0.03)),
    "cloned_units": (clones, 0.5, (0.1, 0.2, 0.35, 0.5, 0.9)),
    "norm_growth": (norms, 10.0, (1.5, 3.0, 5.0, 10.0, 30.0)),
    "dead_units": (dead, 0.5, (0.1, 0.2, 0.35, 0.5, 0.9)),
    "linearised_units": (linearised, 0.5, (0.1, 0.2, 0.35, 0.5, 0.9)),
    "saturation": (logits, 100.0, (3.0, 10.0, 30.0, 100.0)),
    "large_targets": (None, 1000.0, (3.0, 10.0, 30.0, 100.0, 1000.0)),
}


def planted(architecture, mechanism, seed, dose=None, epochs=2):
    """A briefly trained network with a mechanism, and the data to look at it with.

    Large targets are planted by training on them.
    """
    plant, full, _ = PLANTS[mechanism]
    dose = full if dose is None else dose
    x, y = data()
    if mechanism == "large_targets":
        return network(architecture, seed, epochs, regression=dose), (x, targets(seed, dose))
    model = network(architecture, seed, epochs)
    plant(model, dose, seed)
    return model, (x, y)


def _hidden(model):
    return [g for g in unit_groups(model) if g.preactivation is not None]


def _kernels(model):
    return [v for v in model.trainable_variables if is_kernel(v)]


def _push(model, dose, seed, by, last=False):
    """Adds to the offsets of units; where kernels were made larger before, as much more."""
    rng = np.random.default_rng(seed)
    for group in _hidden(model):
        order = rng.permutation(group.size)
        order = order[::-1] if last else order  # dead and linearised units are others
        chosen = order[: round(dose * group.size)]
        attached = {p.variable.name: p for p in group.attached}
        kernel, *offsets = group.incoming
        if "beta" not in attached or "moving_mean" in attached:  # nothing takes the scale out
            value = np.asarray(kernel.variable.value)
            by *= max(1.0, np.sqrt(np.mean(value**2) * (value.size / group.size) / 2))
        offsets = [attached["beta"]] if "beta" in attached else offsets
        value = np.asarray(offsets[0].variable.value).copy()
        value[np.isin(offsets[0].owner, chosen)] += by
        offsets[0].variable.assign(value)

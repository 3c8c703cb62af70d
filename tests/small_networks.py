"""Small networks of `kp.models`, and how to look into them."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp

NORMS = ["layer", "batch", "rms", "group"]
NORM_LAYERS = (
    keras.layers.LayerNormalization,
    keras.layers.BatchNormalization,
    keras.layers.RMSNormalization,
    keras.layers.GroupNormalization,
)


def mlp(shape=(8, 8, 1), **kwargs):
    return kp.models.mlp(shape, 3, widths=(6, 4), **kwargs)


def cnn(shape=(8, 8, 1), **kwargs):
    return kp.models.cnn(shape, 3, filters=(4, 8), dense=(6,), **kwargs)


def resnet18(shape=(8, 8, 1), **kwargs):
    return kp.models.resnet18(shape, 3, width=4, **kwargs)


def vit(shape=(8, 8, 1), **kwargs):
    return kp.models.vit(shape, 3, dim=8, depth=2, heads=2, **kwargs)


# Builder and its number of nonlinearities.
NETWORKS = {
    "mlp": (mlp, 2),
    "cnn": (cnn, 3),
    "resnet18": (resnet18, 1 + 8 * 2),
    "vit": (vit, 2),
}
every_network = pytest.mark.parametrize(
    ("build", "nonlinearities"), list(NETWORKS.values()), ids=list(NETWORKS)
)
every_builder = pytest.mark.parametrize(
    "build", [build for build, _ in NETWORKS.values()], ids=list(NETWORKS)
)


def images(shape, n=4, seed=0):
    return np.random.default_rng(seed).normal(size=(n, *shape)).astype("float32")


def layers_of(model, kind):
    return [layer for layer in model.layers if isinstance(layer, kind)]


def writer_of(tensor):
    """Returns the layer that made a symbolic tensor."""
    return tensor._keras_history.operation


def train_two_steps(model, jit_compile=True):
    model.compile(
        keras.optimizers.SGD(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=jit_compile,
    )
    before = [np.asarray(v) for v in model.trainable_variables]
    x, y = images((8, 8, 1)), np.array([0, 1, 2, 0])
    history = model.fit(x, y, batch_size=2, verbose=0)
    assert model.optimizer.iterations == 2
    assert np.isfinite(history.history["loss"][0])
    for variable, old in zip(model.trainable_variables, before, strict=True):
        assert np.all(np.isfinite(variable))
        if variable.name == "kernel":
            assert not np.array_equal(variable, old), variable.path

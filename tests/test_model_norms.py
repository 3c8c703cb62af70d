"""Where the networks have normalisations, and what these compute."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from tests.small_networks import (
    NETWORKS,
    NORM_LAYERS,
    NORMS,
    cnn,
    every_builder,
    every_network,
    images,
    layers_of,
    mlp,
    train_two_steps,
    vit,
    writer_of,
)


@every_network
@pytest.mark.parametrize("norm", NORMS)
def test_a_norm_directly_before_each_nonlinearity(build, nonlinearities, norm):
    model = build(norm=norm)
    activations = layers_of(model, keras.layers.Activation)
    assert len(activations) == nonlinearities
    for i, layer in enumerate(activations):
        assert layer.name == f"activation_{i}"
        writer = writer_of(layer.input)
        assert isinstance(writer, NORM_LAYERS)
        assert writer.name == f"norm_{i}"
    assert not isinstance(writer_of(model.output), NORM_LAYERS)
    extra = 2 * 2 + 1 if build is vit else 0
    assert len(layers_of(model, NORM_LAYERS)) == nonlinearities + extra


@every_network
def test_no_norm(build, nonlinearities):
    model = build(norm=None)
    assert not layers_of(model, NORM_LAYERS)
    assert len(layers_of(model, keras.layers.Activation)) == nonlinearities


def test_only_vit_normalises_by_default():
    for build, _ in NETWORKS.values():
        assert bool(layers_of(build(), NORM_LAYERS)) == (build is vit)


@pytest.mark.parametrize(
    ("norm", "per_unit"), [("layer", 2), ("batch", 2), ("rms", 1), ("group", 2)]
)
def test_parameters_of_the_norms_by_hand(norm, per_unit):
    # 64-6-4-3: kernels and biases.
    plain = (64 * 6 + 6) + (6 * 4 + 4) + (4 * 3 + 3)

    def trainable(model):
        return sum(np.prod(v.shape) for v in model.trainable_variables)

    assert trainable(mlp()) == plain
    assert trainable(mlp(norm=norm)) == plain
    assert trainable(mlp(norm=norm, affine=True)) == plain + per_unit * (6 + 4)
    # Per channel, not per pixel, in a convolution.
    convolutional = trainable(cnn(norm=norm, affine=True)) - trainable(cnn(norm=norm))
    assert convolutional == per_unit * (4 + 8 + 6)


def _standardise(x, axis):
    mean, variance = x.mean(axis=axis, keepdims=True), x.var(axis=axis, keepdims=True)
    return (x - mean) / np.sqrt(variance + 1e-3)


def _rms(x, axis):
    return x / np.sqrt(np.mean(x**2, axis=axis, keepdims=True) + 1e-3)


def _grouped(x):
    # Channels 0-3 and 4-7, over all positions, per example.
    split = x.reshape(len(x), -1, 2, 4)
    return _standardise(split, (1, 3)).reshape(x.shape)


@pytest.mark.parametrize("affine", [False, True])
@pytest.mark.parametrize(
    ("norm", "reference"),
    [
        ("layer", lambda x: _standardise(x, (1, 2, 3))),
        ("batch", lambda x: _standardise(x, (0, 1, 2))),
        ("rms", lambda x: _rms(x, (1, 2, 3))),
        ("group", _grouped),
    ],
)
def test_norm_of_a_convolution_against_numpy(norm, reference, affine):
    groups = 2 if norm == "group" else None
    model = kp.models.cnn((4, 4, 1), 2, filters=(8,), norm=norm, groups=groups, affine=affine)
    layer = model.get_layer("norm_0")
    x = 3 + 2 * images((4, 4, 8))
    expected = reference(x)
    if affine:
        scale, offset = np.arange(1, 9), np.arange(8) / 4
        getattr(layer, "scale" if norm == "rms" else "gamma").assign(scale)
        expected = expected * scale
        if norm != "rms":
            layer.beta.assign(offset)
            expected = expected + offset
    np.testing.assert_allclose(layer(x, **_training(layer)), expected, atol=2e-4)


@pytest.mark.parametrize(("norm", "reference"), [("layer", _standardise), ("rms", _rms)])
@pytest.mark.parametrize("tokens", [False, True])
def test_norm_of_features_against_numpy(norm, reference, tokens):
    model = vit(norm=norm) if tokens else kp.models.mlp((4,), 2, widths=(16,), norm=norm)
    x = 3 + 2 * images((4, 16) if tokens else (16,))
    np.testing.assert_allclose(model.get_layer("norm_0")(x), reference(x, -1), atol=1e-4)


def _training(layer):
    batch = isinstance(layer, keras.layers.BatchNormalization)
    return {"training": True} if batch else {}


@pytest.mark.parametrize(
    ("channels", "groups"), [(64, 8), (32, 8), (36, 6), (16, 4), (12, 3), (11, 1), (6, 1), (1, 1)]
)
def test_default_groups_divide_and_are_not_small(channels, groups):
    model = kp.models.mlp((2,), 1, widths=(channels,), norm="group")
    assert model.get_layer("norm_0").groups == groups


@pytest.mark.slow
@every_builder
@pytest.mark.parametrize("norm", [None, *NORMS])
def test_trains_with_every_norm(build, norm):
    train_two_steps(build(norm=norm))


@every_builder
@pytest.mark.parametrize("norm", NORMS)
def test_a_loaded_model_computes_the_same(build, norm, tmp_path):
    model = build(norm=norm, affine=True, dropout=0.5, activation="gelu")
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = images((8, 8, 1))
    np.testing.assert_array_equal(loaded(x), model(x))
    assert [v.path for v in loaded.weights] == [v.path for v in model.weights]

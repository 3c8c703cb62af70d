"""Tests of the networks: shapes, names, initial weights, training, errors."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from tests.small_networks import (
    NETWORKS,
    cnn,
    every_builder,
    every_network,
    images,
    layers_of,
    mlp,
    resnet18,
    train_two_steps,
    vit,
    writer_of,
)


@every_builder
@pytest.mark.parametrize("shape", [(8, 8, 1), (32, 32, 3)], ids=str)
def test_output_shape(build, shape):
    model = build(shape)
    assert model.output_shape == (None, 3)
    assert model.input_shape == (None, *shape)
    outputs = np.asarray(model(images(shape)))
    assert outputs.shape == (4, 3)
    assert np.all(np.isfinite(outputs))
    # Logits: neither all positive, nor rows that sum to one.
    assert not np.allclose(outputs.sum(axis=-1), 1)
    assert model.layers[-1].activation is keras.activations.linear


def test_default_sizes():
    # 64-128-128-128-10, kernels and biases.
    assert kp.models.mlp((8, 8, 1), 10).count_params() == (
        64 * 128 + 128 + 2 * (128 * 128 + 128) + 128 * 10 + 10
    )
    # Two poolings leave 2x2 of 8x8, the third 1x1.
    assert kp.models.cnn((8, 8, 1), 10).count_params() == (
        (9 * 1 * 32 + 32) + (9 * 32 * 64 + 64) + (9 * 64 * 64 + 64) + (64 * 256 + 256) + 2570
    )


@pytest.mark.slow
def test_default_size_of_resnet18():
    # The published one for CIFAR: 11,173,962 less 9,600 of batch norm and 10 biases.
    model = kp.models.resnet18((32, 32, 3), 10)
    kernels = sum(np.prod(v.shape) for v in model.trainable_variables if v.name == "kernel")
    assert kernels == 11_173_962 - 9_600 - 10


def test_mlp_of_a_vector_has_no_flatten():
    model = mlp((5,))
    assert [layer.name for layer in model.layers] == [
        "input",
        "dense_0",
        "activation_0",
        "dense_1",
        "activation_1",
        "output",
    ]


def test_cnn_pools_while_the_size_allows_it():
    model = kp.models.cnn((4, 6, 1), 2, filters=(2, 2, 2, 2), dense=())
    assert [layer.output.shape[1:3] for layer in layers_of(model, keras.layers.MaxPooling2D)] == [
        (2, 3),
        (1, 1),
    ]
    assert writer_of(model.output).kernel.shape == (2, 2)


def test_resnet18_halves_the_image_three_times():
    model = resnet18()
    sizes = [layer.output.shape[1:] for layer in layers_of(model, keras.layers.Add)]
    assert sizes == [(8, 8, 4)] * 2 + [(4, 4, 8)] * 2 + [(2, 2, 16)] * 2 + [(1, 1, 32)] * 2
    convs = layers_of(model, keras.layers.Conv2D)
    assert [layer.kernel_size for layer in convs].count((1, 1)) == 3
    assert len(convs) == 17 + 3


def test_vit_tokens_and_branches():
    model = vit((8, 12, 1))
    assert model.get_layer("tokens").output.shape == (None, 2 * 3, 8)
    assert len(layers_of(model, keras.layers.MultiHeadAttention)) == 2
    assert len(layers_of(model, keras.layers.Add)) == 4
    for layer in layers_of(model, keras.layers.MultiHeadAttention):
        assert writer_of(layer.input[0]).name.startswith("prenorm")
    # Positions matter: swapping two patches changes the outcome.
    x = images((8, 12, 1))
    swapped = np.concatenate([x[:, :, 4:8], x[:, :, :4], x[:, :, 8:]], axis=2)
    assert not np.allclose(model(x), model(swapped), atol=1e-5)
    model.get_layer("position_embedding").embeddings.assign(np.zeros((6, 8)))
    np.testing.assert_allclose(model(x), model(swapped), atol=1e-5)


@every_builder
def test_regularizer_is_on_kernels_alone(build):
    options = {"norm": "layer", "affine": True}
    model = build(kernel_regularizer=keras.regularizers.L2(0.5), **options)
    kernels = [v for v in model.trainable_variables if v.name == "kernel"]
    expected = sum(0.5 * np.sum(np.asarray(k, "float64") ** 2) for k in kernels)
    np.testing.assert_allclose(sum(float(x) for x in model.losses), expected, rtol=1e-5)
    assert len(model.losses) == len(kernels)
    for variable in model.trainable_variables:
        assert (variable.regularizer is None) == (variable.name != "kernel"), variable.path
    assert "output/kernel" in [k.path for k in kernels]
    assert build(**options).losses == []


@every_builder
def test_names_and_paths_are_equal_in_every_build(build):
    options = {"norm": "group", "affine": True, "dropout": 0.1, "activation": keras.layers.PReLU}
    first, second = build(**options), build(**options)
    for attribute in ("layers", "weights"):
        a, b = getattr(first, attribute), getattr(second, attribute)
        assert [x.name for x in a] == [x.name for x in b]
    paths = [v.path for v in first.weights]
    assert paths == [v.path for v in second.weights]
    assert len(set(paths)) == len(paths)


@every_builder
def test_equal_seeds_give_equal_weights(build):
    models = []
    for seed in (1, 1, 2):
        keras.utils.set_random_seed(seed)
        models.append(build())
    weights = [model.get_weights() for model in models]
    for a, b in zip(*weights[:2], strict=True):
        np.testing.assert_array_equal(a, b)
    assert not np.array_equal(weights[0][0], weights[2][0])


@pytest.mark.parametrize("seed", [None, 3])
def test_one_initializer_object_draws_anew_for_each_kernel(seed):
    initializer = keras.initializers.HeNormal(seed=seed)
    model = kp.models.mlp((4,), 4, widths=(4, 4), kernel_initializer=initializer)
    kernels = [np.asarray(v) for v in model.trainable_variables if v.name == "kernel"]
    assert not np.allclose(kernels[0], kernels[1])
    assert not np.allclose(kernels[1], kernels[2])
    again = kp.models.mlp((4,), 4, widths=(4, 4), kernel_initializer=initializer)
    assert np.array_equal(again.get_layer("dense_1").kernel, kernels[1]) == (seed is not None)


def test_scale_of_the_initial_kernels():
    model = kp.models.vit((8, 8, 4), 64, dim=64, depth=1)
    for layer, variance in (
        (model.get_layer("patch_embedding"), 2 / 64),
        (model.get_layer("dense_0"), 2 / 64),
        (model.get_layer("attention_0").query_dense, 1 / 64),
        (model.get_layer("attention_0").value_dense, 1 / 64),
        (model.get_layer("attention_0").output_dense, 1 / 64),
    ):
        assert np.var(layer.kernel) == pytest.approx(variance, rel=0.1), layer.name
    attention = model.get_layer("attention_0")
    assert not np.allclose(attention.query_dense.kernel, attention.key_dense.kernel)
    constant = mlp(kernel_initializer="zeros")
    assert not np.any(constant.get_layer("dense_0").kernel)


@every_network
def test_activation_as_layer_class_or_callable(build, nonlinearities):
    for activation in (keras.layers.PReLU(alpha_initializer="ones"), keras.layers.PReLU):
        model = build(activation=activation)
        layers = layers_of(model, keras.layers.PReLU)
        assert [layer.name for layer in layers] == [
            f"activation_{i}" for i in range(nonlinearities)
        ]
        assert len({id(layer.alpha) for layer in layers}) == nonlinearities
    assert np.all(np.asarray(layers[0].alpha) == 0)
    model = build(activation=keras.ops.tanh)
    assert all(x.activation is keras.ops.tanh for x in layers_of(model, keras.layers.Activation))


def test_activation_that_changes_the_number_of_channels():
    @keras.saving.register_keras_serializable(package="test_models")
    class CReLU(keras.layers.Layer):
        def call(self, x):
            return keras.ops.relu(keras.ops.concatenate([x, -x], axis=-1))

    for build, _ in NETWORKS.values():
        assert build(activation=CReLU)(images((8, 8, 1))).shape == (4, 3)


@pytest.mark.parametrize(
    ("build", "layers"), [(mlp, 2), (cnn, 3), (resnet18, 8), (vit, 5)], ids=list(NETWORKS)
)
def test_dropout(build, layers):
    assert not layers_of(build(), kp.layers.Dropout)
    model = build(dropout=0.5)
    dropouts = layers_of(model, kp.layers.Dropout)
    assert [layer.name for layer in dropouts] == [f"dropout_{i}" for i in range(layers)]
    assert {layer.rate for layer in dropouts} == {0.5}
    # Keras' slow generator draws nowhere, not inside the attention either.
    slow = [x for x in model._flatten_layers() if isinstance(x, keras.layers.Dropout)]
    assert all(layer.rate == 0 for layer in slow)
    x = images((8, 8, 1))
    np.testing.assert_array_equal(model(x), model(x))
    assert not np.allclose(model(x, training=True), model(x, training=True))


@pytest.mark.parametrize(
    ("build", "jit_compile"),
    [
        (mlp, True),
        (cnn, True),
        pytest.param(resnet18, True, marks=pytest.mark.slow),
        pytest.param(vit, True, marks=pytest.mark.slow),
        (resnet18, False),
        (vit, False),
    ],
)
def test_trains_two_steps(build, jit_compile):
    options = {"norm": "layer", "affine": True, "dropout": 0.1}
    train_two_steps(build(kernel_regularizer="l2", **options), jit_compile)


@every_builder
@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_outputs_are_float32_under_mixed_precision(build, policy):
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(policy)
    try:
        model = build(norm="layer", dropout=0.1)
        outputs = model(images((8, 8, 1)), training=True)
    finally:
        keras.config.set_dtype_policy(before)
    assert keras.backend.standardize_dtype(outputs.dtype) == "float32"
    hidden = layers_of(model, keras.layers.Activation)[0]
    assert hidden.compute_dtype == policy.removeprefix("mixed_")
    assert np.all(np.isfinite(outputs))


@every_builder
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "instance"}, r"`norm` must be one of .*Received: norm='instance'"),
        ({"norm": None, "affine": True}, r"`affine=True` needs .*Received: affine=True"),
        ({"norm": "layer", "groups": 2}, r"`groups` is for .*Received: groups=2, norm='layer'"),
        ({"norm": "group", "groups": 0}, r"`groups` must be a positive .*Received: groups=0"),
        ({"norm": "group", "groups": 5}, r"`groups` must divide .*Received: groups=5, channels="),
        ({"dropout": 1.0}, r"`dropout` must be .*Received: dropout=1.0"),
        ({"dropout": -0.1}, r"`dropout` must be .*Received: dropout=-0.1"),
        ({"activation": "rellu"}, r"`activation` must be .*Received: activation='rellu'"),
        ({"shape": (0, 8, 1)}, r"`input_shape` must be .*Received: input_shape=\(0, 8, 1\)"),
        ({"shape": ()}, r"`input_shape` must be .*Received: input_shape=\(\)"),
    ],
)
def test_wrong_options(build, options, message):
    with pytest.raises(ValueError, match=message):
        build(**options)


@pytest.mark.parametrize("build", [cnn, resnet18, vit])
@pytest.mark.parametrize("shape", [(64,), (8, 8), (2, 8, 8, 1)], ids=str)
def test_images_only(build, shape):
    with pytest.raises(ValueError, match=r"`input_shape` must be \(height.*Received: input_shape"):
        build(shape)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.mlp((4,), 0), r"`num_outputs` must be .*Received: num_outputs=0"),
        (lambda m: m.mlp((4,), 2.0), r"`num_outputs` must be .*Received: num_outputs=2.0"),
        (lambda m: m.mlp((4,), 2, widths=()), r"`widths` must be .*Received: widths=\(\)"),
        (lambda m: m.mlp((4,), 2, widths=8), r"`widths` must be .*Received: widths=8"),
        (lambda m: m.mlp((4,), 2, widths=(8, -1)), r"`widths` .*Received: widths=\(8, -1\)"),
        (lambda m: m.cnn((8, 8, 1), 2, filters=()), r"`filters` .*Received: filters=\(\)"),
        (lambda m: m.cnn((8, 8, 1), 2, dense=(0,)), r"`dense` .*Received: dense=\(0,\)"),
        (lambda m: m.resnet18((8, 8, 1), 2, width=0), r"`width` .*Received: width=0"),
        (lambda m: m.vit((8, 8, 1), 2, patch=3), r"`patch` must divide .*Received: patch=3"),
        (lambda m: m.vit((8, 8, 1), 2, patch=0), r"`patch` must be .*Received: patch=0"),
        (lambda m: m.vit((8, 8, 1), 2, heads=3), r"`heads` must divide .*Received: heads=3"),
        (lambda m: m.vit((8, 8, 1), 2, depth=0), r"`depth` must be .*Received: depth=0"),
        (lambda m: m.vit((8, 8, 1), 2, mlp_ratio=0), r"`mlp_ratio` must .*Received: mlp_ratio=0"),
    ],
)
def test_wrong_sizes(call, message):
    with pytest.raises(ValueError, match=message):
        call(kp.models)

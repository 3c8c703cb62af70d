"""Tests of AdamW on kernels alone."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp

KERNEL = np.array([[1.0, -2.0], [3.0, 4.0]], "float32")


def _step(optimizer, variables, gradients=None):
    gradients = gradients or [np.zeros(v.shape, "float32") for v in variables]
    optimizer.apply([keras.ops.convert_to_tensor(g) for g in gradients], variables)


def _dense(name="dense"):
    layer = keras.layers.Dense(2, name=name, bias_initializer="ones")
    layer.build((None, 2))
    layer.kernel.assign(KERNEL)
    return layer


def test_one_step_without_a_gradient_by_hand():
    layer = _dense()
    _step(kp.optimizers.adamw(0.5, weight_decay=0.2), layer.trainable_variables)
    # w - 0.5 * 0.2 * w
    np.testing.assert_allclose(layer.kernel, [[0.9, -1.8], [2.7, 3.6]], rtol=1e-6)
    np.testing.assert_array_equal(layer.bias, [1, 1])


def test_one_step_with_a_gradient_by_hand():
    layer = _dense()
    gradient = np.array([[1.0, -1.0], [10.0, 0.0]], "float32")
    optimizer = kp.optimizers.adamw(0.5, weight_decay=0.2)
    _step(optimizer, [layer.kernel], [gradient])
    # The first step of Adam is the learning rate times the sign of the gradient.
    expected = 0.9 * KERNEL - 0.5 * np.sign(gradient)
    np.testing.assert_allclose(layer.kernel, expected, rtol=1e-4)


def test_ten_thousand_steps_as_in_the_docstring():
    for weight_decay, kept in ((1e-5, 0.99990), (1e-4, 0.9990), (1e-2, 0.905), (0.1, 0.368)):
        assert (1 - 1e-3 * weight_decay) ** 10_000 == pytest.approx(kept, abs=5e-4)
    layer = _dense()
    optimizer = kp.optimizers.adamw(1e-3, weight_decay=10.0)
    for _ in range(10):
        _step(optimizer, [layer.kernel])
    np.testing.assert_allclose(layer.kernel, (1 - 1e-2) ** 10 * KERNEL, rtol=1e-5)


def test_no_decay_is_adam_bit_for_bit():
    gradient = [np.array([[1.0, -1.0], [10.0, 0.5]], "float32")]
    decayed, plain = _dense(), _dense()
    optimizer, adam = kp.optimizers.adamw(weight_decay=0.0), keras.optimizers.Adam(1e-3)
    for _ in range(3):
        _step(optimizer, [decayed.kernel], gradient)
        _step(adam, [plain.kernel], gradient)
    np.testing.assert_array_equal(decayed.kernel, plain.kernel)


def _model_of_all_kinds():
    tokens = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 6, name="embed")(tokens)
    x = keras.layers.MultiHeadAttention(2, 3, name="scale_attention")(x, x)
    x = keras.layers.LayerNormalization(name="kernel_norm")(x)
    x = keras.layers.BatchNormalization()(x)
    x = keras.layers.RMSNormalization()(x)
    x = keras.layers.GroupNormalization(2)(x)
    x = keras.layers.DepthwiseConv1D(2, name="depthwise_bias")(x)
    x = keras.layers.GRU(3)(x)
    x = keras.layers.Dense(3, name="rescale_dense")(x)
    x = keras.layers.Dense(3, name="scale")(x)
    return keras.Model(tokens, x, name="bias")


def test_only_kernels_decay_whatever_their_layers_are_called():
    model = _model_of_all_kinds()
    for variable in model.trainable_variables:
        variable.assign(np.ones(variable.shape))
    _step(kp.optimizers.adamw(1.0, weight_decay=0.5), model.trainable_variables)
    for variable in model.trainable_variables:
        kept = 0.5 if variable.path.endswith("kernel") else 1.0
        np.testing.assert_array_equal(variable, np.full(variable.shape, kept), variable.path)
    decayed = [v.path for v in model.trainable_variables if np.all(np.asarray(v) == 0.5)]
    assert len(decayed) == 4 + 1 + 2 + 2


@pytest.mark.parametrize("affine", [False, True])
def test_decays_the_kernels_of_a_vit_alone(affine):
    model = kp.models.vit((8, 8, 1), 2, dim=8, depth=1, heads=2, affine=affine)
    before = [np.asarray(v) for v in model.trainable_variables]
    _step(kp.optimizers.adamw(1.0, weight_decay=0.5), model.trainable_variables)
    for variable, old in zip(model.trainable_variables, before, strict=True):
        kept = 0.5 if variable.name == "kernel" else 1.0
        np.testing.assert_array_equal(variable, kept * old, variable.path)


def test_patterns_match_whole_names():
    names = ["bias", "bias_2", "my_bias", "scale"]
    variables = [keras.Variable(np.ones(2, "float32"), name=name) for name in names]
    with keras.name_scope("scale_layer"):
        variables.append(keras.Variable(np.ones(2, "float32"), name="kernel"))
    optimizer = kp.optimizers.adamw(1.0, 0.5, exclude=[".*_bias", "sc.*"])
    _step(optimizer, variables)
    assert [float(v[0]) for v in variables] == [0.5, 0.5, 1.0, 1.0, 0.5]


def test_nothing_excluded():
    layer = _dense()
    _step(kp.optimizers.adamw(1.0, 0.5, exclude=()), layer.trainable_variables)
    np.testing.assert_array_equal(layer.bias, [0.5, 0.5])


def test_exclusions_survive_saving(tmp_path):
    layer = _dense()
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile(kp.optimizers.adamw(1e-2, 0.5, exclude=["kernel"], beta_1=0.8), "mse")
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "model.keras")
    optimizer = keras.saving.load_model(tmp_path / "model.keras").optimizer
    assert isinstance(optimizer, keras.optimizers.AdamW)
    assert optimizer.get_config() == model.optimizer.get_config()
    again = type(optimizer).from_config(optimizer.get_config())
    _step(again, layer.trainable_variables)
    np.testing.assert_array_equal(layer.kernel, KERNEL)
    np.testing.assert_allclose(layer.bias, [0.995, 0.995], rtol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_decays_inside_fit(jit_compile, dtype):
    inputs = keras.Input((2,))
    layer = keras.layers.Dense(2, bias_initializer="ones", dtype=dtype)
    model = keras.Model(inputs, layer(inputs))
    layer.kernel.assign(KERNEL)
    optimizer = kp.optimizers.adamw(1e-2, weight_decay=10.0)
    if dtype == "mixed_float16":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, lambda y, outputs: 0 * keras.ops.sum(outputs), jit_compile=jit_compile)
    model.fit(np.ones((4, 2)), np.ones((4, 2)), batch_size=2, verbose=0)
    np.testing.assert_allclose(layer.kernel, 0.9**2 * KERNEL, rtol=1e-5)
    np.testing.assert_array_equal(layer.bias, [1, 1])


def test_wrong_values():
    with pytest.raises(ValueError, match=r"`weight_decay` must .* Received: weight_decay=-1"):
        kp.optimizers.adamw(weight_decay=-1)
    with pytest.raises(ValueError, match=r"`exclude` must .* Received: exclude='bias'"):
        kp.optimizers.adamw(exclude="bias")

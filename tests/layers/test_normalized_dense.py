import keras
import numpy as np
import pytest

import keras_plasticity as kp

RNG = np.random.default_rng(0)
X = RNG.normal(size=(5, 6)).astype("float32")


def test_outputs_by_numpy():
    layer = kp.layers.NormalizedDense(4, "tanh", use_bias=True, bias_initializer="ones")
    layer.build(X.shape)
    first = np.asarray(layer.kernel, np.float64)
    raw = RNG.normal(size=first.shape)
    layer.kernel.assign(raw)
    used = raw * np.linalg.norm(first) / np.linalg.norm(raw)
    np.testing.assert_allclose(layer(X), np.tanh(X @ used + 1), atol=1e-5)
    assert np.linalg.norm(layer.normalized_kernel()) == pytest.approx(np.linalg.norm(first))


def test_begins_as_a_dense_layer():
    initializer = keras.initializers.GlorotUniform(seed=1)
    layers = [keras.layers.Dense, kp.layers.NormalizedDense]
    ours, plain = (c(4, use_bias=False, kernel_initializer=initializer)(X) for c in layers)
    np.testing.assert_allclose(ours, plain, atol=1e-6)


def network(project):
    inputs = keras.Input((6,))
    x = kp.layers.NormalizedDense(8, project=project, name="hidden")(inputs)
    x = keras.layers.ReLU()(keras.layers.LayerNormalization(center=False, scale=False)(x))
    return keras.Model(inputs, keras.layers.Dense(3)(x))


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e4])
def test_logits_do_not_depend_on_the_scale_of_the_raw_kernel(factor):
    model = network(True)
    before = np.asarray(model(X))
    kernel = model.get_layer("hidden").kernel
    kernel.assign(factor * kernel)
    np.testing.assert_allclose(model(X), before, atol=1e-5)
    kernel.assign(-kernel)
    assert np.abs(np.asarray(model(X)) - before).max() > 0.1


@pytest.mark.parametrize("jit_compile", [False, True])
def test_projected_kernel_keeps_its_norm_and_the_other_grows(jit_compile):
    norms = {}
    for project in (False, True):
        keras.utils.set_random_seed(1)
        model = network(project)
        model.compile(keras.optimizers.SGD(0.5), "mse", jit_compile=jit_compile)
        model.fit(X, RNG.normal(size=(5, 3)), epochs=5, verbose=0)
        layer = model.get_layer("hidden")
        norms[project] = np.linalg.norm(layer.kernel) / float(layer.radius)
    assert norms[True] == pytest.approx(1, abs=1e-6)
    assert norms[False] > 1.001  # steps are orthogonal to the kernel


def test_radius_is_saved_and_is_not_trained(tmp_path):
    model = network(False)
    layer = model.get_layer("hidden")
    layer.kernel.assign(3 * layer.kernel)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    other = loaded.get_layer("hidden")
    assert float(other.radius) == float(layer.radius)
    np.testing.assert_array_equal(other.kernel, layer.kernel)
    assert not other.radius.trainable and other.bias is None and not other.project


def test_a_kernel_of_zeros_is_finite():
    layer = kp.layers.NormalizedDense(4, kernel_initializer="zeros")
    tf = pytest.importorskip("tensorflow")
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(layer(X))
    np.testing.assert_array_equal(tape.gradient(loss, layer.kernel.value), np.zeros((6, 4)))


def test_a_layer_reset_takes_the_norm_of_the_new_kernel():
    model = network(True)
    model.compile("adam", "mse")
    reset = kp.callbacks.LayerReset(period=1)
    reset.on_task_begin(1, model)
    layer = model.get_layer("hidden")
    assert float(layer.radius) == pytest.approx(np.linalg.norm(layer.kernel), rel=1e-6)


def test_wrong_arguments():
    constraint = keras.constraints.UnitNorm()
    with pytest.raises(ValueError, match="`kernel_constraint` must be None.*Received"):
        kp.layers.NormalizedDense(4, kernel_constraint=constraint)
    kp.layers.NormalizedDense(4, kernel_constraint=constraint, project=False)
    layer = kp.layers.NormalizedDense(4)
    layer(X)
    with pytest.raises(ValueError, match="takes no LoRA"):
        layer.enable_lora(2)
    with pytest.raises(ValueError, match="is not quantized"):
        layer.quantize("int8")

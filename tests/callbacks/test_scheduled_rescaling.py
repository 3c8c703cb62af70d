import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.callbacks.scheduled_rescaling import ScheduledRescaling, rescaling

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")


def network(norm=False):
    with kp.surgery.seeded(1):
        x = inputs = keras.Input((6,))
        for name in ("one", "two"):
            x = keras.layers.Dense(8, bias_initializer="uniform", name=name)(x)
            if norm and name == "one":
                x = keras.layers.LayerNormalization(epsilon=1e-9)(x)
            x = keras.layers.ReLU()(x)
        out = keras.layers.Dense(2, bias_initializer="uniform", name="out")
        model = keras.Model(inputs, out(x))
    model.compile(keras.optimizers.SGD(0.1), "mse")
    return model


def kernels(model):
    return [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]


def grown(model, factors=(2.0, 3.0, 0.5)):
    """A callback that met the model when its kernels were of another size."""
    callback = ScheduledRescaling(0.25, 1, "task")
    kp.hooks.StepHooks.of(model).build(callback)
    for kernel, factor in zip(kernels(model), factors, strict=True):
        kernel.assign(kernel * factor)
    return callback


def test_factor_by_hand():
    kernel = np.array([[3.0, 4.0]], "float32")
    assert float(rescaling(kernel, 10.0, 0.5)) == pytest.approx(7.5 / 5)
    assert float(rescaling(kernel, 10.0, 1.0)) == pytest.approx(2)
    assert float(rescaling(0 * kernel, 10.0, 0.5)) == 1
    assert float(rescaling(kernel, 0.0, 0.5)) == 1


def test_logits_scale_by_the_product_of_the_factors():
    model = network()
    callback = grown(model)
    before, sizes = np.array(model(X)), [np.linalg.norm(k) for k in kernels(model)]
    biases = [np.array(layer.bias) for layer in model.layers if hasattr(layer, "bias")]
    callback.on_task_begin(1, model)
    # norms were 1 / factor of those of now, and a quarter of the way back is gone
    factors = [0.25 / f + 0.75 for f in (2.0, 3.0, 0.5)]
    for kernel, size, factor in zip(kernels(model), sizes, factors, strict=True):
        assert np.linalg.norm(kernel) == pytest.approx(size * factor, rel=1e-5)
    new = [np.array(layer.bias) for layer in model.layers if hasattr(layer, "bias")]
    for bias, old, product in zip(new, biases, np.cumprod(factors), strict=True):
        np.testing.assert_allclose(bias, old * product, rtol=1e-5)
    np.testing.assert_allclose(model(X), before * np.prod(factors), rtol=1e-4, atol=1e-6)


def test_behind_a_normalisation_the_product_begins_anew():
    model = network(norm=True)
    model.get_layer("one").bias.assign(np.zeros(8))
    callback = grown(model)
    before = np.array(model(X))
    callback.on_task_begin(1, model)
    product = (0.25 / 3 + 0.75) * (0.25 / 0.5 + 0.75)
    np.testing.assert_allclose(model(X), before * product, rtol=1e-4, atol=1e-5)


LAYERS = {
    "CenterScale": lambda: [keras.layers.Dense(8), kp.layers.CenterScale(epsilon=1e-9)],
    "rms": lambda: [keras.layers.Dense(8), kp.layers.CenterScale(None, "feature", epsilon=1e-9)],
    "centred": lambda: [keras.layers.Dense(8), kp.layers.CenterScale("feature", None)],
    "NormalizedDense": lambda: [
        keras.layers.Dense(8, bias_initializer="uniform"),
        kp.layers.NormalizedDense(8, use_bias=True, bias_initializer="uniform"),
    ],
    "NormalizedConv2D": lambda: [
        keras.layers.Reshape((3, 2, 1)),
        kp.layers.NormalizedConv2D(4, 2, use_bias=True, bias_initializer="uniform"),
        keras.layers.Flatten(),
    ],
    "WeightStandardization": lambda: [
        kp.layers.WeightStandardization(keras.layers.Dense(8, bias_initializer="uniform"))
    ],
    "UnitBall": lambda: [keras.layers.Dense(8), kp.layers.UnitBall(epsilon=1e-9)],
}


@pytest.mark.parametrize("make", LAYERS.values(), ids=LAYERS)
def test_relu_outputs_only_scale_with_the_layers_of_the_library(make):
    out = keras.layers.Dense(2, bias_initializer="uniform")
    with kp.surgery.seeded(1):
        model = keras.Sequential([keras.Input((6,)), *make(), keras.layers.ReLU(), out])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callback = ScheduledRescaling(0.25, 1, "task")
    kp.hooks.StepHooks.of(model).build(callback)
    for variable in model.trainable_variables:
        if variable.name == "kernel":
            variable.assign(variable * 3)
    before = np.array(model(X))
    callback.on_task_begin(1, model)
    ratio = np.array(model(X)) / before
    np.testing.assert_allclose(ratio, ratio[0, 0], rtol=1e-3)
    assert ratio[0, 0] < 0.9


def test_class_vectors_of_normalized_logits_are_left_alone():
    layers = [keras.layers.Dense(8, "relu"), kp.layers.NormalizedLogits(2)]
    model = keras.Sequential([keras.Input((6,)), *layers])
    model.compile(keras.optimizers.SGD(0.1), "mse")
    callback = grown(model, (2.0, 3.0))
    before = np.array(layers[1].kernel)
    callback.on_task_begin(1, model)
    np.testing.assert_array_equal(layers[1].kernel, before)
    assert list(np.array(callback.counts)) == [48, 0]


def test_rate_of_one_is_the_norm_of_the_start():
    model = network()
    start = [np.linalg.norm(k) for k in kernels(model)]
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[ScheduledRescaling(1.0)])
    for kernel, size in zip(kernels(model), start, strict=True):
        assert np.linalg.norm(kernel) == pytest.approx(size, rel=1e-5)


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_arguments_are_checked(rate):
    with pytest.raises(ValueError, match="`rate` must .*Received: rate="):
        ScheduledRescaling(rate)

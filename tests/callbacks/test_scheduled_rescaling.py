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

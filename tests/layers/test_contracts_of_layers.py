"""What all layers of this library promise: configuration, files, half precision, XLA, fusion."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.hooks import FusedSteps

L, RNG = kp.layers, np.random.default_rng(0)
VECTORS, IMAGES, TOKENS = (4, 6), (4, 5, 5, 6), (4, 3, 6)
LAYERS = {
    "AdaLin": (lambda **o: L.AdaLin("gelu", "ones", **o), VECTORS),
    "CReLU": (lambda **o: L.CReLU(**o), IMAGES),
    "CenterScale": (lambda **o: L.CenterScale("batch", "feature", True, **o), IMAGES),
    "CenterScale_group": (lambda **o: L.CenterScale("group", "batch", groups=2, **o), IMAGES),
    "DeepFourier": (lambda **o: L.DeepFourier(**o), VECTORS),
    "HadamardDense": (lambda **o: L.HadamardDense(4, **o), TOKENS),
    "NormalizedConv2D": (lambda **o: L.NormalizedConv2D(4, 3, "relu", True, **o), IMAGES),
    "NormalizedDense": (lambda **o: L.NormalizedDense(4, "tanh", True, **o), VECTORS),
    "Rational": (lambda **o: L.Rational(0.2, **o), VECTORS),
    "SmoothLeakyReLU": (lambda **o: L.SmoothLeakyReLU(0.2, **o), VECTORS),
    "UnitBall": (lambda **o: L.UnitBall(**o), VECTORS),
    "WeightStandardization": (
        lambda dtype=None, **o: L.WeightStandardization(
            keras.layers.Conv2D(4, 3, dtype=dtype), epsilon=1e-3, dtype=dtype, **o
        ),
        IMAGES,
    ),
}


def data(shape):
    return RNG.normal(size=shape).astype("float32")


def disturb(layer):
    """Values other than the first, so that losing them is seen."""
    for variable in layer.weights:
        variable.assign(variable + 0.1 * RNG.random(variable.shape))


@pytest.mark.parametrize("make,shape", LAYERS.values(), ids=LAYERS)
class TestLayer:
    def test_config_and_file(self, make, shape, tmp_path):
        layer = make(name="it")
        model = keras.Sequential([keras.Input(shape[1:]), layer])
        disturb(layer)
        x = data(shape)
        expected = np.asarray(model(x))
        assert model.output_shape[1:] == expected.shape[1:]
        copy = keras.layers.deserialize(keras.layers.serialize(layer))
        assert type(copy) is type(layer) and copy.get_config() == layer.get_config()
        if not copy.built:  # those without weights keep no shape
            copy.build(shape)
        copy.set_weights(layer.get_weights())
        np.testing.assert_allclose(copy(x), expected, atol=1e-6)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        np.testing.assert_array_equal(loaded(x), expected)

    def test_half_precision(self, make, shape):
        x = data(shape)
        plain, half = make(), make(dtype="mixed_float16")
        plain.build(shape)
        half.build(shape)
        half.set_weights(plain.get_weights())
        outputs = half(x)
        assert outputs.dtype == "float16"
        assert all(v.dtype == "float32" for v in half.weights)
        np.testing.assert_allclose(outputs, plain(x), atol=2e-2)

    def test_xla(self, make, shape):
        x, layer = tf.constant(data(shape)), make()
        layer.build(shape)
        weights = [v.value for v in layer.trainable_variables]

        def both(x):
            with tf.GradientTape() as tape:
                tape.watch(x)
                outputs = layer(x, training=True) if shape == IMAGES and norm else layer(x)
                loss = tf.reduce_sum(outputs * tf.range(outputs.shape[-1], dtype=tf.float32))
            return outputs, *tape.gradient(loss, [x, *weights])

        norm = isinstance(layer, L.CenterScale)
        plain, compiled = both(x), tf.function(both, jit_compile=True)(x)
        for a, b in zip(plain, compiled, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4)


def everything():
    K = keras.layers
    x = inputs = keras.Input((6, 6, 3))
    x = L.CenterScale("batch", "feature", True)(L.NormalizedConv2D(4, 3)(x))
    x = L.WeightStandardization(K.Conv2D(4, 3, padding="same"))(L.Rational()(x))
    x = L.AdaLin("tanh")(L.CenterScale("group", "batch", groups=2)(x))
    y = K.Reshape((16, 4))(x)
    y = L.NormalizedAttention(2, 4)(y, y)
    x = K.Concatenate()([K.Flatten()(x), K.GlobalAveragePooling1D()(y)])
    x = L.HadamardDense(6)(L.SmoothLeakyReLU()(L.NormalizedDense(5)(x)))
    x = L.DeepFourier()(K.Dense(4)(L.CReLU()(K.Dense(4)(x))))
    return keras.Model(inputs, K.Dense(3)(L.UnitBall()(x)))


X, Y = RNG.normal(size=(32, 6, 6, 3)).astype("float32"), RNG.integers(0, 3, 32).astype("int32")
ORDER = np.concatenate([RNG.permutation(32).reshape(8, 4) for _ in range(2)]).astype("int32")


def trained(size, jit=False, policy="float32"):
    keras.utils.set_random_seed(1)
    keras.config.set_dtype_policy(policy)
    try:
        model = everything()
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, jit_compile=jit)
        fused, losses = FusedSteps(X, Y), []
        record = keras.callbacks.LambdaCallback(
            on_train_batch_end=lambda b, logs: losses.append(fused.step_logs["loss"])
        )
        blocks = FusedSteps.blocks(ORDER, size, epoch_steps=8)
        model.fit(blocks, shuffle=False, verbose=0, callbacks=[fused, record])
    finally:
        keras.config.set_dtype_policy("float32")
    return model, np.concatenate(losses)


@pytest.fixture(scope="module")
def plain():
    return trained(8)


def test_fused_steps_agree_bit_for_bit(plain):
    model, losses = trained(1)
    np.testing.assert_array_equal(losses, plain[1])
    for one, many in zip(model.weights, plain[0].weights, strict=True):
        np.testing.assert_array_equal(one, many, err_msg=one.path)


@pytest.mark.slow
def test_fused_steps_with_xla(plain):
    _, losses = trained(8, jit=True)
    np.testing.assert_allclose(losses, plain[1], atol=1e-4)


def test_fused_steps_in_half_precision(plain):
    model, losses = trained(8, policy="mixed_float16")
    np.testing.assert_allclose(losses, plain[1], atol=0.05)
    assert all(np.isfinite(np.asarray(v)).all() for v in model.weights)


ACTIVATIONS = ("AdaLin", "CReLU", "DeepFourier", "Rational", "SmoothLeakyReLU")


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_of_the_models(name):
    for given in (getattr(L, name), getattr(L, name)()):
        model = kp.models.mlp((4, 4, 1), 3, widths=(5, 4), activation=given, norm="layer")
        found = [part for part in model.layers if type(part) is getattr(L, name)]
        assert len({id(part) for part in found}) == 2
        assert model(np.ones((2, 4, 4, 1))).shape == (2, 3)
        widths = [part.output.shape[-1] for part in found]
        assert widths == ([10, 8] if name in ("CReLU", "DeepFourier") else [5, 4])

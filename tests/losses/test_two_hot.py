"""Two-hot against its definition, by hand, and inside networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.losses import TwoHot
from keras_plasticity.losses.target_transforms import TRANSFORMS
from tests.reference import binned

RNG = np.random.default_rng(0)


def logits_of(probabilities):
    return np.log(np.maximum(np.asarray(probabilities), 1e-38))


def test_by_hand():
    loss = TwoHot(-1.0, 1.0, 3)
    np.testing.assert_allclose(loss.centres, [-1, 0, 1])
    p = loss.encode(np.float32([0.25, -1, 1, 5, -0.5]))
    expected = [[0, 0.75, 0.25], [1, 0, 0], [0, 0, 1], [0, 0, 1], [0.5, 0.5, 0]]
    np.testing.assert_allclose(p, expected, atol=1e-6)
    logits = np.float32([[0.0, np.log(2), 0.0]])  # probabilities 1/4, 1/2, 1/4
    assert float(loss([0.25], logits)) == pytest.approx(0.75 * np.log(2) + 0.25 * np.log(4))
    assert float(loss.decode(logits)[0]) == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("transform", [None, "symlog", "sqrt"])
def test_against_the_reference(transform):
    loss, forward = TwoHot(-7.0, 20.0, 17, transform), TRANSFORMS[transform][0]
    y = RNG.uniform(-9, 22, 50).astype("float32")
    ends = [float(forward(np.float32(x))) for x in (-7, 20)]
    z = np.linspace(*ends, 17)
    expected = [binned.two_hot(float(forward(v)), z) for v in y]
    p = np.asarray(loss.encode(y))
    np.testing.assert_allclose(p, expected, atol=2e-6)
    assert np.all((p > 0).sum(-1) <= 2)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    logits = RNG.normal(size=(50, 17)).astype("float32")
    log_softmax = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    entropy = -(np.array(expected) * log_softmax).sum(-1)
    np.testing.assert_allclose(loss.call(y, logits), entropy, rtol=1e-5)
    assert float(loss(y, logits)) == pytest.approx(entropy.mean(), rel=1e-5)


@pytest.mark.parametrize(
    "low,high,transform", [(-10, 10, None), (0, 3, None), (-1e4, 1e4, "symlog"), (-1e4, 50, "sqrt")]
)
def test_decodes_exactly_inside_the_range(low, high, transform):
    loss = TwoHot(low, high, 51, transform)
    y = np.linspace(low, high, 501, dtype="float32")
    decoded = np.asarray(loss.decode(logits_of(loss.encode(y))))
    assert np.all(np.abs(decoded - y) <= 1e-5 * np.maximum(1, np.abs(y)))


@pytest.mark.parametrize("name", ["symlog", "sqrt"])
def test_transforms_and_their_inverses(name):
    forward, inverse = TRANSFORMS[name]
    y = np.float32([-1e5, -30, -1, -1e-3, 0, 0.5, 3, 1e5])
    expected = {
        "symlog": np.sign(y) * np.log1p(np.abs(y)),
        "sqrt": np.sign(y) * (np.sqrt(np.abs(y) + 1) - 1) + 0.001 * y,
    }[name]
    np.testing.assert_allclose(forward(y), expected, rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(inverse(forward(y)), y, rtol=1e-4, atol=1e-6)


def test_shapes():
    loss = TwoHot(-1.0, 1.0, 3)
    one, two = RNG.normal(size=(4, 3)), RNG.normal(size=(4, 2, 3))
    y = RNG.uniform(-1, 1, (4, 2))
    assert loss.call(y[:, :1], one).shape == loss.call(y[:, 0], one).shape == (4,)
    assert loss.call(y, two).shape == loss.decode(two).shape == (4, 2)
    np.testing.assert_allclose(loss.call(y, two)[:, 1], loss.call(y[:, 1], two[:, 1]), rtol=1e-6)


def test_gradient_does_not_grow_with_the_targets():
    logits = tf.Variable(RNG.normal(size=(1, 51)).astype("float32"))
    for y in (1.0, 1000.0):
        with tf.GradientTape() as tape:
            value = TwoHot(-1000.0, 1000.0, 51)([y], logits)
        assert np.abs(tape.gradient(value, logits)).sum() <= 2


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "mixed_float16"])
def test_trains_in_fit(jit, dtype):
    x = RNG.normal(size=(64, 3)).astype("float32")
    y = 1000 + x[:, 0]
    loss = TwoHot(900.0, 1100.0, 51)
    inputs = keras.Input((3,))
    model = keras.Model(inputs, keras.layers.Dense(51, dtype=dtype)(inputs))
    optimizer = keras.optimizers.Adam(0.1)
    if dtype != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    model.compile(optimizer, loss, jit_compile=jit)
    model.fit(x, y, epochs=20, batch_size=16, verbose=0)
    decoded = np.asarray(loss.decode(model.predict(x, verbose=0)))
    assert decoded.dtype == np.float32
    assert np.abs(decoded - y).mean() < 3


def test_xla_equals_plain():
    loss, y = TwoHot(-1.0, 1.0, 9, "symlog"), RNG.uniform(-2, 2, 8).astype("float32")
    logits = RNG.normal(size=(8, 9)).astype("float32")
    plain, compiled = (
        tf.function(lambda: (loss(y, logits), loss.decode(logits)), jit_compile=jit)()
        for jit in (False, True)
    )
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_config_and_saving(tmp_path):
    loss = TwoHot(-2.0, 3.0, 7, "sqrt", name="mine")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, TwoHot) and again.get_config() == loss.get_config()
    assert again.get_config()["bins"] == 7 and again.get_config()["name"] == "mine"
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=8)
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))
    assert loaded.loss.get_config() == loss.get_config()


@pytest.mark.parametrize(
    "arguments,name",
    [
        ((1.0, 1.0, 3), "low"),
        ((0.0, float("inf"), 3), "low"),
        ((0.0, 1.0, 1), "bins"),
        ((0.0, 1.0, 3.0), "bins"),
        ((0.0, 1.0, 3, "log"), "transform"),
    ],
)
def test_wrong_arguments(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        TwoHot(*arguments)


def test_logits_and_targets_that_do_not_fit():
    loss = TwoHot(-1.0, 1.0, 3)
    with pytest.raises(ValueError, match="3 outputs .*Received: outputs of shape"):
        loss([0.0], np.zeros((1, 4)))
    with pytest.raises(ValueError, match="same shape"):
        loss(np.zeros((4, 2)), np.zeros((4, 3)))

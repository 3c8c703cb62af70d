"""Models and data of every kind: a clear value, a skip with a reason, or one clear error."""

import random

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from keras_plasticity.diagnosis import diagnose
from keras_plasticity.probes import Snapshot
from tests.diagnosis import planted


def test_rows_with_nan_are_left_out():
    model, (x, y) = planted.network("mlp", 0), planted.data()
    broken = x.copy()
    broken[5, 0, 0] = np.nan
    diagnosis = diagnose(model, (broken, y))
    assert diagnosis.examples == len(x) - 1
    assert "1 of 1437 examples hold NaN" in diagnosis.notes[0]
    with pytest.raises(ValueError, match="finite example"):
        diagnose(model, (np.full_like(x, np.nan), y))


def test_weights_that_are_not_finite_are_one_clear_error():
    model = planted.network("mlp", 0)
    model.get_layer("dense_1").bias.assign(np.full(64, np.nan, "float32"))
    with pytest.raises(ValueError, match=r"64 of 64 values of '.*dense_1/bias' are not"):
        diagnose(model, planted.data())


def test_single_example():
    model, (x, y) = planted.network("mlp", 0), planted.data()
    diagnosis = diagnose(model, (x[:1], y[:1]))
    assert diagnosis.examples == 1
    assert diagnosis["dead_units"].certainty == "low"
    assert any("need 1,000" in note for note in diagnosis.notes)


def test_few_examples_are_less_certain():
    model, (x, y) = planted.planted("mlp", "dead_units", 0, epochs=0, dose=0.9)
    assert diagnose(model, (x, y))["dead_units"].certainty == "high"
    assert diagnose(model, (x[:500], y[:500]))["dead_units"].certainty == "medium"
    assert diagnose(model, (x[:100], y[:100]))["dead_units"].certainty == "low"


def test_integer_inputs():
    inputs = keras.Input((7,), dtype="int32")
    x = layers.GlobalAveragePooling1D()(layers.Embedding(20, 16)(inputs))
    model = keras.Model(inputs, layers.Dense(4)(layers.Dense(32, activation="relu")(x)))
    x = np.random.default_rng(0).integers(0, 20, (1200, 7))
    diagnosis = diagnose(model, (x, x[:, 0] % 4))
    assert diagnosis["norm_growth"].status == "healthy"
    assert diagnosis["saturation"].status == "healthy"


def test_several_outputs():
    inputs = keras.Input((6,))
    x = layers.Dense(16, activation="relu")(inputs)
    model = keras.Model(inputs, [layers.Dense(2)(x), layers.Dense(1)(x)])
    x = np.random.default_rng(0).standard_normal((1000, 6)).astype("float32")
    diagnosis = diagnose(model, (x, [np.zeros(1000, int), x[:, :1]]))
    for name in ("saturation", "large_targets"):
        assert diagnosis[name].status == "not applicable"
        assert diagnosis[name].reason == "several outputs"
    assert diagnosis["dead_units"].status == "healthy"


def test_no_hidden_units():
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(3)(inputs))
    x = np.random.default_rng(0).standard_normal((1000, 6)).astype("float32")
    y = np.zeros(1000, "int32")
    diagnosis = diagnose(model, (x, y))
    assert diagnosis.healthy
    for name in ("dead_units", "linearised_units", "cloned_units", "rank_collapse"):
        assert diagnosis[name].status == "not applicable"
        assert diagnosis[name].reason
    model.layers[-1].kernel.assign(model.layers[-1].kernel.value * 100)
    assert diagnose(model, (x, y)).causes[0].mechanism == "saturation"


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__()
        self.hidden, self.out = layers.Dense(16, activation="relu"), layers.Dense(3)

    def call(self, x):
        return self.out(self.hidden(x))


def test_subclassed_model():
    model = Subclassed()
    x = np.random.default_rng(0).standard_normal((1000, 6)).astype("float32")
    with pytest.raises(ValueError, match="must be built"):
        diagnose(model, x)
    model(x)
    diagnosis = diagnose(model, (x, np.zeros(1000, "int32")))
    assert diagnosis["dead_units"].status == "not applicable"
    assert diagnosis["dead_units"].reason
    assert diagnosis["norm_growth"].status == "healthy"
    assert diagnosis["saturation"].status == "healthy"
    model.hidden.kernel.assign(model.hidden.kernel.value * 20)
    assert diagnose(model, x)["norm_growth"].status == "failing"


def test_layer_that_is_dead_as_a_whole():
    model = planted.network("mlp", 0)
    model.get_layer("dense_0").bias.assign(np.full(64, -100, "float32"))
    diagnosis = diagnose(model, planted.data())
    assert diagnosis.causes[0].mechanism == "dead_units"
    assert diagnosis["linearised_units"].follows_from or not diagnosis["linearised_units"].at_work


def test_nonlinearities_with_weights_of_their_own():
    inputs = keras.Input((5, 5, 1))
    x = layers.PReLU(shared_axes=[1, 2])(layers.Conv2D(8, 3, name="conv")(inputs))
    model = keras.Model(inputs, layers.Dense(3)(layers.Flatten()(x)))
    conv = model.get_layer("conv")
    conv.kernel.assign(conv.kernel.value * 10)
    conv.bias.assign(np.full(8, 99, "float32"))
    x = np.random.default_rng(0).standard_normal((1000, 5, 5, 1)).astype("float32")
    diagnosis = diagnose(model, (x, np.zeros(1000, "int32")))
    assert {f.mechanism for f in diagnosis.causes} == {"norm_growth", "linearised_units"}
    assert diagnosis["linearised_units"].evidence[0].value == 1


def test_output_bias_takes_the_offset_of_targets():
    model, (x, _) = planted.network("mlp", 0, regression=0.0), planted.data()
    y = planted.targets(0, 1000.0)
    assert diagnose(model, (x, y)).causes[0].mechanism == "large_targets"
    model.get_layer("output").bias.assign(y.mean(0))
    assert diagnose(model, (x, y))["large_targets"].status == "healthy"


def test_data_sets_and_arrays_say_the_same():
    model, (x, y) = planted.network("mlp", 0), planted.data()
    expected = diagnose(model, (x[:1024], y[:1024]))
    batched = tf.data.Dataset.from_tensor_slices((x, y)).batch(64)
    assert diagnose(model, batched).to_json() == expected.to_json()
    single = tf.data.Dataset.from_tensor_slices((x[:1000], y[:1000]))
    assert diagnose(model, single).to_json() == diagnose(model, (x[:1000], y[:1000])).to_json()
    assert diagnose(model, x)["large_targets"].reason == "no targets were given"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((np.zeros((3, 8, 8, 1)), np.zeros(4)), "as many targets as inputs"),
        ((np.zeros((0, 8, 8, 1)), np.zeros(0)), "at least one example"),
        ((np.zeros((3, 5)), np.zeros(3)), "must fit the model's inputs"),
        ("digits", "must be"),
    ],
)
def test_data_that_do_not_fit(data, message):
    with pytest.raises(ValueError, match=message):
        diagnose(planted.network("mlp", 0), data)


def test_reference_of_another_shape():
    with pytest.raises(ValueError, match="`reference` must have the weights"):
        diagnose(planted.network("mlp", 0), planted.data(), planted.network("cnn", 0))
    with pytest.raises(ValueError, match="`reference` must have the weights"):
        diagnose(planted.network("mlp", 0), planted.data(), Snapshot({}))


@pytest.mark.parametrize("architecture", ["mlp+ln", "cnn"])
def test_nothing_is_touched(architecture):
    model, (x, y) = planted.network(architecture, 0, 1), planted.data()
    before = [w.copy() for w in model.get_weights()]
    state = [np.asarray(v) for v in model.optimizer.variables]
    random.seed(5)
    np.random.seed(5)
    tf.random.set_seed(5)
    wanted = random.random(), np.random.rand(), float(tf.random.uniform(()))
    random.seed(5)
    np.random.seed(5)
    tf.random.set_seed(5)
    diagnose(model, (x, y), planted_reference(model))
    assert (random.random(), np.random.rand(), float(tf.random.uniform(()))) == wanted
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    for old, new in zip(state, model.optimizer.variables, strict=True):
        np.testing.assert_array_equal(old, np.asarray(new))


def planted_reference(model):
    """A snapshot whose weights are the model's own."""
    return Snapshot({v.path: tf.identity(v.value) for v in model.trainable_variables})


def test_a_path_is_no_model():
    with pytest.raises(ValueError, match=r"must be a `keras\.Model`"):
        diagnose("model.keras", np.ones((4, 2)))

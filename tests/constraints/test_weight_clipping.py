"""Tests of weights that never leave their bound."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.constraints import WeightClipping, constrain
from keras_plasticity.hooks import FusedSteps

RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 6, 6, 2)).astype("float32"), RNG.integers(0, 3, 16).astype("int32")


def network(dtype=None):
    with kp.surgery.seeded(1):
        x = inputs = keras.Input((6, 6, 2))
        x = keras.layers.Conv2D(4, 3, name="conv", dtype=dtype)(x)
        x = keras.layers.BatchNormalization(name="norm", dtype=dtype)(x)
        x = keras.layers.Flatten(dtype=dtype)(keras.layers.ReLU(dtype=dtype)(x))
        return keras.Model(inputs, keras.layers.Dense(3, name="logits", dtype=dtype)(x))


def compiled(model, jit=False):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.5), loss, jit_compile=jit)
    return model


class Largest(kp.hooks.InGraphCallback):
    """Keeps the largest absolute value of each weight after any step."""

    def build(self, model):
        self._trained = model.trainable_variables
        self.largest = [keras.Variable(0.0, trainable=False) for _ in self._trained]

    def after_step(self, outputs):
        for kept, variable in zip(self.largest, self._trained, strict=True):
            value = tf.reduce_max(tf.abs(tf.cast(variable.value, tf.float32)))
            kept.assign(tf.maximum(kept.value, value))

    def by_path(self):
        return {v.path: float(k) for v, k in zip(self._trained, self.largest, strict=True)}


def test_bound_by_hand():
    w = np.array([[3.0, -0.5], [-3.0, 1.0], [0.0, 9.0], [2.0, -9.0]], "float32")
    np.testing.assert_array_equal(WeightClipping(2.0)(w), [[1, -0.5], [-1, 1], [0, 1], [1, -1]])
    assert WeightClipping(3.0).bound((3, 3, 4, 8)) == 3 / 6
    assert WeightClipping(3.0, fan_in=9).bound((8,)) == 1
    half = WeightClipping(2.0)(keras.ops.cast(w, "float16"))
    assert half.dtype == "float16" and float(keras.ops.max(half)) == 1


def test_configuration_and_arguments():
    config = keras.constraints.serialize(WeightClipping(3.0, 4))
    assert keras.constraints.deserialize(config).get_config() == {"kappa": 3.0, "fan_in": 4}
    for wrong in ({"kappa": 0}, {"kappa": float("nan")}, {"fan_in": 0}, {"fan_in": 2.0}):
        name = next(iter(wrong))
        with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
            WeightClipping(**wrong)
    with pytest.raises(ValueError, match="`fan_in` must be given for a vector"):
        WeightClipping()(np.ones(3, "float32"))


@pytest.mark.parametrize("jit,fused", [(False, False), (False, True), (True, True)])
def test_weights_never_leave_the_bound(jit, fused):
    model, watch = compiled(network(), jit), Largest()
    bounds = {"conv/kernel": 18, "conv/bias": 18, "logits/kernel": 64, "logits/bias": 64}
    bounds = {path: np.float32(1.5 / np.sqrt(fan_in)) for path, fan_in in bounds.items()}
    done = constrain(model, WeightClipping(1.5))
    if fused:
        order = np.tile(np.arange(16, dtype="int32").reshape(4, 4), (2, 1))
        blocks = FusedSteps.blocks(order, 4)
        model.fit(blocks, shuffle=False, verbose=0, callbacks=[FusedSteps(X, Y), watch])
    else:
        model.fit(X, Y, batch_size=4, epochs=2, shuffle=False, verbose=0, callbacks=[watch])
    largest = watch.by_path()
    assert set(done.constraints) == set(bounds) and not done.left and not done.unsaved
    for path, bound in bounds.items():
        assert largest[path] <= bound, path
        assert path.endswith("bias") or largest[path] == bound, path  # it was reached
    assert largest["norm/gamma"] > 1.5  # and these are free


def test_a_step_that_is_traced_already_is_traced_anew_and_undone():
    model = compiled(network())
    model.fit(X, Y, batch_size=8, verbose=0)
    done = constrain(model, WeightClipping(0.1), "kernels")
    model.fit(X, Y, batch_size=8, verbose=0)
    kernel = model.get_layer("logits").kernel
    assert float(keras.ops.max(keras.ops.abs(kernel))) == pytest.approx(0.1 / 8)
    assert model.get_layer("conv").bias.constraint is None
    done.undo()
    assert kernel.constraint is None and model.get_layer("logits").kernel_constraint is None
    model.fit(X, Y, batch_size=8, verbose=0)
    assert float(keras.ops.max(keras.ops.abs(kernel))) > 0.1


def test_saved_with_the_model(tmp_path):
    model = compiled(network())
    done = constrain(model, WeightClipping(0.1), "^(?!conv)")
    assert str(done) == (
        "logits/kernel: WeightClipping(kappa=0.1, fan_in=64)\n"
        "logits/bias: WeightClipping(kappa=0.1, fan_in=64)"
    )
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(X, Y, batch_size=8, verbose=0)
    layer = loaded.get_layer("logits")
    assert float(keras.ops.max(keras.ops.abs(layer.kernel))) == pytest.approx(0.1 / 8)
    assert layer.bias.constraint.get_config() == {"kappa": 0.1, "fan_in": 64}


def test_number_of_inputs_of_every_kind_of_layer():
    L = keras.layers
    x = inputs = keras.Input((8, 8, 4))
    x = L.DepthwiseConv2D(3, name="depthwise")(x)
    x = L.SeparableConv2D(6, 2, name="separable")(x)
    x = L.Conv2DTranspose(5, 2, name="transposed")(x)
    x = L.Reshape((-1, 5))(x)
    x = L.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = L.EinsumDense("abc,cd->abd", (None, 7), bias_axes="d", name="einsum")(x)
    x = L.GRU(3, name="gru")(x)
    model = keras.Model(inputs, L.Dense(2, name="dense")(x))
    done = constrain(model, WeightClipping(1.0))
    found = {path: c.fan_in for path, c in done.constraints.items()}
    expected = {
        "depthwise/kernel": 9,
        "depthwise/bias": 9,
        "separable/depthwise_kernel": 4,
        "separable/pointwise_kernel": 4,
        "separable/bias": 4,
        "transposed/kernel": 24,
        "transposed/bias": 24,
        "attention/query/kernel": 5,
        "attention/attention_output/kernel": 6,
        "attention/attention_output/bias": 6,
        "einsum/kernel": 5,
        "gru/gru_cell/kernel": 7,
        "gru/gru_cell/recurrent_kernel": 3,
        "dense/kernel": 3,
        "dense/bias": 3,
    }
    assert expected.items() <= found.items(), found
    assert "depthwise/kernel" not in done.unsaved


def test_any_constraint_and_what_cannot_be_constrained():
    model = network()
    done = constrain(model, keras.constraints.NonNeg(), "kernel")
    assert set(done.constraints) == {"conv/kernel", "logits/kernel"}
    with pytest.raises(ValueError, match="`constraint` must be callable.*Received"):
        constrain(model, 3)
    with pytest.raises(ValueError, match="chooses none.*Received: which='gamma'"):
        constrain(model, WeightClipping(), "gamma")


def test_in_mixed_precision():
    model = network("mixed_float16")
    constrain(model, WeightClipping(0.5))
    compiled(model).fit(X, Y, batch_size=4, verbose=0)
    kernel = model.get_layer("logits").kernel
    assert kernel.dtype == "float32"
    assert float(keras.ops.max(keras.ops.abs(kernel))) == pytest.approx(0.5 / 8)


def test_a_kernel_that_its_layer_projects_is_left_alone(tmp_path):
    layers = [kp.layers.NormalizedDense(8, name="n"), keras.layers.Dense(2, name="d")]
    inputs = keras.Input((4,))
    model = keras.Model(inputs, layers[1](layers[0](inputs)))
    projection = layers[0].kernel.constraint
    done = constrain(model, WeightClipping(0.1))
    assert set(done.constraints) == {"d/kernel", "d/bias"} and not done.unsaved
    assert done.left == {"n/kernel": "its layer keeps it at a norm"}
    assert layers[0].kernel.constraint is projection
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert type(loaded.get_layer("n").kernel.constraint) is type(projection)
    assert isinstance(loaded.get_layer("d").kernel.constraint, WeightClipping)
    with pytest.raises(ValueError, match="left alone: .*at a norm.*Received: which='n/kernel'"):
        constrain(model, WeightClipping(), "n/kernel")


def test_what_is_saved_of_layers_made_of_layers(tmp_path):
    L = keras.layers
    inner = keras.Sequential([keras.Input((4,)), L.Dense(4, name="deep")], name="inner")
    x = inputs = keras.Input((5, 4))
    x = L.MultiHeadAttention(2, 3, name="mha")(x, x)
    x = L.TimeDistributed(L.Dense(4, name="each"), name="distributed")(x)
    x = L.Bidirectional(L.GRU(3, name="gru"), name="both")(x)
    x = L.GRU(4, name="one")(L.Reshape((1, -1))(x))
    model = keras.Model(inputs, inner(x))
    done = constrain(model, WeightClipping(0.1), "kernels")
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    pairs = zip(model.trainable_variables, loaded.trainable_variables, strict=True)
    lost = [old.path for old, new in pairs if old.constraint is not None and new.constraint is None]
    assert sorted(done.unsaved) == sorted(lost)
    assert {path.split("/")[0] for path in lost} == {"mha"} and len(lost) == 4

"""`kp.fortify`: what it adds, what it keeps, what it leaves alone."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity.optimizers import DecayPolicy, DecoupledDecay, Regularized

RNG = np.random.default_rng(0)
X = RNG.normal(size=(64, 8, 8, 3)).astype("float32")
Y = RNG.integers(0, 4, 64)
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def residual():
    inputs = keras.Input((8, 8, 3))
    x = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv")(inputs)
    y = keras.layers.Conv2D(4, 3, padding="same", name="branch")(x)
    y = keras.layers.BatchNormalization(name="known")(y)
    y = keras.layers.ReLU(name="after_norm")(y)
    x = keras.layers.ReLU(name="after_add")(keras.layers.Add()([x, y]))
    x = keras.layers.GlobalAveragePooling2D()(x)
    block = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, activation="gelu")])
    x = block(x)
    gate = keras.layers.Dense(6, activation="sigmoid", name="gate")(x)
    x = keras.layers.Multiply()([x, gate])
    return keras.Model(inputs, keras.layers.Dense(4, activation="softmax", name="out")(x))


def shared():
    inputs = [keras.Input((8,), name=name) for name in ("left", "right")]
    layer = keras.layers.Dense(8, activation="tanh", name="shared")
    relu = keras.layers.ReLU(name="relu")
    wide = keras.layers.Dense(5)(layer(inputs[1]))
    x = keras.layers.Concatenate()([relu(layer(layer(inputs[0]))), relu(wide)])
    return keras.Model(inputs, keras.layers.Dense(4)(x))


def by_place(fortified):
    return {change.place: change for change in fortified.changes}


class TestPlaces:
    def test_of_a_residual_network(self):
        model = residual()
        fortified = kp.fortify(model)
        found = by_place(fortified)
        added = {place for place, change in found.items() if change.layer}
        dense = next(name for name in found if "/" in name)
        assert added == {"conv", "after_add", dense}
        assert "normalised by known" in found["after_norm"].what
        assert "gate" in found["gate"].what
        assert "softmax" in found["out"].what

    def test_normalisation_stands_directly_before(self):
        strong = kp.fortify(residual()).model
        relu = strong.get_layer("after_add")
        before = relu.input._keras_history.operation
        assert before.name == "after_add_norm"
        activation = strong.get_layer("conv_activation")
        assert activation.input._keras_history.operation.name == "conv_norm"
        assert strong.get_layer("conv").activation is keras.activations.linear

    def test_what_is_computed(self):
        model = keras.Sequential(
            [keras.Input((6,)), keras.layers.Dense(5, activation="relu"), keras.layers.Dense(2)]
        )
        (w, b), (v, c) = (layer.get_weights() for layer in model.layers)
        x = RNG.normal(size=(7, 6)).astype("float32")
        a = x @ w + b
        a = (a - a.mean(1, keepdims=True)) / np.sqrt(a.var(1, keepdims=True) + 1e-3)
        expected = np.maximum(a, 0) @ v + c
        assert np.allclose(kp.fortify(model).model(x), expected, atol=1e-5)

    def test_shared_layers(self):
        model = shared()
        fortified = kp.fortify(model, affine=True)
        layers = [layer.name for layer in fortified.model.layers]
        assert layers.count("shared") == 1 and layers.count("shared_norm") == 1
        # a ReLU without weights of its own is called on two widths, so it has two normalisations
        assert {"relu_norm", "relu_norm_1"} <= set(layers)
        x = [RNG.normal(size=(3, 8)).astype("float32") for _ in range(2)]
        assert np.isfinite(np.asarray(fortified.model(x))).all()

    def test_fortified_again_adds_nothing(self):
        once = kp.fortify(residual()).model
        twice = kp.fortify(once)
        assert not [change for change in twice.changes if change.layer]
        assert np.allclose(once(X), twice.model(X), atol=1e-6)

    def test_operations_that_are_no_layers(self):
        inputs = keras.Input((6,))
        x = keras.ops.relu(keras.layers.Dense(5)(inputs))
        model = keras.Model(inputs, keras.layers.Dense(2)(keras.ops.square(x)))
        found = by_place(kp.fortify(model))
        assert sum(bool(change.layer) for change in found.values()) == 1
        assert any("no activation" in change.what for change in found.values())

    def test_layers_with_a_call_of_their_own_are_left_alone(self):
        @keras.saving.register_keras_serializable()
        class Block(keras.layers.Layer):
            def __init__(self, **kwargs):
                super().__init__(**kwargs)
                self.dense = keras.layers.Dense(4, activation="relu")

            def build(self, shape):
                self.dense.build(shape)

            def call(self, x):
                return self.dense(x)

        inputs = keras.Input((6,))
        model = keras.Model(inputs, keras.layers.Dense(2)(Block(name="own")(inputs)))
        changes = kp.fortify(model).changes
        assert any("inside own" in change.what for change in changes)
        assert not any(change.layer for change in changes)

    @pytest.mark.parametrize("norm", ["layer", "rms", "batch", "group"])
    def test_norms(self, norm):
        layer = kp.fortify(residual(), norm=norm).model.get_layer("conv_norm")
        assert not layer.trainable_weights


class TestWeights:
    def test_are_kept_and_the_model_is_left_alone(self):
        model = residual()
        before = [np.array(v) for v in model.weights]
        outputs = np.array(model(X))
        strong = kp.fortify(model).model
        for path in ("conv/kernel", "branch/kernel", "known/moving_mean", "out/bias"):
            old, new = (next(v for v in m.weights if v.path == path) for m in (model, strong))
            assert np.array_equal(old, new) and old is not new
        strong.compile("adam", LOSS)
        strong.fit(X, Y, verbose=0)
        assert all(np.array_equal(a, b) for a, b in zip(before, model.weights, strict=True))
        assert np.array_equal(outputs, model(X))

    def test_trains_saves_and_loads(self, tmp_path):
        fortified = kp.fortify(residual(), decay=1e-3, form="l2")
        model = fortified.model
        model.compile(fortified.optimizer, keras.losses.SparseCategoricalCrossentropy())
        history = model.fit(X, Y, epochs=3, verbose=0)
        assert history.history["loss"][-1] < history.history["loss"][0]
        model.save(tmp_path / "strong.keras")
        loaded = keras.models.load_model(tmp_path / "strong.keras")
        assert np.allclose(model(X), loaded(X), atol=1e-6)
        for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
            assert np.array_equal(a, b)


class TestTransparent:
    def test_batch_norm_returns_what_was(self):
        model = residual()
        strong = kp.fortify(model, norm="batch", affine=True, transparent=X).model
        assert np.allclose(model(X), strong(X), atol=1e-4)

    @pytest.mark.parametrize("norm", ["layer", "rms", "group"])
    def test_others_come_closer(self, norm):
        model = residual()
        there, plain = (
            np.asarray(kp.fortify(model, norm, affine=True, transparent=x).model(X)) - model(X)
            for x in (X, None)
        )
        assert np.square(there).mean() < 0.5 * np.square(plain).mean()

    @pytest.mark.parametrize("arguments", [{}, {"norm": None, "affine": True}])
    def test_needs_a_scale(self, arguments):
        with pytest.raises(ValueError, match="`transparent` needs"):
            kp.fortify(residual(), transparent=X, **arguments)


class TestOptimizer:
    def test_l2(self):
        fortified = kp.fortify(residual(), decay=1e-5, form="l2")
        assert isinstance(fortified.optimizer, Regularized)
        assert "L2" in str(fortified)

    def test_decoupled_says_what_is_left(self):
        policy = DecayPolicy("all", "initial")
        optimizer = keras.optimizers.SGD(1e-2)
        fortified = kp.fortify(
            residual(), decay=1e-2, form="decoupled", policy=policy, optimizer=optimizer
        )
        assert isinstance(fortified.optimizer, DecoupledDecay)
        assert fortified.optimizer.inner_optimizer is optimizer
        assert f"{(1 - 1e-4) ** 10_000:.4g}" in str(fortified)
        assert "all weights toward their initial values" in str(fortified)

    def test_of_a_compiled_model(self):
        model = residual()
        loss = keras.losses.SparseCategoricalCrossentropy()
        model.compile(keras.optimizers.SGD(0.3), loss, metrics=["accuracy"])
        fortified = kp.fortify(model, decay=1e-5, form="l2")
        strong = fortified.model
        assert strong.optimizer is fortified.optimizer
        assert float(strong.optimizer.learning_rate) == pytest.approx(0.3)
        assert "accuracy" in strong.fit(X, Y, verbose=0).history

    def test_loss_that_cannot_be_copied(self):
        model = residual()
        model.compile("sgd", lambda y, p: keras.ops.mean(p))
        changes = by_place(kp.fortify(model))
        assert "compilation" in changes

    def test_norm_none_is_decay_alone(self):
        model = residual()
        fortified = kp.fortify(model, norm=None, decay=1e-3, form="decoupled")
        assert np.allclose(fortified.model(X), model(X), atol=1e-6)
        assert not any(change.layer for change in fortified.changes)


@pytest.mark.parametrize(
    "arguments,match",
    [
        ({"norm": "instance"}, "`norm` must be one of"),
        ({"decay": 1e-5}, "belong together"),
        ({"form": "l2"}, "belong together"),
        ({"decay": 1e-5, "form": "coupled"}, "`form` must be one of"),
        ({"decay": -1.0, "form": "l2"}, "above 0"),
        ({"policy": DecayPolicy()}, "`policy` is one of decay"),
    ],
)
def test_bad_arguments(arguments, match):
    with pytest.raises(ValueError, match=match):
        kp.fortify(residual(), **arguments)


def test_model_without_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(ValueError, match="has no graph"):
        kp.fortify(Own())


class TestMixedPrecision:
    @pytest.mark.parametrize("form", ["l2", "decoupled"])
    def test_of_a_compiled_model(self, form):
        policy = keras.mixed_precision.dtype_policy()
        keras.mixed_precision.set_dtype_policy("mixed_float16")
        try:
            model = residual()
            model.compile("adam", keras.losses.SparseCategoricalCrossentropy())
            strong = kp.fortify(model, decay=1e-3, form=form).model
            assert isinstance(strong.optimizer, keras.optimizers.LossScaleOptimizer)
            assert np.isfinite(strong.fit(X, Y, verbose=0).history["loss"]).all()
        finally:
            keras.mixed_precision.set_dtype_policy(policy)


class TestCallsOfOneLayer:
    """A layer that is called at several places, some of which are left alone."""

    def network(self, gate_first):
        inputs = keras.Input((6,))
        d = keras.layers.Dense(6, activation="sigmoid", name="d")
        gate = keras.layers.Multiply()
        if gate_first:
            x = gate([inputs, d(inputs)])
            return keras.Model(inputs, keras.layers.Dense(2)(d(x)))
        return keras.Model(inputs, d(d(inputs)))

    @pytest.mark.parametrize("gate_first", [True, False])
    def test_activation_is_applied_once_everywhere(self, gate_first):
        model = self.network(gate_first)
        fortified = kp.fortify(model)
        (change,) = [change for change in fortified.changes if change.layer]
        norm = fortified.model.get_layer(change.layer)
        d = fortified.model.get_layer("d")
        x = RNG.normal(size=(5, 6)).astype("float32")
        if gate_first:
            hidden = keras.ops.sigmoid(norm(d(x * keras.ops.sigmoid(d(x)))))
            expected = fortified.model.layers[-1](hidden)
        else:
            expected = keras.ops.sigmoid(d(keras.ops.sigmoid(norm(d(x)))))
        assert np.allclose(fortified.model(x), expected, atol=1e-5)
        assert "1 normalisations added" in str(fortified)


class TestWhatGoesAlong:
    def test_penalty_on_activations(self):
        inputs = keras.Input((6,))
        layer = keras.layers.Dense(5, "relu", activity_regularizer="l2", name="d")
        model = keras.Model(inputs, keras.layers.Dense(2)(layer(inputs)))
        strong = kp.fortify(model).model
        assert strong.get_layer("d").activity_regularizer is None
        strong(RNG.normal(size=(4, 6)).astype("float32"))
        assert strong.get_layer("d_activation").activity_regularizer is not None
        assert len(strong.losses) == 1

    def test_constraints_that_no_layer_keeps(self):
        model = residual()
        clip = kp.constraints.WeightClipping(1.0)
        model.get_layer("conv").kernel.constraint = clip
        assert kp.fortify(model).model.get_layer("conv").kernel.constraint is clip

    def test_weights_without_decay(self):
        model = residual()
        optimizer = keras.optimizers.AdamW(1e-3, weight_decay=0.1)
        optimizer.exclude_from_weight_decay(
            var_list=[model.get_layer("conv").kernel], var_names=["bias"]
        )
        model.compile(optimizer, "mse")
        strong = kp.fortify(model).model
        decays = {v.path: strong.optimizer._use_weight_decay(v) for v in strong.trainable_weights}
        assert not decays["conv/kernel"] and not decays["conv/bias"]
        assert decays["branch/kernel"]


def test_layers_of_one_unit_are_left_alone():
    inputs = keras.Input((6,))
    x = keras.layers.Dense(1, "relu", name="one")(inputs)
    changes = by_place(kp.fortify(keras.Model(inputs, keras.layers.Dense(2)(x))))
    assert "fewer than 3 units" in changes["one"].what


def test_schedule_counts_whole():
    rate = keras.optimizers.schedules.CosineDecay(0.0, 5_000, warmup_target=1e-2, warmup_steps=5000)
    fortified = kp.fortify(
        residual(), decay=0.1, form="decoupled", optimizer=keras.optimizers.SGD(rate)
    )
    left = np.prod([1 - 0.1 * float(rate(step)) for step in range(0, 10_000, 50)]) ** 50
    said = float(str(fortified).split("leaves ")[1].split(" of")[0])
    assert said == pytest.approx(left, rel=0.02)


def test_built_optimizer():
    optimizer = keras.optimizers.Adam()
    optimizer.build(residual().trainable_variables)
    with pytest.raises(ValueError, match="must be new"):
        kp.fortify(residual(), optimizer=optimizer)

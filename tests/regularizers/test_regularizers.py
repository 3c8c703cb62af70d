"""What every penalty promises."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.optimizers import DecayPolicy, Regularized
from keras_plasticity.optimizers.regularized import gradient

R = kp.regularizers
PENALTIES = {
    "L2Init": lambda strength: R.L2Init(strength),
    "WassersteinInit": lambda strength: R.WassersteinInit(strength),
    "SpectralRegularizer": lambda strength: R.SpectralRegularizer(strength, 3),
    "ParsevalRegularizer": lambda strength: R.ParsevalRegularizer(strength, 1.5),
}
STATEFUL = [name for name in PENALTIES if name != "ParsevalRegularizer"]
each = pytest.mark.parametrize("make", PENALTIES.values(), ids=PENALTIES)


def kernel(shape=(5, 4), seed=0):
    return keras.Variable(np.random.default_rng(seed).normal(size=shape), name="kernel")


def state_of(penalty, variable):
    return penalty.state(variable) if hasattr(penalty, "state") else []


@each
@pytest.mark.parametrize("shape", [(5, 4), (2, 2, 3, 4)])
def test_gradient_is_that_of_the_penalty(make, shape):
    penalty, w = make(0.3), kernel(shape, 1)
    state = state_of(penalty, kernel(shape))
    with tf.GradientTape() as tape:
        x = tf.convert_to_tensor(w)
        tape.watch(x)
        value = penalty(x, *state)
    expected = tape.gradient(value, x)
    assert float(tf.norm(expected)) > 1e-3
    np.testing.assert_allclose(gradient(penalty, x, state), expected, rtol=1e-4, atol=1e-5)


@each
def test_configuration(make):
    penalty = make(0.25)
    config = keras.regularizers.serialize(penalty)
    again = keras.regularizers.deserialize(config)
    assert type(again) is type(penalty) and again.get_config() == penalty.get_config()
    assert again.get_config()["strength"] == 0.25


@each
def test_strength_of_zero_is_the_inner_optimizer_bit_for_bit(make):
    plain, penalised = kernel(), kernel()
    for optimizer, w in (
        (keras.optimizers.Adam(0.1), plain),
        (Regularized(keras.optimizers.Adam(0.1), [make(0.0)]), penalised),
    ):
        for _ in range(3):
            optimizer.apply([tf.ones((5, 4))], [w])
    assert np.array_equal(plain, penalised)


@each
def test_it_pulls_downhill(make):
    inner = keras.optimizers.SGD(0.05, clipnorm=1.0)
    optimizer, w = Regularized(inner, [make(100.0)]), kernel()
    optimizer.build([w])
    w.assign(kernel(seed=1).value * 2)
    penalty, state = optimizer._applied[0][0]
    values = []
    for _ in range(20):
        optimizer.apply([tf.zeros((5, 4))], [w])
        values.append(float(penalty(w.value, *state)))
    assert values[-1] < 0.9 * values[0]


@each
def test_half_precision(make):
    w = keras.Variable(np.ones((4, 3)) + np.eye(4, 3), dtype="float16", name="kernel")
    penalty = make(0.1)
    found = gradient(penalty, tf.convert_to_tensor(w) * 2, state_of(penalty, w))
    assert found.dtype == tf.float16 and np.isfinite(found).all() and np.any(found)


@each
@pytest.mark.parametrize("strength", [-1.0, float("nan"), "much"])
def test_strength_is_checked(make, strength):
    with pytest.raises(ValueError, match="`strength` must .*Received: strength="):
        make(strength)


@pytest.mark.parametrize("name", STATEFUL)
def test_as_regularizer_of_a_layer_it_says_what_to_use(name):
    layer = keras.layers.Dense(3, kernel_regularizer=PENALTIES[name](0.1))
    model = keras.Sequential([keras.Input((2,)), layer])
    model.compile("sgd", "mse")
    with pytest.raises(ValueError, match=rf"kp.optimizers.Regularized\(optimizer, \[{name}"):
        model.fit(np.ones((2, 2)), np.ones((2, 3)), verbose=0)


# L2Init


def test_l2_init_by_hand():
    x, initial = np.array([[1.0, 2.0]], "float32"), np.array([[0.0, 4.0]], "float32")
    assert float(R.L2Init(0.5)(x, initial)) == 2.5
    np.testing.assert_array_equal(R.L2Init(0.5).gradient(x, initial), [[1.0, -2.0]])


def test_l2_init_is_without_gradient_at_the_initial_values():
    w = kernel()
    np.testing.assert_array_equal(gradient(R.L2Init(3.0), w.value, R.L2Init(3.0).state(w)), 0)


# WassersteinInit


def test_wasserstein_by_hand():
    state = [np.array([0.0, 1.0, 5.0, 6.0], "float32")]
    x = np.array([[7.0, 1.0], [0.0, 3.0]], "float32")  # sorted 0 1 3 7: apart 0 0 -2 1
    penalty = R.WassersteinInit(2.0)
    assert float(penalty(x, *state)) == pytest.approx(2 * 5 / 4)
    np.testing.assert_allclose(penalty.gradient(x, *state), [[1.0, 0.0], [0.0, -2.0]])


def test_wasserstein_ignores_permutations():
    rng, w, penalty = np.random.default_rng(0), kernel(), R.WassersteinInit(1.0)
    state = penalty.state(w)
    moved = np.array(w)
    moved[0, 0] += 1
    values = {float(penalty(rng.permutation(moved.ravel()).reshape(5, 4), *state)) for _ in "abc"}
    assert len({round(value, 6) for value in values}) == 1 and values.pop() > 1e-3
    shuffled = rng.permutation(np.array(w).ravel()).reshape(5, 4)
    assert float(penalty(shuffled, *state)) == 0
    assert not np.any(penalty.gradient(shuffled, *state))


def test_wasserstein_that_sorts_now_and_then():
    exact, seldom = R.WassersteinInit(2.0), R.WassersteinInit(2.0, every=3)
    w, moved = kernel(), kernel(seed=1)
    state, more = exact.state(w), seldom.state(w)
    old = seldom.gradient(moved.value, *more)  # it knows of no other order yet
    assert not np.allclose(old, exact.gradient(moved.value, *state), atol=1e-3)
    for step in range(4):
        x = kernel(seed=step).value
        new = seldom.update(x, *more)
        more = [more[0], *new[1:]]
        same = np.allclose(seldom.gradient(x, *more), exact.gradient(x, *state), atol=1e-6)
        assert same == (step in (0, 3))
    with pytest.raises(ValueError, match="`every` must .*Received: every=0"):
        R.WassersteinInit(every=0)


# SpectralRegularizer


@pytest.mark.parametrize("shape", [(6, 4), (4, 6), (2, 2, 3, 4)])
def test_power_iteration_converges_to_the_singular_value(shape):
    w, penalty = kernel(shape), R.SpectralRegularizer(0.5, 2)
    state = penalty.state(w)
    for _ in range(200):
        state = penalty.update(w.value, *state)
    left, values, right = np.linalg.svd(np.array(w).reshape(-1, shape[-1]), full_matrices=False)
    assert float(penalty(w.value, *state)) == pytest.approx(0.5 * (values[0] ** 2 - 1) ** 2, 1e-4)
    slope = 0.5 * 2 * (values[0] ** 2 - 1) * 2 * values[0]
    expected = slope * np.outer(left[:, 0], right[0]).reshape(shape)
    np.testing.assert_allclose(penalty.gradient(w.value, *state), expected, atol=1e-2)


def test_a_kernel_of_zeros_is_found_again():
    w, penalty = keras.Variable(np.zeros((3, 2)), name="kernel"), R.SpectralRegularizer(1.0)
    state = penalty.update(w.value, *penalty.state(w))
    assert float(penalty(w.value, *state)) == 1
    assert np.isfinite(penalty.gradient(w.value, *state)).all()
    w.assign([[3.0, 0], [0, 0], [0, 1]])
    for _ in range(30):
        state = penalty.update(w.value, *state)
    assert float(penalty(w.value, *state)) == pytest.approx((9 - 1) ** 2, 1e-4)


def test_vectors_have_penalties_of_their_own():
    penalty = R.SpectralRegularizer(0.5, 2)
    values = np.array([1.0, 2.0], "float32")
    expected = {"bias": 0.5 * 25, "gamma": 0.5 * 9, "beta": 0.5 * 17}
    for name, value in expected.items():
        one = penalty.applied_to(keras.Variable(values, name=name))
        assert float(one(values)) == pytest.approx(value), name
    for name in ("temperature", "scale"):  # of a Diagonal it is to be learned
        assert penalty.applied_to(keras.Variable(values, name=name)) is None
    bias = keras.Variable(values, name="bias")
    w = kernel()
    Regularized(keras.optimizers.SGD(0.1), [penalty], DecayPolicy("all")).apply(
        [tf.zeros(2), tf.zeros((5, 4))], [bias, w]
    )
    slope = 0.5 * 2 * 5 * 2 * values  # of (sum b**2)**2
    np.testing.assert_allclose(bias, values - 0.1 * slope, rtol=1e-5)


def test_singular_vectors_follow_the_kernel_from_step_to_step():
    w = kernel((6, 4))
    optimizer = Regularized(keras.optimizers.SGD(1e-2), [R.SpectralRegularizer(1.0)])
    step = tf.function(lambda: optimizer.apply([tf.zeros((6, 4))], [w]))
    for _ in range(300):
        step()
    assert np.linalg.norm(np.array(w), 2) == pytest.approx(1, abs=1e-3)


def test_power_is_checked():
    with pytest.raises(ValueError, match="`power` must .*Received: power=0"):
        R.SpectralRegularizer(power=0)


# ParsevalRegularizer


def test_parseval_by_hand():
    w = np.array([[1.0, 2.0]], "float32")  # K.T @ K - I = [[0, 2], [2, 3]]
    assert float(R.ParsevalRegularizer(0.5, 1.0)(w)) == pytest.approx(0.5 * 32**2 * 17)


@pytest.mark.parametrize("inputs,units", [(6, 4), (3, 5)])
def test_parseval_at_an_orthogonal_kernel(inputs, units):
    initializer = keras.initializers.Orthogonal(2**0.5, seed=0)
    w = keras.ops.convert_to_tensor(initializer((inputs, units)))
    least = 64**2 / units**2 * 4 * max(0, units - inputs)
    assert float(R.ParsevalRegularizer(1.0, 2.0)(w)) == pytest.approx(least, abs=1e-3)


def test_parseval_leaves_vectors_alone_and_works_in_a_layer():
    penalty = R.ParsevalRegularizer(0.1)
    assert penalty.applied_to(keras.Variable([1.0], name="bias")) is None
    layer = keras.layers.Dense(3, kernel_regularizer=penalty)
    layer.build((None, 3))
    assert float(layer.losses[0]) == pytest.approx(float(penalty(layer.kernel.value)), 1e-5)
    with pytest.raises(ValueError, match="`scale` must .*Received: scale=0"):
        R.ParsevalRegularizer(scale=0)


@pytest.mark.parametrize("turns", [2, 5])
def test_units_take_turns(turns):
    all_, some = R.ParsevalRegularizer(0.1), R.ParsevalRegularizer(0.1, turns=turns)
    w = kernel((6, 10))
    state, slopes = some.state(w), []
    for _ in range(turns):
        state = some.update(w.value, *state)
        slopes.append(np.array(some.gradient(w.value, *state)))
        assert np.any(slopes[-1], axis=0).sum() == 10 // turns
    np.testing.assert_allclose(np.mean(slopes, 0), all_.gradient(w.value), rtol=1e-4)
    with pytest.raises(ValueError, match="`turns` must .*Received: turns=0"):
        R.ParsevalRegularizer(turns=0)


@pytest.mark.parametrize("turns", [2, 4, 7])
def test_turns_that_do_not_divide_the_units(turns):
    all_, some = R.ParsevalRegularizer(0.1), R.ParsevalRegularizer(0.1, turns=turns)
    w = kernel((6, 5))
    state, slopes = some.state(w), []
    for _ in range(turns):
        state = some.update(w.value, *state)
        slopes.append(np.array(some.gradient(w.value, *state)))
    np.testing.assert_allclose(np.mean(slopes, 0), all_.gradient(w.value), rtol=1e-4)


@pytest.mark.parametrize("penalty", [R.ParsevalRegularizer(turns=3), R.WassersteinInit(every=3)])
def test_counts_of_steps_stay_small(penalty):
    w, counts = kernel(), []
    state = penalty.state(w)
    for _ in range(7):
        new = penalty.update(w.value, *state)
        state = [old if n is None else n for old, n in zip(state, new, strict=True)]
        counts.append(float(state[-1]))
    assert counts == [1, 2, 0, 1, 2, 0, 1]


# FeatureNorm


@pytest.mark.parametrize("batch", [2, 6])
def test_feature_norm_is_a_mean_over_examples(batch):
    layer = keras.layers.Activation("relu", activity_regularizer=R.FeatureNorm(0.5))
    x = np.random.default_rng(0).normal(size=(batch, 3, 4)).astype("float32")
    layer(x)
    expected = 0.5 * np.mean(np.sum(np.maximum(x, 0) ** 2, axis=(1, 2)))
    assert float(layer.losses[0]) == pytest.approx(expected, rel=1e-5)


def test_feature_norm_saved_and_in_half_precision(tmp_path):
    inputs = keras.Input((4,))
    penalty = R.FeatureNorm(0.5)
    layer = keras.layers.Dense(3, activity_regularizer=penalty, dtype="mixed_float16")
    model = keras.Model(inputs, layer(inputs))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x = np.full((4, 4), 200.0, "float32")
    loss = float(np.sum(np.array(model(x), "float32") ** 2)) / 4 * 0.5
    loaded(x)
    assert float(loaded.losses[0]) == pytest.approx(loss, rel=1e-2)
    assert loaded.layers[1].activity_regularizer.get_config() == {"strength": 0.5}
    large = keras.ops.full((4, 300), 200.0, dtype="float16")
    assert np.isfinite(penalty(large))

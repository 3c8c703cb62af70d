"""Tests of Adam with a count of steps per unit."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.optimizers.adam import bias_corrections, count_shapes
from keras_plasticity.surgery import slots

RNG = np.random.default_rng(0)
SHAPES = [(5,), (4, 3), (2, 4, 3), (2, 2, 3, 4), ()]


def weights(shapes=SHAPES):
    values = np.random.default_rng(1)
    return [keras.Variable(values.normal(size=s).astype("float32"), name="w") for s in shapes]


def run(optimizer, variables, steps, jit=False, seed=0):
    optimizer.build(variables)
    draws = np.random.default_rng(seed)

    @tf.function(jit_compile=jit, autograph=False)
    def step(gradients):
        optimizer.apply(gradients, variables)

    for _ in range(steps):
        step([tf.constant(draws.normal(size=v.shape).astype("float32")) for v in variables])
    return [np.array(v) for v in variables]


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "use_ema": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("jit", [False, True])
def test_without_counts_it_is_keras_adam_bit_for_bit(options, jit):
    ours = run(kp.optimizers.Adam(0.1, **options), weights(), 5, jit)
    keras_ = run(keras.optimizers.Adam(0.1, **options), weights(), 5, jit)
    assert all(np.array_equal(a, b) for a, b in zip(ours, keras_, strict=True))


@pytest.mark.parametrize("options", [{}, {"amsgrad": True, "use_ema": True, "weight_decay": 0.1}])
@pytest.mark.parametrize("jit", [False, True])
def test_with_counts_and_no_reset_it_is_keras_adam(options, jit):
    ours = run(kp.optimizers.Adam(0.1, per_unit_steps=True, **options), weights(), 20, jit)
    keras_ = run(keras.optimizers.Adam(0.1, **options), weights(), 20, jit)
    for a, b in zip(ours, keras_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


@pytest.mark.parametrize("per_unit,length", [(False, 3.162), (True, 1.0)])
def test_first_step_of_a_recycled_unit_by_hand(per_unit, length):
    variables = weights([(4, 3)])
    optimizer = kp.optimizers.Adam(0.01, per_unit_steps=per_unit)
    run(optimizer, variables, 3)
    large = 100_000
    optimizer.iterations.assign(large)
    for count in optimizer.unit_steps:
        count.assign(tf.fill(tuple(count.shape), float(large)))
    mask = tf.constant([[False, True, False]])
    for slot in slots(optimizer)[id(variables[0])]:
        where = slot.where(mask, 1, 2)
        if where is not None:
            slot.variable.assign(tf.where(where, slot.initial, slot.variable.value))
    before = np.array(variables[0])
    optimizer.apply([tf.fill((4, 3), 7.0)], variables)
    step = before - np.array(variables[0])
    np.testing.assert_allclose(step[:, 1], 0.01 * length, rtol=1e-3)


@pytest.mark.parametrize("jit", [False, True])
def test_live_units_step_as_without_a_reset_bit_for_bit(jit):
    results = []
    for reset in (False, True):
        model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
        for v, value in zip(model.weights, weights([v.shape for v in model.weights]), strict=True):
            v.assign(value)
        optimizer = kp.optimizers.Adam(0.1, per_unit_steps=True)
        run(optimizer, model.trainable_variables, 5, jit)
        if reset:
            for k, mask in ((0, (1, 3)), (1, (3,)), (2, (3, 1))):
                shape = [n if n == 1 else 3 for n in mask]
                unit = tf.reshape(tf.constant([False, True, False]), shape)
                start = {(1, 3): 1, (3,): 0, (3, 1): 0}[mask]
                for slot in slots(optimizer)[id(model.trainable_variables[k])]:
                    where = slot.where(unit, start, start + 1)
                    if where is not None:
                        slot.variable.assign(tf.where(where, 0.0, slot.variable.value))
        results.append(run(optimizer, model.trainable_variables, 5, jit, seed=1))
    for plain, recycled, live in zip(
        *results, [np.s_[:, [0, 2]], np.s_[[0, 2]], np.s_[[0, 2]], np.s_[:]], strict=True
    ):
        assert np.array_equal(plain[live], recycled[live])
    assert not np.array_equal(results[0][0], results[1][0])


def test_counts_are_slots_and_recycling_clears_them():
    optimizer = kp.optimizers.Adam(per_unit_steps=True)
    variables = weights()
    run(optimizer, variables, 2)
    shapes = [tuple(count.shape) for count in optimizer.unit_steps]
    assert sorted(shapes) == sorted([(5,), (4, 1), (1, 3), (2, 4, 1), (1, 4, 3), (1, 1, 3, 4)])
    held = slots(optimizer)
    for count in optimizer.unit_steps:
        assert np.all(np.array(count) == 2)
        slot = next(s for kept in held.values() for s in kept if s.variable is count)
        assert slot.initial == 0


def test_corrections_by_hand():
    counts = [tf.constant([[1.0], [3.0]]), tf.constant([[2.0, 1e9]])]
    rate, correction = bias_corrections(counts, 2.0, 0.9, 0.999)
    t = np.array([[1, 1], [2, 3]])
    np.testing.assert_allclose(rate, 2 * np.sqrt(1 - 0.999**t), rtol=1e-3)
    np.testing.assert_allclose(correction, 1 - 0.9**t, rtol=1e-5)
    assert count_shapes((7, 8, 9)) == [(7, 8, 1), (1, 8, 9)]


def test_saved_and_loaded_with_a_model(tmp_path):
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile(kp.optimizers.Adam(0.1, per_unit_steps=True, beta_1=0.8), "mse")
    x, y = RNG.random((8, 4)).astype("float32"), RNG.random((8, 3)).astype("float32")
    model.fit(x, y, epochs=3, batch_size=8, verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.per_unit_steps and loaded.optimizer.beta_1 == 0.8
    for one in (model, loaded):
        one.fit(x, y, batch_size=8, verbose=0)
    for a, b in zip(model.optimizer.variables, loaded.optimizer.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    assert np.all(np.array(loaded.optimizer.unit_steps[0]) == 4)


def test_in_mixed_precision():
    optimizer = keras.optimizers.LossScaleOptimizer(kp.optimizers.Adam(0.1, per_unit_steps=True))
    inputs = keras.Input((4,), dtype="float16")
    layer = keras.layers.Dense(3, dtype="mixed_float16")
    model = keras.Model(inputs, layer(inputs))
    model.compile(optimizer, "mse", jit_compile=True)
    x = RNG.random((8, 4)).astype("float16")
    model.fit(x, RNG.random((8, 3)), epochs=2, batch_size=4, verbose=0)
    counts = optimizer.inner_optimizer.unit_steps
    assert counts and all(np.all(np.array(count) == 4) for count in counts)
    assert slots(optimizer)[id(layer.kernel)]


def test_gradient_accumulation_counts_updates():
    optimizer = kp.optimizers.Adam(per_unit_steps=True, gradient_accumulation_steps=2)
    run(optimizer, weights([(4, 3)]), 6)
    assert np.all(np.array(optimizer.unit_steps[0]) == 3)


@pytest.mark.parametrize("jit", [False, True])
def test_with_counts_per_weight_and_no_reset_it_is_keras_adam(jit):
    ours = run(kp.optimizers.Adam(0.1, per_weight_steps=True), weights(), 20, jit)
    keras_ = run(keras.optimizers.Adam(0.1), weights(), 20, jit)
    for a, b in zip(ours, keras_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-5)


def test_counts_per_weight_know_which_weight_was_reset():
    variables = weights([(4, 3)])
    optimizer = kp.optimizers.Adam(0.01, per_weight_steps=True)
    run(optimizer, variables, 3)
    assert [tuple(count.shape) for count in optimizer.unit_steps] == [(4, 3)]
    optimizer.unit_steps[0].assign(tf.fill((4, 3), 100_000.0))
    one = np.zeros((4, 3), bool)
    one[1, 2] = True
    held = slots(optimizer)[id(variables[0])]
    assert len(held) == 3
    for slot in held:
        assert slot.initial == 0
        slot.variable.assign(tf.where(one, 0.0, slot.variable.value))
    before, moments = np.array(variables[0]), [np.array(s.variable) for s in held]
    optimizer.apply([tf.fill((4, 3), 7.0)], variables)
    step = before - np.array(variables[0])
    np.testing.assert_allclose(step[one], 0.01, rtol=1e-3)
    m, v = (0.9 * moments[0] + 0.7)[~one], (0.999 * moments[1] + 0.049)[~one]
    np.testing.assert_allclose(step[~one], 0.01 * m / np.sqrt(v), rtol=1e-3)


def jump(**options):
    """Longest step, in learning rates, where gradients of 1e-3 become gradients of 1."""
    w = keras.Variable([0.0], name="w")
    optimizer = kp.optimizers.Adam(1.0, **options)
    lengths, old = [], 0.0
    for i in range(60):
        optimizer.apply([tf.constant([1e-3 if i < 50 else 1.0])], [w])
        lengths.append(abs(float(w[0]) - old))
        old = float(w[0])
    return max(lengths)


def test_equal_decays_bound_the_step_by_the_learning_rate():
    m, v, expected = 0.0, 0.0, []
    for i in range(60):
        g = 1e-3 if i < 50 else 1.0
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected.append(m / (1 - 0.9 ** (i + 1)) / np.sqrt(v / (1 - 0.999 ** (i + 1))))
    assert jump() == pytest.approx(max(expected), rel=1e-3)
    assert jump() > 1.4
    assert jump(beta_2=0.9) < 1 + 1e-5


def test_no_step_is_longer_than_the_docstring_says():
    # The worst gradients for beta_1 = 0.9 and beta_2 = 0.999 are powers of their ratio.
    powers = np.arange(2000)[::-1]
    g = (0.9 / 0.999) ** powers
    m, v = 0.1 * (0.9**powers * g).sum(), 0.001 * (0.999**powers * g**2).sum()
    bound = 0.1 / np.sqrt(0.001 * (1 - 0.81 / 0.999))
    assert m / np.sqrt(v) == pytest.approx(bound, rel=1e-3)
    assert bound == pytest.approx(7.3, abs=0.05)


@pytest.mark.parametrize("counted", [{}, {"per_unit_steps": True}, {"per_weight_steps": True}])
def test_epsilon_inside_the_root_by_hand(counted):
    # The first step has m = 0.1 g, v = 0.001 g^2, bias corrections 0.1 and 0.001.
    w = keras.Variable([0.0, 0.0], name="w")
    optimizer = kp.optimizers.Adam(1.0, epsilon=0.03, epsilon_inside=True, **counted)
    g = np.float32([1e-3, 1.0])
    optimizer.apply([tf.constant(g)], [w])
    expected = -g * np.sqrt(0.001) / np.sqrt(0.001 * g**2 + 0.03**2)
    np.testing.assert_allclose(w, expected, rtol=1e-4)
    outside = keras.Variable([0.0, 0.0], name="w")
    kp.optimizers.Adam(1.0, epsilon=0.03, **counted).apply([tf.constant(g)], [outside])
    assert np.all(np.abs(np.array(w)) > np.abs(np.array(outside)))


@pytest.mark.parametrize("jit", [False, True])
def test_epsilon_inside_the_root_is_adam_where_it_is_small(jit):
    options = {"epsilon": 1e-10}
    ours = run(kp.optimizers.Adam(0.1, epsilon_inside=True, **options), weights(), 20, jit)
    keras_ = run(keras.optimizers.Adam(0.1, **options), weights(), 20, jit)
    for a, b in zip(ours, keras_, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_config_of_the_new_arguments():
    for options in ({"per_weight_steps": True}, {"epsilon_inside": True, "per_unit_steps": True}):
        config = kp.optimizers.Adam(**options).get_config()
        again = kp.optimizers.Adam.from_config(config).get_config()
        assert again == config and all(again[key] == value for key, value in options.items())


@pytest.mark.parametrize("name", ["per_unit_steps", "per_weight_steps", "epsilon_inside"])
def test_arguments_are_checked(name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}=1"):
        kp.optimizers.Adam(**{name: 1})


def test_steps_are_counted_in_one_way():
    with pytest.raises(ValueError, match="`per_weight_steps` must .*per_unit_steps=True"):
        kp.optimizers.Adam(per_unit_steps=True, per_weight_steps=True)


@pytest.mark.parametrize("many", [False, True])
def test_corrections_at_first_and_late_steps(many):
    t = np.array([1.0, 2.0, 30.0, 1e7])
    rate, correction = bias_corrections([tf.constant(t, tf.float32)], 3.0, 0.0, 0.999, many)
    np.testing.assert_allclose(rate, 3 * np.sqrt(1 - 0.999**t), rtol=1e-4)
    np.testing.assert_array_equal(correction, np.ones(4))

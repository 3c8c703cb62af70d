"""UPGD against its formulas, by hand, and as an optimizer of networks."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity.callbacks import OptimizerReset
from keras_plasticity.hooks import FusedSteps
from keras_plasticity.optimizers import UPGD
from keras_plasticity.optimizers.upgd import greatest_utility, openness
from keras_plasticity.surgery import draws, noise, slots
from tests.reference import upgd as reference

SHAPES = [(4, 3), (3,), (2, 2, 3, 4), ()]
FORMS = [
    {},
    {"scope": "local"},
    {"protecting": False, "decay": 0.1},
    {"adam": True, "decay": 0.01},
    {"form": "released", "beta": 0.9},
    {"adam": True, "scope": "local", "protecting": False},
]


def weights():
    rng = np.random.default_rng(1)
    return [keras.Variable(rng.normal(size=s).astype("float32"), name="w") for s in SHAPES]


def gradients(step):
    rng = np.random.default_rng(step)
    return [rng.normal(size=s).astype("float32") for s in SHAPES]


def run(optimizer, variables, steps, jit=False, start=0):
    optimizer.build(variables)

    @tf.function(jit_compile=jit, autograph=False)
    def step(values):
        optimizer.apply(values, variables)

    for i in range(start, start + steps):
        step([tf.constant(g) for g in gradients(i)])
    return [np.array(v) for v in variables]


def expected_noise(sigma, step):
    seeds = [draws.fold(tf.constant([7, step]), i) for i in range(len(SHAPES))]
    return [sigma * np.asarray(noise.noise(None, s, "float32", k))
            for s, k in zip(SHAPES, seeds, strict=True)]  # fmt: skip


@pytest.mark.parametrize("options", FORMS)
@pytest.mark.parametrize("sigma,jit", [(0.0, False), (0.5, False), (0.5, True)])
def test_against_the_reference(options, sigma, jit):
    options = {"beta": 0.99} | options
    actual = run(UPGD(0.1, sigma, seed=7, **options), weights(), 5, jit)
    options = dict(options)
    released = options.pop("form", "") == "released"
    oracle, values = reference.UPGD(0.1, **options, released=released), None
    values = [np.array(v, "float64") for v in weights()]
    for i in range(5):
        values = oracle.step(values, gradients(i), expected_noise(sigma, i))
    for a, b in zip(actual, values, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)


def test_one_step_by_hand():
    w = keras.Variable([2.0, -1.0, 0.0], name="w")
    optimizer = UPGD(0.1, sigma=0.0, beta=0.9, decay=0.5)
    optimizer.apply([tf.constant([-3.0, -3.0, 1.0])], [w])
    # Utilities -g * w = 6, -3, 0 whatever beta is; over their maximum 1, -1/2, 0.
    gate = 1 - 1 / (1 + np.exp([-1.0, 0.5, 0.0]))
    expected = 0.95 * np.array([2, -1, 0]) - 0.1 * np.array([-3, -3, 1]) * gate
    np.testing.assert_allclose(w, expected, rtol=1e-5)


def test_released_form_holds_useful_weights_still_at_first():
    values = {}
    for form in ("corrected", "released"):
        w = keras.Variable([1.0, 1e-3], name="w")
        UPGD(0.1, sigma=0.0, beta=0.9999, form=form).apply([tf.constant([-1.0, -1.0])], [w])
        values[form] = np.array(w) - [1.0, 1e-3]
    np.testing.assert_allclose(values["corrected"][0], 0.1 / (1 + np.e), rtol=1e-4)
    assert values["released"][0] == pytest.approx(0, abs=1e-6)  # sigmoid(10_000)


def test_without_positive_utility_the_gate_is_open():
    w = keras.Variable([1.0, 2.0], name="w")
    UPGD(0.1, sigma=0.0).apply([tf.constant([1.0, 1.0])], [w])
    np.testing.assert_allclose(w, [0.9, 1.9], rtol=1e-6)  # plain gradient descent
    np.testing.assert_allclose(openness(np.float32([-1.0, 0.0, 1.0]), -5.0), [1, 0.5, 0])


def test_the_greatest_is_signed_and_over_all_weights():
    utilities = [tf.constant([[-9.0, 1.0]]), tf.constant(3.0), tf.constant([2.0])]
    assert float(greatest_utility(utilities)) == 3
    assert float(greatest_utility([tf.constant([-9.0, -2.0])])) == -2


def test_noise_alone_is_half_normal_noise_that_does_not_repeat():
    variables = [keras.Variable(tf.zeros((200, 100)), name="w") for _ in range(2)]
    optimizer = UPGD(1.0, sigma=0.3, seed=1)
    states = [np.stack([np.array(v) for v in variables])]
    for _ in range(2):
        optimizer.apply([tf.zeros((200, 100))] * 2, variables)
        states.append(np.stack([np.array(v) for v in variables]))
    first, second = np.diff(states, axis=0)
    for part in (*first, *second):
        assert part.std() == pytest.approx(0.15, rel=0.03)  # the gate is 1/2 at utility 0
        assert abs(part.mean()) < 5 * 0.15 / np.sqrt(part.size)
    parts = np.stack([*first, *second]).reshape(4, -1)
    assert np.abs(np.corrcoef(parts) - np.eye(4)).max() < 0.04


def test_seed_decides_the_noise():
    first, again = (run(UPGD(seed=3, sigma=1.0), weights(), 2) for _ in range(2))
    other = run(UPGD(seed=4, sigma=1.0), weights(), 2)
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))
    assert not np.array_equal(first[0], other[0])
    unseeded = []
    for seed in (5, 5, 6):
        keras.utils.set_random_seed(seed)
        unseeded.append(run(UPGD(sigma=1.0), weights(), 2)[0])
    assert np.array_equal(unseeded[0], unseeded[1])
    assert not np.array_equal(unseeded[0], unseeded[2])


@pytest.mark.parametrize("options", [{"sigma": 0.5}, {"sigma": 0.5, "adam": True}])
def test_goes_on_after_a_checkpoint_bit_for_bit(options, tmp_path):
    whole, half, rest = UPGD(**options), UPGD(**options), UPGD(**options)
    keras.utils.set_random_seed(0)
    expected = run(whole, weights(), 4)
    variables = weights()
    keras.utils.set_random_seed(0)
    run(half, variables, 2)
    kp.checkpoint.save(tmp_path, kp.checkpoint.collect({"o": half.variables}), {})
    rest.build(variables)
    kp.checkpoint.restore({"o": rest.variables}, kp.checkpoint.load(tmp_path)[0])
    for a, b in zip(run(rest, variables, 2, start=2), expected, strict=True):
        assert np.array_equal(a, b)


def network(jit, optimizer, dtype="float32"):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8, "relu", dtype=dtype)(inputs)
    model = keras.Model(inputs, keras.layers.Dense(3, dtype=dtype)(x))
    if dtype != "float32":
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, jit_compile=jit)
    model._symbolic_build(data_batch=(tf.zeros((4, 6)), tf.zeros(4, tf.int32)))
    return model


X = np.random.default_rng(0).integers(0, 256, (32, 6)).astype("uint8")
Y = (X[:, 0] > 128).astype("int32")
ORDER = np.random.default_rng(0).integers(0, 32, (24, 4)).astype("int32")


def fused(model, steps):
    callback = FusedSteps(X, Y)
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: losses.append(callback.step_logs["loss"])
    )
    blocks = FusedSteps.blocks(ORDER, steps)
    model.fit(blocks, shuffle=False, verbose=0, callbacks=[callback, record])
    return [np.asarray(v) for v in model.variables], np.concatenate(losses)


def test_fused_steps():
    plain = {}
    for steps in (1, 8):
        plain[steps], _ = fused(network(False, UPGD(0.1, 0.1, seed=2, adam=True)), steps)
    assert all(np.array_equal(a, b) for a, b in zip(plain[1], plain[8], strict=True))
    compiled, _ = fused(network(True, UPGD(0.1, 0.1, seed=2, adam=True)), 8)
    for a, b in zip(plain[8], compiled, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-3)


def test_mixed_precision():
    model = network(False, UPGD(0.3, 0.01, seed=2), "mixed_float16")
    values, losses = fused(model, 8)
    assert all(v.dtype == np.float32 and np.isfinite(v).all() for v in values)
    assert losses[-8:].mean() < losses[:8].mean()


def test_saved_and_loaded_with_a_model(tmp_path):
    model = network(False, UPGD(0.1, 0.1, beta=0.9, scope="local", adam=True))
    x = X.astype("float32") / 255
    model.fit(x, Y, verbose=0, shuffle=False)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        one.fit(x, Y, verbose=0, shuffle=False)
    for a, b in zip(model.variables, loaded.variables, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_utilities_are_slots_and_the_seed_is_none():
    variables = weights()
    optimizer = UPGD(adam=True)
    run(optimizer, variables, 1)
    held = slots(optimizer)
    assert [len(held[id(v)]) for v in variables] == [3, 3, 3, 3]
    assert all(slot.initial == 0 for kept in held.values() for slot in kept)


def test_only_some_weights_have_gradients():
    variables = weights()
    optimizer = UPGD(0.1, 0.0)
    optimizer.build(variables)
    before = [np.array(v) for v in variables]
    optimizer.apply([tf.ones((3,))], [variables[1]])
    assert np.array_equal(variables[0], before[0])
    assert not np.array_equal(variables[1], before[1])


@pytest.mark.parametrize(
    "options",
    [
        {"sigma": -1.0},
        {"beta": 1.0},
        {"decay": float("nan")},
        {"scope": "layer"},
        {"beta_2": -0.1},
        {"epsilon": 0.0},
        {"seed": 1.5},
        {"form": "theirs"},
        {"form": "released", "scope": "local"},
    ],
)
def test_wrong_arguments(options):
    name = next(iter(options))
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        UPGD(**options)


def test_decay_of_keras_is_refused():
    with pytest.raises(ValueError, match="`decay` must be used"):
        UPGD(weight_decay=0.1)


@pytest.mark.parametrize("seed", [3, None])
def test_resets_of_the_optimizer_and_the_noise(seed):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    model.compile(UPGD(1.0, sigma=1.0, seed=seed), "mse")
    optimizer, kernel, callback = model.optimizer, model.layers[0].kernel, OptimizerReset()
    optimizer.build(model.trainable_variables)

    def step():
        before = np.array(kernel)
        optimizer.apply([tf.zeros_like(v) for v in model.trainable_variables])
        return np.array(kernel) - before

    drawn = optimizer.get_config()["seed"]
    first = step(), step()
    callback.set_model(model)
    callback.on_task_begin(1, model)
    assert int(optimizer.iterations) == 0
    second = step(), step()
    assert not any(np.allclose(a, b, atol=0.1) for a in first for b in second)
    for _ in range(2):  # built anew, but for the seed
        kp.surgery.reset_optimizer(optimizer, model.trainable_variables)
        assert optimizer.get_config()["seed"] == drawn == (seed or drawn)
        np.testing.assert_allclose(step(), first[0], atol=1e-5)

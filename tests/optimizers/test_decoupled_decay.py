"""Tests of decoupled decay."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.optimizers import DecayPolicy, DecoupledDecay

SHAPES = {"kernel": (4, 3), "bias": (3,), "gamma": (3,), "kernel_2": (2, 2, 3, 4)}


def weights():
    draws = np.random.default_rng(1)
    return [keras.Variable(draws.normal(size=s), name=name) for name, s in SHAPES.items()]


def run(optimizer, jit=False, steps=5):
    variables, draws = weights(), np.random.default_rng(2)
    optimizer.build(variables)

    @tf.function(jit_compile=jit, autograph=False)
    def step(gradients):
        optimizer.apply(gradients, variables)

    for _ in range(steps):
        step([tf.constant(draws.normal(size=v.shape), "float32") for v in variables])
    return [np.array(v) for v in variables]


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("which", ["kernels", "all"])
def test_toward_zero_it_is_keras_adamw_bit_for_bit(which, jit):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5)
    adamw = keras.optimizers.AdamW(schedule, weight_decay=0.3)
    if which == "kernels":
        adamw.exclude_from_weight_decay(var_names=["bias", "gamma"])
    ours = DecoupledDecay(keras.optimizers.Adam(schedule), 0.3, DecayPolicy(which))
    plain = run(keras.optimizers.Adam(schedule))
    expected = run(adamw, jit)
    for a, b in zip(run(ours, jit), expected, strict=True):
        assert np.array_equal(a, b)
    assert not np.allclose(expected[0], plain[0], atol=1e-3)


def test_no_decay_is_the_inner_optimizer_bit_for_bit():
    ours = run(DecoupledDecay(keras.optimizers.Adam(0.1), 0.0, DecayPolicy("all", "initial")))
    assert all(map(np.array_equal, ours, run(keras.optimizers.Adam(0.1))))


def test_toward_initial_values_by_hand():
    kernel = keras.Variable([[1.0, -2.0]], name="kernel")
    optimizer = DecoupledDecay(keras.optimizers.SGD(0.5), 0.2, DecayPolicy("kernels", "initial"))
    optimizer.apply([tf.constant([[2.0, 0.0]])], [kernel])
    np.testing.assert_allclose(kernel, [[0.0, -2.0]])  # it is where it began: no pull yet
    optimizer.apply([tf.zeros((1, 2))], [kernel])
    np.testing.assert_allclose(kernel, [[0.1, -2.0]])  # 0 - 0.5 * 0.2 * (0 - 1)


def test_what_is_left_after_many_steps_as_in_the_docstring():
    for decay, left in ((1e-5, 0.9999), (0.1, 0.37)):
        assert (1 - 1e-3 * decay) ** 10_000 == pytest.approx(left, abs=3e-3)
    kernel = keras.Variable([[1.0]], name="kernel")
    optimizer = DecoupledDecay(keras.optimizers.SGD(0.01), 10.0)
    for _ in range(10):
        optimizer.apply([tf.zeros((1, 1))], [kernel])
    np.testing.assert_allclose(kernel, [[0.9**10]], rtol=1e-5)


def test_policy_chooses_by_kind_and_by_expression():
    inputs = keras.Input((4,))
    x = keras.layers.LayerNormalization()(keras.layers.Dense(3, name="hidden")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(2, name="logits")(x))
    variables = model.trainable_variables
    names = {v.path for v in variables}
    kernels = {v.path for v in DecayPolicy().chosen(variables)}
    assert kernels == {path for path in names if path.endswith("kernel")}
    assert {v.path for v in DecayPolicy("all").chosen(variables)} == names
    hidden = DecayPolicy("^(?!logits/).*kernel").chosen(variables)
    assert {v.path for v in hidden} == {"hidden/kernel"}
    assert str(DecayPolicy("^a", "initial")) == "weights like '^a' toward their initial values"
    again = DecayPolicy.from_config(DecayPolicy("^a", "initial").get_config())
    assert again == DecayPolicy("^a", "initial") and len({again, DecayPolicy("^a")}) == 2


def test_arguments_are_checked():
    adam = keras.optimizers.Adam
    for decay in (-1.0, float("nan"), float("inf"), "much"):
        with pytest.raises(ValueError, match="`decay` must .*Received: decay="):
            DecoupledDecay(adam(), decay)
    with pytest.raises(ValueError, match="`policy` must .*Received: policy='all'"):
        DecoupledDecay(adam(), 0.1, "all")
    with pytest.raises(ValueError, match="`toward` must .*Received: toward='start'"):
        DecayPolicy(toward="start")
    with pytest.raises(ValueError, match="`which` must .*Received: which='\\('"):
        DecayPolicy("(")
    with pytest.raises(ValueError, match="chooses none of the weights \\['kernel'\\]"):
        DecoupledDecay(adam(), 0.1, DecayPolicy("bias")).build(weights()[:1])

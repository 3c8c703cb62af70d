"""What every optimizer around another one promises."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_plasticity as kp
from keras_plasticity import optimizers, regularizers
from keras_plasticity.callbacks.optimizer_reset import OptimizerReset
from keras_plasticity.surgery.slots import innermost, slots
from tests.toy_runs import go, rows_without_times, small, stream

INITIAL = optimizers.DecayPolicy("kernels", "initial")
WRAPPERS = {
    "decay": lambda inner: optimizers.DecoupledDecay(inner, 0.5),
    "decay_initial": lambda inner: optimizers.DecoupledDecay(inner, 0.5, INITIAL),
    "l2": lambda inner: optimizers.Regularized(
        inner, [keras.regularizers.L2(0.1)], optimizers.DecayPolicy("all")
    ),
    "l2_initial": lambda inner: optimizers.Regularized(inner, [regularizers.L2Init(0.1)]),
    "wasserstein": lambda inner: optimizers.Regularized(inner, [regularizers.WassersteinInit(1.0)]),
    "spectral": lambda inner: optimizers.Regularized(
        inner, [regularizers.SpectralRegularizer(0.1)], optimizers.DecayPolicy("all")
    ),
    "parseval": lambda inner: optimizers.Regularized(
        inner, [regularizers.ParsevalRegularizer(1e-3)]
    ),
    "now_and_then": lambda inner: optimizers.Regularized(
        inner,
        [regularizers.WassersteinInit(1.0, every=3), regularizers.ParsevalRegularizer(turns=2)],
    ),
    "noise": lambda inner: optimizers.GradientNoise(inner, 0.1),
    "nested": lambda inner: optimizers.DecoupledDecay(
        optimizers.Regularized(inner, [regularizers.L2Init(0.1), keras.regularizers.L1(1e-3)]),
        0.5,
        INITIAL,
    ),
}
some = pytest.mark.parametrize("name", ["nested", "spectral", "noise"])
each = pytest.mark.parametrize("make", WRAPPERS.values(), ids=WRAPPERS)
RNG = np.random.default_rng(0)
X, Y = RNG.normal(size=(16, 5)).astype("float32"), RNG.normal(size=(16, 2)).astype("float32")


def network(dtype=None):
    inputs = keras.Input((5,))
    x = keras.layers.Dense(6, "relu", name="hidden", dtype=dtype)(inputs)
    x = keras.layers.LayerNormalization(name="norm", dtype=dtype)(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="out", dtype=dtype)(x))


def compiled(make, jit=False, inner=None, dtype=None):
    with kp.surgery.seeded(1):
        model = network(dtype)
    optimizer = make(inner or keras.optimizers.Adam(0.01))
    if dtype:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, 128.0)  # overflows nowhere
    model.compile(optimizer, "mse", jit_compile=jit)
    return model


def fit(model, epochs=2):
    model.fit(X, Y, batch_size=4, epochs=epochs, shuffle=False, verbose=0)


def state(model):
    return [np.array(v) for v in (*model.variables, *model.optimizer.variables)]


def equal(a, b):
    return len(a) == len(b) and all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@some
def test_a_loaded_model_goes_on_bit_for_bit(name, tmp_path):
    model = compiled(WRAPPERS[name])
    fit(model)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert equal(state(model), state(loaded))
    assert loaded.optimizer.get_config() == model.optimizer.get_config()
    for one in (model, loaded):
        fit(one, 1)
    assert equal(state(model), state(loaded))


@each
def test_configuration_makes_the_same_again(make):
    one = make(keras.optimizers.Adam(0.01))
    again = type(one).from_config(one.get_config())
    assert again.get_config() == one.get_config()
    assert equal(stepped(one, False), stepped(again, False))


def stepped(optimizer, jit, steps=4):
    """Weights and state after some steps on random gradients, as in mixed precision or not."""
    draws = np.random.default_rng(0)
    shapes = {"kernel": (4, 3), "bias": (3,), "gamma": (3,), "kernel_2": (2, 2, 3, 4)}
    variables = [
        keras.Variable(draws.normal(size=shape), name=name) for name, shape in shapes.items()
    ]
    optimizer.build(variables)

    @tf.function(jit_compile=jit, autograph=False)
    def step(gradients):
        optimizer.apply(gradients, variables)

    for _ in range(steps):
        scale = float(optimizer.scale_loss(1.0))
        step([tf.constant(scale * draws.normal(size=v.shape), "float32") for v in variables])
    return [np.array(v) for v in (*variables, *optimizer.variables)]


@each
def test_with_xla_as_without(make):
    results = [stepped(make(keras.optimizers.SGD(0.05, momentum=0.9)), j) for j in (False, True)]
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@each
def test_a_scaled_loss_changes_nothing(make):
    plain = stepped(make(keras.optimizers.SGD(0.05)), False)
    scaled = stepped(keras.optimizers.LossScaleOptimizer(make(keras.optimizers.SGD(0.05))), True)
    weights, state = scaled[:4], scaled[8:]  # four are of the loss scale
    for a, b in zip(plain, [*weights, *state], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


@some
def test_in_mixed_precision(name):
    results = []
    for dtype in (None, "mixed_float16"):
        model = compiled(WRAPPERS[name], inner=keras.optimizers.SGD(0.01), dtype=dtype)
        fit(model)
        results.append([np.array(v) for v in model.trainable_variables])
    assert all(v.dtype in ("float32", "int32", "int64") for v in model.optimizer.variables)
    assert int(model.optimizer.iterations) == 8
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-3)


@some
def test_a_run_that_was_stopped_goes_on(name, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_task_begin(self, task, model):
            if task.index == 1 and self.stops:
                raise KeyboardInterrupt

    def run(directory, stops):
        callback = Stop()
        callback.stops = stops
        optimizer = WRAPPERS[name](keras.optimizers.Adam(1e-2))
        options = {"run_dir": directory, "callbacks": [callback], "checkpoint_seconds": 0}
        return go(directory, stream(num_tasks=2), small, optimizer, fused_steps=4, **options)

    whole = run(tmp_path / "whole", False)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "stopped", True)
    resumed = run(tmp_path / "stopped", False)
    assert rows_without_times(resumed) == rows_without_times(whole)


@some
def test_fused_steps_are_single_steps_bit_for_bit(name):
    results = []
    order = np.tile(np.arange(16, dtype="int32").reshape(4, 4), (2, 1))
    for size in (1, 4):
        model = compiled(WRAPPERS[name])
        blocks = kp.hooks.FusedSteps.blocks(order, size)
        model.fit(blocks, shuffle=False, verbose=0, callbacks=[kp.hooks.FusedSteps(X, Y)])
        results.append(state(model))
    assert equal(*results)


@each
def test_learning_rate_is_that_of_the_inner_optimizer(make):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 2, 0.5, staircase=True)
    optimizer = make(keras.optimizers.SGD(schedule))
    stepped(optimizer, False)
    assert float(optimizer.learning_rate) == pytest.approx(0.025)
    assert int(optimizer.iterations) == 4
    optimizer = make(keras.optimizers.SGD(0.1))
    optimizer.learning_rate = 0.3
    assert float(innermost(optimizer).learning_rate) == pytest.approx(0.3)


def test_moments_are_found_inside_of_wrappers_and_reset():
    model = compiled(lambda inner: keras.optimizers.LossScaleOptimizer(WRAPPERS["nested"](inner)))
    fit(model)
    inner = innermost(model.optimizer)
    assert isinstance(inner, keras.optimizers.Adam)
    kernel = model.get_layer("hidden").kernel
    found = [slot.variable for slot in slots(model.optimizer)[id(kernel)]]
    assert len(found) == 2 and found[0] is inner._momentums[0]
    before = {v.path: np.array(v) for v in model.optimizer.variables}
    callback = OptimizerReset()
    callback.on_task_begin(1, model)
    after = {v.path: np.array(v) for v in model.optimizer.variables}
    moved = {path for path in before if not np.array_equal(before[path], after[path])}
    assert moved and not any(np.any(after[path]) for path in moved)
    kept = {path for path in before if path.endswith(("initial", "L2Init_0_0"))}
    assert len(kept) == 4 and not kept & moved
    assert {v.path for v in inner.variables if "moment" in v.path or "veloc" in v.path} <= moved


def test_after_a_fresh_network_weights_are_pulled_to_the_new_ones():
    model = compiled(WRAPPERS["decay_initial"])
    fit(model)
    kp.surgery.reinitialize(model, 3)
    kp.surgery.reset_optimizer(model.optimizer, model.trainable_variables)
    kernel = np.array(model.get_layer("hidden").kernel)
    goal = next(v for v in model.optimizer.variables if "hidden_kernel_initial" in v.path)
    assert np.array_equal(goal, kernel)


def test_a_resetting_callback_beside_it():
    model = compiled(WRAPPERS["nested"])
    redo = kp.callbacks.ReDo(3, 0.9, batches=2)
    goals = {v.path: np.array(v) for v in build(model) if "initial" in v.path}
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=[redo])
    assert int(np.sum(redo.counts)) > 0
    for variable in model.optimizer.variables:
        if variable.path in goals:
            assert np.array_equal(variable, goals[variable.path])
    assert goals


def build(model):
    model.optimizer.build(model.trainable_variables)
    return model.optimizer.variables


def test_weights_that_are_frozen_or_without_gradient_stay():
    with kp.surgery.seeded(1):
        model = network()
    model.get_layer("hidden").trainable = False
    model.compile(WRAPPERS["nested"](keras.optimizers.Adam(0.01)), "mse")
    before = np.array(model.get_layer("hidden").kernel)
    fit(model)
    assert np.array_equal(model.get_layer("hidden").kernel, before)
    variables = [keras.Variable(np.ones((2, 2)), name="kernel") for _ in range(2)]
    optimizer = WRAPPERS["decay"](keras.optimizers.SGD(0.1))
    with pytest.warns(UserWarning, match="Gradients do not exist"):
        optimizer.apply([tf.zeros((2, 2)), None], variables)
    assert np.allclose(variables[0], 0.95) and np.array_equal(variables[1], np.ones((2, 2)))


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.parametrize("name", ["decay", "l2"])
def test_gradients_of_embeddings_by_hand(name, jit):
    table = keras.layers.Embedding(4, 2, embeddings_initializer="ones")
    model = keras.Sequential([keras.Input((1,), dtype="int32"), table])
    policy = optimizers.DecayPolicy("all")
    optimizer = {
        "decay": optimizers.DecoupledDecay(keras.optimizers.SGD(0.1), 0.5, policy),
        "l2": optimizers.Regularized(
            keras.optimizers.SGD(0.1), [keras.regularizers.L2(0.25)], policy
        ),
    }[name]
    model.compile(optimizer, lambda y, outputs: keras.ops.sum(outputs), jit_compile=jit)
    model.fit(np.array([[0], [0], [2]]), np.zeros((3, 1, 2)), batch_size=3, verbose=0)
    expected = np.full((4, 2), 0.95)  # 1 - 0.1 * 0.5
    expected[0] -= 0.2
    expected[2] -= 0.1
    np.testing.assert_allclose(table.embeddings, expected, rtol=1e-5)


def test_a_layer_at_two_places_has_one_penalty():
    shared = keras.layers.Dense(3, use_bias=False, kernel_initializer="ones")
    inputs = keras.Input((3,))
    model = keras.Model(inputs, shared(shared(inputs)))
    model.compile(
        WRAPPERS["decay"](keras.optimizers.SGD(0.1)), lambda y, outputs: 0 * keras.ops.sum(outputs)
    )
    model.fit(np.ones((2, 3)), np.ones((2, 3)), verbose=0)
    np.testing.assert_allclose(shared.kernel, np.full((3, 3), 0.95), rtol=1e-6)


def test_built_inside_a_step_of_ones_own():
    variable = keras.Variable(np.full((2, 2), 3.0), name="kernel")
    optimizer = WRAPPERS["decay_initial"](keras.optimizers.SGD(0.1))

    @tf.function
    def step():
        optimizer.apply([tf.ones((2, 2))], [variable])

    step()
    step()
    goal = next(v for v in optimizer.variables if "initial" in v.path)
    assert np.array_equal(goal, np.full((2, 2), 3.0))
    np.testing.assert_allclose(variable, np.full((2, 2), 2.9 + 0.1 * 0.05 - 0.1), rtol=1e-6)


def test_saved_by_checkpoints_of_tensorflow(tmp_path):
    model = compiled(WRAPPERS["nested"])
    fit(model)
    before = state(model)
    path = tf.train.Checkpoint(model=model).save(str(tmp_path / "c"))
    fit(model)
    assert not equal(before, state(model))
    tf.train.Checkpoint(model=model).restore(path)
    assert equal(before, state(model))


def test_optimizers_that_cannot_be_wrapped():
    decay = WRAPPERS["decay"]
    adam = keras.optimizers.Adam
    with pytest.raises(ValueError, match="`optimizer` must be a Keras optimizer. Received: 'adam'"):
        decay("adam")
    with pytest.raises(ValueError, match="put the LossScaleOptimizer around DecoupledDecay"):
        decay(keras.optimizers.LossScaleOptimizer(adam()))
    with pytest.raises(ValueError, match="Received: loss_scale_factor=8"):
        decay(adam(loss_scale_factor=8.0))
    with pytest.raises(ValueError, match="Received: gradient_accumulation_steps=2"):
        decay(adam(gradient_accumulation_steps=2))
    inner = adam()
    inner.build([keras.Variable(np.ones((2, 2)), name="kernel")])
    with pytest.raises(ValueError, match="built for other weights"):
        decay(inner).build([keras.Variable(np.ones((2, 2)), name="kernel")])
    optimizer = decay(adam())
    optimizer.build([keras.Variable(np.ones((2, 2)), name="kernel")])
    with pytest.raises(ValueError, match="Unknown variable"):
        optimizer.apply([tf.ones(2)], [keras.Variable(np.ones(2), name="kernel")])
    with pytest.raises(ValueError, match="No gradients provided"):
        optimizer.apply([None])


def test_weights_are_excluded_from_the_decay_of_the_inner_optimizer():
    optimizer = optimizers.DecoupledDecay(keras.optimizers.AdamW(1.0, weight_decay=0.1), 0.0)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    kernel, bias = (
        keras.Variable(np.ones(s), name=n) for s, n in (((1, 1), "kernel"), (1, "bias"))
    )
    optimizer.apply([tf.zeros((1, 1)), tf.zeros(1)], [kernel, bias])
    assert float(kernel[0, 0]) == pytest.approx(0.9) and float(bias[0]) == 1


def test_a_reset_of_the_optimizer_brings_no_noise_again():
    model = compiled(lambda inner: optimizers.GradientNoise(inner))
    optimizer, callback = model.optimizer, OptimizerReset()
    fit(model, 1)
    callback.set_model(model)
    callback.on_task_begin(1, model)
    assert int(optimizer.iterations) == 0 and int(optimizer._drawn) == 4
    kp.surgery.reset_optimizer(optimizer, model.trainable_variables)
    assert int(optimizer._drawn) == 0

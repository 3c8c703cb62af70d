import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.hooks import FusedSteps, InGraphCallback, StepHooks, steps_per_call

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (64, 6)).astype("uint8")
Y = RNG.integers(0, 3, 64).astype("int32")
ORDER = np.concatenate([RNG.permutation(64).reshape(16, 4) for _ in range(3)]).astype("int32")


class CountSteps(InGraphCallback):
    """Counts updates, and remembers where in the task the last one was."""

    def build(self, model):
        self.count = keras.Variable(0, dtype="int32", trainable=False, name="count")
        self.last = keras.Variable([0, 0, 0], dtype="int32", trainable=False, name="last")

    def after_step(self, outputs):
        self.count.assign_add(1)
        self.last.assign(tf.stack([outputs.task, outputs.epoch, outputs.step]))


class StopHere(keras.callbacks.Callback):
    def __init__(self, error):
        super().__init__()
        self.error = error

    def on_train_batch_end(self, batch, logs=None):
        raise self.error


def network(kind="layer", dropout=0.0):
    inputs = keras.Input((6,))
    x = keras.layers.Dense(8)(inputs)
    if kind == "layer":
        x = keras.layers.LayerNormalization()(x)
    if kind == "batch":
        x = keras.layers.BatchNormalization()(x)
    x = keras.layers.ReLU()(x)
    if dropout:
        x = keras.layers.Dropout(dropout, seed=3)(x)
    return keras.Model(inputs, keras.layers.Dense(3)(x))


def compiled(optimizer="adam", jit=False, build=network, **options):
    keras.utils.set_random_seed(1)
    model = build(**options)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=jit)
    spec = (tf.zeros((4, 6)), tf.zeros(4, tf.int32))
    model._symbolic_build(data_batch=spec)
    return model


def train(model, steps, callbacks=(), cut=None, order=ORDER):
    fused = FusedSteps(X, Y)
    losses = []
    record = keras.callbacks.LambdaCallback(
        on_train_batch_end=lambda b, logs: losses.append(fused.step_logs["loss"])
    )
    blocks = FusedSteps.blocks(order, steps, epoch_steps=16, cut=cut)
    model.fit(blocks, shuffle=False, verbose=0, callbacks=[fused, *callbacks, record])
    return np.concatenate(losses)


def weights(model):
    return [np.asarray(v) for v in (*model.variables, *model.optimizer.variables)]


def same(a, b):
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("kind,dropout", [("layer", 0.0), ("batch", 0.5)])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_fused_equals_unfused_bit_for_bit_without_jit(kind, dropout, optimizer):
    one, many = (compiled(optimizer, kind=kind, dropout=dropout) for _ in range(2))
    losses_one, losses_many = train(one, 1), train(many, 20)
    assert np.array_equal(losses_one, losses_many)
    assert len(losses_one) == 48
    assert same(weights(one), weights(many))


def test_fused_agrees_with_unfused_with_jit():
    one, many = compiled(jit=True), compiled(jit=True)
    assert np.allclose(train(one, 1), train(many, 20), atol=1e-4)


def test_fused_agrees_with_plain_fit():
    plain, fused = compiled(), compiled()
    x = (X[ORDER] * np.float32(1 / 255)).reshape(-1, 6)
    plain.fit(x, Y[ORDER].reshape(-1), batch_size=4, shuffle=False, verbose=0)
    train(fused, 20)
    for a, b in zip(weights(plain), weights(fused), strict=True):
        assert np.allclose(a, b, atol=1e-5)


@pytest.mark.parametrize("steps,cut", [(5, 16), (16, 16), (48, None)])
def test_callbacks_see_the_metrics_over_the_epoch(steps, cut):
    model, fused, seen = compiled(), FusedSteps(X, Y), []
    record = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: seen.append(logs))
    blocks = FusedSteps.blocks(ORDER, steps, epoch_steps=16, cut=cut)
    epochs = 3 if cut else 1
    model.fit(blocks, shuffle=False, verbose=0, epochs=epochs, callbacks=[fused, record],
              steps_per_epoch=len(blocks) // epochs)  # fmt: skip
    plain = compiled()
    x = (X[ORDER] * np.float32(1 / 255)).reshape(epochs, -1, 6)
    y = Y[ORDER].reshape(epochs, -1)
    for logs, inputs, targets in zip(seen, x, y, strict=True):
        history = plain.fit(inputs, targets, batch_size=4, shuffle=False, verbose=0).history
        assert logs["loss"] == pytest.approx(history["loss"][0], rel=1e-4)
        assert logs["accuracy"] == pytest.approx(history["accuracy"][0], rel=1e-4)


def test_first_loss_is_that_of_the_first_batch_alone():
    model = compiled()
    x = X[ORDER[0]] * np.float32(1 / 255)
    expected = float(model.compute_loss(y=tf.constant(Y[ORDER[0]]), y_pred=model(x)))
    assert train(model, 7)[0] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("jit", [False, True])
@pytest.mark.timeout(120)
def test_hook_runs_after_each_update_and_knows_where_it_is(jit):
    counter = CountSteps()
    train(compiled(jit=jit), 7, [counter])
    assert int(counter.count) == 48
    assert np.asarray(counter.last).tolist() == [0, 2, 47]


@pytest.mark.parametrize("steps_per_execution", [1, 4])
def test_hook_in_plain_fit(steps_per_execution):
    model, counter = compiled(), CountSteps()
    model.steps_per_execution = steps_per_execution
    model.fit(X.astype("float32"), Y, batch_size=4, verbose=0, callbacks=[counter])
    assert int(counter.count) == 16
    assert np.asarray(counter.last).tolist() == [-1, -1, -1]


def test_hook_sees_sample_weight():
    seen = []

    class Look(InGraphCallback):
        def after_step(self, outputs):
            seen.append(outputs.sample_weight)

    compiled().fit(X.astype("float32"), Y, sample_weight=np.ones(64), verbose=0, callbacks=[Look()])
    assert seen[0] is not None


def test_hook_that_does_nothing_changes_nothing():
    class Nothing(InGraphCallback):
        pass

    plain, hooked = compiled(), compiled()
    x = X.astype("float32")
    plain.fit(x, Y, batch_size=4, shuffle=False, verbose=0)
    hooked.fit(x, Y, batch_size=4, shuffle=False, verbose=0, callbacks=[Nothing()])
    assert same(weights(plain), weights(hooked))


def test_next_fit_without_our_callbacks_is_plain():
    model, counter = compiled(), CountSteps()
    model.fit(X.astype("float32"), Y, verbose=0)
    plain = model.train_function
    model.fit(X.astype("float32"), Y, batch_size=4, verbose=0, callbacks=[counter])
    assert model.train_function is not plain
    model.fit(X.astype("float32"), Y, batch_size=4, verbose=0)
    assert int(counter.count) == 16
    assert model.train_function is plain
    assert "make_train_function" not in vars(model)
    assert "train_step" not in vars(model)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("elsewhere")])
def test_plain_again_after_an_interrupt_in_a_foreign_callback(error):
    model, counter = compiled(), CountSteps()
    with pytest.raises(type(error)):
        model.fit(
            X.astype("float32"), Y, batch_size=4, verbose=0, callbacks=[counter, StopHere(error)]
        )
    model.fit(X.astype("float32"), Y, batch_size=4, verbose=0)
    assert int(counter.count) == 1
    assert "make_train_function" not in vars(model)


def test_state_survives_a_plain_fit_in_between():
    model, counter = compiled(), CountSteps()
    x = X.astype("float32")
    for callbacks in ([counter], [], [counter]):
        model.fit(x, Y, batch_size=4, verbose=0, callbacks=callbacks)
    assert int(counter.count) == 32


@pytest.mark.parametrize("method", ["evaluate", "predict"])
def test_evaluate_and_predict_do_not_arm_the_next_fit(method):
    model, counter = compiled(), CountSteps()
    x = X.astype("float32")
    model.fit(x, Y, batch_size=4, verbose=0, callbacks=[counter])
    data = (x, Y) if method == "evaluate" else (x,)
    getattr(model, method)(*data, verbose=0, callbacks=[counter])
    model.fit(x, Y, batch_size=4, verbose=0)
    assert int(counter.count) == 16


def test_variables_in_containers_are_found():
    class Many(InGraphCallback):
        def build(self, model):
            self.by_layer = {"a": [keras.Variable(0.0)], "b": keras.Variable(1.0)}
            self.seeds = keras.random.SeedGenerator(3)

    many = Many()
    many.set_model(compiled())
    many.build(many.model)
    assert len(many.variables) == 3


@pytest.mark.parametrize("steps_per_execution", [3, 5])
def test_fused_steps_with_steps_per_execution_of_the_user(steps_per_execution):
    one, several = compiled(), compiled()
    several.steps_per_execution = steps_per_execution
    expected = train(one, 6)
    assert np.array_equal(train(several, 6), expected)
    assert same(weights(one), weights(several))


def test_recompiled_model_takes_the_new_loss():
    model, counter = compiled(), CountSteps()
    x = X.astype("float32")
    model.fit(x, Y, batch_size=4, verbose=0, callbacks=[counter])
    model.compile("sgd", "mse", metrics=["mae"])
    targets = np.zeros((64, 3), "float32")
    history = model.fit(x, targets, batch_size=4, verbose=0, callbacks=[counter])
    assert sorted(history.history) == ["loss", "mae"]
    assert int(counter.count) == 32
    model.fit(x, targets, batch_size=4, verbose=0)
    assert int(counter.count) == 32


def test_no_tracing_from_task_to_task():
    traces = []

    class Trace(InGraphCallback):
        def after_step(self, outputs):
            traces.append(1)

    model, trace, fused = compiled(), Trace(), FusedSteps(X, Y)
    for _ in range(4):
        fused.assign(X[::-1], Y[::-1])
        model.fit(FusedSteps.blocks(ORDER, 20), shuffle=False, verbose=0, callbacks=[fused, trace])
    assert len(traces) == 1


def test_old_functions_are_let_go():
    model, x = compiled(), X.astype("float32")
    for _ in range(6):
        model.fit(x, Y, batch_size=32, verbose=0, callbacks=[CountSteps()])
    assert len(StepHooks.of(model)._functions) == 4


def test_eager_fused_steps_agree():
    graph, eager = compiled(), compiled()
    eager.run_eagerly = True
    order = ORDER[:6]
    assert np.allclose(train(graph, 4, order=order), train(eager, 4, order=order), atol=1e-5)


def test_custom_train_step_of_a_subclass():
    class Own(keras.Model):
        def train_step(self, data):
            logs = super().train_step(data)
            return {**logs, "twice": 2 * logs["loss"]}

    def build():
        inputs = keras.Input((6,))
        return Own(inputs, keras.layers.Dense(3)(inputs))

    model, counter, fused = compiled(build=build), CountSteps(), FusedSteps(X, Y)
    model.fit(FusedSteps.blocks(ORDER, 48), shuffle=False, verbose=0, callbacks=[fused, counter])
    assert int(counter.count) == 48
    assert np.allclose(fused.step_logs["twice"], 2 * fused.step_logs["loss"])


@pytest.mark.parametrize("jit", [False, True])
def test_mixed_precision_with_loss_scaling(jit):
    policy = keras.mixed_precision.dtype_policy()
    keras.mixed_precision.set_dtype_policy("mixed_float16")
    try:
        model, counter = compiled(jit=jit), CountSteps()
        losses = train(model, 20, [counter])
    finally:
        keras.mixed_precision.set_dtype_policy(policy)
    assert isinstance(model.optimizer, keras.optimizers.LossScaleOptimizer)
    assert int(counter.count) == 48
    assert losses[-16:].mean() < losses[:16].mean()


def test_gradient_accumulation_is_refused_when_fused():
    model = compiled(keras.optimizers.Adam(gradient_accumulation_steps=2))
    with pytest.raises(ValueError, match="gradient accumulation"):
        train(model, 20)


def test_foreign_owner_of_the_training_function_is_refused():
    model = compiled()
    vars(model)["make_train_function"] = lambda force=False: None
    with pytest.raises(ValueError, match="only one owner"):
        StepHooks.of(model)


def test_blocks_cover_the_order_and_end_at_cuts():
    blocks = list(FusedSteps.blocks(ORDER, 10, task=5, start=3, epoch_steps=16, cut=16))
    counts = [int(position[0]) for _, position in blocks]
    assert counts == [10, 3, 10, 6, 10, 6]
    rows = np.concatenate([i.numpy()[: p[0]] for i, p in blocks])
    assert np.array_equal(rows, ORDER[3:])
    assert blocks[0][1].numpy().tolist() == [10, 5, 3, 16]


def test_steps_per_call_by_hand():
    model = keras.Sequential([keras.Input((1000,)), keras.layers.Dense(1000, use_bias=False)])
    assert steps_per_call(model, 33) == int(2e10 / (6 * 33 * 1_000_000))
    assert steps_per_call(model, 1) == 2500
    convolution = keras.Sequential(
        [keras.Input((32, 32, 3)), keras.layers.Conv2D(64, 3, padding="same", use_bias=False)]
    )
    assert steps_per_call(convolution, 128) == int(2e10 / (6 * 128 * 32 * 32 * 27 * 64))

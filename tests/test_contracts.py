"""What every member promises."""

import importlib.util
import json
import pathlib

import keras
import numpy as np
import pytest

import keras_plasticity as kp

_spec = importlib.util.spec_from_file_location(
    "members", pathlib.Path(__file__).parent / "members.py"
)
members = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(members)

RNG = np.random.default_rng(0)
X = RNG.integers(0, 256, (60, 4, 4, 3)).astype("uint8")
Y = RNG.integers(0, 4, 60)


def test_every_member_has_a_row():
    transforms = {
        name
        for name, value in vars(kp.streams).items()
        if isinstance(value, type)
        and issubclass(value, kp.streams.Transform)
        and value is not kp.streams.Transform
    }
    assert transforms == set(members.TRANSFORMS)
    assert set(kp.models.__all__) == set(members.MODELS)
    two_inputs = {"NormalizedAttention"}  # tests/layers/test_normalized_attention.py
    assert set(kp.layers.__all__) - two_inputs == set(members.LAYERS)
    assert set(kp.regularizers.__all__) - {"StatefulRegularizer"} == set(members.REGULARIZERS)
    assert set(kp.losses.__all__) - {"DecodedMeanSquaredError"} == set(members.LOSSES)
    constraints = {
        n
        for n in kp.constraints.__all__
        if issubclass(
            kind if isinstance(kind := getattr(kp.constraints, n), type) else object,
            keras.constraints.Constraint,
        )
    }
    assert constraints == set(members.CONSTRAINTS)
    optimizers = {n for n in kp.optimizers.__all__ if n != "DecayPolicy"}
    assert optimizers <= set(members.OPTIMIZERS)
    others = {"Intervention", "Monitor", "PlasticityAlarm"}
    assert set(kp.callbacks.__all__) - others == set(members.CALLBACKS)


def stream(transform, seed=0):
    source = kp.streams.from_arrays(X, Y, x_test=X[:20], y_test=Y[:20])
    return kp.streams.make(source, num_tasks=6, transforms=[transform], batch_size=4, seed=seed)


def arrays(task):
    values = vars(task.arrays())
    return {k: v for k, v in values.items() if isinstance(v, np.ndarray)} | {"order": task.order()}


def equal(a, b):
    return a.keys() == b.keys() and all(np.array_equal(a[k], b[k]) for k in a)


@pytest.mark.parametrize("make", members.TRANSFORMS.values(), ids=members.TRANSFORMS)
class TestTransform:
    def test_task_is_a_function_of_seed_and_task_alone(self, make):
        first, second = stream(make()), stream(make())
        late = arrays(first[5])
        for task in second:
            task.arrays()
        assert equal(late, arrays(second[5]))
        assert not equal(late, arrays(stream(make(), seed=1)[5]))

    def test_buffers_keep_shape_and_type(self, make):
        tasks = stream(make())
        shapes = {(t.arrays().x.shape, t.arrays().y.shape, t.arrays().x.dtype) for t in tasks}
        assert len(shapes) == 1
        assert tasks[0].arrays().x.dtype == np.uint8

    def test_source_is_left_as_it_was(self, make):
        before = X.copy(), Y.copy()
        stream(make())[3].arrays()
        assert np.array_equal(X, before[0]) and np.array_equal(Y, before[1])

    def test_config_is_json(self, make):
        config = stream(make()).get_config()
        assert json.loads(json.dumps(config))["transforms"][0][0] == type(make()).__name__

    def test_order_stays_within_the_task(self, make):
        task = stream(make())[3]
        allowed = set(task.arrays().index) | set(
            () if task.data.previous is None else task.data.previous
        )
        assert set(task.order().ravel()) <= allowed


@pytest.mark.parametrize("make", members.MODELS.values(), ids=members.MODELS)
class TestModel:
    def test_two_builds_have_the_same_names(self, make):
        paths = [[v.path for v in make().variables] for _ in range(2)]
        assert paths[0] == paths[1]

    def test_save_and_load(self, make, tmp_path):
        model = make(norm="rms", dropout=0.1)
        model.save(tmp_path / "model.keras")
        loaded = keras.models.load_model(tmp_path / "model.keras")
        x = RNG.random((2, 8, 8, 1)).astype("float32")
        assert np.allclose(model(x), loaded(x), atol=1e-6)


@pytest.mark.parametrize("make,shape", members.LAYERS.values(), ids=members.LAYERS)
def test_layer_round_trip(make, shape):
    layer = make()
    x = RNG.random(shape).astype("float32")
    outputs = layer(x)
    copy = type(layer).from_config(layer.get_config())
    copy.build(shape)
    copy.set_weights(layer.get_weights())
    assert np.allclose(copy(x), outputs)
    assert layer.compute_output_shape(shape) == outputs.shape


@pytest.mark.parametrize("make", members.OPTIMIZERS.values(), ids=members.OPTIMIZERS)
def test_optimizer_goes_on_after_a_checkpoint(make, tmp_path):
    def step(optimizer, variable):
        optimizer.apply([keras.ops.ones((2, 2))], [variable])

    whole, halves = (keras.Variable(np.ones((2, 2)), name="kernel") for _ in range(2))
    one, first, second = make(), make(), make()
    for _ in range(4):
        step(one, whole)
    for _ in range(2):
        step(first, halves)
    kp.checkpoint.save(tmp_path, kp.checkpoint.collect({"o": first.variables}), {})
    second.build([halves])
    kp.checkpoint.restore({"o": second.variables}, kp.checkpoint.load(tmp_path)[0])
    for _ in range(2):
        step(second, halves)
    assert np.array_equal(np.asarray(whole), np.asarray(halves))


CONFIGURED = members.REGULARIZERS | members.CONSTRAINTS | members.LOSSES


@pytest.mark.parametrize("make", CONFIGURED.values(), ids=CONFIGURED)
def test_config_round_trip(make):
    made = make()
    config = keras.saving.serialize_keras_object(made)
    copy = keras.saving.deserialize_keras_object(json.loads(json.dumps(config)))
    assert type(copy) is type(made) and copy.get_config() == made.get_config()


@pytest.mark.parametrize("make", members.CALLBACKS.values(), ids=members.CALLBACKS)
def test_callback_config(make):
    callback = make()
    assert type(callback)(**callback.get_config()).get_config() == callback.get_config()

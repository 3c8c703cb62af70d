"""Streams: order, batches, laziness, configuration and errors."""

import gc
import json
import weakref

import numpy as np
import pytest

from keras_plasticity import streams

N = 50


def source(dtype=np.uint8, n=N, test=True, name="arrays"):
    rng = np.random.default_rng(0)
    x = rng.integers(0, 256, (n, 4, 4, 1)).astype(dtype)
    y = (np.arange(n) % 5).astype(np.int64)
    more = dict(x_test=x[:11], y_test=y[:11]) if test else {}
    return streams.from_arrays(x, y, name=name, **more)


def stream(*transforms, **kwargs):
    given = dict(num_tasks=6, batch_size=8, epochs=3, seed=4)
    return streams.make(source(), transforms=transforms, **{**given, **kwargs})


def test_indexing():
    made = stream()
    assert len(made) == made.num_tasks == 6
    assert [t.index for t in made] == list(range(6))
    assert made[-1].index == 5 and made[2].name == "arrays/2"
    for bad in (6, -7):
        with pytest.raises(IndexError, match="Received: index"):
            made[bad]


def test_specification():
    made = stream(streams.ClassSubset(2))
    assert made.input_shape == (4, 4, 1) and made.num_classes == made.num_outputs == 2
    x, y = made.element_spec
    assert x.shape == (8, 4, 4, 1) and x.dtype == "float32"
    assert y.shape == (8,) and y.dtype == "int32"
    for batch in made[1].train().take(1):
        assert x.is_compatible_with(batch[0]) and y.is_compatible_with(batch[1])


@pytest.mark.parametrize(("shape", "outputs"), [((N,), 1), ((N, 3), 3)])
def test_regression(shape, outputs):
    y = np.random.default_rng(0).standard_normal(shape)
    given = streams.from_arrays(np.ones((N, 7)), y)
    made = streams.make(given, num_tasks=2, transforms=streams.PermutePixels())
    assert made.num_classes is None and made.num_outputs == outputs
    assert made.element_spec[1].shape == (32, *shape[1:])
    x, targets = next(iter(made[0].train()))
    np.testing.assert_array_equal(targets, y.astype(np.float32)[made[0].order()[0]])
    assert (x.numpy() == 1).all()  # floats are not scaled


def test_order_is_a_permutation_per_epoch():
    task = stream()[2]
    assert task.steps_per_epoch == 6 and task.steps == 18
    orders = [task.order(e) for e in range(3)]
    for order in orders:
        assert order.shape == (6, 8) and order.dtype == np.int32
        assert len(set(order.ravel())) == 48 and order.min() >= 0 and order.max() < N
    assert not np.array_equal(orders[0], orders[1])
    np.testing.assert_array_equal(task.order(), np.concatenate(orders))
    with pytest.raises(ValueError, match="Received: epoch=3"):
        task.order(3)


def test_order_depends_on_seed_task_and_epoch_alone():
    fresh = stream()[5].order(2)
    walked = stream(num_tasks=9)
    for task in walked:
        task.order(0)
        task.data  # noqa: B018
    np.testing.assert_array_equal(walked[5].order(2), fresh)
    np.testing.assert_array_equal(stream(streams.PermutePixels())[5].order(2), fresh)
    np.testing.assert_array_equal(stream(epochs=7)[5].order(2), fresh)
    assert not np.array_equal(stream(seed=5)[5].order(2), fresh)
    assert not np.array_equal(walked[4].order(2), fresh)


def test_order_stays_within_the_subset():
    task = stream(streams.Subsample(0.5), streams.PermutePixels())[1]
    index = task.arrays().index
    assert len(index) == 25 and task.steps_per_epoch == 3
    assert set(task.order().ravel()) <= set(index)


def test_order_builds_no_images():
    made = stream(streams.ClassSubset(2), streams.Rotate(), streams.ResetLabels(0.5))
    for task in made:
        order = task.order()
        assert "data" not in task.__dict__
        built = made[task.index]
        built.data  # noqa: B018
        np.testing.assert_array_equal(built.order(), order)


class DarkHalf(streams.Transform):
    """A transform of a user's: rows are selected by what the images show."""

    def __call__(self, data, *, seed, task, num_tasks):
        import dataclasses

        mean = data.x_train.mean(axis=(1, 2, 3))
        rows = np.flatnonzero(mean <= np.median(mean)).astype(np.int32)
        return dataclasses.replace(data, index=rows)


def test_a_transform_may_need_the_inputs():
    made = stream(DarkHalf(), streams.PermutePixels())
    assert made.input_shape == (4, 4, 1)
    assert made[0].steps_per_epoch == 3
    assert set(made[3].order().ravel()) <= set(made[3].arrays().index)


def test_train_yields_the_rows_of_order():
    task = stream(streams.PermutePixels(), streams.ResetLabels(0.5))[3]
    arrays = task.arrays()
    for repeat, order in ((True, task.order()), (False, task.order(0))):
        batches = list(task.train(repeat=repeat))
        assert len(batches) == len(order)
        for (x, y), rows in zip(batches, order, strict=True):
            expected = arrays.x[rows].astype(np.float32) * np.float32(1 / 255)
            np.testing.assert_array_equal(x, expected)
            np.testing.assert_array_equal(y, arrays.y[rows])


def test_test_yields_all_rows():
    made = stream(streams.ClassSubset(2))
    task = made[0]
    arrays = task.arrays()
    for size in (None, 3, 100):
        batches = list(task.test(size))
        x = np.concatenate([b[0] for b in batches])
        y = np.concatenate([b[1] for b in batches])
        assert max(len(b[1]) for b in batches) <= (size or 8)
        np.testing.assert_array_equal(y, arrays.y_test[arrays.test_index])
        np.testing.assert_allclose(x, arrays.x_test[arrays.test_index] / 255, rtol=1e-6)
    plain = streams.make(source(test=False), num_tasks=1, batch_size=8)[0]
    assert plain.arrays().test_index is None
    with pytest.raises(ValueError, match="`test` needs test data"):
        plain.test()


def test_gradual_blends_from_old_to_new():
    made = streams.make(
        source(n=4000),
        num_tasks=3,
        transforms=streams.Gradual(streams.LabelNoise(0.5), over=0.5),
        batch_size=40,
        epochs=4,
    )
    task = made[1]
    order = task.order()
    assert order.shape == (400, 40)
    old = (order < 4000).mean(axis=1)
    assert old[0] == 1.0 and (old[200:] == 0).all()
    expected = np.clip(1 - np.arange(400) / 200, 0, None)
    # Means of 20 updates, 800 presentations each: five standard deviations.
    error = np.abs(old.reshape(20, -1).mean(1) - expected.reshape(20, -1).mean(1))
    assert error.max() < 5 * 0.5 / np.sqrt(800)
    for epoch in range(4):  # each example once per epoch, in one version or the other
        assert len(set(task.order(epoch).ravel() % 4000)) == 4000
    assert (made[0].order() >= 4000).all()
    assert made[0].arrays().x is made[1].arrays().x
    assert made[0].arrays().y.shape == made[1].arrays().y.shape == (8000,)
    np.testing.assert_array_equal(
        task.arrays().y[:4000],
        streams.make(source(n=4000), num_tasks=3, transforms=streams.LabelNoise(0.5))[0].arrays().y,
    )


def test_arrays_are_built_once_and_not_kept_by_the_stream():
    made = stream(streams.GaussianNoise(0.1))
    task = made[0]
    assert task.arrays().x is task.arrays().x
    kept = weakref.ref(task.arrays().x)
    task.train()
    for later in made:
        later.train()
    del task, later
    gc.collect()
    assert kept() is None


def test_unchanged_inputs_stay_on_the_device():
    made = stream(streams.ResetLabels())
    first, second = made[0], made[1]
    assert first.arrays().x is second.arrays().x is made.source.x_train
    held = made[0].device.put("x_train", first.arrays().x)
    assert made[1].device.put("x_train", second.arrays().x) is held


def test_a_late_task_needs_none_before(monkeypatch):
    made = stream(streams.PermutePixels(), num_tasks=501)
    built = []
    real = streams.Stream._build
    monkeypatch.setattr(
        streams.Stream,
        "_build",
        lambda self, task, **kw: built.append(task) or real(self, task, **kw),
    )
    made[500].arrays()
    assert built == [500]


def test_config_is_json():
    made = stream(streams.ClassSubset(2), streams.Gradual([streams.PermutePixels()], over=0.25))
    config = json.loads(json.dumps(made.get_config()))
    assert config["transforms"] == [
        ["ClassSubset", {"classes": 2, "incremental": False, "relabel": True}],
        ["Gradual", {"transforms": [["PermutePixels", {"cumulative": False}]], "over": 0.25}],
    ]
    assert config["source"] == "arrays" and len(config["source_digest"]) == 64
    assert {k: config[k] for k in ("num_tasks", "batch_size", "epochs", "seed")} == {
        "num_tasks": 6,
        "batch_size": 8,
        "epochs": 3,
        "seed": 4,
    }


FLOATS = streams.from_arrays(np.ones((40, 3)), np.linspace(0, 1, 40))


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        (dict(num_tasks=0), "`num_tasks` .*Received: num_tasks=0"),
        (dict(num_tasks=2.5), "`num_tasks` .*Received: num_tasks=2.5"),
        (dict(batch_size=True), "`batch_size` .*Received: batch_size=True"),
        (dict(epochs=-1), "`epochs` .*Received: epochs=-1"),
        (dict(seed=-1), "`seed` .*Received: seed=-1"),
        (dict(batch_size=51), "`batch_size` .*batch_size=51, 50 examples in task 0"),
        (dict(transforms=[np.sin]), "`transforms` must be instances"),
        (dict(transforms=[streams.Subsample]), "`transforms` must be instances"),
        (dict(transforms=[streams.ClassSubset(6)]), "`classes` .*Received: classes=6"),
        (dict(transforms=[streams.ClassSubset(2), streams.ClassSubset(3)]), "`classes`"),
        (dict(transforms=[streams.Subsample(0.1)]), "5 examples in task 0"),
        (dict(transforms=[streams.Subsample(0.0)], batch_size=1), "0 examples in task 0"),
        (dict(transforms=[streams.Grow(1.0, 0.0)]), "examples in task 5"),
        (
            dict(transforms=[streams.Gradual(streams.PermutePixels()), streams.Rotate()]),
            "`Gradual` must be the last",
        ),
        (dict(source=FLOATS, transforms=[streams.ResetLabels()]), "needs class labels"),
        (dict(source=FLOATS, transforms=[streams.LabelNoise(0.1)]), "needs class labels"),
        (dict(source=FLOATS, transforms=[streams.PermuteLabels()]), "needs class labels"),
        (dict(source=FLOATS, transforms=[streams.Gradual(streams.Rotate())]), "needs images"),
        (dict(source="mnist"), "`source` must be a `Source`"),
    ],
)
def test_errors(kwargs, message):
    given = dict(source=source(), num_tasks=6, batch_size=8)
    kwargs = {**given, **kwargs}
    with pytest.raises(ValueError, match=message):
        streams.make(kwargs.pop("source"), **kwargs)

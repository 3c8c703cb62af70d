"""Transforms of labels, inputs and rows, each against a naive computation."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from keras_plasticity import streams
from keras_plasticity.streams import input_transforms, transforms

N, CLASSES, TASKS = 120, 5, 8


def data(shape=(4, 4, 1), dtype="uint8", num_classes=CLASSES):
    rng = np.random.default_rng(0)
    make = {
        "uint8": lambda n: rng.integers(0, 256, (n, *shape)).astype(np.uint8),
        "float32": lambda n: rng.standard_normal((n, *shape), dtype=np.float32),
    }[dtype]
    return streams.Data(
        x_train=make(N),
        y_train=(np.arange(N) % CLASSES).astype(np.int32),
        x_test=make(20),
        y_test=(np.arange(20) % CLASSES).astype(np.int32),
        index=np.arange(N, dtype=np.int32),
        test_index=np.arange(20, dtype=np.int32),
        num_classes=num_classes,
    )


def call(transform, given, task=0, seed=3):
    return transform(given, seed=seed, task=task, num_tasks=TASKS)


ALL = [
    streams.ResetLabels(0.3),
    streams.ResetLabels(0.3, cumulative=False),
    streams.PermuteLabels(),
    streams.PermutePixels(),
    streams.PermutePixels(cumulative=True),
    streams.LabelNoise(0.4),
    streams.GaussianNoise(0.1),
    streams.Rotate(),
    streams.Subsample(0.5),
    streams.Subsample(0.5, fixed=True),
    streams.Grow(),
    streams.ClassSubset(2),
    streams.ClassSubset(2, relabel=False),
    streams.ClassSubset(2, incremental=True),
    streams.Gradual([streams.ClassSubset(2), streams.PermutePixels()]),
]


def ids(value):
    return repr(value).replace("streams.", "")


def assert_same(a, b):
    for field in dataclasses.fields(a):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert np.array_equal(left, right) if isinstance(left, np.ndarray) else left == right


@pytest.mark.parametrize("transform", ALL, ids=ids)
def test_contract(transform):
    given = data()
    before = {k: np.array(v) for k, v in vars(given).items() if isinstance(v, np.ndarray)}
    late = call(transform, given, task=5)
    shapes = set()
    for task in range(TASKS):
        made = call(transform, given, task=task)
        shapes.add((made.x_train.shape, made.y_train.shape, made.x_test.shape))
        for rows in (made.index, made.test_index):
            assert rows.dtype == np.int32 and (np.diff(rows) > 0).all()
        assert made.y_train.dtype == made.y_test.dtype == np.int32
        assert made.x_train.dtype == np.uint8
        assert 0 <= made.y_train[made.index].min() <= made.y_train[made.index].max()
        assert made.y_train[made.index].max() < made.num_classes
        if task == 5:
            assert_same(made, late)  # made first, or after tasks 0..4
    assert len(shapes) == 1
    for name, value in before.items():
        assert np.array_equal(value, getattr(given, name))


@pytest.mark.parametrize("transform", ALL, ids=ids)
def test_seeds_differ(transform):
    given = data()
    if isinstance(transform, streams.Grow):
        a, b = (call(transform, given, seed=s).index for s in (1, 2))
        assert not np.array_equal(a, b)
        return

    def print_of(seed):
        made = call(transform, given, task=1, seed=seed)
        return b"".join(
            np.ascontiguousarray(v).tobytes() for v in (made.x_train, made.y_train, made.index)
        )

    assert len({print_of(seed) for seed in range(4)}) > 1


@pytest.mark.parametrize("fraction", [0.1, 0.25, 1.0])
def test_reset_labels_cumulative_equals_forward_simulation(fraction):
    transform = streams.ResetLabels(fraction)
    given = data()
    labels = given.y_train.copy()
    for task in range(TASKS):
        rows, drawn = transform.draw(N, CLASSES, seed=3, task=task)
        assert len(rows) == len(set(rows)) == round(fraction * N)
        labels[rows] = drawn
        made = call(transform, given, task=task)
        assert np.array_equal(made.y_train, labels)
        assert not made.test_labels_meaningful
        assert made.x_train is given.x_train and made.y_test is given.y_test


def test_reset_labels_not_cumulative_starts_from_the_original():
    transform = streams.ResetLabels(0.25, cumulative=False)
    for task in (0, 6):
        rows, drawn = transform.draw(N, CLASSES, seed=3, task=task)
        expected = data().y_train.copy()
        expected[rows] = drawn
        assert np.array_equal(call(transform, data(), task=task).y_train, expected)


def test_reset_labels_are_uniform():
    transform = streams.ResetLabels()
    labels = np.concatenate([call(transform, data(), task=t).y_train for t in range(200)])
    share = np.bincount(labels, minlength=CLASSES) / len(labels)
    sigma = np.sqrt(0.2 * 0.8 / len(labels))
    assert np.abs(share - 0.2).max() < 5 * sigma


@pytest.mark.parametrize(
    "transform",
    [
        streams.ResetLabels(0.0),
        streams.LabelNoise(0.0),
        streams.GaussianNoise(0.0),
        streams.Rotate(0.0),
        streams.Subsample(1.0),
    ],
    ids=ids,
)
def test_strength_zero_returns_the_data_itself(transform):
    given = data()
    assert call(transform, given, task=3) is given


@pytest.mark.parametrize("rate", [0.1, 0.5, 1.0])
def test_label_noise_changes_the_exact_share(rate):
    made = call(streams.LabelNoise(rate), data(), task=2)
    assert (made.y_train != data().y_train).sum() == round(rate * N)
    assert made.test_labels_meaningful and np.array_equal(made.y_test, data().y_test)


def test_permute_labels_renames_train_and_test_alike():
    given = data()
    made = call(streams.PermuteLabels(), given, task=1)
    names = {int(a): int(b) for a, b in zip(given.y_train, made.y_train, strict=True)}
    assert sorted(names) == sorted(names.values()) == list(range(CLASSES))
    assert [names[int(v)] for v in given.y_test] == made.y_test.tolist()


@pytest.mark.parametrize("shape", [(4, 4, 3), (7,), (3, 5)])
def test_permute_pixels_is_one_bijection(shape):
    given = data(shape, "float32")
    transform = streams.PermutePixels()
    made = call(transform, given, task=1)
    places = shape[:-1] if len(shape) > 2 else shape
    order = transform.permutation(int(np.prod(places)), seed=3, task=1)
    assert sorted(order) == list(range(len(order)))
    assert not np.array_equal(order, np.arange(len(order)))
    for old, new in ((given.x_train, made.x_train), (given.x_test, made.x_test)):
        rows = old.reshape(len(old), len(order), -1)
        for place, source in enumerate(order):
            assert np.array_equal(new.reshape(rows.shape)[:, place], rows[:, source])


def test_permute_pixels_by_hand(monkeypatch):
    monkeypatch.setattr(
        streams.PermutePixels, "permutation", lambda *_, **__: np.array([1, 0, 3, 2])
    )
    given = dataclasses.replace(data((2, 2, 1)), x_train=np.array([[[[1], [2]], [[3], [4]]]]))
    made = call(streams.PermutePixels(), given)
    assert made.x_train[0, :, :, 0].tolist() == [[2, 1], [4, 3]]


def test_permute_pixels_cumulative_composes_images():
    given = data((4, 4, 2))
    images = given.x_train
    single = streams.PermutePixels()
    for task in range(4):
        images = call(single, dataclasses.replace(given, x_train=images), task=task).x_train
        made = call(streams.PermutePixels(cumulative=True), given, task=task)
        assert np.array_equal(made.x_train, images)


def test_gaussian_noise_has_its_spread_and_range():
    given = dataclasses.replace(data((40, 40, 1)), x_train=np.full((N, 40, 40, 1), 128, np.uint8))
    noise = call(streams.GaussianNoise(0.1), given).x_train.astype(float) - 128
    # 25.5 wide, and rounding adds 1/12; of 192000 values.
    assert noise.std() == pytest.approx(np.sqrt(25.5**2 + 1 / 12), rel=0.01)
    assert abs(noise.mean()) < 5 * 25.5 / np.sqrt(noise.size)
    strong = call(streams.GaussianNoise(3.0), given).x_train
    assert strong.min() == 0 and strong.max() == 255
    flat = data((6,), "float32")
    made = call(streams.GaussianNoise(0.5), flat)
    assert made.x_train.dtype == np.float32
    assert (made.x_train - flat.x_train).std() == pytest.approx(0.5, rel=0.1)
    assert not np.array_equal(made.x_train[:20] - flat.x_train[:20], made.x_test - flat.x_test)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("shape", [(4, 4, 3), (5, 5, 1)])
def test_rotate_right_angles(dtype, shape):
    images = data(shape, dtype).x_train
    for turns in range(4):
        turned = input_transforms.rotate(images, 90.0 * turns)
        assert turned.dtype == images.dtype
        np.testing.assert_allclose(turned, np.rot90(images, turns, axes=(1, 2)), atol=1e-6)


def test_rotate_equals_scipy():
    ndimage = pytest.importorskip("scipy.ndimage")
    images = data((9, 7, 1), "float32").x_train
    angle = np.deg2rad(31.0)
    matrix = np.array([[np.cos(angle), np.sin(angle)], [-np.sin(angle), np.cos(angle)]])
    centre = np.array([4.0, 3.0])
    turned = input_transforms.rotate(images, 31.0)
    for image, mine in zip(images[:5, ..., 0], turned[:5, ..., 0], strict=True):
        reference = ndimage.affine_transform(
            image, matrix, centre - matrix @ centre, order=1, mode="grid-constant"
        )
        np.testing.assert_allclose(mine, reference, atol=1e-5)


def test_rotate_draws_its_angle():
    angles = [streams.Rotate(20.0).angle(seed=0, task=t) for t in range(400)]
    assert -20 <= min(angles) < -19 and 19 < max(angles) <= 20
    given = data()
    angle = streams.Rotate(20.0).angle(seed=3, task=2)
    made = call(streams.Rotate(20.0), given, task=2)
    assert np.array_equal(made.x_train, input_transforms.rotate(given.x_train, angle))
    assert np.array_equal(made.x_test, input_transforms.rotate(given.x_test, angle))


def test_subsample_share_and_fixed():
    made = [call(streams.Subsample(0.3), data(), task=t) for t in range(2)]
    fixed = [call(streams.Subsample(0.3, fixed=True), data(), task=t) for t in range(2)]
    assert {len(m.index) for m in made + fixed} == {36}
    assert not np.array_equal(made[0].index, made[1].index)
    assert np.array_equal(fixed[0].index, fixed[1].index)
    assert len(made[0].test_index) == 20 and made[0].x_train is not None


def test_grow_is_linear_and_nested():
    made = [set(call(streams.Grow(0.1, 0.8), data(), task=t).index) for t in range(TASKS)]
    assert [len(m) for m in made] == [12 * (t + 1) for t in range(TASKS)]
    assert all(a < b for a, b in zip(made, made[1:], strict=False))


def test_class_subset_groups():
    given = data()
    seen = []
    for task in range(6):  # 5 classes by 2: two groups per order, one class left out
        made = call(streams.ClassSubset(2, relabel=False), given, task=task)
        classes = set(given.y_train[made.index])
        assert len(classes) == 2 and classes == set(given.y_test[made.test_index])
        assert len(made.index) == 48 and made.num_classes == CLASSES
        assert made.x_train is given.x_train and made.y_train is given.y_train
        seen.append(classes)
        new = call(streams.ClassSubset(2), given, task=task)
        assert np.array_equal(new.index, made.index) and new.num_classes == 2
        assert np.array_equal(new.test_index, made.test_index)
        pairs = set(zip(given.y_train[new.index], new.y_train[new.index], strict=True))
        assert {b for _, b in pairs} == {0, 1} and len(pairs) == 2
        assert pairs == set(
            zip(given.y_test[new.test_index], new.y_test[new.test_index], strict=True)
        )
        absent = np.setdiff1d(np.arange(N), new.index)
        assert set(new.y_train[absent]) == {-1}
    for cycle in range(3):
        assert not seen[2 * cycle] & seen[2 * cycle + 1]


def test_class_subset_incremental():
    counts, former = [], set()
    for task in range(4):
        made = call(streams.ClassSubset(2, incremental=True), data(), task=task)
        classes = set(made.y_train[made.index])
        assert former <= classes
        former = classes
        counts.append(len(classes))
    assert counts == [2, 4, 5, 5]


def test_absent_rows_stay_absent_under_later_label_transforms():
    steps = [
        streams.ClassSubset(2),
        streams.PermuteLabels(),
        streams.ResetLabels(),
        streams.LabelNoise(1.0),
    ]
    made = transforms.apply(steps, data(), seed=0, task=1, num_tasks=TASKS)
    absent = np.setdiff1d(np.arange(N), made.index)
    assert set(made.y_train[absent]) == {-1}
    assert set(made.y_train[made.index]) == {0, 1}


def test_gradual_holds_both_versions():
    given = data()
    inner = [streams.ClassSubset(2), streams.PermutePixels()]
    gradual = streams.Gradual(inner, over=0.25)
    old, new = (transforms.apply(inner, given, seed=3, task=t, num_tasks=TASKS) for t in (1, 2))
    made = call(gradual, given, task=2)
    assert np.array_equal(made.x_train, np.concatenate([old.x_train, new.x_train]))
    assert np.array_equal(made.y_train, np.concatenate([old.y_train, new.y_train]))
    assert np.array_equal(made.index, new.index + N)
    assert np.array_equal(made.previous, old.index) and made.over == 0.25
    assert np.array_equal(made.x_test, new.x_test)
    first = call(gradual, given, task=0)
    assert first.x_train.shape == made.x_train.shape and first.previous is None
    assert np.array_equal(first.x_train[:N], first.x_train[N:])


def test_gradual_matches_unequal_subsets_and_keeps_shared_inputs():
    given = data()
    gradual = streams.Gradual(streams.Grow(0.1, 0.8))
    made = [call(gradual, given, task=t) for t in (2, 3)]
    assert made[0].x_train is made[1].x_train and made[0].y_train is made[1].y_train
    former = set(call(streams.Grow(0.1, 0.8), given, task=1).index)
    assert len(made[0].previous) == len(made[0].index) == 36
    assert set(made[0].previous) <= former
    del made
    doubled = len(transforms._doubled)
    del given
    assert len(transforms._doubled) == doubled - 2  # inputs and labels


def test_transforms_are_independent_of_each_other():
    given = data()

    def labels(*steps):
        return transforms.apply(steps, given, seed=1, task=2, num_tasks=TASKS).y_train

    noise = streams.LabelNoise(0.5)
    alone = labels(noise)
    assert np.array_equal(labels(streams.PermutePixels(), noise, streams.Subsample(0.5)), alone)
    pixels = streams.PermutePixels()
    twice, once = (
        transforms.apply(steps, given, seed=1, task=2, num_tasks=TASKS).x_train
        for steps in ([pixels, pixels], [pixels])
    )
    again = call(pixels, dataclasses.replace(given, x_train=once), task=2, seed=1).x_train
    assert not np.array_equal(twice, again)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: streams.ResetLabels(1.5), "`fraction` .*Received: fraction=1.5"),
        (lambda: streams.LabelNoise(-0.1), "`rate` .*Received: rate=-0.1"),
        (lambda: streams.Subsample("half"), "`fraction` .*Received: fraction='half'"),
        (lambda: streams.Subsample(float("nan")), "`fraction`"),
        (lambda: streams.Grow(end=2), "`end` .*Received: end=2"),
        (lambda: streams.GaussianNoise(-1), "`stddev` .*Received: stddev=-1"),
        (lambda: streams.Rotate(float("inf")), "`degrees` .*Received: degrees=inf"),
        (lambda: streams.ClassSubset(0), "`classes` .*Received: classes=0"),
        (lambda: streams.ClassSubset(2.0), "`classes` .*Received: classes=2.0"),
        (lambda: streams.Gradual([]), "`transforms` .*Received"),
        (lambda: streams.Gradual(streams.Gradual(streams.PermutePixels())), "other than `Grad"),
        (lambda: streams.Gradual(streams.PermutePixels(), over=1.1), "`over` .*Received"),
    ],
)
def test_errors_at_construction(build, message):
    with pytest.raises(ValueError, match=message):
        build()


def test_import_needs_no_tensorflow():
    code = (
        "import sys, keras_plasticity.streams.transforms, keras_plasticity.streams\n"
        "print([m for m in ('tensorflow', 'keras', 'tensorflow_datasets', 'gin') "
        "if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"

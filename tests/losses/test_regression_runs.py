"""Regressions by `run` with losses that decode."""

import keras
import numpy as np
import pytest

import keras_plasticity as kp
from keras_plasticity import losses
from tests.toy_runs import go, rows_without_times, small, stream

NAMES = [f"{part}_squared_error" for part in ("first_presentation", "online", "train", "test")]


def tasks(**options):
    return stream([kp.streams.PermutePixels()], num_tasks=2, regression=True, **options)


def started(tmp_path, loss, name="run", **options):
    optimizer = keras.optimizers.Adam(1e-2)
    return go(tmp_path, tasks(), small, optimizer, loss=loss, run_dir=tmp_path / name, **options)


def test_mse_rows_hold_the_loss_as_squared_error(tmp_path):
    for row in started(tmp_path, None):
        for name in NAMES:
            assert row[name] == pytest.approx(row[name.replace("squared_error", "loss")], rel=1e-5)


@pytest.mark.parametrize(
    "loss",
    [
        losses.TwoHot(-4.0, 4.0, 17),
        losses.HLGauss(-6.0, 6.0, 25),
        losses.TargetNormalization(0.5, 2.0),
        losses.TargetNormalization(0.5, 2.0, losses.TwoHot(-3.0, 3.0, 9)),
        keras.losses.MeanAbsoluteError(),
    ],
    ids=["two_hot", "hl_gauss", "normalised", "normalised_two_hot", "absolute"],
)
def test_rows_against_a_loop_by_hand(tmp_path, loss):
    rows = started(tmp_path, loss, seed=1)
    first, outputs = tasks()[0], getattr(loss, "bins", None) or 1
    with kp.surgery.seeded(1):
        model = small(first.arrays().x.shape[1:], outputs)
    model.compile(keras.optimizers.Adam(1e-2), loss)
    data, errors = first.arrays(), []
    decode = getattr(loss, "decode", lambda values: values)

    def squared_error(x, y):
        values = np.asarray(decode(model(x * np.float32(1 / 255)))).reshape(-1)
        return np.mean((values - y) ** 2)

    for batch in first.order():
        errors.append(squared_error(data.x[batch], data.y[batch]))
        model.train_on_batch(data.x[batch] * np.float32(1 / 255), data.y[batch])
    per_epoch = first.steps_per_epoch
    assert rows[0][NAMES[0]] == pytest.approx(np.mean(errors[:per_epoch]), rel=1e-3)
    assert rows[0][NAMES[1]] == pytest.approx(np.mean(errors), rel=1e-3)
    assert rows[0][NAMES[2]] == pytest.approx(squared_error(data.x, data.y), rel=1e-3)
    assert rows[0][NAMES[3]] == pytest.approx(squared_error(data.x_test, data.y_test), rel=1e-3)
    assert rows[0]["online_accuracy"] is None and len(rows) == 2


def test_fused_equals_unfused_and_jit_agrees(tmp_path):
    loss = losses.TwoHot(-4.0, 4.0, 17, "symlog")
    rows = started(tmp_path, loss)
    unfused = started(tmp_path, loss, "unfused", fused_steps=1)
    assert rows_without_times(rows) == rows_without_times(unfused)
    compiled = started(tmp_path, loss, "jit", jit_compile=True)
    for a, b in zip(rows, compiled, strict=True):
        for name in NAMES:
            assert a[name] == pytest.approx(b[name], rel=1e-3)


def test_squared_errors_in_tables(tmp_path):
    started(tmp_path, losses.TwoHot(-4.0, 4.0, 17), "two_hot/seed_0", method="two_hot")
    table = kp.results.load(tmp_path)
    assert table["train_squared_error"].dtype == np.float64
    assert not kp.results.higher_is_better("train_squared_error")
    summary = kp.results.summary(table, "train_squared_error")
    assert summary["last"].iloc[0] == pytest.approx(table["train_squared_error"].iloc[-1])


def test_classification_has_no_squared_errors(tmp_path):
    assert not set(NAMES) & set(go(tmp_path)[0])


def test_a_network_that_does_not_fit(tmp_path):
    model = small((4, 4, 1), 1)
    with pytest.raises(ValueError, match="one output per bin.* 1 outputs and a loss with 17 bins"):
        go(tmp_path, tasks(), model, "adam", loss=losses.TwoHot(-4.0, 4.0, 17))
    with pytest.raises(ValueError, match="`loss` must be one of classes"):
        go(tmp_path, stream(), small, "adam", loss=losses.TwoHot(-4.0, 4.0, 17))

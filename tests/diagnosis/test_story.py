"""What moved before accuracy fell, on runs written by hand and one that was trained."""

import json

import keras
import numpy as np
import pytest

from keras_plasticity.callbacks import Monitor
from keras_plasticity.diagnosis import Diagnosis, diagnose
from keras_plasticity.diagnosis.story import diagnose_run, tell
from tests.diagnosis import planted

TASKS, STEPS = 20, 100


def write(folder, dead_from=8, fall_at=12, records=True, accuracy=True, layers=None):
    """Twenty tasks; half of the units die at one task, accuracy falls at another."""
    rows = []
    for task in range(TASKS):
        probes = {
            "dead_fraction": {"a": 0.5 if task >= dead_from else 0.0, "b": 0.6 * (task >= 8)},
            "weight_norm": {"a": 2.0, "b": 2.0, "out": 1.0 + (task >= 15) * 20, "model": 9.0},
            "logit_norm": {"model": 5.0},
            "gradient_norm": {"model": None},
        }
        step = task * STEPS + 50
        record = {"kind": "probe", "task": task, "step": step, "data": "task", "probes": probes}
        if layers is not None and task == 0:
            record["layers"] = layers
        rows += [record] if records else []
        value = 0.4 if task >= fall_at else 0.8
        row = {"task": task, "step": (task + 1) * STEPS}
        rows.append(row | {"online_accuracy": value if accuracy else None})
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    folder.mkdir(exist_ok=True)
    (folder / "metrics.jsonl").write_text(lines)
    return folder


def test_what_moved_first(tmp_path):
    story = tell(write(tmp_path / "run"))
    # windows of two tasks: the first that is a tenth below the best ends with task 12
    assert story["fall"]["task"] == 12
    assert story["fall"]["step"] == 1300
    assert story["fall"]["now"] == pytest.approx(0.6)
    first = story["crossings"][0]
    assert (first["mechanism"], first["task"], first["step"]) == ("dead_units", 8, 850)
    assert first["before"] and not first["from_start"]
    late = [c for c in story["crossings"] if c["mechanism"] == "norm_growth"]
    assert late[0]["task"] == 15 and not late[0]["before"]
    text = " ".join(story["lines"])
    assert "450 steps before accuracy had fallen: moved first" in text
    assert "steps after accuracy had fallen" in text


def test_diagnosis_of_a_run(tmp_path):
    diagnosis = diagnose_run(write(tmp_path / "run"))
    assert [f.mechanism for f in diagnosis.causes] == ["dead_units", "norm_growth"]
    assert diagnosis["dead_units"].certainty == "high"
    assert diagnosis["cloned_units"].status == "not applicable"
    assert diagnosis["saturation"].status == "healthy"
    assert diagnosis == Diagnosis.from_json(diagnosis.to_json())
    assert "moved first" in str(diagnosis)
    page = diagnosis.to_html(tmp_path / "page.html").read_text()
    assert "What moved before accuracy fell" in page
    assert diagnose(run_dir=tmp_path / "run") == diagnosis


def test_layers_count_by_their_units(tmp_path):
    plain = tell(write(tmp_path / "plain"))["series"]
    assert plain["dead_share"][-1][1] == pytest.approx((0.5 + 0.6) / 2)
    layers = {"units": {"a": 30, "b": 10}, "outputs": ["a"]}
    series = tell(write(tmp_path / "run", layers=layers))["series"]
    assert series["dead_share"][-1][1] == pytest.approx((30 * 0.5 + 10 * 0.6) / 40)
    assert series["dead_layer"][-1][1] == plain["dead_layer"][-1][1] == pytest.approx(0.6)


def test_the_output_layer_is_the_one_that_the_records_name(tmp_path):
    growth = {"hidden": "hidden_growth", "output": "output_growth"}
    plain = tell(write(tmp_path / "plain"))["series"]
    assert {k: plain[v][-1][1] for k, v in growth.items()} == {"hidden": 1, "output": 21}
    layers = {"units": {}, "outputs": ["a"]}
    series = tell(write(tmp_path / "run", layers=layers))["series"]
    assert {k: series[v][-1][1] for k, v in growth.items()} == {"hidden": 21, "output": 1}


def test_records_of_a_monitor_name_units_and_outputs(tmp_path):
    inputs = keras.Input((4,))
    first = keras.layers.Dense(2, name="first")
    hidden = keras.layers.Dense(6, activation="relu", name="hidden")(inputs)
    model = keras.Model(inputs, first(hidden))
    x, y = np.random.default_rng(0).normal(size=(40, 4)).astype("float32"), np.arange(40) % 2
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    monitor = Monitor(tmp_path / "log", reference_data=(x, y), every=1)
    model.fit(x, y, verbose=0, callbacks=[monitor])
    records = [json.loads(r) for r in (tmp_path / "log/metrics.jsonl").read_text().splitlines()]
    assert records[0]["layers"] == {"units": {"hidden": 6}, "outputs": ["first"]}
    assert not any("layers" in record for record in records[1:])
    first.kernel.assign(first.kernel.value * 30)
    model.fit(x, y, verbose=0, callbacks=[monitor])
    series = tell(tmp_path / "log")["series"]
    assert series["output_growth"][-1][1] > 10 > 2 > series["hidden_growth"][-1][1]


def test_a_model_and_its_run(tmp_path):
    run = write(tmp_path / "run")
    model, data = planted.planted("mlp", "dead_units", 0, epochs=0)
    diagnosis = diagnose(model, data, run_dir=run)
    assert diagnosis.story["fall"]["task"] == 12
    assert diagnosis.causes[0].mechanism == "dead_units"


def test_one_record_beyond_is_no_crossing(tmp_path):
    run = write(tmp_path / "run", dead_from=99)
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    for row in lines:
        if row.get("kind") == "probe":
            row["probes"]["dead_fraction"] = {"a": 0.9 if row["task"] == 4 else 0.0}
    (run / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    assert not [c for c in tell(run)["crossings"] if c["mechanism"] == "dead_units"]


def test_runs_without_a_fall_or_an_accuracy(tmp_path):
    story = tell(write(tmp_path / "one", fall_at=99))
    assert story["fall"] is None
    assert story["lines"][0] == "Online accuracy did not fall by 10% in 20 tasks."
    story = tell(write(tmp_path / "two", accuracy=False))
    assert story["fall"] is None and story["accuracy"] == []
    diagnose_run(tmp_path / "two").to_html(tmp_path / "page.html")


def test_runs_without_records_are_a_clear_error(tmp_path):
    with pytest.raises(ValueError, match="records of a `Monitor`"):
        tell(write(tmp_path / "run", records=False))
    with pytest.raises(ValueError, match="must hold metrics.jsonl"):
        tell(tmp_path)
    with pytest.raises(ValueError, match="needs `model` and `data`, or `run_dir`"):
        diagnose()
    with pytest.raises(ValueError, match="needs `model` and `data`, or `run_dir`"):
        diagnose(keras.Sequential(), run_dir=tmp_path)

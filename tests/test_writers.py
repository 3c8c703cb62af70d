import json

import numpy as np
import pytest
from tensorboard.backend.event_processing import event_accumulator

from keras_plasticity.writers import EventWriter, RowWriter


def row(task, step, accuracy=0.5):
    return {
        "task": task, "step": step, "epochs": 2, "seconds": 1.0, "wall_time": 100.0 + task,
        "first_presentation_accuracy": 0.1, "online_accuracy": accuracy, "train_accuracy": 0.9,
        "test_accuracy": None, "first_presentation_loss": 2.0, "online_loss": 1.0,
        "train_loss": 0.5, "test_loss": None,
    }  # fmt: skip


def read(run_dir):
    loaded = event_accumulator.EventAccumulator(str(run_dir), size_guidance={"tensors": 0})
    return loaded.Reload()


def values(loaded, tag):
    events = loaded.Tensors(tag)
    shapes = [[d.size for d in e.tensor_proto.tensor_shape.dim] for e in events]
    data = [np.frombuffer(e.tensor_proto.tensor_content, "float32") for e in events]
    return [e.step for e in events], [
        (d if d.size else np.float32(e.tensor_proto.float_val)).reshape(s).tolist()
        for e, d, s in zip(events, data, shapes, strict=True)
    ]


def write(run_dir, rows, earlier=()):
    writer = EventWriter(run_dir, {"intervention": "plain", "seed": 3}, list(earlier))
    for r in rows:
        writer.task_begin(r["task"], 99.0)
        writer.row(r)
    writer.close()


def test_round_trip_through_tensorboard(tmp_path):
    write(tmp_path, [row(0, 10), row(1, 20, 0.25)])
    loaded = read(tmp_path)
    assert values(loaded, "online_accuracy") == ([10, 20], [0.5, 0.25])
    steps, tasks = values(loaded, "plasticity/task")
    assert steps == [1, 10, 11, 20]
    assert tasks == [[0, 0, 0, 1], [0, 9, 1, 2], [1, 0, 0, 3], [1, 9, 1, 4]]
    steps, pairs = values(loaded, "plasticity/task_metric/accuracy")
    assert steps == [10, 20] and np.allclose(pairs, [[0.9, 0.1], [0.9, 0.1]])
    assert "test_accuracy" not in loaded.Tags()["tensors"]
    metadata = loaded.SummaryMetadata("plasticity/task").plugin_data
    assert metadata.plugin_name == "plasticity"
    assert json.loads(metadata.content)["v"] == 1
    info = loaded.Tensors("plasticity/run_info")[0].tensor_proto.string_val[0]
    assert json.loads(info) == {"v": 1, "intervention": "plain", "seed": 3}
    assert loaded.SummaryMetadata("online_accuracy").plugin_data.plugin_name == "scalars"


def test_rewritten_file_equals_one_written_in_one_go(tmp_path):
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    write(tmp_path / "a", [row(0, 10), row(1, 20)])
    write(tmp_path / "b", [row(0, 10)])
    write(tmp_path / "b", [row(1, 20)], earlier=[row(0, 10)])
    assert len(list((tmp_path / "b").glob("events*"))) == 1
    a, b = read(tmp_path / "a"), read(tmp_path / "b")
    for tag in a.Tags()["tensors"]:
        if tag != "plasticity/run_info":
            assert values(a, tag) == values(b, tag), tag


def test_rows_are_cut_back_and_appended(tmp_path):
    writer = RowWriter(tmp_path)
    for i in range(3):
        writer.append({"task": i})
    with open(tmp_path / "metrics.jsonl", "ab") as file:
        file.write(b'{"task": 3, "cut')
    writer = RowWriter(tmp_path, keep=2)
    writer.append({"task": 9})
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["task"] for line in lines] == [0, 1, 9]


def test_fewer_rows_than_the_checkpoint_says_are_refused(tmp_path):
    RowWriter(tmp_path).append({"task": 0})
    with pytest.raises(ValueError, match="must hold the 2 rows"):
        RowWriter(tmp_path, keep=2)


def test_failed_append_leaves_the_rows_before_it_whole(tmp_path, monkeypatch):
    writer = RowWriter(tmp_path)
    writer.append({"task": 0})

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("keras_plasticity.writers.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        writer.append({"task": 1})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"task": 0}\n'

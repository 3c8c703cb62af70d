import keras
import numpy as np
import pytest

from keras_plasticity import checkpoint


def variables(*shapes):
    return [keras.Variable(np.full(s, i + 1.0), name=f"v{i}") for i, s in enumerate(shapes)]


def test_round_trip(tmp_path):
    owners = {"model": variables((2, 3), ()), "optimizer": variables((4,))}
    checkpoint.save(tmp_path, checkpoint.collect(owners), {"task": 3})
    for variable in (*owners["model"], *owners["optimizer"]):
        variable.assign(np.zeros(variable.shape))
    arrays, progress = checkpoint.load(tmp_path)
    checkpoint.restore(owners, arrays)
    assert progress == {"task": 3}
    assert np.asarray(owners["model"][0]).tolist() == [[1.0] * 3] * 2
    assert np.asarray(owners["optimizer"][0]).tolist() == [1.0] * 4


def test_variables_of_one_path_are_kept_apart():
    a, b = keras.Variable([1.0], name="same"), keras.Variable([2.0], name="same")
    arrays = checkpoint.collect({"callback_0": [a, b]})
    assert sorted(arrays) == ["callback_0/same", "callback_0/same#2"]
    assert arrays["callback_0/same#2"].tolist() == [2.0]


@pytest.mark.parametrize(
    "there,message",
    [
        ([(2,)], "lacks the variable 'model/v1'"),
        ([(2,), (3,), (1,)], "that the run lacks"),
        ([(2,), (4,)], r"shape \(3,\) in the run and \(4,\)"),
    ],
)
def test_what_does_not_fit_is_named_and_nothing_is_assigned(there, message):
    here = variables((2,), (3,))
    arrays = {k: a + 10 for k, a in checkpoint.collect({"model": variables(*there)}).items()}
    with pytest.raises(checkpoint.CheckpointError, match=message):
        checkpoint.restore({"model": here}, arrays)
    assert np.asarray(here[0]).tolist() == [1.0, 1.0]


def test_no_checkpoint(tmp_path):
    assert checkpoint.load(tmp_path) is None


def save(tmp_path, n):
    checkpoint.save(tmp_path, {"a": np.full(1000, n)}, {"n": n})


def truncate(path):
    path.write_bytes(path.read_bytes()[:-300])


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [truncate, flip, lambda path: path.write_bytes(b"")])
def test_damaged_checkpoint_falls_back_to_the_one_before_it(tmp_path, capsys, damage):
    save(tmp_path, 1)
    save(tmp_path, 2)
    damage(tmp_path / checkpoint.NAME)
    assert checkpoint.load(tmp_path)[1] == {"n": 1}
    assert "damaged checkpoint" in capsys.readouterr().out


def test_only_damaged_checkpoints_are_refused(tmp_path):
    save(tmp_path, 1)
    truncate(tmp_path / checkpoint.NAME)
    with pytest.raises(checkpoint.CheckpointError, match="No checkpoint is whole"):
        checkpoint.load(tmp_path)


def test_stop_between_the_two_renames_loses_nothing(tmp_path):
    save(tmp_path, 1)
    save(tmp_path, 2)
    (tmp_path / checkpoint.NAME).rename(tmp_path / f"{checkpoint.NAME}.new")
    assert checkpoint.load(tmp_path)[1] == {"n": 2}


def test_failed_write_leaves_the_file_as_it_was(tmp_path, monkeypatch):
    save(tmp_path, 1)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}

    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 2)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_bfloat16_survives(tmp_path):
    variable = keras.Variable([1.5, -2.0], dtype="bfloat16", name="b")
    arrays = checkpoint.collect({"m": [variable]})
    checkpoint.save(tmp_path, arrays, {})
    variable.assign([0.0, 0.0])
    checkpoint.restore({"m": [variable]}, checkpoint.load(tmp_path)[0])
    assert keras.ops.convert_to_numpy(variable).astype("float32").tolist() == [1.5, -2.0]

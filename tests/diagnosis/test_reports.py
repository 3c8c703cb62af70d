"""Terminal, JSON and HTML say the same; the command line fails in one line."""

import argparse
import json
import re

import numpy as np
import pytest

from keras_plasticity.diagnosis import MECHANISMS, Diagnosis, diagnose
from keras_plasticity.diagnosis_command import add_parser
from keras_plasticity.usage import UsageError
from tests.diagnosis import planted


@pytest.fixture(scope="module")
def diagnosis():
    model, data = planted.planted("mlp", "norm_growth", 0, epochs=1)
    return diagnose(model, data)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    model, (x, y) = planted.planted("mlp", "dead_units", 0, epochs=0)
    model.save(folder / "model.keras")
    np.savez(folder / "data.npz", x=x, y=y)
    np.savez(folder / "other.npz", x=x[:, :4], y=y)
    np.savez(folder / "nameless.npz", x)
    (folder / "broken.keras").write_text("no model")
    (folder / "broken.npz").write_text("no arrays")
    return folder


def command(*words):
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    arguments = parser.parse_args(["diagnose", *map(str, words)])
    return arguments.command(arguments)


def test_json_round_trip(diagnosis):
    again = Diagnosis.from_json(diagnosis.to_json())
    assert again == diagnosis
    assert str(again) == str(diagnosis)
    values = json.loads(diagnosis.to_json())
    assert [f["mechanism"] for f in values["findings"]][0] == "norm_growth"
    with pytest.raises(ValueError, match="`text` must be"):
        Diagnosis.from_json("{}")


def test_terminal_has_a_line_per_mechanism(diagnosis):
    text = str(diagnosis)
    assert max(map(len, text.splitlines())) <= 100
    for mechanism in MECHANISMS:
        assert mechanism.title in text
    assert text.startswith("mlp, 1,437 examples: growth of parameter norms.")
    assert "follows from growth of parameter norms" in " ".join(text.split())
    for remedy in diagnosis.causes[0].row.remedies:
        assert remedy.code in text


def test_page_needs_nothing_else(diagnosis, tmp_path):
    text = diagnosis.to_html(tmp_path / "new" / "page.html").read_text()
    assert not re.search(r'(?:src|href)="(?!#)', text)
    assert not re.search(r"@import|url\((?!#)", text)
    assert "<script" not in text
    assert text.count("<svg") >= 2
    ids = re.findall(r'\bid="([^"]+)"', text)
    assert len(ids) == len(set(ids))
    targets = set(re.findall(r'"#([^"]+)"', text)) | set(re.findall(r"url\(#([^)]+)\)", text))
    assert targets <= set(ids)
    assert "#0102" not in text  # all colours are the page's
    for mechanism in MECHANISMS:
        assert mechanism.title in text
    assert "prefers-color-scheme: dark" in text
    assert text == diagnosis.to_html(tmp_path / "again.html").read_text()


def test_names_are_escaped(diagnosis, tmp_path):
    other = Diagnosis("<b>&", diagnosis.findings)
    assert "&lt;b&gt;&amp;" in other.to_html(tmp_path / "page.html").read_text()


def test_command_on_a_model(files, tmp_path, capsys):
    data, out = files / "data.npz", tmp_path / "out"
    assert command(files / "model.keras", "--data", data, "--out", out) == 0
    assert "Dead units" in capsys.readouterr().out
    saved = Diagnosis.from_json((out / "diagnosis.json").read_text())
    assert saved.causes[0].mechanism == "dead_units"
    assert (out / "diagnosis.html").read_text().startswith("<!DOCTYPE html>")
    assert command(files / "model.keras", "--data", data, "--json") == 0
    printed = Diagnosis.from_json(capsys.readouterr().out)
    assert printed == saved
    assert command(files / "model.keras", "--data", data, "--reference", files / "model.keras") == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere.keras", "--data", "data.npz"], "MODEL_OR_RUN must be .*nowhere.keras"),
        (["model.keras"], "a model needs --data"),
        (["model.keras", "--data", "missing.npz"], "--data must be an .npz file"),
        (["model.keras", "--data", "broken.npz"], "--data must be an .npz file"),
        (["model.keras", "--data", "nameless.npz"], "--data must be an .npz file"),
        (["model.keras", "--data", "other.npz"], "must fit the model's inputs"),
        (["broken.keras", "--data", "data.npz"], "cannot be read as a Keras model"),
        (["model.keras", "--data", "data.npz", "--reference", "broken.keras"], "cannot be read"),
        ([".", "--data", "data.npz"], "--data goes with a model file"),
        (["."], "must lead to"),
    ],
)
def test_command_fails_in_one_line_and_writes_nothing(files, tmp_path, words, message):
    words = [w if w.startswith("--") else str(files / w) for w in words]
    with pytest.raises(UsageError, match=message) as raised:
        command(*words, "--out", tmp_path / "out")
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "out").exists()

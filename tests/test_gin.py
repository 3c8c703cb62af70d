"""Every shipped gin file is built and trains."""

import math
import pathlib
import re

import pytest

from keras_plasticity import configurables

gin = configurables.gin
ROOT = pathlib.Path(__file__).parent.parent
FILES = sorted(ROOT.joinpath("gin").rglob("*.gin"))
RUNNABLE = [file for file in FILES if file.name != "base.gin"]
METHODS = [file for file in RUNNABLE if file.parent.name != "gin"]
SWEEPS = [file for file in RUNNABLE if file.parent.name == "gin"]
TASKS = (
    "label_reset",
    "class_permutation",
    "pixel_permutation",
    "target_offset",
)
NETWORKS = {
    "mlp": "mlp.widths = (8, 8)",
    "cnn": "cnn.filters = (4, 4)",
    "resnet18": "resnet18.width = 4",
    "vit": "vit.dim = 8",
}


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    yield
    with gin.unlock_config():
        gin.clear_config()


def task_of(file):
    """The stream of a gin file, by what it and the files that it includes say."""
    text = file.read_text()
    found = [t for t in TASKS if f"{t}." in text]
    if found:
        return found[0]
    return task_of(ROOT / re.search(r'^include "(.+)"', text, re.MULTILINE)[1])


def train(file, bindings, run_dir):
    task = task_of(file)
    tiny = [f"{task}.{b}" for b in ("num_tasks = 1", "examples = 64", "updates = 2")]
    tiny.append("Monitor.probes = (@dead_fraction,)")  # all of them take half a minute
    with gin.unlock_config():
        gin.clear_config()
        gin.parse_config_files_and_bindings(
            [str(file.relative_to(ROOT))], [*tiny, "run.jit_compile = False", *bindings]
        )
    (row,) = configurables.run(run_dir=run_dir, progress=False)
    assert math.isfinite(row["online_loss"])
    return row


@pytest.mark.parametrize("file", METHODS, ids=lambda f: f"{f.parent.name}/{f.stem}")
def test_method_file(file, tmp_path):
    row = train(file, ["mlp.widths = (8, 8)"], tmp_path / "run")
    assert row["step"] == 2


@pytest.mark.parametrize("file", SWEEPS, ids=lambda f: f.stem)
def test_every_method_of_a_sweep(file, tmp_path):
    with gin.unlock_config():
        gin.parse_config_file(str(file.relative_to(ROOT)))
    methods = gin.query_parameter("sweep.methods")
    assert len(methods) >= 5
    kinds = {
        re.sub(r"[\d.]+(e-?\d+)?|activation = '\w+'", "#", str(bindings)): name
        for name, bindings in methods.items()
    }
    for name in kinds.values():  # methods that differ in numbers or activations are one kind
        row = train(file, ["mlp.widths = (8, 8)", *methods[name]], tmp_path / name)
        assert row["step"] == 2


@pytest.mark.parametrize("network", NETWORKS)
def test_other_networks_by_one_binding(network, tmp_path):
    file = ROOT / "gin/label_reset/layer_norm_l2.gin"
    row = train(file, [f"network = @{network}", NETWORKS[network]], tmp_path / "run")
    assert row["step"] == 2


def test_no_package_shadows_gin_config():
    assert not (ROOT / "gin/__init__.py").exists()


def test_headers_have_command_and_cost():
    from keras_plasticity.train import _header

    for file in (*METHODS, *SWEEPS):
        header = _header(file)
        assert f"--gin_file {file.relative_to(ROOT)}" in header["command"]
        assert re.fullmatch(r"\d+ (min|s a seed)", header["cost"])


def test_task_files_are_short():
    for file in ROOT.joinpath("tasks").glob("*.py"):
        assert len(file.read_text().splitlines()) <= 60

import importlib.util
import inspect
import pathlib
import re
import subprocess
import sys

import keras
import pytest

import keras_plasticity as kp

ROOT = pathlib.Path(__file__).parent.parent


def python(code):
    return subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.strip()


def test_import_does_not_import_tensorflow_keras_or_gin():
    heavy = "{'tensorflow', 'keras', 'gin', 'tensorflow_datasets', 'matplotlib', 'numpy'}"
    code = f"import sys, keras_plasticity; print(sorted({heavy} & set(sys.modules)))"
    assert python(code) == "[]"


def test_library_does_not_import_gin():
    code = (
        "import sys, keras_plasticity as kp\n"
        "[getattr(kp, name) for name in dir(kp)]\n"
        "print('gin' in sys.modules, 'tensorboard' in sys.modules)"
    )
    assert python(code) == "False False"


@pytest.mark.parametrize("name", [name for name in dir(kp) if name != "__version__"])
def test_public_names_are_modules_however_often_they_are_read(name):
    first, second = getattr(kp, name), getattr(kp, name)
    assert first is second
    if inspect.isfunction(first):
        assert first.__name__ == name
        return
    assert first.__name__ == f"keras_plasticity.{name}"
    for public in getattr(first, "__all__", ()):
        assert getattr(first, public) is getattr(first, public)


def test_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no_such_part"):
        kp.no_such_part  # noqa: B018


def test_hooks_need_the_tensorflow_backend(monkeypatch):
    spec = importlib.util.spec_from_file_location("hooks_elsewhere", kp.hooks.__file__)
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ImportError, match="needs the TensorFlow backend"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


def test_files_are_of_one_idea():
    for path in (
        *ROOT.joinpath("keras_plasticity").rglob("*.py"),
        *ROOT.joinpath("tasks").iterdir(),
    ):
        if path.suffix == ".py":
            assert len(path.read_text().splitlines()) <= 400, path


def test_readme_names_every_public_member():
    readme = (ROOT / "README.md").read_text()
    for module in (kp.callbacks, kp.layers, kp.models, kp.optimizers):
        for name in module.__all__:
            assert name in readme, name


def test_readme_examples_run(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(blocks) == 6
    code = "\n".join(blocks).replace("num_tasks=10", "num_tasks=2").replace("epochs=20", "epochs=2")
    names: dict = {}
    exec(code, names)
    assert [row["task"] for row in names["rows"]] == [0, 1]


def test_saved_models_are_found_by_another_process(tmp_path):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(4, "relu"), kp.layers.CReLU()])
    penalties = [kp.regularizers.L2Init(1e-2)]
    model.compile(kp.optimizers.Regularized(keras.optimizers.Adam(), penalties), "mse")
    model.save(tmp_path / "model.keras")
    code = (
        "import keras, keras_plasticity; "
        f"print(type(keras.models.load_model(r'{tmp_path / 'model.keras'}').optimizer).__name__)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert found.stdout.split()[-1:] == ["Regularized"], found.stderr

"""Shows why neural networks stop learning, and stops it. For TensorFlow/Keras.

Subpackages are imported when they are first used: `import keras_plasticity` does
not import TensorFlow. Where Keras is imported already, all that saved models may hold is
imported at once, so that `keras.models.load_model` finds it.
"""

import importlib
import sys
import typing

__version__ = "0.1.0"

_SUBMODULES = (
    "callbacks",
    "checkpoint",
    "constraints",
    "diagnosis",
    "evaluation",
    "experiment",
    "fortification",
    "hooks",
    "layers",
    "losses",
    "models",
    "optimizers",
    "plots",
    "probes",
    "recovery",
    "regularizers",
    "report",
    "results",
    "streams",
    "surgery",
    "sweep",
    "testing",
    "units",
    "writers",
)

_FUNCTIONS = {  # and the subpackage that has them
    "diagnose": "diagnosis",
    "fortify": "fortification",
    "unit_groups": "units",
}

__all__ = ["__version__", *_FUNCTIONS, *_SUBMODULES]


def __getattr__(name: str) -> typing.Any:
    if name in _SUBMODULES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _FUNCTIONS:
        return getattr(importlib.import_module(f"{__name__}.{_FUNCTIONS[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)


def _register() -> None:
    """Imports what saved models may hold."""
    for room in ("constraints", "layers", "losses", "optimizers", "regularizers"):
        importlib.import_module(f"{__name__}.{room}")


if "keras" in sys.modules:
    _register()

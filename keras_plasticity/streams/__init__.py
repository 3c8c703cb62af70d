"""Streams of tasks: sources of examples, and what changes from task to task.

Importing this package imports neither TensorFlow nor TensorFlow Datasets; they are
loaded by the functions that need them.
"""

import typing

from keras_plasticity.streams.input_transforms import GaussianNoise, PermutePixels, Rotate
from keras_plasticity.streams.label_transforms import (
    ClassSubset,
    LabelNoise,
    PermuteLabels,
    ResetLabels,
)
from keras_plasticity.streams.sources import Source, from_arrays, from_tfds
from keras_plasticity.streams.stream import Stream, make
from keras_plasticity.streams.target_transforms import RedrawTargets
from keras_plasticity.streams.task import Task, TaskArrays
from keras_plasticity.streams.transforms import Data, Gradual, Grow, Subsample, Transform

__all__ = [
    "ClassSubset",
    "Data",
    "GaussianNoise",
    "Gradual",
    "Grow",
    "KpDigits",
    "LabelNoise",
    "PermuteLabels",
    "PermutePixels",
    "RedrawTargets",
    "ResetLabels",
    "Rotate",
    "Source",
    "Stream",
    "Subsample",
    "Task",
    "TaskArrays",
    "Transform",
    "from_arrays",
    "from_tfds",
    "make",
]


def __getattr__(name: str) -> typing.Any:
    """Import `KpDigits`, and with it tfds, at its first use."""
    if name == "KpDigits":
        from keras_plasticity.streams.digits import KpDigits

        return KpDigits
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

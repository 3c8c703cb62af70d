"""scikit-learn's digits as a TensorFlow Datasets builder that needs no network."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import Iterator

import numpy as np
import tensorflow_datasets as tfds

TRAIN_EXAMPLES = 1437
TEST_EXAMPLES = 360

_CITATION = """\
@misc{alpaydin1998optical,
  author = {Alpaydin, E. and Kaynak, C.},
  title = {Optical Recognition of Handwritten Digits},
  year = {1998},
  publisher = {UCI Machine Learning Repository},
  doi = {10.24432/C50P49},
}
"""


def load() -> tuple[np.ndarray, np.ndarray]:
    """Return all digits in scikit-learn's order.

    Returns:
        uint8 images (1797, 8, 8) with values from 0 to 16, int32 labels (1797,).
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    return bunch.images.astype(np.uint8), bunch.target.astype(np.int32)


def split(name: str) -> tuple[np.ndarray, np.ndarray]:
    """Return one split with images scaled to the range of all image sources.

    The split is a fixed permutation, `np.random.default_rng(0).permutation(1797)`: its
    first 1437 rows are "train", the other 360 "test".

    Args:
        name: "train" or "test".

    Returns:
        uint8 images (n, 8, 8, 1), `round(v * 255 / 16)` of the values v of `load`, and
        int32 labels (n,).
    """
    images, labels = load()
    order = np.random.default_rng(0).permutation(len(images))
    rows = order[:TRAIN_EXAMPLES] if name == "train" else order[TRAIN_EXAMPLES:]
    scaled = np.rint(images[rows] * (255.0 / 16.0)).astype(np.uint8)
    return scaled[..., None], labels[rows]


class KpDigits(tfds.core.GeneratorBasedBuilder):
    """The 1797 handwritten digits that scikit-learn carries, 8x8, ten classes.

    Importing this module registers the name "kp_digits" with `tfds`. 1437 examples
    are "train", 360 are "test", by a fixed permutation; the values 0..16 are stored
    as `round(v * 255 / 16)`, so that images lie in [0, 255] like all others.
    Preparing it writes 0.3 MB and downloads nothing.

    Reference:
        Alpaydin, Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine
        Learning Repository, 1998, https://doi.org/10.24432/C50P49. Licence CC BY 4.0.

    Deviations:
        scikit-learn has the 1797 images of the repository's test part alone.
    """

    name = "kp_digits"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Initial release."}

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="1797 handwritten digits of 8x8 pixels, from scikit-learn.",
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(8, 8, 1)),
                    "label": tfds.features.ClassLabel(num_classes=10),
                }
            ),
            supervised_keys=("image", "label"),
            homepage="https://doi.org/10.24432/C50P49",
            citation=_CITATION,
            license="CC BY 4.0",
            # Examples stay in the order in which they are generated.
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict:
        del dl_manager  # nothing to download
        return {name: self._generate_examples(name) for name in ("train", "test")}

    def _generate_examples(self, name: str) -> Iterator[tuple[int, dict]]:
        for key, (image, label) in enumerate(zip(*split(name), strict=True)):
            yield key, {"image": image, "label": int(label)}


def prepare(data_dir: str | os.PathLike[str] | None = None) -> tfds.core.DatasetBuilder:
    """Return the builder with its files written, whoever wrote them.

    tfds writes into a temporary directory and renames it at the end. Of two processes
    that prepare at the same time one fails to rename, and reads what the other wrote.

    Args:
        data_dir: directory of prepared data sets; None is that of tfds.

    Raises:
        Exception: whatever tfds raises where the directory cannot be written.
    """
    builder = KpDigits(data_dir=data_dir)
    if builder.is_prepared():
        return builder
    config = tfds.download.DownloadConfig(try_download_gcs=False)
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # tfds announces a download
            builder.download_and_prepare(download_config=config)
    except Exception:
        builder = KpDigits(data_dir=data_dir)
        if not builder.is_prepared():
            raise
    return builder

"""Transforms of the inputs: pixels permuted, noise added, images rotated.

They act on training and test inputs alike, and are drawn once per task.
"""

# ruff: noqa: D102  (what a method of Transform does is said there)

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Callable

import numpy as np

from keras_plasticity.streams.transforms import Data, Transform

_CHUNK = 4096  # rows at a time, so that float copies of images stay small


def _map(data: Data, function: Callable[[np.ndarray], np.ndarray]) -> Data:
    x_test = None if data.x_test is None else function(data.x_test)
    return dataclasses.replace(data, x_train=function(data.x_train), x_test=x_test)


def _store(values: np.ndarray, out: np.ndarray) -> None:
    """Write float values into `out`, rounded and clipped where it is uint8."""
    if out.dtype == np.uint8:
        np.rint(values, out=values)
        np.clip(values, 0, 255, out=values)
    out[...] = values


@dataclasses.dataclass(frozen=True)
class PermutePixels(Transform):
    """Shuffles the pixel positions by a new random permutation at each task.

    With x seen as rows of positions, `x_t = x[:, p_t]`: the same permutation for all
    examples, training and test. A position of an image (H, W, C) moves with all its
    channels; flat features are permuted one by one. Task 0 is permuted too.

    Args:
        cumulative: bool, whether each permutation is applied on top of those before,
            `x_t = x_{t-1}[:, p_t]`. A composition of uniform permutations is itself
            uniform, so tasks look the same either way. Defaults to False.

    Reference:
        Dohare et al., "Loss of Plasticity in Deep Continual Learning", Nature, 2024,
        https://doi.org/10.1038/s41586-024-07711-7, Online Permuted MNIST. First in
        Goodfellow et al., "An Empirical Investigation of Catastrophic Forgetting in
        Gradient-Based Neural Networks", 2013, https://arxiv.org/abs/1312.6211.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    cumulative: bool = False

    def permutation(self, positions: int, *, seed: int, task: int) -> np.ndarray:
        """Return the position of the source that each position of the task shows."""
        if not self.cumulative:
            return self.generator(seed, task).permutation(positions)
        composed = np.arange(positions)
        for t in range(task + 1):
            composed = composed[self.generator(seed, t).permutation(positions)]
        return composed

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        shape = data.x_train.shape[1:]
        places = shape[:-1] if len(shape) > 2 else shape  # (H, W, C), (H, W) or features
        positions = int(np.prod(places))
        order = self.permutation(positions, seed=seed, task=task)
        rest = shape[len(places) :]

        def permute(x: np.ndarray) -> np.ndarray:
            rows = x.reshape((len(x), positions, *rest))
            return np.take(rows, order, axis=1).reshape(x.shape)

        return _map(data, permute)


@dataclasses.dataclass(frozen=True)
class GaussianNoise(Transform):
    """Adds Gaussian noise, drawn once per task, to every input value.

    `x_t = x + stddev * e_t`, with `e_t` standard normal. For uint8 images the unit is
    the whole range, so 255 times that is added and the result is rounded and clipped.

    Args:
        stddev: standard deviation, at least 0; a share of the range 0..255 for uint8
            images, absolute for float inputs. 0 changes nothing.

    Raises:
        ValueError: if `stddev` is negative or not finite.
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    stddev: float

    def __post_init__(self) -> None:
        if not np.isfinite(self.stddev) or self.stddev < 0:
            raise ValueError(
                f"`stddev` must be finite and at least 0. Received: stddev={self.stddev!r}"
            )

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if self.stddev == 0:
            return data
        # Two generators: the test noise does not depend on the number of training rows.
        x_test = data.x_test
        if x_test is not None:
            x_test = self._add(x_test, self.generator(seed, task, 1))
        x_train = self._add(data.x_train, self.generator(seed, task, 0))
        return dataclasses.replace(data, x_train=x_train, x_test=x_test)

    def _add(self, x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        out = np.empty_like(x)
        unit = np.float32(self.stddev * (255 if x.dtype == np.uint8 else 1))
        for start in range(0, len(x), _CHUNK):
            part = x[start : start + _CHUNK]
            noisy = rng.standard_normal(part.shape, dtype=np.float32)
            noisy *= unit
            noisy += part
            _store(noisy, out[start : start + _CHUNK])
        return out


@dataclasses.dataclass(frozen=True)
class Rotate(Transform):
    """Rotates all images by one angle per task.

    The angle is uniform in [-degrees, degrees], counter-clockwise, about the centre of
    the image. Bilinear interpolation; what comes from outside is 0. uint8 images are
    rounded.

    Args:
        degrees: largest angle, at least 0. 0 changes nothing. Defaults to 180.0.

    Raises:
        ValueError: if `degrees` is negative or not finite; from `make`, if inputs are
            not images (height, width, channels).
    """

    needs_inputs: typing.ClassVar[bool] = False
    selects_rows: typing.ClassVar[bool] = False

    degrees: float = 180.0

    def __post_init__(self) -> None:
        if not np.isfinite(self.degrees) or self.degrees < 0:
            raise ValueError(
                f"`degrees` must be finite and at least 0. Received: degrees={self.degrees!r}"
            )

    def check(self, data: Data) -> None:
        if data.x_train.ndim != 4:
            raise ValueError(
                "`Rotate` needs images of shape (height, width, channels). "
                f"Received: inputs with {data.x_train.ndim - 1} feature axes"
            )

    def angle(self, *, seed: int, task: int) -> float:
        """Return the angle of one task in degrees, counter-clockwise."""
        return float(self.generator(seed, task).uniform(-self.degrees, self.degrees))

    def __call__(self, data: Data, *, seed: int, task: int, num_tasks: int) -> Data:
        if self.degrees == 0:
            return data
        angle = self.angle(seed=seed, task=task)
        return _map(data, lambda x: rotate(x, angle))


def rotate(images: np.ndarray, degrees: float) -> np.ndarray:
    """Return images turned counter-clockwise about their centre, bilinear, filled with 0.

    Output pixel (i, j), measured from the centre, shows the input at

    ```python
    (i * cos(a) + j * sin(a), j * cos(a) - i * sin(a))
    ```

    Args:
        images: (n, height, width, channels), uint8 or float32.
        degrees: the angle a.
    """
    count, height, width, channels = images.shape
    if images.size == 0:
        return images
    weights = _rotation(height, width, degrees)
    out = np.empty_like(images)
    for start in range(0, count, _CHUNK):
        part = images[start : start + _CHUNK]
        # One matrix product per chunk: (pixels, pixels) @ (pixels, images * channels).
        pixels = part.reshape(len(part), height * width, channels).transpose(1, 0, 2)
        columns = pixels.reshape(height * width, -1).astype(np.float32)
        turned = (weights @ columns).reshape(height * width, len(part), channels)
        _store(turned.transpose(1, 0, 2).reshape(part.shape), out[start : start + _CHUNK])
    return out


def _rotation(height: int, width: int, degrees: float) -> typing.Any:
    """Return the sparse float32 (pixels, pixels) matrix of a rotation."""
    from scipy import sparse

    radians = np.deg2rad(degrees)
    i, j = np.meshgrid(
        np.arange(height) - (height - 1) / 2, np.arange(width) - (width - 1) / 2, indexing="ij"
    )
    # Rounding away 1e-16 keeps right angles and the identity free of stray weights.
    row = np.round(i * np.cos(radians) + j * np.sin(radians) + (height - 1) / 2, 9).ravel()
    column = np.round(j * np.cos(radians) - i * np.sin(radians) + (width - 1) / 2, 9).ravel()
    top, left = np.floor(row), np.floor(column)
    targets, sources, weights = [], [], []
    for down in (0, 1):
        for right in (0, 1):
            r, c = top + down, left + right
            weight = (1 - np.abs(row - r)) * (1 - np.abs(column - c))
            inside = (r >= 0) & (r < height) & (c >= 0) & (c < width) & (weight > 0)
            targets.append(np.flatnonzero(inside))
            sources.append((r * width + c)[inside].astype(np.int64))
            weights.append(weight[inside].astype(np.float32))
    pixels = height * width
    places = (np.concatenate(targets), np.concatenate(sources))
    return sparse.csr_matrix((np.concatenate(weights), places), shape=(pixels, pixels))

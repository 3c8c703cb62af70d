"""The normalisation that stands before a nonlinearity, by its name."""

from __future__ import annotations

import collections.abc
import typing

import keras

from keras_plasticity.layers import RMSNormalization

NORMS = ("layer", "batch", "rms", "group")

# One value for every norm, so that comparing norms does not compare epsilons. It is
# Keras' default for layer, batch and group normalisation.
EPSILON = 1e-3


def normalization(
    norm: str | keras.layers.Layer,
    shape: collections.abc.Sequence[int | None],
    affine: bool = False,
    name: str | None = None,
    groups: int | None = None,
    axis: int = -1,
    dtype: typing.Any = None,
) -> keras.layers.Layer:
    """Makes the layer that normalises tensors of a shape.

    Args:
        norm: a layer, which is copied; or a name: `"layer"` and `"rms"` take their statistics
            over the features of a vector or token and over all of (H, W, C) of an image or a
            volume; `"group"` within groups of channels, of tokens over all positions; `"batch"`
            over the batch.
        shape: of what it normalises, with the batch axis.
        affine: bool, whether it learns a scale and (but for `"rms"`) an offset, one per channel.
            Default False.
        name: of the layer.
        groups: int, of channels for `"group"`. Default: as many of 8 or fewer as divide them
            and leave 4 channels or more in each, or 1.
        axis: int, of the channels. Default -1.
        dtype: of the layer.

    Raises:
        ValueError: `norm` is none of these, or `groups` does not divide the channels.
    """
    if isinstance(norm, keras.layers.Layer):
        config = norm.get_config() | {"name": name or norm.name}
        return type(norm).from_config(config)
    if norm not in NORMS:
        raise ValueError(f"`norm` must be one of {NORMS}. Received: norm={norm!r}")
    image, channels = len(shape) > 3, shape[axis]
    options: dict = {"epsilon": EPSILON, "name": name, "dtype": dtype}
    both = {"center": affine, "scale": affine}
    if norm == "batch":
        return keras.layers.BatchNormalization(axis=axis, **both, **options)
    if norm == "rms":
        axes: typing.Any = tuple(range(1, len(shape))) if image else axis
        return RMSNormalization(axis=axes, affine=affine, **options)
    if norm == "layer" and not image:
        return keras.layers.LayerNormalization(axis=axis, **both, **options)
    # One group is layer normalisation over (H, W, C) with parameters per channel;
    # LayerNormalization over three axes would make H x W x C of them.
    number = 1 if norm == "layer" else _number_of_groups(channels, groups)
    return keras.layers.GroupNormalization(number, axis=axis, **both, **options)


def _number_of_groups(channels: typing.Any, groups: int | None) -> int:
    if groups is None:
        # A group of one unit would be normalised to zero, one of two to a sign.
        sizes = range(2, 1 + min(8, channels // 4))
        return max((n for n in sizes if channels % n == 0), default=1)
    if channels % groups:
        raise ValueError(
            "`groups` must divide the channels of every normalised layer. "
            f"Received: groups={groups}, channels={channels}"
        )
    return groups

"""The vision transformer."""

from __future__ import annotations

import typing

import keras

from keras_plasticity.layers import PositionEmbedding
from keras_plasticity.models.blocks import Blocks, check_image_shape, check_size


def vit(
    input_shape: tuple[int, int, int],
    num_outputs: int,
    patch: int = 4,
    dim: int = 64,
    depth: int = 4,
    heads: int = 4,
    mlp_ratio: float = 2,
    norm: str | None = "layer",
    affine: bool = False,
    activation: typing.Any = "relu",
    dropout: float = 0.0,
    kernel_initializer: typing.Any = "he_normal",
    kernel_regularizer: typing.Any = None,
    groups: int | None = None,
    name: str = "vit",
) -> keras.Model:
    """Makes a vision transformer with normalisation before its branches.

    ```python
    x = dropout(patches(inputs) + positions)
    for _ in range(depth):
        x = x + dropout(attention(norm(x)))
        x = x + dropout(dense(activation(norm(dense(norm(x), mlp_ratio * dim))), dim))
    outputs = dense(mean(norm(x)), num_outputs)
    ```

    Example:
    >>> model = vit((32, 32, 3), 10, activation="gelu", affine=True)

    Args:
        input_shape: (height, width, channels) of one example.
        num_outputs: int, number of logits or regression outputs.
        patch: int, side of a square patch in pixels; divides height and width.
            Defaults to 4.
        dim: int, features of a token. Defaults to 64.
        depth: int, number of encoder blocks. Defaults to 4.
        heads: int, attention heads; divides `dim`. Defaults to 4.
        mlp_ratio: float, hidden units of a feed-forward layer per feature of a token.
            Defaults to 2.
        norm: see `mlp`. Defaults here to `"layer"`, because normalisation is part of
            this architecture: it stands before every attention and feed-forward branch
            (`prenorm_*`), before the mean over tokens (`final_norm`), and also directly
            before the nonlinearity of every feed-forward layer (`norm_*`). None leaves
            out all of them. The softmax of the attention gets none.
        affine: see `mlp`; for all of these normalisations.
        activation: see `mlp`; the paper's is `"gelu"`.
        dropout: see `mlp`; on the embedded patches and on the outcome of every
            branch, none inside the attention.
        kernel_initializer: see `mlp`. The four projections of an attention, which no
            nonlinearity follows, begin with normal draws of variance 1 / dim
            instead: Keras would take the wrong fan-in from their three-axis kernels.
        kernel_regularizer: see `mlp`; also on the projections of the attention, not
            on the position embeddings.
        groups: see `mlp`.
        name: str, name of the model.

    Returns:
        A functional `keras.Model`; see `mlp`.

    Raises:
        ValueError: see `mlp`; also if `input_shape` is not that of an image, `patch`
            does not divide height and width, or `heads` does not divide `dim`.

    Reference:
        Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021,
        https://arxiv.org/abs/2010.11929, equations 1-4. Placement of `norm` before
        the nonlinearity: see `mlp`.

    Deviations:
        The mean over tokens in place of a class token, one more normalisation before
        the nonlinearity, ReLU by default, normalisations without scale and offset by
        default. See also `mlp`.
    """
    check_image_shape(input_shape)
    sizes = {
        "num_outputs": num_outputs,
        "patch": patch,
        "dim": dim,
        "depth": depth,
        "heads": heads,
    }
    for argument, size in sizes.items():
        check_size(argument, size)
    height, width, _ = input_shape
    if height % patch or width % patch:
        raise ValueError(
            "`patch` must divide height and width. "
            f"Received: patch={patch}, input_shape={input_shape}"
        )
    if dim % heads:
        raise ValueError(f"`heads` must divide `dim`. Received: heads={heads}, dim={dim}")
    hidden = int(dim * mlp_ratio)
    if hidden < 1:
        raise ValueError(
            "`mlp_ratio` must give at least one hidden unit. "
            f"Received: mlp_ratio={mlp_ratio!r}, dim={dim}"
        )
    blocks = Blocks(
        norm, affine, activation, dropout, kernel_initializer, kernel_regularizer, groups
    )
    inputs = keras.Input(tuple(input_shape), name="input")
    x = blocks.conv(inputs, dim, patch, strides=patch, padding="valid", name="patch_embedding")
    tokens = (height // patch) * (width // patch)
    x = keras.layers.Reshape((tokens, dim), name="tokens")(x)
    x = blocks.dropout(PositionEmbedding(name="position_embedding")(x))
    for _ in range(depth):
        y = _attention(blocks, blocks.normalize(x, blocks.name("prenorm")), heads)
        x = blocks.add(x, blocks.dropout(y))
        y = blocks.dense(blocks.normalize(x, blocks.name("prenorm")), hidden)
        y = blocks.dense(blocks.nonlinearity(y), dim)
        x = blocks.add(x, blocks.dropout(y))
    x = keras.layers.GlobalAveragePooling1D(name="pool")(blocks.normalize(x, "final_norm"))
    return keras.Model(inputs, blocks.output(x, num_outputs), name=name)


def _attention(blocks: Blocks, x: typing.Any, heads: int) -> typing.Any:
    dim = x.shape[-1]
    layer = keras.layers.MultiHeadAttention(
        heads,
        dim // heads,
        kernel_initializer=keras.initializers.RandomNormal(stddev=dim**-0.5),
        kernel_regularizer=blocks.kernel_regularizer,
        name=blocks.name("attention"),
    )
    return layer(x, x)

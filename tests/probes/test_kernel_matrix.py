"""Kernels as matrices, against what the layers compute."""

import keras
import numpy as np
import pytest
import scipy.linalg
from keras import layers

from keras_plasticity import probes
from keras_plasticity.probes import spectrum
from keras_plasticity.probes.kernel_matrix import matrix_blocks

# Shapes of one example for which a layer has one position, so that its kernel is all it does.
LAYERS = {
    "dense": (layers.Dense(3), (5,)),
    "conv": (layers.Conv2D(4, (2, 3)), (2, 3, 3)),
    "conv_1d": (layers.Conv1D(4, 3), (3, 2)),
    "grouped": (layers.Conv2D(6, 2, groups=2), (2, 2, 4)),
    "depthwise": (layers.DepthwiseConv2D(2, depth_multiplier=3), (2, 2, 4)),
    "depthwise_1d": (layers.DepthwiseConv1D(3, depth_multiplier=2), (3, 4)),
    "transposed": (layers.Conv2DTranspose(3, 2), (1, 1, 5)),
    "einsum_heads": (layers.EinsumDense("ab,bcd->acd", (2, 3)), (5,)),
    "einsum_joined": (layers.EinsumDense("abc,bcd->ad", 4), (2, 3)),
    "einsum_blocks": (layers.EinsumDense("abc,bcd->abd", (3, 4)), (3, 2)),
    "einsum_turned": (layers.EinsumDense("abc,dbc->ad", 4), (2, 3)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_singular_values_are_those_of_the_map(name):
    layer, shape = LAYERS[name]
    size = int(np.prod(shape))
    basis = np.eye(size, dtype="float32").reshape(size, *shape)
    layer.use_bias = False
    layer.build((None, *shape))
    mapped = np.asarray(layer(basis)).reshape(size, -1)
    expected = np.linalg.svd(mapped, compute_uv=False)
    blocks = matrix_blocks(layer.kernel, layer)
    assert blocks.shape[0] * blocks.shape[1] * blocks.shape[2] == np.size(layer.kernel)
    if name == "dense":
        assert np.array_equal(blocks[0], mapped)
    found = spectrum.singular_values(blocks)
    assert len(found) == len(expected)
    assert np.allclose(found, expected, atol=1e-5)


def test_blocks_by_hand():
    layer = layers.DepthwiseConv1D(2)
    layer.build((None, 5, 3))
    kernel = np.arange(6.0).reshape(2, 3, 1)  # window, channels, multiplier
    assert np.array_equal(matrix_blocks(kernel, layer)[:, :, 0], [[0, 3], [1, 4], [2, 5]])
    assert matrix_blocks(kernel).shape == (1, 6, 1)  # of a layer that is not known
    sigma = spectrum.singular_values(matrix_blocks(kernel, layer))
    assert np.allclose(sigma**2, [29, 17, 9])
    stacked = np.random.default_rng(0).normal(size=(2, 3, 4))
    whole = scipy.linalg.block_diag(*stacked)
    expected = np.linalg.svd(whole, compute_uv=False)
    assert np.allclose(spectrum.singular_values(stacked), expected)


def model_of_all_kinds():
    x = inputs = keras.Input((4, 4, 6))
    x = layers.SeparableConv2D(8, 3, depth_multiplier=2, name="separable")(x)
    x = layers.Reshape((4, 8))(x)
    x = layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = layers.TimeDistributed(layers.Dense(5, name="inner"), name="each")(x)
    x = layers.LSTM(3, name="lstm")(x)
    return keras.Model(inputs, layers.Dense(2, name="output")(x))


def test_kernels_of_a_model():
    inputs = probes.ProbeInputs(model_of_all_kinds(), np.zeros((2, 4, 4, 6), "float32"))
    assert probes.rank_ceiling(inputs, of="weights") == {
        "separable/depthwise_kernel": 6 * 2,  # a 9x2 matrix for each channel
        "separable/pointwise_kernel": 8,
        "attention/query": 6,  # 8 inputs, 2 heads of 3
        "attention/key": 6,
        "attention/value": 6,
        "attention/attention_output": 6,
        "each/inner": 5,
        "lstm/lstm_cell": 5,
        "lstm/lstm_cell/recurrent_kernel": 3,
        "output": 2,
    }
    query = np.asarray(inputs.kernels["attention/query"]).reshape(8, 6)
    assert probes.spectral_norm(inputs)["attention/query"] == pytest.approx(
        np.linalg.norm(query, 2), rel=1e-5
    )
    sigma = np.linalg.svd(query, compute_uv=False)
    assert probes.stable_rank(inputs)["attention/query"] == pytest.approx(
        spectrum.stable_rank(sigma), rel=1e-5
    )

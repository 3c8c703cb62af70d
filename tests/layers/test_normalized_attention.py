import keras
import numpy as np
import pytest

import keras_plasticity as kp

RNG = np.random.default_rng(0)
QUERY, VALUE = RNG.normal(size=(2, 5, 6)), RNG.normal(size=(2, 7, 4))
Attention = kp.layers.NormalizedAttention


def built(**options):
    layer = Attention(3, 8, value_dim=5, **options)
    layer.build(QUERY.shape, VALUE.shape)
    for variable in layer.trainable_variables:
        if variable is not layer.temperature:
            variable.assign(RNG.normal(size=variable.shape))
    return layer


def reference(layer, causal=False):
    def project(x, part):
        kernel, bias = (np.asarray(v, np.float64) for v in (part.kernel, part.bias))
        return np.einsum("btd,dhk->bthk", x, kernel) + bias

    parts = layer.query_dense, layer.key_dense, layer.value_dense
    q, k, v = (project(x, p) for x, p in zip((QUERY, VALUE, VALUE), parts, strict=True))
    if layer.norm == "layer":
        q, k = (x - x.mean(-1, keepdims=True) for x in (q, k))
    q, k = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (q, k))
    scores = float(layer.temperature) * np.einsum("bthk,bshk->bhts", q, k)
    if causal:
        scores = np.where(np.tril(np.ones(scores.shape[-2:])) > 0, scores, -np.inf)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = np.einsum("bhts,bshk->bthk", weights, v)
    kernel, bias = (np.asarray(v) for v in (layer.output_dense.kernel, layer.output_dense.bias))
    return np.einsum("bthk,hkd->btd", out, kernel) + bias, weights


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("norm", ["l2", "layer"])
def test_agrees_with_numpy(norm, causal):
    layer = built(norm=norm)
    assert float(layer.temperature) == pytest.approx(8**0.5)
    layer.temperature.assign(4.5)
    expected, weights = reference(layer, causal)
    outputs = layer(QUERY, VALUE, use_causal_mask=causal)
    np.testing.assert_allclose(outputs, expected, atol=1e-4)
    _, scores = layer(QUERY, VALUE, use_causal_mask=causal, return_attention_scores=True)
    np.testing.assert_allclose(scores, weights, atol=1e-5)


def test_layer_norm_is_plain_attention_with_normalised_projections():
    def normalized(x):
        return keras.layers.LayerNormalization(center=False, scale=False, epsilon=1e-12)(x)

    ours = built(norm="layer")
    plain = keras.layers.MultiHeadAttention(3, 8, value_dim=5)
    plain.build(QUERY.shape, VALUE.shape)
    plain.set_weights([np.asarray(v) for v in ours.weights if v is not ours.temperature])
    call = plain._compute_attention
    plain._compute_attention = lambda q, k, *rest, **options: call(
        normalized(q), normalized(k), *rest, **options
    )
    np.testing.assert_allclose(ours(QUERY, VALUE), plain(QUERY, VALUE), atol=1e-4)


def test_scale_of_queries_and_keys_does_not_matter():
    layer = built(use_bias=False)
    before = np.asarray(layer(QUERY, VALUE))
    for part in (layer.query_dense, layer.key_dense):
        part.kernel.assign(1000 * part.kernel)
    np.testing.assert_allclose(layer(QUERY, VALUE), before, atol=1e-4)
    layer.temperature.assign(100 * layer.temperature)
    assert np.abs(np.asarray(layer(QUERY, VALUE)) - before).max() > 0.1


def test_wrong_arguments():
    with pytest.raises(ValueError, match="`norm` must be one of.*Received: norm='batch'"):
        Attention(2, 4, norm="batch")
    with pytest.raises(ValueError, match="`temperature` must be positive or None.*Received"):
        Attention(2, 4, temperature=0.0)

"""HL-Gauss against its definition and the bias that follows from it."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity.losses import HLGauss
from tests.reference import binned

RNG = np.random.default_rng(0)
GRIDS = ["edges", "centres"]


def decoded(loss, y):
    p = np.asarray(loss.encode(np.asarray(y, "float32")))
    return np.asarray(loss.decode(np.log(np.maximum(p, 1e-38))))


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sigma", [0.75, 2.0])
def test_against_the_reference(grid, sigma):
    loss, y = HLGauss(-3.0, 5.0, 13, sigma, grid), RNG.uniform(-4, 6, 40).astype("float32")
    found = [binned.hl_gauss(float(v), -3, 5, 13, sigma, grid) for v in y]
    p = np.asarray(loss.encode(y))
    np.testing.assert_allclose(p, [p for p, _ in found], atol=2e-6)
    np.testing.assert_allclose(p.sum(-1), 1, atol=1e-6)
    np.testing.assert_allclose(loss.centres, found[0][1], atol=1e-6)
    np.testing.assert_allclose(decoded(loss, y), [p @ z for p, z in found], atol=1e-5)


def test_edges_and_centres_by_hand():
    np.testing.assert_allclose(HLGauss(0.0, 4.0, 4).centres, [0.5, 1.5, 2.5, 3.5])
    np.testing.assert_allclose(HLGauss(0.0, 3.0, 4, grid="centres").centres, [0, 1, 2, 3])
    # Two bins of width 1 and y at their border: half each. At y = 0 with sigma 1 the shares
    # are those of the normal distribution in (0, 1) and (1, 2).
    p = HLGauss(0.0, 2.0, 2, sigma=1.0).encode(np.float32([1, 0]))
    np.testing.assert_allclose(p[0], [0.5, 0.5], atol=1e-6)
    np.testing.assert_allclose(p[1], np.array([0.34134, 0.13591]) / 0.47725, atol=1e-4)


@pytest.mark.parametrize("grid,value", [("edges", 4.34419), ("centres", 4.58312)])
def test_bias_near_the_end(grid, value):
    loss = HLGauss(-5.0, 5.0, 11, grid=grid)
    high, middle, zero = decoded(loss, [4.9, 0.3, 0.0])
    assert high == pytest.approx(value, abs=1e-5)
    assert middle == pytest.approx({"edges": 0.299996, "centres": 0.299995}[grid], abs=2e-6)
    assert zero == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("grid", GRIDS)
@pytest.mark.parametrize("sigma", [0.75, 1.5])
def test_error_four_deviations_inside(grid, sigma):
    loss = HLGauss(-10.0, 10.0, 41, sigma, grid)
    width = 20 / (41 if grid == "edges" else 40)
    inside = np.linspace(-10 + 4 * sigma * width, 10 - 4 * sigma * width, 333)
    assert np.abs(decoded(loss, inside) - inside).max() < 0.01 * width
    ends = 10 - width * (4 * sigma + 1)  # inside the end bins
    inside = np.linspace(-ends, ends, 333)
    assert np.abs(decoded(loss, inside) - inside).max() < 1e-4


@pytest.mark.parametrize("jit", [False, True])
def test_trains_in_fit(jit):
    x = RNG.normal(size=(64, 3)).astype("float32")
    y, loss = 500 + x[:, 0], HLGauss(400.0, 600.0, 51)
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(51)])
    model.compile(keras.optimizers.Adam(0.1), loss, jit_compile=jit)
    model.fit(x, y, epochs=20, batch_size=16, verbose=0)
    assert np.abs(loss.decode(model.predict(x, verbose=0)) - y).mean() < 3


def test_half_precision_and_xla():
    loss, y = HLGauss(-1.0, 1.0, 9), RNG.uniform(-1, 1, 8).astype("float32")
    logits = RNG.normal(size=(8, 9)).astype("float16")
    plain, compiled = (
        tf.function(lambda: (loss(y, logits), loss.decode(logits)), jit_compile=jit)()
        for jit in (False, True)
    )
    assert plain[1].dtype == tf.float32
    for a, b in zip(plain, compiled, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)
    assert float(plain[0]) == pytest.approx(float(loss(y, logits.astype("float32"))), rel=1e-6)


def test_config_and_saving(tmp_path):
    loss = HLGauss(-2.0, 3.0, 7, 1.25, "centres", "symlog")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(loss))
    assert isinstance(again, HLGauss) and again.get_config() == loss.get_config()
    assert (again.sigma, again.grid, again.transform) == (1.25, "centres", "symlog")
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(7)])
    model.compile("sgd", loss)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    x, y = RNG.normal(size=(8, 3)), RNG.normal(size=8)
    assert loaded.evaluate(x, y, verbose=0) == pytest.approx(model.evaluate(x, y, verbose=0))


@pytest.mark.parametrize("options,name", [({"sigma": 0}, "sigma"), ({"grid": "middle"}, "grid")])
def test_wrong_arguments(options, name):
    with pytest.raises(ValueError, match=f"`{name}` must .*Received: {name}="):
        HLGauss(0.0, 1.0, 3, **options)

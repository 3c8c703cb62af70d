import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity import models, surgery
from keras_plasticity.batch_loss import batch_loss
from keras_plasticity.probes.curvature import (
    hessian_bottom_eigenvalue,
    hessian_product,
    hessian_spectral_density,
    hessian_top_eigenvalue,
    hessian_trace,
    hutchinson,
    lanczos,
    smoothed,
)
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError

SPECTRA = {
    "even": np.linspace(1, 100, 60),
    "negative": np.r_[-500.0, np.linspace(0, 10, 58), 20.0],
    "repeated": np.r_[np.zeros(40), np.full(10, 5.0), np.arange(10.0)],
}


def matrix(spectrum):
    q, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(len(spectrum),) * 2))
    return (q * spectrum) @ q.T


@pytest.mark.parametrize("name", SPECTRA)
@pytest.mark.parametrize("tolerance", [0.0, 1e-3])
def test_lanczos_finds_both_ends(name, tolerance):
    spectrum = SPECTRA[name]
    a = matrix(spectrum)
    values, weights = lanczos(lambda v: a @ v, len(a), 60, seed=3, tolerance=tolerance)
    assert values[-1] == pytest.approx(spectrum.max(), rel=1e-4)
    assert values[0] == pytest.approx(spectrum.min(), rel=1e-4, abs=1e-4 * spectrum.max())
    assert weights.sum() == pytest.approx(1)
    assert np.all(weights >= 0)


def test_lanczos_by_hand():
    a = np.diag([1.0, 3.0])
    v = np.random.default_rng(0).standard_normal(2)
    values, weights = lanczos(lambda v: a @ v, 2, 5)
    np.testing.assert_allclose(values, [1, 3])
    np.testing.assert_allclose(weights, v**2 / (v @ v))


def test_lanczos_quadrature_is_exact_for_low_powers():
    a = matrix(SPECTRA["even"])
    v = np.random.default_rng(3).standard_normal(60)
    v /= np.linalg.norm(v)
    values, weights = lanczos(lambda v: a @ v, 60, 4, seed=3)
    for power in range(8):  # 2 * steps - 1
        expected = v @ np.linalg.matrix_power(a, power) @ v
        assert weights @ values**power == pytest.approx(expected, rel=1e-8)


def test_lanczos_of_zero_and_of_nan():
    values, weights = lanczos(lambda v: 0 * v, 5, 5)
    assert values.tolist() == [0] and weights.tolist() == [1]
    assert np.isnan(lanczos(lambda v: v * np.nan, 5, 5)[0]).all()


def test_hutchinson():
    a = matrix(SPECTRA["negative"])
    estimates = hutchinson(lambda v: a @ v, len(a), 200)
    error = estimates.std(ddof=1) / np.sqrt(200)
    assert abs(estimates.mean() - np.trace(a)) < 4 * error
    assert hutchinson(lambda v: [2, 3] * v, 2, 3).tolist() == [5, 5, 5]  # exact if diagonal


def test_smoothed_density_integrates_to_one():
    grid, density, *_ = smoothed(np.array([0.0, 1.0, 4.0]), np.array([0.5, 0.25, 0.25]))
    assert np.trapezoid(density, grid) == pytest.approx(1, abs=1e-3)
    assert np.trapezoid(density * grid, grid) == pytest.approx(1.25, abs=1e-2)


@pytest.fixture(scope="module")
def small():
    draw = np.random.default_rng(0)
    x, y = draw.normal(size=(40, 3)).astype("float32"), draw.integers(3, size=40)
    with surgery.seeded(2):
        model = models.mlp((3,), 3, widths=(5,), activation="tanh")
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(x, y, epochs=3, verbose=0)
    return ProbeInputs(model, x, y), full_hessian(model, x, y)


def full_hessian(model, x, y):
    """The Hessian entry by entry, as TensorFlow finds it."""
    variables = model.trainable_variables
    sizes = [int(np.prod(v.shape)) for v in variables]
    with tf.GradientTape(persistent=True) as outer:
        with tf.GradientTape() as inner:
            loss = batch_loss(model, x, y)
        gradients = inner.gradient(loss, [v.value for v in variables])
        flat = tf.concat([tf.reshape(g, [-1]) for g in gradients], 0)
    rows = outer.jacobian(flat, [v.value for v in variables], experimental_use_pfor=False)
    parts = [np.reshape(r, (len(flat), n)) for r, n in zip(rows, sizes, strict=True)]
    return np.concatenate(parts, 1).astype(np.float64)


def test_products_with_the_hessian(small):
    inputs, hessian = small
    matvec, dim = hessian_product(inputs)
    assert dim == len(hessian)
    v = np.random.default_rng(0).normal(size=dim)
    np.testing.assert_allclose(matvec(v), hessian @ v, rtol=1e-4, atol=1e-5)


def test_ends_of_the_spectrum_of_a_network(small):
    inputs, hessian = small
    values = np.linalg.eigvalsh(hessian)
    top = hessian_top_eigenvalue(inputs)["model"]
    assert top == pytest.approx(values[-1], rel=1e-4)
    bottom = hessian_bottom_eigenvalue(inputs)["model"]
    assert bottom == pytest.approx(values[0], rel=1e-3, abs=1e-4 * values[-1])


def test_trace_of_a_network(small):
    inputs, hessian = small
    matvec, dim = hessian_product(inputs)
    estimates = hutchinson(matvec, dim, 100)
    error = estimates.std(ddof=1) / 10
    assert abs(hessian_trace(inputs, vectors=100)["model"] - np.trace(hessian)) < 4 * error


def test_density_of_a_network(small):
    inputs, hessian = small
    found = hessian_spectral_density(inputs, steps=30, vectors=20)
    mean, squares = found.weights @ found.values, found.weights @ found.values**2
    assert mean == pytest.approx(np.trace(hessian) / len(hessian), rel=0.2)
    assert squares == pytest.approx(np.sum(hessian**2) / len(hessian), rel=0.4)


def test_a_quadratic_loss_has_the_covariance_of_the_inputs():
    draw = np.random.default_rng(0)
    x = (draw.normal(size=(300, 4)) * [1, 2, 3, 4]).astype("float32")
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1, use_bias=False)])
    model.compile("sgd", "mse")
    inputs = ProbeInputs(model, x, x[:, :1])
    expected = np.linalg.eigvalsh(2 * x.T @ x / 300)
    top = hessian_top_eigenvalue(inputs, examples=300)["model"]
    assert top == pytest.approx(expected[-1], rel=1e-4)
    bottom = hessian_bottom_eigenvalue(inputs, examples=300)["model"]
    assert bottom == pytest.approx(expected[0], rel=1e-4)


def test_batches_add_up_to_the_whole(small, monkeypatch):
    inputs, _ = small
    v = np.random.default_rng(0).normal(size=hessian_product(inputs)[1])
    whole = hessian_product(inputs)[0](v)
    monkeypatch.setattr(inputs._forward, "rows", 8 * 16)  # 16, 16 and 8 examples
    np.testing.assert_allclose(hessian_product(inputs)[0](v), whole, rtol=1e-4, atol=1e-6)


def test_it_is_traced_once(small):
    inputs, _ = small
    hessian_top_eigenvalue(inputs)
    before = inputs._functions["hessian_product"].experimental_get_tracing_count()
    inputs.refresh()
    hessian_top_eigenvalue(inputs)
    hessian_trace(inputs)
    assert inputs._functions["hessian_product"].experimental_get_tracing_count() == before


def test_embeddings_and_recurrence():
    draw = np.random.default_rng(0)
    x, y = draw.integers(7, size=(12, 4)), draw.normal(size=(12, 1))
    model = keras.Sequential(
        [keras.Input((4,), dtype="int32"), keras.layers.Embedding(7, 2), keras.layers.SimpleRNN(3),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse")
    hessian = full_hessian(model, x, y)
    top = hessian_top_eigenvalue(ProbeInputs(model, x, y))["model"]
    assert top == pytest.approx(np.linalg.eigvalsh(hessian)[-1], rel=1e-3)


def test_nan_and_no_loss():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    x = np.full((3, 2), np.nan, "float32")
    with pytest.raises(NotApplicableError, match="loss"):
        hessian_top_eigenvalue(ProbeInputs(model, x))
    model.compile("sgd", "mse")
    inputs = ProbeInputs(model, x, np.ones((3, 1)))
    for probe in (hessian_top_eigenvalue, hessian_bottom_eigenvalue, hessian_trace):
        assert np.isnan(probe(inputs)["model"])

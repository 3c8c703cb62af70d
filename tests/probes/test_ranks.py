import keras
import numpy as np
import pytest
from keras import layers

from keras_plasticity import probes
from keras_plasticity.probes import spectrum
from tests.probes.networks import inputs_of, one_layer

WORKED = np.array([4.0, 2.0, 1.0, 1.0])


def test_the_worked_example():
    assert np.isclose(spectrum.effective_rank(WORKED), 2**1.75)
    assert np.isclose(spectrum.stable_rank(WORKED), 22 / 16)
    assert np.isclose(spectrum.participation_ratio(WORKED), 484 / 274)
    assert spectrum.srank(WORKED) == 4 and spectrum.srank(WORKED, 0.25) == 2
    assert spectrum.pca_rank(WORKED) == 4 and spectrum.pca_rank(WORKED, 0.9) == 2
    assert spectrum.feature_rank(WORKED, 100, 0.15) == 2  # .4, .2, .1, .1


@pytest.mark.parametrize("shape", [(30, 4), (4, 30)])
def test_singular_values_of_a_matrix_with_a_given_spectrum(shape):
    generator = np.random.default_rng(0)
    left = np.linalg.qr(generator.normal(size=(shape[0], 4)))[0]
    right = np.linalg.qr(generator.normal(size=(shape[1], 4)))[0]
    matrix = left @ np.diag(WORKED) @ right.T
    assert np.allclose(spectrum.singular_values(matrix), WORKED)
    centred = np.linalg.svd(matrix - matrix.mean(0), compute_uv=False)[:4]
    assert np.allclose(spectrum.singular_values(matrix, centred=True), centred, atol=1e-6)


def test_zero_and_values_that_are_not_finite():
    zero, bad = np.zeros(3), np.full(3, np.nan)
    for rank in (spectrum.effective_rank, spectrum.stable_rank, spectrum.srank):
        assert rank(zero) == 0 and np.isnan(rank(bad))
    assert spectrum.pca_rank(zero) == spectrum.participation_ratio(zero) == 0
    assert np.isnan(spectrum.feature_rank(bad, 3))
    assert np.isnan(spectrum.singular_values(np.array([[1.0, np.inf]]))).all()


def test_ranks_of_features_and_of_weights():
    kernel = np.diag([4.0, 2.0, 1.0, 1.0])
    inputs = inputs_of(one_layer([9, 9, 9, 9], inputs=4, kernel=kernel))
    assert np.isclose(probes.effective_rank(inputs, of="weights")["hidden"], 2**1.75)
    assert np.isclose(probes.stable_rank(inputs)["hidden"], 22 / 16)
    # All units are on: features are x W + 9, whose centred spectrum is that of x W.
    features = inputs.x.numpy() @ kernel
    sigma = np.linalg.svd(features - features.mean(0), compute_uv=False)
    expected = spectrum.participation_ratio(sigma)
    assert np.isclose(probes.participation_ratio(inputs)["hidden"], expected, rtol=1e-4)
    assert probes.srank(inputs, delta=0.2, centred=True)["hidden"] == spectrum.srank(sigma, 0.2)
    assert list(probes.effective_rank(inputs)) == ["model"]
    assert probes.pca_rank(inputs)["hidden"] == spectrum.pca_rank(sigma)
    with pytest.raises(ValueError, match="`of`.*Received: of='gradients'"):
        probes.effective_rank(inputs, of="gradients")


def test_rank_of_duplicated_units_is_that_of_the_distinct_ones():
    kernel = np.repeat(np.random.default_rng(0).normal(size=(4, 3)), 4, 1)
    inputs = inputs_of(one_layer(np.zeros(12), inputs=4, kernel=kernel))
    assert probes.feature_rank(inputs)["hidden"] == 3


def test_no_rank_exceeds_its_ceiling():
    wide = np.random.default_rng(0).normal(size=(4, 40))
    inputs = inputs_of(one_layer(np.zeros(40), inputs=4, kernel=wide), count=30)
    everything = {"of": "features", "examples": None}
    assert probes.rank_ceiling(inputs) == {"model": 30.0}  # examples; the units are 40
    assert probes.rank_ceiling(inputs, examples=20) == {"model": 20.0}
    assert probes.rank_ceiling(inputs, **everything) == {"hidden": 30.0}
    assert probes.rank_ceiling(inputs, of="weights") == {"hidden": 4.0, "output": 2.0}
    for rank in (probes.srank, probes.pca_rank, probes.feature_rank, probes.participation_ratio):
        assert rank(inputs)["hidden"] <= 30
    assert probes.stable_rank(inputs)["hidden"] <= 4
    # Reached by a matrix whose singular values are equal.
    orthogonal = np.linalg.qr(wide.T)[0].T
    inputs = inputs_of(one_layer(np.zeros(40), inputs=4, kernel=orthogonal))
    assert np.isclose(probes.stable_rank(inputs)["hidden"], 4)
    assert np.isclose(probes.effective_rank(inputs, of="weights")["hidden"], 4)
    with pytest.raises(ValueError, match="Received: of='rows'"):
        probes.rank_ceiling(inputs, of="rows")


def test_each_of_several_heads_has_a_rank():
    x = keras.Input((6,))
    shared = layers.Dense(5, activation="tanh", name="shared")(x)
    deep = layers.Dense(3, activation="tanh", name="deep")(shared)
    model = keras.Model(x, [layers.Dense(2, name="one")(shared), layers.Dense(1, name="two")(deep)])
    data = np.random.default_rng(0).normal(size=(50, 6)).astype("float32")
    inputs = probes.ProbeInputs(model, data)
    assert probes.rank_ceiling(inputs) == {"one": 5.0, "two": 3.0}
    read = dict(zip(("one", "two"), keras.Model(x, [shared, deep])(data), strict=True))
    for name, rank in probes.effective_rank(inputs).items():
        sigma = np.linalg.svd(read.pop(name), compute_uv=False)
        assert np.isclose(rank, spectrum.effective_rank(sigma), rtol=1e-4)
    assert not read


def test_top_singular_value_of_features_by_hand():
    inputs = keras.Input((2,))
    hidden = keras.layers.Dense(2, activation="relu", use_bias=False)
    model = keras.Model(inputs, keras.layers.Dense(1)(hidden(inputs)))
    hidden.kernel.assign(np.eye(2))
    x = np.array([[3.0, 0], [0, 1], [3, 0], [0, 1]], "float32")  # singular values 18**.5, 2**.5
    found = probes.feature_top_singular_value(probes.ProbeInputs(model, x))
    assert found == {"model": pytest.approx((18 / 4) ** 0.5, rel=1e-6)}

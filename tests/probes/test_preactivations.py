import numpy as np
import pytest
import scipy.stats

from keras_plasticity import probes
from tests.probes.networks import examples, inputs_of, one_layer


def test_moments_of_a_known_distribution():
    # Preactivations are 2 x + b with x uniform: variance 4/3, no skewness, kurtosis -1.2.
    model = one_layer([1.0, 3.0], inputs=1, kernel=[[2.0, 2.0]])
    inputs = inputs_of(model, count=20_000)
    assert probes.preactivation_mean(inputs)["hidden"] == pytest.approx(2, abs=0.05)
    deviation = probes.preactivation_deviation(inputs)["hidden"]
    assert deviation == pytest.approx((4 / 3) ** 0.5, rel=0.01)
    assert probes.preactivation_skewness(inputs)["hidden"] == pytest.approx(0, abs=0.03)
    assert probes.preactivation_kurtosis(inputs)["hidden"] == pytest.approx(-1.2, abs=0.03)


def test_shifts_by_hand():
    model = one_layer([0.0, 0.0], inputs=1, kernel=[[1.0, 2.0]])
    inputs = inputs_of(model)
    inputs.expect(["preactivation", "samples"])
    probes.preactivation_mean(inputs)
    inputs.initial = inputs.snapshot()
    x = inputs.x.numpy()
    model.get_layer("hidden").set_weights([np.array([[1.0, 6.0]]), np.array([0.5, 0.0])])
    inputs.refresh()
    sigma, mean = x.std(), x.mean()
    shift = (0.5 / sigma + abs(4 * mean) / (2 * sigma)) / 2
    assert probes.preactivation_mean_shift(inputs)["hidden"] == pytest.approx(shift, rel=1e-3)
    ratio = probes.preactivation_log_variance_ratio(inputs)["hidden"]
    assert ratio == pytest.approx(np.log(9) / 2, rel=1e-3)
    distance = scipy.stats.wasserstein_distance(x[:, 0], x[:, 0] + 0.5) / sigma
    other = scipy.stats.wasserstein_distance(2 * x[:, 0], 6 * x[:, 0]) / (2 * sigma)
    found = probes.preactivation_wasserstein(inputs)["hidden"]
    assert found == pytest.approx((distance + other) / 2, rel=1e-3)


def test_a_histogram_holds_every_preactivation():
    inputs = inputs_of(one_layer([0.0, 5.0], inputs=1, kernel=[[1.0, 1.0]]))
    rows = probes.preactivation_histogram(inputs, bins=12)["hidden"]
    assert rows.shape == (12, 3) and rows[:, 2].sum() == 2000
    assert np.array_equal(rows[1:, 0], rows[:-1, 1])
    assert np.isclose(rows[:6, 2].sum(), 1000) and rows[0, 0] > -1.01 and rows[-1, 1] < 6.01


def test_the_histogram_of_values_that_are_not_finite():
    x, _ = examples()
    x[3] = np.inf
    inputs = probes.ProbeInputs(one_layer([0.0, 1.0]), x)
    assert np.isnan(probes.preactivation_histogram(inputs)["hidden"]).all()

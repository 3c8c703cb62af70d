import keras
import numpy as np
import pytest

from keras_plasticity import models, surgery
from keras_plasticity.probes.gradient_covariance import (
    gradient_alignment,
    gradient_cosine_mean,
    gradient_cosines,
    gradient_effective_rank,
    gradient_products,
)
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError
from tests.reference import gradients


@pytest.fixture(scope="module")
def classifier():
    draw = np.random.default_rng(0)
    with surgery.seeded(1):
        model = models.mlp((4,), 3, widths=(6,), kernel_regularizer=keras.regularizers.L2(0.1))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return ProbeInputs(model, draw.normal(size=(12, 4)).astype("float32"), np.arange(12) % 3)


def linear(x, y):
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False, name="d")])
    model.layers[0].kernel.assign([[0.0], [0.0]])
    model.compile("sgd", "mse")
    return ProbeInputs(model, np.array(x, "float32"), np.array(y, "float32")[:, None])


def test_by_hand():
    inputs = linear([[1, 0], [0, 1], [1, 1]], [1, 1, -1])  # gradients -2 * y * x
    np.testing.assert_allclose(gradient_products(inputs), [[4, 0, -4], [0, 4, -4], [-4, -4, 8]])
    half = np.sqrt(0.5)
    expected = [[1, 0, -half], [0, 1, -half], [-half, -half, 1]]  # eigenvalues 2, 1, 0
    np.testing.assert_allclose(gradient_cosines(inputs), expected, atol=1e-7)
    assert gradient_cosine_mean(inputs)["model"] == pytest.approx(-2 * half / 3)
    p = np.array([2, 1]) / 3
    rank = np.exp(-np.sum(p * np.log(p)))
    assert gradient_effective_rank(inputs)["model"] == pytest.approx(rank, rel=1e-4)
    assert list(gradient_alignment(inputs).values()) == [0]


def test_alike_gradients_are_aligned():
    inputs = linear([[1, 1], [2, 1], [3, 1], [-1, -1]], [1, 1, 1, 1])
    (share,) = gradient_alignment(inputs).values()
    assert share == pytest.approx(0.5)  # three of six pairs


def test_against_one_example_after_the_other(classifier):
    x, y = np.asarray(classifier.x), np.asarray(classifier.y)
    rows = gradients.of_loss(classifier.model, classifier.model.loss, x, y)
    expected = rows @ rows.T
    np.testing.assert_allclose(gradient_products(classifier), expected, rtol=1e-4, atol=1e-6)
    norms = np.linalg.norm(rows, axis=1)
    cosines = expected / np.outer(norms, norms)
    np.testing.assert_allclose(gradient_cosines(classifier), cosines, atol=1e-5)
    mean = cosines[np.triu_indices(12, 1)].mean()
    assert gradient_cosine_mean(classifier)["model"] == pytest.approx(mean, abs=1e-5)
    first = classifier.model.layers[1].kernel
    rows = gradients.of_loss(classifier.model, classifier.model.loss, x, y, [first])
    share = np.mean((rows @ rows.T)[np.triu_indices(12, 1)] > 0)
    (found,) = gradient_alignment(classifier).values()
    assert found == pytest.approx(share)


def test_nan_one_example_and_no_loss(classifier):
    inputs = linear([[np.nan, 0], [0, 1]], [1, 1])
    for probe in (gradient_cosine_mean, gradient_effective_rank, gradient_alignment):
        assert np.isnan(list(probe(inputs).values())).all()
        with pytest.raises(NotApplicableError, match="loss"):
            probe(ProbeInputs(classifier.model, classifier.x))
    one = linear([[1, 1]], [1])
    assert gradient_effective_rank(one)["model"] == pytest.approx(1)
    with pytest.raises(NotApplicableError, match="two examples"):
        gradient_cosine_mean(one)
    fitted = linear([[1, 1], [2, 2]], [0, 0])  # all gradients are 0
    assert gradient_effective_rank(fitted) == gradient_cosine_mean(fitted) == {"model": 0}


def test_it_is_traced_once(classifier):
    gradient_cosine_mean(classifier)
    function = classifier._functions["example_gradients False"]
    before = function.experimental_get_tracing_count()
    classifier.refresh()
    gradient_effective_rank(classifier)
    assert function.experimental_get_tracing_count() == before

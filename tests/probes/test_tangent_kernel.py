import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_plasticity import models, surgery
from keras_plasticity.batch_loss import batch_loss
from keras_plasticity.probes import per_example
from keras_plasticity.probes import tangent_kernel as tk
from keras_plasticity.probes.gram_matrix import condition_number, cosines, rank_one_residual
from keras_plasticity.probes.inputs import ProbeInputs
from keras_plasticity.probes.probe import NotApplicableError
from tests.reference import gradients

PROBES = (
    tk.tangent_kernel_condition,
    tk.tangent_kernel_rank,
    tk.tangent_kernel_effective_rank,
    tk.tangent_kernel_top_share,
    tk.tangent_kernel_offdiagonal,
    tk.tangent_kernel_collinearity,
    tk.tangent_kernel_rank_one_residual,
)


def draw(*shape):
    return np.random.default_rng(0).normal(size=shape).astype("float32")


@pytest.fixture(scope="module")
def classifier():
    with surgery.seeded(1):
        model = models.mlp((4,), 3, widths=(6,))
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    return ProbeInputs(model, draw(12, 4), np.arange(12) % 3)


@pytest.mark.parametrize("bias", [False, True])
def test_of_a_linear_model(bias):
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(1, use_bias=bias)])
    x = draw(9, 5)
    kernel = tk.empirical_tangent_kernel(ProbeInputs(model, x))
    expected = x.astype(np.float64) @ x.T + bias
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=1e-6)
    assert kernel.dtype == np.float64


def test_all_outputs_of_a_linear_model_are_blocks():
    model = keras.Sequential([keras.Input((5,)), keras.layers.Dense(3)])
    x = draw(4, 5)
    kernel = tk.empirical_tangent_kernel(ProbeInputs(model, x), scalarisation="all")
    expected = np.kron(x.astype(np.float64) @ x.T + 1, np.eye(3))
    np.testing.assert_allclose(kernel, expected, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("scalarisation", tk.SCALARISATIONS)
def test_of_a_network(classifier, scalarisation):
    jacobian = gradients.of_outputs(classifier.model, np.asarray(classifier.x))
    rows = {
        "sum": jacobian.sum(1),
        "true": jacobian[np.arange(12), np.arange(12) % 3],
        "all": jacobian.reshape(36, -1),
    }[scalarisation]
    kernel = tk.empirical_tangent_kernel(classifier, scalarisation=scalarisation)
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-4, atol=1e-5)


def test_one_hot_targets_name_the_class(classifier):
    other = ProbeInputs(classifier.model, classifier.x, np.eye(3)[np.arange(12) % 3])
    np.testing.assert_array_equal(
        tk.empirical_tangent_kernel(other, scalarisation="true"),
        tk.empirical_tangent_kernel(classifier, scalarisation="true"),
    )


def test_blocks_give_the_same(classifier, monkeypatch):
    whole = tk.empirical_tangent_kernel(classifier, 11)
    monkeypatch.setattr(per_example, "_BYTES", 4 * 60 * 4)
    classifier.refresh()
    np.testing.assert_allclose(tk.empirical_tangent_kernel(classifier, 11), whole, rtol=1e-6)


def test_numbers_by_hand():
    kernel = np.array([[4.0, 2.0], [2.0, 4.0]])  # eigenvalues 6 and 2
    assert condition_number(kernel) == pytest.approx(3)
    np.testing.assert_allclose(cosines(kernel), [[1, 0.5], [0.5, 1]])
    assert rank_one_residual(kernel) == pytest.approx(np.sqrt(2) / np.sqrt(40))  # 2 - 6 / 2 = -1
    assert condition_number(np.diag([1.0, 0.0])) == pytest.approx(1e10)
    assert np.isnan(condition_number(np.zeros((2, 2))))
    assert cosines(np.diag([1.0, 0.0])).tolist() == [[1, 0], [0, 0]]


def test_probes_by_a_known_kernel():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, use_bias=False)])
    inputs = ProbeInputs(model, np.array([[2.0, 0.0], [1.0, np.sqrt(3)]], "float32"))
    values = {probe.__name__: probe(inputs)["model"] for probe in PROBES}  # the kernel above
    p = np.array([0.75, 0.25])
    expected = {
        "tangent_kernel_condition": 3,
        "tangent_kernel_rank": 2,
        "tangent_kernel_effective_rank": np.exp(-np.sum(p * np.log(p))),
        "tangent_kernel_top_share": 0.75,
        "tangent_kernel_offdiagonal": 0.5,
        "tangent_kernel_collinearity": 0.5,
        "tangent_kernel_rank_one_residual": np.sqrt(2 / 40),
    }
    assert values == pytest.approx(expected, rel=1e-5)
    assert tk.tangent_kernel_rank(inputs, epsilon=0.4) == {"model": 1.0}


def test_predicted_decrease_is_r_k_r(classifier):
    model = classifier.model
    jacobian = gradients.of_outputs(model, np.asarray(classifier.x)).reshape(36, -1)
    logits = model(classifier.x)
    with tf.GradientTape() as tape:
        tape.watch(logits)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)(classifier.y, logits)
    r = np.asarray(tape.gradient(loss, logits), np.float64).reshape(-1)
    kernel = tk.empirical_tangent_kernel(classifier, scalarisation="all")
    found = tk.predicted_decrease(classifier)["model"]
    assert found == pytest.approx(r @ kernel @ r, rel=1e-4)
    assert found == pytest.approx(np.sum((r @ jacobian) ** 2), rel=1e-4)


def test_predicted_decrease_comes_true(classifier):
    copy = keras.models.clone_model(classifier.model)
    copy.set_weights(classifier.model.get_weights())
    copy.compile(keras.optimizers.SGD(1e-3), classifier.model.loss)
    before = float(batch_loss(copy, classifier.x, classifier.y))
    copy.train_on_batch(classifier.x, classifier.y)
    after = float(batch_loss(copy, classifier.x, classifier.y))
    assert before - after == pytest.approx(
        1e-3 * tk.predicted_decrease(classifier)["model"], rel=0.02
    )


def test_a_dead_network_and_nan_and_one_example():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1, use_bias=False)])
    zeros = {p.__name__: p(ProbeInputs(model, np.zeros((4, 3), "float32"))) for p in PROBES}
    assert zeros["tangent_kernel_rank"] == zeros["tangent_kernel_effective_rank"] == {"model": 0}
    assert np.isnan(zeros["tangent_kernel_condition"]["model"])
    assert zeros["tangent_kernel_offdiagonal"] == {"model": 0}
    for probe in PROBES:
        broken = ProbeInputs(model, np.array([[np.nan, 0, 0], [1, 2, 3]], "float32"))
        assert np.isnan(probe(broken)["model"]), probe
    one = ProbeInputs(model, np.ones((1, 3), "float32"))
    assert tk.tangent_kernel_condition(one) == {"model": 1}
    with pytest.raises(NotApplicableError, match="two examples"):
        tk.tangent_kernel_offdiagonal(one)


def test_errors():
    inputs = ProbeInputs(keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]), draw(4, 3))
    with pytest.raises(NotApplicableError, match="classifier"):
        tk.tangent_kernel_rank(inputs, scalarisation="true")
    with pytest.raises(ValueError, match="`scalarisation` must be"):
        tk.tangent_kernel_rank(inputs, scalarisation="mean")
    with pytest.raises(NotApplicableError, match="loss"):
        tk.predicted_decrease(inputs)
    still = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, trainable=False)])
    with pytest.raises(NotApplicableError, match="no weights to train"):
        tk.tangent_kernel_rank(ProbeInputs(still, draw(4, 3)))


def test_several_outputs_and_embeddings():
    inside = keras.Input((4,), dtype="int32")
    x = keras.layers.Flatten()(keras.layers.Embedding(5, 2)(inside))
    model = keras.Model(inside, [keras.layers.Dense(2)(x), keras.layers.Dense(1)(x)])
    tokens = np.random.default_rng(0).integers(5, size=(6, 4))
    rows = gradients.of_outputs(model, tokens).reshape(18, -1)
    kernel = tk.empirical_tangent_kernel(ProbeInputs(model, tokens), scalarisation="all")
    np.testing.assert_allclose(kernel, rows @ rows.T, rtol=1e-4, atol=1e-5)


def test_it_is_traced_once(classifier):
    tk.tangent_kernel_rank(classifier)
    function = next(f for n, f in classifier._functions.items() if n == "tangent_kernel True False")
    before = function.experimental_get_tracing_count()
    classifier.refresh()
    tk.tangent_kernel_condition(classifier)
    assert function.experimental_get_tracing_count() == before

"""The combined loss: against a plain computation, packed and unpacked, chunked and whole, weighted and normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.input import packed_batches
from tsrec_jax.training.loss import LossSettings, batch_nll, slot_weights, task_sums


def plain_sums(model, examples):
    """Sum of nll and number of loss tokens per task: one row an example, filled up behind it, where nothing looks."""
    graphdef, state = nnx.split(model)
    sums, counts = np.zeros(2), np.zeros(2)
    tokens_BT = np.zeros((len(examples), 20), np.int32)
    for row, example in zip(tokens_BT, examples, strict=True):
        row[: len(example.tokens)] = example.tokens
    log_probs_BTV = np.asarray(
        jax.jit(lambda state: jax.nn.log_softmax(nnx.merge(graphdef, state)(tokens_BT), axis=-1))(state)
    )
    for log_probs_TV, example in zip(log_probs_BTV, examples, strict=True):
        for position in range(example.prompt_length, len(example.tokens)):
            sums[example.task] -= float(log_probs_TV[position - 1, example.tokens[position]])
            counts[example.task] += 1
    return sums, counts


def packed_sums(model, examples, chunk=0, slots=32):
    graphdef, state = nnx.split(model)
    compute = jax.jit(lambda state, batch: batch_nll(nnx.merge(graphdef, state), batch, chunk))
    sums, counts = np.zeros(2), np.zeros(2)
    for batch in packed_batches(examples, 32, 4, slots):
        nll_BP = compute(state, batch)
        sums += np.asarray(task_sums(nll_BP, jnp.asarray(batch["loss_task_BP"]), 2))
        counts += [(batch["loss_task_BP"] == task).sum() for task in range(2)]
    return sums, counts


def test_packed_loss_equals_the_loss_of_single_examples(make_model, examples):
    model = make_model()
    with jax.default_matmul_precision("highest"):
        expected, expected_counts = plain_sums(model, examples)
        found, counts = packed_sums(model, examples)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(found / counts, expected / expected_counts, atol=1e-5)


@pytest.mark.parametrize("chunk", [1, 5, 32, 100])
def test_chunks_change_neither_loss_nor_gradient(make_model, examples, chunk):
    model = make_model()
    batch = next(iter(packed_batches(examples, 32, 4, 32)))
    graphdef, state = nnx.split(model)

    def total(state, chunk):
        used = jnp.asarray(batch["loss_task_BP"]) >= 0
        return jnp.sum(batch_nll(nnx.merge(graphdef, state), batch, chunk) * used)

    gradient = jax.jit(jax.value_and_grad(total), static_argnums=1)
    whole, whole_grad = gradient(state, 0)
    pieces, piece_grad = gradient(state, chunk)
    np.testing.assert_allclose(pieces, whole, rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), whole_grad, piece_grad)


def test_token_normalisation_with_unit_weights_is_the_mean_over_tokens():
    loss_task = jnp.array([[0, 0, 1, -1], [1, 1, 1, -1]])
    weights, counts = slot_weights(loss_task, LossSettings((1.0, 1.0)))
    np.testing.assert_allclose(weights, np.where(loss_task >= 0, 1 / 6, 0.0))
    np.testing.assert_array_equal(counts, [2, 4])


def test_weights_and_lambda_scale_their_tasks_only():
    loss_task = jnp.array([[0, 1, 1, -1]])
    weights, _ = slot_weights(loss_task, LossSettings((1.0, 0.25)))
    np.testing.assert_allclose(weights[0], np.array([1.0, 0.25, 0.25, 0.0]) / 3)


def test_a_task_without_weight_does_not_dilute_the_others():
    loss_task = jnp.array([[0, 1, 1, -1]])
    weights, _ = slot_weights(loss_task, LossSettings((1.0, 0.0)))
    np.testing.assert_allclose(weights[0], [1.0, 0.0, 0.0, 0.0])


def test_task_normalisation_gives_each_task_its_weight_whatever_its_length():
    loss_task = jnp.array([[0, 1, 1, 1]])
    weights, _ = slot_weights(loss_task, LossSettings((1.0, 0.5), "task"))
    np.testing.assert_allclose(weights[0], [1.0, 0.5 / 3, 0.5 / 3, 0.5 / 3])


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(ValueError, match="normalisation"):
        LossSettings((1.0,), "tokens")

"""The combined loss: against a plain computation, packed and unpacked, chunked and whole, weighted and normalised."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.input import packed_batches
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.errors import UserError
from tsrec_jax.training.loss import batch_loss, batch_nll, hidden_states, loss_tasks, slot_weights, task_sums
from tsrec_jax.training.settings import TrainSettings


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
            sums["ab".index(example.task)] -= float(log_probs_TV[position - 1, example.tokens[position]])
            counts["ab".index(example.task)] += 1
    return sums, counts


def packed_sums(model, examples, chunk=0, slots=32):
    graphdef, state = nnx.split(model)
    compute = jax.jit(lambda state, batch: batch_nll(nnx.merge(graphdef, state), batch, chunk))
    sums, counts = np.zeros(2), np.zeros(2)
    for batch in packed_batches(examples, 32, 4, slots):
        sums += np.asarray(task_sums(compute(state, batch), loss_tasks(batch), 2))
        counts += [(batch["loss_task_GP"] == task).sum() for task in range(2)]
    return sums, counts


def test_packed_loss_equals_the_loss_of_single_examples(make_model, examples):
    model = make_model()
    with jax.default_matmul_precision("highest"):
        expected, expected_counts = plain_sums(model, examples)
        found, counts = packed_sums(model, examples)
    np.testing.assert_array_equal(counts, expected_counts)
    np.testing.assert_allclose(found / counts, expected / expected_counts, atol=1e-5)


@pytest.mark.parametrize("chunk", [0, 1, 5, 100])
def test_loss_and_gradient_equal_those_of_plain_log_probabilities(make_model, examples, chunk):
    model = make_model(tied=chunk != 0)
    batch = next(iter(packed_batches(examples, 32, 4, 60, group=2)))
    graphdef, state = nnx.split(model)
    weight_GP = jnp.where(batch["loss_task_GP"] >= 0, 0.1 + jnp.arange(60) / 60, 0.0)

    def fused(state):
        model = nnx.merge(graphdef, state)
        total, nll = batch_loss(model, hidden_states(model, batch), batch, {"loss_task_GP": weight_GP}, chunk)
        return total, nll["loss_task_GP"]

    def plain(state):
        logits_BTV = nnx.merge(graphdef, state)(batch["tokens_BT"], batch["positions_BT"], batch["segment_ids_BT"])
        log_probs = jax.nn.log_softmax(logits_BTV).reshape(2, 64, -1)
        rows_GP = jnp.take_along_axis(log_probs, batch["loss_index_GP"][..., None], axis=1)
        nll_GP = -jnp.take_along_axis(rows_GP, batch["loss_target_GP"][..., None], axis=2)[..., 0]
        return jnp.sum(nll_GP * weight_GP), nll_GP

    with jax.default_matmul_precision("highest"):
        (found, nll), gradient = jax.jit(jax.value_and_grad(fused, has_aux=True))(state)
        (expected, expected_nll), expected_gradient = jax.jit(jax.value_and_grad(plain, has_aux=True))(state)
        validation = jax.jit(lambda state: batch_nll(nnx.merge(graphdef, state), batch, chunk))(state)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    np.testing.assert_allclose(nll, expected_nll, atol=1e-5)
    np.testing.assert_array_equal(validation["loss_task_GP"], nll)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), gradient, expected_gradient)


def test_token_normalisation_with_unit_weights_is_the_mean_over_tokens():
    loss_task = jnp.array([[0, 0, 1, -1], [1, 1, 1, -1]])
    weights, counts = slot_weights(loss_task, (1.0, 1.0))
    np.testing.assert_allclose(weights, np.where(loss_task >= 0, 1 / 6, 0.0))
    np.testing.assert_array_equal(counts, [2, 4])


def test_weights_and_lambda_scale_their_tasks_only():
    loss_task = jnp.array([[0, 1, 1, -1]])
    weights, _ = slot_weights(loss_task, (1.0, 0.25))
    np.testing.assert_allclose(weights[0], np.array([1.0, 0.25, 0.25, 0.0]) / 3)


def test_a_task_without_weight_does_not_dilute_the_others():
    loss_task = jnp.array([[0, 1, 1, -1]])
    weights, _ = slot_weights(loss_task, (1.0, 0.0))
    np.testing.assert_allclose(weights[0], [1.0, 0.0, 0.0, 0.0])


def test_task_normalisation_gives_each_task_its_weight_whatever_its_length():
    loss_task = jnp.array([[0, 1, 1, 1]])
    weights, _ = slot_weights(loss_task, (1.0, 0.5), "task")
    np.testing.assert_allclose(weights[0], [1.0, 0.5 / 3, 0.5 / 3, 0.5 / 3])


def test_an_unknown_normalisation_is_refused():
    with pytest.raises(UserError, match="loss_normalisation='tokens' is not one of token, task"):
        TrainSettings(loss_normalisation="tokens")


@pytest.fixture
def paths():
    sids = (("<a_1>", "<b_1>"), ("<a_1>", "<b_2>"), ("<a_2>", "<b_2>"), ("<a_3>", "<b_4>"))
    return SidPaths.of_catalogue(Catalogue(tuple(Item(str(n), "") for n in range(4)), sids), 50)


def sid_examples(paths):
    """Words and SIDs in turn; ids of the tokens a_1 a_2 a_3 b_1 b_2 b_4 are 50 to 55."""
    texts = [[3, 50, 53, 4, 50, 54, 9], [51, 54, 52, 55, 50, 53], [7, 8, 9, 10], [3, 54, 51]]
    return [Example("ab"[n % 2], np.array(text, np.int32), 1, str(n)) for n, text in enumerate(texts)]


def test_sid_tokens_are_scored_among_their_siblings(make_model, paths):
    model, examples = make_model(), sid_examples(paths)
    (batch,) = packed_batches(examples, 16, 2, 16, 2, paths=paths)
    graphdef, state = nnx.split(model)
    of_task = (1.0, 0.5)
    weights, counts = slot_weights(loss_tasks(batch), of_task)

    def fused(state):
        model = nnx.merge(graphdef, state)
        return batch_loss(model, hidden_states(model, batch), batch, weights, paths=paths)

    def plain(state):
        total = 0.0
        for example in examples:
            logits = nnx.merge(graphdef, state)(example.tokens[None])[0]
            nodes = paths.nodes(example.tokens)
            for place in range(1, len(example.tokens)):
                row, target = logits[place - 1], int(example.tokens[place])
                if nodes[place] >= 0:
                    row = jnp.where(paths.allowed_Nn[nodes[place]], row[50:56], -jnp.inf)
                    target -= 50
                total -= of_task["ab".index(example.task)] * jax.nn.log_softmax(row)[target] / float(counts.sum())
        return total

    with jax.default_matmul_precision("highest"):
        (found, nll), gradient = jax.jit(jax.value_and_grad(fused, has_aux=True))(state)
        expected, expected_gradient = jax.value_and_grad(plain)(state)
    assert counts.tolist() == [9.0, 7.0]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), gradient, expected_gradient)
    sums = task_sums(nll, loss_tasks(batch), 2)
    np.testing.assert_allclose((sums * jnp.array([1.0, 0.5])).sum() / counts.sum(), found, rtol=1e-6)


def test_ranked_sids_cost_the_cross_entropy_with_their_shares(make_model, paths):
    model = make_model()
    text = np.array([3, 50, 53, 50, 54], np.int32)  # the last SID is that of item 1: tokens 0 and 4
    ranked = np.array([2, 5, 0, 4, 1, 4, 0, 3], np.int32)  # items 3, 1, 2, 0
    example = Example("a", text, 3, "row", ranked)
    (batch,) = packed_batches([example], 8, 1, 8, paths=paths, top_k=4)
    with jax.default_matmul_precision("highest"):
        nll = batch_nll(model, batch, paths=paths)["sid_task_BT"]
        logits = model(text[None])[0, :, 50:56]
    first = -jax.nn.log_softmax(logits[2][:3])  # a_1 a_2 a_3
    second = -jax.nn.log_softmax(logits[3][np.array([3, 4])])  # of a_1: b_1 b_2
    np.testing.assert_allclose(nll[0, 2], np.dot([1 / 2 + 1 / 4, 1 / 3, 1], first) / (25 / 12), rtol=1e-5)
    np.testing.assert_allclose(nll[0, 3], np.dot([1 / 4, 1 / 2], second) / (3 / 4), rtol=1e-5)


def test_a_chain_costs_what_its_rows_cost(make_model, paths):
    model = make_model()
    chain = np.array([50, 53, 51, 54, 52, 55, 50, 54], np.int32)
    rows = [Example("a", chain[:end], end - 2, str(end)) for end in (4, 6, 8)]
    graphdef, state = nnx.split(model)
    found = []
    for examples in (rows, [Example("a", chain, 2, "chain")]):
        (batch,) = packed_batches(examples, 32, 2, 8, 2, paths=paths)
        nll = jax.jit(lambda state, batch: batch_nll(nnx.merge(graphdef, state), batch, paths=paths))(state, batch)
        found.append(float(task_sums(nll, loss_tasks(batch), 1)[0]))
    assert found[0] == pytest.approx(found[1], rel=1e-5)

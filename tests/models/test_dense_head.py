"""The dense head against NumPy: vectors of items and users, scores, collisions, and the arrays that an export keeps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.models.dense_head import RECENT, DenseHead, DenseScorer

D, FIRST = 8, 20
TOKENS = np.array([[0, 2], [0, 3], [1, 3], [1, 3], [1, 2]], np.int32)  # items 2 and 3 share a SID
SIDS = np.array([0, 1, 2, 2, 3], np.int32)


def unit(x):
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


@pytest.fixture
def head():
    texts_IF = unit(np.random.default_rng(0).normal(size=(5, 6)))
    made = DenseHead(texts_IF, TOKENS, SIDS, first_id=FIRST, d_model=D, temperature=0.05, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(1)
    kernels = made.sid_DD, made.state_DD, made.history_text_FD, made.history_sid_DD
    for param in (*kernels, made.recency_R):  # far from where they begin
        param[...] = jnp.asarray(rng.normal(0.0, 0.5, param[...].shape), jnp.float32)
    return made


@pytest.fixture
def table_VD():
    return np.random.default_rng(2).normal(size=(30, D)).astype(np.float32)


def test_scores_are_cosines_of_items_and_users_over_the_temperature(head, table_VD):
    texts, w_state = np.asarray(head.texts_IF[...]), np.asarray(head.state_DD[...])
    rows_ID = np.stack([table_VD[FIRST + pair].mean(axis=0) for pair in TOKENS])
    kernels = (head.text_FD, head.sid_DD), (head.history_text_FD, head.history_sid_DD)
    v_ID, counted_ID = (np.array(unit(texts @ text[...] + rows_ID @ sid[...])) for text, sid in kernels)
    counted_ID[2:4] = counted_ID[2:4].mean(axis=0)

    x_BD = np.random.default_rng(3).normal(0.0, 4.0, (3, D)).astype(np.float32)
    histories = [[3, 0, 4], [], [1] * RECENT + [2, 0]]
    recency = np.asarray(head.recency_R[...])
    wanted = []
    for x_D, history in zip(x_BD, histories, strict=True):
        mean_D = np.zeros(D)
        if history:
            weights = [np.exp(recency[min(age, RECENT - 1)]) for age in reversed(range(len(history)))]
            mean_D = np.average(counted_ID[history], axis=0, weights=weights)
        u_D = unit(x_D / np.sqrt(np.mean(x_D**2)) @ w_state + float(head.history_gain[...]) * mean_D)
        logits_I = v_ID @ u_D / 0.05
        wanted.append(logits_I - np.log(np.exp(logits_I).sum()))
    scorer = head.scorer(jnp.asarray(table_VD))
    padded_BH = np.array([history + [4] * (40 - len(history)) for history in histories], np.int32)
    lengths_B = np.array([len(history) for history in histories], np.int32)
    np.testing.assert_allclose(scorer.item_vectors_ID, v_ID, atol=1e-6)
    np.testing.assert_allclose(scorer.scores(x_BD, padded_BH, lengths_B), wanted, atol=1e-4)
    again = DenseScorer.from_arrays(scorer.to_arrays())
    np.testing.assert_array_equal(
        jax.jit(DenseScorer.scores)(again, x_BD, padded_BH, lengths_B),
        jax.jit(DenseScorer.scores)(scorer, x_BD, padded_BH, lengths_B),
    )


def test_a_new_head_ranks_items_by_the_likeness_of_their_texts_to_the_history(table_VD):
    texts_IF = unit(np.random.default_rng(0).normal(size=(5, 6)))
    head = DenseHead(texts_IF, TOKENS, np.arange(5), first_id=FIRST, d_model=D, temperature=0.05, rngs=nnx.Rngs(0))
    x_BD = np.random.default_rng(3).normal(size=(5, D)).astype(np.float32)
    scores_BI = head.scorer(jnp.asarray(table_VD)).scores(x_BD, np.arange(5)[:, None], np.ones(5, np.int32))
    likeness_II = texts_IF @ texts_IF.T
    for scores_I, likeness_I in zip(np.asarray(scores_BI), likeness_II, strict=True):
        assert np.corrcoef(scores_I, likeness_I)[0, 1] > 0.95
    assert (np.argmax(scores_BI, axis=1) == np.arange(5)).all()

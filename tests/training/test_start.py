"""The loss before the first step and the scales that make it smallest, against plain arithmetic on the logits."""

import contextlib
import itertools
import weakref

import jax
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.data.input import packed_batches, train_batches
from tsrec_jax.data.sid_paths import SidPaths
from tsrec_jax.data.tasks.task import Example
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.sid_outputs import give_outputs, scale_outputs
from tsrec_jax.training import start
from tsrec_jax.training.loop import put_batch
from tsrec_jax.training.loss import SftLoss
from tsrec_jax.training.settings import TrainSettings
from tsrec_jax.training.start import SidPlaces, sid_losses
from tsrec_jax.training.step import first_step_and_state

SIDS = (("<a_1>", "<b_1>"), ("<a_1>", "<b_2>"), ("<a_2>", "<b_2>"), ("<a_3>", "<b_4>"))
PATHS = SidPaths.of_catalogue(Catalogue(tuple(Item(str(n), "") for n in range(4)), SIDS), 58)  # ids 58 to 63
LEVELS = (3, 3)


def sid_examples():
    """Words and SIDs in turn, of several lengths, so that groups have different numbers of places."""
    rng, rows = np.random.default_rng(0), []
    for index in range(21):
        pairs = [((58, 61), (58, 62), (59, 62), (60, 63))[item] for item in rng.integers(0, 4, int(rng.integers(1, 4)))]
        tokens = [int(rng.integers(1, 58)), *itertools.chain(*pairs), int(rng.integers(1, 58))]
        rows.append(Example("a", np.array(tokens, np.int32), 1, str(index)))
    return rows


def plain_losses(model, examples):
    """Mean nats at SID tokens among their siblings and over the 64 tokens: one row an example, filled up behind it."""
    tokens_BT = np.zeros((len(examples), 8), np.int32)
    for row, example in zip(tokens_BT, examples, strict=True):
        row[: len(example.tokens)] = example.tokens
    graphdef, state = nnx.split(model)
    logits_BTV = np.asarray(jax.jit(lambda state: nnx.merge(graphdef, state)(tokens_BT))(state), np.float64)
    found = []
    for logits_TV, example in zip(logits_BTV, examples, strict=True):
        nodes = PATHS.nodes(example.tokens)
        for place in np.flatnonzero(nodes >= 0):
            row, target = logits_TV[place - 1], example.tokens[place]
            siblings = row[58:][PATHS.allowed_Nn[nodes[place]]]
            found.append([np.log(np.exp(each).sum()) - row[target] for each in (siblings, row)])
    return np.mean(found, axis=0)


def test_losses_at_the_start_are_those_of_plain_log_probabilities(make_model):
    examples, found = sid_examples(), []

    def scaled(mesh=None):
        return scale_outputs(give_outputs(make_model(mesh=mesh), "scaled", LEVELS), np.array([4.0, 2.0]), LEVELS)

    for mesh in (None, make_mesh(2, 2, 2)):
        with jax.default_matmul_precision("highest"), contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh):
            batches = list(packed_batches(examples, 16, 8, 16, 2, paths=PATHS))
            found.append(sid_losses(scaled(mesh), batches, PATHS, chunk=3))
    with jax.default_matmul_precision("highest"):
        wanted = plain_losses(scaled(), examples)
    for losses in found:
        np.testing.assert_allclose([losses["constrained"], losses["vocabulary"]], wanted, atol=1e-5)


def test_losses_hold_the_logits_of_one_batch_at_a_time(make_model, monkeypatch):
    alive, most = 0, 0

    class Counted(SidPlaces):
        def __post_init__(self):
            nonlocal alive, most
            alive += 1
            most = max(most, alive)
            weakref.finalize(self, gone)

    def gone():
        nonlocal alive
        alive -= 1

    monkeypatch.setattr(start, "SidPlaces", Counted)
    batches = list(packed_batches(sid_examples(), 16, 2, 32, 2, paths=PATHS))
    start.sid_losses(make_model(), batches, PATHS)
    assert len(batches) > 3 and most <= 2  # the next one is there before the last one is let go


@pytest.mark.parametrize("objective", ["constrained", "vocabulary"])
def test_the_best_scales_are_those_of_a_search_on_a_grid(objective):
    rng = np.random.default_rng(3)
    node_M = rng.integers(0, len(PATHS.allowed_Nn), 60)
    target_M = np.array([rng.choice(np.flatnonzero(PATHS.allowed_Nn[node])) for node in node_M])
    logits_Mn = rng.normal(0.0, 3.0, (60, 6)).astype(np.float32)
    logits_Mn[np.arange(60), target_M] += 1.5  # it knows something, and is too sure
    places = SidPlaces(logits_Mn, rng.normal(3.0, 1.0, 60).astype(np.float32), node_M, target_M, PATHS)

    def loss(scales):
        total = 0.0
        for logits_n, rest, node, target in zip(logits_Mn, places.rest_M, node_M, target_M, strict=True):
            scaled_n = logits_n.astype(float) * np.repeat(scales, 3)
            members = scaled_n[PATHS.allowed_Nn[node]] if objective == "constrained" else np.append(scaled_n, rest)
            total += np.log(np.exp(members).sum()) - scaled_n[target]
        return total / 60

    best = places.best_scales(objective)
    assert loss(best) < loss(np.ones(2)) - 0.01
    assert places.loss(objective, best)[0] == pytest.approx(loss(best))
    grid = np.exp(np.linspace(-2, 1, 16))
    assert loss(best) <= min(loss(np.array(scales)) for scales in itertools.product(grid, grid)) + 1e-9


def test_scales_are_learned_and_are_all_that_a_frozen_trunk_leaves_beside_the_tables(make_model):
    settings = TrainSettings(max_steps=4, learning_rate=1e-2, warmup_steps=0, freeze="trunk", weight_decay=0.1)
    batches = train_batches(
        {"a": sid_examples()},
        rates={"a": 1.0},
        sequence_length=16,
        rows=8,
        loss_slots=16,
        accumulation=1,
        seed=0,
        paths=PATHS,
    )
    model = give_outputs(make_model(), "scaled", LEVELS)
    before = np.asarray(model.blocks.q[...])
    step, state = first_step_and_state(model, SftLoss({"a": 1.0}, settings, PATHS), settings, 58)
    scales = []
    for number in range(1, 4):
        state, _ = step.update(state, put_batch(batches.batch(number), None))
        scales.append(np.asarray(state.model.sid_scale[...]))
    assert all((one != other).all() for one, other in itertools.pairwise([np.ones(2, np.float32), *scales]))
    np.testing.assert_array_equal(state.model.blocks.q[...], before)
    assert step.update._cache_size() == 1

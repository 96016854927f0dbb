import dataclasses

import jax
import numpy as np
import pytest
from flax import nnx

from tests.baselines.catalogues import catalogue_of, quiet, rows_of
from tsrec_jax.baselines import sasrec
from tsrec_jax.baselines.choosing import Choice
from tsrec_jax.baselines.packed_chains import Packed, pack_chains, pad_histories
from tsrec_jax.baselines.ranking import rank_sids
from tsrec_jax.baselines.sasrec import SasRecSettings, svd_features, train_sasrec, training_flops
from tsrec_jax.baselines.sasrec_model import SasRec, Shape
from tsrec_jax.baselines.tables import Seen
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.data.user_sequences import ItemSequence
from tsrec_jax.errors import UserError

SHAPE = Shape(width=16, blocks=2, heads=2, mlp=32, dropout=0.1, id_dropout=0.2)
SETTINGS = SasRecSettings(shape=SHAPE, slots=16, rows=4, learning_rate=1e-2, epochs=30, patience=30)
TITLES = [
    f"{colour} {thing}" for colour in ("red", "blue", "green", "black") for thing in ("drill", "saw", "lamp", "glue")
]


def next_item(item):
    return (item * 3 + 1) % 12  # items 12 to 15 are never had


def rows_of_users(users, rng):
    """All prefixes of each user's sequence, which follows `next_item` from a random start."""
    names, histories, targets = [], [], []
    for user in range(users):
        sequence = [int(rng.integers(0, 12))]
        for _ in range(rng.integers(1, 6)):
            names.append(f"u{user}")
            histories.append(tuple(sequence))
            sequence.append(next_item(sequence[-1]))
            targets.append(sequence[-1])
    return Interactions(tuple(names), tuple(histories), np.array(targets, np.int32))


CATALOGUE = catalogue_of(TITLES)
TRAIN, SELECT = rows_of_users(60, np.random.default_rng(0)), rows_of_users(20, np.random.default_rng(1))


@pytest.fixture(scope="module")
def fitted():
    return train_sasrec(CATALOGUE, TRAIN, SELECT, SETTINGS, 0, quiet)


@pytest.fixture(scope="module")
def fitted_text():
    return train_sasrec(CATALOGUE, TRAIN, SELECT, dataclasses.replace(SETTINGS, features=6), 0, quiet)


@pytest.mark.parametrize("name", ["fitted", "fitted_text"])
def test_it_learns_a_rule_without_chance(name, request):
    scores_BI = request.getfixturevalue(name).scores([(item,) for item in range(12)])
    assert scores_BI.dtype == np.float32
    assert scores_BI.argmax(axis=1).tolist() == [next_item(item) for item in range(12)]


def states_of(model, packed: Packed):
    return np.asarray(model(model.items(), packed.items_BT, packed.positions_BT, packed.segments_BT))


def test_a_later_item_leaves_earlier_states_as_they_are():
    model = SasRec(np.ones(16, bool), 5, SHAPE, None, nnx.Rngs(0))
    first, second = (states_of(model, pad_histories(((1, 2, 3, last, 5),), 1, 5)) for last in (4, 9))
    np.testing.assert_array_equal(first[:, :3], second[:, :3])
    assert (np.abs(first[:, 3:] - second[:, 3:]).max(axis=-1) > 1e-3).all()


def test_a_chain_in_a_packed_row_has_the_states_that_it_has_alone():
    model = SasRec(np.ones(16, bool), 5, SHAPE, None, nnx.Rngs(0))
    packed = pack_chains([ItemSequence((1, 2, 3, 4), 1, ()), ItemSequence((5, 6, 7), 1, ())], 8, np.arange(2))
    together = states_of(model, packed)[0]
    for segment in (1, 2):
        history = packed.items_BT[0, packed.segments_BT[0] == segment]
        alone = states_of(model, pad_histories((tuple(map(int, history)),), 1, 5))[0, : len(history)]
        np.testing.assert_allclose(together[packed.segments_BT[0] == segment], alone, atol=1e-5)


def test_items_never_had_differ_by_their_text_only():
    catalogue = catalogue_of([*TITLES, TITLES[13]])  # item 16 has the text of item 13
    fitted = train_sasrec(catalogue, TRAIN, SELECT, dataclasses.replace(SETTINGS, features=6, epochs=2), 0, quiet)
    scores_BI = fitted.scores([(0,), (3, 4)])
    np.testing.assert_allclose(scores_BI[:, 16], scores_BI[:, 13], rtol=1e-4, atol=1e-5)
    assert (np.abs(scores_BI[:, 12] - scores_BI[:, 13]) > 1e-3).all()


def test_training_does_not_push_down_items_never_had(fitted_text):
    model = nnx.merge(*fitted_text.model)
    logits = np.asarray(model.answers(np.zeros((1, 16))))
    assert np.isinf(logits[0, 12:]).all()
    assert (logits[0, :12] == 0).all()


def test_one_program_trains_and_one_scores():
    for program in (sasrec._step, sasrec._newest_scores):
        program.clear_cache()
    again = train_sasrec(CATALOGUE, TRAIN, SELECT, dataclasses.replace(SETTINGS, epochs=3), 0, quiet)
    again.scores([(0,)])
    assert sasrec._step._cache_size() == 1
    assert sasrec._newest_scores._cache_size() == 1


def test_the_same_seed_gives_the_same_scores_and_another_gives_others():
    short = dataclasses.replace(SETTINGS, epochs=2)
    one, same, other = (train_sasrec(CATALOGUE, TRAIN, SELECT, short, seed, quiet) for seed in (0, 0, 1))
    np.testing.assert_array_equal(one.scores([(1,)]), same.scores([(1,)]))
    assert np.abs(one.scores([(1,)]) - other.scores([(1,)])).max() > 1e-3


def test_it_stops_when_selection_stops_growing_and_keeps_the_best_epoch(monkeypatch):
    values, kept = iter([(0.0, 0.1), (-1.0, 0.3), (2.0, 0.2), (2.0, 0.2)]), []

    def choose(fitted, rows, catalogue):
        assert rows == SELECT.spread(7)
        kept.append(dataclasses.replace(fitted, seen=Seen(-1.0, 0.5, catalogue.sid_numbers_I)).scores([(0, 1)]))
        seen, value = next(values)
        return Choice({"seen": seen, "seen_decay": 0.5}, value, ())

    monkeypatch.setattr(sasrec.FittedSasRec, "choose", choose)
    monkeypatch.setattr(sasrec, "MOST_JUDGES", 7)
    fitted = train_sasrec(CATALOGUE, TRAIN, SELECT, dataclasses.replace(SETTINGS, patience=2), 0, quiet)
    settings = fitted.facts["settings"]
    assert (fitted.facts["epochs"], settings["best_epoch"], settings["seen"]) == (4, 2, -1.0)
    np.testing.assert_array_equal(fitted.scores([(0, 1)]), kept[1])
    assert np.abs(kept[3] - kept[1]).max() > 1e-3


def rows_of_pairs(pairs):
    histories, targets = zip(*pairs, strict=True)
    return Interactions(tuple(map(str, range(len(pairs)))), histories, np.array(targets, np.int32))


def test_items_of_the_history_stand_as_high_as_selection_has_them():
    """Its rule is learned; users come back to the item before the newest, which the rule never says, or never do."""
    had = [((item + 5) % 12, item) for item in range(12)]
    rest = [[other for other in range(12) if other not in history] for history in had]
    never = rows_of_pairs([(history, others[0]) for history, others in zip(had, rest, strict=True)])
    found = {}
    for name, rows in (("back", rows_of_pairs([(history, history[0]) for history in had])), ("never", never)):
        fitted = train_sasrec(CATALOGUE, TRAIN, rows, dataclasses.replace(SETTINGS, epochs=6), 0, quiet)
        order_BI = np.argsort(-fitted.scores(had), axis=1)
        found[name] = [set(order_I[:2]) == set(history) for order_I, history in zip(order_BI, had, strict=True)]
        if name == "never":
            assert [set(order_I[-2:]) for order_I in order_BI] == [set(history) for history in had]
    assert all(found["back"]) and not any(found["never"])


def test_facts_count_what_was_trained(fitted):
    facts = fitted.facts
    assert facts["tokens"] == len(TRAIN) * facts["epochs"]
    context = max(map(len, TRAIN.histories))
    norms, block = 6 * 2 * 16, 16 * 48 + 48 + 16 * 16 + 16 + 16 * 32 + 32 + 32 * 16 + 16
    assert facts["parameters"] == 16 * 16 + context * 16 + norms + 2 * block
    weights = 16 * 16 + 2 * (4 * 16 * 16 + 2 * 16 * 32)
    positions = 4 * 16
    assert facts["flops"] == facts["steps"] * (6 * weights * positions + 12 * 16 * 2 * positions * 16)


def test_the_compiler_counts_as_many_flops():
    model = SasRec(np.ones(400, bool), 8, Shape(), np.ones((400, 32), np.float32), nnx.Rngs(0))
    settings = SasRecSettings(features=32)
    graph, parameters, constants = nnx.split(model, nnx.Param, ...)
    batch = pack_chains([ItemSequence((1, 2, 3), 1, ())], 64, np.arange(1)).rows(0, settings.rows)
    moments = sasrec._optimiser(settings).init(parameters)
    lowered = sasrec._step.lower(graph, parameters, constants, moments, batch, jax.random.key(0), settings)
    counted = lowered.compile().cost_analysis()["flops"]
    assert training_flops(model, settings, 1) == pytest.approx(counted, rel=0.25)  # it counts norms and softmax too


def test_svd_features_keep_the_cosines_that_they_can():
    features_IK = svd_features(CATALOGUE, 100)
    assert features_IK.shape == (16, 7)  # eight words
    assert np.square(features_IK).sum(axis=1).mean() == pytest.approx(1, rel=1e-5)
    near, far = features_IK[0] @ features_IK[1], features_IK[0] @ features_IK[5]  # red drill, red saw, blue saw
    assert near > far + 0.2
    assert (np.take_along_axis(features_IK, np.abs(features_IK).argmax(0)[None], 0) > 0).all()


def test_svd_features_are_the_same_every_time():
    catalogue = catalogue_of(["red drill", "red saw", "blue saw", "blue drill", "red lamp", "blue lamp", "red drill"])
    first = svd_features(catalogue, 256)
    assert all(np.array_equal(svd_features(catalogue, 256), first) for _ in range(30))


def test_longer_histories_than_train_has_are_cut_to_their_newest_items(fitted):
    context = max(map(len, TRAIN.histories))
    long = tuple(range(12))
    unseen = dataclasses.replace(fitted, seen=None)
    np.testing.assert_array_equal(unseen.scores([long]), unseen.scores([long[-context:]]))


def test_a_loss_that_is_not_finite_is_refused():
    with pytest.raises(UserError, match="smaller learning rate"):
        train_sasrec(CATALOGUE, TRAIN, SELECT, dataclasses.replace(SETTINGS, learning_rate=1e30), 0, quiet)


def test_ranks_hold_each_sid_once(fitted):
    lists = rank_sids(fitted.scores([(0,), (1, 2)]), CATALOGUE, 16)
    assert all(len(set(ranked)) == 16 for ranked in lists)


def test_selection_without_rows_is_refused():
    with pytest.raises(UserError, match="no rows"):
        train_sasrec(CATALOGUE, TRAIN, rows_of(), dataclasses.replace(SETTINGS, epochs=1), 0, quiet)

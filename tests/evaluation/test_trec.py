"""Runs and qrels, read as trec_eval reads them: fields between white space, order by score alone."""

import math

import numpy as np
import pytest

from tests.evaluation.catalogues import catalogue_of
from tsrec_jax.data.target_ranks import find_targets
from tsrec_jax.evaluation.trec import write_trec


def read_qrels(path):
    found = {}
    for query, zero, document, relevance in map(str.split, path.read_text().splitlines()):
        assert zero == "0"
        found.setdefault(query, {})[document] = int(relevance)
    return found


def read_run(path, tag):
    """{query: documents in the order of their scores}; trec_eval holds scores in float32 and heeds no rank."""
    found = {}
    for query, q0, document, place, score, name in map(str.split, path.read_text().splitlines()):
        assert (q0, name) == ("Q0", tag)
        scored = found.setdefault(query, {})
        assert document not in scored
        assert int(place) == len(scored) + 1
        scored[document] = np.float32(score)
    for scored in found.values():
        assert len(set(scored.values())) == len(scored), "a tie would be broken by name"
    return {query: sorted(scored, key=scored.get, reverse=True) for query, scored in found.items()}


def test_figures_of_the_files_are_those_of_the_report(tmp_path):
    catalogue = catalogue_of([(n // 2, 0) for n in range(60)])  # two items a SID
    rng, sids = np.random.default_rng(0), list(catalogue.items_of_sid)
    targets = rng.integers(0, 60, 40)
    lists = [list(rng.permutation(sids)[: rng.integers(1, 21)]) for _ in targets]
    write_trec(tmp_path / "trec", [catalogue.sid(n) for n in targets], {"repeat last": lists, "other": lists[::-1]})
    assert {path.name for path in (tmp_path / "trec").iterdir()} == {"qrels.trec", "repeat_last.trec", "other.trec"}
    qrels = read_qrels(tmp_path / "trec" / "qrels.trec")
    run = read_run(tmp_path / "trec" / "repeat_last.trec", "repeat_last")
    assert list(qrels) == list(run) == [str(n) for n in range(1, 41)]
    hits, gains = [], []
    for query, relevant in qrels.items():
        places = [place for place, sid in enumerate(run[query][:10]) if relevant.get(sid)]
        hits.append(bool(places))
        gains.append(sum(1 / math.log2(place + 2) for place in places))
    placed = find_targets(lists, targets, catalogue)
    assert np.mean(hits) == pytest.approx(placed.mean("sid", "HR@10"))
    assert np.mean(gains) == pytest.approx(placed.mean("sid", "NDCG@10"))


def test_white_space_in_a_sid_does_not_end_its_field(tmp_path):
    (tmp_path / "gone.trec").write_text("of a system that is evaluated no more")
    write_trec(tmp_path, ["<a 1><b>"], {"s": [["<a 1><b>", "<a\t1><b>"]]})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["qrels.trec", "s.trec"]
    assert read_qrels(tmp_path / "qrels.trec") == {"1": {"<a%201><b>": 1}}
    assert read_run(tmp_path / "s.trec", "s") == {"1": ["<a%201><b>", "<a%091><b>"]}

"""The decoding benchmark on a miniature: all methods agree, the report holds what was measured, a cut run goes on."""

import json

import numpy as np
import pytest

pytest.importorskip("torch", reason="needs torch (extra `peers`): the benchmark compares with its models")

from benchmarks import decode
from benchmarks.decoding import cases, comparison, constraint, curves
from benchmarks.decoding.builds import generated_codes
from benchmarks.decoding.constraints import SparseTransitions
from benchmarks.decoding.floor import floor_of, gemm_rate
from benchmarks.decoding.ours import search_pair
from benchmarks.decoding.parity import compare
from benchmarks.decoding.pluggable_search import HostTrie, search_on_host, search_under
from benchmarks.decoding.problem import Lists


@pytest.mark.filterwarnings("ignore")  # torch and transformers warn about themselves
def test_all_methods_rank_the_same_sids():
    problem, beams = cases.miniature(), 10  # wider than the first level
    with comparison.methods_of(problem, beams) as methods:
        found = {name: method() for name, method in methods.items()}
    assert set(found) == {comparison.OURS, *comparison.PEERS}
    matrix = SparseTransitions.build(problem.codes_NC, problem.level_sizes)
    found["STATIC"] = search_under(problem, matrix, beams)()
    found["host trie"] = search_on_host(problem, HostTrie(problem.codes_NC, problem.level_sizes), beams)()
    for name, lists in found.items():
        parity = compare(found[comparison.OURS], lists)
        assert (parity.agreeing, parity.identical) == (3, 3), name
        assert parity.score_difference < 1e-4, name


def test_with_the_constraint_taken_out_the_search_leaves_the_catalogue_and_with_either_trie_it_does_not():
    codes_NC = generated_codes(40, (8, 8, 8, 8))
    problem = constraint.small_problem(codes_NC, (8, 8, 8, 8))
    bound, free = (method() for method in search_pair(problem, 10))
    static = search_under(problem, SparseTransitions.build(codes_NC, (8, 8, 8, 8)), 10)()
    assert compare(bound, static).identical == len(problem.prompts)
    sids = set(map(tuple, codes_NC.tolist()))
    assert all(tuple(codes) in sids for codes in bound.codes_BWC.reshape(-1, 4).tolist())
    assert not all(tuple(codes) in sids for codes in free.codes_BWC.reshape(-1, 4).tolist())
    assert (free.scores_BW[:, 0] > bound.scores_BW[:, 0]).all()


def test_swapped_neighbours_disagree_only_where_scores_are_apart():
    codes_BWC = np.arange(4, dtype=np.int32)[None, :, None]
    scores_BW = np.array([[-1.0, -1.00005, -2.0, -3.0]], np.float32)
    near, apart = codes_BWC[:, [1, 0, 2, 3]], codes_BWC[:, [0, 1, 3, 2]]
    wanted = Lists(codes_BWC, scores_BW)
    assert (compare(Lists(near, scores_BW), wanted).identical, compare(Lists(near, scores_BW), wanted).agreeing) == (
        0,
        1,
    )
    assert compare(Lists(apart, scores_BW), wanted).agreeing == 0
    shorter = Lists(codes_BWC, np.array([[-1.0, -1.00005, -2.0, -np.inf]], np.float32))
    assert compare(shorter, wanted).agreeing == 0


def test_the_floor_counts_every_product_once():
    problem = cases.miniature()
    config, batch, length, shared = problem.model.config, 3, 12, 4
    projections = 32 * 32 * 2 + 2 * 32 * 16 + 3 * 32 * 48
    new = length - shared
    keys = sum(range(shared + 1, length + 1)) * 2 * 32
    prefill = new * projections + keys + new * 2 * 32 * 16 + (projections - 2 * 32 * 16) + length * 2 * 32
    widths = [4, 4]
    steps = sum(w * 2 * (projections + (length + s) * 2 * 32) for s, w in enumerate(widths, 1))
    floor = floor_of(problem, 4)
    assert config.num_layers == 2
    assert floor.prefill == 2 * batch * prefill
    assert floor.steps == 2 * batch * steps
    assert gemm_rate(8, 8, 8, seconds=0.0) > 0
    assert floor.head == 2 * batch * (1 + sum(widths)) * 32 * problem.num_tokens


@pytest.mark.filterwarnings("ignore")
def test_the_whole_benchmark_reports_and_goes_on_after_a_cut(tmp_path, monkeypatch):
    monkeypatch.setattr(cases, "tiny_qwen2", cases.miniature)
    monkeypatch.setattr(comparison, "gemm_rate", lambda *shape: 1e9)
    monkeypatch.setattr(comparison, "square_rate", lambda: 2e9)
    monkeypatch.setattr(curves, "CACHE_LIMIT", 0)  # ours alone
    monkeypatch.setattr(curves, "HOST_LIMIT", 0)
    monkeypatch.setattr(curves, "qwen2_config", lambda rows, *_: cases.qwen2_config(rows, 32, 48, 1, 2, 1))
    arguments = f"--parts=cases,curves --cases=miniature --repeats=2 --beams=4 --curve_items=1000 --workdir={tmp_path}"
    options = decode.parse([*arguments.split(), f"--out={tmp_path}/all.json", f"--markdown={tmp_path}/page.md"])
    found = decode.measure(options, "the command")
    text = decode.write_report(found, options.markdown)
    assert json.loads((tmp_path / "all.json").read_text()) == json.loads(json.dumps(found))
    assert (tmp_path / "page.md").read_text() == text
    assert (tmp_path / "page" / "beams.png").exists() and (tmp_path / "page" / "items.png").exists()
    facts = found["cases"]["miniature/4"]
    assert all(parity["agreeing"] == 3 for parity in facts["parity"].values())
    assert 0 < facts["floor_share"] and facts["ratios"].keys() == set(comparison.PEERS)

    def fail(*arguments, **settings):
        raise AssertionError("measured again what is kept")

    monkeypatch.setattr(decode, "measure_case", fail)
    again = decode.measure(options, "the command")
    assert again == json.loads(json.dumps(found))

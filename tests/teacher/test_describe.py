"""The whole of `describe`: every backend, what is on disk, what a killed or failed run leaves, and the key."""

import dataclasses
import json
import logging
import pathlib
import signal
import subprocess
import sys
import time

import pytest

from tests.said import said
from tests.teacher.server import GOOD, SECRET, network_settings
from tsrec_jax.data.catalogue import Catalogue, TokenDescription
from tsrec_jax.data.faults import DatasetError
from tsrec_jax.data.token_descriptions import write_token_descriptions
from tsrec_jax.errors import UserError
from tsrec_jax.teacher.answers import parse_answer
from tsrec_jax.teacher.describe import CACHE_NAME, FACTS_NAME, describe, plan
from tsrec_jax.teacher.settings import DescribeSettings


def facts_of(folder):
    return json.loads((folder / FACTS_NAME).read_text())


def test_a_model_describes_every_token(catalogue, settings, server, tmp_path, virtual_time):
    clusters = describe(catalogue, settings, tmp_path, virtual_time.clock)
    assert clusters == tuple(
        TokenDescription(t, GOOD["description"], tuple(GOOD["keywords"])) for t in catalogue.tokens
    )
    assert len(server.requests) == 4
    facts = facts_of(tmp_path)
    assert (facts["backend"], facts["model"], facts["server"]) == (settings.backend, "some-model", "127.0.0.1")
    assert (facts["questions"], facts["cached"], facts["requests"], facts["input_tokens"]) == (4, 0, 4, 400)
    assert (facts["answers"], facts["failed"], facts["cost"]) == (4, 0, None)


def test_a_second_run_asks_nothing(catalogue, settings, server, tmp_path, monkeypatch):
    first = describe(catalogue, settings, tmp_path)
    for variable in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    assert describe(catalogue, settings, tmp_path) == first
    assert len(server.requests) == 4
    assert (facts_of(tmp_path)["cached"], facts_of(tmp_path)["requests"]) == (4, 0)


def test_a_cap_counts_what_earlier_runs_asked_and_a_higher_one_goes_on(catalogue, settings, server, tmp_path):
    for _ in range(2):
        with pytest.raises(UserError, match=r"max_questions allows no further question: 3 answers .*1 questions are"):
            describe(catalogue, dataclasses.replace(settings, max_questions=3), tmp_path)
        assert len(server.requests) == 3
    assert len(describe(catalogue, dataclasses.replace(settings, max_questions=4), tmp_path)) == 4
    assert len(server.requests) == 4


@pytest.mark.parametrize("change", [{"model": "other"}, {"num_keywords": 9}, {"temperature": 0.5}])
def test_another_model_prompt_or_temperature_asks_anew(catalogue, server, tmp_path, monkeypatch, change):
    pytest.importorskip("openai")
    settings = network_settings("openai", server, monkeypatch)
    describe(catalogue, settings, tmp_path)
    describe(catalogue, dataclasses.replace(settings, **change), tmp_path)
    assert len(server.requests) == 8


MISBEHAVIOURS = [
    "429", "500", "503", "slow", "drop", "bad JSON", "prose", "empty", "refused", "blocked", "cut off",
    "missing key", "empty keywords", "busy", "deep", "half a character", "null choice", "a list",
]  # fmt: skip


def test_a_server_that_misbehaves_in_every_way_is_outlasted(catalogue, settings, server, tmp_path, virtual_time):
    server.faults = [*MISBEHAVIOURS, "fenced"]
    settings = dataclasses.replace(settings, max_attempts=20, timeout_seconds=0.5)
    clusters = describe(catalogue, settings, tmp_path, virtual_time.clock)
    assert all(cluster.keywords == tuple(GOOD["keywords"]) for cluster in clusters)
    assert len(server.requests) == len(MISBEHAVIOURS) + 4


def test_tokens_without_an_answer_are_listed_and_a_rerun_asks_only_for_them(
    catalogue, settings, server, tmp_path, virtual_time
):
    server.always = {"Steel pipe clamp": "empty keywords"}  # shown for <a_2>, <b_1> and as a neighbour for <b_2>
    settings = dataclasses.replace(settings, max_attempts=2)
    with pytest.raises(UserError) as caught:
        describe(catalogue, settings, tmp_path, virtual_time.clock)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("3 of 4 tokens have no answer")
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["<a_2>", "<b_1>", "<b_2>"]
    assert all("the list of keywords is empty" in line for line in lines[1:])
    assert (facts_of(tmp_path)["answers"], facts_of(tmp_path)["failed"]) == (1, 3)
    server.always, server.requests = {}, []
    assert len(describe(catalogue, settings, tmp_path, virtual_time.clock)) == 4
    assert len(server.requests) == 3


KILLED_RUN = """
import pathlib, sys
from tests.teacher.test_describe import large_catalogue
from tsrec_jax.teacher.describe import describe
from tsrec_jax.teacher.settings import DescribeSettings
settings = DescribeSettings(backend="openai", model="some-model", base_url=sys.argv[1], concurrency=1)
describe(large_catalogue(), settings, pathlib.Path(sys.argv[2]))
"""


def large_catalogue():
    from tsrec_jax.data.catalogue import Item

    items = tuple(Item(f"p{n}", f"thing number {n}") for n in range(12))
    return Catalogue(items, tuple((f"<a_{n}>",) for n in range(12)))


def test_a_killed_run_loses_nothing_that_was_answered(server, tmp_path, monkeypatch):
    pytest.importorskip("openai")
    settings = network_settings("openai", server, monkeypatch)
    server.faults = [""] * 5 + ["hold"]
    arguments = [sys.executable, "-c", KILLED_RUN, server.url, str(tmp_path)]
    process = subprocess.Popen(arguments, cwd=pathlib.Path(__file__).parents[2], stdout=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while len(server.requests) < 6 and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    with (tmp_path / CACHE_NAME).open("ab") as file:
        file.write(b'{"key": "half a li')
    asked = [request.prompt for request in server.requests]
    assert len(asked) == 6
    server.requests = []
    clusters = describe(large_catalogue(), settings, tmp_path)
    assert len(clusters) == 12
    again = [request.prompt for request in server.requests]
    assert len(again) == 7
    assert set(asked) & set(again) == {asked[5]}


def test_the_key_appears_in_no_file_line_error_or_log(catalogue, settings, server, tmp_path, virtual_time, caplog):
    caplog.set_level(logging.DEBUG)
    settings = dataclasses.replace(settings, max_attempts=3)
    server.faults = ["500", "echo", "400"]
    server.always = {"Wooden bar clamp": "429"}
    with said() as lines, pytest.raises(UserError) as caught:
        describe(catalogue, settings, tmp_path, virtual_time.clock)
    server.always, server.faults = {}, ["401"] * 3
    with said() as more, pytest.raises(UserError) as refused:
        describe(catalogue, settings, tmp_path, virtual_time.clock)
    assert any(SECRET in str(request.headers) for request in server.requests)
    texts = [
        *lines,
        *more,
        str(caught.value),
        str(refused.value),
        repr(settings),
        str(plan(catalogue, settings, tmp_path)),
    ]
    texts += [path.read_text() for path in tmp_path.rglob("*") if path.is_file()]
    texts += [record.getMessage() for record in caplog.records]
    assert "[key]" in " ".join(texts)
    assert SECRET not in " ".join(texts)


def test_a_plan_counts_what_is_missing_and_sends_nothing(catalogue, settings, server, tmp_path, monkeypatch):
    for variable in ("GEMINI_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    found = plan(catalogue, dataclasses.replace(settings, input_price=1e6), tmp_path / "none")
    assert (found.questions, found.cached, found.output_tokens) == (4, 0, 4 * 220)
    assert found.cost == found.input_tokens > 1000
    assert server.requests == []
    assert not (tmp_path / "none").exists()


def test_a_plan_knows_what_is_on_disk(catalogue, settings, tmp_path):
    describe(catalogue, settings, tmp_path)
    found = plan(catalogue, settings, tmp_path)
    assert (found.cached, found.input_tokens, found.output_tokens) == (4, 0, 0)


def test_a_cached_answer_that_no_longer_passes_is_asked_again(catalogue, settings, server, tmp_path):
    describe(catalogue, settings, tmp_path)
    path = tmp_path / CACHE_NAME
    path.write_text(path.read_text().replace("keywords", "key words"))
    describe(catalogue, settings, tmp_path)
    assert len(server.requests) == 8


def test_the_offline_backend_asks_nobody(catalogue, tmp_path):
    pytest.importorskip("sklearn")
    with said() as lines:
        clusters = describe(catalogue, DescribeSettings(), tmp_path)
    assert tuple(cluster.token for cluster in clusters) == catalogue.tokens
    assert (facts_of(tmp_path)["backend"], facts_of(tmp_path)["answers"]) == ("offline", 4)
    assert sorted(path.name for path in tmp_path.iterdir()) == [FACTS_NAME]
    assert "costs nothing" in str(plan(catalogue, DescribeSettings(), tmp_path))
    assert len(lines) == 1


def test_a_level_that_only_numbers_gets_plain_words_and_no_model_is_asked_for_them(
    catalogue, server, tmp_path, monkeypatch
):
    pytest.importorskip("openai")
    counters = [0, 0, 0, 0, 1, 1]
    numbers = tuple((*sid, f"<c_{count}>") for sid, count in zip(catalogue.sids, counters, strict=True))
    counted = Catalogue(catalogue.items, numbers)
    settings = network_settings("openai", server, monkeypatch)
    assert plan(counted, settings, tmp_path, numbered=True).questions == 4
    asked = describe(counted, settings, tmp_path, numbered=True)
    found = describe(counted, DescribeSettings(), tmp_path, numbered=True)
    assert len(server.requests) == 4
    assert asked[-2:] == found[-2:]
    assert [(c.token, c.keywords) for c in found[-2:]] == [("<c_0>", ("1st item",)), ("<c_1>", ("2nd item",))]
    assert found[:-2] == describe(catalogue, DescribeSettings(), tmp_path)
    for cluster in found:
        text = json.dumps({"description": cluster.description, "keywords": cluster.keywords})
        assert parse_answer(text, cluster.token) == cluster


def test_every_path_is_described_and_those_of_few_items_without_a_model(catalogue, settings, server, tmp_path):
    settings = dataclasses.replace(settings, unit="path", input_price=1e6)
    found = plan(catalogue, settings, tmp_path)
    assert (found.questions, found.counted, found.unit) == (4, 2, "path")
    assert "4 questions" in str(found) and "2 paths of few items" in str(found)
    clusters = describe(catalogue, settings, tmp_path)
    assert [words.name for words in clusters] == [
        "<a_1>",
        "<a_2>",
        "<a_1><b_1>",
        "<a_1><b_2>",
        "<a_2><b_1>",
        "<a_2><b_2>",
    ]
    assert len(server.requests) == 4
    said = {words.name: words for words in clusters}
    assert said["<a_1><b_1>"].keywords == tuple(GOOD["keywords"])
    alone = said["<a_1><b_2>"]  # "Wooden hand drill", beside "Steel hand drill" and "Steel drill bits"
    assert (alone.prefix, alone.token) == (("<a_1>",), "<b_2>")
    assert {"wooden", "borer"} <= set(" ".join(alone.keywords).split())
    assert "Wooden hand drill" in alone.description
    facts = facts_of(tmp_path)
    assert (facts["unit"], facts["questions"], facts["counted"], facts["answers"]) == ("path", 4, 2, 6)
    assert describe(catalogue, settings, tmp_path) == clusters
    assert len(server.requests) == 4
    assert plan(catalogue, dataclasses.replace(settings, least_items=1), tmp_path).questions == 6


def test_paths_without_an_answer_are_listed_and_a_rerun_asks_only_for_them(
    catalogue, settings, server, tmp_path, virtual_time
):
    server.always = {"1, in the group:\n- Wooden": "empty keywords"}  # of <a_2><b_2> alone
    settings = dataclasses.replace(settings, max_attempts=2, unit="path")
    with pytest.raises(UserError, match=r"1 of 6 paths have no answer.*\n  <a_2><b_2>: the list of keywords"):
        describe(catalogue, settings, tmp_path, virtual_time.clock)
    server.always, server.requests = {}, []
    assert len(describe(catalogue, settings, tmp_path, virtual_time.clock)) == 6
    assert len(server.requests) == 1


def test_a_level_that_only_numbers_makes_no_paths(catalogue, tmp_path):
    counters = [0, 0, 0, 0, 1, 1]
    counted = Catalogue(catalogue.items, tuple((*s, f"<c_{n}>") for s, n in zip(catalogue.sids, counters, strict=True)))
    settings = DescribeSettings(unit="path")
    found = describe(counted, settings, tmp_path, numbered=True)
    assert [words.name for words in found[-3:]] == ["<a_2><b_2>", "<c_0>", "<c_1>"]
    assert plan(counted, settings, tmp_path, numbered=True).questions == len(found) == 8
    flat = Catalogue(catalogue.items, tuple(sid[:1] for sid in catalogue.sids))
    with pytest.raises(UserError, match=r"unit=path: the SIDs have one level"):
        describe(flat, settings, tmp_path)


def test_a_file_of_paths_is_read_where_paths_are_asked_for(catalogue, tmp_path):
    paths = describe(catalogue, DescribeSettings(unit="path"), tmp_path)
    write_token_descriptions(tmp_path / "words.json", paths)
    settings = DescribeSettings(backend="file", path=str(tmp_path / "words.json"), unit="path")
    assert describe(catalogue, settings, tmp_path) == paths
    with pytest.raises(UserError, match=r"words.json describes paths, and config.describe.unit=token; set it to path"):
        describe(catalogue, dataclasses.replace(settings, unit="token"), tmp_path)


def write_words(path, tokens):
    entries = [{"token": token, "description": f"kind {n}", "keywords": ["x"]} for n, token in enumerate(tokens)]
    path.write_text(json.dumps(entries))
    return DescribeSettings(backend="file", path=str(path))


def test_the_file_backend_reads_what_another_teacher_wrote(catalogue, tmp_path):
    settings = write_words(tmp_path / "words.json", reversed(catalogue.tokens))
    clusters = describe(catalogue, settings, tmp_path / "out")
    assert [cluster.token for cluster in clusters] == list(catalogue.tokens)
    assert clusters[0].description == "kind 3"


def test_the_file_backend_names_missing_tokens_and_a_missing_file(catalogue, tmp_path):
    settings = write_words(tmp_path / "words.json", catalogue.tokens[1:])
    with pytest.raises(DatasetError, match=r"words.json: token <a_1> has no entry"):
        describe(catalogue, settings, tmp_path)
    with pytest.raises(UserError, match=r"config.describe.path='.*absent.json': no such file"):
        describe(catalogue, dataclasses.replace(settings, path="absent.json"), tmp_path)

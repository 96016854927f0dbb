"""The network backends through their real SDKs, against a local server that answers well or badly."""

import contextlib
import dataclasses
import json
import subprocess
import sys
import time
import traceback

import pytest

from tests.teacher.server import GOOD, MODULES, ODD_BODIES, SECRET, network_settings
from tsrec_jax.data.catalogue import TokenDescription
from tsrec_jax.errors import UserError
from tsrec_jax.teacher.answers import BadAnswer, parse_answer
from tsrec_jax.teacher.backends import BACKENDS, Backend
from tsrec_jax.teacher.backends.protocol import (
    Key,
    Refused,
    Rejected,
    Reply,
    Retryable,
    failure_of_status,
    retry_after_seconds,
)
from tsrec_jax.teacher.describe import describe, plan
from tsrec_jax.teacher.settings import DescribeSettings


@pytest.fixture
def connect():
    """Connects as `describe` does, and closes what was connected."""
    with contextlib.ExitStack() as stack:
        yield lambda settings: stack.enter_context(contextlib.closing(BACKENDS[settings.backend].load()(settings)))


def test_a_good_answer_comes_with_its_tokens_and_the_request_says_what_is_wanted(connect, settings, server):
    reply = connect(settings).ask("What are these?")
    assert parse_answer(reply.text, "<a_1>").keywords == tuple(GOOD["keywords"])
    assert (reply.input_tokens, reply.output_tokens) == (100, 20)
    (request,) = server.requests
    assert request.prompt == "What are these?"
    assert "some-model" in request.path + str(request.body.get("model"))
    generation = request.body.get("generationConfig", request.body)
    assert generation["temperature"] == 0.0
    assert "json" in str(generation.get("responseMimeType", generation.get("response_format")))


def test_a_temperature_below_zero_is_not_sent(connect, settings, server):
    connect(dataclasses.replace(settings, temperature=-1.0)).ask("?")
    assert "temperature" not in str(server.requests[0].body)


@pytest.mark.parametrize("fault", ["429", "500", "503", "slow", "drop", "not JSON"])
def test_what_may_pass_is_retryable_and_asked_only_once_by_the_sdk(connect, settings, server, fault):
    server.faults = [fault]
    patience = 0.4 if fault == "slow" else 10.0
    with pytest.raises(Retryable) as caught:
        connect(dataclasses.replace(settings, timeout_seconds=patience)).ask("?")
    assert len(server.requests) == 1
    assert caught.value.retry_after == (7.0 if fault == "429" else 0.0)


@pytest.mark.parametrize("fault", ODD_BODIES)
def test_an_answer_of_another_shape_is_asked_for_again(connect, settings, server, fault):
    server.faults = [fault]
    with pytest.raises((Retryable, Refused, BadAnswer)):
        parse_answer(connect(settings).ask("?").text, "<a_1>")


def test_a_limit_that_speaks_of_billing_is_waited_for(connect, settings, server):
    server.retry_after, server.faults = "", ["busy"]
    with pytest.raises(Retryable) as caught:
        connect(settings).ask("?")
    assert "billing" in str(caught.value)
    assert caught.value.retry_after == (26.0 if settings.backend == "gemini" else 0.0)


def test_a_spent_account_ends_the_run_unless_the_server_says_when_to_come_back(connect, server, monkeypatch):
    pytest.importorskip("openai")
    teacher = connect(network_settings("openai", server, monkeypatch))
    server.retry_after, server.faults = "", ["spent"]
    with pytest.raises(UserError, match="no credit left"):
        teacher.ask("?")
    server.retry_after, server.faults = "20", ["spent"]
    with pytest.raises(Retryable):
        teacher.ask("?")


@pytest.mark.parametrize("fault", ["refused", "blocked", "cut off"])
def test_a_refusal_a_filter_and_an_answer_cut_off_are_refusals(connect, settings, server, fault):
    server.faults = [fault]
    with pytest.raises(Refused):
        connect(settings).ask("?")


@pytest.mark.parametrize("fault", ["bad JSON", "missing key", "empty keywords", "empty"])
def test_a_bad_answer_is_handed_on_to_the_check(connect, settings, server, fault):
    server.faults = [fault]
    with pytest.raises(BadAnswer):
        parse_answer(connect(settings).ask("?").text, "<a_1>")


@pytest.mark.parametrize(("fault", "error", "words"), [
    ("401", UserError, "does not accept the API key in"),
    ("404", UserError, "config.describe.model"),
    ("400", Rejected, "HTTP 400"),
])  # fmt: skip
def test_what_cannot_pass_is_not_retryable(connect, settings, server, fault, error, words):
    server.faults = [fault] * 3  # google-generativeai sends a 401 again by itself
    with pytest.raises(error, match=words):
        connect(settings).ask("?")


@pytest.mark.parametrize("fault", ["400", "401", "404", "429", "500", "slow", "drop", "echo"])
def test_the_key_is_sent_and_appears_in_no_error_answer_or_text_of_the_backend(connect, settings, server, fault):
    server.faults = [fault] * 3
    teacher = connect(dataclasses.replace(settings, timeout_seconds=0.4 if fault == "slow" else 10.0))
    try:
        said = teacher.ask("?").text
    except (UserError, Rejected, Retryable) as error:
        said = "".join(traceback.format_exception(error)) + repr(error)
    assert SECRET in str(server.requests[0].headers)
    assert "[key]" in said or fault in ("slow", "drop"), said
    assert SECRET not in said + repr(teacher) + repr(vars(teacher).get("_key"))


@pytest.mark.parametrize(("backend", "variables"), [
    ("gemini", "GEMINI_API_KEY or GOOGLE_API_KEY"), ("openai", "OPENAI_API_KEY"),
])  # fmt: skip
def test_a_missing_key_names_its_variable(connect, backend, variables, server, monkeypatch):
    pytest.importorskip(MODULES[backend])
    settings = network_settings(backend, server, monkeypatch)
    for variable in variables.split(" or "):
        monkeypatch.delenv(variable, raising=False)
    with pytest.raises(UserError, match=f"set the environment variable {variables}"):
        connect(dataclasses.replace(settings, base_url=""))


def test_a_server_of_ones_own_needs_no_key(connect, server, monkeypatch):
    pytest.importorskip("openai")
    settings = network_settings("openai", server, monkeypatch)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert connect(settings).ask("?").text


def test_openai_formats_reach_the_server(connect, server, monkeypatch):
    pytest.importorskip("openai")
    for answer_format, sent in (("schema", "json_schema"), ("object", "json_object"), ("text", None)):
        settings = network_settings("openai", server, monkeypatch, answer_format=answer_format)
        connect(settings).ask("?")
        assert server.requests[-1].body.get("response_format", {}).get("type") == sent


@pytest.mark.parametrize(("backend", "module", "words"), [
    ("gemini", "google.genai", r"pip install 'tsrec_jax\[gemini\]'"),
    ("openai", "openai", r"pip install 'tsrec_jax\[openai\]'"),
    ("gemini_legacy", "google.generativeai", r"2025-11-30.*protobuf < 6.*environment of its own.*backend 'gemini'"),
])  # fmt: skip
def test_a_missing_sdk_names_what_to_install(connect, backend, module, words, server, monkeypatch):
    settings = network_settings(backend, server, monkeypatch)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(UserError, match=words):
        connect(settings)


def test_no_sdk_is_imported_before_it_is_needed():
    code = (
        "import sys, tsrec_jax.teacher.describe\n"
        "from tsrec_jax.teacher.backends import gemini, gemini_legacy, openai\n"
        "print([m for m in ('google.genai', 'google.generativeai', 'openai') if m in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_a_key_prints_as_its_variable_and_is_taken_out_of_texts_and_addresses(monkeypatch):
    monkeypatch.setenv("GOOGLE_API_KEY", f" {SECRET}\n")
    monkeypatch.delenv("GEMINI_API_KEY", raising=False)
    key = Key.from_environment("GEMINI_API_KEY", "GOOGLE_API_KEY")
    assert (key.secret, key.variables) == (SECRET, ("GOOGLE_API_KEY",))
    assert SECRET not in repr(key)
    assert key.scrub(f"a {SECRET} b") == "a [key] b"
    assert key.scrub("?key=k3y%2Fthat%2Bnobody%3Dmay-see&x") == "?key=[key]&x"
    assert len(key.scrub_line("line\n" * 999)) < 310


def test_a_bad_key_may_come_as_a_bad_request():
    key = Key(("GEMINI_API_KEY",), "")
    assert isinstance(failure_of_status(400, "API key not valid", key), UserError)
    assert isinstance(failure_of_status(402, "pay", key), UserError)


def test_retry_after_is_read_as_seconds_or_a_date():
    date = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert retry_after_seconds({"retry-after": "2.5"}) == 2.5
    assert 50 < retry_after_seconds({"retry-after": date}) <= 60
    assert [retry_after_seconds(headers) for headers in (None, {}, {"retry-after": "soon"})] == [0.0] * 3


class ToyTeacher:
    """All that a new backend that asks a model has to bring."""

    def __init__(self, settings):
        self.text = json.dumps({**GOOD, "description": f"By {settings.model}."})

    def ask(self, prompt):
        return Reply(self.text, 10, 5)

    def close(self):
        pass


def toy_descriptions(catalogue, settings, levels):
    """All that a new backend that asks nobody has to bring."""
    return [TokenDescription(token, "toy", ("toy",)) for tokens in catalogue.level_tokens[:levels] for token in tokens]


def test_a_new_backend_that_asks_a_model_is_one_class_and_one_row(catalogue, tmp_path, monkeypatch):
    row = Backend(f"{__name__}:ToyTeacher", asks_a_model=True, needs=("model", "the name of a toy"))
    monkeypatch.setitem(BACKENDS, "toy", row)
    with pytest.raises(UserError, match=r"config\.describe\.model is empty; the backend 'toy' needs the name of a toy"):
        DescribeSettings(backend="toy")
    settings = DescribeSettings(backend="toy", model="abacus", output_price=1e6)
    assert plan(catalogue, settings, tmp_path).questions == 4
    found = describe(catalogue, settings, tmp_path)
    assert [words.description for words in found] == ["By abacus."] * 4
    assert plan(catalogue, settings, tmp_path).cached == 4
    facts = json.loads((tmp_path / "teacher.json").read_text())
    assert (facts["backend"], facts["cost"]) == ("toy", 20.0)


def test_a_new_backend_that_asks_nobody_is_one_function_and_one_row(catalogue, tmp_path, monkeypatch):
    monkeypatch.setitem(BACKENDS, "toy", Backend(f"{__name__}:toy_descriptions"))
    settings = DescribeSettings(backend="toy")
    assert "costs nothing" in str(plan(catalogue, settings, tmp_path))
    found = describe(catalogue, settings, tmp_path, numbered=True)
    assert [words.token for words in found] == list(catalogue.tokens)
    assert [words.keywords for words in found] == [("toy",), ("toy",), ("2nd item",), ("3rd item",)]

"""A local server that answers like Gemini and OpenAI, well or badly, and the settings that lead to it."""

import contextlib
import dataclasses
import http.server
import json
import socket
import threading
import time

from tsrec_jax.teacher.settings import DescribeSettings

SECRET = "k3y/that+nobody=may-see"
GOOD = {"description": "Tools that cut or drill.", "keywords": ["drill", "saw blade", "steel"]}
MODULES = {"gemini": "google.genai", "gemini_legacy": "google.generativeai", "openai": "openai"}


@dataclasses.dataclass
class Request:
    path: str
    headers: dict
    body: dict
    prompt: str


class Server:
    """Counts requests and answers them well, or as `faults` says: one name is taken from it for each request.

    `always` maps a text to a fault that every prompt with this text gets.
    """

    def __init__(self):
        self.faults = []
        self.always = {}
        self.requests = []
        self.retry_after = "7"
        self.slow_seconds = 1.0
        self.hold = threading.Event()
        self._lock = threading.Lock()
        server = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                with contextlib.suppress(ConnectionError):
                    server.handle(self)

            def log_message(self, *arguments):
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._http.daemon_threads = True
        self._http.handle_error = lambda *arguments: None
        self._thread = threading.Thread(target=self._http.serve_forever, args=(0.02,))
        self._thread.start()

    @property
    def url(self):
        return f"http://127.0.0.1:{self._http.server_port}"

    def close(self):
        self.hold.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def handle(self, handler):
        body = json.loads(handler.rfile.read(int(handler.headers["Content-Length"])))
        gemini = "generateContent" in handler.path
        prompt = body["contents"][0]["parts"][0]["text"] if gemini else body["messages"][0]["content"]
        with self._lock:
            self.requests.append(Request(handler.path, dict(handler.headers), body, prompt))
            fault = next((name for text, name in self.always.items() if text in prompt), "")
            fault = fault or (self.faults.pop(0) if self.faults else "")
        if fault == "drop":
            handler.connection.shutdown(socket.SHUT_RDWR)
            return
        if fault == "hold":
            self.hold.wait(20)
        if fault == "slow":
            time.sleep(self.slow_seconds)
        status, answer = (gemini_answer if gemini else openai_answer)(fault, handler)
        raw = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
        handler.send_response(status)
        handler.send_header("Content-Type", "application/json")
        handler.send_header("Content-Length", str(len(raw)))
        if status == 429 and self.retry_after:
            handler.send_header("Retry-After", self.retry_after)
        handler.end_headers()
        handler.wfile.write(raw)


# Answers of success whose JSON is not what was promised.
ODD_BODIES = {
    "no object": 5,
    "a list": [None],
    "deep JSON": b"[" * 100_000,
    "empty choice": {"choices": [{}], "candidates": [{"content": 5}]},
    "null choice": {"choices": [None], "candidates": [None]},
    "null message": {"choices": [{"message": None}], "candidates": [{"content": {"parts": [None]}}]},
    "listed content": {"choices": [{"message": {"content": [{"text": "x"}]}}], "candidates": "x"},
}
# Limits that pass: the words of both speak of billing.
BUSY = {
    "gemini": {
        "code": 429,
        "message": "You exceeded your current quota, please check your plan and billing details. Please retry in 26s.",
        "status": "RESOURCE_EXHAUSTED",
        "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "26s"}],
    },
    "openai": {
        "message": "Rate limit reached on requests per min. Visit https://example.org/billing to add some.",
        "type": "requests",
        "code": "rate_limit_exceeded",
    },
}
STATUSES = {"400": 400, "401": 401, "404": 404, "429": 429, "500": 500, "503": 503}


def answer_text(fault, handler):
    """The text that the model seems to write."""
    texts = {
        "bad JSON": '{"description": "Tools", "keyw',
        "prose": "Here are some tools.",
        "empty": "",
        "fenced": f"Here you are:\n```json\n{json.dumps(GOOD, indent=1)}\n```\n",
        "missing key": json.dumps({"description": "Tools."}),
        "deep": "[" * 100_000,
        "half a character": '{"description": "Tools \\ud83d", "keywords": ["drill"]}',
        "empty keywords": json.dumps({**GOOD, "keywords": []}),
        "echo": json.dumps({**GOOD, "description": f"Sent with {dict(handler.headers)} to {handler.path}"}),
    }
    return texts.get(fault, json.dumps(GOOD))


def error_message(handler):
    """Servers may repeat a request in their messages, its key included."""
    return f"no luck at {handler.path} with {[handler.headers[name] for name in ('Authorization', 'x-goog-api-key')]}"


def gemini_answer(fault, handler):
    if fault == "busy":
        return 429, {"error": BUSY["gemini"]}
    if fault in ODD_BODIES:
        return 200, ODD_BODIES[fault]
    if fault in STATUSES:
        error = {"code": STATUSES[fault], "message": error_message(handler), "status": "ERROR"}
        return STATUSES[fault], {"error": error}
    if fault == "not JSON":
        return 200, b"<html>"
    if fault == "blocked":
        return 200, {"promptFeedback": {"blockReason": "SAFETY"}, "usageMetadata": {"promptTokenCount": 10}}
    candidate = {
        "content": {"role": "model", "parts": [{"text": answer_text(fault, handler)}]},
        "finishReason": {"refused": "SAFETY", "cut off": "MAX_TOKENS"}.get(fault, "STOP"),
        "index": 0,
    }
    usage = {"promptTokenCount": 100, "candidatesTokenCount": 20, "totalTokenCount": 120}
    return 200, {"candidates": [candidate], "usageMetadata": usage}


def openai_answer(fault, handler):
    if fault == "busy":
        return 429, {"error": BUSY["openai"]}
    if fault == "spent":
        return 429, {"error": {"message": "You exceeded your current quota.", "code": "insufficient_quota"}}
    if fault in ODD_BODIES:
        return 200, ODD_BODIES[fault]
    if fault in STATUSES:
        return STATUSES[fault], {"error": {"message": error_message(handler), "type": "error", "code": None}}
    if fault == "not JSON":
        return 200, b"<html>"
    message = {"role": "assistant", "content": answer_text(fault, handler), "refusal": None}
    if fault == "refused":
        message |= {"content": None, "refusal": "I would rather not."}
    finish = {"blocked": "content_filter", "cut off": "length"}.get(fault, "stop")
    return 200, {
        "id": "1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [{"index": 0, "message": message, "finish_reason": finish, "logprobs": None}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120},
    }


def network_settings(backend, server, monkeypatch, **changes):
    for variable in ("GEMINI_API_KEY", "GOOGLE_API_KEY", "OPENAI_API_KEY"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY" if backend == "openai" else "GEMINI_API_KEY", SECRET)
    given = {"model": "some-model", "base_url": server.url, "concurrency": 1, "timeout_seconds": 10.0}
    return DescribeSettings(backend=backend, **(given | changes))

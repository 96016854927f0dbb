"""The HTTP service under load: latency and throughput by clients, then twice the load that it can bear.

    PYTHONPATH=. python benchmarks/serve.py --export=runs/quickstart/export [--seconds=20] [--queue=64] \
        [--cases=100] [--json=FILE.json] [--out=FILE.md]

Starts `tsrec serve` on a free port of the loopback and asks it from this process, so both share the machine's cores.
Every answer is compared with what the recommender, loaded here, gives to the same request alone; a wrong or lost one
makes the exit code 1. The report gives ratios; the JSON holds the times that they are of.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import http.client
import itertools
import json
import pathlib
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from benchmarks.facts import command
from tsrec_jax.pipeline.provenance import commit, machine
from tsrec_jax.serving.recommender import Answer, Recommender, Request

CLIENTS = (1, 8, 32)
NEAR = 1e-4  # nats: neighbours nearer than this may swap, since a batch of another size sums in another order
REFUSALS = (429, 504)


@dataclasses.dataclass(frozen=True)
class Case:
    """A request as it is sent, and its answer alone."""

    body: bytes
    wanted: Answer


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of one request: `status` 0 is no response at all, `seconds` its time as the client saw it."""

    case: Case
    status: int
    seconds: float
    content: bytes = b""


def make_cases(recommender: Recommender, count: int, seed: int = 0) -> list[Case]:
    """Seeded requests of 1 to 10 items, some of which leave their history out, with their answers alone."""
    rng = np.random.default_rng(seed)
    ids = [item.id for item in recommender.catalogue.find("", 10_000)]
    cases = []
    for _ in range(count):
        history = tuple(ids[index] for index in rng.integers(len(ids), size=rng.integers(1, 11)))
        request = Request(history, k=int(rng.choice((5, 10, 20))), exclude_history=bool(rng.integers(2)))
        body = {"history": history, "k": request.k, "exclude_history": request.exclude_history}
        cases.append(Case(json.dumps(body).encode(), recommender.answer([request])[0]))
    return cases


def is_answer(wanted: Answer, items: Sequence[dict[str, Any]]) -> bool:
    """Whether items and scores are the wanted ones, in their order wherever scores differ by more than NEAR."""
    if len(items) != len(wanted.items):
        return False
    if any(abs(found["score"] - item.score) > NEAR for found, item in zip(items, wanted.items, strict=True)):
        return False
    scores = {item.item_id: item.score for item in wanted.items}
    last = wanted.items[-1].score if wanted.items else 0.0  # an item that ties with the last one may be missing there
    return all(abs(scores.get(found["id"], last) - found["score"]) <= NEAR for found in items)


class Client:
    """One connection, kept open."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=90)

    def ask(self, case: Case, begun: float | None = None) -> Outcome:
        """Sends a request; its time counts from `begun` (of `time.perf_counter`) where that is given."""
        begun = time.perf_counter() if begun is None else begun
        try:
            self._connection.request("POST", "/recommend", case.body, {"Content-Type": "application/json"})
            response = self._connection.getresponse()
            content = response.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            return Outcome(case, 0, time.perf_counter() - begun)
        return Outcome(case, response.status, time.perf_counter() - begun, content)

    def close(self) -> None:
        """Ends the connection."""
        self._connection.close()


def in_threads(port: int, count: int, work: Callable[[Client], list[Outcome]]) -> list[Outcome]:
    """Outcomes of `count` clients, each with a thread of its own."""
    outcomes: list[Outcome] = []

    def run() -> None:
        client = Client(port)
        outcomes.extend(work(client))
        client.close()

    threads = [threading.Thread(target=run) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return outcomes


def closed_loop(port: int, cases: Sequence[Case], clients: int, seconds: float) -> tuple[list[Outcome], float]:
    """Clients that ask again as soon as they are answered; their outcomes, and the seconds it took."""
    turn = itertools.count()
    started = time.perf_counter()

    def work(client: Client) -> list[Outcome]:
        found = []
        while time.perf_counter() - started < seconds:
            found.append(client.ask(cases[next(turn) % len(cases)]))
        return found

    outcomes = in_threads(port, clients, work)
    return outcomes, time.perf_counter() - started


def open_loop(
    port: int, cases: Sequence[Case], rate: float, seconds: float, clients: int
) -> tuple[list[Outcome], float]:
    """Requests at fixed times, whatever the server does; a request's time counts from when it was due."""
    turn = itertools.count()
    total = int(rate * seconds)
    started = time.perf_counter()

    def work(client: Client) -> list[Outcome]:
        found = []
        while (number := next(turn)) < total:
            due = started + number / rate
            time.sleep(max(0.0, due - time.perf_counter()))
            found.append(client.ask(cases[number % len(cases)], due))
        return found

    outcomes = in_threads(port, clients, work)
    return outcomes, time.perf_counter() - started


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """Counts, the answered requests' rate and percentiles in milliseconds."""
    # Read only now: while the load runs, this process takes as little as it can of the cores that serve.
    answers = [(outcome, json.loads(outcome.content)) for outcome in outcomes if outcome.status == 200]
    if not answers:
        raise SystemExit(f"none of {len(outcomes)} requests was answered: {outcomes[:1]}")
    p50, p95, p99 = np.percentile([1000 * outcome.seconds for outcome, _ in answers], (50, 95, 99)).tolist()
    in_server = np.percentile([answer["timing_ms"]["total"] for _, answer in answers], 99)
    return {
        "requests": len(outcomes),
        "answered": len(answers),
        "per_second": len(answers) / seconds,
        "p50_ms": p50,
        "p95_ms": p95,
        "p99_ms": p99,
        "p99_ms_in_server": float(in_server),
        "wrong": sum(not is_answer(outcome.case.wanted, answer["items"]) for outcome, answer in answers),
        "lost": sum(outcome.status not in (200, *REFUSALS) for outcome in outcomes),
        **{f"status_{status}": sum(outcome.status == status for outcome in outcomes) for status in REFUSALS},
    }


@contextlib.contextmanager
def serving(export: str, queue: int) -> Iterator[int]:
    """The port of a server that has compiled all searches; it is told to stop at the end, and must then exit with 0."""
    command = [sys.executable, "-m", "tsrec_jax", "serve", f"--export={export}", "--port=0", f"--queue={queue}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = 0
        for line in process.stdout:
            if found := re.search(r"listening on http://[^ ]*:(\d+)", line):
                port = int(found[1])
            if line.startswith("compiled"):
                break
        if process.poll() is not None:
            raise SystemExit(f"the server ended with {process.returncode}")
        yield port
    finally:
        process.send_signal(signal.SIGTERM)
        code = process.wait(120)
        process.stdout.close()
    if code != 0:
        raise SystemExit(f"the server ended with {code}")


def measure(
    port: int, cases: Sequence[Case], *, seconds: float, queue: int, max_batch: int
) -> tuple[dict[int, dict[str, Any]], dict[str, Any]]:
    """Summaries by number of clients, and of twice the rate that the most clients reached."""
    closed_loop(port, cases, 8, min(2.0, seconds))  # connections, allocations and caches of a first use
    by_clients = {clients: summary(*closed_loop(port, cases, clients, seconds)) for clients in CLIENTS}
    capacity = max(row["per_second"] for row in by_clients.values())
    # As many clients as can ever wait for an answer, and more, so that refused requests never hold up the next.
    overload = summary(*open_loop(port, cases, 2 * capacity, seconds, queue + 2 * max_batch + 64))
    # An accepted request waits for the queue before it, the batch under way and its own.
    overload["bound_ms"] = 1000 * (queue + 2 * max_batch) / capacity
    overload["offered_per_second"] = overload["requests"] / seconds
    return by_clients, overload


def markdown(facts: dict[str, Any]) -> str:
    """The report."""
    by_clients, overload = facts["by_clients"], facts["overload"]
    alone = by_clients["1"]

    def times(row: dict[str, Any], *names: str) -> list[str]:
        """Latencies as multiples of the median of one client."""
        return [f"{row[f'{name}_ms'] / alone['p50_ms']:.1f}" for name in names]

    rows = [
        f"| {clients} | {row['requests']} | {row['per_second'] / alone['per_second']:.2f} "
        f"| {' | '.join(times(row, 'p50', 'p95', 'p99'))} | {row['wrong']} | {row['lost']} |"
        for clients, row in by_clients.items()
    ]
    p50, p95, p99 = times(overload, "p50", "p95", "p99")
    p99_in_server, bound = (f"{overload[key] / alone['p50_ms']:.1f}" for key in ("p99_ms_in_server", "bound_ms"))
    refused = overload["status_429"] / overload["requests"]
    lines = [
        "# The HTTP service under load",
        f"`{facts['export']}` with {facts['items']} items; clients that ask again as soon as they are answered, on the "
        "cores that also serve. Throughput as a multiple of one client's, latencies as multiples of one client's "
        "median.",
        "\n".join(
            [
                "| clients | requests | throughput | p50 | p95 | p99 | wrong | lost |",
                "|---:|---:|---:|---:|---:|---:|---:|---:|",
                *rows,
            ]
        ),
        f"At twice the highest throughput (queue {facts['queue']}): {100 * refused:.0f} % were refused at once with "
        f"429, {overload['status_504']} passed their deadline, {overload['wrong']} were wrong and {overload['lost']} "
        f"lost. Those accepted came at {overload['per_second'] / facts['capacity']:.2f} of that throughput, with p50 "
        f"{p50}, p95 {p95} and p99 {p99} from when they were due, p99 {p99_in_server} in the server; at that "
        f"throughput a full queue and two batches take {bound}.",
        f"Every answer was compared with that of the recommender alone ({facts['cases']} requests, in turn; scores to "
        f"{NEAR:g}).",
        f"Made by `{facts['command']}`: commit `{facts['commit']}`, machine `{facts['machine']}`.",
    ]
    return "\n\n".join(lines) + "\n"


def main() -> None:
    """Prints the report and writes it where asked; exits with 1 where an answer was wrong or lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--export", required=True)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--queue", type=int, default=64)
    parser.add_argument("--cases", type=int, default=100)
    parser.add_argument("--json", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path)
    arguments = parser.parse_args()
    recommender = Recommender.load(arguments.export)
    cases = make_cases(recommender, arguments.cases)
    with serving(arguments.export, arguments.queue) as port:
        by_clients, overload = measure(
            port, cases, seconds=arguments.seconds, queue=arguments.queue, max_batch=recommender.max_batch
        )
    facts = {
        "export": arguments.export,
        "items": recommender.catalogue.num_items,
        "queue": arguments.queue,
        "cases": arguments.cases,
        "seconds": arguments.seconds,
        "max_batch": recommender.max_batch,
        "capacity": max(row["per_second"] for row in by_clients.values()),
        "by_clients": {str(clients): row for clients, row in by_clients.items()},
        "overload": overload,
        "command": command(),
        "commit": commit(),
        "machine": machine(),
    }
    print(markdown(facts))
    if arguments.json:
        arguments.json.write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    if arguments.out:
        arguments.out.write_text(markdown(facts), encoding="utf-8")
    if any(row["wrong"] or row["lost"] for row in (*by_clients.values(), overload)):
        raise SystemExit("some answers were wrong or lost")


if __name__ == "__main__":
    main()

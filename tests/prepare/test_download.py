"""Downloads from a local server that drops, refuses, ignores ranges and changes its files."""

import contextlib
import hashlib
import http.server
import pathlib
import socket
import threading

import pytest

from tests.said import said
from tsrec_jax.data.folder_files import sha256_of
from tsrec_jax.errors import UserError
from tsrec_jax.prepare import download as module
from tsrec_jax.prepare.download import Patience, download

REVIEWS, METADATA = "Toys.jsonl.gz", "meta_Toys.jsonl.gz"
BODIES = {REVIEWS: bytes(range(256)) * 2000, METADATA: b"metadata"}
QUICK = Patience(attempts=3, wait=0.0, timeout=5.0)


class Server:
    """What a test sets, and what it then sees. `drops` and `codes` are used up, one a request for the reviews."""

    def __init__(self):
        self.bodies = dict(BODIES)
        self.tags = dict.fromkeys(BODIES, '"one"')
        self.ranges = True
        self.drops = []  # bytes to send before the connection closes
        self.codes = []  # 0: answer as usual
        self.shift = 0  # a wrong start of every part
        self.asked = []  # (file, Range, If-Range)


@pytest.fixture
def server(monkeypatch):
    state = Server()

    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *_):
            pass

        def do_GET(self):
            name = self.path.rsplit("/", 1)[1]
            span, condition = self.headers.get("Range"), self.headers.get("If-Range")
            state.asked.append((name, span, condition))
            code = state.codes.pop(0) if state.codes and name == REVIEWS else 0
            if code or name not in state.bodies:
                self.send_error(code or 404)
                return
            body, tag, start = state.bodies[name], state.tags[name], 0
            if span and state.ranges and condition == tag:
                start = int(span.removeprefix("bytes=").removesuffix("-"))
                if start >= len(body):
                    self.send_error(416)
                    return
                self.send_response(206)
                self.send_header("Content-Range", f"bytes {start + state.shift}-{len(body) - 1}/{len(body)}")
            else:
                self.send_response(200)
            self.send_header("Content-Length", str(len(body) - start))
            self.send_header("ETag", tag)
            self.end_headers()
            length = state.drops.pop(0) if state.drops and name == REVIEWS else len(body)
            self.wfile.write(body[start : start + length])

    running = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    monkeypatch.setattr(module, "_BLOCK", 1 << 14)
    state.url = f"http://127.0.0.1:{running.server_port}/raw/"
    yield state
    running.shutdown()
    thread.join()
    running.server_close()


def fetch(server, folder, **options):
    with said() as lines:
        source = download("amazon2023", "Toys", folder, base_url=server.url, **{"patience": QUICK, **options})
    return source, lines


def test_both_files_come_with_their_checksums_and_nothing_else_is_left(server, tmp_path):
    source, _ = fetch(server, tmp_path / "new" / "raw")
    assert source.kind == "amazon2023"
    assert (pathlib.Path(source.interactions[0]).name, pathlib.Path(source.items[0]).name) == (REVIEWS, METADATA)
    for path in map(pathlib.Path, (*source.interactions, *source.items)):
        assert path.read_bytes() == BODIES[path.name]
        digest = hashlib.sha256(BODIES[path.name]).hexdigest()
        assert path.with_name(path.name + ".sha256").read_text() == f"{digest}  {path.name}\n"
    assert len(list((tmp_path / "new" / "raw").iterdir())) == 4


def test_the_addresses_are_those_of_the_two_editions(monkeypatch, tmp_path):
    asked = []

    def refuse(url, *_):
        asked.append(url)
        raise UserError("no")

    monkeypatch.setattr(module, "_fetch", refuse)
    for kind in ("amazon2018", "amazon2023"):
        for there in ((), (f"Toys.json{'l' * (kind[-1] == '3')}.gz",)):
            for name in there:
                (tmp_path / name).write_bytes(b"x")
            with pytest.raises(UserError):
                download(kind, "Toys", tmp_path)
    old, new = "https://datarepo.eng.ucsd.edu/mcauley_group/data/", "https://mcauleylab.ucsd.edu/public_datasets/data/"
    assert asked == [
        f"{old}amazon_v2/categoryFiles/Toys.json.gz",
        f"{old}amazon_v2/metaFiles2/meta_Toys.json.gz",
        f"{new}amazon_2023/raw/review_categories/Toys.jsonl.gz",
        f"{new}amazon_2023/raw/meta_categories/meta_Toys.jsonl.gz",
    ]


def test_a_dropped_connection_goes_on_where_it_stopped(server, tmp_path):
    server.drops = [100_000, 50_000]
    source, lines = fetch(server, tmp_path)
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]
    spans = [(span, condition) for name, span, condition in server.asked if name == REVIEWS]
    assert spans == [(None, None), ("bytes=100000-", '"one"'), ("bytes=150000-", '"one"')]
    assert any("dropped" in line and "100,000" in line for line in lines)


def test_a_later_run_goes_on_where_an_earlier_one_gave_up(server, tmp_path):
    server.drops = [100_000, 0, 0, 0]
    with pytest.raises(UserError, match="dropped, 3 times in a row; run again later, it goes on after 100,000 bytes"):
        fetch(server, tmp_path)
    assert not (tmp_path / REVIEWS).exists()
    server.asked.clear()
    source, _ = fetch(server, tmp_path)
    assert server.asked[0] == (REVIEWS, "bytes=100000-", '"one"')
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]


def test_a_server_without_ranges_begins_anew(server, tmp_path):
    server.ranges = False
    server.drops = [300_000]
    source, _ = fetch(server, tmp_path)
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]


def test_a_server_without_ranges_that_always_drops_is_given_up(server, tmp_path):
    server.ranges = False
    server.drops = [300_000] * 50
    with pytest.raises(UserError, match="3 times in a row"):
        fetch(server, tmp_path)
    assert len(server.asked) == 4


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server, tmp_path):
    server.drops = [100_000, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(server, tmp_path)
    server.bodies[REVIEWS] = bytes(reversed(BODIES[REVIEWS]))
    server.tags[REVIEWS] = '"two"'
    source, _ = fetch(server, tmp_path)
    assert pathlib.Path(source.interactions[0]).read_bytes() == server.bodies[REVIEWS]


@pytest.mark.parametrize("tag", ["", 'W/"weak"'])
def test_a_part_of_an_unknown_version_is_not_continued(server, tmp_path, tag):
    server.tags[REVIEWS] = tag
    server.drops = [100_000]
    source, _ = fetch(server, tmp_path)
    assert [span for name, span, _ in server.asked if name == REVIEWS] == [None, None]
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]


def test_a_part_with_another_beginning_than_asked_for_is_refused(server, tmp_path):
    server.shift = 1
    server.drops = [100_000]
    source, _ = fetch(server, tmp_path)
    assert [span for name, span, _ in server.asked if name == REVIEWS] == [None, "bytes=100000-", None]
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]


def test_a_part_longer_than_the_file_is_thrown_away(server, tmp_path):
    server.drops = [100_000, 0, 0, 0]
    with pytest.raises(UserError):
        fetch(server, tmp_path)
    with (tmp_path / f"{REVIEWS}.part").open("ab") as file:
        file.write(bytes(len(BODIES[REVIEWS])))
    source, _ = fetch(server, tmp_path)
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]


def test_a_busy_server_is_asked_again_and_then_given_up(server, tmp_path):
    server.codes = [503, 429]
    source, lines = fetch(server, tmp_path / "a")
    assert pathlib.Path(source.interactions[0]).read_bytes() == BODIES[REVIEWS]
    assert any("the server answers 503" in line for line in lines)
    server.codes = [500] * 9
    with pytest.raises(UserError, match="the server answers 500, 3 times in a row; run again later"):
        fetch(server, tmp_path / "b")
    assert len(server.codes) == 6


def test_waits_double_up_to_a_minute(server, tmp_path, monkeypatch):
    waits = []
    monkeypatch.setattr(module.time, "sleep", waits.append)
    server.codes = [503] * 7
    with pytest.raises(UserError):
        fetch(server, tmp_path, patience=Patience(attempts=7, wait=4.0))
    assert waits == [4.0, 8.0, 16.0, 32.0, 60.0, 60.0]


def test_a_category_that_is_not_there_says_what_to_do(server, tmp_path):
    del server.bodies[REVIEWS]
    with pytest.raises(UserError, match="answers 404; check the spelling of the category") as caught:
        fetch(server, tmp_path)
    assert server.url + "review_categories/Toys.jsonl.gz" in str(caught.value)
    assert f"put it at {tmp_path / REVIEWS} and run again" in str(caught.value)
    assert len(server.asked) == 1


def test_no_connection_says_which_file_to_put_where(tmp_path):
    with contextlib.closing(socket.socket()) as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}"
        with pytest.raises(UserError, match="no connection") as caught:
            download("amazon2018", "Toys", tmp_path, base_url=url, patience=QUICK)
    assert f"fetch {url}/categoryFiles/Toys.json.gz on another machine" in str(caught.value)
    assert f"put it at {tmp_path / 'Toys.json.gz'} and run again" in str(caught.value)


def test_a_name_that_cannot_be_resolved_is_no_connection(tmp_path, monkeypatch):
    def unknown(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with pytest.raises(UserError, match=r"the name nowhere\.invalid cannot be resolved.*on another machine"):
        download("amazon2023", "Toys", tmp_path, base_url="http://nowhere.invalid", patience=QUICK)


def test_files_that_are_there_need_no_network_and_get_a_checksum(tmp_path):
    for name, body in BODIES.items():
        (tmp_path / name).write_bytes(body)
    source = download("amazon2023", "Toys", tmp_path, base_url="http://127.0.0.1:9", patience=QUICK)
    assert source.interactions == (str(tmp_path / REVIEWS),)
    assert (tmp_path / f"{REVIEWS}.sha256").read_text().split() == [sha256_of(tmp_path / REVIEWS), REVIEWS]


def test_a_file_that_no_longer_matches_its_checksum_is_refused(server, tmp_path):
    fetch(server, tmp_path)
    body = bytearray(BODIES[REVIEWS])
    body[1000] ^= 1
    (tmp_path / REVIEWS).write_bytes(body)
    with pytest.raises(UserError, match=r"Toys\.jsonl\.gz: its SHA-256 is .*; delete the file and run again"):
        fetch(server, tmp_path)


def test_a_checksum_asked_for_is_enforced_on_what_comes_and_on_what_is_there(server, tmp_path):
    wrong, right = "0" * 64, hashlib.sha256(BODIES[REVIEWS]).hexdigest()
    with pytest.raises(UserError, match="is deleted; run again"):
        fetch(server, tmp_path, checksums={REVIEWS: wrong})
    assert list(tmp_path.iterdir()) == []
    fetch(server, tmp_path, checksums={REVIEWS: right.upper()})
    with pytest.raises(UserError, match="the checksum asked for"):
        fetch(server, tmp_path, checksums={REVIEWS: wrong})


def test_a_run_killed_before_the_last_renaming_fetches_nothing_again(server, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_write_checksum", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
    with pytest.raises(KeyboardInterrupt):
        fetch(server, tmp_path)
    monkeypatch.undo()
    server.asked.clear()
    fetch(server, tmp_path)
    assert [name for name, _, _ in server.asked] == [METADATA]
    assert (tmp_path / REVIEWS).read_bytes() == BODIES[REVIEWS]


@pytest.mark.parametrize(("kind", "category"), [("tables", "Toys"), ("amazon2023", "../Toys"), ("amazon2018", "")])
def test_kinds_and_categories_that_cannot_be_fetched(tmp_path, kind, category):
    with pytest.raises(UserError, match=r"cannot be fetched|site's spelling"):
        download(kind, category, tmp_path)

"""Working directories at an address: what a new machine finds there, whenever the one before was lost."""

import sys

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem

from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.pipeline.lock import alone_in
from tsrec_jax.pipeline.remote import Remote, fetch


class Cut(Exception):
    """The machine is gone."""


class FailingMemory(MemoryFileSystem):
    """Memory whose writes end with an error after `left` of them."""

    protocol = "failing"
    store = {}  # noqa: RUF012
    pseudo_dirs = [""]  # noqa: RUF012
    left = 10**9

    @classmethod
    def _strip_protocol(cls, path):
        return MemoryFileSystem._strip_protocol(path.replace("failing://", "memory://"))


@pytest.fixture
def failing(monkeypatch):
    """The class, with nothing stored."""
    for name in ("pipe_file", "cp_file", "rm_file", "rm", "mv", "_open"):
        real = getattr(MemoryFileSystem, name)

        def cut(self, *arguments, real=real, reads=name == "_open", **options):
            if not (reads and "r" in (arguments[1:2] or [options.get("mode", "rb")])[0]):
                type(self).left -= 1
                if type(self).left < 0:
                    raise Cut
            return real(self, *arguments, **options)

        monkeypatch.setattr(FailingMemory, name, cut, raising=False)
    fsspec.register_implementation("failing", FailingMemory, clobber=True)
    FailingMemory.store.clear()
    FailingMemory.left = 10**9
    return FailingMemory


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Makes a machine the present one: the address is fetched into its own cache folder."""

    def use(name, url):
        monkeypatch.setenv("TSREC_LOCAL", str(tmp_path / name))
        return fetch(url)

    return use


def write(folder, **files):
    for name, text in files.items():
        path = folder / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def contents(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_text()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("remote.json", "pushed.json")
    }


def test_a_new_machine_gets_what_was_pushed_and_only_that(machine, failing):
    local = machine("first", "failing://bucket/run")
    write(local, config="1", export__model="2", checkpoints__latest__1="here", records__rows="here", metrics__tmp="3")
    (local / "half.json.tmp").write_text("unfinished")
    (local / "dataset.writing").mkdir()
    (local / "dataset.writing" / "items").write_text("unfinished")
    Remote.of(local).push()
    write(local, config="after the push")
    expected = {"config": "1", "export/model": "2", "metrics/tmp": "3"}
    assert contents(machine("second", "failing://bucket/run")) == expected


def test_files_have_their_own_names_at_the_address(machine, failing):
    local = machine("first", "failing://bucket/run")
    for text in ("1", "2"):
        write(local, export__model=text)
        Remote.of(local).push()
        assert failing.store["/bucket/run/export/model"].getvalue() == text.encode()
    assert not [name for name in failing.store if "staged" in name or name.endswith(".tmp")]


def test_a_push_that_is_cut_off_anywhere_leaves_the_old_state_or_the_new_one(machine, failing):
    before = {"config": "old", "stages": "old", "dataset/items": "old", "gone": "old"}
    after = {"config": "new", "stages": "new", "dataset/items": "old", "results": "new"}
    seen = []
    for writes in range(100):
        failing.store.clear()
        failing.left = 10**9
        local = machine(f"first{writes}", "failing://bucket/run")
        write(local, **{name.replace("/", "__"): text for name, text in before.items()})
        Remote.of(local).push()
        (local / "gone").unlink()
        write(local, config="new", stages="new", results="new")
        failing.left = writes
        try:
            Remote.of(local).push()
            done = True
        except Cut:
            done = False
        failing.left = 10**9
        new = machine(f"second{writes}", "failing://bucket/run")
        seen.append(contents(new))
        assert seen[-1] in (before, after), f"cut off after {writes} writes"
        write(new, config="third")
        Remote.of(new).push()
        again = contents(machine(f"third{writes}", "failing://bucket/run"))
        assert again == {**seen[-1], "config": "third"}, f"cut off after {writes} writes"
        if done:
            break
    assert seen[0] == before
    assert seen[-1] == after
    assert len(seen) > 8


def test_what_an_earlier_run_left_on_this_machine_and_did_not_push_is_removed(machine, failing):
    local = machine("first", "failing://bucket/run")
    write(local, config="1", records__rows="kept: they are made again")
    Remote.of(local).push()
    write(local, config="2", stages="never pushed")
    assert contents(machine("first", "failing://bucket/run")) == {
        "config": "1",
        "records/rows": contents(local)["records/rows"],
    }


def test_nothing_is_written_where_nothing_has_changed(machine, failing):
    local = machine("first", "failing://bucket/run")
    write(local, config="1")
    Remote.of(local).push()
    failing.left = 0
    Remote.of(local).push()
    Remote.of(machine("second", "failing://bucket/run")).push()


def test_a_refused_command_writes_nothing_to_the_address(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TSREC_LOCAL", str(tmp_path / "local"))
    assert main(["train", f"--workdir=file://{tmp_path / 'bucket' / 'run'}"]) == 2
    assert "--config=FILE.py" in capsys.readouterr().err
    assert not (tmp_path / "bucket").exists()


def test_a_second_run_on_the_same_machine_is_refused_before_it_touches_the_copy(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TSREC_LOCAL", str(tmp_path / "local"))
    url = f"file://{tmp_path / 'bucket' / 'run'}"
    copy = fetch(url)
    write(copy, stages="of the first")
    with alone_in(copy.with_name(f"{copy.name}.lock"), "run"):
        assert main(["train", f"--workdir={url}"]) == 2
    assert "in use by `run`" in capsys.readouterr().err
    assert (copy / "stages").read_text() == "of the first"


def test_the_later_of_two_runs_takes_over_and_the_earlier_one_is_ended(machine, failing):
    first = machine("first", "failing://bucket/run")
    write(first, config="1")
    Remote.of(first).push()
    second = machine("second", "failing://bucket/run")
    write(second, config="2")
    Remote.of(second).push()
    write(first, config="3")
    with pytest.raises(UserError, match="taken over by a later run"):
        Remote.of(first).push()
    assert contents(machine("third", "failing://bucket/run")) == {"config": "2"}


def test_a_file_that_is_damaged_at_the_address_is_named(machine, failing):
    local = machine("first", "failing://bucket/run")
    write(local, export__model="weights")
    Remote.of(local).push()
    failing.store["/bucket/run/export/model"].seek(0)
    failing.store["/bucket/run/export/model"].write(b"W")
    with pytest.raises(UserError, match="failing://bucket/run/export/model is gone or not as it was written"):
        machine("second", "failing://bucket/run")


@pytest.mark.parametrize(
    ("url", "way_out"), [("nothing://bucket/run", "gs://BUCKET/FOLDER"), ("gs://bucket/run", r"tsrec_jax\[gcs\]")]
)
def test_an_address_that_cannot_be_used_is_one_line_with_the_way_out(url, way_out, machine, monkeypatch):
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match=f"--workdir={url}: .*{way_out}"):
        machine("first", url)

"""Items from their texts alone: a SID of their own by the codebooks of the training, and what is said of it."""

import csv
import dataclasses
import json
import shutil

import numpy as np
import pytest

from tests.serving.conftest import small_catalogue
from tsrec_jax.data.catalogue import Item
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.main import main
from tsrec_jax.serving import coder as module
from tsrec_jax.serving.answers import NoEncoder
from tsrec_jax.serving.catalogue_changes import Changes
from tsrec_jax.serving.code_command import Command, run
from tsrec_jax.serving.codebooks import Codebooks, Encoder, quantiles, read_codebooks
from tsrec_jax.serving.coder import Coder
from tsrec_jax.serving.export_files import read_catalogue
from tsrec_jax.serving.live_catalogue import AlreadyThere, LiveCatalogue
from tsrec_jax.serving.recommender import Recommender
from tsrec_jax.sid.embed import embed_texts
from tsrec_jax.sid.index import SidIndex
from tsrec_jax.sid.quantisers.residual import ResidualQuantiser
from tsrec_jax.sid.whiten import Whitening

WIDTH = 32  # of the vectors, as of the small model
LEVELS = 3
TEXT_FIELDS = ("title", "description")
SIZES = [len(tokens) for tokens in small_catalogue().level_tokens]


@pytest.fixture(scope="module")
def index():
    """Codebooks of 9 codes, of which no item has the first. Sums of codes are of length 1, or nearly."""
    rng = np.random.default_rng(5)
    books = rng.normal(size=(LEVELS, 9, WIDTH)).astype(np.float32)
    books[0, :, WIDTH // 2 :] = books[1:, :, : WIDTH // 2] = 0
    books *= np.array([1.0, 0.05, 0.0025])[:, None, None] / np.linalg.norm(books, axis=2, keepdims=True)
    whitening = Whitening(np.zeros(WIDTH, np.float32), np.eye(WIDTH, dtype=np.float32))
    return SidIndex(
        "rq_kmeans", "sinkhorn", whitening, ResidualQuantiser(tuple(books)), (), np.zeros((0, LEVELS), np.int32)
    )


def codebooks(index, catalogue, encoder="nowhere", probe_D=None, carried=False):
    probe_D = np.zeros(WIDTH, np.float32) if probe_D is None else probe_D
    own = Encoder("llm", str(encoder), carried, "float32", TEXT_FIELDS, 16, "Thing 1", probe_D)
    return Codebooks(index.codebooks(catalogue.level_tokens), own, quantiles(np.linspace(0.0, 1.0, 50)))


class Coded:
    """A catalogue and its coder, whose encoder is a table of vectors by title."""

    def __init__(self, index, **changes):
        catalogue = small_catalogue()
        self.catalogue = LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 0))
        self.coder = Coder(codebooks(dataclasses.replace(index, **changes), catalogue), self.catalogue)
        self.vectors = {}
        self.coder._embed = lambda texts: np.stack([self.vectors[text.split("\n")[0]] for text in texts])

    def stands_for(self, item_id):
        """What an item's SID stands for."""
        return self.coder._codebooks.index.quantiser.decode(self.catalogue.codes([item_id]).astype(np.int32))[0]

    def put(self, item_id, vector_D, **changes):
        self.vectors[item_id] = vector_D
        new, coding = self.code(item_id, **changes)
        assert new
        return coding

    def code(self, item_id, **changes):
        item = Item(item_id, item_id)
        return self.coder.put(item, self.coder.vectors([item])[0], **changes)


def test_an_item_gets_the_nearest_codes_that_are_free_and_no_other_items_sid_changes(index):
    coded = Coded(index)
    before = {item.id: item.sid for item in coded.catalogue.items()}
    first = coded.put("NEW1", coded.stands_for("B000"))
    assert first.sid[:2] == before["B000"][:2] and first.sid not in before.values()
    second = coded.put("NEW2", coded.stands_for("B000"))
    assert second.sid[:2] == first.sid[:2] and second.sid not in {first.sid, *before.values()}
    left_K = coded.stands_for("B000")
    distances = [np.linalg.norm(coded.stands_for(item_id) - left_K) for item_id in ("NEW1", "NEW2")]
    assert 0 < distances[0] <= distances[1], "the nearer code is taken first"
    assert {item.id: item.sid for item in coded.catalogue.items()} == {**before, "NEW1": first.sid, "NEW2": second.sid}
    assert coded.catalogue.trie.contains(coded.catalogue.codes(["NEW1", "NEW2"])).all()
    assert first.shared_with == second.shared_with == ()


def test_an_item_that_another_puts_meanwhile_keeps_the_sid_that_it_got_there(index):
    coded = Coded(index)
    embed = coded.coder._embed

    def slowly(texts):
        coded.catalogue.put("NEW", "theirs", ("<a_1>", "<b_2>", "<c_3>"))
        return embed(texts)

    coded.coder._embed = slowly
    coded.vectors["NEW"] = coded.stands_for("B003")
    assert coded.code("NEW") == (False, None)
    item = coded.catalogue.get("NEW")
    assert (item.title, item.sid) == ("NEW", ("<a_1>", "<b_2>", "<c_3>"))


def test_a_sid_is_shared_and_said_to_be_only_where_all_codes_are_taken(index):
    coded = Coded(index)
    node = coded.catalogue.item("B000").sid[:2]
    for number in range(20):
        taken = coded.catalogue.sids.siblings(coded.catalogue.codes(["B000"])[0, :2].tolist())
        found = coded.put(f"NEW{number}", coded.stands_for("B000"), blocked=True)
        assert found.sid[:2] == node
        assert (found.shared_with == ()) == (len(taken) < SIZES[-1])
    assert found.sid == coded.catalogue.item(found.shared_with[0]).sid


def test_the_answer_says_how_well_the_codes_fit_and_what_is_near(index):
    coded = Coded(index)
    near = coded.put("NEAR", coded.stands_for("B000"))
    assert near.neighbours[0].id == "B000" and near.neighbours[0].likeness > 0.99
    likeness = [neighbour.likeness for neighbour in near.neighbours]
    assert len(likeness) == 5 and likeness == sorted(likeness, reverse=True) and min(likeness) >= -1
    assert "NEAR" not in {neighbour.id for neighbour in near.neighbours}
    far = coded.put("FAR", -coded.stands_for("B000"))
    assert 0 <= far.sure < near.sure <= 1


@pytest.mark.parametrize("compared", [50_000, 7])
def test_an_item_whose_first_code_nobody_has_any_more_has_neighbours_all_the_same(index, compared, monkeypatch):
    monkeypatch.setattr(module, "_COMPARED", compared)
    coded = Coded(index)
    first = coded.catalogue.item("B000").sid[0]
    vector_K = coded.stands_for("B000")
    for item in list(coded.catalogue.items()):
        if item.sid[0] == first:
            coded.catalogue.block([item.id])
    assert len(coded.put("NEW", vector_K).neighbours) >= 4


def test_numbers_of_an_extra_level_go_as_far_as_the_model_has_tokens(index):
    coded = Coded(index, collisions="extra_level", quantiser=ResidualQuantiser(index.quantiser.codebooks[:2]))
    codes_C = coded.catalogue.codes(["B000"])[0]
    vector_K = coded.coder._codebooks.index.quantiser.decode(codes_C[None, :2].astype(np.int32))[0]
    found = [coded.put(f"NEW{number}", vector_K) for number in range(10)]
    assert len({one.sid[:2] for one in found}) == 1
    assert found[-1].sid[2] == coded.catalogue.level_tokens[2][-1] and found[-1].shared_with


def test_codes_that_no_item_has_are_never_given(index):
    coded = Coded(index)
    unused_K = index.quantiser.codebooks[0][0]  # the code of <a_0>, of which no item is
    assert coded.put("NEW", unused_K).sid[0] in coded.catalogue.level_tokens[0]


def test_many_items_get_the_sids_that_they_get_one_by_one_and_the_trie_follows_at_once(index, monkeypatch):
    monkeypatch.setattr(module, "_TOGETHER", 8)
    alone, together = Coded(index), Coded(index)
    items = [Item(f"NEW{number}", f"NEW{number}", brand="Acme") for number in range(20)]
    x_NK = np.stack([alone.stands_for("B000")] * 11 + [alone.stands_for("B003")] * 9)
    for item, vector_K in zip(items, x_NK, strict=True):
        alone.coder.put(item, vector_K)
    trie, adds = together.catalogue.trie, []
    monkeypatch.setattr(trie, "add", lambda codes, add=trie.add: adds.append(add(codes)))
    together.coder.put_new(items, x_NK)
    assert list(together.catalogue.items()) == list(alone.catalogue.items())
    assert (together.catalogue.trie.sid_codes() == alone.catalogue.trie.sid_codes()).all()
    assert len(adds) == 3


def test_an_encoder_that_is_not_to_be_had_is_not_looked_for_again_at_once(index, tmp_path, monkeypatch):
    catalogue = small_catalogue()
    live = LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 0))
    coder = Coder(codebooks(index, catalogue, tmp_path / "nowhere"), live)
    loads, load = [], Encoder.load
    monkeypatch.setattr(Encoder, "load", lambda encoder: loads.append(encoder) or load(encoder))
    for _ in range(3):
        with pytest.raises(NoEncoder, match="nowhere' is not to be had") as raised:
            coder.vectors([Item("NEW", "A mug")])
        assert 0 < raised.value.retry_after <= module.AGAIN_SECONDS
    assert len(loads) == 1
    now = module.time.monotonic() + module.AGAIN_SECONDS
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    with pytest.raises(NoEncoder):
        coder.vectors([Item("NEW", "A mug")])
    assert len(loads) == 2


def test_whatever_loading_the_encoder_raises_is_said_once_and_remembered(index, tmp_path, monkeypatch, caplog):
    catalogue = small_catalogue()
    live = LiveCatalogue(catalogue, Trie.of_catalogue(catalogue, 0))
    coder = Coder(codebooks(index, catalogue, tmp_path), live)
    raised = [MemoryError(), pytest.fail.Exception("loaded again")]
    monkeypatch.setattr(Encoder, "load", lambda encoder: (_ for _ in ()).throw(raised.pop(0)))
    for _ in range(2):
        with pytest.raises(NoEncoder, match="cannot be loaded: MemoryError"):
            coder.vectors([Item("NEW", "A mug")])
    assert len(caplog.records) == 1 and caplog.records[0].exc_info


@pytest.fixture(scope="module")
def coding_export(index, trained, exported, tmp_path_factory):
    """An export whose encoder is the exported model itself."""
    x_ID = embed_texts(trained.model, trained.tokenizer, ["Thing 1"], max_tokens=16, rows=1)
    folder = tmp_path_factory.mktemp("coding") / "export"
    return trained.export(folder, codebooks=codebooks(index, trained.catalogue, exported, x_ID[0], carried=True))


@pytest.fixture
def folder(coding_export, tmp_path):
    return shutil.copytree(coding_export, tmp_path / "export")


def test_a_loaded_export_codes_an_item_which_is_recommended_at_once(coding_export):
    recommender = Recommender.load(coding_export)
    new, coding = recommender.put(Item("NEW", "A blue steel pump", "With a title and a description."))
    assert new and coding.sid == recommender.catalogue.item("NEW").sid
    assert [found.item_id for found in recommender.recommend([["B000"]], allow=["NEW"])[0]] == ["NEW"]
    assert recommender.recommend([["NEW"]], k=3)[0]
    sid = coding.sid
    assert recommender.put(Item("NEW", "Another title")) == (False, None)
    assert recommender.catalogue.item("NEW").sid == sid, "a SID is made once"

    def gone_meanwhile(item, look=recommender.vector):
        found = look(item)
        if found is None:
            recommender.catalogue.remove(item.id)
        return found

    recommender.vector = gone_meanwhile
    new, coding = recommender.put(Item("NEW", "A blue steel pump", "With a title and a description."))
    assert new and coding.sid == sid, "an item that another has just removed is a new one"
    del recommender.vector
    for sid in (None, coding.sid):
        with pytest.raises(AlreadyThere, match="item 'NEW' is in the catalogue already"):
            recommender.put(Item("NEW", "Another title"), sid, vector_K=np.zeros(WIDTH, np.float32), only_new=True)
    given = ("<a_1>", "<b_1>", "<c_1>")
    assert recommender.put(Item("GIVEN", "A thing"), given) == (True, None)
    for blocked, wanted in ((True, True), (None, True), (False, False), (None, False)):  # what is left out stays
        assert recommender.put(Item("GIVEN", "A thing"), given, blocked=blocked) == (False, None)
        recommender.put(Item("GIVEN", "A thing of another name"))
        assert recommender.catalogue.item("GIVEN").blocked == wanted


def test_without_codebooks_the_item_needs_a_sid(exported):
    with pytest.raises(UserError, match=r"no codebooks.*give the item's sid"):
        Recommender.load(exported).put(Item("NEW", "A thing"))


def test_another_encoder_is_refused_and_a_missing_one_is_named(folder, tmp_path):
    facts = json.loads((folder / "encoder.json").read_text())
    probe_D = -np.array(facts["probe"]["vector"])
    (folder / "encoder.json").write_text(json.dumps(facts | {"probe": {"text": "Thing 1", "vector": probe_D.tolist()}}))
    with pytest.raises(NoEncoder, match=r"makes other vectors than the one.*--encoder=FOLDER"):
        read_codebooks(folder, SIZES).encoder.load()
    with pytest.raises(NoEncoder, match=r"the encoder '.*nowhere' is not to be had: .*no such folder.*; see --encoder"):
        read_codebooks(folder, SIZES, str(tmp_path / "nowhere")).encoder.load()


@pytest.mark.parametrize("name", ["codebooks.npz", "encoder.json", "encoder/model.safetensors"])
def test_damage_is_noticed_and_the_way_out_is_named(folder, name):
    path = folder / name
    path.write_bytes(path.read_bytes()[:-8])
    said = rf"{path.name}: .*delete the export's folder and run the verb `export`"
    with pytest.raises(UserError, match=said):
        Recommender.load(folder)
    if path.parent == folder:
        (folder / "checksums.json").unlink()
        with pytest.raises(UserError, match=said):
            read_codebooks(folder, SIZES)


@pytest.mark.parametrize(
    "change",
    [{"encoder": "none"}, {"dtype": 3}, {"max_tokens": 0}, {"model": 3}, {"text_fields": []},
     {"text_fields": ["price"]}, {"probe": {"text": "x", "vector": [1.0]}}, {"probe": "x"}, {"errors": []}],
)  # fmt: skip
def test_an_encoder_of_the_wrong_kind_is_refused(folder, change):
    (folder / "checksums.json").unlink()
    facts = json.loads((folder / "encoder.json").read_text())
    (folder / "encoder.json").write_text(json.dumps(facts | change))
    with pytest.raises(UserError, match=r"encoder\.json: not an encoder"):
        read_codebooks(folder, SIZES)


def test_codebooks_of_another_catalogue_are_refused(folder):
    with pytest.raises(UserError, match=r"codebooks\.npz: its codes are not those of the catalogue"):
        read_codebooks(folder, [9, *SIZES[1:]])


# The verb `code`: a file of items in, their SIDs out, and the catalogue as it was.

NEW = "id,title,description\nN1,A mug,Of steel\nB000,Another title,\nN2,A mug,Of steel\n"


@pytest.fixture
def code(coding_export, monkeypatch, tmp_path):
    """code(text, name, out): what the verb writes for a file; every text has the same vector."""
    vector_D = np.ones(WIDTH, np.float32)
    monkeypatch.setattr(Encoder, "load", lambda self: lambda texts: np.tile(vector_D, (len(texts), 1)))

    def coded(text, name="new.csv", out="coded.csv", folder=coding_export):
        (tmp_path / name).write_bytes(text.encode() if isinstance(text, str) else text)
        run(Command(folder, tmp_path / "changes.sqlite", tmp_path / name, tmp_path / out))
        return (tmp_path / out).read_text(encoding="utf-8")

    return coded


def test_every_new_item_gets_a_sid_of_its_own_and_others_keep_theirs(code, coding_export, tmp_path):
    exported = read_catalogue(coding_export)
    sids = {"".join(sid) for sid in exported.sids}
    first, known, second = csv.DictReader(code(NEW).splitlines())
    assert [row["id"] for row in (first, known, second)] == ["N1", "B000", "N2"]
    assert known["sid"] == exported.sid(0) and known["title"] == "Another title"
    assert len({first["sid"], second["sid"]} | sids) == len(sids) + 2
    assert not (tmp_path / "changes.sqlite").exists(), "nothing is put into the catalogue"

    live = LiveCatalogue(exported, Trie.of_catalogue(exported, 0), Changes(tmp_path / "changes.sqlite"))
    tokens = [f"<{token}>" for token in first["sid"].strip("<>").split("><")]
    live.put("TAKEN", "A thing", tokens)
    again = next(csv.DictReader(code(NEW).splitlines()))
    assert again["sid"] == second["sid"], "an item that was put since the export has the first one"


def test_json_lines_say_all_that_is_known(code):
    items = {"N1": {"title": "A mug", "description": ["Of", "steel"], "brand": "Acme"}}
    (line,) = code(json.dumps(items), "new.json", "coded.jsonl").splitlines()
    row = json.loads(line)
    assert row.keys() == {"id", "title", "brand", "sid", "sure", "shared_with", "neighbours"}
    assert len(row["sid"]) == 3 and 0 <= row["sure"] <= 1 and len(row["neighbours"]) == 5


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "columns id, title"),
        ("id,name\nN1,A mug\n", "columns id, title"),
        ("id,title,price\nN1,A mug,3\n", "columns id, title"),
        ("id,title\nN1,A mug\nN1,A cup\n", r"line 3: the id 'N1' is empty or stands twice"),
        ("id,title\n,A mug\n", r"line 2: the id '' is empty"),
        ("id,title\nN1\n", "line 2: not as many cells as columns"),
        ("id,title\nN1, \n", "item 'N1'.*a title"),
        (b"id,title\nN1,\xff\n", "not UTF-8"),
    ],
)
def test_a_file_that_cannot_be_meant_is_refused_and_nothing_is_written(code, tmp_path, text, words):
    with pytest.raises(UserError, match=words):
        code(text)
    assert not (tmp_path / "coded.csv").exists()


def test_what_cannot_be_coded_is_said(code, exported, tmp_path):
    with pytest.raises(UserError, match=r"coded\.txt: must end with \.csv or \.jsonl"):
        code(NEW, out="coded.txt")
    with pytest.raises(UserError, match="no codebooks"):
        code(NEW, folder=exported)
    with pytest.raises(UserError, match="not there; run the verb `export`"):
        code(NEW, folder=tmp_path / "nowhere")
    with pytest.raises(UserError, match=r"none\.csv: No such file"):
        run(Command(exported, tmp_path / "c", tmp_path / "none.csv", tmp_path / "o.csv"))


def test_the_verb_takes_two_files(code, coding_export, tmp_path, capsys):
    wanted = code(NEW)
    place = f"--export={coding_export}"
    assert main(["code", str(tmp_path / "new.csv"), str(tmp_path / "again.csv"), place]) == 0
    assert (tmp_path / "again.csv").read_text(encoding="utf-8") == wanted
    assert "2 items coded, 1 known" in capsys.readouterr().out
    assert main(["code", str(tmp_path / "new.csv"), place]) == 2
    assert "tsrec code NEW.csv CODED.csv" in capsys.readouterr().err

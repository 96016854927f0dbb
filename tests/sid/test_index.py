"""The index: SIDs that stay, whoever joins, on any number of devices, through saving and loading."""

import numpy as np
import pytest

from tsrec_jax.data.catalogue import Catalogue, Item
from tsrec_jax.errors import UserError
from tsrec_jax.sid.index import build_index, load_index, sid_token
from tsrec_jax.sid.quantisers import QUANTISERS, Method
from tsrec_jax.sid.settings import IndexSettings


@pytest.fixture(scope="module")
def x_ID():
    rng = np.random.default_rng(0)
    x_ID = rng.normal(size=(20, 16))[rng.integers(20, size=150)] + 0.2 * rng.normal(size=(150, 16))
    x_ID[40] = x_ID[41]  # two items of one text
    return x_ID.astype(np.float32)


IDS = tuple(f"B{n}" for n in range(150))
SETTINGS = {
    "free": IndexSettings(method="rq_kmeans", sizes=(6, 6, 6), collisions="none", whiten=8, iterations=5),
    "balanced": IndexSettings(sizes=(16, 16), whiten=8, iterations=3),
    "extra": IndexSettings(method="rq_kmeans", sizes=(5, 4), collisions="extra_level", whiten=0, iterations=5),
    "vae": IndexSettings(method="rq_vae", sizes=(6, 6), collisions="extra_level", whiten=8, epochs=2),
}


@pytest.fixture(scope="module")
def built(x_ID):
    """The first 120 items, indexed in every way."""
    return {name: build_index(IDS[:120], x_ID[:120], settings, 0) for name, settings in SETTINGS.items()}


@pytest.mark.parametrize("name", SETTINGS)
def test_newcomers_get_sids_and_nobody_elses_change(built, x_ID, name):
    index = built[name]
    order = [149, *range(130, 100, -1), *range(50)]  # some leave, some join, all are elsewhere
    extended = index.extended([IDS[item] for item in order], x_ID[order])
    sids = dict(zip(extended.item_ids, extended.sids(), strict=True))
    before = dict(zip(index.item_ids, index.sids(), strict=True))
    assert list(sids) == [IDS[item] for item in order]
    for item in set(sids) & set(before):
        assert sids[item] == before[item]
    assert len({len(sid) for sid in sids.values()}) == 1
    if index.collisions != "none":
        kept = {before[item] for item in sids if item in before}
        assert all(sids[item] not in kept for item in sids if item not in before)


@pytest.mark.parametrize("name", SETTINGS)
def test_codebooks_alone_know_the_codes_that_items_have(built, x_ID, name):
    index = built[name]
    codes_IC = index.codes_IC[:20]  # a few items, so that some codes are nobody's
    sids = tuple(tuple(sid_token(level, code) for level, code in enumerate(codes)) for codes in codes_IC.tolist())
    catalogue = Catalogue(tuple(Item(item, item) for item in IDS[:20]), sids)
    found = index.codebooks(catalogue.level_tokens)
    levels = len(index.quantiser.sizes)
    assert found.item_ids == () and found.quantiser.sizes == tuple(map(len, catalogue.level_tokens[:levels]))
    own_IK = found.quantiser.decode(catalogue.codes_IC[:, :levels])
    np.testing.assert_allclose(own_IK, index.quantiser.decode(codes_IC[:, :levels]), atol=1e-6)
    codes_NC = found.quantiser.encode(index.whitening(x_ID))
    assert (codes_NC < np.array(found.quantiser.sizes)).all()


@pytest.mark.parametrize("name", SETTINGS)
def test_saving_and_loading_change_nothing(built, x_ID, tmp_path, name):
    built[name].save(tmp_path / "sid_index.npz")
    loaded = load_index(tmp_path / "sid_index.npz")
    assert loaded.sids() == built[name].sids()
    assert loaded.sizes == built[name].sizes
    assert loaded.extended(IDS, x_ID).sids() == built[name].extended(IDS, x_ID).sids()
    assert [path.name for path in tmp_path.iterdir()] == ["sid_index.npz"]


def test_the_same_input_and_seed_give_the_same_sids(built, x_ID):
    again = build_index(IDS[:120], x_ID[:120], SETTINGS["balanced"], 0)
    assert again.sids() == built["balanced"].sids()


def test_collisions_are_settled_as_asked(built):
    def distinct(index):
        return len(set(index.sids()))

    assert distinct(built["free"]) < 120
    assert np.array_equal(built["free"].codes_IC[40], built["free"].codes_IC[41])
    assert distinct(built["extra"]) == 120
    assert built["extra"].sizes[:2] == (5, 4)
    assert built["extra"].sizes[2] == built["extra"].codes_IC[:, 2].max() + 1
    assert distinct(built["balanced"]) == 120


def test_deeper_reconstructions_are_closer(built, x_ID):
    index = built["free"]
    whitened = index.whitening(x_ID[:120])
    errors = [np.square(whitened - index.reconstruction(levels)).sum() for levels in (1, 2, 3)]
    assert errors[0] > errors[1] > errors[2]


def test_a_file_that_is_no_index_is_refused(tmp_path):
    with pytest.raises(UserError, match="not there"):
        load_index(tmp_path / "sid_index.npz")
    (tmp_path / "sid_index.npz").write_bytes(b"PK no zip")
    with pytest.raises(UserError, match="not an index"):
        load_index(tmp_path / "sid_index.npz")
    (tmp_path / "sid_index.npz").write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(UserError, match="not an index"):
        load_index(tmp_path / "sid_index.npz")


def test_tokens_name_level_and_code():
    assert (sid_token(0, 3), sid_token(25, 0), sid_token(26, 7)) == ("<a_3>", "<z_0>", "<level26_7>")


class Halves:
    """All that a new quantiser has to bring. Each level: whether the next feature is below its mean or above."""

    def __init__(self, means_C, features):
        self.means_C, self.features = means_C, int(features)

    @classmethod
    def fit(cls, x_IK, settings, seed, kept=None):
        fitted = cls(x_IK[:, : len(settings.sizes)].mean(axis=0), x_IK.shape[1])
        return fitted, fitted.encode(x_IK)

    @classmethod
    def from_arrays(cls, arrays):
        return cls(**arrays)

    def arrays(self):
        return {"means_C": self.means_C, "features": np.array(self.features)}

    @property
    def sizes(self):
        return (2,) * len(self.means_C)

    def encode(self, x_IK):
        return (x_IK[:, : len(self.means_C)] > self.means_C).astype(np.int32)

    def decode(self, codes_IC):
        return np.tile(self.means_C[:1], (len(codes_IC), self.features))

    def last_level_costs(self, x_IK, codes_IC):
        left_I = x_IK[:, len(self.means_C) - 1] - self.means_C[-1]
        return np.stack([left_I, -left_I], axis=1).astype(np.float32)


@pytest.mark.parametrize("collisions", ["none", "sinkhorn", "extra_level"])
def test_a_new_quantiser_is_one_class_and_one_row(x_ID, tmp_path, monkeypatch, collisions):
    with pytest.raises(UserError, match=r"config\.index\.method='halves' is not one of"):
        IndexSettings(method="halves")
    monkeypatch.setitem(QUANTISERS, "halves", Method(f"{__name__}:Halves", settings=("latent",)))
    settings = IndexSettings(method="halves", sizes=(2, 2, 2), collisions=collisions, whiten=8)
    assert settings.code_fields[-1] == "latent"
    index = build_index(IDS[:120], x_ID[:120], settings, 0)
    index.save(tmp_path / "sid_index.npz")
    extended = load_index(tmp_path / "sid_index.npz").extended(IDS, x_ID)
    assert extended.sids()[:120] == index.sids()
    assert extended.method == "halves"
    assert len(extended.sids()) == 150 and extended.sizes[:3] == (2, 2, 2)

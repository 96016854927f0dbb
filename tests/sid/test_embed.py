"""Embeddings: the mean of the right states, the same on one and on eight devices, one compile a bucket."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.outside_text import encode_outside
from tsrec_jax.data.text_rows import item_texts
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.sharding import make_mesh
from tsrec_jax.models.small_lm import lm_config, train_tokenizer
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.shop.shop import make_shop
from tsrec_jax.sid import embed as module
from tsrec_jax.sid.embed import embed_texts, item_text


@pytest.fixture(scope="module")
def texts():
    return item_texts(make_shop(0, num_items=70, num_users=12).catalogue.items)[:40]


@pytest.fixture(scope="module")
def tokenizer(texts, tmp_path_factory):
    folder = tmp_path_factory.mktemp("lm")
    train_tokenizer(texts, folder, vocab_size=600)
    return load_tokenizer(folder)


def decoder(tokenizer, mesh=None):
    facts = lm_config(tokenizer, 128, 4)
    facts["vocab_size"] += -facts["vocab_size"] % 8  # as every mesh here divides it
    return Decoder(ModelConfig.from_hf(facts), rngs=nnx.Rngs(0), mesh=mesh, remat=False)


@pytest.fixture(scope="module")
def model(tokenizer):
    return decoder(tokenizer)


def test_a_vector_is_the_mean_of_the_texts_own_states(model, tokenizer, texts):
    x_ID = embed_texts(model, tokenizer, texts[:5], max_tokens=20, rows=4)
    assert (x_ID.shape, x_ID.dtype) == ((5, 128), np.float32)
    for text, x_D in zip(texts, x_ID, strict=False):
        ids = tokenizer(text, add_special_tokens=False)["input_ids"][:20]
        states_TD = model.hidden(jnp.asarray([[tokenizer.bos_token_id, *ids]]))[0]
        assert np.allclose(x_D, np.asarray(states_TD[1:]).mean(axis=0), atol=1e-5)


def test_a_text_that_spells_a_control_token_is_embedded_as_text(model, tokenizer):
    (x_D,) = embed_texts(model, tokenizer, [f"pan{tokenizer.eos_token}"], rows=1)
    (ids,) = encode_outside(tokenizer, [f"pan{tokenizer.eos_token}"])
    assert tokenizer.eos_token_id not in ids
    states_TD = model.hidden(jnp.asarray([[tokenizer.bos_token_id, *ids]]))[0]
    assert np.allclose(x_D, np.asarray(states_TD[1:]).mean(axis=0), atol=1e-5)


def test_vectors_do_not_depend_on_batches_or_order(model, tokenizer, texts):
    x_ID = embed_texts(model, tokenizer, texts, rows=4)
    assert np.allclose(x_ID, embed_texts(model, tokenizer, texts[::-1], rows=16)[::-1], atol=1e-5)
    assert len(np.unique(x_ID.round(4), axis=0)) > 35


@pytest.mark.parametrize("shape", [(8, 1, 1), (2, 4, 1)])
def test_one_and_eight_devices_give_the_same_bits(model, tokenizer, texts, shape):
    mesh = make_mesh(*shape)
    with jax.set_mesh(mesh):
        sharded_ID = embed_texts(decoder(tokenizer, mesh), tokenizer, texts, rows=4, mesh=mesh)
    assert np.array_equal(sharded_ID, embed_texts(model, tokenizer, texts, rows=4))


def test_a_bucket_compiles_once(model, tokenizer, texts):
    embed_texts(model, tokenizer, texts, rows=4)
    before = module._pooled._cache_size()
    embed_texts(model, tokenizer, texts[::2], rows=4)
    assert module._pooled._cache_size() == before


def test_an_empty_text_and_one_beyond_the_last_bucket_are_embedded(model, tokenizer, texts):
    long = " ".join(texts)
    assert len(tokenizer(long)["input_ids"]) > module.BUCKETS[-1]
    x_ID = embed_texts(model, tokenizer, ["", long], max_tokens=10_000, rows=2)
    first = model.hidden(jnp.asarray([[tokenizer.bos_token_id]]))[0, 0]
    assert np.allclose(x_ID[0], np.asarray(first), atol=1e-5)
    assert np.isfinite(x_ID).all()


def test_broken_weights_are_refused(model, tokenizer, texts):
    broken = nnx.clone(model)
    broken.final_norm[...] = jnp.full_like(broken.final_norm[...], jnp.nan)
    with pytest.raises(FloatingPointError, match="not finite"):
        embed_texts(broken, tokenizer, texts[:2])


def test_the_text_of_an_item_holds_its_fields_in_order():
    item = Item("1", "desk  lamp", "bright\n light", brand="Alder")
    assert item_text(item) == "desk lamp\nAlder\nbright light"
    assert item_text(item, ("description", "title")) == "bright light\ndesk lamp"

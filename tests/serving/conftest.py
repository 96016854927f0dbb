"""A small trained-looking recommender and its export."""

import dataclasses

import jax
import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers, trainers
from tokenizers import models as token_models
from transformers import PreTrainedTokenizerFast

from tests.serving.clients import client, crowd, make_client, recommender  # noqa: F401  # fixtures
from tsrec_jax.data.catalogue import Catalogue, Item, TokenDescription
from tsrec_jax.data.prompts import PromptBuilder, Templates
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.models.config import ModelConfig
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.layers import parameter_shapes
from tsrec_jax.models.vocabulary import extend_vocabulary
from tsrec_jax.serving.export import export_folder

MAX_LENGTH = 64
TEXTS = [
    "History of items, oldest first; next: a red drill\n",
    "Title: a blue steel pump\nCode:",
    "name 0123456789 <>_",
]
FACTS = {"data": "a test", "seed": 3}


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training run hands to the export."""

    model: Decoder
    tokenizer: PreTrainedTokenizerFast
    catalogue: Catalogue
    templates: Templates
    trie: Trie
    builder: PromptBuilder

    def export(self, folder, **changes):
        """Writes the export."""
        arguments = {
            "max_length": MAX_LENGTH,
            "normaliser": "vocabulary",
            "card_facts": FACTS,
            "words": words_of(self.catalogue),
        } | changes
        export_folder(self.model, self.tokenizer, self.catalogue, self.templates, folder, **arguments)
        return folder


def base_tokenizer():
    backend = Tokenizer(token_models.BPE())
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    backend.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    backend.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=280, initial_alphabet=alphabet, show_progress=False)
    )
    backend.add_special_tokens([AddedToken("<|end|>", normalized=False)])
    return PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|end|>", clean_up_tokenization_spaces=False)


def small_catalogue():
    rng = np.random.default_rng(0)
    codes = rng.integers(1, 9, (30, 3)).tolist()
    codes[7] = codes[3]  # two items of one SID
    sids = tuple((f"<a_{a}>", f"<b_{b}>", f"<c_{c}>") for a, b, c in codes)
    items = [Item(f"B{index:03d}", f"Thing {index}") for index in range(30)]
    items[5] = dataclasses.replace(
        items[5], brand="Acme", categories="Tools, Drills", image="https://shop.example/5.jpg"
    )
    return Catalogue(tuple(items), sids)


def words_of(catalogue):
    """What a teacher said of every token, and of the first two levels of item 0 together."""
    of_tokens = [
        TokenDescription(token, f"Things of kind {token.strip('<>')}.", (f"kind {token.strip('<>')}", "thing"))
        for token in catalogue.tokens
    ]
    (first, second, _) = catalogue.sids[0]
    return [*of_tokens, TokenDescription(second, "Things of two kinds.", ("both",), prefix=(first,))]


@pytest.fixture(scope="session")
def make_trained():
    """make_trained(family, tied): random weights, large enough to spread the scores, with SID rows added."""

    def make(family="llama", tied=True, templates=None):
        tokenizer, catalogue = base_tokenizer(), small_catalogue()
        base_vocab_size = len(tokenizer)
        facts = {
            "model_type": family,
            "vocab_size": base_vocab_size + 3,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "rope_theta": 500.0,
            "rms_norm_eps": 1e-5,
            "tie_word_embeddings": tied,
            "max_position_embeddings": 128,
            "eos_token_id": tokenizer.eos_token_id,
        }
        config = ModelConfig.from_hf(facts | ({"head_dim": 16} if family == "qwen3" else {}))
        rng = np.random.default_rng(1)
        weights = {
            name: rng.normal(0.0, 0.2, shape).astype(np.float32)
            for name, (shape, _) in parameter_shapes(config).items()
        }
        tokenizer.add_tokens(list(catalogue.tokens))
        rows_nD = rng.normal(0.0, 0.2, (len(catalogue.tokens), config.d_model)).astype(np.float32)
        model = extend_vocabulary(
            Decoder(config, weights=jax.device_put(weights)),
            base_vocab_size=base_vocab_size,
            input_rows_nD=rows_nD,
            output_rows_nD=None if tied else rows_nD[::-1],
        )
        templates = templates or Templates.from_mapping({"next_sid": {"header": "Pick the next thing.\n"}})
        builder = PromptBuilder(tokenizer, templates, MAX_LENGTH)
        return Trained(model, tokenizer, catalogue, templates, Trie.of_catalogue(catalogue, base_vocab_size), builder)

    return make


@pytest.fixture(scope="session")
def trained(make_trained):
    """One tied Llama."""
    return make_trained()


@pytest.fixture(scope="session")
def exported(trained, tmp_path_factory):
    """Its export; tests must not change it."""
    return trained.export(tmp_path_factory.mktemp("run") / "export")

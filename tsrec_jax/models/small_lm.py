"""The small language model that a run pretrains itself: its tokenizer and its shape."""

from __future__ import annotations

import collections
import os
import pathlib
from collections.abc import Sequence
from typing import Any

import sentencepiece
from sentencepiece import sentencepiece_model_pb2
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from tsrec_jax.errors import UserError
from tsrec_jax.models.tokenizer import save_tokenizer

UNKNOWN, BEGIN, END, PAD = "<unk>", "<s>", "</s>", "<pad>"
FIXED_PIECES = 4 + 256 + 1  # the special ones, one per byte, and the newline
COVERED = 0.9995  # share of all characters that sentencepiece makes pieces of, most frequent first
HEAD_SIZE = 32
HIDDEN_MULTIPLE = 2 * HEAD_SIZE  # an even number of heads, so that half as many have keys
WHOLE = 0.75  # share of the room after the fixed pieces that single characters get, if the texts hold too many


def train_tokenizer(texts: Sequence[str], folder: str | os.PathLike[str], vocab_size: int) -> None:
    """Trains a sentencepiece unigram model and writes it as a Hugging Face fast tokenizer with the same ids.

    Text is taken as it is (no normalisation, no added space); characters never seen become bytes, and so do the rarest
    ones if the texts have more characters than the vocabulary has room for.

    Args:
      texts: the training texts.
      folder: receives the tokenizer's files.
      vocab_size: most pieces; there are fewer if the texts do not hold that many.

    Raises:
      UserError: `vocab_size` leaves no room after the pieces that every vocabulary has.
    """
    if vocab_size <= FIXED_PIECES:
        raise UserError(
            f"config.pretrain.vocab_size={vocab_size}: must be at least {FIXED_PIECES + 1}, since each byte and "
            "special token is always there"
        )
    texts = _without_rare(texts, vocab_size - FIXED_PIECES)
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    model = folder / "spiece.model"
    with model.open("wb") as file:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(texts),
            model_writer=file,
            model_type="unigram",
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            byte_fallback=True,
            character_coverage=COVERED,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n"],
            unk_id=0,
            bos_id=1,
            eos_id=2,
            pad_id=3,
            unk_piece=UNKNOWN,
            bos_piece=BEGIN,
            eos_piece=END,
            pad_piece=PAD,
            num_threads=1,
            minloglevel=2,
        )
    save_tokenizer(fast_tokenizer(model.read_bytes()), folder)


def _without_rare(texts: Sequence[str], room: int) -> Sequence[str]:
    """The texts unchanged if `room` pieces hold their characters, else broken at the rarest ones."""
    counts = collections.Counter("".join(texts)).most_common()
    left, needed = (1 - COVERED) * sum(count for _, count in counts), len(counts)
    while needed and left >= counts[needed - 1][1]:
        needed -= 1
        left -= counts[needed][1]
    if needed <= room:
        return texts
    rare = {ord(character): "\n" for character, _ in counts[max(1, int(WHOLE * room)) :]}
    return [text.translate(rare) for text in texts]


def fast_tokenizer(model: bytes) -> PreTrainedTokenizerFast:
    """The Hugging Face tokenizer of a serialised sentencepiece unigram model, piece for piece."""
    proto = sentencepiece_model_pb2.ModelProto.FromString(model)  # type: ignore[attr-defined]  # made when it is imported
    pieces = [(piece.piece, piece.score) for piece in proto.pieces]
    backend = Tokenizer(models.Unigram(pieces, unk_id=0, byte_fallback=True))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(replacement="▁", prepend_scheme="never", split=True)
    backend.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    backend.add_special_tokens([AddedToken(token, normalized=False) for token in (UNKNOWN, BEGIN, END, PAD)])
    backend.add_tokens([AddedToken("\n", normalized=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        unk_token=UNKNOWN,
        bos_token=BEGIN,
        eos_token=END,
        pad_token=PAD,
        clean_up_tokenization_spaces=False,
    )


def lm_shape(vocabulary: int, hidden_size: int, num_layers: int) -> dict[str, Any]:
    """The sizes in a `config.json` of a small tied Llama: heads of 32, half as many for keys, an MLP of three widths.

    Args:
      vocabulary: tokens.
      hidden_size: a multiple of HIDDEN_MULTIPLE.
      num_layers: at least 1.
    """
    heads = hidden_size // HEAD_SIZE
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden_size,
        "intermediate_size": 3 * hidden_size,
        "num_hidden_layers": num_layers,
        "num_attention_heads": heads,
        "num_key_value_heads": heads // 2,
        "rope_theta": 10000.0,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": True,
        "max_position_embeddings": 1024,
    }


def lm_config(tokenizer: PreTrainedTokenizerFast, hidden_size: int, num_layers: int) -> dict[str, Any]:
    """The `config.json` of that model for this tokenizer."""
    return lm_shape(len(tokenizer), hidden_size, num_layers) | {
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
    }

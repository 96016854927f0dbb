"""What an export carries for coding items from their texts: the codebooks, and the encoder of the texts."""

from __future__ import annotations

import dataclasses
import pathlib
import shutil
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tsrec_jax.errors import UserError
from tsrec_jax.files import EXPORT_AGAIN, read_json, write_json
from tsrec_jax.models.hf import DTYPES, load_hf
from tsrec_jax.serving.answers import NoEncoder
from tsrec_jax.serving.export_files import verified, write_checksums
from tsrec_jax.sid.embed import embed_texts
from tsrec_jax.sid.index import SidIndex, load_index
from tsrec_jax.sid.sentence_encoder import sentence_encoder
from tsrec_jax.sid.settings import TEXT_FIELDS

CODEBOOKS_FILE = "codebooks.npz"
ENCODER_FILE = "encoder.json"
ENCODER_FOLDER = "encoder"  # a copy of the encoder, if the run has made it and nobody else has it
NO_CODEBOOKS = (
    "this export has no codebooks, because its SIDs or the vectors behind them were given, or other SIDs have replaced "
    "those of the run's index; give the item's sid"
)
QUANTILES = 101
_LIKE = 0.99  # cosine of a vector with the expected one: another device rounds differently, another model is far off
_BATCH = 16  # texts that are embedded together
Embed = Callable[[Sequence[str]], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The model that turns texts into vectors.

    Attributes:
      kind: `llm` or `sentence_transformers`, as `IndexSettings.encoder`.
      model: a folder or hub id.
      carried: whether an export carries a copy because nobody else has the model.
      dtype: the compute type of an `llm`.
      text_fields: the parts of an item that make up its text.
      max_tokens: most tokens of a text; the rest is not read.
      probe, probe_D: a text and the vector that it should have.
    """

    kind: str
    model: str
    carried: bool
    dtype: str
    text_fields: tuple[str, ...]
    max_tokens: int
    probe: str
    probe_D: np.ndarray

    def load(self) -> Embed:
        """A function that maps N texts to float32 x_ND.

        Raises:
          NoEncoder: the model is not available, or is not the one used in training.
        """
        try:
            embed = self._llm() if self.kind == "llm" else sentence_encoder(self.model, self.max_tokens)
        except UserError as error:
            raise NoEncoder(f"the encoder {self.model!r} is not to be had: {error}; see --encoder") from None
        found_D = embed([self.probe])[0]
        if found_D.shape != self.probe_D.shape or _cosine(found_D, self.probe_D) < _LIKE:
            raise NoEncoder(
                f"the encoder {self.model!r} makes other vectors than the one that the SIDs were made with; give that "
                "one as --encoder=FOLDER"
            )
        return embed

    def _llm(self) -> Embed:
        from tsrec_jax.models.tokenizer import load_tokenizer  # with transformers, which most servers never need

        model, tokenizer = load_hf(self.model, dtype=self.dtype, remat=False), load_tokenizer(self.model)

        def embed(texts: Sequence[str]) -> np.ndarray:
            rows = 1 if len(texts) == 1 else _BATCH
            return embed_texts(model, tokenizer, texts, max_tokens=self.max_tokens, rows=rows)

        return embed


@dataclasses.dataclass(frozen=True)
class Codebooks:
    """The codebooks of an export and what goes with them.

    Attributes:
      index: as made by `SidIndex.codebooks`: code e of a level is token e of the catalogue's level.
      encoder: the encoder of the texts.
      errors_Q: float32 (QUANTILES), quantiles, from least to largest, of the squared distance between an exported
        item's whitened vector and the vector that its SID stands for.
    """

    index: SidIndex
    encoder: Encoder
    errors_Q: np.ndarray

    def save(self, folder: pathlib.Path) -> None:
        """Writes the files into an export."""
        self.index.save(folder / CODEBOOKS_FILE)
        encoder = self.encoder
        if encoder.carried:
            copy = folder / ENCODER_FOLDER
            shutil.copytree(encoder.model, copy, copy_function=shutil.copyfile)
            write_checksums(copy)
        facts = {
            "encoder": encoder.kind,
            "model": None if encoder.carried else encoder.model,
            "dtype": encoder.dtype,
            "text_fields": encoder.text_fields,
            "max_tokens": encoder.max_tokens,
            "probe": {"text": encoder.probe, "vector": _plain(encoder.probe_D)},
            "errors": _plain(self.errors_Q),
        }
        write_json(folder / ENCODER_FILE, facts, indent=1)


def read_codebooks(folder: pathlib.Path, levels: Sequence[int], encoder: str | None = None) -> Codebooks | None:
    """Reads what `Codebooks.save` wrote; None if the export has none.

    Args:
      folder: the export.
      levels: number of tokens on each level of its catalogue.
      encoder: folder or hub id of the encoder on this machine; None: the one that the export names.

    Raises:
      UserError: a file is broken, or belongs to another catalogue.
    """
    path = folder / CODEBOOKS_FILE
    if not path.exists() and not path.is_symlink():
        return None
    index = load_index(path, way_out=EXPORT_AGAIN)
    numbered = index.collisions == "extra_level"
    if index.quantiser.sizes != tuple(levels)[: len(levels) - numbered]:
        raise UserError(f"{path}: its codes are not those of the catalogue; {EXPORT_AGAIN}")
    facts = read_json(folder / ENCODER_FILE, EXPORT_AGAIN)
    try:
        _check(facts)
        own = Encoder(
            facts["encoder"],
            encoder or facts["model"] or str(folder / ENCODER_FOLDER),
            facts["model"] is None,
            facts["dtype"],
            tuple(facts["text_fields"]),
            facts["max_tokens"],
            facts["probe"]["text"],
            np.array(facts["probe"]["vector"], np.float32),
        )
        errors_Q = np.array(facts["errors"], np.float32)
        if errors_Q.shape != (QUANTILES,) or own.probe_D.shape != index.whitening.mean_D.shape:
            raise ValueError("its vectors are of other lengths")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{folder / ENCODER_FILE}: not an encoder that this program wrote ({error}); {EXPORT_AGAIN}"
        ) from None
    if own.carried and not encoder:
        with verified(folder / ENCODER_FOLDER):
            pass
    return Codebooks(index, own, errors_Q)


def quantiles(errors_I: np.ndarray) -> np.ndarray:
    """float32 (QUANTILES), from the least error to the largest."""
    return np.quantile(errors_I, np.linspace(0.0, 1.0, QUANTILES)).astype(np.float32)


def _check(facts: Any) -> None:
    """Raises ValueError if a value is not one that `Codebooks.save` writes."""
    if facts["encoder"] not in ("llm", "sentence_transformers"):
        raise ValueError(f"encoder={facts['encoder']!r}")
    if facts["dtype"] not in DTYPES:
        raise ValueError(f"dtype={facts['dtype']!r}")
    if type(facts["max_tokens"]) is not int or facts["max_tokens"] < 1:
        raise ValueError(f"max_tokens={facts['max_tokens']!r}")
    if not isinstance(facts["model"], str | None) or not isinstance(facts["probe"]["text"], str):
        raise ValueError("model or the text of the probe is not a text")
    if not facts["text_fields"] or not set(facts["text_fields"]) <= set(TEXT_FIELDS):
        raise ValueError(f"text_fields={facts['text_fields']!r}")


def _plain(x: np.ndarray) -> list[float]:
    """Numbers for JSON, with as many digits as float32 has."""
    return [float(f"{value:.8g}") for value in x.tolist()]


def _cosine(x_D: np.ndarray, y_D: np.ndarray) -> float:
    return float(x_D @ y_D / max(np.linalg.norm(x_D) * np.linalg.norm(y_D), 1e-30))

"""The vectors of the items, from which SIDs are made and neighbours are found: made once, and kept."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from tsrec_jax.baselines.names import BASELINES
from tsrec_jax.data.catalogue import Item
from tsrec_jax.data.text_folder import TextFolder
from tsrec_jax.errors import UserError
from tsrec_jax.files import read_facts, replacing, write_json
from tsrec_jax.models.hf import load_hf
from tsrec_jax.models.sharding import own_mesh
from tsrec_jax.models.tokenizer import load_tokenizer
from tsrec_jax.pipeline import pretrain
from tsrec_jax.pipeline.mesh import open_mesh
from tsrec_jax.pipeline.provenance import fingerprint, input_facts
from tsrec_jax.processes import first, share
from tsrec_jax.progress import report, stage
from tsrec_jax.rl.names import REWARDS
from tsrec_jax.settings import Settings, section_facts
from tsrec_jax.sid.embed import embed_texts, item_text
from tsrec_jax.sid.given import read_embeddings
from tsrec_jax.sid.sentence_encoder import sentence_encoder

FILE = "embeddings.npy"  # in the folder `index` of a workdir
MADE_WITH = "embeddings.json"  # in the same folder: what the vectors were made with
SHAPES = ("encoder", "text_fields", "max_tokens")  # settings of `index` that decide a text's vector


@dataclasses.dataclass(frozen=True)
class ItemVectors:
    """The vectors of a run's items: the user's, or those that an encoder makes from the item texts.

    Calling the object gives float32 x_ID, in the order of the items. Only one process at a time may make the vectors,
    unless all make them together with `make_together`.

    Attributes:
      settings: sections `index`, `model` and `mesh` are read.
      items: the items, in the order of the item file.
      folder: where the vectors are kept.
      base: gives the pretrained model that a run starts from; it embeds the texts if `index.model` is empty.
      base_identity: what distinguishes that model from every other.
    """

    settings: Settings
    items: Sequence[Item]
    folder: pathlib.Path
    base: Callable[[], str]
    base_identity: str

    @classmethod
    def before_training(cls, settings: Settings, workdir: pathlib.Path, texts: TextFolder) -> ItemVectors:
        """The vectors of a run whose pretrained model may not exist yet; it is made when it is needed."""
        own, path = pretrain.pretraining_identity(settings, texts), settings.model.path
        identity = _model_identity(path) if path else f"pretrained ({fingerprint(own)})"
        base = functools.partial(pretrain.pretrained_model, settings, workdir, texts)
        return cls(settings, texts.items, workdir / "index", base, identity)

    @classmethod
    def of_model(cls, settings: Settings, workdir: pathlib.Path, items: Sequence[Item], base: str) -> ItemVectors:
        """The vectors of a run whose pretrained model, `base`, exists."""
        return cls(settings, items, workdir / "index", lambda: base, _model_identity(base))

    @property
    def encoder(self) -> dict[str, Any]:
        """What turns a text into a vector; for vectors that the user gives, this is unknown."""
        settings = self.settings
        if settings.index.embeddings:
            return {"index.encoder": "none, the embeddings are given"}
        facts = section_facts(settings.index)
        return {
            "encoder's model": _model_identity(settings.index.model) if settings.index.model else self.base_identity,
            "model.dtype": settings.model.dtype,
            **{f"index.{key}": facts[f"index.{key}"] for key in SHAPES},
        }

    @property
    def identity(self) -> dict[str, Any]:
        """What distinguishes these vectors from others of the same items.

        Raises:
          UserError: the file of given vectors is missing.
        """
        given = "SHA-256 of index.embeddings"
        return {**self.encoder, given: input_facts(self.settings.index, ("embeddings",))[given]}

    def file(self) -> pathlib.Path:
        """The file of the vectors: the user's, or the kept one, which is made if it is missing.

        Raises:
          UserError: there is no encoder, or it cannot be loaded.
        """
        if self.settings.index.embeddings:
            return pathlib.Path(self.settings.index.embeddings)
        words = self._words()
        if not self._is_kept(words):
            self._keep(words, _encoded(self.settings, words, self._model(), own_mesh(open_mesh(self.settings))))
        return self.folder / FILE

    def make_together(self) -> None:
        """Makes with all processes what `file` would make in the first one: each embeds its share of the texts.

        Texts to be embedded by the library sentence-transformers, which knows nothing of our processes, are left to
        `file`.
        """
        words = self._words()
        index = self.settings.index
        if index.embeddings or index.encoder != "llm" or share(first() and self._is_kept(words)):
            return
        x_ID = _encoded(self.settings, words, self._model(), open_mesh(self.settings))
        if first():
            self._keep(words, x_ID)

    def _words(self) -> list[str]:
        return [item_text(item, self.settings.index.text_fields) for item in self.items]

    def _model(self) -> str:
        model = self.settings.index.model or self.base()
        if not model:
            raise UserError(
                "vectors of the items are wanted, and there is no model to make them with; give "
                "config.index.embeddings or config.index.model"
            )
        return model

    def _made_with(self, words: list[str]) -> dict[str, Any]:
        return {"texts": fingerprint(words), **self.encoder}

    def _is_kept(self, words: list[str]) -> bool:
        if not (self.folder / FILE).exists():
            return False
        kept = read_facts(self.folder / MADE_WITH, f"delete {FILE} beside it, and the vectors are made again")
        return kept == self._made_with(words)

    def _keep(self, words: list[str], x_ID: np.ndarray) -> None:
        file = self.folder / FILE
        file.unlink(missing_ok=True)
        write_json(self.folder / MADE_WITH, self._made_with(words))
        with replacing(file) as temporary, temporary.open("wb") as opened:
            np.save(opened, x_ID)

    def __call__(self) -> np.ndarray:
        """float32 x_ID.

        Raises:
          UserError: as in `file`, or the given vectors do not fit the items.
        """
        given = self.settings.index.embeddings
        return read_embeddings(self.file(), len(self.items), "config.index.embeddings" if given else "kept vectors")


def teachers(settings: Settings) -> tuple[str, ...]:
    """The baselines, if any, that tasks of the training learn from."""
    learned = settings.fusion.model and "distilled_sid" in settings.tasks.used()
    return (settings.tasks.distilled_sid.teacher,) if learned else ()


def need_vectors(names: Collection[str]) -> bool:
    """Whether one of these baselines is fitted to vectors of the items; names that are not baselines need none."""
    return any(name in BASELINES and BASELINES[name].vectors for name in names)


def rl_needs_vectors(settings: Settings) -> bool:
    """Whether there is a second stage whose teacher or reward reads vectors of the items."""
    wanted = settings.rl
    rewarded = wanted.compares and REWARDS[wanted.reward].vectors
    return wanted.steps > 0 and (need_vectors(wanted.teachers) or rewarded)


def need_base(settings: Settings, makes_sids: bool) -> bool:
    """Whether a run needs its pretrained model: to train, or to embed the items for its SIDs or a fusion's parts.

    Args:
      settings: which parts there are, and what embeds the items.
      makes_sids: whether the run makes the SIDs; its export then embeds and codes new items too.
    """
    index = settings.index
    embeds = makes_sids or need_vectors(settings.fusion.parts)
    return settings.fusion.model or (embeds and not (index.embeddings or index.model))


def _model_identity(model: str) -> str:
    """What distinguishes an encoder: how this program pretrained it, in this run or another, or else its place."""
    pretrained = pathlib.Path(model) / pretrain.IDENTITY
    if not pretrained.is_file():
        return model
    return f"pretrained ({fingerprint(read_facts(pretrained, 'pretrain the model again, or copy its folder again'))})"


def _encoded(settings: Settings, words: list[str], model: str, mesh: Mesh | None) -> np.ndarray:
    """float32 x_ID of the items' texts from the encoder of the settings, on a mesh if that is a language model."""
    report(f"index: embedding {len(words)} item texts with {model}")
    if settings.index.encoder == "sentence_transformers":
        return sentence_encoder(model, settings.index.max_tokens)(words)
    return _llm_embeddings(settings, words, model, mesh)


def _llm_embeddings(settings: Settings, words: list[str], model: str, mesh: Mesh | None) -> np.ndarray:
    with contextlib.nullcontext() if mesh is None else jax.set_mesh(mesh), stage("index"):
        return embed_texts(
            load_hf(model, dtype=settings.model.dtype, mesh=mesh, remat=False, attention=settings.model.attention),
            load_tokenizer(model),
            words,
            max_tokens=settings.index.max_tokens,
            rows=settings.index.batch_rows,
            mesh=mesh,
        )

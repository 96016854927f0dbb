"""The dense head of a run: the vectors of the item texts that it starts from, and the items that it learns."""

from __future__ import annotations

import pathlib
from collections.abc import Callable

import numpy as np
from flax import nnx
from jax.sharding import Mesh

from tsrec_jax.baselines.sasrec import svd_features
from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.interactions import Interactions
from tsrec_jax.files import write_npz
from tsrec_jax.models.dense_head import DenseHead
from tsrec_jax.pipeline.provenance import fingerprint
from tsrec_jax.pipeline.workdir import Workdir
from tsrec_jax.planning.accounting import DenseShape
from tsrec_jax.settings import Settings
from tsrec_jax.sid.given import read_embeddings, refuse_equal

MOST_FEATURES = 256
FILE = "dense_texts.npz"  # the vectors that a run has computed, and what they were made from

Texts = Callable[[Catalogue, str, int], np.ndarray]  # like `text_vectors`


def make_head(
    settings: Settings, catalogue: Catalogue, d_model: int, first_id: int, mesh: Mesh | None, texts: Texts
) -> DenseHead:
    """A head before training, the same in every stage.

    Args:
      settings: section `dense` and `seed` are read.
      catalogue: the items.
      d_model: width of the model.
      first_id: id of the first SID token.
      mesh: where its arrays lie.
      texts: gives the vectors of the texts.

    Raises:
      UserError: the items' texts share no words, or the file of vectors is not valid.
    """
    dense = settings.dense
    return DenseHead(
        texts(catalogue, dense.embeddings, min(d_model, MOST_FEATURES)),
        catalogue.tokens_IC,
        catalogue.sid_numbers_I,
        first_id=first_id,
        d_model=d_model,
        temperature=dense.temperature,
        rngs=nnx.Rngs(settings.seed),
        mesh=mesh,
    )


def known_items(catalogue: Catalogue, train: Interactions) -> np.ndarray:
    """bool known_I: the items whose SIDs occur in train, in a history or as a target."""
    known_U = np.zeros(len(catalogue.items_of_sid), bool)
    found = set(train.targets.tolist()).union(*train.histories)
    known_U[catalogue.sid_numbers_I[sorted(found)]] = True
    return known_U[catalogue.sid_numbers_I]


def dense_shape(settings: Settings, catalogue: Catalogue, d_model: int) -> DenseShape | None:
    """The sizes of the head, in the form that a plan uses; None if there is no head."""
    if not settings.dense.weight:
        return None
    slots = settings.train.sequence_length // catalogue.num_levels
    features, path = min(d_model, MOST_FEATURES), pathlib.Path(settings.dense.embeddings)
    if settings.dense.embeddings and path.exists():
        features = read_embeddings(path, catalogue.num_items, "config.dense.embeddings").shape[1]
    return DenseShape(catalogue.num_items, slots, features)


def text_vectors(catalogue: Catalogue, embeddings: str, features: int) -> np.ndarray:
    """float32 texts_IF, rows of length 1 or 0: singular vectors of the texts' TF-IDF, or vectors from a file minus
    their mean.

    Args:
      catalogue: the items.
      embeddings: the file; empty: none.
      features: the greatest F of the singular vectors.
    """
    if embeddings:
        path = pathlib.Path(embeddings)
        texts_IF = read_embeddings(path, catalogue.num_items, "config.dense.embeddings")
        refuse_equal(texts_IF, embeddings)
        texts_IF = texts_IF - texts_IF.mean(axis=0)
    else:
        texts_IF = svd_features(catalogue, features)
    length_I1 = np.linalg.norm(texts_IF, axis=1, keepdims=True)
    return (texts_IF / np.where(length_I1 > 0, length_I1, 1.0)).astype(np.float32)


def kept_text_vectors(workdir: Workdir, catalogue: Catalogue, embeddings: str, features: int) -> np.ndarray:
    """Like `text_vectors`; computed vectors are kept in the workdir, so that all stages and processes have the same."""
    if embeddings:
        return text_vectors(catalogue, embeddings, features)
    made_with = fingerprint([features, *(item.read_by_models for item in catalogue.items)])

    def make() -> pathlib.Path:
        file = workdir.path / FILE
        if not file.exists() or str(np.load(file)["made_with"]) != made_with:
            texts_IF = text_vectors(catalogue, "", features)
            write_npz(file, {"texts_IF": texts_IF, "made_with": np.array(made_with)})
        return file

    with np.load(workdir.first_makes(make)) as kept:
        return kept["texts_IF"]

"""The exported folder: Hugging Face weights and tokenizer with the SID tokens, the catalogue, the prompts, a card."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
from collections.abc import Mapping
from typing import Any

from transformers import PreTrainedTokenizerFast

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.prompts import Templates
from tsrec_jax.decoding.trie import Trie
from tsrec_jax.errors import UserError
from tsrec_jax.models.decoder import Decoder
from tsrec_jax.models.hf import save_hf
from tsrec_jax.processes import first

CATALOGUE_FILE = "sid_catalogue.json"
PROMPTS_FILE = "prompts.json"
TRIE_FILE = "sid_trie.npz"
# What a step's scores are normalised over, by normaliser.
_NORMALISED = {
    "vocab": "all tokens, as the beam search of `transformers` does",
    "level": "the tokens of the level. The beam search of `transformers` does so over all tokens, and ranks otherwise",
    "catalogue": "the tokens that the constraint allows. The beam search of `transformers` does so over all tokens and "
    "applies the constraint then: it ranks otherwise",
}


def export_folder(
    model: Decoder,
    tokenizer: PreTrainedTokenizerFast,
    catalogue: Catalogue,
    templates: Templates,
    folder: str | os.PathLike[str],
    *,
    max_length: int,
    normaliser: str,
    card_facts: Mapping[str, Any],
    dtype: str = "float32",
) -> None:
    """Writes a folder that `transformers.AutoModelForCausalLM` and `Recommender` load; it replaces an older one whole.

    Several processes call it together, for the weights; the first one writes.

    Args:
      model: trained; its vocabulary rows beyond the ids in use are not written.
      tokenizer: with the SID tokens.
      catalogue: the items; written without descriptions.
      templates, max_length: the prompts it was trained with.
      normaliser: of `SearchSettings`, what its scores are normalised over in a search.
      folder: where to.
      card_facts: named facts for the model card.
      dtype: type of the stored weights.

    Raises:
      UserError: `folder` holds something else than an older export; it is left as it is.
    """
    folder = pathlib.Path(folder)
    if folder.exists() and not (folder / CATALOGUE_FILE).is_file() and (folder.is_file() or any(folder.iterdir())):
        raise UserError(f"{folder}: not an export, so it is not replaced; give an empty or new folder")
    scratch = folder.with_name(folder.name + ".writing")
    if first():
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    save_hf(model, scratch, dtype=dtype)
    if not first():
        return
    tokenizer.save_pretrained(scratch)
    _write_json(scratch / "generation_config.json", neutral_generation(tokenizer))
    _write_json(scratch / CATALOGUE_FILE, catalogue.to_json())
    prompts = {"templates": templates.to_mapping(), "max_length": max_length, "normaliser": normaliser}
    _write_json(scratch / PROMPTS_FILE, prompts)
    Trie.of_catalogue(catalogue, len(tokenizer) - len(catalogue.tokens)).save(scratch / TRIE_FILE)
    (scratch / "README.md").write_text(model_card(catalogue, normaliser, card_facts), encoding="utf-8")
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        os.replace(folder, old)
    os.replace(scratch, folder)
    shutil.rmtree(old, ignore_errors=True)


def neutral_generation(tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """The contents of `generation_config.json`: special ids only.

    A base model's sampling settings and penalties must not leak into a beam search, so none is carried over.
    """
    ids = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return {"do_sample": False, "num_beams": 1, **{name: value for name, value in ids.items() if value is not None}}


def _write_json(path: pathlib.Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def model_card(catalogue: Catalogue, normaliser: str, facts: Mapping[str, Any]) -> str:
    """The README of an exported folder."""
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""---
library_name: transformers
tags: [generative-recommendation, semantic-ids, ts-rec]
---
# A TS-Rec recommender

A causal language model that writes the semantic ID of the item a user wants next. Its catalogue has
{catalogue.num_items} items with {len(catalogue.items_of_sid)} distinct semantic IDs of {catalogue.num_levels} tokens.

```python
from tsrec_jax import Recommender

recommender = Recommender.load("this/folder")
print(recommender.recommend([["{catalogue.items[0].id}"]], k=10))
```

`{CATALOGUE_FILE}` maps items to semantic IDs, `{TRIE_FILE}` holds the valid ones for the search, `{PROMPTS_FILE}` the
prompts of the training. Decode with a prefix
constraint: without one, the model may write a semantic ID that no item has. The scores of a step are normalised over
{_NORMALISED[normaliser]}.

## Facts of its training

{listed}
"""

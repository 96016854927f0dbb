"""The README of an exported folder: what it is, and how to use it with this package or `transformers` alone."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from tsrec_jax.data.catalogue import Catalogue
from tsrec_jax.data.prompts import Templates
from tsrec_jax.models.tokenizer import GENERIC_CLASS
from tsrec_jax.serving.export_files import (
    CATALOGUE_FILE,
    CHECKSUMS_FILE,
    FUSION_FILE,
    PROMPTS_FILE,
    TRIE_FILE,
)

# What a step's scores are normalised over, by normaliser.
_NORMALISED = {
    "vocabulary": "all tokens, as the beam search of `transformers` does",
    "level": "the tokens of the level. The beam search of `transformers` does so over all tokens, and ranks otherwise",
    "constrained": "the tokens that the constraint allows. The beam search of `transformers` does so over all tokens "
    "and applies the constraint then, unless it is told `renormalize_logits=True`, as below",
}


_FUSED = f"""`{FUSION_FILE}` holds other recommenders, whose scores `Recommender` adds to the model's. What
`transformers` gives below is the model alone, and ranks otherwise.

"""


def model_card(
    catalogue: Catalogue,
    templates: Templates,
    history: Sequence[str],
    *,
    tokenizer_class: str,
    ends: int | list[int],
    max_length: int,
    normaliser: str,
    facts: Mapping[str, Any],
    fused: bool = False,
) -> str:
    """The card; its blocks of Python run unchanged in the folder, and print the same items.

    Args:
      catalogue: the items.
      templates, max_length: those of the prompts.
      history: item ids of one user, oldest first, for the examples.
      tokenizer_class: as in `tokenizer_config.json`.
      ends: `eos_token_id` as in `config.json`.
      normaliser: what scores are normalised over.
      facts: facts about its training, by name.
      fused: whether other recommenders take part.
    """
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    asked = json.dumps(list(history), ensure_ascii=False)
    sids = templates.separator.join(catalogue.sid(catalogue.item_index(item)) for item in history)
    prompt = templates["next_sid"].header + templates["next_sid"].prompt.format(history=sids)
    first_end, *more_ends = ends if isinstance(ends, list) else [ends]
    also = f" The base model's texts also end with {', '.join(map(str, more_ends))}." if more_ends else ""
    reader, why = "AutoTokenizer", ""
    if tokenizer_class == GENERIC_CLASS:
        reader = GENERIC_CLASS
        why = (
            f"The tokenizer is read as `{GENERIC_CLASS}`:\nfor some types of models, `AutoTokenizer` of "
            "transformers 5 does not take `tokenizer.json` as it is written."
        )
    return f"""---
library_name: transformers
tags: [generative-recommendation, semantic-ids, ts-rec]
---
# A TS-Rec recommender

A causal language model that writes the semantic ID of the item a user wants next. Its catalogue has
{catalogue.num_items} items with {len(catalogue.items_of_sid)} distinct semantic IDs of {catalogue.num_levels} tokens.

```python
from tsrec_jax import Recommender

recommender = Recommender.load(".")  # the folder of this file
print(recommender.recommend([{asked}], k=10))  # item ids, oldest first
```

`{CATALOGUE_FILE}` maps items to semantic IDs, `{TRIE_FILE}` holds the valid ones for the search, `{PROMPTS_FILE}` the
prompts of the training, `{CHECKSUMS_FILE}` what `Recommender.load` compares the files with. Decode with a prefix
constraint: without one, the model may write a semantic ID that no item has. The scores of a step are normalised over
{_NORMALISED[normaliser]}.

{_FUSED if fused else ""}## With `transformers` alone

The prompt of this history, without a token before it and without anything behind the last character:

```text
{prompt}
```

Prompt, semantic ID and what ends it have {max_length} tokens at most. Of a longer prompt the beginning is dropped: the
first line, then the oldest items. {why}

```python
{_block(asked, reader, normaliser)}
```

A completion ends with a newline and the token {first_end}, the tokenizer's `eos_token`, which `config.json` and
`generation_config.json` name (first) as `eos_token_id`.{also}

vLLM and SGLang were not tried with this folder. What is needed of them is a beam search under a constraint that differs
with every prefix; sampling with a list of allowed tokens or a grammar gives other lists. `docs/other_servers.md` of
tsrec_jax says how far they go. To serve the lists of this recommender, use `tsrec serve --export=FOLDER`.

## Facts of its training

{listed}
"""


def fusion_card(catalogue: Catalogue, parts: Sequence[str], history: Sequence[str], facts: Mapping[str, Any]) -> str:
    """The card of an export without a language model.

    Args:
      catalogue: the items.
      parts: the names of the recommenders in it.
      history: item ids of one user, oldest first, for the example.
      facts: facts about how it was made, by name.
    """
    listed = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    return f"""# A recommender of {", ".join(parts)}

Tables that score the {catalogue.num_items} items of a catalogue for a history; no language model takes part. Items that
share a semantic ID share its score.

```python
from tsrec_jax import Recommender

recommender = Recommender.load(".")  # the folder of this file
print(recommender.recommend([{json.dumps(list(history), ensure_ascii=False)}], k=10))  # item ids, oldest first
```

`{CATALOGUE_FILE}` holds the items, `{FUSION_FILE}` the tables, `{CHECKSUMS_FILE}` what `Recommender.load` compares the
files with.

## Facts

{listed}
"""


def _block(asked: str, reader: str, normaliser: str) -> str:
    """Code that gives the recommendations of `recommend` for histories, with `transformers` 4.57 or 5 and torch."""
    renormalised = ", renormalize_logits=True" if normaliser == "constrained" else ""
    return f'''import json
import pathlib

import torch
from transformers import AutoModelForCausalLM, {reader}

histories, beams = [{asked}], 20
catalogue = json.loads(pathlib.Path("{CATALOGUE_FILE}").read_text("utf-8"))
prompts = json.loads(pathlib.Path("{PROMPTS_FILE}").read_text("utf-8"))
model = AutoModelForCausalLM.from_pretrained(".", dtype=torch.float32).eval()
tokenizer = {reader}.from_pretrained(".")  # pads on the left
tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
sids, items, following = {{}}, {{}}, {{}}
for item in catalogue["items"]:
    sids[item["id"]], ids = "".join(item["sid"]), tokenizer.convert_tokens_to_ids(item["sid"])
    items.setdefault(tuple(ids), []).append(item["id"])
    for level, token in enumerate(ids):
        following.setdefault(tuple(ids[:level]), {{}})[token] = None

words, levels = prompts["templates"], catalogue["levels"]
texts = [words["separator"].join(sids[item] for item in history) for history in histories]
texts = [words["next_sid"]["prompt"].format(history=text) for text in texts]
header, end, *rows = tokenizer([words["next_sid"]["header"], "\\n", *texts], add_special_tokens=False)["input_ids"]
room = prompts["max_length"] - levels - len(end) - 1
batch = tokenizer.pad({{"input_ids": [(header + row)[-room:] for row in rows]}}, return_tensors="pt")
start, none = batch["input_ids"].shape[1], [tokenizer.pad_token_id]
found = model.generate(
    **batch, num_beams=beams, num_return_sequences=beams, max_new_tokens=levels{renormalised},
    length_penalty=0.0,  # scores are sums of log-probabilities; the default divides them by the length
    prefix_allowed_tokens_fn=lambda row, ids: list(following.get(tuple(ids[start:].tolist()), none)),
    return_dict_in_generate=True, output_scores=True,
)
recommended = [{{}} for history in histories]
for place, (ids, score) in enumerate(zip(found.sequences[:, start:].tolist(), found.sequences_scores.tolist())):
    for item in items.get(tuple(ids), ()):  # of several with one semantic ID all, and none of a beam that found nothing
        recommended[place // beams].setdefault(item, score)
print([list(scores.items())[:10] for scores in recommended])'''

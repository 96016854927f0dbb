"""What a teacher said of the SID tokens, as the file `NAME.description_keywords.json`."""

from __future__ import annotations

import json
import os
import pathlib
from collections.abc import Iterable

from tsrec_jax.data.catalogue import Catalogue, Cluster
from tsrec_jax.data.faults import Faults
from tsrec_jax.data.folder_files import parse_json, read_files


def read_clusters(path: str | os.PathLike[str], catalogue: Catalogue) -> dict[str, Cluster]:
    """Reads and checks one file: {token: cluster} of every token of the catalogue.

    Raises:
      DatasetError: up to ten faults at once: a missing file, text that is not JSON or UTF-8, tokens without an entry or
        without an item, empty descriptions or keywords.
    """
    path = pathlib.Path(path)
    faults = Faults()
    texts = read_files(path.parent, (path.name,), (), faults)
    faults.stop_if_any()
    clusters = parse_clusters(path, texts[path.name], catalogue, faults)
    faults.stop_if_any()
    return clusters


def parse_clusters(path: pathlib.Path, text: str, catalogue: Catalogue, faults: Faults) -> dict[str, Cluster]:
    """{token: cluster} of the entries without a fault; the faults are noted."""
    entries = parse_json(path, text, faults)
    if entries is None:
        return {}
    if not isinstance(entries, list):
        faults.add(path, "", "must be a JSON list of {token, description, keywords}")
        return {}
    known = set(catalogue.tokens)
    clusters: dict[str, Cluster] = {}
    for row, entry in enumerate(entries, 1):
        place = f"entry {row}"
        if not isinstance(entry, dict) or not {"token", "description", "keywords"} <= set(entry):
            faults.add(path, place, "needs the keys token, description and keywords")
            continue
        token, description, keywords = entry["token"], entry["description"], entry["keywords"]
        if token not in known:
            faults.add(path, place, f"token {token!r} is carried by no item")
        elif token in clusters:
            faults.add(path, place, f"token {token} stands twice")
        elif not isinstance(description, str) or not description.strip():
            faults.add(path, place, f"token {token} has no description")
        elif token in description:
            faults.add(path, place, f"the description of token {token} names the token, which gives the answer away")
        elif (
            not isinstance(keywords, list)
            or not keywords
            or not all(isinstance(k, str) and k.strip() for k in keywords)
        ):
            faults.add(path, place, f"token {token} needs a list of keywords that are not empty")
        else:
            clusters[token] = Cluster(token, description.strip(), tuple(keywords))
    for token in catalogue.tokens:
        if token not in clusters and not any(token in line for line in faults.lines):
            faults.add(path, "", f"token {token} has no entry")
    return clusters


def write_clusters(path: pathlib.Path, clusters: Iterable[Cluster]) -> None:
    """Writes a file that `read_clusters` reads back equal; it appears only when it is complete."""
    listed = [{"token": c.token, "description": c.description, "keywords": list(c.keywords)} for c in clusters]
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text(json.dumps(listed, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(temporary, path)

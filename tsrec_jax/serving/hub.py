"""Exports on the Hugging Face hub: uploads and downloads."""

from __future__ import annotations

import glob
import os
import pathlib
import re
from typing import TYPE_CHECKING

from tsrec_jax.errors import UserError
from tsrec_jax.files import read_json
from tsrec_jax.serving.codebooks import ENCODER_FOLDER
from tsrec_jax.serving.export_files import CATALOGUE_FILE, CHECKSUMS_FILE, exported_names

if TYPE_CHECKING:
    from huggingface_hub import HfApi

_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # OWNER/NAME
_FILES = ("*.json", "*.safetensors", "*.npz", "*.model", "*.md", f"{ENCODER_FOLDER}/*")


def local_export(place: str | os.PathLike[str], revision: str | None = None) -> pathlib.Path:
    """The folder of an export: the place itself or, for a hub id, the local copy.

    Args:
      place: a folder, or OWNER/NAME on the hub.
      revision: branch, tag or commit on the hub; None: the newest.

    Raises:
      UserError: it is neither a local folder nor available from the hub.
    """
    folder = pathlib.Path(place)
    if folder.is_dir():
        if revision is not None:
            raise UserError(f"{folder}: a folder has no revision={revision!r}")
        return folder
    if not isinstance(place, str) or not _ID.fullmatch(place) or folder.exists() or folder.parent.is_dir():
        raise UserError(f"{folder}: no such folder; give one that the verb `export` wrote, or OWNER/NAME on the hub")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return pathlib.Path(snapshot_download(place, revision=revision, allow_patterns=list(_FILES)))
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(f"{place}: no such folder, and the hub gave no copy ({_reason(error)})") from None


def push_export(folder: pathlib.Path, repo_id: str, *, private: bool = True) -> str:
    """Uploads an export as one commit; creates the repository if it does not exist.

    Only the export's own files are uploaded, not others beside them, such as the changes of its catalogue.

    Args:
      folder: the export.
      repo_id: OWNER/NAME.
      private: whether a new repository is private; an existing one stays as it is.

    Returns:
      the address of the commit.

    Raises:
      UserError: not an id, the repository holds something else than an export, not logged in, or the hub refuses.
    """
    if not _ID.fullmatch(repo_id):
        raise UserError(f"{repo_id!r}: not the id of a repository on the hub; give OWNER/NAME")
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError, LocalTokenNotFoundError

    api = HfApi()
    names = [*exported_names(folder), f"{ENCODER_FOLDER}/*"]
    try:
        api.create_repo(repo_id, private=private, exist_ok=True)
        outdated = _exported_there(api, repo_id)
        done = api.upload_folder(
            folder_path=folder,
            repo_id=repo_id,
            allow_patterns=names,
            delete_patterns=[glob.escape(name) for name in outdated],  # except those being uploaded
            commit_message="A recommender of tsrec_jax",
        )
    except (HfHubHTTPError, LocalTokenNotFoundError, OSError) as error:
        raise UserError(f"{repo_id}: not uploaded ({_reason(error)}); `hf auth login` logs in") from None
    return str(done.commit_url)


def _exported_there(api: HfApi, repo_id: str) -> list[str]:
    """The files of an earlier export in a repository; nothing else there is ours to delete."""
    there = set(api.list_repo_files(repo_id))
    if there <= {".gitattributes", "README.md"}:
        return []
    if CATALOGUE_FILE not in there:
        raise UserError(f"{repo_id}: holds something else than an export of this program; give another repository")
    listed: set[str] = set()
    for folder in ("", f"{ENCODER_FOLDER}/"):
        if f"{folder}{CHECKSUMS_FILE}" in there:
            path = pathlib.Path(api.hf_hub_download(repo_id, f"{folder}{CHECKSUMS_FILE}"))
            sums = read_json(path, f"delete it from {repo_id}, or give another repository")
            listed |= {f"{folder}{name}" for name in (CHECKSUMS_FILE, *sums)}
    return sorted(there & listed)


def _reason(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

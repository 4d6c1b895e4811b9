"""Hub: fetch files of a repository on the Hugging Face hub, through its own library and its cache.

Owns the written form of hub ids, the choice of a repository's weights, and the errors. Cache, resuming of interrupted
downloads and HF_HUB_OFFLINE are huggingface_hub's. Start at `fetch`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from clipattr.dictionaries.checkpoints.reading import CONFIG_NAMES, WEIGHT_NAMES, WEIGHT_SUFFIXES
from clipattr.display.wording import few
from clipattr.errors import DictionaryError
from clipattr.storage.files import file_digest

HUB = "hf-hub:"
_WRITTEN = re.compile(
    r"^hf-hub:(?P<repository>[\w.-]+/[\w.-]+?)(?:@(?P<revision>[\w.-]+))?(?:/(?P<file>[^\\]+))?$"
)
BESIDE = (*CONFIG_NAMES, "activation_scaler.json")  # files that readers look for beside the weights


def fetch(
    source: str,
    file: str | None = None,
    revision: str | None = None,
    *,
    extra: Sequence[str] = (),
    sha256: str | None = None,
    offline: bool = False,
) -> Path:
    """Local path of a repository's weights, downloaded into huggingface_hub's cache unless they are there.

    Args:
        source: "OWNER/NAME", or "hf-hub:OWNER/NAME[@REVISION][/PATH]".
        file: path within the repository; default its only file of weights.
        revision: branch, tag or commit; default the main branch.
        extra: further files to have beside it. Configs beside the weights are always taken.
        sha256: 64 hex digits that the file must have.
        offline: use the cache only.

    Raises:
        DictionaryError: a malformed id; no such repository, revision or file; several files that may be the weights;
            no connection and nothing in the cache; or another sha256.
    """
    if source.startswith(HUB):
        written = _WRITTEN.match(source)
        if written is None or ".." in source:
            raise DictionaryError(
                f"{source!r} is not a hub id; write {HUB}OWNER/NAME, with @REVISION and /PATH behind it if needed."
            )
        source = written["repository"]
        file, revision = written["file"] or file, written["revision"] or revision
    try:
        names = _files(source, revision, offline)
        chosen = _weights(source, names, file)
        folder = str(PurePosixPath(chosen).parent)
        beside = [name for name in names if str(PurePosixPath(name).parent) == folder]
        above = str(PurePosixPath(folder).parent)
        beside += (
            [name for name in names if str(PurePosixPath(name).parent) == above] if folder != "." else []
        )
        wanted = [name for name in beside if PurePosixPath(name).name in BESIDE]
        for name in dict.fromkeys([*wanted, *extra]):
            _download(source, name, revision, offline)
        path = Path(_download(source, chosen, revision, offline))
    except DictionaryError:
        raise
    except Exception as error:  # the hub's own errors, those of proxies, of sockets, of disks
        raise DictionaryError(_told(source, revision, error)) from error
    if sha256 is not None and (found := file_digest(path, "sha256", 64)) != sha256:
        raise DictionaryError(
            f"{path} from {source} has sha256 {found}, the registry says {sha256}: the file was changed or damaged. "
            f"Delete it and try again, or load it with {HUB}{source} if you trust it."
        )
    return path


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


def _is_offline(offline: bool) -> bool:
    from huggingface_hub import constants

    return (
        offline or constants.HF_HUB_OFFLINE or os.environ.get("HF_HUB_OFFLINE", "0") in ("1", "true", "True")
    )


def _files(source: str, revision: str | None, offline: bool) -> list[str]:
    """Paths in a repository; offline, those that the cache holds."""
    from huggingface_hub import HfApi, snapshot_download

    if not _is_offline(offline):
        return HfApi(endpoint=_endpoint()).list_repo_files(source, revision=revision)
    root = Path(snapshot_download(source, revision=revision, local_files_only=True))
    return sorted(str(path.relative_to(root).as_posix()) for path in root.rglob("*") if path.is_file())


def _download(source: str, name: str, revision: str | None, offline: bool) -> str:
    from huggingface_hub import hf_hub_download

    return hf_hub_download(
        source, name, revision=revision, local_files_only=_is_offline(offline), endpoint=_endpoint()
    )


def _weights(source: str, names: Sequence[str], file: str | None) -> str:
    """The file of weights: the one asked for, one with a usual name, or the only one there is."""
    if file is not None:
        if file in names:
            return file
        below = [name for name in names if name.startswith(f"{file.rstrip('/')}/")]
        if not below:
            raise DictionaryError(f"{HUB}{source} has no file {file!r}; it has {few(sorted(names))}.")
        names = below
    candidates = [name for name in names if PurePosixPath(name).suffix in WEIGHT_SUFFIXES]
    for usual in WEIGHT_NAMES:
        named = [name for name in candidates if PurePosixPath(name).name == usual]
        if len(named) == 1:
            return named[0]
    if len(candidates) != 1:
        listed = few(sorted(candidates))
        raise DictionaryError(
            f"{HUB}{source} holds {len(candidates)} files that may be weights ({listed}); name one: {HUB}{source}/PATH."
        )
    return candidates[0]


def _told(source: str, revision: str | None, error: Exception) -> str:
    from huggingface_hub import errors

    first = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
    if isinstance(error, (errors.RepositoryNotFoundError, errors.GatedRepoError)):
        why = "there is no such repository, or it is private or gated: check the name, or log in with `hf auth login`"
    elif isinstance(error, errors.RevisionNotFoundError):
        why = f"there is no revision {revision!r}"
    elif isinstance(error, (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled)):
        why = (
            "its files are not in the cache and the hub cannot be reached: connect once, or copy them here and load "
            "the folder"
        )
    else:
        why = "the hub cannot be reached or answered with an error; what was downloaded is kept and resumed next time"
    return f"{HUB}{source} could not be fetched: {why} ({first})."

"""Models on the Hugging Face Hub: `hf://ORG/NAME@REVISION` to a folder in the client's cache, with digests checked.

Only the files that `bevt export` writes are downloaded, each of bounded size; nothing in them is code. A name with a
whole commit hash needs no network once its files are in the cache. Imports no torch.
"""

import functools
import re
from pathlib import Path

from bevt_core.console.terminal import note
from bevt_core.hub.client import HubUnreachableError, ask, hub_api
from bevt_core.hub.files import RemoteFile, digest_like
from bevt_core.hub.repository import Listing, list_model
from bevt_core.storage.files import MAX_RECORD_BYTES, read_json_file
from schemas.errors import UserError
from schemas.text.hub_name import HubName, hub_name
from schemas.text.plain import short

WEIGHTS, CONFIG = "model.safetensors", "config.json"
CARDS = ("classifier.json", "pretrained.json")  # one of them, unless the weights are of an unknown origin
README = "README.md"
MAX_WEIGHTS_BYTES = 16 << 30  # a Video Swin-L has 0.8 GB
EXPECTED = "a model that `bevt export --push-to` wrote"
# of a file in bytes, in the order of downloading: the weights last, so that a folder that has them is complete
_LIMITS = {**dict.fromkeys((README, *CARDS, CONFIG), MAX_RECORD_BYTES), WEIGHTS: MAX_WEIGHTS_BYTES}
_SNAPSHOT = re.compile(r"models--(?P<org>[^/]+)--(?P<name>[^/]+)/snapshots/(?P<commit>[0-9a-f]{40})")


def pinned(name: str) -> str:
    """Return `name` with its present commit if it is on the Hub; return any other name unchanged.

    Raises UserError for a malformed name, a repository or a revision that does not exist, and without a network unless
    the cache has a copy, which is then used with a note.
    """
    found = hub_name(name)
    return name if found is None else str(_pin(found))


def model_folder(name: HubName) -> Path:
    """Return the folder with the model's files in the client's cache; download them if needed.

    Raises UserError if there is no such model, if it is no model of bevt, and if a digest differs.
    """
    return _folder(_pin(name))


def cached_folder(name: HubName) -> Path | None:
    """Return the folder of a model if its weights are in the client's cache, without any request; else None."""
    found = _cached(name, WEIGHTS)
    return None if found is None else found.parent


def is_exported(folder: Path) -> bool:
    """Return whether a folder has the files of an exported model."""
    if not all((folder / file).is_file() for file in (CONFIG, WEIGHTS, README)):
        return False
    return "bevt" in read_json_file(folder / CONFIG, dict)


def name_of_snapshot(folder: Path) -> str | None:
    """Return the pinned name of a folder in the client's cache; None for other folders."""
    found = _SNAPSHOT.fullmatch("/".join(folder.parts[-3:]))
    return None if found is None else str(HubName(f"{found['org']}/{found['name']}", found["commit"]))


def _pin(name: HubName) -> HubName:
    if name.is_pinned:
        return name
    try:
        listing = _listing(name)
        _check_listing(name, listing.files)
        _fetch(name, CONFIG)  # so that the cache has the commit of the branch or tag, for use without a network
        return name.at(listing.commit)
    except HubUnreachableError:
        cached = _cached(name, CONFIG)
        if cached is None:
            raise
        found = name.at(cached.parent.name)
        note(f"{name}: the Hub cannot be reached; using the cached commit {short(found.revision)}")
        return found


@functools.cache
def _listing(name: HubName) -> Listing:
    """The files at a revision. Cached, so that a process reads one commit, also if the branch moves meanwhile."""
    return list_model(name)


@functools.cache
def _folder(name: HubName) -> Path:
    """The folder of a pinned model, complete and with equal digests."""
    present = {file: path for file in _LIMITS if (path := _cached(name, file)) is not None}
    complete = {CONFIG, WEIGHTS} <= present.keys()
    if not complete or not present.keys() & set(CARDS):
        try:
            return _download(name)
        except HubUnreachableError:
            if not complete:
                raise
    for path in present.values():
        _check(name, path, _digest_in_cache(path))
    return present[WEIGHTS].parent


def _download(name: HubName) -> Path:
    files = _listing(name).files
    _check_listing(name, files)
    for file in _LIMITS:
        if file not in files:
            continue
        path = _fetch(name, file)
        _check(name, path, files[file].digest)
        if file == CONFIG and "bevt" not in read_json_file(path, dict):
            raise UserError(f"{name}: a model of another library, by its {CONFIG}; expected {EXPECTED}")
    return path.parent


def _check_listing(name: HubName, files: dict[str, RemoteFile]) -> None:
    missing = [file for file in (CONFIG, WEIGHTS) if file not in files]
    if missing:
        some = ", ".join(sorted(files)[:3]) or "no files"
        raise UserError(f"{name}: no {' and no '.join(missing)} (found: {some}); expected {EXPECTED}")
    for file, limit in _LIMITS.items():
        if file in files and files[file].size > limit:
            raise UserError(f"{name}: {file} has {files[file].size} bytes, expected at most {limit}")


def _fetch(name: HubName, file: str) -> Path:
    download = functools.partial(hub_api().hf_hub_download, name.repository, file, revision=name.revision)
    return Path(ask(name, download, attempts=2))  # it repeats most failed requests itself


def _cached(name: HubName, file: str) -> Path | None:
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(name.repository, file, revision=name.revision)
    return Path(found) if isinstance(found, str) else None


def _digest_in_cache(path: Path) -> str:
    """The digest by which the cache names a file: its target, if the cache consists of links, as on Linux."""
    return path.readlink().name if path.is_symlink() else ""


def _check(name: HubName, path: Path, expected: str) -> None:
    """Raise UserError, and remove the file from the cache, if its digest is known and differs."""
    found = digest_like(path, expected)
    if found is None or found == expected:
        return
    path.resolve().unlink(missing_ok=True)
    path.unlink(missing_ok=True)
    raise UserError(
        f"{name}: {path.name} has digest {short(found)}, expected {short(expected)}; the damaged copy was removed, "
        "run the same command again to download it"
    )

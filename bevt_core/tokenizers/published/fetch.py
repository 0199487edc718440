"""Download of published tokenizers from their address, the hub or a mirror, with retries and resume."""

import http.client
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bevt_core.console.disk_errors import FULL_OR_READ_ONLY, explained
from bevt_core.storage.files import sha256_of
from bevt_core.storage.locks.writers import hold_file
from bevt_core.system import write_through
from bevt_core.tokenizers.description import StoredTokenizer
from bevt_core.tokenizers.published.catalogue import published
from bevt_core.tokenizers.published.convert import convert_checkpoint
from bevt_core.tokenizers.published.dalle import convert_pickles
from bevt_core.tokenizers.published.hub import hub_file
from schemas.errors import UserError
from schemas.text.credentials import masked
from schemas.text.plain import short

DALLE_URL = "https://cdn.openai.com/dall-e"  # github.com/openai/DALL-E, README
ATTEMPTS = 5
TIMEOUT_S = 30.0
_CHUNK = 1 << 20

Progress = Callable[[str, int, int | None], None]  # file name, bytes so far, total bytes if the server reports them


def fetch_dalle(
    out: Path,
    *,
    base_url: str = DALLE_URL,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
    first_wait_s: float = 1.0,
) -> StoredTokenizer:
    """Download `encoder.pkl` and `decoder.pkl` from `base_url` and convert them into the tokenizer folder `out`.

    The downloads stay in `<out>.download` until the conversion succeeds, so that an interrupted one can resume.
    `expected_sha256` is the encoder pickle's. Raises UserError as `fetch_file` and `convert_pickles` do.
    """
    if out.exists():
        raise UserError(f"{out} exists; give another folder, or remove it first")
    with hold_file(out, "bevt tokenizer fetch"):
        folder = out.with_name(out.name + ".download")
        paths = []
        for name, expected in (("encoder.pkl", expected_sha256), ("decoder.pkl", None)):
            url = f"{base_url.rstrip('/')}/{name}"
            paths.append(folder / name)
            try:
                fetch_file(url, folder / name, expected_sha256=expected, progress=progress, first_wait_s=first_wait_s)
            except UserError as error:
                raise UserError(
                    f"{error}. Without a network, download {DALLE_URL}/encoder.pkl and {DALLE_URL}/decoder.pkl "
                    f"elsewhere, then run `bevt tokenizer convert encoder.pkl decoder.pkl --out {out}`"
                ) from None
        stored = convert_pickles(paths[0], paths[1], out, expected_sha256)
        for path in paths:
            path.unlink()
        folder.rmdir()
        return stored


def fetch_published(
    name: str,
    out: Path,
    *,
    revision: str | None = None,
    mirror: str | None = None,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
    first_wait_s: float = 1.0,
) -> StoredTokenizer:
    """Download the published tokenizer `name` of the catalogue and convert it into the tokenizer folder `out`.

    `revision` is the commit of a repository on the hub, `mirror` a URL below which the file is. The description records
    where the file is from and its SHA-256.
    Raises UserError for an unknown name, a hub file without a revision, and as `fetch_file` and `convert_checkpoint`.
    """
    entry = published(name)
    if out.exists():
        raise UserError(f"{out} exists; give another folder, or remove it first")
    if entry.repo is not None and mirror is None:
        if revision is None:
            raise UserError(
                f"{name}: no revision of {entry.repo} was checked, so none is pinned; give `--revision` with a commit "
                f"of {entry.page}/commits/main"
            )
        file = hub_file(entry.repo, entry.file, revision)
        source = {"repository": entry.repo, "revision": file.commit}
        return convert_checkpoint(entry.kind, file.path, out, expected_sha256=expected_sha256, source=source)
    if revision is not None:
        raise UserError(f"{name}: `--revision` is for files on the hub; this one is at {mirror or entry.page}")
    url = entry.url if mirror is None else f"{mirror.rstrip('/')}/{entry.file}"
    assert url is not None  # an entry has a repository or a URL
    with hold_file(out, "bevt tokenizer fetch"):
        folder = out.with_name(out.name + ".download")
        target = folder / entry.file
        options: dict[str, Any] = {"progress": progress, "first_wait_s": first_wait_s}
        try:
            digest = fetch_file(url, target, expected_sha256=expected_sha256, **options)
        except UserError as error:
            raise UserError(
                f"{error}. Without a network, download {entry.page} elsewhere, then run `bevt tokenizer convert FILE "
                f"--kind {entry.kind} --out {out}`"
            ) from None
        begins = None if expected_sha256 is not None else entry.sha256_begins
        if begins is not None and not digest.startswith(begins):
            target.unlink()
            raise UserError(f"{url}: sha256 {short(digest)}, expected {begins}...; file removed, use another mirror")
        stored = convert_checkpoint(entry.kind, target, out, source={"url": masked(url)})
        target.unlink()
        folder.rmdir()
        return stored


def fetch_file(
    url: str,
    target: Path,
    *,
    expected_sha256: str | None = None,
    progress: Progress | None = None,
    first_wait_s: float = 1.0,
) -> str:
    """Download `url` to `target` atomically; returns its sha256. An existing file is only hashed.

    A failed transfer is tried ATTEMPTS times, with a wait that doubles, and resumes where it stopped, also in a later
    call, if the server still has the same file (its ETag or Last-Modified). Raises UserError if the server has no such
    file, if it cannot be reached, or if the digest differs.
    """
    if not url.startswith(("http://", "https://")):
        raise UserError(f"{url}: no address of a server; give one such as https://mirror.example/files")
    target.parent.mkdir(parents=True, exist_ok=True)
    partial, validator = target.with_name(target.name + ".part"), target.with_name(target.name + ".part-of")
    for attempt in range(ATTEMPTS):
        if target.exists():
            break
        try:
            if _transfer(url, partial, validator, progress):
                partial.replace(target)
                validator.unlink(missing_ok=True)
                break
            reason = "the connection ended early"
        except urllib.error.HTTPError as error:
            reason = f"the server answered {error.code} {error.reason}"
            if error.code == 416:  # the server's file is no longer than ours: not the same file, start again
                partial.unlink(missing_ok=True)
            elif error.code < 500 and error.code not in (408, 429):
                raise UserError(f"{url}: {reason}; check the address, or use another mirror") from None
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            if isinstance(error, OSError) and error.errno in FULL_OR_READ_ONLY:  # a retry cannot help
                raise explained(error, partial) from error
            reason = str(getattr(error, "reason", error)) or type(error).__name__
        if attempt + 1 < ATTEMPTS:
            time.sleep(first_wait_s * 2**attempt)
    else:
        raise UserError(f"{url}: failed after {ATTEMPTS} attempts: {reason}; run the same command again to resume")
    digest = sha256_of(target)
    if expected_sha256 is not None and digest != expected_sha256.lower():
        target.unlink()
        raise UserError(
            f"{url}: sha256 {short(digest)}, expected {short(expected_sha256)}; file removed, use another mirror"
        )
    return digest


def _transfer(url: str, partial: Path, validator: Path, progress: Progress | None) -> bool:
    """Append the bytes of one connection to `partial`; returns True if the file is complete."""
    request = urllib.request.Request(url)
    known = validator.read_text() if validator.exists() and partial.exists() else ""
    if known:
        request.add_header("Range", f"bytes={partial.stat().st_size}-")
        request.add_header("If-Range", known)
    with urllib.request.urlopen(request, timeout=TIMEOUT_S) as response:
        resumed = response.status == 206
        done = partial.stat().st_size if resumed else 0
        length = response.headers.get("Content-Length")
        total = done + int(length) if length is not None else None
        validator.write_text(response.headers.get("ETag") or response.headers.get("Last-Modified") or "")
        with partial.open("ab" if resumed else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                done += len(chunk)
                if progress is not None:
                    progress(partial.stem, done, total)
            file.flush()
            write_through(file.fileno())
    return total is None or done == total

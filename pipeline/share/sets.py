"""The files of a frame store or token set, in an order in which an incomplete set never looks finished.

On the Hub the paths are those of the dataset's folder: `frames/...` and `tokens/NAME/...`. Reports, and the file with
the tokenizer's local folder, are not shared.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from bevt_core.dataset.commits import COMMIT, digest_of, part_name, read_manifest
from bevt_core.dataset.source_list import plan_path, sources_path
from bevt_core.dataset.token_set import token_set_folders
from bevt_core.storage.descriptions import what_is
from bevt_core.storage.files import read_record, size_of
from schemas.errors import DAMAGED, UserError
from schemas.frames import FileDigest, FramePartCommit, FrameStoreManifest
from schemas.tokens import TokenPartCommit, TokenSetManifest

MANIFEST, PLAN = "dataset.json", "plan.json"
FRAMES, TOKENS = "frames", "tokens"
EXTENSION_FILE = re.compile(r"(plan-\d{4,}\.json|sources-\d{4,}\.parquet)")
# besides `plan_files`, the parts and the manifest
OPTIONAL_FILES = {FRAMES: ("left-out.json", "samples.arrow", "samples.json"), TOKENS: ()}

Manifest = FrameStoreManifest | TokenSetManifest
PartCommit = FramePartCommit | TokenPartCommit


def kind_of(prefix: str) -> str:
    """Return FRAMES or TOKENS for the path of a set below its dataset."""
    return FRAMES if prefix == FRAMES else TOKENS


def commit_type(prefix: str) -> type[FramePartCommit] | type[TokenPartCommit]:
    return FramePartCommit if prefix == FRAMES else TokenPartCommit


def manifest_type(prefix: str) -> type[FrameStoreManifest] | type[TokenSetManifest]:
    return FrameStoreManifest if prefix == FRAMES else TokenSetManifest


def commit_path(prefix: str, part: int) -> str:
    """Return the path of a part's commit below its set."""
    name = part_name(part)
    return f"{name}/{COMMIT}" if prefix == FRAMES else f"{name}.json"


def files_of_part(prefix: str, commit: PartCommit) -> dict[str, FileDigest]:
    """Return the files of a part, by path below its set, without the commit."""
    name = part_name(commit.part)
    if isinstance(commit, FramePartCommit):
        return {f"{name}/{path}": digest for path, digest in commit.files.items()}
    return {f"{name}.parquet": FileDigest(sha256=commit.sha256, num_bytes=commit.num_bytes)}


def plan_files(manifest: Manifest) -> list[str]:
    """Return the names of a set's plans and, of a frame store, its lists of sources: those of its extensions too."""
    if isinstance(manifest, TokenSetManifest):
        return [PLAN]
    extensions = range(len(manifest.generations) + 1)
    return [path(Path(), number).name for number in extensions for path in (plan_path, sources_path)]


def check_parts_digest(where: object, manifest: Manifest, commits: Mapping[int, PartCommit]) -> None:
    """Raise UserError unless `commits` are those of all parts, as the manifest has them."""
    ordered = [commits[part].digest() for part in range(manifest.num_parts) if part in commits]
    if len(ordered) != manifest.num_parts or digest_of(ordered) != manifest.parts_digest:
        raise UserError(f"{where}: its parts are not those of its {MANIFEST}; {DAMAGED}")


@dataclass(frozen=True)
class StoredSet:
    """A finished frame store or token set on a local disk."""

    folder: Path
    prefix: str  # its path below the dataset: "frames" or "tokens/NAME"
    manifest: Manifest

    def read_commits(self) -> dict[int, PartCommit]:
        """Return the commits of all parts. Raises UserError if one is missing, damaged or of another job."""
        commits: dict[int, PartCommit] = {}
        for part in range(self.manifest.num_parts):
            path = self.folder / commit_path(self.prefix, part)
            commit = read_record(path, commit_type(self.prefix))
            if commit is None:
                raise UserError(f"{path}: missing; {DAMAGED}")
            commits[part] = commit
            for name, digest in files_of_part(self.prefix, commit).items():
                if (size := size_of(self.folder / name)) != digest.num_bytes:
                    raise UserError(
                        f"{self.folder / name}: {size} bytes, but its commit has {digest.num_bytes}; {DAMAGED}"
                    )
        check_parts_digest(self.folder, self.manifest, commits)
        return commits

    def files(self) -> Iterator[tuple[str, str | None]]:
        """Yield the path below the set and the SHA-256, if a commit has it, of every file, the manifest last."""
        kind = kind_of(self.prefix)
        yield from ((name, None) for name in plan_files(self.manifest))
        yield from ((name, None) for name in OPTIONAL_FILES[kind] if (self.folder / name).is_file())
        for part, commit in self.read_commits().items():
            yield from ((name, digest.sha256) for name, digest in files_of_part(self.prefix, commit).items())
            yield commit_path(self.prefix, part), None
        yield MANIFEST, None


def sets_at(path: Path) -> list[StoredSet]:
    """Return the finished sets at `path`: all of a dataset, frames first, or a single frame store or token set.

    Raises UserError if there is none, or if one of the dataset is not finished.
    """
    if (path / FRAMES).is_dir() or (path / TOKENS).is_dir():
        folders = [path / FRAMES] if (path / FRAMES).is_dir() else []
        folders += [Path(str(folder)) for folder in token_set_folders(path, PLAN)]
    else:
        folders = [path]
    return [_set_at(folder) for folder in folders]


def _set_at(folder: Path) -> StoredSet:
    absolute = folder.absolute()
    if absolute.name == FRAMES:
        return StoredSet(folder, FRAMES, read_manifest(folder, FrameStoreManifest, "frame store"))
    if absolute.parent.name == TOKENS:
        manifest = read_manifest(folder, TokenSetManifest, "token set")
        if manifest.name != absolute.name:
            raise UserError(f"{folder}: its {MANIFEST} has the name {manifest.name!r}; rename the folder back")
        return StoredSet(folder, f"{TOKENS}/{manifest.name}", manifest)
    raise UserError(f"{folder}: {what_is(folder)}; expected a dataset, or its frames or tokens/NAME")

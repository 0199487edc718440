"""Sources as local files: a source in an archive is copied into a scratch folder while it is decoded."""

import errno
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from bevt_core.media.errors import MediaError
from bevt_core.storage.contained import contained, readable_source
from bevt_core.storage.files import fetched
from bevt_core.storage.objects import AnyPath
from bevt_core.storage.read_errors import raise_storage_trouble
from bevt_core.storage.staging import clean_local_staging, scratch, scratch_folder
from bevt_core.untrusted.archives.hub_parquet import row_bytes
from bevt_core.untrusted.archives.unpack import DamagedMember, unpack
from bevt_core.untrusted.archives.volumes import size_of_volumes
from pipeline.sources.archives.opened import open_for_members, volumes_beside
from pipeline.sources.archives.packed_file import PackedFile
from schemas.errors import StorageError, UserError


def remove_leftovers() -> None:
    """Remove the copies of workers that were killed."""
    clean_local_staging(scratch())


@contextmanager
def local_source(root: AnyPath, source: str, files: Sequence[PackedFile], allow_outside: bool) -> Iterator[Path]:
    """A local folder that contains `source`, as `fetched` gives it; `files` are its files in archives, if any.

    A source whose archives no longer exist is read from the disk, in case they have been unpacked. Raises UserError
    for a source or archive that leads out of the root, and MediaError for a member whose bytes are damaged.
    """
    if not files or not any((root / file.archive).exists() for file in files):
        path = readable_source(root, source, allow_outside)
        if files and not path.exists():
            raise StorageError(
                errno.ENOENT,
                f"{root / files[0].archive}: no such file, but it has the source {source}; put it back, or unpack it "
                "there, and run the same command again",
            )
        with fetched(root, source) as local_root:
            yield local_root
        return
    with scratch_folder("unpacked") as folder:
        for file in files:
            readable_source(root, file.archive, allow_outside)
            archive = [readable_source(root, name, allow_outside) for name in volumes_beside(root, file.archive)]
            path = contained(folder, f"{source}/{file.name}" if file.name else source)
            path.parent.mkdir(parents=True, exist_ok=True)
            _unpack(archive, file, path)
        yield folder


def _unpack(volumes: Sequence[AnyPath], file: PackedFile, path: Path) -> None:
    archive = volumes[0]
    try:
        size = size_of_volumes(volumes)
        if size != file.archive_bytes:
            raise UserError(
                f"{archive}: {size} bytes, but {file.archive_bytes} when it was listed; run the same command again, "
                "which lists it again"
            )
        with open_for_members(volumes, file.method) as opened, path.open("wb") as target:
            if file.method == "parquet":
                target.write(_row(Path(str(archive)), file.offset))
            else:
                unpack(opened, file.member, target)
    except DamagedMember as error:
        raise MediaError("open", "damaged", f"in the archive: {error}") from None
    except StorageError:
        raise
    except OSError as error:
        raise_storage_trouble(error, archive)
        raise StorageError(error.errno or errno.EIO, f"{archive}: cannot be read: {error.strerror or error}") from None


def _row(path: Path, row: int) -> bytes:
    data = row_bytes(path, row)
    if data is None:
        raise DamagedMember(f"row {row} has no bytes")
    return data

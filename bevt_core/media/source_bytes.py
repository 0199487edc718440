"""The bytes of a source, read without a decoder."""

from pathlib import Path

from bevt_core.storage.read_errors import raise_storage_trouble

READ_BYTES = 1 << 20  # per read


def read_through(path: Path) -> None:
    """Read a file, or the files of a folder, to the end. Raises StorageError if the storage cannot be read.

    Decoders do not report why bytes are missing; this distinguishes a damaged file from a damaged disk.
    """
    try:
        for file in sorted(path.iterdir()) if path.is_dir() else [path]:
            if file.is_file():
                with file.open("rb", buffering=0) as stream:
                    while stream.read(READ_BYTES):
                        pass
    except OSError as error:
        raise_storage_trouble(error, path)

"""Files in a folder, local or in an object store that pyarrow knows (s3://, gs://, abfs://, hdfs://)."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from mrcnn.io import replacing
from mrcnn.scale.plan import is_uri

INSTALL = "pip install 'mrcnn[ray]'"


def import_pyarrow() -> Any:
    """pyarrow, or an ImportError that says how to install it."""
    try:
        import pyarrow
        import pyarrow.fs
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"mrcnn.scale needs pyarrow: {INSTALL}.") from error
    return pyarrow


@functools.lru_cache(maxsize=64)
def _filesystem(scheme: str, server: str) -> tuple[Any, str]:
    """The filesystem of URIs with this beginning, and what their paths begin with there."""
    filesystem, path = import_pyarrow().fs.FileSystem.from_uri(f"{scheme}://{server}/x")
    return filesystem, path[:-2]


def open_uri(uri: str) -> tuple[Any, str]:
    """pyarrow's filesystem of a URI, and the path in it. The connection is kept for further URIs of the same bucket."""
    parts = urlsplit(uri)
    filesystem, start = _filesystem(parts.scheme, parts.netloc)
    return filesystem, start + uri.split("://", 1)[1][len(parts.netloc) :]


def read_bytes(path: str) -> bytes:
    """The content of a file, local or with a URI. Raises OSError, with the path as `filename` if it is missing."""
    if not is_uri(path):
        return Path(path).read_bytes()
    filesystem, inside = open_uri(path)
    with filesystem.open_input_file(inside) as file:
        return file.read()


class Store:
    """A folder of result files.

    A file appears whole or not at all: local ones are renamed when they are on the disk, and object stores show an
    object when its upload is complete.

    Args:
        out: Path of the folder, or URI.
    """

    def __init__(self, out: str):
        self.out = out.rstrip("/")
        self.filesystem, self.path = open_uri(self.out) if is_uri(self.out) else (None, self.out)
        if self.filesystem is not None and self.filesystem.type_name == "local":
            self.filesystem = None
        if self.filesystem is None and Path(self.path).exists() and not Path(self.path).is_dir():
            raise ValueError(f"{self.out} is a file; expected a folder, which detect_dataset creates.")

    def names(self) -> set[str]:
        """Names of the files; none if there is no such folder."""
        if self.filesystem is None:
            folder = Path(self.path)
            return {entry.name for entry in folder.iterdir()} if folder.is_dir() else set()
        selector = import_pyarrow().fs.FileSelector(self.path, allow_not_found=True)
        return {info.base_name for info in self.filesystem.get_file_info(selector)}

    def read(self, name: str) -> bytes:
        if self.filesystem is None:
            return (Path(self.path) / name).read_bytes()
        with self.filesystem.open_input_file(f"{self.path}/{name}") as file:
            return file.read()

    def exists(self, name: str) -> bool:
        if self.filesystem is None:
            return (Path(self.path) / name).exists()
        return self.filesystem.get_file_info(f"{self.path}/{name}").is_file

    def delete(self, name: str) -> None:
        if self.filesystem is None:
            (Path(self.path) / name).unlink(missing_ok=True)
        elif self.exists(name):
            self.filesystem.delete_file(f"{self.path}/{name}")

    def write(self, name: str, data: bytes, durable: bool = True) -> None:
        """Writes a file. `durable`: local ones are on the disk before they appear, so they survive a power failure."""
        if self.filesystem is None:
            with replacing(Path(self.path) / name, durable=durable) as unfinished:
                unfinished.write_bytes(data)
            return
        self.filesystem.create_dir(self.path, recursive=True)
        with self.filesystem.open_output_stream(f"{self.path}/{name}") as file:
            file.write(data)

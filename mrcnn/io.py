"""Atomic writes."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

UNFINISHED = re.compile(r"\..*\.(\d+)\.part")  # of `replacing`; the number is that of the process


@contextmanager
def replacing(path: str | os.PathLike, durable: bool = False) -> Iterator[Path]:
    """Yields a temporary path in the same folder to write to, and renames it to `path` at the end.

    After an error the temporary file is deleted and the previous file at `path` is unchanged. Missing folders are
    created. The temporary name ends in ".part", so pass the format to libraries that infer it from the extension.

    Args:
        path: the file to write.
        durable: True returns only when the file is on the disk, so that it also survives a power failure.

    Raises:
        FileNotFoundError: Nothing was written to the temporary path.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with replacing(f"{folder}/results/a.txt") as unfinished:
        ...         _ = unfinished.write_text("done")
        ...     Path(f"{folder}/results/a.txt").read_text()
        'done'
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        if durable:
            _flush(unfinished)
        os.replace(unfinished, path)
        if durable and os.name == "posix":
            _flush(path.parent)
    finally:
        unfinished.unlink(missing_ok=True)


def write_errors() -> tuple[type[Exception], ...]:
    """What writing a file can raise: OSError and, where TensorFlow writes, errors of its own."""
    tensorflow = sys.modules.get("tensorflow")
    return (OSError,) if tensorflow is None else (OSError, tensorflow.errors.OpError)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY if path.is_dir() else os.O_RDWR)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_orphans(folder: str | os.PathLike) -> list[str]:
    """Deletes the temporary files that killed processes have left in a folder; returns their names."""
    if os.name != "posix":  # on Windows, checking for a process would end it
        return []
    found = [(path, UNFINISHED.fullmatch(path.name)) for path in Path(folder).glob(".*.part")]
    orphans = [path for path, match in found if match and not _is_running(int(match[1]))]
    for path in orphans:
        path.unlink(missing_ok=True)
    return [path.name for path in orphans]


def _is_running(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        pass
    return True

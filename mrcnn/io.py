"""Atomic writes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: str | os.PathLike) -> Iterator[Path]:
    """Yields a temporary path in the same folder to write to, and renames it to `path` at the end.

    After an error the temporary file is deleted and the previous file at `path` is unchanged. Missing folders are
    created. The temporary name ends in ".part", so libraries that infer the format from the extension must be told it.

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
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)

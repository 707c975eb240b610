"""What commands print: results on stdout, as a table or as JSON; progress and notes on stderr."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress

T = TypeVar("T")


def note(text: str) -> None:
    """Prints a line to stderr."""
    print(text, file=sys.stderr, flush=True)


def print_json(value: Any) -> None:
    """Prints the result of a command with `--json`."""
    print(json.dumps(value, ensure_ascii=False, default=_to_json_types))


def _to_json_types(value: Any) -> Any:
    """JSON-ready form of paths, and of NumPy's numbers and arrays."""
    return value.tolist() if hasattr(value, "tolist") else str(value)


def print_table(rows: Mapping[str, Any], title: str | None = None) -> None:
    """Prints names and values in two columns."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in rows.items():
        table.add_row(Text(str(name)), Text(str(value)))  # Text: brackets in names are not markup
    Console().print(table)


def start_backend() -> None:
    """Imports Keras without the lines that TensorFlow's C++ code logs before it reads TF_CPP_MIN_LOG_LEVEL."""
    if "keras" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as log:
        os.dup2(log.fileno(), 2)
        try:
            import keras  # noqa: F401
        except BaseException:
            log.seek(0)
            os.write(kept, log.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)


@contextmanager
def prints_to_stderr() -> Iterator[None]:
    """Within the block, output of the package and of Keras goes to stderr, so that stdout has only the result."""
    with redirect_stdout(sys.stderr):
        yield


def is_terminal() -> bool:
    """Whether stderr is a terminal, so that progress is visible."""
    return sys.stderr.isatty()


def progress_bar() -> Progress:
    """A progress bar on stderr with the remaining time; invisible unless stderr is a terminal."""
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TextColumn("left"),
        TimeRemainingColumn(),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=not console.is_terminal)


def require_writable(folder: Path) -> None:
    """Creates a folder for results, and raises OSError if it takes no files: before the work, not after it."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OSError(f"{folder}: {error.strerror}; the results can't be written there.") from error


def track(items: Sequence[T], description: str) -> Iterator[T]:
    """Yields the items and shows the progress."""
    with progress_bar() as progress:
        yield from progress.track(items, description=description)

"""Warnings that point to the line of the user's script that called this package, however deep the cause."""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parent.parent)
SHOWN = 5  # warnings of a kind that are issued
_of_thread = threading.local()  # .collected: list of the messages that `collecting` keeps


def warn(message: str) -> None:
    """Issues a UserWarning for the first line on the stack that isn't in `mrcnn`.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("2 images are left out")
        >>> str(caught[0].message)
        '2 images are left out'
    """
    if getattr(_of_thread, "collected", None) is not None:
        _of_thread.collected.append(message)
        return
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)


@contextmanager
def collecting() -> Iterator[list[str]]:
    """Collects the messages that this thread passes to `warn`: its stack has no line of the user's script.

    Example:
        >>> with collecting() as messages:
        ...     warn("a.jpg is turned")
        >>> messages
        ['a.jpg is turned']
    """
    _of_thread.collected = []
    try:
        yield _of_thread.collected
    finally:
        _of_thread.collected = None


def warn_of_each(messages: Sequence[str]) -> None:
    """Issues each message once; if there are many, only the first ones and their number."""
    different = list(dict.fromkeys(messages))
    for message in different[:SHOWN]:
        warn(message)
    if len(different) > SHOWN:
        warn(f"{len(different) - SHOWN} more warnings of this file are not shown.")

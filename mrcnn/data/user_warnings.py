"""Warnings that point at the line of the user's script that called this package, however deep the cause is."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

PACKAGE = str(Path(__file__).resolve().parent.parent)


def warn(message: str) -> None:
    """Issues a UserWarning for the first line on the stack that isn't in `mrcnn`.

    Example:
        >>> with warnings.catch_warnings(record=True) as caught:
        ...     warnings.simplefilter("always")
        ...     warn("2 images are left out")
        >>> str(caught[0].message)
        '2 images are left out'
    """
    frame, level = sys._getframe(1), 2
    while frame.f_back is not None and frame.f_code.co_filename.startswith(PACKAGE):
        frame, level = frame.f_back, level + 1
    warnings.warn(message, UserWarning, stacklevel=level)

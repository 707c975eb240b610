"""Text from data, made safe to draw, print and encode.

Names of classes, files and images come from data, and not every string can be drawn as it is: matplotlib reads `$...$`
as a formula, and fonts, UTF-8 and SVG can't represent a lone surrogate or a control character. All text from data
therefore goes through `printable`, and to matplotlib with `PLAIN_TEXT`.
"""

from __future__ import annotations

import unicodedata

PLAIN_TEXT = {"parse_math": False, "usetex": False}  # keyword arguments of matplotlib's texts: draw `$` as it is


def printable(text: object) -> str:
    """`str(text)` with every character that cannot be drawn or encoded replaced by "\N{REPLACEMENT CHARACTER}".

    These are surrogates, control characters other than the line break, and code points that are not characters.

    Example:

    >>> printable("a\\ud800b\\x00") == "a\\ufffdb\\ufffd"
    True
    """
    return "".join("\ufffd" if _is_undrawable(character) else character for character in str(text))


def _is_undrawable(character: str) -> bool:
    if character.isascii():
        return not character.isprintable() and character != "\n"
    return unicodedata.category(character) in ("Cc", "Cs") or ord(character) & 0xFFFE == 0xFFFE

"""`BrokenAnnotation`, the error for a file that can't be used, and how any other error becomes one.

A damaged file makes parsers fail in many ways: RecursionError, zlib.error, KeyError, cv2.error and more, none of which
names the file. Each format's `load_<format>` has the decorator `names_file`, its `load_mask` and `load_image` have
`names_image`, and `parsing.parse_all` uses `naming` for each image. Any error inside becomes a `BrokenAnnotation` with
file and entry, whose `__cause__` is the original error.
"""

from __future__ import annotations

import errno
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

SHOWN = 80  # characters of a value in a message
LONG_TEXT = 1000  # characters of a message that names what was expected
Method = TypeVar("Method", bound=Callable)
Where = tuple[Any, str]  # (annotation file, name of the entry in it)

# Errors not caused by a file: of the machine, of the program, or warnings that the user turned into errors.
NOT_THE_FILE = (MemoryError, NameError, ImportError, AssertionError, Warning)

# Errors about a file name that no file can have.
OF_FILE_NAMES = (errno.ENAMETOOLONG, errno.ENOTDIR, errno.EISDIR, errno.ELOOP, errno.EINVAL)


class BrokenAnnotation(ValueError):
    """An annotation that can't be used. The message and the attributes say where and why.

    Attributes:
        file: the annotation file.
        entry: name of the entry in the file.
        field: of the entry.
        expected: what was expected there.
        got: what was found instead.
        advice: how to fix it, at the end of the message.
        others: the errors of further images of the file.
    """

    def __init__(self, file: str | Path, entry: str, field: str, expected: str, got: Any, advice: str = "") -> None:
        self.file, self.entry, self.field, self.expected, self.got = str(file), entry, field, expected, got
        self.advice = advice
        self.others: list[BrokenAnnotation] = []
        entry, field, expected = (cut(text, LONG_TEXT) for text in (entry, field, expected))
        super().__init__(f"{file}: {entry}: {field}: expected {expected}, got {brief(got)}.")

    def __str__(self) -> str:
        return f"{super().__str__()} {self.advice}".rstrip()

    @property
    def short(self) -> str:
        """The message in a line, for `mrcnn`; without the errors of further images."""
        first, *more = str(self).split("\n")
        count = f" {len(self.others)} more of the images are broken: `mrcnn check` lists them." if more else ""
        return first.rstrip() + count

    def __reduce__(self) -> tuple:  # exceptions with several arguments need this to be sent between processes
        values = (self.file, self.entry, self.field, self.expected, self.got, self.advice)
        return type(self), values, {"others": self.others}


class MissingPhoto(BrokenAnnotation):
    """An annotation whose image file, `photo`, isn't there."""

    def __init__(self, file: str | Path, entry: str, field: str, photo: str | Path, advice: str = "") -> None:
        super().__init__(file, entry, field, f"to find {photo}", "nothing there", advice)
        self.photo = str(photo)

    def __reduce__(self) -> tuple:
        return type(self), (self.file, self.entry, self.field, self.photo, self.advice), {"others": self.others}


@contextmanager
def naming(file: Any, entry: str = "the file", passing: tuple[type[Exception], ...] = ()) -> Iterator[None]:
    """Turns an error of the block into a `BrokenAnnotation` of this file and entry, unless it already names the file.

    These pass unchanged: BrokenAnnotation; FileNotFoundError, PermissionError and other errors of the file system; a
    ValueError whose message names the file, such as one about an argument; MemoryError, and errors of the program.

    Args:
        file: path of the file that is read.
        entry: name of the entry in it.
        passing: other errors that pass unchanged.

    Raises:
        BrokenAnnotation: with the error as its `__cause__`.

    Example:
        >>> try:
        ...     with naming("a.json", "image 3"):
        ...         {}["segmentation"]
        ... except BrokenAnnotation as error:
        ...     print(error, type(error.__cause__).__name__)
        a.json: image 3: content: expected a readable file, got "KeyError: 'segmentation'". KeyError
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, (BrokenAnnotation, *NOT_THE_FILE, *passing)) or _names_a_file(error, file):
            raise
        got = f"{type(error).__name__}: {cut(str(error), LONG_TEXT)}"
        raise BrokenAnnotation(file, entry, "content", "a readable file", got) from error


def names_file(load: Method) -> Method:
    """Decorator for `load_<format>(self, path, ...)`: its errors name the path, and it reads the dataset's files only.

    See `naming`, and `access` for the two arguments that it adds: `root=None` is another folder whose files may be
    read, `download=False` says whether URLs may be fetched.
    """
    from mrcnn.data.formats.access import granting  # not at the top, because it imports this module

    signature = inspect.signature(load)
    path_name = list(signature.parameters)[1]

    @functools.wraps(load)
    def named(
        self: Any, *args: Any, root: str | Path | None = None, download: bool | None = None, **kwargs: Any
    ) -> Any:
        path = signature.bind(self, *args, **kwargs).arguments[path_name]
        is_path = isinstance(path, (str, Path))
        file = path if is_path else f"the {type(path).__name__} object"
        with naming(file), granting(path if is_path else None, root, download) as access:
            self.download = self.download or access.download
            return load(self, *args, **kwargs)

    more = [
        inspect.Parameter("root", inspect.Parameter.KEYWORD_ONLY, default=None, annotation="str | Path | None"),
        inspect.Parameter("download", inspect.Parameter.KEYWORD_ONLY, default=False, annotation="bool"),
    ]
    named.__signature__ = signature.replace(parameters=[*signature.parameters.values(), *more])
    return named


def names_image(load: Method) -> Method:
    """Decorator for `load_mask(self, image_id)` and `load_image`: their errors name the image, see `naming`.

    AttributeError and KeyError pass unchanged: they come from a dataset that isn't prepared or lacks a class.
    """

    @functools.wraps(load)
    def named(self: Any, image_id: int) -> Any:
        info = self.image_info[image_id]
        file, entry = info["path"], f"image {info['id']}"
        with naming(type(self).__name__ if file is None else file, entry, (AttributeError, KeyError)):
            return load(self, image_id)

    return named


def _names_a_file(error: Exception, file: Any) -> bool:
    """Whether an error names a file, and isn't about an impossible file name that the file itself holds."""
    if isinstance(error, OSError):
        # This package's errors for a missing file have no errno. Nor do Pillow's and h5py's, which name no file.
        return isinstance(error, FileNotFoundError) or (error.errno is not None and error.errno not in OF_FILE_NAMES)
    return isinstance(error, ValueError) and str(file) in str(error)


# ---- Recording what is left out --------------------------------------------------------------------------------------
_recorded: ContextVar[list[BrokenAnnotation] | None] = ContextVar("recorded", default=None)


@contextmanager
def recording() -> Iterator[list[BrokenAnnotation]]:
    """Collects all errors that loaders called with `skip_broken=True` leave out, instead of their one warning.

    Example:
        >>> with recording() as left_out:
        ...     _ = record([BrokenAnnotation("a.json", "image 3", "height", "pixels", -1)])
        >>> left_out[0].entry
        'image 3'
    """
    token = _recorded.set([])
    try:
        yield _recorded.get()
    finally:
        _recorded.reset(token)


def record(errors: list[BrokenAnnotation]) -> bool:
    """Adds errors that are left out to the list of `recording`; False if there is none, so that they need a warning."""
    recorded = _recorded.get()
    if recorded is None:
        return False
    recorded += errors
    return True


# ---- Values in messages ----------------------------------------------------------------------------------------------
def cut(text: str, length: int = SHOWN) -> str:
    """A text, cut to `length` characters."""
    return text if len(text) <= length else text[: length - 3] + "..."


def brief(value: Any) -> str:
    """`repr(value)`, cut to 80 characters, in a time that doesn't depend on the value's size.

    A few lines of YAML can name a list so often that its repr would have 10^9 characters.

    Example:
        >>> brief(list(range(10**6)))[:20], len(brief("a" * 10**9))
        ('[0, 1, 2, 3, 4, 5, 6', 80)
    """
    text = ""
    for piece in _repr_pieces(value):
        text += piece
        if len(text) > SHOWN:
            break
    return cut(text)


def _repr_pieces(value: Any) -> Iterator[str]:
    """The parts of a value's repr, in order."""
    kind = type(value)
    if kind in (str, bytes):
        yield repr(value[: SHOWN + 1])
    elif kind in (list, tuple):
        yield "[" if kind is list else "("
        yield from _join_items(map(_repr_pieces, value))
        yield "]" if kind is list else ",)" if len(value) == 1 else ")"
    elif kind is dict:
        yield "{"
        yield from _join_items(
            chain(_repr_pieces(key), [": "], _repr_pieces(content)) for key, content in value.items()
        )
        yield "}"
    elif kind is int and value.bit_length() > 4 * SHOWN:  # Python refuses to write numbers of thousands of digits
        yield f"a whole number of {value.bit_length()} bits"
    else:
        yield repr(value)


def _join_items(items: Iterator[Iterator[str]]) -> Iterator[str]:
    for i, pieces in enumerate(items):
        if i:
            yield ", "
        yield from pieces

"""Downloads weight files once, and checks that they are complete and unchanged.

    <path>.part         the bytes received so far; an interrupted download is resumed from here
    <path>.etag.part    the server's version of the file; another version starts from zero
    <path>.lock.part    locked by the process that downloads; other processes wait for it
    <path>              the file, once it is complete and checked
    <path>.sha256       its checksum, written on first use if none is pinned; `sha256sum -c` reads it

`pooch` would replace this module, but it can't resume a download, and processes that start together would each fetch
the file. For the same reason `<path>.part` isn't a file of `mrcnn.io.replacing`, which deletes it after an error.

The folder may be shared with others: files beside `<path>` that are links are not written through.
"""

from __future__ import annotations

import hashlib
import http.client
import logging
import os
import re
import shutil
import time
import urllib.error
import urllib.parse
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

import h5py
from tqdm import tqdm

from .presets import PRESETS
from .readers import HDF5_SIGNATURE, ZIP_SIGNATURE, describe_head, open_state_dict, what_broke

logger = logging.getLogger(__name__)

# "coco" and "balloon" are matterport's releases (v2.1 has the balloon's only, #1515); "imagenet" is a ResNet-50
# without its top, with the same layer names, so of a ResNet-101 it fills the blocks that both have.
PRETRAINED = {
    "coco": "https://github.com/matterport/Mask_RCNN/releases/download/v2.0/mask_rcnn_coco.h5",
    "balloon": "https://github.com/matterport/Mask_RCNN/releases/download/v2.1/mask_rcnn_balloon.h5",
    "imagenet": "https://github.com/fchollet/deep-learning-models/releases/download/v0.2/"
    "resnet50_weights_tf_dim_ordering_tf_kernels_notop.h5",
}
SHIPPED = {  # name: file, sha256
    "shapes": ("shapes.h5", "775089bfe3bd737b0e19cdd0ba27509de8bcf43a9f11a8e6f83e935e264f99bd"),
    "balloon-small": ("balloon-small.h5", "4c85e05b9697cf8a5645dcbd1bd179ceed5a50c3fd34211619774f8d96ae4bbd"),
}
SHIPPED_FOLDER = Path(__file__).resolve().parent  # package data
WORDS = (*PRETRAINED, *SHIPPED, *PRESETS)
# Published with the file: keras-applications and matterport pass it to `get_file`. None is known for "coco", "balloon".
PINNED = {"imagenet": "md5:a268eb855778b3df3c7506639542a6af"}
ATTEMPTS = 5  # per download; each continues where the previous one stopped
WAIT_SECONDS = 1.0  # between attempts
TIMEOUT_SECONDS = 30.0  # without a byte from the server
CHUNK = 1 << 20
LEAST_BYTES_PER_SECOND = 1000  # over `TIMEOUT_SECONDS`; a slower server counts as one that broke off
LARGEST = 4 * 2**30  # bytes of a file; the largest of the known weights has 0.4e9
PASSING_ERRORS = (408, 429, 500, 502, 503, 504)  # answers of a server that is only busy


def pretrained(name: str, cache_dir: str | os.PathLike | None = None) -> str:
    """Path of the named weights; downloads them the first time.

    Args:
        name: "coco" (all of Mask R-CNN, 81 classes), "balloon" (2 classes) or "imagenet" (ResNet-50 backbone) of
            matterport; a name in `presets.PRESETS`, such as "torchvision_v2" or "detectron2/mask_rcnn_R_50_FPN_3x"; or
            part of the package: "balloon-small" and "shapes", the small models of `samples/balloon.py` and `shapes.py`.
        cache_dir: the folder to keep them in. None: `weights/` in the working directory if the file is there
            already, else the folder in the environment variable MRCNN_CACHE, else ~/.cache/mrcnn.

    Raises:
        ValueError: an unknown name, or as `download`.
        ConnectionError: as `download`.
        FileNotFoundError: a name in `SHIPPED`, and the package lacks its file.
    """
    if name in SHIPPED:
        return _check_shipped(*SHIPPED[name])
    if name not in WORDS:
        raise ValueError(f"There are no pretrained weights {name!r}; expected one of {', '.join(WORDS)}.")
    preset = PRESETS.get(name)
    url = preset.url if preset else PRETRAINED[name]
    file = (preset and preset.file) or url.rsplit("/", 1)[-1]
    if cache_dir is None and os.path.isfile(os.path.join("weights", file)):
        cache_dir = "weights"
    path = os.path.join(cache_dir or cache_folder(), file)
    if preset and not os.path.exists(path):
        logger.warning("%s", preset.describe(name))  # a warning, which is shown without a configuration of logging
    return download(url, path, preset.checksum if preset else PINNED.get(name))


def cache_folder() -> str:
    """The folder for downloaded weights: that in the environment variable MRCNN_CACHE, or ~/.cache/mrcnn."""
    return os.environ.get("MRCNN_CACHE") or os.path.join(os.path.expanduser("~"), ".cache", "mrcnn")


def find_pretrained(path_or_name: str | os.PathLike) -> str:
    """Returns the path itself, or that of the `pretrained` weights if it is one of `WORDS` and no such file exists.

    Raises:
        FileNotFoundError: Neither a path nor a known name: there is no such file, and the name has no folder and no
            extension.

    Example:
        >>> find_pretrained("logs/mask_rcnn_cats_0010.h5")
        'logs/mask_rcnn_cats_0010.h5'
    """
    path = os.fspath(path_or_name)
    if os.path.exists(path):
        return path
    if path in WORDS:
        return pretrained(path)
    if "." not in path and (os.path.basename(path) == path or path.startswith("detectron2/")):
        raise FileNotFoundError(f"No file {path!r}; expected a path or one of {', '.join(WORDS)}.")
    return path


def _check_shipped(file: str, sha256: str) -> str:
    path = SHIPPED_FOLDER / file
    if not path.is_file():
        raise FileNotFoundError(f"{path} is missing, although it is part of the package. Install mrcnn again.")
    _check(str(path), str(path), sha256)
    return str(path)


def download(url: str, path: str | os.PathLike, sha256: str | None = None, progress: bool = True) -> str:
    """Downloads `url` to `path`, unless it is there already; checks it either way.

    Args:
        url: http or https.
        path: where to. Missing folders are made.
        sha256: the checksum that the file must have, or its first digits; "md5:<checksum>" where only an MD5 is
            published. The whole checksum is recorded beside the file on first use, and must stay the same.
        progress: show a bar.

    Returns:
        `path`, as a str.

    Raises:
        ConnectionError: There is no connection, the server refuses, or it was interrupted too often. The message says
            what to do: run again, or fetch the file elsewhere and put it in place.
        ValueError: The server sent something else: a web page, a truncated file, or one with another checksum.
    """
    path = os.fspath(path)
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        raise ValueError(f"{url!r} can't be downloaded; expected an address that begins with http:// or https://.")
    if not os.path.exists(path):
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
        with _locked(path):
            if not os.path.exists(path):  # another process may have brought it while we waited
                _download_to(url, path, sha256, progress)
                return path
    _check(path, path, sha256)
    return path


def _download_to(url: str, path: str, sha256: str | None, progress: bool) -> None:
    part = path + ".part"
    _fetch(url, part, path, progress)
    try:
        _check(part, path, sha256)
    except ValueError as error:
        os.remove(part)
        raise ValueError(f"{url}: the server sent something other than the file. {error}") from error
    os.replace(part, path)


# ---- Fetching ----------------------------------------------------------------------------------------------------
def _fetch(url: str, part: str, path: str, progress: bool) -> None:
    """Downloads `part` to its full length, in several attempts if necessary."""
    by_hand = f"Or fetch {url} on another machine or in a browser, and put it at {os.path.abspath(path)}"
    with tqdm(unit="B", unit_scale=True, unit_divisor=1024, desc=os.path.basename(path), disable=not progress) as bar:
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(WAIT_SECONDS)
            try:
                total = _fetch_once(url, part, bar)
            except urllib.error.HTTPError as error:
                error.close()
                if error.code == 416:  # there is nothing after what we have, so that is not a part of this file
                    os.remove(part)
                problem = f"the server answers {error.code} {error.reason}"
                if error.code not in (416, *PASSING_ERRORS):
                    raise ConnectionError(f"{url}: {problem}. {by_hand}.") from None
            except urllib.error.URLError as error:
                raise ConnectionError(
                    f"{url} can't be reached: {error.reason}. Check the network connection, and run again. {by_hand}."
                ) from error
            except (http.client.HTTPException, ConnectionError, TimeoutError) as error:
                problem = f"{type(error).__name__} after {_file_size(part):,} bytes"
            else:
                if total is None or _file_size(part) == total:
                    return
                problem = f"it broke off after {_file_size(part):,} of {total:,} bytes"
    raise ConnectionError(f"{url}: {problem}, {ATTEMPTS} times in a row. Run again to resume. {by_hand}.")


def _fetch_once(url: str, part: str, bar: tqdm) -> int | None:
    """Appends the server's answer to `part`; returns the full length that it announces, or None."""
    have, version = _file_size(part), _read(part.removesuffix(".part") + ".etag.part")
    headers = {"User-Agent": "mrcnn", "Accept-Encoding": "identity"}
    if have and version:
        headers |= {"Range": f"bytes={have}-", "If-Range": version}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT_SECONDS) as response:
        if response.headers.get_content_type() == "text/html":
            raise ValueError(
                f"{url}: the server sends a web page and not the file. It begins with {response.read(60)!r}. A login"
                " page of the network, or a link to a page about the file? Open the address in a browser and see."
            )
        have, total = _content_range(response, have)
        _require_size(url, total or 0)
        _require_space(part, (total or 0) - have)
        if not have:
            _write(part.removesuffix(".part") + ".etag.part", _version(response))
        bar.total, bar.n = total, have
        bar.refresh()
        with open(part, "r+b" if have else "wb", opener=_not_through_links) as file:
            file.seek(have)
            since, before = time.monotonic(), have
            while chunk := response.read1(CHUNK):
                file.write(chunk)
                bar.update(len(chunk))
                _require_size(url, file.tell())
                if time.monotonic() - since > TIMEOUT_SECONDS:
                    if file.tell() - before < LEAST_BYTES_PER_SECOND * TIMEOUT_SECONDS:
                        raise TimeoutError
                    since, before = time.monotonic(), file.tell()
    return total


def _require_size(url: str, size: int) -> None:
    if size > LARGEST:
        raise ValueError(f"{url}: the file is larger than {LARGEST:,} bytes, more than weights have. Refused.")


def _not_through_links(path: str, flags: int) -> int:
    """Opens a file like `os.open`, after deleting a link of this name, which may point to someone else's file."""
    if os.path.islink(path):
        os.remove(path)
        flags |= os.O_CREAT
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _content_range(response: http.client.HTTPResponse, have: int) -> tuple[int, int | None]:
    """Where the answer's first byte goes, and the length of the whole file if the server says it."""
    part = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
    if response.status == 206 and part and int(part[1]) == have:
        return have, None if part[2] == "*" else int(part[2])
    length = response.headers.get("Content-Length", "")
    return 0, int(length) if length.isdecimal() else None


def _version(response: http.client.HTTPResponse) -> str:
    """The ETag of this version of the server's file, or "". A weak one ("W/...") may refer to different bytes."""
    etag = response.headers.get("ETag", "")
    return etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified", "")


def _require_space(part: str, needed: int) -> None:
    free = shutil.disk_usage(os.path.dirname(part) or ".").free
    if needed > free:
        raise OSError(f"{part}: the download needs {needed:,} more bytes, and the disk has {free:,} left.")


@contextmanager
def _locked(path: str) -> Iterator[None]:
    """Lets one process at a time work on `path`. The lock is released when the process ends, for whatever reason."""
    name = path + ".lock.part"
    while True:
        with open(name, "wb", opener=_not_through_links) as lock:
            _lock(lock)
            # The process before removes its lock file: then this lock is on no file, and others may hold a new one.
            if not os.path.exists(name) or not os.path.samestat(os.fstat(lock.fileno()), os.stat(name)):
                continue
            try:
                yield
            finally:
                leftovers = [name] if _file_size(path + ".part") else [name, path + ".etag.part"]
                if os.name == "nt":
                    lock.close()  # an open file can't be removed there
                for left in leftovers:
                    with suppress(OSError):
                        os.remove(left)
            return


def _lock(file: IO[bytes]) -> None:
    """Waits for the lock on a file."""
    if os.name == "nt":
        import msvcrt

        while True:
            with suppress(OSError):
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
                return
            time.sleep(0.2)
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)


# ---- Checking ----------------------------------------------------------------------------------------------------
def _check(file: str, path: str, sha256: str | None) -> None:
    """Checks that `file`, which is or will be at `path`, is a weight file and has its checksum; records a first one."""
    if path.endswith((".h5", ".keras")):
        _check_is_whole(file, path)
    elif path.endswith((".pth", ".pkl", ".safetensors")):
        with open_state_dict(file):
            pass  # it was opened and its tensors are all there
    if sha256:
        _compare(file, path, sha256, "the one asked for is", "")
    recorded = _read_checksum(path)
    if recorded:
        advice = f" If you know that the other version is right, delete {path}.sha256 as well."
        _compare(file, path, recorded, "the one recorded on first use is", advice)
    elif os.access(os.path.dirname(path) or ".", os.W_OK):  # a folder that nobody can write to needs no record
        _write(path + ".sha256", f"{_checksum(file, 'sha256')}  {os.path.basename(path)}\n")


def _compare(file: str, path: str, expected: str, whose: str, advice: str) -> None:
    """Compares a checksum, or its first digits, with that of `file`."""
    algorithm, _, digits = expected.lower().rpartition(":")
    found = _checksum(file, algorithm or "sha256")
    if not digits or not found.startswith(digits):
        raise ValueError(
            f"{path} has the checksum {found}, and {whose} {expected}: another version, changed or damaged. Delete it"
            f" to download it again.{advice}"
        )


def _read_checksum(path: str) -> str | None:
    """The checksum recorded beside a file, or None."""
    try:
        text = _read(path + ".sha256")
    except UnicodeDecodeError:
        text = "?"
    if not text:
        return None
    words = text.split()
    if not words or not re.fullmatch(r"[0-9a-fA-F]{64}", words[0]):
        raise ValueError(
            f"{path}.sha256 holds {text[:40]!r}, and should begin with the 64 digits of a SHA-256. Delete it: it is"
            " written again when the file is next used."
        )
    return words[0]


def _check_is_whole(file: str, path: str) -> None:
    with open(file, "rb") as opened:
        head = opened.read(64)
    if not head.startswith((HDF5_SIGNATURE, ZIP_SIGNATURE)):
        raise ValueError(f"{path} is not a weight file. {describe_head(head)}.")
    try:
        if head.startswith(HDF5_SIGNATURE):
            h5py.File(file, "r", locking=False).close()
        else:
            zipfile.ZipFile(file).close()
    except (OSError, zipfile.BadZipFile) as error:
        raise ValueError(f"{path} can't be read as weights: {what_broke(error)}") from error


def _checksum(file: str, algorithm: str) -> str:
    with open(file, "rb") as opened:
        return hashlib.file_digest(opened, lambda: hashlib.new(algorithm, usedforsecurity=False)).hexdigest()


def _file_size(file: str) -> int:
    return os.path.getsize(file) if os.path.exists(file) else 0


def _read(file: str) -> str:
    if not os.path.exists(file):
        return ""
    with open(file, encoding="utf-8") as opened:
        return opened.read()


def _write(file: str, text: str) -> None:
    temporary = f"{file}.{os.getpid()}.part"
    with open(temporary, "w", encoding="utf-8", opener=_not_through_links) as opened:
        opened.write(text)
    os.replace(temporary, file)

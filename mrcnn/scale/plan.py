"""Which images belong to which shard, and whether a folder holds results of the same job.

A shard is a fixed number of consecutive images and becomes one file, written at once. So a file that exists is
complete, and a job that starts again knows from the names alone what is missing.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mrcnn.data.image_reading import is_url

MANIFEST = "_mrcnn.json"  # readers of Parquet folders skip names that begin with "_"
FORMAT = 1
IDENTITY = ("format", "weights_sha256", "settings", "images_sha256", "shard_size")  # what decides a job's rows

ImageId = int | str
Image = tuple[ImageId, str]  # id, path


@dataclass(frozen=True)
class Shard:
    """Consecutive images whose rows become one file.

    Attributes:
        number: From 0.
        images: Id and path of each.
    """

    number: int
    images: tuple[Image, ...]

    @property
    def name(self) -> str:
        """Of its file."""
        return f"part-{self.number:06d}.parquet"


def list_images(images: Any) -> list[Image]:
    """Id and path of each image.

    Args:
        images: Paths, numbered from 0; a dict of paths by id; or a `ray.data.Dataset` with the column "path" and
            perhaps "image_id". Ray gives rows in no fixed order; they are sorted by id if there is one, else by path.

    Returns:
        (id, path) of each: local paths absolute, as workers have other working directories.

    Raises:
        ValueError: There are no images, an id occurs twice, or ids are of different types.

    Example:
        >>> list_images(["/photos/a.jpg", "s3://bucket/b.jpg"])
        [(0, '/photos/a.jpg'), (1, 's3://bucket/b.jpg')]
        >>> list_images({"b": "/photos/b.jpg"})
        [('b', '/photos/b.jpg')]
    """
    if isinstance(images, (str, Path)):
        raise ValueError(
            f"paths is {str(images)!r}; expected a list of paths, such as sorted(Path('photos').iterdir())."
        )
    if hasattr(images, "iter_rows") and hasattr(images, "columns"):
        found = _of_ray_dataset(images)
    elif isinstance(images, Mapping):
        found = [(_python_id(i), absolute(path)) for i, path in images.items()]
    else:
        found = [(i, absolute(path)) for i, path in enumerate(images)]
    if not found:
        raise ValueError("paths is empty; expected at least one image.")
    kinds = {type(i) for i, _ in found}
    if kinds not in ({int}, {str}):
        raise ValueError(
            f"The ids of images are of the types {sorted(k.__name__ for k in kinds)}; expected int or str."
        )
    return found


def _of_ray_dataset(dataset: Any) -> list[Image]:
    columns = dataset.columns() or []
    if "path" not in columns:
        raise ValueError(f'The Ray dataset has the columns {columns}; expected "path", and perhaps "image_id".')
    if "image_id" not in columns:
        paths = sorted(row["path"] for row in dataset.select_columns(["path"]).iter_rows())
        return [(i, absolute(path)) for i, path in enumerate(paths)]
    rows = dataset.select_columns(["image_id", "path"]).iter_rows()
    found = sorted((_python_id(row["image_id"]), absolute(row["path"])) for row in rows)
    twice = next((a[0] for a, b in itertools.pairwise(found) if a[0] == b[0]), None)
    if twice is not None:
        raise ValueError(
            f"image_id {twice!r} occurs twice in the Ray dataset; expected a different one for each image."
        )
    return found


def _python_id(value: Any) -> ImageId:
    return value.item() if hasattr(value, "item") else value


def absolute(path: str | os.PathLike) -> str:
    """A local path as an absolute one; URIs such as "s3://bucket/a.jpg" stay."""
    path = os.fspath(path)
    return path if is_uri(path) or is_url(path) else os.path.abspath(path)


def is_uri(path: str) -> bool:
    """Whether a path is in an object store, or has a scheme such as "file://"."""
    return "://" in path and not is_url(path)


def plan_shards(images: Sequence[Image], shard_size: int) -> list[Shard]:
    """Divides the images, in their order, into shards of `shard_size`; the last one may be smaller.

    >>> [shard.images for shard in plan_shards([(0, "a"), (1, "b"), (2, "c")], 2)]
    [((0, 'a'), (1, 'b')), ((2, 'c'),)]
    """
    starts = range(0, len(images), shard_size)
    return [Shard(number, tuple(images[start : start + shard_size])) for number, start in enumerate(starts)]


def missing_shards(shards: Iterable[Shard], names: Iterable[str]) -> list[Shard]:
    """The shards without a file, given the names of those in the folder."""
    there = set(names)
    return [shard for shard in shards if shard.name not in there]


# ---- The manifest ----------------------------------------------------------------------------------------------------
def make_manifest(
    images: Sequence[Image], shard_size: int, weights: str, weights_sha256: str, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """What decides the rows of a job, and how many files it has; JSON, written before the first shard."""
    return {
        "format": FORMAT, "weights": weights, "weights_sha256": weights_sha256, "settings": dict(settings),
        "images": len(images), "images_sha256": _digest(images), "shard_size": shard_size,
        "shards": -(-len(images) // shard_size),
    }  # fmt: skip


def _digest(images: Iterable[Image]) -> str:
    found = hashlib.sha256()
    for image in images:
        found.update(json.dumps(image).encode())
    return found.hexdigest()


def check_same_job(stored: Mapping[str, Any], wanted: Mapping[str, Any], out: str) -> None:
    """Checks that the shards of a folder are those of this job.

    Raises:
        ValueError: They were made with other weights, settings, images or another shard size. The message names what
            differs, and both values.
    """
    different = [key for key in IDENTITY if stored.get(key) != wanted[key]]
    if not different:
        return
    lines = "".join(f"\n  {line}" for key in different for line in _differences(key, stored, wanted))
    raise ValueError(
        f"{out} has results of another job:{lines}\nCall detect_dataset as before to finish that job, or give another"
        " out."
    )


def _differences(key: str, stored: Mapping[str, Any], wanted: Mapping[str, Any]) -> Iterator[str]:
    old, new = stored.get(key), wanted[key]
    if key == "settings" and isinstance(old, Mapping):
        for name in sorted({*old, *new}):
            if old.get(name) != new.get(name):
                yield f"{name}: {old.get(name, 'not set')}, now {new.get(name, 'not set')}"
    elif key == "images_sha256":
        yield f"images: {stored.get('images')}, now {wanted['images']}, or others, or in another order"
    elif key == "weights_sha256":
        yield f"weights: {stored.get('weights')} (SHA-256 {str(old)[:12]}), now {wanted['weights']} ({new[:12]})"
    else:
        yield f"{key}: {old}, now {new}"


def read_manifest(data: bytes, name: str) -> dict[str, Any]:
    """The manifest in a file. Raises ValueError if it is damaged."""
    try:
        found = json.loads(data)
        if not isinstance(found, dict) or "shards" not in found:
            raise ValueError("it has no number of shards")
    except ValueError as error:
        raise ValueError(f"{name} is damaged: {error}. Expected the JSON that detect_dataset writes.") from error
    return found


def iterate_parts(manifest: Mapping[str, Any]) -> Iterator[str]:
    """The names of all files of a job, in their order."""
    return (Shard(number, ()).name for number in range(manifest["shards"]))

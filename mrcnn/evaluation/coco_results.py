"""Detections as COCO results, a list of

    {"image_id": ..., "category_id": ..., "score": ..., "bbox": [x, y, width, height], "segmentation": RLE or polygons}

read from a list in memory or from a file of any size, one image at a time, and written to a file one by one.

`image_id` is the id from `add_image` (for COCO, COCO's own), `category_id` the id from `add_class`. If two sources of a
dataset use the same image id, it is "source.id".
"""

from __future__ import annotations

import json
import os
import tempfile
import weakref
from array import array
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np
from pycocotools import mask as coco_mask

from mrcnn.data.dataset import Dataset, describe_image
from mrcnn.evaluation.instances import Instances, class_numbers, empty, plain, require_detections
from mrcnn.io import replacing
from mrcnn.ops.rle import check_rles, to_rle

CHUNK = 1 << 22  # bytes of a results file looked at together
WHOLE = 1 << 26  # bytes of a file that is read at once; of larger ones, only places are kept


class Names:
    """The ids of a dataset's images and classes in results.

    Args:
        dataset: A prepared `Dataset`.

    Attributes:
        image_key: Image id of the dataset -> `image_id` in results.
        classes: (source, category_id) -> class id of the dataset.
        annotated: source -> set of the class ids its images are annotated with.

    Raises:
        ValueError: the dataset isn't prepared, or an image's source has no class.
    """

    def __init__(self, dataset: Dataset):
        if len(getattr(dataset, "class_names", ())) == 0:
            raise ValueError("The dataset isn't prepared: call dataset.prepare() first.")
        self.dataset = dataset
        self.classes = class_numbers(dataset)
        self.annotated = {}
        self._categories = {}
        for (source, category), class_id in self.classes.items():
            self.annotated.setdefault(source, set()).add(class_id)
            self._categories.setdefault((source, class_id), category)
        self.image_key = self._image_keys()
        self._whole = all(isinstance(key, int) for key in self.image_key.values())
        self._numbers = {f"{dataset.image_info[i]['source']}.{dataset.image_info[i]['id']}": i for i in self.image_key}
        self._numbers.update({key: i for i, key in self.image_key.items()})

    def _image_keys(self) -> dict[int, int | str]:
        infos = {int(i): self.dataset.image_info[i] for i in self.dataset.image_ids}
        for i, info in infos.items():
            if info["source"] not in self.annotated:
                raise ValueError(
                    f"{describe_image(self.dataset, i)}: its source has no class; sources with classes:"
                    f" {sorted(self.annotated)}. Use the same source in add_class and add_image."
                )
        short = Counter(_key(info["id"]) for info in infos.values())
        full = Counter(f"{info['source']}.{info['id']}" for info in infos.values())
        keys = {}
        for i, info in infos.items():
            name = f"{info['source']}.{info['id']}"
            if short[_key(info["id"])] == 1:
                keys[i] = _key(info["id"])
            else:  # an image that was added twice gets its number as well
                keys[i] = name if full[name] == 1 else f"{name}#{i}"
        return keys

    def order(self, image_id: int) -> int | str:
        """The key to sort images by, as pycocotools does: their id in results."""
        key = self.image_key[image_id]
        return key if self._whole else str(key)

    def image_number(self, key: int | str, index: int) -> int:
        """The dataset's id of the image with this `image_id`.

        Args:
            key: `image_id` in results.
            index: Index of the result, for the message.

        Raises:
            ValueError: The dataset has no such image.
        """
        try:
            return self._numbers[_key(key)]
        except (KeyError, TypeError):
            known = list(self.image_key.values())
            raise ValueError(
                f"predictions[{index}]: image_id {key!r} is unknown; the dataset has {len(known)} images,"
                f" such as {known[:3]}."
            ) from None

    def category(self, class_id: int, source: str) -> int | str:
        """The `category_id` of a class in the results of an image of this source; the source must have the class."""
        return self._categories[source, class_id]


def _key(value):
    if type(value) is int or type(value) is str:  # nearly always
        return value
    value = plain(value)
    return value if isinstance(value, (int, str)) else str(value)


# ---- Reading ---------------------------------------------------------------------------------------------------------
class Predictions:
    """COCO results of a dataset, image by image.

    Args:
        source: List of results, or path of a JSON file with such a list. Of a file above `WHOLE` bytes, only
            byte offsets are kept.
        names: `Names` of the dataset.

    Attributes:
        has_boxes, has_masks: Whether all results have a "bbox", a "segmentation".

    Raises:
        ValueError: This is not a list of results, an image is unknown, or only some results have a mask. The message
            names the index.
    """

    def __init__(self, source: Sequence[dict] | str | Path, names: Names):
        self.names = names
        if isinstance(source, (str, os.PathLike)):
            self.path = Path(source)
            self._file = open(self.path, "rb")  # noqa: SIM115 (open as long as this object)
            weakref.finalize(self, self._file.close)
            self._list = _read_whole(self._file)
        else:
            self.path, self._list = None, source if isinstance(source, list) else list(source)
        if self._list is None:
            self._index_entries(_scan_results(self._file, self.path))
        else:
            self._index_entries((entry, i, i) for i, entry in enumerate(self._list))

    def _index_entries(self, entries: Iterator[tuple[dict, int, int]]) -> None:
        numbers, starts, stops, boxes, masks = (array(code) for code in "qqqbb")
        for index, (entry, start, stop) in enumerate(entries):
            if not isinstance(entry, dict) or "image_id" not in entry:
                raise ValueError(f'predictions[{index}] is {str(entry)[:80]}; expected a dict with "image_id".')
            numbers.append(self.names.image_number(entry["image_id"], index))
            starts.append(start)
            stops.append(stop)
            boxes.append(bool(entry.get("bbox")))
            masks.append(bool(entry.get("segmentation")))
        self.has_boxes, self.has_masks = all(boxes), all(masks) and len(masks) > 0
        boxes, masks = np.array(boxes, bool), np.array(masks, bool)
        lacking = ~masks & (masks.any() | ~boxes)
        if lacking.any():
            i = int(np.argmax(lacking))
            what = "no segmentation, though others have one" if boxes[i] else 'neither a "bbox" nor a "segmentation"'
            raise ValueError(f"predictions[{i}] has {what}.")
        self._numbers = np.array(numbers, np.int64)
        self._order = np.argsort(self._numbers, kind="stable")
        self._sorted = self._numbers[self._order]
        self._starts, self._stops = np.array(starts, np.int64), np.array(stops, np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def entries(self, image_id: int) -> tuple[np.ndarray, list[dict]]:
        """Indices and results of an image, in the order of the list."""
        first, last = np.searchsorted(self._sorted, [image_id, image_id + 1])
        indices = self._order[first:last]
        if self._list is not None:
            return indices, [self._list[i] for i in indices]
        runs = np.split(indices, np.flatnonzero(np.diff(indices) != 1) + 1)
        return indices, [entry for run in runs if len(run) for entry in self._read(run[0], run[-1])]

    def _read(self, first: int, last: int) -> list[dict]:
        """Reads results that follow each other in the file; all at once is twice as fast as one by one."""
        self._file.seek(self._starts[first])
        return json.loads(b"[" + self._file.read(self._stops[last] - self._starts[first]) + b"]")

    def stream(self) -> Iterator[dict]:
        """Yields every result, in the order of the list."""
        if self._list is not None:
            yield from self._list
        else:
            for i in range(len(self)):
                yield from self._read(i, i)

    def detections(self, image_id: int, size: tuple[int, int], area: str = "auto") -> Instances:
        """Detected instances of an image.

        Args:
            image_id: The dataset's id of the image.
            size: Height and width of the image, pixels.
            area: Which area a detection has: that of its "box" or "mask"; "auto" is the box if all results have one,
                as in pycocotools' `loadRes`.

        Raises:
            ValueError: The image's source doesn't have a category, a number is NaN, a box is outside the image, or a
                mask has another size or damaged counts. The message names the index in the list of results.
        """
        indices, entries = self.entries(image_id)
        if not entries:
            return empty(size)
        dataset = self.names.dataset
        where = f"predictions of {describe_image(dataset, image_id)}"
        source = dataset.image_info[image_id]["source"]
        class_ids = np.array([self._class_of_entry(e, source, i) for i, e in zip(indices, entries)])
        scores = np.array([_read_number(e, "score", i) for i, e in zip(indices, entries)])
        rles = self._masks(indices, entries, size) if self.has_masks else None
        if self.has_boxes:
            boxes = np.array([_read_box(e["bbox"], i) for i, e in zip(indices, entries)])
        else:
            boxes = coco_mask.toBbox(rles).reshape(-1, 4)
        require_detections(class_ids, scores, boxes, size, dataset.num_classes, where, indices)
        from_masks = area == "mask" or (area == "auto" and not self.has_boxes)
        areas = coco_mask.area(rles).astype(float) if from_masks and rles else boxes[:, 2] * boxes[:, 3]
        return Instances(size, class_ids, boxes, areas, np.zeros(len(entries), bool), scores, rles)

    def _class_of_entry(self, entry: dict, source: str, index: int) -> int:
        category = entry.get("category_id")
        try:
            return self.names.classes[source, _key(category)]
        except (KeyError, TypeError):
            known = [category for (of, category) in self.names.classes if of == source]
            raise ValueError(
                f"predictions[{index}]: category_id {category!r} is out of range; the classes of {source!r} are"
                f" {known[:10]}{' ...' if len(known) > 10 else ''}."
            ) from None

    def _masks(self, indices, entries: list[dict], size: tuple[int, int]) -> list[dict]:
        rles = []
        for i, entry in zip(indices, entries):
            try:
                rles.append(to_rle(entry["segmentation"], *size))
            except ValueError as error:
                raise ValueError(f"predictions[{i}]: {error}.") from error
        bad = check_rles(rles)
        if bad is not None:
            raise ValueError(
                f"predictions[{indices[bad]}]: the counts of its mask are damaged: they don't make"
                f" {size[0]} x {size[1]} pixels."
            )
        return rles


def _read_number(entry: dict, name: str, index: int) -> float:
    value = entry.get(name)
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        raise ValueError(f"predictions[{index}]: {name} is {value!r}; expected a number.")
    return float(value)


def _read_box(box, index: int) -> list[float]:
    if len(box) != 4:
        raise ValueError(f"predictions[{index}]: bbox is {box!r}; expected [x, y, width, height].")
    return [float(v) for v in box]


def _read_whole(file: BinaryIO) -> list | None:
    """The results of a small file; None if it is large, or broken, so that `_scan_results` says where."""
    if os.fstat(file.fileno()).st_size > WHOLE:
        return None
    try:
        entries = json.loads(file.read())
    except ValueError:  # not JSON, or not UTF-8
        return None
    return entries if isinstance(entries, list) else None


def _scan_results(file: BinaryIO, path: Path) -> Iterator[tuple[dict, int, int]]:
    """Yields each result of a JSON list with its first byte and the one behind its last, in pieces of CHUNK bytes.

    Not ijson: it gives no byte offsets, so results could not be read again image by image, and it refuses the NaN that
    `json.dump` writes, where `Predictions` names the result. ijson is not much faster either: 2.4 s and 6 MB for a file
    of 200 MB, here 2.7 s and 11 MB.

    The bytes are decoded as Latin-1 to find where a result ends, so that one character is one byte. The result itself
    is decoded as UTF-8 when it is read.
    """
    decoder = json.JSONDecoder()
    size = file.seek(0, os.SEEK_END)

    def piece(start: int, held: int) -> str:
        """Text from byte `start`, longer than the `held` characters seen so far, so that reads make progress."""
        file.seek(start)
        return file.read(max(CHUNK, 2 * held + 2)).decode("latin-1")

    text, base, at, count, expected = piece(0, 0), 0, 0, 0, "["
    while True:
        while at < len(text) and text[at] in " \t\r\n":
            at += 1
        if at >= len(text) - 1 and base + len(text) < size:
            text, base, at = piece(base + at, len(text) - at), base + at, 0
            continue
        sign = text[at : at + 1]
        if sign == "]" and expected != "[":
            return
        if expected in "[,":
            if sign != expected:
                raise ValueError(
                    f"{path}, byte {base + at}: {sign!r} where {expected!r} was expected; results are a JSON list."
                )
            at, expected = at + 1, "result"
            continue
        try:
            entry, end = decoder.raw_decode(text, at)
        except json.JSONDecodeError as error:
            if base + len(text) >= size:
                raise ValueError(f"{path}, result {count}, byte {base + error.pos}: {error.msg}.") from error
            text, base, at = piece(base + at, len(text) - at), base + at, 0  # the result continues behind this piece
            continue
        if isinstance(entry, dict) and isinstance(entry.get("image_id"), str):
            entry = json.loads(text[at:end].encode("latin-1"))  # the id decoded as UTF-8
        yield entry, base + at, base + end
        at, expected, count = end, ",", count + 1


# ---- Writing ---------------------------------------------------------------------------------------------------------
class ResultsWriter:
    """Writes detections to a COCO results file, image by image. Use in a `with` block.

    Args:
        path: Where to write the file once it is complete; None: a temporary file, deleted with this object.
        names: `Names` of the dataset.
    """

    def __init__(self, path: str | Path | None, names: Names):
        self.names = names
        self.path = None if path is None else Path(path)
        if self.path is None:
            handle, self._temporary = tempfile.mkstemp(prefix="results-", suffix=".json")
            self._file = os.fdopen(handle, "w", encoding="utf-8")
            self._remove = weakref.finalize(self, _remove, self._temporary)
        else:
            self._replacing = replacing(self.path)
            self._temporary = self._replacing.__enter__()
            self._file = open(self._temporary, "w", encoding="utf-8")  # noqa: SIM115 (closed in __exit__)
        self._file.write("[")
        self._first = True

    def add(self, image_id: int, detections: Instances) -> None:
        """Appends the detections of an image."""
        key, source = self.names.image_key[image_id], self.names.dataset.image_info[image_id]["source"]
        for i in range(len(detections)):
            entry = {
                "image_id": key,
                "category_id": self.names.category(int(detections.class_ids[i]), source),
                "bbox": detections.boxes[i].tolist(),
                "score": float(detections.scores[i]),
            }
            if detections.rles is not None:
                rle = detections.rles[i]
                entry["segmentation"] = {"size": list(rle["size"]), "counts": rle["counts"].decode("ascii")}
            self._file.write("\n" if self._first else ",\n")
            self._file.write(json.dumps(entry))
            self._first = False

    def __enter__(self) -> ResultsWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._file.write("\n]\n")
        self._file.close()
        if self.path is not None:
            self._replacing.__exit__(kind, error, traceback)
        elif kind is not None:
            self._remove()

    def read(self) -> Predictions:
        """Opens the written results, after the `with` block. The returned object keeps the temporary file."""
        predictions = Predictions(self.path or self._temporary, self.names)
        predictions.writer = self
        return predictions


def _remove(path) -> None:
    Path(path).unlink(missing_ok=True)

"""`detections.json`, written photo by photo: at most one photo's objects are in memory."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from mrcnn.io import replacing

if TYPE_CHECKING:
    from mrcnn.inference.results import Detections


class DetectionsFile:
    """COCO results with images and categories, which is also a COCO dataset: each annotation has its score.

        {"categories": [{"id": 1, "name": "cat"}, ...],
         "annotations": [{"id": 1, "image_id": 1, "category_id": 1, "score": 0.98, "bbox": [x, y, width, height],
                          "area": 812, "iscrowd": 0, "segmentation": {"size": [H, W], "counts": "..."}}, ...],
         "images": [{"id": 1, "file_name": "a.jpg", "height": H, "width": W}, ...]}

    Attributes:
        images: The images added so far, as in the file.
        objects: Number of objects.
    """

    def __init__(self, file: IO[str], class_names: Sequence[str]):
        self.images: list[dict[str, Any]] = []
        self.objects = 0
        self._file = file
        categories = [{"id": i, "name": name} for i, name in enumerate(class_names) if i]
        file.write(f'{{"categories": {json.dumps(categories, ensure_ascii=False)},\n"annotations": [')

    def add(self, name: str, found: Detections, numbers: Sequence[int] | None = None, **fields: Any) -> None:
        """Adds a photo, or a frame of a video, and its objects.

        Args:
            name: Name of the file.
            numbers: Numbers of the objects, the same from frame to frame: the field `track_id`.
            fields: Further fields of the image.
        """
        height, width = map(int, found.image_shape)
        image = {"id": len(self.images) + 1, "file_name": name, "height": height, "width": width, **fields}
        self.images.append(image)
        for i, (entry, rle) in enumerate(zip(found.to_coco(image["id"]), found.rle)):
            self.objects += 1
            whole = {"id": self.objects, **entry, "area": area_of(rle), "iscrowd": 0}
            if numbers is not None:
                whole["track_id"] = int(numbers[i])
            self._file.write(f"{',' if self.objects > 1 else ''}\n{json.dumps(whole)}")

    def close(self) -> None:
        self._file.write(f'\n],\n"images": {json.dumps(self.images, ensure_ascii=False)}}}\n')


def area_of(rle: dict) -> int:
    """Number of pixels of a mask."""
    from pycocotools import mask as coco_mask

    return int(coco_mask.area(rle))


@contextmanager
def detections_file(path: Path, class_names: Sequence[str]) -> Iterator[DetectionsFile]:
    """Opens a `DetectionsFile`, which appears at `path` at the end of the block, unless the block fails.

    After Ctrl-C it contains the objects found until then.
    """
    interrupted = False
    with replacing(path) as unfinished, open(unfinished, "w", encoding="utf-8") as file:
        results = DetectionsFile(file, class_names)
        try:
            yield results
        except KeyboardInterrupt:
            interrupted = True
        results.close()
    if interrupted:
        raise KeyboardInterrupt

"""`Detections`: what `MaskRCNN.detect` found in one image.

H0, W0      size of the image, pixels
n           objects, best score first
box         (y1, x1, y2, x2) pixels of the image; y2 and x2 exclusive
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np

from mrcnn.data.image_reading import read_image
from mrcnn.inference import result_formats
from mrcnn.inference.result_masks import Crop, DenseMasks, Masks, RleMasks
from mrcnn.io import replacing

PICTURES = {".png": ".png", ".jpg": ".jpg", ".jpeg": ".jpg"}


class Detections(dict):
    """The objects found in one image: matterport's dict, with attributes, filters, pictures and converters.

    As a dict it has the keys "rois", "class_ids", "scores" and "masks", and those that a script adds. Masks are held as
    the network's 28 x 28 values or as run lengths, and pasted into the image when "masks" is first read; that array is
    then kept, as scripts index it in loops and may write into it. Everything else here works without it.

    `len()` is the number of objects, and iterating gives the keys; `objects()` gives the objects.

    Args:
        rois: [n, (y1, x1, y2, x2)] pixels, int32, or float32 with `CONVENTION` "torchvision" or "detectron2".
        class_ids: [n] int, from 1.
        scores: [n] float in [0, 1].
        masks: [H0, W0, n] bool, or `Masks`.
        class_names: names by class id, the background's ("BG") first. None: unknown.
        path: File of the image.
        transform: (a, b, c, d, e, f) from its pixels to coordinates of a map, see `to_geojson`; None: unknown.
        crs: The system of these coordinates, such as "EPSG:32633"; None: unknown.

    Raises:
        ValueError: The arrays differ in their number of objects.

    Example:

    >>> masks = np.zeros((6, 8, 2), bool)
    >>> masks[1:3, 1:5, 0] = masks[2:6, 4:8, 1] = True
    >>> found = Detections([[1, 1, 3, 5], [2, 4, 6, 8]], [1, 2], [0.9, 0.6], masks, class_names=["BG", "cat", "dog"])
    >>> len(found), found.names, found["masks"].shape
    (2, ['cat', 'dog'], (6, 8, 2))
    >>> found[found.scores > 0.7]
    Detections(1 object in 6 x 8 pixels: cat 0.90)
    >>> found.of_class("dog").rois
    array([[2, 4, 6, 8]], dtype=int32)
    """

    def __init__(
        self,
        rois: np.ndarray,
        class_ids: np.ndarray,
        scores: np.ndarray,
        masks: np.ndarray | Masks,
        *,
        class_names: Sequence[str] | None = None,
        path: str | Path | None = None,
        transform: Sequence[float] | None = None,
        crs: str | None = None,
    ):
        rois = np.asarray(rois)
        rois = rois.astype(np.float32 if rois.dtype.kind == "f" and rois.size else np.int32, copy=False).reshape(-1, 4)
        class_ids, scores = np.asarray(class_ids, np.int32).reshape(-1), np.asarray(scores, np.float32).reshape(-1)
        masks = masks if isinstance(masks, Masks) else DenseMasks(masks)
        counts = len(rois), len(class_ids), len(scores), len(masks)
        if len(set(counts)) > 1:
            raise ValueError(
                "There are {} rois, {} class_ids, {} scores and {} masks; expected the same number.".format(*counts)
            )
        super().__init__(rois=rois, class_ids=class_ids, scores=scores, masks=masks)
        self.class_names = None if class_names is None else list(class_names)
        self.path = None if path is None else str(path)
        self.transform, self.crs = transform, crs
        self._image_shape = masks.image_shape

    # ---- Attributes --------------------------------------------------------------------------------------------------
    @property
    def image_shape(self) -> tuple[int, int]:
        """(H0, W0) pixels."""
        return self._masks().image_shape if "masks" in self else self._image_shape

    @property
    def rois(self) -> np.ndarray:
        """[n, (y1, x1, y2, x2)] pixels."""
        return self["rois"]

    boxes = rois

    @property
    def class_ids(self) -> np.ndarray:
        """[n] int32."""
        return self["class_ids"]

    @property
    def scores(self) -> np.ndarray:
        """[n] float32 in [0, 1]."""
        return self["scores"]

    @property
    def masks(self) -> np.ndarray:
        """[H0, W0, n] bool, the same array as `["masks"]`; on large images, `rle` and `crops` take far less memory."""
        return self["masks"]

    @property
    def names(self) -> list[str]:
        """n class names; the class id as text where its name is unknown."""
        known = dict(enumerate(self.class_names or []))
        return [str(known.get(i, i)) for i in np.asarray(self.class_ids).tolist()]

    @property
    def rle(self) -> list[dict]:
        """n masks as COCO's run lengths: {"size": [H0, W0], "counts": bytes}, as of pycocotools."""
        return self._masks().rles()

    def crops(self) -> Iterator[Crop]:
        """Yields of each object a region (y1, x1, y2, x2) and the mask inside it, [y2 - y1, x2 - x1] bool.

        All of the mask lies in the region, which for an empty mask may be (0, 0, 0, 0).
        """
        return self._masks().crops()

    def _masks(self) -> Masks:
        masks = super().__getitem__("masks")
        return masks if isinstance(masks, Masks) else DenseMasks(masks)  # an array that a script has put there

    # ---- Selecting ---------------------------------------------------------------------------------------------------
    def __len__(self) -> int:
        return len(self.class_ids)

    def __getitem__(self, key: str | int | slice | Sequence | np.ndarray) -> Any:
        """The value of a key; or for an int, a slice, or an array of bool or int, the `Detections` of these rows.

        Entries that a script added are kept. Those that are arrays with a row per object are indexed as well.
        """
        if isinstance(key, str):
            value = super().__getitem__(key)
            return value.dense() if isinstance(value, Masks) else value
        if isinstance(key, list):
            key = np.asarray(key, None if key else int)
        count = len(self)
        rows = np.atleast_1d(np.arange(count)[key])
        taken = self.copy()
        for name in self:
            value = super().__getitem__(name)
            if isinstance(value, Masks):
                taken[name] = value.take(rows)
            elif name == "masks":
                taken[name] = value[..., rows]
            elif isinstance(value, np.ndarray) and value.ndim and len(value) == count:
                taken[name] = value[rows]
        return taken

    def objects(self) -> Iterator[Detections]:
        """Yields each object as `Detections` of length 1."""
        return (self[i] for i in range(len(self)))

    def of_class(self, *classes: str | int) -> Detections:
        """The objects of some classes, given as names or ids.

        Raises:
            ValueError: A name is not one of the model's classes.
        """
        return self[np.isin(self.class_ids, [self._class_id(c) for c in classes])]

    def above(self, score: float) -> Detections:
        """The objects with at least this score."""
        return self[np.asarray(self.scores) >= score]

    def _class_id(self, name: str | int) -> int:
        if not isinstance(name, str):
            return int(name)
        if name not in (self.class_names or []):
            known = f"expected one of {self.class_names}" if self.class_names else "the model has no class names"
            raise ValueError(f"There is no class {name!r}; {known}. Class ids work as well.")
        return self.class_names.index(name)

    # ---- As a dict ---------------------------------------------------------------------------------------------------
    def __iter__(self) -> Iterator[str]:
        # If the class defined __iter__, Python reads the values of {**found} through __getitem__.
        return super().__iter__()

    def get(self, key: str, default: Any = None) -> Any:
        return self[key] if key in self else default  # noqa: SIM401 (dict.get would not paste the masks)

    def items(self) -> Any:
        return {key: self[key] for key in self}.items()

    def values(self) -> Any:
        return {key: self[key] for key in self}.values()

    def pop(self, key: str, *default: Any) -> Any:
        value = super().pop(key, *default)
        return value.dense() if isinstance(value, Masks) else value

    def popitem(self) -> tuple[str, Any]:
        key = next(reversed(self.keys()), None)
        return (key, self.pop(key)) if key is not None else super().popitem()

    def setdefault(self, key: str, default: Any = None) -> Any:
        super().setdefault(key, default)
        return self[key]

    def copy(self) -> Detections:
        """A shallow copy: another dict with the same arrays."""
        new = Detections.__new__(type(self))
        dict.update(new, {key: super(Detections, self).__getitem__(key) for key in self})
        new.__dict__.update(self.__dict__)
        return new

    __copy__ = copy

    def __deepcopy__(self, memo: dict) -> Detections:
        new = self.copy()
        for key in new:
            dict.__setitem__(new, key, deepcopy(dict.__getitem__(new, key), memo))
        new.__dict__.update(deepcopy(self.__dict__, memo))
        return new

    def __reduce__(self) -> tuple:
        stored = {key: super(Detections, self).__getitem__(key) for key in self}
        return _restore, (type(self), stored, self.__dict__)

    def __or__(self, other: dict) -> Detections:
        new = self.copy()
        new.update(other)
        return new

    def __ror__(self, other: dict) -> dict:
        return {**other, **self}

    def __eq__(self, other: object) -> bool:
        """Whether `other` is a dict with the same keys and equal arrays."""
        if not isinstance(other, dict) or self.keys() != other.keys():
            return False
        return self is other or all(np.array_equal(self[key], other[key]) for key in self)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None

    def __repr__(self) -> str:
        height, width = self.image_shape
        first = ", ".join(f"{name} {score:.2f}" for name, score in list(zip(self.names, self.scores))[:5])
        more = ", ..." if len(self) > 5 else ""
        objects = "1 object" if len(self) == 1 else f"{len(self)} objects"
        return f"Detections({objects} in {height} x {width} pixels{': ' if first else ''}{first}{more})"

    # ---- Pictures ----------------------------------------------------------------------------------------------------
    def plot(
        self,
        image: np.ndarray | str | Path | None = None,
        *,
        captions: Sequence[str] | None = None,
        colors: Sequence | None = None,
        show_masks: bool = True,
        show_boxes: bool = True,
        side: int | None = None,
    ) -> np.ndarray:
        """Draws the objects on the image, the best one last.

        Args:
            image: [H0, W0, 3] RGB, or a file; None: the file that was given to `detect`.
            captions: n texts; None: class and score.
            colors: n colors that matplotlib knows, or (red, green, blue) in 0..1; None: a color per class.
            show_masks, show_boxes: What to draw. Without masks, boxes are drawn in any case.
            side: Longer side of the picture, pixels; None: that of the image.

        Returns:
            [h, w, 3] uint8.

        Raises:
            ValueError: The image has another size than the one that the objects were found in, or there is none.
        """
        from mrcnn.drawing.palette import class_colors
        from mrcnn.drawing.renderer import draw_instances  # matplotlib takes long to import

        if captions is None:
            captions = [f"{name} {score:.2f}" for name, score in zip(self.names, self.scores)]
        colors = class_colors(self.class_ids) if colors is None else colors
        last_first = self[::-1]
        masks = last_first.crops() if show_masks else None
        texts, colors = list(captions)[::-1], list(colors)[::-1]
        options = {"side": side, "show_boxes": show_boxes}
        return draw_instances(self._image(image), last_first.rois, masks, texts, colors, **options)

    def save(self, path: str | Path, image: np.ndarray | str | Path | None = None, **options: Any) -> Path:
        """Writes the picture of `plot(image, **options)` to a .png or .jpg file.

        Raises:
            ValueError: Another suffix, or what `plot` raises.
        """
        from mrcnn.drawing.renderer import encode

        path = Path(path)
        if path.suffix.lower() not in PICTURES:
            raise ValueError(f"{path}: expected a name that ends with {', '.join(PICTURES)}.")
        content = encode(self.plot(image, **options), PICTURES[path.suffix.lower()])
        with replacing(path) as unfinished:
            Path(unfinished).write_bytes(content)
        return path

    def _image(self, image: np.ndarray | str | Path | None) -> np.ndarray:
        image = self.path if image is None else image
        if image is None:
            raise ValueError("plot and save need the image: detect got an array, and not the path of a file.")
        image = read_image(image, upright=True) if isinstance(image, (str, Path)) else np.asarray(image)
        if image.shape[:2] != tuple(self.image_shape):
            raise ValueError(
                f"The image has {image.shape[0]} x {image.shape[1]} pixels (height x width); expected those of the"
                f" image that was searched, {self.image_shape[0]} x {self.image_shape[1]}."
            )
        return image

    # ---- Formats -----------------------------------------------------------------------------------------------------
    to_coco = result_formats.to_coco
    to_labelme = result_formats.to_labelme
    to_yolo = result_formats.to_yolo
    to_geojson = result_formats.to_geojson
    to_supervision = result_formats.to_supervision
    to_pandas = result_formats.to_pandas

    def semantic_map(self, min_score: float = 0.0) -> np.ndarray:
        """[H0, W0] int32: the class of each pixel, 0 for none. Where masks overlap, the higher score wins.

        Args:
            min_score: Objects with a lower score are left out.
        """
        labels = np.zeros(self.image_shape, np.int32)
        kept = self.above(min_score)
        kept = kept[np.argsort(kept.scores, kind="stable")]
        for ((y1, x1, y2, x2), pixels), class_id in zip(kept.crops(), kept.class_ids):
            labels[y1:y2, x1:x2][pixels] = class_id
        return labels

    @classmethod
    def from_coco(
        cls,
        results: Sequence[dict],
        image_shape: Sequence[int],
        class_names: Sequence[str] | None = None,
        path: str | Path | None = None,
    ) -> Detections:
        """The objects of one image from COCO results, the best first; inverse of `to_coco`.

        Args:
            results: Dicts with "category_id" and "score", and "segmentation" (RLE or polygons), "bbox" or both.
                Without "bbox", boxes are those around the masks; without "segmentation", masks are the boxes.
            image_shape: (H0, W0), pixels.
            class_names: Names by category id, "BG" first; or None.
            path: File of the image.

        Raises:
            ValueError: An entry misses a field, or its mask doesn't fit the image; the message has its index.
        """
        rois, class_ids, scores, rles = result_formats.read_coco(results, image_shape)
        return cls(rois, class_ids, scores, RleMasks(rles, image_shape), class_names=class_names, path=path)


def _restore(kind: type, stored: dict, attributes: dict) -> Detections:
    """Rebuilds a pickled `Detections`."""
    new = Detections.__new__(kind)
    dict.update(new, stored)
    new.__dict__.update(attributes)
    return new

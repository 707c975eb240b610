"""Statistics of a dataset before training: `dataset.summary(config)`.

Counts and sizes as stored. With a Config also what the network receives: boxes after resizing, objects lost in resizing
or in mini masks, and how well the anchors fit the boxes.

Shapes:
    M  images;  N  objects of all images, crowds included
    boxes are (y1, x1, y2, x2) in pixels
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from tqdm import tqdm

from mrcnn.data import summary_views
from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.data.dataset import Dataset
from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.data.training_sample import resize_for_training
from mrcnn.io import replacing
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.mask_boxes import extract_bboxes
from mrcnn.ops.masks import minimize_resized

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from mrcnn.config import Config

BOXES_AT_ONCE = 200  # looked up among the anchors; keeps the arrays of candidates small


@dataclass(repr=False)
class DatasetSummary:
    """The result of `Dataset.summary`. `str()` gives a table, `plot()` a figure, `to_dict()` the numbers for JSON.

    Attributes:
        name: str, the dataset's class and sources.
        class_names: list of str, "BG" first.
        image_ids: [M] int.
        image_sizes: [M, (height, width)] int, pixels.
        image: [N] int, index into image_ids of each object's image.
        class_ids: [N] int, positive for crowds as well.
        crowd: [N] bool.
        boxes: [N, 4] int, in the image as stored; zeros for an object without a pixel.
        areas: [N] int, pixels of the mask.
        config: the Config; this and the following attributes are None without one.
        molded_sizes: [M, (height, width)] int, pixels of the images as the network receives them.
        molded_boxes: [N, 4] int, in these images; zeros where resizing left no pixel.
        mini_empty: [N] bool, whether the object is lost because it is smaller than a cell of its mini mask; None
            without USE_MINI_MASK.
        anchor_iou: [N] float in [0, 1], IoU with the best anchor; NaN for crowds, which aren't trained on, and for
            objects lost in resizing.

    Example:
        >>> dataset = Dataset()  # a real one overrides load_mask
        >>> dataset.add_class("toys", 1, "ball")
        >>> dataset.add_image("toys", 0, path=None, height=40, width=60)
        >>> dataset.prepare()
        >>> summary = summarize(dataset, progress=False)  # dataset.summary() also prints it
        >>> summary
        <DatasetSummary of Dataset (toys): 1 images, 0 objects>
        >>> summary.instances_per_class, summary.images_without_objects
        ({'ball': 0}, [0])
    """

    RECALL_IOUS: ClassVar[tuple[float, ...]] = (0.5, 0.7)  # at which the recall of the anchors is reported

    name: str
    class_names: list[str]
    image_ids: np.ndarray
    image_sizes: np.ndarray
    image: np.ndarray
    class_ids: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    config: Config | None = None
    molded_sizes: np.ndarray | None = None
    molded_boxes: np.ndarray | None = None
    mini_empty: np.ndarray | None = None
    anchor_iou: np.ndarray | None = None

    # ---- Derived -----------------------------------------------------------------------------------------------------
    @property
    def objects_per_image(self) -> np.ndarray:
        """[M] int, crowds included."""
        return np.bincount(self.image, minlength=len(self.image_ids))

    @property
    def images_without_objects(self) -> list[int]:
        """Ids of the images without an object."""
        return self.image_ids[self.objects_per_image == 0].tolist()

    @property
    def instances_per_class(self) -> dict[str, int]:
        """From class name to number of objects, most frequent first; all classes except the background."""
        counts = dict.fromkeys(self.class_names[1:], 0)  # two sources may have classes with the same name
        counts |= Counter(self.class_names[i] for i in self.class_ids.tolist())
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def images_per_class(self) -> dict[str, int]:
        """From class name to number of images with such an object, in the order of `instances_per_class`."""
        pairs = {(image, self.class_names[i]) for image, i in zip(self.image.tolist(), self.class_ids.tolist())}
        counts = Counter(name for _, name in pairs)
        return {name: counts[name] for name in self.instances_per_class}

    @property
    def frequent_image_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """[((height, width), images)] of `image_sizes`, most frequent first."""
        return _count_sizes(self.image_sizes)

    @property
    def frequent_molded_sizes(self) -> list[tuple[tuple[int, int], int]]:
        """[((height, width), images)] of `molded_sizes`, most frequent first; empty without a Config."""
        return [] if self.molded_sizes is None else _count_sizes(self.molded_sizes)

    @property
    def visible_boxes(self) -> np.ndarray:
        """Boxes of the objects that have a pixel: [up to N, 4]; the molded ones if there is a Config."""
        boxes = self.boxes if self.molded_boxes is None else self.molded_boxes
        return boxes[boxes[:, 2] > boxes[:, 0]]

    @property
    def visible_sizes(self) -> np.ndarray:
        """(height, width) of `visible_boxes`, pixels: [up to N, 2]."""
        return self.visible_boxes[:, 2:] - self.visible_boxes[:, :2]

    @property
    def sides(self) -> np.ndarray:
        """Square root of height times width of `visible_boxes`, pixels; comparable to `RPN_ANCHOR_SCALES`."""
        return np.sqrt(self.visible_sizes.prod(axis=1))

    @property
    def aspect_ratios(self) -> np.ndarray:
        """Width / height of `visible_boxes`; comparable to `RPN_ANCHOR_RATIOS`."""
        height, width = self.visible_sizes.T
        return width / height

    @property
    def without_pixel(self) -> int:
        """Number of objects whose mask is empty as loaded."""
        return int((self.areas == 0).sum())

    @property
    def lost_in_resizing(self) -> int | None:
        """Number of objects that have pixels, but none after resizing; None without a Config."""
        if self.molded_boxes is None:
            return None
        return int(((self.molded_boxes[:, 2] == 0) & (self.areas > 0)).sum())

    @property
    def smaller_than_mini_mask(self) -> int | None:
        """Number of objects whose box has fewer rows or columns than a mini mask; None without mini masks."""
        if self.mini_empty is None:
            return None
        return int((self.visible_sizes < self.config.MINI_MASK_SHAPE).any(axis=1).sum())

    def anchor_recall(self, iou: float) -> float | None:
        """Share of the objects that some anchor overlaps with at least this IoU; None without Config or objects."""
        if self.anchor_iou is None or np.isnan(self.anchor_iou).all():
            return None
        return float((self.anchor_iou[~np.isnan(self.anchor_iou)] >= iou).mean())

    # ---- Output ------------------------------------------------------------------------------------------------------
    def __str__(self) -> str:
        return summary_views.table(self)

    def __repr__(self) -> str:
        return f"<DatasetSummary of {self.name}: {len(self.image_ids)} images, {len(self.class_ids)} objects>"

    def plot(self, save: str | Path | None = None) -> Figure:
        """Draws a figure of six panels: classes, image sizes, objects per image, their sizes and ratios, recall.

        Args:
            save: path of an image file to write, or None.

        Returns:
            matplotlib Figure, made without pyplot, so that no display is needed.
        """
        figure = summary_views.draw(self)
        if save is not None:
            with replacing(save) as unfinished:
                figure.savefig(unfinished, format=Path(save).suffix[1:] or "png", dpi=90)
        return figure

    def _repr_png_(self) -> bytes:
        """The figure, as shown by notebooks."""
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", dpi=70)
        return buffer.getvalue()

    def to_dict(self) -> dict[str, Any]:
        """All numbers, of types that `json` writes."""
        found = {
            "name": self.name,
            "images": len(self.image_ids),
            "instances": len(self.class_ids),
            "crowds": int(self.crowd.sum()),
            "instances_per_class": self.instances_per_class,
            "images_per_class": self.images_per_class,
            "images_without_objects": self.images_without_objects,
            "image_sizes": [[*size, count] for size, count in self.frequent_image_sizes],
            "side_percentiles": _percentiles(self.sides),
            "aspect_ratio_percentiles": _percentiles(self.aspect_ratios),
            "instances_without_pixel": self.without_pixel,
        }
        if self.config is None:
            return found
        return found | {
            "instances_lost_in_resizing": self.lost_in_resizing,
            "instances_with_empty_mini_mask": None if self.mini_empty is None else int(self.mini_empty.sum()),
            "instances_smaller_than_mini_mask": self.smaller_than_mini_mask,
            "anchor_recall": {str(iou): self.anchor_recall(iou) for iou in self.RECALL_IOUS},
        }


def _count_sizes(sizes: np.ndarray) -> list[tuple[tuple[int, int], int]]:
    """[((height, width), count)] of sizes [M, 2], most frequent first."""
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [((int(unique[i, 0]), int(unique[i, 1])), int(counts[i])) for i in order]


def _percentiles(values: np.ndarray) -> dict[str, float]:
    """From percent to value; empty without values."""
    percents = (0, 5, 50, 95, 100)
    return dict(zip(map(str, percents), np.percentile(values, percents).tolist())) if len(values) else {}


# ---- Measuring -------------------------------------------------------------------------------------------------------
def summarize(
    dataset: Dataset, config: Config | None = None, image_ids: Sequence[int] | None = None, progress: bool = True
) -> DatasetSummary:
    """`Dataset.summary` without printing. Reads all masks; images only if their size is not known otherwise."""
    if not hasattr(dataset, "class_names"):
        raise ValueError(f"{type(dataset).__name__} isn't prepared; call its prepare() first.")
    image_ids = np.asarray(dataset.image_ids if image_ids is None else image_ids, np.int64).reshape(-1)
    wrong = image_ids[(image_ids < 0) | (image_ids >= dataset.num_images)]
    if len(wrong):
        raise ValueError(f"image_ids has {wrong[0]}; expected numbers from 0 to {dataset.num_images - 1}.")
    progress_bar = tqdm(image_ids, desc="Reading masks", unit="image", disable=not progress)
    per_image = [measure(*_checked_masks(dataset, int(i)), config, int(i)) for i in progress_bar]
    return summary_of(dataset, config, image_ids, per_image)


def summary_of(
    dataset: Dataset, config: Config | None, image_ids: np.ndarray, per_image: Sequence[dict[str, np.ndarray]]
) -> DatasetSummary:
    """The summary of images [M] that `measure` measured."""
    needs_config = ("molded_sizes", "molded_boxes", "mini_empty")
    measured = {
        name: np.concatenate([np.zeros((0, *shape), dtype)] + [one[name] for one in per_image])
        for name, (shape, dtype) in MEASURED.items()
        if config is not None or name not in needs_config
    }
    image = np.repeat(np.arange(len(per_image)), [len(one["class_ids"]) for one in per_image])
    if config is not None:
        image_sizes = measured["molded_sizes"][image]  # [N, 2]
        measured["anchor_iou"] = _anchor_iou(measured["molded_boxes"], image_sizes, measured["crowd"], config)
        if not config.USE_MINI_MASK:
            del measured["mini_empty"]
    name = f"{type(dataset).__name__} ({', '.join(source for source in dataset.sources if source) or 'no source'})"
    return DatasetSummary(name, list(dataset.class_names), image_ids, image=image, config=config, **measured)


MEASURED = {  # of each image: shape of an entry, type
    "image_sizes": ((2,), np.int64),
    "class_ids": ((), np.int64),
    "crowd": ((), bool),
    "boxes": ((4,), np.int64),
    "areas": ((), np.int64),
    "molded_sizes": ((2,), np.int64),
    "molded_boxes": ((4,), np.int64),
    "mini_empty": ((), bool),
}


def _checked_masks(dataset: Dataset, image_id: int) -> tuple[np.ndarray, np.ndarray]:
    masks, class_ids = load_masks(dataset, image_id)
    check_class_ids(class_ids, dataset, image_id)
    return masks, class_ids


def measure(
    masks: np.ndarray, class_ids: np.ndarray, config: Config | None, image_id: int = 0
) -> dict[str, np.ndarray]:
    """The entries of MEASURED for one image: its masks [H, W, N] and class ids [N]; `image_id` seeds random crops."""
    found = {
        "image_sizes": np.array([masks.shape[:2]]),
        "class_ids": np.abs(class_ids).astype(np.int64),
        "crowd": class_ids < 0,
        "boxes": extract_bboxes(masks),
        "areas": np.count_nonzero(masks, axis=(0, 1)),
    }
    if config is None:
        return found
    # Of this image only the size matters.
    rng = np.random.default_rng(image_id)
    blank, _, _, molding = resize_for_training(np.zeros(masks.shape[:2], np.uint8), config, rng)
    boxes, mini = minimize_resized(masks, *molding, config.MINI_MASK_SHAPE)
    return found | {
        "molded_sizes": np.array([blank.shape]),
        "molded_boxes": boxes,
        "mini_empty": (boxes[:, 2] > 0) & ~mini.any(axis=(0, 1)),
    }


def _anchor_iou(boxes: np.ndarray, image_sizes: np.ndarray, crowd: np.ndarray, config: Config) -> np.ndarray:
    """`DatasetSummary.anchor_iou` of molded boxes [N, 4] in images of image_sizes [N, (height, width)]."""
    best = np.full(len(boxes), np.nan)
    wanted = (boxes[:, 2] > 0) & ~crowd
    for size in np.unique(image_sizes[wanted], axis=0):
        index = AnchorIndex(anchors_of_image(size, **config.anchor_settings()))
        rows = np.flatnonzero(wanted & (image_sizes == size).all(axis=1))
        for start in range(0, len(rows), BOXES_AT_ONCE):
            part = rows[start : start + BOXES_AT_ONCE]
            best[part] = index.best_iou(boxes[part])
    return best

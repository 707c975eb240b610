"""What is in a data set, before anything is trained on it: `dataset.summary(config)`.

Counts and sizes as they lie in the files. With a Config also what the network would get to see: boxes after resizing,
objects that resizing or the mini mask loses, and whether the anchors fit the boxes.

    summary = dataset.summary(config)  # prints
    summary.plot("summary.png")

Shapes:
    M  images;  N  objects of all of them, crowds included
    L  pyramid levels;  R  anchor ratios
    boxes are (y1, x1, y2, x2) in pixels
"""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrcnn.data.ground_truth import check_class_ids, load_masks
from mrcnn.io import replacing
from mrcnn.ops import images
from mrcnn.ops.anchors import backbone_shapes, generate_anchors
from mrcnn.ops.boxes import extract_bboxes, iou_of_sides
from mrcnn.ops.masks import minimize_resized

RECALL_AT = (0.5, 0.7)


@dataclass(repr=False)
class DatasetSummary:
    """What `Dataset.summary` found. `str()` is a table of it, `plot()` a figure, `to_dict()` its numbers.

    Attributes:
        name: str, the data set's type and sources.
        class_names: list of str, "BG" first.
        image_ids: [M] int.
        image_sizes: [M, (height, width)] int, pixels.
        image: [N] int, the place of an object's image in image_ids.
        class_ids: [N] int, of the objects; positive for crowds as well.
        crowd: [N] bool.
        boxes: [N, 4] int, in the image as it is stored; zeros for an object without a pixel.
        areas: [N] int, pixels of the mask.

    With a Config, else None:
        config: the Config.
        molded_sizes: [M, (height, width)] int, pixels of the images as the network gets them.
        molded_boxes: [N, 4] int, in these; zeros where resizing left no pixel.
        mini_empty: [N] bool: smaller than a cell of its own mini mask, which has no pixel; None without USE_MINI_MASK.
        anchor_iou: [N] float, IoU with the best anchor; NaN for crowds, which aren't trained on, and lost objects.
    """

    name: str
    class_names: list
    image_ids: np.ndarray
    image_sizes: np.ndarray
    image: np.ndarray
    class_ids: np.ndarray
    crowd: np.ndarray
    boxes: np.ndarray
    areas: np.ndarray
    config: object = None
    molded_sizes: np.ndarray | None = None
    molded_boxes: np.ndarray | None = None
    mini_empty: np.ndarray | None = None
    anchor_iou: np.ndarray | None = None

    # ---- What follows ------------------------------------------------------------------------------------------------
    @property
    def objects_per_image(self):
        """[M] int, crowds included."""
        return np.bincount(self.image, minlength=len(self.image_ids))

    @property
    def images_without_objects(self):
        """Ids of the images that have none: [int]."""
        return self.image_ids[self.objects_per_image == 0].tolist()

    @property
    def instances_per_class(self):
        """{class name: objects}, the most first; all classes but the background."""
        counts = dict.fromkeys(self.class_names[1:], 0)  # two sources may have classes of one name
        counts |= Counter(self.class_names[i] for i in self.class_ids.tolist())
        return dict(sorted(counts.items(), key=lambda item: -item[1]))

    @property
    def images_per_class(self):
        """{class name: images that show it}, in the order of `instances_per_class`."""
        pairs = {(image, self.class_names[i]) for image, i in zip(self.image.tolist(), self.class_ids.tolist())}
        counts = Counter(name for _, name in pairs)
        return {name: counts[name] for name in self.instances_per_class}

    @property
    def seen_boxes(self):
        """Boxes of the objects that have a pixel: [up to N, 4]; molded ones if there is a Config."""
        boxes = self.boxes if self.molded_boxes is None else self.molded_boxes
        return boxes[boxes[:, 2] > boxes[:, 0]]

    @property
    def sides(self):
        """Square root of height times width of `seen_boxes`, pixels: the measure of `RPN_ANCHOR_SCALES`."""
        height, width = sides_of(self.seen_boxes)
        return np.sqrt(height * width)

    @property
    def aspect_ratios(self):
        """Width / height of `seen_boxes`: the measure of `RPN_ANCHOR_RATIOS`."""
        height, width = sides_of(self.seen_boxes)
        return width / height

    @property
    def without_pixel(self):
        """Objects whose mask is empty as it is read: int."""
        return int((self.areas == 0).sum())

    @property
    def lost_in_resizing(self):
        """Objects that have pixels, but none after resizing: int; None without a Config."""
        if self.molded_boxes is None:
            return None
        return int(((self.molded_boxes[:, 2] == 0) & (self.areas > 0)).sum())

    @property
    def smaller_than_mini_mask(self):
        """Objects whose box has fewer rows or columns than its mini mask, so that a cell is less than a pixel: int."""
        if self.mini_empty is None:
            return None
        height, width = sides_of(self.seen_boxes)
        rows, columns = self.config.MINI_MASK_SHAPE
        return int(((height < rows) | (width < columns)).sum())

    def anchor_recall(self, iou):
        """Share of the objects that some anchor meets with this IoU or more; None without Config or objects."""
        if self.anchor_iou is None or np.isnan(self.anchor_iou).all():
            return None
        return float((self.anchor_iou[~np.isnan(self.anchor_iou)] >= iou).mean())

    # ---- Shown -------------------------------------------------------------------------------------------------------
    def __str__(self):
        from mrcnn.data.summary_views import table

        return table(self)

    def __repr__(self):
        return f"<DatasetSummary of {self.name}: {len(self.image_ids)} images, {len(self.class_ids)} objects>"

    def plot(self, save=None):
        """A figure of all of it; needs no screen.

        Args:
            save: path of a picture to write, or None.

        Returns:
            matplotlib Figure.
        """
        from mrcnn.data.summary_views import draw

        figure = draw(self)
        if save is not None:
            with replacing(save) as unfinished:
                figure.savefig(unfinished, format=Path(save).suffix[1:] or "png", dpi=90)
        return figure

    def _repr_png_(self):
        """The figure, which notebooks show."""
        buffer = io.BytesIO()
        self.plot().savefig(buffer, format="png", dpi=70)
        return buffer.getvalue()

    def to_dict(self):
        """All numbers, ready for json."""
        found = {
            "name": self.name,
            "images": len(self.image_ids),
            "instances": len(self.class_ids),
            "crowds": int(self.crowd.sum()),
            "instances_per_class": self.instances_per_class,
            "images_per_class": self.images_per_class,
            "images_without_objects": self.images_without_objects,
            "image_sizes": [[*size, count] for size, count in frequent_sizes(self.image_sizes)],
            "side_percentiles": _percentiles(self.sides),
            "aspect_ratio_percentiles": _percentiles(self.aspect_ratios),
            "instances_without_pixel": self.without_pixel,
        }
        if self.config is None:
            return found
        recall = {str(iou): self.anchor_recall(iou) for iou in RECALL_AT}
        return found | {
            "instances_lost_in_resizing": self.lost_in_resizing,
            "instances_with_empty_mini_mask": None if self.mini_empty is None else int(self.mini_empty.sum()),
            "instances_smaller_than_mini_mask": self.smaller_than_mini_mask,
            "anchor_recall": recall,
        }


# ---- Measuring -------------------------------------------------------------------------------------------------------
def summarize(dataset, config=None, image_ids=None, progress=True):
    """Reads the masks of a data set; images only where nothing else tells their size. See `Dataset.summary`."""
    if not hasattr(dataset, "class_names"):
        raise ValueError(f"{type(dataset).__name__} isn't prepared; call its prepare() first.")
    image_ids = np.asarray(dataset.image_ids if image_ids is None else image_ids, np.int64).reshape(-1)
    wrong = image_ids[(image_ids < 0) | (image_ids >= dataset.num_images)]
    if len(wrong):
        raise ValueError(f"image_ids has {wrong[0]}; expected numbers from 0 to {dataset.num_images - 1}.")
    shown = tqdm(image_ids, desc="Reading masks", unit="image", disable=not progress)
    found = [_measure(dataset, config, int(image_id)) for image_id in shown]
    of_config = () if config is None else OF_CONFIG if config.USE_MINI_MASK else OF_CONFIG.difference(["mini_empty"])
    joined = {
        key: np.concatenate([np.zeros((0, *shape), dtype)] + [one[key] for one in found])
        for key, (shape, dtype) in MEASURED.items() if key not in OF_CONFIG or key in of_config
    }  # fmt: skip
    image = np.repeat(np.arange(len(found)), [len(one["class_ids"]) for one in found])
    name = f"{type(dataset).__name__} ({', '.join(source for source in dataset.sources if source) or 'no source'})"
    return DatasetSummary(name, list(dataset.class_names), image_ids, image=image, config=config, **joined)


MEASURED = {  # what is measured: shape of an entry, type
    "image_sizes": ((2,), np.int64),
    "class_ids": ((), np.int64),
    "crowd": ((), bool),
    "boxes": ((4,), np.int64),
    "areas": ((), np.int64),
    "molded_sizes": ((2,), np.int64),
    "molded_boxes": ((4,), np.int64),
    "mini_empty": ((), bool),
    "anchor_iou": ((), np.float64),
}
OF_CONFIG = frozenset(["molded_sizes", "molded_boxes", "mini_empty", "anchor_iou"])


def _measure(dataset, config, image_id):
    """What MEASURED lists, of one image."""
    masks, class_ids = load_masks(dataset, image_id)
    check_class_ids(class_ids, dataset, image_id)
    found = {
        "image_sizes": np.array([masks.shape[:2]]),
        "class_ids": np.abs(class_ids).astype(np.int64),
        "crowd": class_ids < 0,
        "boxes": extract_bboxes(masks),
        "areas": np.count_nonzero(masks, axis=(0, 1)),
    }
    if config is None:
        return found
    # The same resizing as that of `loading`, on an image of which only the size matters.
    blank, _, scale, padding, crop = images.resize_image(
        np.zeros(masks.shape[:2], np.uint8), min_dim=config.IMAGE_MIN_DIM, max_dim=config.IMAGE_MAX_DIM,
        min_scale=config.IMAGE_MIN_SCALE, mode=config.IMAGE_RESIZE_MODE, rng=np.random.default_rng(image_id),
    )  # fmt: skip
    boxes, mini = minimize_resized(masks, scale, padding, crop, config.MINI_MASK_SHAPE)
    there = boxes[:, 2] > 0
    anchor_iou = best_anchor_iou(boxes, blank.shape, config)
    return found | {
        "molded_sizes": np.array([blank.shape]),
        "molded_boxes": boxes,
        "mini_empty": there & ~mini.any(axis=(0, 1)),
        "anchor_iou": np.where(there & (class_ids > 0), anchor_iou, np.nan),
    }


def best_anchor_iou(boxes, image_shape, config):
    """IoU of each box with the anchor that fits it best.

    Of the anchors of one size, that with the centre nearest to the box's overlaps it most: in each direction the
    overlap only shrinks with the distance of the centres. So L * R anchors a box are looked at and not all 262,000.

    Args:
        boxes: [N, (y1, x1, y2, x2)], pixels of the molded image.
        image_shape: (height, width) of the molded image, pixels.
        config: Config.

    Returns:
        [N] float64 in [0, 1]; 0 for boxes without area.
    """
    boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
    settings = config.anchor_settings()
    shapes = backbone_shapes(image_shape, settings["strides"], settings["level_shapes"])
    centers = (boxes[:, :2] + boxes[:, 2:]) / 2
    sides = boxes.T[..., None]  # [4, N, 1]
    best = np.zeros(len(boxes))
    for scale, shape, stride in zip(settings["scales"], shapes, settings["strides"]):
        step = stride * settings["anchor_stride"]
        last = -(-shape // settings["anchor_stride"]) - 1
        cells = np.clip(np.around(centers / step), 0, last) * step  # [N, (y, x)]
        anchors = generate_anchors(scale, settings["ratios"], (1, 1), stride, 1)  # [R, 4] around (0, 0)
        anchors = anchors + np.tile(cells, 2)[:, None]  # [N, R, 4]
        best = np.maximum(best, iou_of_sides(np.moveaxis(anchors, -1, 0), sides).max(axis=1))
    return best


def sides_of(boxes):
    """Heights and widths of boxes."""
    return boxes[:, 2] - boxes[:, 0], boxes[:, 3] - boxes[:, 1]


def frequent_sizes(sizes):
    """[((height, width), count)], the most frequent first."""
    unique, counts = np.unique(sizes, axis=0, return_counts=True)
    order = np.argsort(-counts, kind="stable")
    return [((int(unique[i, 0]), int(unique[i, 1])), int(counts[i])) for i in order]


def _percentiles(values):
    """{percent: value}; empty if there is none."""
    percents = (0, 5, 50, 95, 100)
    return dict(zip(map(str, percents), np.percentile(values, percents).tolist())) if len(values) else {}

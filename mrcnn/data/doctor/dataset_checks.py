"""Checks of the dataset as a whole: copies, classes, values of pixels, and what the network gets.

`Splits` is {split: records of its images}. Classes are compared by name; `open_splits` gives both splits the same ids.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from mrcnn.config import Config
from mrcnn.data.anchor_index import AnchorIndex
from mrcnn.data.doctor.copies import find_copies
from mrcnn.data.doctor.findings import Finding
from mrcnn.data.doctor.image_checks import ImageRecord
from mrcnn.data.summary import DatasetSummary
from mrcnn.ops.anchors import anchors_of_image
from mrcnn.ops.resize_modes import SIZE_MULTIPLE

Splits = dict[str, list[ImageRecord]]

MOSTLY_CROWDS = 0.2  # share of crowds above which they mean something else; COCO has 1 %
IMBALANCE = 50  # times as many objects of the most frequent class
TINY = 8  # pixels, square root of the box area: two cells of P2
TINY_SHARE = 0.05  # of the objects; a larger share is reported
GOOD_RECALL, RECALL_GAIN = 0.95, 0.02  # of anchors at IoU 0.5, and what a change must gain to be proposed
BOXES_TRIED = 2000  # for the recall of other anchors
SCALE_FACTORS = (0.25, 0.5, 0.75, 1.5, 2)  # of RPN_ANCHOR_SCALES that are tried
SMALLEST_ANCHOR = 4  # pixels, the stride of P2
SIZE_FACTORS = (0.5, 1.5, 2)  # of the size of the images that are tried
OTHER_RATIOS = ([0.33, 1, 3], [0.33, 0.5, 1, 2, 3])  # RPN_ANCHOR_RATIOS that are tried
MEAN_OFF = 30  # levels of 0..255
USED_BITS = (8, 10, 12, 14)  # of sensors
DARK = 64  # of 255; a dataset of 8-bit photos without a brighter pixel


# ---- Copies ----------------------------------------------------------------------------------------------------------
def check_copies(splits: Splits) -> tuple[list[Finding], list[ImageRecord]]:
    """Finds photos that are in a split twice, or in both splits.

    Returns:
        Findings, and the records to leave out: the second of two copies in one split, or the training image of two in
        different splits, so that results on the validation split stay comparable.
    """
    records = [record for split in reversed(splits) for record in splits[split] if record.thumbnail is not None]
    if not records:
        return [], []
    copies = find_copies(np.stack([record.thumbnail for record in records]), [record.digest for record in records])
    findings, left_out = [], set()
    for first, second, how in copies:
        one, other = records[first], records[second]
        alike = {"identical": "is identical to", "similar": "is nearly the same as", "mirrored": "mirrors"}[how]
        code = "duplicate-image" if one.split == other.split else "leaking-image"
        what = f"{alike} {one.name} ({one.path or 'no file'}) of {one.split}"
        findings.append(Finding(code, what, split=other.split, image=other.name, file=other.path))
        if first not in left_out:
            left_out.add(second)
    return findings, [records[i] for i in sorted(left_out)]


# ---- Classes ---------------------------------------------------------------------------------------------------------
def check_classes(summaries: dict[str, DatasetSummary]) -> list[Finding]:
    """Checks names and numbers of the classes of all splits."""
    counts = {split: Counter(summary.instances_per_class) for split, summary in summaries.items()}
    total = sum(counts.values(), Counter())
    names = list(dict.fromkeys(name for summary in summaries.values() for name in summary.class_names[1:]))
    findings = _near_equal(names, total)
    findings += [
        Finding("class-without-objects", f"no image shows an object of the class {name!r}")
        for name in names
        if not total[name]
    ]
    if len(counts) == 2:
        train, val = counts.values()
        for name in names:
            if val[name] and not train[name]:
                what = f"{val[name]} objects of the class {name!r} are in val, none in train"
                findings.append(Finding("class-missing-in-train", what))
            if train[name] and not val[name]:
                what = f"{train[name]} objects of the class {name!r} are in train, none in val"
                findings.append(Finding("class-missing-in-val", what))
    present = sorted((count, name) for name, count in total.items() if count)
    rare = [f"{name} ({count})" for count, name in present if count * IMBALANCE <= present[-1][0]]
    if rare:
        shown = ", ".join(rare[:8]) + (f", ... ({len(rare)} classes)" if len(rare) > 8 else "")
        what = f"the most frequent class, {present[-1][1]}, has {present[-1][0]} objects; rare are {shown}"
        findings.append(Finding("class-imbalance", what))
    for split, summary in summaries.items():
        crowds, count = int(summary.crowd.sum()), len(summary.crowd)
        if crowds > MOSTLY_CROWDS * count:
            what = f"{crowds} of {count} objects are crowds, from which nothing is learned; COCO has about 1 %"
            findings.append(Finding("crowds", what, split=split))
        if empty := summary.images_without_objects:
            findings.append(Finding("images-without-objects", f"{len(empty)} of {len(summary.image_ids)}", split=split))
    return findings


def _near_equal(names: Sequence[str], total: Counter) -> list[Finding]:
    alike: dict[str, list[str]] = {}
    for name in names:
        alike.setdefault(name_key(name), []).append(name)
    groups = [" and ".join(f"{name!r} ({total[name]})" for name in group) for group in alike.values() if len(group) > 1]
    return [Finding("near-equal-names", f"{group} are different classes") for group in groups]


def name_key(name: str) -> str:
    """A key that is equal for names that differ only in case, separators, doubled letters, or a final s.

    Example:
        >>> name_key("Baloon "), name_key("traffic_lights")
        ('balon', 'traficlight')
    """
    letters = re.sub(r"[\s_-]+", "", name.casefold())
    single = re.sub(r"([^\W\d])\1", r"\1", letters)
    return single[:-1] if len(single) > 3 and single.endswith("s") else single


# ---- Values of pixels ------------------------------------------------------------------------------------------------
def check_values(splits: Splits, config: Config) -> list[Finding]:
    """Checks the range of the values and their mean."""
    records = [record for images in splits.values() for record in images if record.thumbnail is not None]
    if not records:
        return []
    findings = []
    for dtype in dict.fromkeys(record.dtype for record in records):
        found = [record.values for record in records if record.dtype == dtype]
        low, high = min(values[0] for values in found), max(values[1] for values in found)
        if what := _range_advice(dtype, low, high, config):
            findings.append(
                Finding("narrow-range", f"{len(found)} images are {dtype} with values {low:g} to {high:g}: {what}")
            )
    if findings or config.IMAGE_CHANNEL_COUNT != 3 or {record.dtype for record in records} != {"uint8"}:
        return findings
    mean = np.mean([record.thumbnail.mean(axis=(0, 1)) for record in records], axis=0)
    if (np.abs(mean - np.broadcast_to(config.MEAN_PIXEL, 3)) > MEAN_OFF).any():
        configured = ", ".join(f"{value:g}" for value in np.broadcast_to(config.MEAN_PIXEL, 3))
        measured = ", ".join(f"{value:.1f}" for value in mean)
        findings.append(
            Finding("mean-pixel", f"the mean pixel of the images is [{measured}], MEAN_PIXEL is [{configured}]")
        )
    return findings


def _range_advice(dtype: str, low: float, high: float, config: Config) -> str:
    if not isinstance(config.IMAGE_RANGE, str):  # it was set for these images
        return ""
    if dtype == "uint8":
        return f"they are dark; set IMAGE_RANGE = (0, {high:g}) if that is their range" if 0 < high < DARK else ""
    if dtype == "uint16":
        bits = next((bits for bits in USED_BITS if high < 2**bits), 16)
        return f"{bits} of 16 bits; set IMAGE_RANGE = (0, {2**bits - 1})" if bits < 16 else ""
    if dtype == "bool" or (0 <= low and 1 < high <= 255):
        return ""
    return f"set IMAGE_RANGE = ({low:g}, {high:g}), or what the values mean"


# ---- What the network gets -------------------------------------------------------------------------------------------
def check_sizes(summaries: dict[str, DatasetSummary], config: Config) -> list[Finding]:
    """Checks objects after resizing, their number, and the anchors."""
    findings = []
    size = f"with images of {config.IMAGE_MAX_DIM} pixels"
    for split, summary in summaries.items():
        if lost := summary.lost_in_resizing:
            findings.append(Finding("lost-in-resizing", f"{lost} objects have no pixel {size}", split=split))
        crowded = int((summary.objects_per_image > config.MAX_GT_INSTANCES).sum())
        if crowded:
            what = f"{crowded} images have more than {config.MAX_GT_INSTANCES} objects"
            solution = f"Raise MAX_GT_INSTANCES to {summary.objects_per_image.max()}; of more, a random part is used."
            findings.append(Finding("too-many-objects", what, solution=solution, split=split))
    sides = np.concatenate([summary.sides for summary in summaries.values()])
    tiny = int((sides < TINY).sum())
    if len(sides) and tiny > TINY_SHARE * len(sides):
        what = f"{tiny} of {len(sides)} objects ({tiny / len(sides):.0%}) are smaller than {TINY} pixels {size}"
        wanted = config.IMAGE_MAX_DIM * TINY / np.percentile(sides, 100 * TINY_SHARE)
        wanted = int(-(-wanted // SIZE_MULTIPLE) * SIZE_MULTIPLE)
        solution = f"IMAGE_MAX_DIM = {wanted} makes {1 - TINY_SHARE:.0%} of them larger; or cut the photos into tiles."
        findings.append(Finding("tiny-objects", what, solution=solution))
    return findings + _check_anchors(summaries.get("train", next(iter(summaries.values()))), config)


def _check_anchors(summary: DatasetSummary, config: Config) -> list[Finding]:
    recall = summary.anchor_recall(0.5)
    if recall is None or recall >= GOOD_RECALL:
        return []
    better = [one for one in _propose_settings(summary, config) if one[0] >= recall + RECALL_GAIN]
    best = {}  # of each setting
    for share, what in sorted(better):
        best[what.split(" = ")[0]] = f"{what}: {share:.0%}"
    what = f"{recall:.0%} of the objects have an anchor with an IoU of 0.5 or more"
    solution = "; ".join(reversed(best.values())) or "Cut the photos into tiles, or use more RPN_ANCHOR_RATIOS."
    return [Finding("anchor-recall", what, solution=solution, split="train")]


def _propose_settings(summary: DatasetSummary, config: Config) -> list[tuple[float, str]]:
    """[(recall at IoU 0.5, the change of a setting)]."""
    trained = np.flatnonzero(~np.isnan(summary.anchor_iou))
    trained = trained[:: -(-len(trained) // BOXES_TRIED)]
    boxes, sizes = summary.molded_boxes[trained], summary.molded_sizes[summary.image[trained]]
    found = []
    for scales in _other_scales(summary, config):
        found.append((_anchor_recall(boxes, sizes, config, scales=scales), f"RPN_ANCHOR_SCALES = {scales}"))
    for ratios in OTHER_RATIOS:
        found.append((_anchor_recall(boxes, sizes, config, ratios=ratios), f"RPN_ANCHOR_RATIOS = {ratios}"))
    for factor in SIZE_FACTORS if config.IMAGE_RESIZE_MODE in ("square", "pad64") else ():
        sides = [float(side or 0) * factor / SIZE_MULTIPLE for side in (config.IMAGE_MIN_DIM, config.IMAGE_MAX_DIM)]
        low, high = (round(side) * SIZE_MULTIPLE for side in sides)
        if not SIZE_MULTIPLE <= low <= high:
            continue
        factor = high / config.IMAGE_MAX_DIM
        larger, what = (boxes * factor, np.around(sizes * factor)), f"IMAGE_MIN_DIM, IMAGE_MAX_DIM = {low}, {high}"
        found.append((_anchor_recall(*larger, config), what))
        if factor == max(SIZE_FACTORS):
            scales = _double_scales(factor * np.percentile(summary.sides, 5), len(config.RPN_ANCHOR_SCALES))
            found.append((_anchor_recall(*larger, config, scales=scales), f"{what} and RPN_ANCHOR_SCALES = {scales}"))
    return found


def _double_scales(side: float, count: int) -> tuple[int, ...]:
    """Anchor scales from a side on, each twice the one before."""
    return tuple(round(float(max(side, SMALLEST_ANCHOR)) * 2**i) for i in range(count))


def _other_scales(summary: DatasetSummary, config: Config) -> list[tuple[int, ...]]:
    """Anchor scales to try: multiples of the present ones, and others from the size of the smallest objects on."""
    scales = np.asarray(config.RPN_ANCHOR_SCALES, float)
    tried = [scales * factor for factor in SCALE_FACTORS]
    low, high = np.percentile(summary.sides, (5, 95))
    low = max(low, SMALLEST_ANCHOR)
    tried += [_double_scales(low, len(scales)), np.geomspace(low, max(high, 2 * low), len(scales))]
    rounded = [tuple(round(float(side)) for side in one) for one in tried]
    return [one for one in rounded if one[0] >= SMALLEST_ANCHOR and all(np.diff(one) > 0)]


def _anchor_recall(boxes: NDArray, sizes: NDArray, config: Config, **changes: Sequence[float]) -> float:
    """Share of boxes [N, 4], in images of sizes [N, 2], that have an anchor with an IoU of 0.5."""
    if "scales" in changes and config.BOX_HEAD == "c4":  # all in one level
        changes["scales"] = [list(changes["scales"])]
    found = 0
    for size in np.unique(sizes, axis=0):
        index = AnchorIndex(anchors_of_image(size.astype(int), **{**config.anchor_settings(), **changes}))
        found += int((index.best_iou(boxes[(sizes == size).all(axis=1)]) >= 0.5).sum())
    return found / len(boxes)

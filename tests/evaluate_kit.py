"""Helpers for the tests of `mrcnn.evaluation`: small datasets, generated detections, and results of pycocotools."""

from __future__ import annotations

import contextlib
import copy
import io

import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from mrcnn.data.dataset import Dataset

NAMES = ("ap", "ap50", "ap75", "ap_small", "ap_medium", "ap_large",
         "ar1", "ar10", "ar100", "ar_small", "ar_medium", "ar_large")  # fmt: skip


class MaskSet(Dataset):
    """Images made of their masks: `images` is a list of (masks [H, W, n], class_ids [n])."""

    def __init__(self, images, classes=("square", "disc"), source="toys"):
        super().__init__()
        self.images = images
        for i, name in enumerate(classes):
            self.add_class(source, i + 1, name)
        for i in range(len(images)):
            self.add_image(source, image_id=i + 100, path=None)
        self.prepare()

    def load_image(self, image_id):
        masks, class_ids = self.images[image_id]
        image = np.zeros((*masks.shape[:2], 3), np.uint8)
        for i in range(len(class_ids)):
            image[masks[..., i] > 0] = 60 * abs(int(class_ids[i])) % 256
        return image

    def load_mask(self, image_id):
        return self.images[image_id]


class AnnotationSet(Dataset):
    """COCO annotations, stored as in matterport's CocoDataset."""

    def __init__(self, truth: dict):
        super().__init__()
        self.coco = quietly(_coco, truth)
        for category in truth["categories"]:
            self.add_class("coco", category["id"], category["name"])
        for image in reversed(truth["images"]):  # not in the order of their ids
            annotations = self.coco.loadAnns(self.coco.getAnnIds(imgIds=[image["id"]]))
            self.add_image("coco", image["id"], None, width=image["width"], height=image["height"],
                           annotations=annotations)  # fmt: skip
        self.prepare()

    def load_image(self, image_id):
        info = self.image_info[image_id]
        return np.full((info["height"], info["width"], 3), 128, np.uint8)

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        masks = [self.coco.annToMask(a) for a in info["annotations"]]
        if not masks:
            return super().load_mask(image_id)
        signs = [-1 if a["iscrowd"] else 1 for a in info["annotations"]]
        ids = [self.class_from_source_map[f"coco.{a['category_id']}"] for a in info["annotations"]]
        return np.stack(masks, axis=-1), np.array(ids) * signs


class FakeModel:
    """Returns given results, one per image, in the order of the calls."""

    def __init__(self, results):
        self.results, self.next, self.batches = results, 0, []

    def detect(self, images, verbose=0):
        self.batches.append(len(images))
        first, self.next = self.next, self.next + len(images)
        return self.results[first : self.next]


def result(masks, class_ids, scores):
    """What `model.detect` gives for an image: boxes around the masks."""
    masks = np.asarray(masks, bool)
    rois = np.zeros((masks.shape[-1], 4), np.int32)
    for i in range(masks.shape[-1]):
        ys, xs = np.flatnonzero(masks[..., i].any(axis=1)), np.flatnonzero(masks[..., i].any(axis=0))
        if len(ys):
            rois[i] = ys[0], xs[0], ys[-1] + 1, xs[-1] + 1
    return {"rois": rois, "class_ids": np.array(class_ids, np.int32), "scores": np.array(scores, np.float32),
            "masks": masks}  # fmt: skip


def quietly(function, *arguments):
    with contextlib.redirect_stdout(io.StringIO()):
        return function(*arguments)


def _coco(truth: dict) -> COCO:
    coco = COCO()
    coco.dataset = truth
    coco.createIndex()
    return coco


def pycoco(truth: dict, results: list, kind: str) -> COCOeval:
    """pycocotools on the same. `kind` is "bbox" or "segm"."""

    def run():
        coco = _coco(copy.deepcopy(truth))
        found = coco.loadRes(copy.deepcopy(results)) if results else _coco({**copy.deepcopy(truth), "annotations": []})
        evaluation = COCOeval(coco, found, kind)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
        return evaluation

    return quietly(run)


# ---- Made-up truth and detections ------------------------------------------------------------------------------------
def rectangle(height, width, box):
    """[height, width] uint8 of a box (y1, x1, y2, x2)."""
    mask = np.zeros((height, width), np.uint8)
    y1, x1, y2, x2 = (int(v) for v in box)
    mask[max(y1, 0) : max(y2, 0), max(x1, 0) : max(x2, 0)] = 1
    return mask


def made_up_truth(rng, images=6, categories=(3, 7, 11), most=6, crowds=True) -> dict:
    """COCO annotations of random rectangles and ellipses, small to large, some crowds, some images empty."""
    truth = {"images": [], "annotations": [], "categories": [{"id": c, "name": f"class {c}"} for c in categories]}
    for image_id in rng.permutation(1000)[:images].tolist():
        height, width = (int(v) for v in rng.integers(60, 200, 2))
        truth["images"].append({"id": image_id, "height": height, "width": width, "file_name": f"{image_id}.jpg"})
        for _ in range(rng.integers(0, most + 1)):
            mask = _random_shape(rng, height, width)
            rle = coco_mask.encode(np.asfortranarray(mask))
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1,
                    "image_id": image_id,
                    "category_id": int(rng.choice(categories)),
                    "segmentation": {"size": rle["size"], "counts": rle["counts"].decode()},
                    "bbox": coco_mask.toBbox(rle).tolist(),
                    "area": float(coco_mask.area(rle)) * rng.choice([1.0, 0.97]),
                    "iscrowd": int(crowds and rng.random() < 0.15),
                }
            )
    return truth


def _random_shape(rng, height, width):
    size = np.exp(rng.uniform(np.log(6), np.log(min(height, width)), 2))
    cy, cx = rng.uniform(0, height), rng.uniform(0, width)
    y, x = np.mgrid[:height, :width]
    dy, dx = np.abs(y + 0.5 - cy) / size[0] * 2, np.abs(x + 0.5 - cx) / size[1] * 2
    mask = (np.maximum(dy, dx) < 1) if rng.random() < 0.5 else (dy**2 + dx**2 < 1)
    if not mask.any():
        mask[height // 2, width // 2] = True
    return mask.astype(np.uint8)


def made_up_detections(truth: dict, rng, per_truth=2, noise=2, scores=None, boxes=True) -> list[dict]:
    """Detections of every kind: exact, shifted, double, of a wrong class, of nothing. `scores`: levels, for ties."""
    coco = quietly(_coco, copy.deepcopy(truth))
    categories = [c["id"] for c in truth["categories"]]
    found = []
    for image in truth["images"]:
        masks = []
        for annotation in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            mask = coco.annToMask(annotation)
            for _ in range(rng.integers(0, per_truth + 1)):
                shift = [0, 0] if rng.random() < 0.3 else rng.integers(-8, 9, 2)
                category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
                masks.append((_shifted(mask, shift), category))
        height, width = image["height"], image["width"]
        masks += [
            (_random_shape(rng, height, width), int(rng.choice(categories))) for _ in range(rng.integers(noise + 1))
        ]
        for i in rng.permutation(len(masks)):
            mask, category = masks[i]
            rle = coco_mask.encode(np.asfortranarray(mask))
            score = float(rng.random()) if scores is None else float(rng.choice(scores))
            segmentation = {"size": [int(v) for v in rle["size"]], "counts": rle["counts"].decode()}
            entry = {"image_id": image["id"], "category_id": category, "score": score, "segmentation": segmentation}
            if boxes:
                entry["bbox"] = coco_mask.toBbox(rle).tolist()
            found.append(entry)
    return [found[i] for i in rng.permutation(len(found))]


def _shifted(mask, shift):
    dy, dx = (int(v) for v in shift)
    moved = np.zeros_like(mask)
    height, width = mask.shape
    ys, xs = slice(max(dy, 0), height + min(dy, 0)), slice(max(dx, 0), width + min(dx, 0))
    from_ys, from_xs = slice(max(-dy, 0), height + min(-dy, 0)), slice(max(-dx, 0), width + min(-dx, 0))
    moved[ys, xs] = mask[from_ys, from_xs]
    return moved

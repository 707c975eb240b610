"""`detect_tiled` and SAHI's slicing around the same model, on large images of shapes with known masks.

    pip install sahi                                    # in an environment with mrcnn; SAHI is no dependency
    python benchmarks/tiles_vs_sahi.py --images 4       # about 4 minutes of processor time

Each image has 1024 x 1024 pixels and 70 shapes of 40 to 90 pixels; the shapes model detects on tiles of 128 pixels, so
that about half of the shapes are cut by a seam. Both get the same tiles in number and size. SAHI runs with its defaults
(GREEDYNMM, intersection over the smaller mask >= 0.5, without the prediction on the whole image), and with NMS.

For each way: AP of the masks (COCO's, all detections); "in parts": objects in which two or more detections lie, each at
least by half; "merged": detections that hold most of two objects; "missed": objects without a detection of IoU >= 0.5;
and processor seconds for all images.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import io
import sys
import time
from pathlib import Path

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mrcnn import MaskRCNN
from mrcnn.ops.rle import encode_masks

SIDE, SHAPES, TILE = 1024, 70, 128
CLASSES = ("square", "circle", "triangle")


def large_image(seed: int) -> tuple[np.ndarray, np.ndarray, list[int]]:
    """An image [SIDE, SIDE, 3], masks [SIDE, SIDE, n] of shapes that don't touch, class ids."""
    rng = np.random.default_rng(seed)
    image = np.full((SIDE, SIDE, 3), rng.integers(256, size=3), np.uint8)
    occupied, masks, class_ids = np.zeros((SIDE, SIDE), np.uint8), [], []
    while len(masks) < SHAPES:
        half, kind = int(rng.integers(20, 46)), int(rng.integers(3))
        x, y = (int(v) for v in rng.integers(half + 2, SIDE - half - 2, 2))
        color = rng.integers(256, size=3)
        near = occupied[y - half - 2 : y + half + 3, x - half - 2 : x + half + 3]
        if near.any() or np.abs(image[0, 0].astype(int) - color).max() < 64:
            continue
        mask = np.zeros((SIDE, SIDE), np.uint8)
        if kind == 0:
            cv2.rectangle(mask, (x - half, y - half), (x + half, y + half), 1, -1)
        elif kind == 1:
            cv2.circle(mask, (x, y), half, 1, -1)
        else:
            height = half * np.sin(np.pi / 3)
            corners = [(x, y - height), (x - half, y + height), (x + half, y + height)]
            cv2.fillPoly(mask, [np.rint(corners).astype(np.int32)], 1)
        image[mask > 0] = color
        occupied |= mask
        masks.append(mask > 0)
        class_ids.append(kind + 1)
    return image, np.dstack(masks), class_ids


# ---- The ways --------------------------------------------------------------------------------------------------------
def ours(model, overlap: float, **options):
    def detect(image):
        found = model.detect_tiled(image, tile=TILE, overlap=round(overlap * TILE), progress=False, **options)
        return found.to_coco(0)

    return detect


def sahi(model, overlap: float, kind: str):
    from sahi.models.base import DetectionModel
    from sahi.predict import get_sliced_prediction
    from sahi.prediction import ObjectPrediction
    from sahi.utils.cv import get_coco_segmentation_from_bool_mask

    class Wrapped(DetectionModel):
        has_mask = True
        category_names = CLASSES
        num_categories = len(CLASSES)

        def set_device(self, device=None):
            self.device = "cpu"

        def check_dependencies(self, packages=None):
            pass

        def load_model(self):
            pass

        def set_model(self, model, **kwargs):
            self.model = model
            self.category_mapping = {str(i + 1): name for i, name in enumerate(CLASSES)}

        def perform_inference(self, image, **kwargs):
            self._original_predictions = self.model.detect([image])

        def _create_object_prediction_list_from_original_predictions(
            self, shift_amount_list=None, full_shape_list=None
        ):
            (found,) = self._original_predictions
            shift = (shift_amount_list or [[0, 0]])[0]
            rows = zip(found.rois[:, [1, 0, 3, 2]].tolist(), found.class_ids.tolist(), found.names, found.scores)
            predictions = []
            for i, (box, class_id, name, score) in enumerate(rows):
                polygons = get_coco_segmentation_from_bool_mask(found.masks[..., i])
                if polygons:
                    predictions.append(ObjectPrediction(
                        box, class_id, name, polygons, float(score), shift, full_shape_list[0]))  # fmt: skip
            self._object_prediction_list_per_image = [predictions]

    wrapped = Wrapped(model=model, confidence_threshold=0.5)  # below 0.1, SAHI takes NMS

    def detect(image):
        result = get_sliced_prediction(
            image, wrapped, TILE, TILE, overlap, overlap, perform_standard_pred=False, postprocess_type=kind, verbose=0
        )
        found = []
        for one in result.object_prediction_list:
            mask = np.ascontiguousarray(one.mask.bool_mask)[..., None]
            (rle,) = encode_masks(mask)
            x, y, w, h = one.bbox.to_xywh()
            entry = {"image_id": 0, "category_id": one.category.id, "bbox": [x, y, w, h], "score": one.score.value}
            found.append({**entry, "segmentation": {**rle, "counts": rle["counts"].decode()}})
        return found

    return detect


# ---- Measures --------------------------------------------------------------------------------------------------------
def measure(images, detect) -> dict[str, float]:
    annotations, results, counts = [], [], np.zeros(4, int)
    spent = 0.0
    for number, (image, masks, class_ids) in enumerate(images):
        start = time.process_time()
        found = detect(image)
        spent += time.process_time() - start
        truths = encode_masks(masks)
        for rle, class_id in zip(truths, class_ids):
            area, box = float(coco_mask.area(rle)), coco_mask.toBbox(rle).tolist()
            entry = {"id": len(annotations) + 1, "image_id": number, "category_id": class_id, "iscrowd": 0}
            annotations.append({**entry, "area": area, "bbox": box, "segmentation": rle})
        results += [{**one, "image_id": number} for one in found]
        counts += count_faults(truths, [one["segmentation"] for one in found])
    return {"AP": average_precision(len(images), annotations, results), "found": len(results),
            **dict(zip(("in parts", "merged", "missed"), counts[1:].tolist())), "processor s": spent}  # fmt: skip


def count_faults(truths, found) -> np.ndarray:
    """[objects, in parts, merged, missed]."""
    if not found:
        return np.array([len(truths), 0, 0, len(truths)])
    share_of_found = coco_mask.iou(found, truths, [1] * len(truths))  # "crowd": intersection / area of the detection
    share_of_truth = coco_mask.iou(truths, found, [1] * len(found)).T
    ious = coco_mask.iou(found, truths, [0] * len(truths))
    in_parts = ((share_of_found >= 0.5).sum(axis=0) >= 2).sum()
    merged = ((share_of_truth >= 0.5).sum(axis=1) >= 2).sum()
    return np.array([len(truths), in_parts, merged, (ious.max(axis=0) < 0.5).sum()])


def average_precision(count: int, annotations, results) -> float:
    truth = COCO()
    truth.dataset = {
        "images": [{"id": i, "height": SIDE, "width": SIDE} for i in range(count)],
        "annotations": annotations,
        "categories": [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)],
    }
    with contextlib.redirect_stdout(io.StringIO()):
        truth.createIndex()
        run = COCOeval(truth, truth.loadRes(results), "segm")
        run.params.maxDets = [1000]
        run.evaluate()
        run.accumulate()
    precision = run.eval["precision"][..., 0, 0]
    return float(precision[precision > -1].mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--overlaps", type=float, nargs="+", default=[0.2, 0.5])
    parser.add_argument("--ways", nargs="+", default=[""], help="beginnings of their names, such as SAHI")
    args = parser.parse_args()
    images = [large_image(seed) for seed in range(args.images)]
    model = MaskRCNN("inference", weights="shapes")
    model.config.IMAGES_PER_GPU = 1
    model.detect([images[0][0][:TILE, :TILE]])
    for overlap in args.overlaps:
        ways = {
            "detect_tiled": functools.partial(ours, model, overlap),
            "detect_tiled, not joined": functools.partial(ours, model, overlap, merge="none"),
            "detect_tiled, mirrored too": functools.partial(ours, model, overlap, flips="horizontal"),
        }
        for kind in ("GREEDYNMM", "NMM", "NMS"):
            ways[f"SAHI, {kind}"] = functools.partial(sahi, model, overlap, kind)
        for name, make in ways.items():
            if not name.startswith(tuple(args.ways)):
                continue
            figures = measure(images, make())
            row = ", ".join(
                f"{key} {value:.3f}" if key == "AP" else f"{key} {value:.0f}" for key, value in figures.items()
            )
            print(f"overlap {overlap:.0%}  {name:28s} {row}", flush=True)


if __name__ == "__main__":
    main()

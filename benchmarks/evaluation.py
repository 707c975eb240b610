"""Compares time and memory of `evaluate_predictions` and pycocotools on generated detections.

    python benchmarks/evaluation.py --images 5000 --detections 100          about 10 minutes on two cores

Needs COCO annotations (--annotations; default: the 206 images of ../shared/data/coco_val), which are repeated to get
the number of images. Each row runs in a separate process. "pycocotools" reads the results file with `loadRes`, then
evaluates, accumulates and summarizes boxes and masks.

Results on 2 cores of a busy machine. Peak memory includes TensorFlow and the ground truth:

    5000 images, 100 detections each          seconds   peak MB   mask AP
        read the truth                            0.0       888
        pycocotools                              71.9      2041   0.225755864
        ours                                     21.1      1040   0.225755864
        ours with boundary AP                    65.5      1077   0.225755864

The memory of `evaluate_predictions` grows by about 0.3 KB per detection, because it keeps no masks.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import cv2
import numpy as np
from pycocotools import mask as coco_mask
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

ANNOTATIONS = ROOT.parent / "shared/data/coco_val/annotations/instances_val2017.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--detections", type=int, default=100, help="per image")
    parser.add_argument("--annotations", type=Path, default=ANNOTATIONS)
    parser.add_argument("--run", nargs=2, metavar=("WHAT", "FOLDER"), help="measure one row in this process")
    arguments = parser.parse_args()
    if arguments.run:
        measure(*arguments.run)
        return
    print(f"{'':36} {'seconds':>8} {'peak MB':>8}   mask AP")
    for images in (arguments.images // 5, arguments.images):
        with tempfile.TemporaryDirectory() as folder:
            make_up(arguments.annotations, images, arguments.detections, Path(folder))
            size = (Path(folder) / "results.json").stat().st_size / 1e6
            print(f"{images} images, {arguments.detections} detections each, results file of {size:.0f} MB")
            for what in ("read the truth", "pycocotools", "ours", "ours with boundary AP"):
                command = [sys.executable, __file__, "--run", what, folder]
                subprocess.run(command, check=True, env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3"})


# ---- One row -----------------------------------------------------------------------------------------------------
def measure(what: str, folder: str) -> None:
    """Measures one row and prints its time and the peak memory of the process."""
    truth, results = Path(folder) / "truth.json", Path(folder) / "results.json"
    dataset = None if what == "pycocotools" else load_dataset(truth)
    start = time.perf_counter()
    if what == "pycocotools":
        average = with_pycocotools(truth, results)
    elif what == "read the truth":
        average = float("nan")
    else:
        average = with_ours(dataset, results, boundary=what != "ours")
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
    print(f"    {what:32} {seconds:8.1f} {peak:8.0f}   {average:.9f}", flush=True)


def with_ours(dataset, results: Path, boundary: bool) -> float:
    """Evaluates boxes, masks and optionally boundaries with this package. Returns the mask AP."""
    from mrcnn.evaluation import evaluate_predictions

    return evaluate_predictions(dataset, results, boundary=boundary, progress=False).mask_ap


def with_pycocotools(truth: Path, results: Path) -> float:
    """Evaluates boxes and masks with pycocotools. Returns the mask AP."""
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
        found = coco.loadRes(str(results))
        for kind in ("bbox", "segm"):
            evaluation = COCOeval(coco, found, kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
    return evaluation.stats[0]


def load_dataset(truth: Path):
    """Reads COCO annotations into a `Dataset`."""
    from mrcnn.data.dataset import Dataset

    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(truth)
    dataset = Dataset()
    for category in coco.dataset["categories"]:
        dataset.add_class("coco", category["id"], category["name"])
    for image in coco.dataset["images"]:
        annotations = coco.imgToAnns[image["id"]]
        dataset.add_image(
            "coco", image["id"], None, width=image["width"], height=image["height"], annotations=annotations
        )
    dataset.prepare()
    return dataset


# ---- Generated data --------------------------------------------------------------------------------------------------
def make_up(annotations: Path, images: int, detections: int, folder: Path) -> None:
    """Writes truth.json and results.json.

    The ground truth is real annotations, repeated. Detections are ground-truth masks that are moved and scaled; some
    get another class, and some cover no object. Scores differ in each repetition.
    """
    truth = json.loads(annotations.read_text())
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO(annotations)
    rng = np.random.default_rng(0)
    kinds = [made_up_detections(coco, image, detections, rng) for image in truth["images"][:images]]
    repeated, count = {"images": [], "annotations": [], "categories": truth["categories"]}, 0
    with open(folder / "results.json", "w") as file:
        for number in range(images):
            image = truth["images"][number % len(kinds)]
            repeated["images"].append({**image, "id": number + 1})
            for annotation in coco.imgToAnns[image["id"]]:
                count += 1
                repeated["annotations"].append({**annotation, "id": count, "image_id": number + 1})
            for entry, close in kinds[number % len(kinds)]:
                score = float(np.clip(rng.normal(0.2 + 0.6 * close, 0.2), 0.001, 1))
                entry = {"image_id": number + 1, "score": round(score, 5), **entry}
                file.write(("[" if file.tell() == 0 else ",") + json.dumps(entry))
        file.write("]")
    (folder / "truth.json").write_text(json.dumps(repeated))


def made_up_detections(coco: COCO, image: dict, count: int, rng) -> list[tuple[dict, bool]]:
    """Detections of an image, and for each whether it is close to a ground-truth object."""
    annotations = coco.imgToAnns[image["id"]] or list(coco.anns.values())[:1]
    categories = sorted(coco.cats)
    found = []
    for _ in range(count):
        annotation = annotations[rng.integers(len(annotations))]
        close = bool(rng.random() < 0.4)
        reach = 0.05 if close else 0.6
        rle = coco.annToRLE({**annotation, "image_id": image["id"]})
        mask = np.ascontiguousarray(coco_mask.decode([rle])[..., 0])
        dy, dx = rng.normal(0, reach, 2) * np.sqrt(max(annotation["area"], 100))
        scale = float(np.exp(rng.normal(0, reach)))
        y, x = np.array(annotation["bbox"][1::-1]) + np.array(annotation["bbox"][3:1:-1]) / 2
        move = np.array([[scale, 0, x - scale * x + dx], [0, scale, y - scale * y + dy]])
        mask = cv2.warpAffine(mask, move, mask.shape[::-1], flags=cv2.INTER_NEAREST)
        rle = coco_mask.encode(np.asfortranarray(mask))
        category = annotation["category_id"] if rng.random() < 0.8 else int(rng.choice(categories))
        entry = {"category_id": category, "bbox": coco_mask.toBbox(rle).tolist(),
                 "segmentation": {"size": list(rle["size"]), "counts": rle["counts"].decode()}}  # fmt: skip
        found.append((entry, close))
    return found


if __name__ == "__main__":
    main()

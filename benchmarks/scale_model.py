"""What a large training and a large detection job would cost, and where they would break, computed from measurements.

    python benchmarks/scale_model.py                             prints both tables; a second
    python benchmarks/scale_model.py --measure [--data FOLDER]   first measures files, decoding and rows on this
                                                                 machine and writes results/scale.json; 20 s

Nothing was run at this size. The figures come from three places: `scale.json` (files, decoding, rows) and `cpu.json`
(network and loading) are measurements of this package; `PUBLISHED` was measured by others, as this package
was never measured on a GPU; `ASSUMED` is to be replaced by your own prices and machines.
"""

from __future__ import annotations

import argparse
import io
import json
import math
import sys
import time
import tracemalloc
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
RESULTS = ROOT / "benchmarks" / "results"
COCO_IMAGES = 118_287  # train2017

PUBLISHED = {
    # Mask R-CNN R50-FPN 3x, 8 V100, 16 images a step: MODEL_ZOO.md of facebookresearch/detectron2
    "seconds_per_step_of_16_on_8_gpus": 0.261,
    "seconds_per_photo_on_a_gpu": 0.043,
    # 419 unexpected interruptions in 54 days on 16,384 GPUs: "The Llama 3 Herd of Models", 2024, section 3.3.4
    "hours_between_failures_of_a_gpu": 54 * 24 * 16_384 / 419,
    "largest_batch": 256,  # of a detector on COCO, without loss of AP: Peng et al., "MegDet", 2018
}
ASSUMED = {
    "gpu_hour_dollars": 3.0,
    "core_hour_dollars": 0.04,
    "stored_gb_month_dollars": 0.023,
    "read_request_dollars": 0.4e-6,
    "network_gb_per_s": {"10 Gbit Ethernet": 1.0, "100 Gbit": 10.0, "NVLink": 100.0},  # used, of each GPU's link
    "file_server_gb_per_s": 1.0,
    "disk_write_gb_per_s": 0.5,
    "preemptions_per_gpu_hour": 0.05,
    "restart_seconds": 120.0,
    "photo_mb": 3.0,  # a JPEG of 12 megapixels
}
NETWORK_MB = 178.0  # ResNet-50 with FPN, 44.4 million float32: docs/performance.md has 0.18 GB
GPUS = (8, 64, 128, 1024)
WORKERS = (8, 100, 1000)

Row = tuple[str, str]


# ---- Training --------------------------------------------------------------------------------------------------------
def all_reduce_seconds(megabytes: float, gpus: int, gb_per_s: float) -> float:
    """Of a ring: each GPU sends and receives 2 (n - 1) / n of the gradient (Patarasuk and Yuan, 2009).

    >>> round(all_reduce_seconds(1000, 2, 1.0), 3)
    1.0
    """
    return 2 * (gpus - 1) / gpus * megabytes / 1000 / gb_per_s


def checkpoint_interval(write_seconds: float, hours_between_failures: float) -> float:
    """Seconds between checkpoints that lose the least time (Young, 1974).

    >>> checkpoint_interval(2, 1)
    120.0
    """
    return math.sqrt(2 * write_seconds * hours_between_failures * 3600)


def training_rows(measured: dict, gpu_hours: float, gpus: int) -> list[Row]:
    """A training of `gpu_hours` on `gpus` GPUs with 2 images each."""
    step = PUBLISHED["seconds_per_step_of_16_on_8_gpus"]
    rate = 2 / step
    images = rate * gpu_hours * 3600
    hours = gpu_hours / gpus
    mean_failure = PUBLISHED["hours_between_failures_of_a_gpu"] / gpus
    write = 2 * NETWORK_MB / 1000 / ASSUMED["disk_write_gb_per_s"]
    every = checkpoint_interval(write, mean_failure)
    failures = hours / mean_failure
    lost = failures * (every / 2 + ASSUMED["restart_seconds"]) + hours * 3600 / every * write
    reduced = {name: all_reduce_seconds(NETWORK_MB, gpus, speed) for name, speed in ASSUMED["network_gb_per_s"].items()}
    cores, traffic = rate * measured["sample_seconds"] * gpus, rate * gpus * measured["coco_photo_mb"]
    return [
        ("hours", f"{hours:,.1f}"),
        ("dollars", f"{gpu_hours * ASSUMED['gpu_hour_dollars']:,.0f}"),
        (
            "batch",
            f"{2 * gpus}" + (f" (> {PUBLISHED['largest_batch']})" if gpus * 2 > PUBLISHED["largest_batch"] else ""),
        ),
        ("COCO epochs", f"{images / COCO_IMAGES:,.0f}"),
        *((f"all-reduce, {name}: share of a step", f"{seconds / step:.0%}") for name, seconds in reduced.items()),
        ("cores that load samples", f"{cores:,.1f}"),
        ("photos read, MB/s", f"{traffic:,.0f}"),
        ("checkpoint with optimizer, MB", f"{2 * NETWORK_MB:,.0f}"),
        ("best time between checkpoints, min", f"{every / 60:,.0f}"),
        ("expected failures", f"{failures:.2f}"),
        ("lost to checkpoints and failures", f"{lost / (hours * 3600):.2%}"),
    ]


# ---- Detection -------------------------------------------------------------------------------------------------------
def detection_rows(measured: dict, photos: float, workers: int, shard: int = 500) -> list[Row]:
    """A job of `detect_dataset` on one GPU per worker."""
    seconds = PUBLISHED["seconds_per_photo_on_a_gpu"]
    rate = 1 / seconds
    gpu_hours = photos * seconds / 3600
    output = photos * measured["objects_per_photo"] * measured["bytes_per_object"] / 1e9
    on_cpus = photos * measured["cpu_detect_core_seconds"] / 3600
    lost = gpu_hours * ASSUMED["preemptions_per_gpu_hour"] * (shard * seconds / 2 + ASSUMED["restart_seconds"]) / 3600
    around = measured["decode_seconds_12mp"] + measured["objects_per_photo"] * measured["row_seconds_per_object"]
    traffic = rate * workers * ASSUMED["photo_mb"] / 1000
    return [
        ("hours", f"{gpu_hours / workers:,.1f}"),
        ("GPU hours", f"{gpu_hours:,.0f}"),
        ("dollars, GPUs", f"{gpu_hours * ASSUMED['gpu_hour_dollars']:,.0f}"),
        ("dollars, CPUs only (this package, 1024 x 1024)", f"{on_cpus * ASSUMED['core_hour_dollars']:,.0f}"),
        ("core hours, CPUs only", f"{on_cpus:,.0f}"),
        ("photos read, TB", f"{photos * ASSUMED['photo_mb'] / 1e6:,.0f}"),
        ("dollars, read requests", f"{photos * ASSUMED['read_request_dollars']:,.0f}"),
        ("photos read, GB/s", f"{traffic:,.1f}"),
        (
            "GPUs that one file server feeds",
            f"{ASSUMED['file_server_gb_per_s'] * 1000 / ASSUMED['photo_mb'] / rate:,.0f}",
        ),
        ("cores per GPU that decode and write rows", f"{rate * around:,.1f}"),
        ("rows, GB", f"{output:,.0f}"),
        ("files", f"{photos / shard:,.0f}"),
        ("list of images in the starting process, GB", f"{photos * measured['list_bytes_per_image'] / 1e9:,.0f}"),
        ("GPU hours lost, preempted machines", f"{lost:,.1f}"),
    ]


# ---- Measuring -------------------------------------------------------------------------------------------------------
def measure(data: Path) -> dict:
    """Files, decoding and rows on this machine: the photos and true masks of COCO's validation set."""
    import numpy as np
    from PIL import Image

    from mrcnn.data.image_reading import decode_image
    from mrcnn.inference.results import Detections
    from mrcnn.scale import plan, rows

    (annotations,) = data.rglob("instances_val2017*.json")
    content = json.loads(annotations.read_text())
    photos = sorted(data.rglob("*.jpg"))[:200]
    large = np.asarray(Image.open(photos[0]).convert("RGB").resize((4000, 3000), Image.Resampling.BICUBIC))
    large = np.clip(large + np.random.default_rng(0).normal(0, 4, large.shape), 0, 255).astype(np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(large).save(buffer, "JPEG", quality=90)
    encoded = buffer.getvalue()
    decoding = [_seconds(lambda: decode_image(encoded, "large", upright=True)) for _ in range(5)]

    shapes = {image["id"]: (image["height"], image["width"]) for image in content["images"]}
    by_image: dict[int, list] = {}
    for entry in content["annotations"]:
        if not entry["iscrowd"]:
            by_image.setdefault(entry["image_id"], []).append({**entry, "score": 0.9})
    results = [
        rows.ImageResult(i, f"/photos/{i:012d}.jpg", Detections.from_coco(found, shapes[i]))
        for i, found in list(by_image.items())[:500]
    ]
    objects = sum(len(result.found) for result in results)
    start = time.process_time()
    size = len(rows.to_bytes(rows.make_table(results, None, False)))
    row_seconds = (time.process_time() - start) / objects
    tracemalloc.start()
    shards = plan.plan_shards(plan.list_images([f"/photos/2026/folder/{i:012d}.jpg" for i in range(100_000)]), 500)
    list_bytes = tracemalloc.get_traced_memory()[0] / sum(len(shard.images) for shard in shards)
    tracemalloc.stop()
    return {
        "photos": len(photos), "objects": objects, "images_with_objects": len(results),
        "coco_photo_mb": round(sum(p.stat().st_size for p in photos) / len(photos) / 1e6, 4),
        "decode_seconds_12mp": round(sorted(decoding)[2], 4), "jpeg_12mp_mb": round(len(encoded) / 1e6, 2),
        "objects_per_photo": round(objects / len(results), 2), "bytes_per_object": round(size / objects, 1),
        "row_seconds_per_object": round(row_seconds, 7), "list_bytes_per_image": round(list_bytes, 1),
    }  # fmt: skip


def _seconds(call) -> float:
    """Processor time of this thread and others."""
    start = time.process_time()
    call()
    return time.process_time() - start


# ---- Printing --------------------------------------------------------------------------------------------------------
def load_measurements() -> dict:
    """scale.json, and what is needed of cpu.json."""
    cpu = json.loads((RESULTS / "cpu.json").read_text())
    medians: dict[str, float] = {}
    for row in cpu["rows"]:
        for name, value in row["medians"].items():
            medians.setdefault(name, value)
    measured = json.loads((RESULTS / "scale.json").read_text())["rows"]
    cores = cpu["machine"]["cores"]
    return {**measured, "sample_seconds": medians["sample"], "cpu_detect_core_seconds": medians["detect"] * cores}


def table(title: str, columns: dict[str, list[Row]]) -> str:
    """A Markdown table with a column for each size."""
    names = [name for name, _ in next(iter(columns.values()))]
    lines = [f"| {title} | " + " | ".join(columns) + " |", "|---|" + "---|" * len(columns)]
    values = [dict(rows) for rows in columns.values()]
    return "\n".join([*lines, *(f"| {name} | " + " | ".join(v[name] for v in values) + " |" for name in names)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--measure", action="store_true")
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data" / "coco_val")
    arguments = parser.parse_args()
    if arguments.measure:
        path = RESULTS / "scale.json"
        from benchmarks.timing import machine

        kept = json.loads(path.read_text()) if path.exists() else {}
        found = {**kept, "machine": machine(), "rows": measure(arguments.data)}
        path.write_text(json.dumps(found, indent=1) + "\n")
    measured = load_measurements()
    print(table("1,000 GPU hours of training", {f"{n} GPUs": training_rows(measured, 1000, n) for n in GPUS}))
    print()
    print(table("100 million photos", {f"{n} GPUs": detection_rows(measured, 1e8, n) for n in WORKERS}))


if __name__ == "__main__":
    main()

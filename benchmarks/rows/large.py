"""Rows 10 and 11: a large image in tiles versus its tiles alone, and many images on several workers versus one."""

from __future__ import annotations

import importlib.util
import os
import statistics
import tempfile
import time
from pathlib import Path

import cv2

from benchmarks.timing import Row, compare, meets, quartiles, take_turns
from benchmarks.workloads import network, photo

PHOTO_SIDE = 64  # of row 11, so that the network has little to do and what is around it shows


def tiles(quick: bool) -> list[Row]:
    """Row 10: `detect_tiled` also cuts, merges what seams cut, and keeps masks as run lengths."""
    from mrcnn.inference.tiled_detection import detect_tiled

    tile, side, rounds = (256, 512, 2) if quick else (1024, 2048, 3)
    model, image, batches = network("inference", tile), photo(side, side), []

    def remember(images):
        batches.append(images)
        return model.detect(images)

    detect_tiled(remember, image, config=model.config, progress=False)
    seconds = take_turns(
        {
            "in tiles": lambda: model.detect_tiled(image, progress=False),
            "tiles alone": lambda: [model.detect(images) for images in batches],
        },
        rounds,
    )
    count = sum(map(len, batches))
    what = f"detect_tiled() of {side} x {side} / detect() of its {count} tiles; ResNet-50, 100 objects a tile"
    return [compare(10, what, seconds, "in tiles", "tiles alone", "<= 1.15x")]


def workers(quick: bool) -> list[Row]:
    """Row 11: throughput of `scale.detect_dataset`, start of the workers included."""
    cores, images, rounds = min(4, os.cpu_count() or 1), 300 if quick else 3000, 1 if quick else 3
    what = f"detect_dataset(): images per second of {cores} workers / {cores} x those of one"
    missing = [name for name in ("ray", "pyarrow", "pandas") if importlib.util.find_spec(name) is None]
    if missing or cores == 1:
        return [Row(11, what, None, note=f"not installed: {', '.join(missing)}" if missing else "only one core")]
    seconds = {"1 worker": [], f"{cores} workers": []}
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{i}.png" for i in range(images)]
        for i, path in enumerate(paths):
            cv2.imwrite(str(path), photo(PHOTO_SIDE, PHOTO_SIDE, seed=i))
        for turn in range(rounds):
            for name in list(seconds)[:: -1 if turn % 2 else 1]:
                seconds[name].append(time_of(paths, f"{folder}/{turn}{name[0]}.parquet", int(name[0])))
    one, several = seconds.values()
    ratios = [a / b / cores for a, b in zip(one, several, strict=True)]
    value = statistics.median(ratios)
    return [
        Row(
            11, f"{what}; {images} images of {PHOTO_SIDE} x {PHOTO_SIDE}", round(value, 2), ">= 0.9x",
            meets(value, ">= 0.9x"), medians={name: round(statistics.median(s), 2) for name, s in seconds.items()},
            spread=quartiles(ratios), runs=rounds, note="one thread per worker; start and model of each included",
        )
    ]  # fmt: skip


def time_of(paths: list[Path], out: str, count: int) -> float:
    """Seconds of `detect_dataset` with so many workers."""
    from mrcnn.scale import detect_dataset

    start = time.perf_counter()
    detect_dataset(paths, "shapes", out, workers=count, shard_size=50, progress=False)
    return time.perf_counter() - start

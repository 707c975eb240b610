"""Row 5: loading a training sample versus decoding and resizing its photo with OpenCV; scaling with workers."""

from __future__ import annotations

import cv2

from benchmarks.child import in_process
from benchmarks.rows.workers import workers
from benchmarks.timing import Row, compare, take_turns
from benchmarks.workloads import coco_dataset, network_config


def loading(quick: bool) -> list[Row]:
    """Runs in a separate process, as in training, where worker processes load the samples."""
    return [Row(**row) for row in in_process("loading", int(quick))["rows"]]


def loading_here(quick: bool) -> list[Row]:
    from mrcnn.data.generator import DataGenerator

    side, images, rounds = 1024, 20 if quick else 60, 3 if quick else 5
    dataset, source = coco_dataset()
    config = network_config(side)
    generator = DataGenerator(dataset, config, shuffle=False, steps=images, seed=0)
    ids = [generator.stream.image_id(place) for place in range(images)]

    def samples():
        for place in range(images):
            generator.stream.sample(place)

    def batches():
        for index in range(images):
            generator[index]

    def photos():
        for image_id in ids:
            image = cv2.cvtColor(cv2.imread(str(dataset.image_info[image_id]["path"])), cv2.COLOR_BGR2RGB)
            scale = side / max(image.shape[:2])
            cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)

    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)  # one core against one core
    seconds = take_turns({"sample": samples, "photo": photos, "batch of one": batches}, rounds)
    cv2.setNumThreads(threads)
    row = compare(
        5, f"a training sample / its photo decoded and resized by OpenCV; {side} x {side}, mini masks, {images} images",
        seconds, "sample", "photo", "<= 2x", note=source,
    )  # fmt: skip
    row.medians = {name: round(seconds.median(name) / images, 5) for name in seconds.real}
    return [row, *workers(quick)]

"""Row 8: time of detection, training and loading as a function of pixels, batch size, objects and detections."""

from __future__ import annotations

import math
import statistics
import tempfile
from pathlib import Path

import numpy as np

from benchmarks.timing import Row, meets, take_turns
from benchmarks.workloads import compiled, made_up_dataset, network, network_config, photo, tensors, training_batch
from mrcnn.inference.molding import place_on_photo, resize_inputs

LINEAR = "<= 1.1 exponent"  # 1 is linear; 0.1 allows for noise


def curves(quick: bool) -> list[Row]:
    rounds = 2 if quick else 3
    return [
        pixels((256, 512) if quick else (256, 512, 1024, 2048), rounds),
        batches((1, 4) if quick else (1, 2, 4, 8), 256 if quick else 512, rounds),
        training_pixels((128, 256) if quick else (256, 512, 1024), rounds),
        true_objects((1, 300) if quick else (1, 10, 30, 100, 300), 256, rounds),
        detections((1, 100) if quick else (1, 10, 100, 300), 256 if quick else 512, rounds),
    ]  # fmt: skip


def pixels(sides, rounds: int) -> Row:
    """Times detect() and its steps on photos of side x side."""

    def at(side):
        model, image = network("inference", side), photo(side, side)
        molded, metas, windows = model.mold_inputs([image])
        forward, inputs = compiled(model.detector()), tensors([molded, metas.astype(np.float32)])
        found, masks = (output[0] for output in model.detector().predict_on_batch([molded, metas.astype(np.float32)]))
        shapes = (image.shape, molded[0].shape)
        return {
            "resize and mold": lambda: model._detector.molded(
                resize_inputs([image], model.config)[0], model.config.MEAN_PIXEL
            ),
            "network": lambda: forward(inputs),
            "boxes and masks": lambda: place_on_photo(found, masks, *shapes, windows[0])[3].dense(),
            "detect": lambda: model.detect([image]),
        }

    what = "detect() against pixels, ResNet-50, 100 detections"
    return growth(what, "pixels", [side**2 for side in sides], [take_turns(at(side), rounds) for side in sides])


def batches(counts, side: int, rounds: int) -> Row:
    model = network("inference", side)

    def at(count):
        model.config.IMAGES_PER_GPU = count
        images = [photo(seed=i) for i in range(count)]
        return {"detect": lambda: model.detect(images)}

    what = f"detect() against the batch, ResNet-50, {side} x {side}"
    return growth(what, "images", counts, [take_turns(at(count), rounds + 2, warm_up=2) for count in counts])


def training_pixels(sides, rounds: int) -> Row:
    def at(side):
        model = trainable(side)
        batch = training_batch(model.config, objects=8)
        return {"training step": lambda: model.train_on_batch(batch)}

    what = "a training step against pixels, ResNet-50, batch 1, all layers"
    return growth(what, "pixels", [side**2 for side in sides], [take_turns(at(side), rounds) for side in sides])


def true_objects(counts, side: int, rounds: int) -> Row:
    """Times loading a sample with a number of objects at 1024 x 1024, and a training step with them."""
    from mrcnn.data.generator import DataGenerator

    model = trainable(side, MAX_GT_INSTANCES=max(counts))
    config = network_config(1024, MAX_GT_INSTANCES=max(counts))

    def measured(count):
        batch = training_batch(model.config, objects=count)
        with tempfile.TemporaryDirectory() as folder:
            samples = DataGenerator(made_up_dataset(Path(folder), 1, count), config, steps=1, seed=0)
            calls = {"training step": lambda: model.train_on_batch(batch), "loading": lambda: samples[0]}
            return take_turns(calls, rounds, warm_up=2)

    what = f"a training step ({side} x {side}) and loading (1024 x 1024) against true objects"
    return growth(what, "true objects", counts, [measured(count) for count in counts])


def detections(counts, side: int, rounds: int) -> Row:
    model, image = network("inference", side), photo()

    def at(count):
        model.config.DETECTION_MAX_INSTANCES = count
        return {"detect": lambda: model.detect([image])}

    what = f"detect() against detections, ResNet-50, {side} x {side}"
    return growth(what, "detections", counts, [take_turns(at(count), rounds) for count in counts])


def trainable(side: int, **changes):
    model = network("training", side, **changes)
    model.set_trainable(".*", verbose=0)
    model.compile(0.001)
    return model


def growth(what: str, axis: str, sizes, measured: list) -> Row:
    """The row of a curve: the largest exponent e of time ~ size ** e between neighboring sizes, over all calls.

    Calls of less than 5 ms are ignored, because their times are too noisy. `processor_ratio` is the exponent of
    processor times.
    """
    seconds = {name: [m.median(name) for m in measured] for name in measured[0].real}
    processor = {name: [statistics.median(m.processor[name]) for m in measured] for name in measured[0].real}
    value = largest_exponent(sizes, seconds)
    points = {f"{name} at {size}": round(t, 4) for name, times in seconds.items() for size, t in zip(sizes, times)}
    curve = {axis: list(sizes), **{name: [round(t, 5) for t in times] for name, times in seconds.items()}}
    return Row(
        8, what, round(value, 2), LINEAR, meets(value, LINEAR), unit="exponent", medians=points, curve=curve,
        runs=len(next(iter(measured[0].real.values()))), processor_ratio=round(largest_exponent(sizes, processor), 2),
    )  # fmt: skip


def largest_exponent(sizes, seconds: dict) -> float:
    return max(
        math.log(times[i + 1] / times[i]) / math.log(sizes[i + 1] / sizes[i])
        for times in seconds.values()
        for i in range(len(sizes) - 1)
        if times[i] > 0.005
    )

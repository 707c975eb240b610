"""Rows 4 and 9: a training step versus the forward pass, and the share of a step spent waiting for data."""

from __future__ import annotations

import os
import statistics
import time

import keras

from benchmarks.timing import Row, compare, meets, quartiles, take_turns
from benchmarks.workloads import (
    coco_dataset,
    compiled,
    gradients_of,
    network,
    plain_inputs,
    plain_network,
    tensors,
    training_batch,
)


def step_and_forward(quick: bool) -> list[Row]:
    """Row 4, with all layers trained, and the same ratio for the plain convolutions."""
    side, rounds = (256, 3) if quick else (1024, 7)
    model = network("training", side)
    model.set_trainable(".*", verbose=0)
    model.compile(0.001)
    batch = training_batch(model.config, objects=8)
    inputs = {name: tensors([array])[0] for name, array in batch.items()}
    forward = compiled(model, training=True)
    config = model.config
    rois = {"POST_NMS_ROIS_INFERENCE": config.TRAIN_ROIS_PER_IMAGE, "DETECTION_MAX_INSTANCES": int(200 * 0.33)}
    for name, value in rois.items():
        setattr(config, name, value)
    plain = plain_network(side, config, config.NUM_CLASSES)
    plain_arrays = tensors(plain_inputs(side, config))
    plain_forward, plain_gradients = compiled(plain, training=True), gradients_of(plain)
    seconds = take_turns(
        {
            "training step": lambda: model.train_on_batch(batch),
            "forward": lambda: forward(inputs),
            "plain forward and gradients": lambda: plain_gradients(plain_arrays),
            "plain forward": lambda: plain_forward(plain_arrays),
        },
        rounds,
    )
    size = f"ResNet-50, {side} x {side}, batch 1, all layers"
    what = "the same ratio for the plain convolutions: forward and gradients / forward"
    return [
        compare(
            4,
            f"a training step / the forward pass of its graph; {size}",
            seconds,
            "training step",
            "forward",
            "<= 3.2x",
        ),
        compare(
            4, what, seconds, "plain forward and gradients", "plain forward", note="the ratio that the backend allows"
        ),
    ]


class StepTimes(keras.callbacks.Callback):
    """Records the seconds of each step of `fit`, including the wait for its batch; skips the first steps."""

    def __init__(self, skip: int = 1):
        super().__init__()
        self.skip, self.times, self.last = skip, [], None

    def on_epoch_begin(self, epoch, logs=None):
        self.last = None

    def on_train_batch_end(self, batch, logs=None):
        now = time.perf_counter()
        if batch > self.skip:
            self.times.append(now - self.last)
        self.last = now


class Ready(keras.utils.PyDataset):
    """Batches that are already in memory."""

    def __init__(self, batches):
        super().__init__()
        self.batches = batches

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


def waiting(quick: bool) -> list[Row]:
    """Row 9: `fit` that loads photos versus `fit` on batches in memory, in alternating epochs."""
    from mrcnn.data.generator import DataGenerator

    side, steps, rounds = (256, 6, 2) if quick else (512, 12, 6)
    workers = os.cpu_count() or 1
    model = network("training", side)
    model.set_trainable(".*", verbose=0)
    model.compile(0.0)
    dataset, source = coco_dataset()
    batches = DataGenerator(dataset, model.config, steps=steps, seed=0, workers=workers)
    ready = Ready([batches[i] for i in range(steps)])
    times = {"from photos": [], "from batches": []}
    model.fit(ready, verbose=0)
    for turn in range(rounds):
        pair = (("from photos", batches), ("from batches", ready))
        for name, data in pair[:: -1 if turn % 2 else 1]:
            recorder = StepTimes()
            batches.epoch = 0
            model.fit(data, verbose=0, callbacks=[recorder])
            times[name].append(statistics.median(recorder.times))
    shares = [100 * (1 - b / a) for a, b in zip(times["from photos"], times["from batches"], strict=True)]
    value = statistics.median(shares)
    return [
        Row(
            9, f"fit: share of a step spent waiting for data; ResNet-50, {side} x {side}, batch 1, {workers} workers",
            round(value, 2), "<= 5 %", meets(value, "<= 5 %"), unit="%",
            medians={f"step {name}": round(statistics.median(s), 4) for name, s in times.items()},
            spread=quartiles(shares), runs=rounds,
            note=f"{source}; a negative share is noise",
        )
    ]  # fmt: skip

"""Runs one of the packages that benchmarks/peer.py compares: reads calls from stdin, writes their times to stdout.

    PYTHONPATH=<folder that contains mrcnn> python peer_worker.py detecting|training SIDE DATA_FOLDER

Uses only matterport's API and syntax of Python 3.6, because the package may need an old version.
"""

import inspect
import json
import os
import sys
import tempfile
import time

answers = os.fdopen(os.dup(1), "w")  # keeps what the packages print out of the answers
os.dup2(2, 1)

import numpy as np

import mrcnn.model as modellib
from mrcnn import utils
from mrcnn.config import Config

task, side, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
OBJECTS = 8


class PeerConfig(Config):
    NAME = "peer"
    BACKBONE = "resnet50"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    NUM_CLASSES = 81
    IMAGE_MIN_DIM = side
    IMAGE_MAX_DIM = side
    DETECTION_MIN_CONFIDENCE = 0
    STEPS_PER_EPOCH = 1000
    VALIDATION_STEPS = 1


class Discs(utils.Dataset):
    """Photos of 480 x 640 pixels with discs."""

    def load(self, count):
        for class_id in range(1, 81):
            self.add_class("discs", class_id, str(class_id))
        for i in range(count):
            self.add_image("discs", i, path=None)
        self.prepare()

    def load_image(self, image_id):
        return np.load(os.path.join(data, "detections.npz"))["photo"]

    def load_mask(self, image_id):
        y, x = np.mgrid[:480, :640]
        rng = np.random.RandomState(image_id)
        circles = [(rng.randint(480), rng.randint(640), rng.randint(20, 120)) for _ in range(OBJECTS)]
        masks = np.stack([(y - v) ** 2 + (x - u) ** 2 < r * r for v, u, r in circles], axis=-1)
        return masks, (1 + np.arange(OBJECTS) % 80).astype(np.int32)


def answer(**what):
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def timed(call):
    start, processor = time.perf_counter(), time.process_time()
    result = call()
    return {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}, result


def detecting(config, dataset):
    model = modellib.MaskRCNN(mode="inference", config=config, model_dir=tempfile.mkdtemp())
    model.load_weights(os.path.join(data, "weights.h5"), by_name=True)
    given = np.load(os.path.join(data, "detections.npz"))
    image, shape = given["photo"], tuple(int(n) for n in given["molded_shape"])
    arrays = given["detections"], given["masks"]
    anchors = utils.generate_pyramid_anchors(
        config.RPN_ANCHOR_SCALES, config.RPN_ANCHOR_RATIOS, modellib.compute_backbone_shapes(config, shape),
        config.BACKBONE_STRIDES, config.RPN_ANCHOR_STRIDE,
    )  # fmt: skip
    options = {"use_mini_mask": True}
    if "use_mini_mask" not in inspect.signature(modellib.load_image_gt).parameters:
        options = {}

    def load():
        image, _, class_ids, boxes, _ = modellib.load_image_gt(dataset, config, 0, **options)
        return modellib.build_rpn_targets(image.shape, anchors, class_ids, boxes, config)

    calls = {
        "detect": lambda: model.detect([image], verbose=0)[0],
        "unmold": lambda: model.unmold_detections(arrays[0], arrays[1], image.shape, shape, given["window"]),
        "load": load,
    }
    answer(ready=True)
    for line in sys.stdin:
        seconds, result = timed(calls[line.strip()])
        if line.strip() == "detect":
            seconds["found"] = len(result["scores"])
        answer(**seconds)


def training(config, dataset):
    model = modellib.MaskRCNN(mode="training", config=config, model_dir=tempfile.mkdtemp())
    model.load_weights(os.path.join(data, "weights.h5"), by_name=True)
    keras = getattr(modellib, "keras", None)
    if keras is None:
        from tensorflow import keras

    class StepByStep(keras.callbacks.Callback):
        """Waits for a line on stdin before each step, and answers after it."""

        def on_train_batch_begin(self, batch, logs=None):
            sys.stdin.readline()
            self.start = time.perf_counter(), time.process_time()

        def on_train_batch_end(self, batch, logs=None):
            answer(seconds=time.perf_counter() - self.start[0], processor=time.process_time() - self.start[1])

        on_batch_begin, on_batch_end = on_train_batch_begin, on_train_batch_end  # names in older versions of Keras

    if hasattr(keras.callbacks.Callback, "on_train_batch_begin"):
        del StepByStep.on_batch_begin, StepByStep.on_batch_end
    answer(ready=True)
    model.train(dataset, dataset, learning_rate=1e-5, epochs=1, layers="all", custom_callbacks=[StepByStep()])


if __name__ == "__main__":
    discs = Discs()
    discs.load(8)
    {"detecting": detecting, "training": training}[task](PeerConfig(), discs)

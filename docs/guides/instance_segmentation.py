"""
# Instance segmentation with Mask R-CNN

Train a Mask R-CNN on arrays, measure it, and use it, with nothing but Keras's methods: `compile`, `fit`, `evaluate`,
`predict`. Run it with

    python docs/guides/instance_segmentation.py

It takes a minute of processor time and ends with

    loss         3.814 -> 1.373
    box_ap       0.001 -> 0.547
    mask_ap      0.000 -> 0.521
    mask_ap50    0.000 -> 0.896

on images that were not used in training. `MRCNN_GUIDE_IMAGES=4 MRCNN_GUIDE_EPOCHS=1` only checks that everything runs.
"""

import os

import cv2
import keras
import numpy as np

from mrcnn.evaluation import MeanAveragePrecision
from mrcnn.model import MaskRCNN

IMAGES = int(os.environ.get("MRCNN_GUIDE_IMAGES", 160))
EPOCHS = int(os.environ.get("MRCNN_GUIDE_EPOCHS", 4))
SIDE, MOST = 128, 4  # pixels of an image; rows for objects
CLASSES = ["ring", "bar"]
keras.utils.set_random_seed(0)

"""
## The data

`fit` takes images and, for each, the boxes, labels and masks of its objects. Images have different numbers of objects,
so the rows are padded: label 0 (or -1) means "no object".

| name | shape | content |
|---|---|---|
| images | [N, height, width, 3] | 0 to 255 |
| boxes | [N, G, 4] | y1, x1, y2, x2 in pixels; y2 and x2 are just outside of the object |
| labels | [N, G] | 1, 2, ... in the order of the class names |
| masks | [N, height, width, G] | 1 where the object is |

Here, each image has one to four rings and bars on noise. `mrcnn.data.image_batches.ImageBatches` gives the same for any
dataset that `mrcnn.data.formats.open_dataset` can open: COCO, YOLO, VIA, labelme...
"""


def draw(count, seed):
    """Images and their objects."""
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 90, (count, SIDE, SIDE, 3)).astype(np.uint8)
    truth = {
        "boxes": np.zeros((count, MOST, 4), np.float32),
        "labels": np.zeros((count, MOST), np.int32),
        "masks": np.zeros((count, SIDE, SIDE, MOST), bool),
    }
    for i in range(count):
        taken = np.zeros((SIDE, SIDE), bool)
        for row in range(rng.integers(1, MOST + 1)):
            label, mask = int(rng.integers(1, 3)), np.zeros((SIDE, SIDE), np.uint8)
            center = rng.integers(24, SIDE - 24, 2).tolist()
            size, angle = int(rng.integers(10, 22)), float(rng.uniform(0, 180))
            if label == 1:
                cv2.circle(mask, center, size, 1, thickness=max(3, size // 3))
            else:
                corners = cv2.boxPoints((center, (2 * size, size // 2 + 3), angle))
                cv2.fillPoly(mask, [corners.astype(np.int32)], 1)
            if (taken & (mask > 0)).any():
                continue
            taken |= mask > 0
            ys, xs = np.nonzero(mask)
            truth["labels"][i, row] = label
            truth["boxes"][i, row] = ys.min(), xs.min(), ys.max() + 1, xs.max() + 1
            truth["masks"][i, ..., row] = mask
            images[i][mask > 0] = rng.integers(120, 256, 3)
    return images, truth


images, truth = draw(IMAGES, seed=1)
test_images, test_truth = draw(max(2, IMAGES // 8), seed=2)
print(images.shape, {name: array.shape for name, array in truth.items()})

"""
## The model

`from_preset` builds a trained network and loads its weights; `classes` gives it new ones. "shapes" is a small network
that is part of this package; it knows squares, circles and triangles. For photos, take "coco" or "torchvision_v2"
([weights](../weights.md)).

Settings are arguments, here the batch and image size. A KerasHub backbone goes into `BACKBONE`
([As a Keras model](../keras.md)).
"""

model = MaskRCNN.from_preset(
    "shapes", mode="training", classes=CLASSES, IMAGES_PER_GPU=8, IMAGE_MIN_DIM=SIDE, IMAGE_MAX_DIM=SIDE
)
print(model.class_names)

"""
## Training

The five losses are part of the model, so `compile` needs only an optimizer. `MeanAveragePrecision` adds the AP of boxes
and masks to what `evaluate` returns, and to the validation in `fit`. The training targets of the region proposal
network are chosen inside the graph, on the device.
"""

steps = EPOCHS * -(-IMAGES // model.config.BATCH_SIZE)
rate = keras.optimizers.schedules.CosineDecay(0.0, steps, warmup_target=0.002, warmup_steps=steps // 10)
model.compile(keras.optimizers.Adam(rate), metrics=[MeanAveragePrecision()])
before = model.evaluate(test_images, test_truth, return_dict=True, verbose=0)
history = model.fit(images, truth, epochs=EPOCHS, verbose=2)
after = model.evaluate(test_images, test_truth, return_dict=True, verbose=0)
for name in ("loss", "box_ap", "mask_ap", "mask_ap50"):
    print(f"{name:10} {before[name]:7.3f} -> {after[name]:.3f}")

"""
## Predicting

`predict` takes photos of any sizes: an array, a list, a `tf.data.Dataset`, a `PyDataset`. It returns arrays with the
same number of rows for each photo; `valid` says which of them are detections. Boxes are in pixels of the photo, and
masks are probabilities inside their box: `paste_masks` places them.

`model(images)` does the same for one batch. `detect` is matterport's form: a list with one result for each photo, with
`plot`, `save`, `to_coco()` and more.
"""

found = model.predict(test_images, verbose=0)
print({name: array.shape for name, array in found.items()})
for classes, valid in zip(found["classes"][:4], found["valid"]):
    print([CLASSES[label - 1] for label in classes[valid]])

rows = [result.plot(image) for image, result in zip(test_images[:4], model.detect(list(test_images[:4])))]
cv2.imwrite("instance_segmentation.png", np.concatenate(rows, axis=1)[..., ::-1])

"""
## Saving

`save_to_preset` writes settings, class names and weights to a folder, and `from_preset` builds the model again. `save`
and `keras.saving.load_model` keep the optimizer as well.
"""

model.save_to_preset("rings_and_bars")
same = MaskRCNN.from_preset("rings_and_bars")
assert all(np.array_equal(array, found[name]) for name, array in same.predict(test_images, verbose=0).items())

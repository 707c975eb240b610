"""
Nuclei of the Data Science Bowl: random crops and augmentation to train, whole images to detect, a csv to submit (the
form of nucleus.py: imgaug comes before mrcnn).
"""

import datetime
import os
import sys

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
import skimage.io
from imgaug import augmenters as iaa

ROOT_DIR = os.getcwd()
sys.path.append(ROOT_DIR)
from mrcnn import model as modellib
from mrcnn import utils, visualize
from mrcnn.config import Config

RESULTS_DIR = os.path.join(ROOT_DIR, "results/nucleus/")
VAL_IMAGE_IDS = ["cell3"]


class NucleusConfig(Config):
    NAME = "nucleus"
    IMAGES_PER_GPU = 2
    NUM_CLASSES = 1 + 1
    STEPS_PER_EPOCH = (4 - len(VAL_IMAGE_IDS)) // IMAGES_PER_GPU
    VALIDATION_STEPS = max(1, len(VAL_IMAGE_IDS) // IMAGES_PER_GPU)
    DETECTION_MIN_CONFIDENCE = 0
    BACKBONE = "resnet50"
    IMAGE_RESIZE_MODE = "crop"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    IMAGE_MIN_SCALE = 2.0
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    POST_NMS_ROIS_TRAINING = 100
    POST_NMS_ROIS_INFERENCE = 200
    RPN_NMS_THRESHOLD = 0.9
    RPN_TRAIN_ANCHORS_PER_IMAGE = 64
    MEAN_PIXEL = np.array([43.53, 39.56, 48.22])
    USE_MINI_MASK = True
    MINI_MASK_SHAPE = (56, 56)
    TRAIN_ROIS_PER_IMAGE = 128
    MAX_GT_INSTANCES = 200
    DETECTION_MAX_INSTANCES = 40


class NucleusInferenceConfig(NucleusConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    IMAGE_RESIZE_MODE = "pad64"
    RPN_NMS_THRESHOLD = 0.7


class NucleusDataset(utils.Dataset):
    def load_nucleus(self, dataset_dir, subset):
        self.add_class("nucleus", 1, "nucleus")
        dataset_dir = os.path.join(dataset_dir, "stage1_train")
        if subset == "val":
            image_ids = VAL_IMAGE_IDS
        else:
            image_ids = next(os.walk(dataset_dir))[1]
            if subset == "train":
                image_ids = list(set(image_ids) - set(VAL_IMAGE_IDS))
        for image_id in image_ids:
            self.add_image(
                "nucleus", image_id=image_id, path=os.path.join(dataset_dir, image_id, "images/{}.png".format(image_id))
            )

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        mask_dir = os.path.join(os.path.dirname(os.path.dirname(info["path"])), "masks")
        mask = []
        for f in next(os.walk(mask_dir))[2]:
            if f.endswith(".png"):
                m = skimage.io.imread(os.path.join(mask_dir, f)).astype(np.bool)
                mask.append(m)
        mask = np.stack(mask, axis=-1)
        return mask, np.ones([mask.shape[-1]], dtype=np.int32)

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        if info["source"] == "nucleus":
            return info["id"]
        else:
            super(self.__class__, self).image_reference(image_id)


def train(model, dataset_dir):
    dataset_train = NucleusDataset()
    dataset_train.load_nucleus(dataset_dir, "train")
    dataset_train.prepare()
    dataset_val = NucleusDataset()
    dataset_val.load_nucleus(dataset_dir, "val")
    dataset_val.prepare()
    augmentation = iaa.SomeOf(
        (0, 2),
        [
            iaa.Fliplr(0.5),
            iaa.Flipud(0.5),
            iaa.OneOf([iaa.Affine(rotate=90), iaa.Affine(rotate=180), iaa.Affine(rotate=270)]),
            iaa.Multiply((0.8, 1.5)),
            iaa.GaussianBlur(sigma=(0.0, 5.0)),
        ],
    )
    print("Train network heads")
    model.train(
        dataset_train,
        dataset_val,
        learning_rate=config.LEARNING_RATE,
        epochs=1,
        augmentation=augmentation,
        layers="heads",
    )
    print("Train all layers")
    model.train(
        dataset_train,
        dataset_val,
        learning_rate=config.LEARNING_RATE,
        epochs=2,
        augmentation=augmentation,
        layers="all",
    )


def rle_encode(mask):
    assert mask.ndim == 2, "Mask must be of shape [Height, Width]"
    m = mask.T.flatten()
    g = np.diff(np.concatenate([[0], m, [0]]), n=1)
    rle = np.where(g != 0)[0].reshape([-1, 2]) + 1
    rle[:, 1] = rle[:, 1] - rle[:, 0]
    return " ".join(map(str, rle.flatten()))


def mask_to_rle(image_id, mask, scores):
    assert mask.ndim == 3, "Mask must be [H, W, count]"
    if mask.shape[-1] == 0:
        return "{},".format(image_id)
    order = np.argsort(scores)[::-1] + 1
    mask = np.max(mask * np.reshape(order, [1, 1, -1]), -1)
    lines = []
    for o in order:
        m = np.where(mask == o, 1, 0)
        if m.sum() == 0.0:
            continue
        lines.append("{}, {}".format(image_id, rle_encode(m)))
    return "\n".join(lines)


def detect(model, dataset_dir, subset):
    if not os.path.exists(RESULTS_DIR):
        os.makedirs(RESULTS_DIR)
    submit_dir = "submit_{:%Y%m%dT%H%M%S}".format(datetime.datetime.now())
    submit_dir = os.path.join(RESULTS_DIR, submit_dir)
    os.makedirs(submit_dir)
    dataset = NucleusDataset()
    dataset.load_nucleus(dataset_dir, subset)
    dataset.prepare()
    submission = []
    for image_id in dataset.image_ids:
        image = dataset.load_image(image_id)
        r = model.detect([image], verbose=0)[0]
        source_id = dataset.image_info[image_id]["id"]
        rle = mask_to_rle(source_id, r["masks"], r["scores"])
        submission.append(rle)
        visualize.display_instances(
            image,
            r["rois"],
            r["masks"],
            r["class_ids"],
            dataset.class_names,
            r["scores"],
            show_bbox=False,
            show_mask=False,
            title="Predictions",
        )
        plt.savefig("{}/{}.png".format(submit_dir, dataset.image_info[image_id]["id"]))
    submission = "ImageId,EncodedPixels\n" + "\n".join(submission)
    file_path = os.path.join(submit_dir, "submit.csv")
    with open(file_path, "w") as f:
        f.write(submission)
    print("Saved to ", submit_dir)


config = NucleusConfig()
config.display()
model = modellib.MaskRCNN(mode="training", config=config, model_dir="logs")
train(model, "nuclei")

config = NucleusInferenceConfig()
model = modellib.MaskRCNN(mode="inference", config=config, model_dir="logs")
weights_path = model.find_last()
print("Loading weights ", weights_path)
model.load_weights(weights_path, by_name=True)
detect(model, "nuclei", "val")

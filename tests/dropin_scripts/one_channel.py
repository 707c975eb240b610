# Gray images of one channel, a tf1-style head, several classes from file names, history and weights at the end
import math
import os
import random
import re
import sys
import time

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import backend as K

import mrcnn.model as modellib
from mrcnn import visualize
from mrcnn.config import Config
from mrcnn.model import log
from mrcnn.utils import *

MODEL_DIR = os.path.join(os.getcwd(), "logs_gray")
iter_num = 0


class DrugDataset(Dataset):
    def __init__(self):
        super().__init__(self)
        self.names = ["disc", "bar"]

    def get_obj_index(self, image):
        n = np.max(image)
        return n

    def load_shapes(self, count, img_folder, mask_folder, imglist):
        for i, name in enumerate(self.names):
            self.add_class("shapes", i + 1, name)
        for i in range(count):
            filestr = imglist[i].split(".")[0]
            mask_path = mask_folder + "/" + filestr + ".png"
            cv_img = cv2.imread(img_folder + "/" + filestr + ".png")
            self.add_image(
                "shapes",
                image_id=i,
                path=img_folder + "/" + imglist[i],
                width=cv_img.shape[1],
                height=cv_img.shape[0],
                mask_path=mask_path,
                labels=["disc", "bar"],
            )

    def load_image(self, image_id):
        img = cv2.imread(self.image_info[image_id]["path"], 0)
        return img[..., np.newaxis]

    def draw_mask(self, num_obj, mask, image):
        for index in range(num_obj):
            mask[:, :, index][image == index + 1] = 1
        return mask

    def load_mask(self, image_id):
        global iter_num
        iter_num += 1
        info = self.image_info[image_id]
        img = cv2.imread(info["mask_path"], 0)
        num_obj = self.get_obj_index(img)
        mask = np.zeros([info["height"], info["width"], num_obj], dtype=np.uint8)
        mask = self.draw_mask(num_obj, mask, img)
        occlusion = np.logical_not(mask[:, :, -1]).astype(np.uint8)
        for i in range(num_obj - 2, -1, -1):
            mask[:, :, i] = mask[:, :, i] * occlusion
            occlusion = np.logical_and(occlusion, np.logical_not(mask[:, :, i]))
        class_ids = np.array([self.class_names.index(s) for s in info["labels"]])
        return mask, class_ids.astype(np.int32)


class ShapesConfig(Config):
    NAME = "Gray_Shapes"
    GPU_COUNT = 2
    IMAGES_PER_GPU = 1
    IMAGE_CHANNEL_COUNT = 1
    MEAN_PIXEL = np.array([43.5])
    NUM_CLASSES = 1 + 2
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8 * 6, 16 * 6, 32 * 6, 64 * 6, 128 * 6)
    TRAIN_ROIS_PER_IMAGE = 20
    STEPS_PER_EPOCH = 1
    VALIDATION_STEPS = 1
    LOSS_WEIGHTS = {
        "rpn_class_loss": 1.0,
        "rpn_bbox_loss": 1.0,
        "mrcnn_class_loss": 1.0,
        "mrcnn_bbox_loss": 1.0,
        "mrcnn_mask_loss": 2.0,
    }


config = ShapesConfig()
config.display()

img_floder = "gray/pic"
mask_floder = "gray/mask"
imglist = os.listdir(img_floder)
count = len(imglist)
dataset_train = DrugDataset()
dataset_train.load_shapes(count, img_floder, mask_floder, imglist)
dataset_train.prepare()
dataset_val = DrugDataset()
dataset_val.load_shapes(2, img_floder, mask_floder, imglist)
dataset_val.prepare()
image_ids = np.random.choice(dataset_train.image_ids, 2)
for image_id in image_ids:
    image = dataset_train.load_image(image_id)
    mask, class_ids = dataset_train.load_mask(image_id)
    visualize.display_top_masks(image, mask, class_ids, dataset_train.class_names)

model = modellib.MaskRCNN(mode="training", config=config, model_dir=MODEL_DIR)
model.load_weights(
    "mask_rcnn_coco.h5",
    by_name=True,
    exclude=["conv1", "mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"],
)
model.keras_model.metrics_tensors = []
stop = keras.callbacks.EarlyStopping(monitor="val_loss", patience=10)
model.train(
    dataset_train,
    dataset_val,
    learning_rate=config.LEARNING_RATE,
    epochs=1,
    layers="heads",
    custom_callbacks=[stop],
)
model.train(dataset_train, dataset_val, learning_rate=config.LEARNING_RATE / 10, epochs=2, layers="all")

history = model.keras_model.history.history
for k in ["loss", "val_loss", "rpn_class_loss", "val_mrcnn_mask_loss"]:
    print(k, len(history[k]))
plt.plot(model.keras_model.history.epoch, history["loss"], label="train loss")
plt.savefig("loss.png")
model_path = os.path.join(MODEL_DIR, "mask_rcnn_shapes.h5")
model.keras_model.save_weights(model_path)

K.clear_session()


class InferenceConfig(config.__class__):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    DETECTION_MIN_CONFIDENCE = 0.0


inference_config = InferenceConfig()
model = modellib.MaskRCNN(mode="inference", config=inference_config, model_dir=MODEL_DIR)
model_path = model.find_last()[1]
assert model_path != "", "Provide path to trained weights"
model.load_weights(model_path, by_name=True)
print("run", model.log_dir.split("/")[-1], "epoch", int(model_path.split(".")[0].split("_")[-1]))

image_id = random.choice(dataset_val.image_ids)
original_image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
    dataset_val, inference_config, image_id, use_mini_mask=False
)
log("original_image", original_image)
log("gt_bbox", gt_bbox)
start = time.time()
results = model.detect([original_image], verbose=1)
r = results[0]
print("detected", len(r["rois"]), "in", math.ceil(time.time() - start), "s", file=sys.stderr)
visualize.display_instances(
    original_image, r["rois"], r["masks"], r["class_ids"], dataset_val.class_names, r["scores"], figsize=(8, 8)
)
image_ids = np.random.choice(dataset_val.image_ids, 2)
APs = []
for image_id in image_ids:
    image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
        dataset_val, inference_config, image_id, use_mini_mask=False
    )
    molded_images = np.expand_dims(modellib.mold_image(image, inference_config), 0)
    results = model.detect([image], verbose=0)
    r = results[0]
    AP, precisions, recalls, overlaps = compute_ap(
        gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
    )
    APs.append(AP)
print("mAP: ", np.mean(APs), re.sub("x", "", "x"))

# Detect on a random photo with COCO's classes (the form of demo.ipynb), in one graph, then frame by frame with OpenCV
import os
import random
import sys

import cv2
import matplotlib.pyplot as plt
import numpy as np
import skimage.io
import tensorflow as tf

ROOT_DIR = os.path.abspath("./")
sys.path.append(ROOT_DIR)
import mrcnn.model as modellib
from mrcnn import utils, visualize

sys.path.append(os.path.join(ROOT_DIR, "samples/coco/"))
import coco

MODEL_DIR = os.path.join(ROOT_DIR, "logs")
COCO_MODEL_PATH = os.path.join(ROOT_DIR, "mask_rcnn_coco.h5")
if not os.path.exists(COCO_MODEL_PATH):
    utils.download_trained_weights(COCO_MODEL_PATH)
IMAGE_DIR = os.path.join(ROOT_DIR, "images")


class InferenceConfig(coco.CocoConfig):
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    DETECTION_MIN_CONFIDENCE = 0


config = InferenceConfig()
config.display()
graph = tf.Graph()
with graph.as_default():
    model = modellib.MaskRCNN(mode="inference", model_dir=MODEL_DIR, config=config)
    model.load_weights(COCO_MODEL_PATH, by_name=True)

dataset = coco.CocoDataset()
coco_api = dataset.load_coco("coco_data", "val", year="2017", return_coco=True)
dataset.prepare()
class_names = dataset.class_names
print(len(class_names), "classes,", dataset.num_images, "images,", class_names.index("teddy bear"))

file_names = next(os.walk(IMAGE_DIR))[2]
image = skimage.io.imread(os.path.join(IMAGE_DIR, random.choice(file_names)))
with graph.as_default():
    results = model.detect([image], verbose=1)
r = results[0]
visualize.display_instances(image, r["rois"], r["masks"], r["class_ids"], class_names, r["scores"])
plt.savefig("demo.png")
coco_results = coco.build_coco_results(
    dataset, [dataset.image_info[0]["id"]], r["rois"], r["class_ids"], r["scores"], r["masks"].astype(np.uint8)
)
print(len(coco_results) == len(r["rois"]), "results")


def apply_mask(image, mask, color, alpha=0.5):
    for n, c in enumerate(color):
        image[:, :, n] = np.where(mask == 1, image[:, :, n] * (1 - alpha) + alpha * c, image[:, :, n])
    return image


colors = visualize.random_colors(len(class_names))
colors = [tuple(255 * np.array(color)) for color in colors]
capture = cv2.VideoCapture("clip.avi")
shown = 0
while True:
    ret, frame = capture.read()
    if not ret:
        break
    with graph.as_default():
        r = model.detect([frame], verbose=0)[0]
    N = r["rois"].shape[0]
    for i in range(N):
        if not np.any(r["rois"][i]):
            continue
        y1, x1, y2, x2 = r["rois"][i]
        label = class_names[r["class_ids"][i]]
        caption = "{} {:.2f}".format(label, r["scores"][i]) if r["scores"][i] else label
        frame = apply_mask(frame, r["masks"][:, :, i], colors[r["class_ids"][i]])
        frame = cv2.rectangle(frame, (x1, y1), (x2, y2), colors[r["class_ids"][i]], 2)
        frame = cv2.putText(frame, caption, (x1, y1), cv2.FONT_HERSHEY_COMPLEX, 0.7, colors[r["class_ids"][i]], 2)
    shown += 1
capture.release()
print("frames", shown)

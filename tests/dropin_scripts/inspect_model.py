# What happens between photo and detection, step by step (the form of inspect_model.ipynb)
import os
import random

import matplotlib.pyplot as plt
import numpy as np
import tensorflow as tf
from mrcnn import utils, visualize
import mrcnn.model as modellib
from mrcnn.model import log
from mrcnn.config import Config

ROOT_DIR = os.path.abspath("./")
MODEL_DIR = os.path.join(ROOT_DIR, "logs")
DEVICE = "/cpu:0"
TEST_MODE = "inference"


class ShapesConfig(Config):
    NAME = "shapes"
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    NUM_CLASSES = 1 + 80
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    RPN_ANCHOR_SCALES = (8, 16, 32, 64, 128)
    DETECTION_MIN_CONFIDENCE = 0.0
    PRE_NMS_LIMIT = 200


class ShapesDataset(utils.Dataset):
    def load_shapes(self, count, height, width):
        for i in range(1, 81):
            self.add_class("shapes", i, "shape%d" % i)
        for i in range(count):
            self.add_image("shapes", image_id=i, path=None, width=width, height=height)

    def load_image(self, image_id):
        image = np.ones([self.image_info[image_id]["height"], self.image_info[image_id]["width"], 3], dtype=np.uint8)
        image = image * 40
        image[10:40, 10 + image_id : 40] = [200, 30, 30]
        image[30:60, 35:60] = [30, 200, 30]
        return image

    def load_mask(self, image_id):
        mask = np.zeros([64, 64, 2])
        mask[10:40, 10 + image_id : 40, 0] = 1
        mask[30:60, 35:60, 1] = 1
        return mask, np.array([1, 2])


def get_ax(rows=1, cols=1, size=8):
    _, ax = plt.subplots(rows, cols, figsize=(size * cols, size * rows))
    return ax


config = ShapesConfig()
dataset = ShapesDataset()
dataset.load_shapes(4, 64, 64)
dataset.prepare()
print("Images: {}\nClasses: {}".format(len(dataset.image_ids), dataset.class_names[:3]))

with tf.device(DEVICE):
    model = modellib.MaskRCNN(mode="inference", model_dir=MODEL_DIR, config=config)
weights_path = "mask_rcnn_coco.h5"
print("Loading weights ", weights_path)
model.load_weights(weights_path, by_name=True)

image_id = random.choice(dataset.image_ids)
image, image_meta, gt_class_id, gt_bbox, gt_mask = modellib.load_image_gt(
    dataset, config, image_id, use_mini_mask=False
)
info = dataset.image_info[image_id]
print("image ID: {}.{} ({}) {}".format(info["source"], info["id"], image_id, dataset.image_reference(image_id)))
results = model.detect([image], verbose=1)
ax = get_ax(1)
r = results[0]
visualize.display_instances(
    image, r["rois"], r["masks"], r["class_ids"], dataset.class_names, r["scores"], ax=ax, title="Predictions"
)
log("gt_class_id", gt_class_id)
log("gt_bbox", gt_bbox)
log("gt_mask", gt_mask)

AP, precisions, recalls, overlaps = utils.compute_ap(
    gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"]
)
visualize.plot_precision_recall(AP, precisions, recalls)
visualize.plot_overlaps(gt_class_id, r["class_ids"], r["scores"], overlaps, dataset.class_names)

# Step 1.a: RPN targets
target_rpn_match, target_rpn_bbox = modellib.build_rpn_targets(
    image.shape, model.anchors, gt_class_id, gt_bbox, model.config
)
log("target_rpn_match", target_rpn_match)
log("target_rpn_bbox", target_rpn_bbox)
positive_anchor_ix = np.where(target_rpn_match[:] == 1)[0]
negative_anchor_ix = np.where(target_rpn_match[:] == -1)[0]
neutral_anchor_ix = np.where(target_rpn_match[:] == 0)[0]
positive_anchors = model.anchors[positive_anchor_ix]
log("positive_anchors", positive_anchors)
refined_anchors = utils.apply_box_deltas(
    positive_anchors, target_rpn_bbox[: positive_anchors.shape[0]] * model.config.RPN_BBOX_STD_DEV
)
log("refined_anchors", refined_anchors)
visualize.draw_boxes(image, boxes=positive_anchors, refined_boxes=refined_anchors, ax=get_ax())

# Step 1.b: RPN predictions
pillar = model.keras_model.get_layer("ROI").output
nms_node = model.ancestor(pillar, "ROI/rpn_non_max_suppression:0")
if nms_node is None:
    nms_node = model.ancestor(pillar, "ROI/rpn_non_max_suppression/NonMaxSuppressionV2:0")
if nms_node is None:
    nms_node = model.ancestor(pillar, "ROI/rpn_non_max_suppression/NonMaxSuppressionV3:0")
rpn = model.run_graph(
    [image],
    [
        ("rpn_class", model.keras_model.get_layer("rpn_class").output),
        ("pre_nms_anchors", model.ancestor(pillar, "ROI/pre_nms_anchors:0")),
        ("refined_anchors", model.ancestor(pillar, "ROI/refined_anchors:0")),
        ("refined_anchors_clipped", model.ancestor(pillar, "ROI/refined_anchors_clipped:0")),
        ("post_nms_anchor_ix", nms_node),
        ("proposals", model.keras_model.get_layer("ROI").output),
    ],
)
limit = 100
sorted_anchor_ids = np.argsort(rpn["rpn_class"][:, :, 1].flatten())[::-1]
visualize.draw_boxes(image, boxes=model.anchors[sorted_anchor_ids[:limit]], ax=get_ax())
limit = 50
ax = get_ax(1, 2)
pre_nms_anchors = utils.denorm_boxes(rpn["pre_nms_anchors"][0], image.shape[:2])
refined_anchors = utils.denorm_boxes(rpn["refined_anchors"][0], image.shape[:2])
refined_anchors_clipped = utils.denorm_boxes(rpn["refined_anchors_clipped"][0], image.shape[:2])
visualize.draw_boxes(image, boxes=pre_nms_anchors[:limit], refined_boxes=refined_anchors[:limit], ax=ax[0])
visualize.draw_boxes(image, refined_boxes=refined_anchors_clipped[:limit], ax=ax[1])
ixs = rpn["post_nms_anchor_ix"][:limit]
visualize.draw_boxes(image, refined_boxes=refined_anchors_clipped[ixs], ax=get_ax())
h, w = config.IMAGE_SHAPE[:2]
proposals = rpn["proposals"][0, :limit] * np.array([h, w, h, w])
visualize.draw_boxes(image, refined_boxes=proposals, ax=get_ax())
recall, positive_ids = utils.compute_recall(model.anchors, gt_bbox, 0.5)
print("RPN recall of all anchors: {:.3f}".format(recall))

# Step 2: proposal classification
mrcnn = model.run_graph(
    [image],
    [
        ("proposals", model.keras_model.get_layer("ROI").output),
        ("probs", model.keras_model.get_layer("mrcnn_class").output),
        ("deltas", model.keras_model.get_layer("mrcnn_bbox").output),
        ("masks", model.keras_model.get_layer("mrcnn_mask").output),
        ("detections", model.keras_model.get_layer("mrcnn_detection").output),
    ],
)
det_class_ids = mrcnn["detections"][0, :, 4].astype(np.int32)
det_count = np.where(det_class_ids == 0)[0][0] if (det_class_ids == 0).any() else len(det_class_ids)
det_class_ids = det_class_ids[:det_count]
detections = mrcnn["detections"][0, :det_count]
captions = [
    "{} {:.3f}".format(dataset.class_names[int(c)], s) if c > 0 else ""
    for c, s in zip(detections[:, 4], detections[:, 5])
]
visualize.draw_boxes(
    image,
    refined_boxes=utils.denorm_boxes(detections[:, :4], image.shape[:2]),
    visibilities=[2] * len(detections),
    captions=captions,
    title="Detections",
    ax=get_ax(),
)
h, w = config.IMAGE_SHAPE[:2]
proposals = np.around(mrcnn["proposals"][0] * np.array([h, w, h, w])).astype(np.int32)
roi_class_ids = np.argmax(mrcnn["probs"][0], axis=1)
roi_scores = mrcnn["probs"][0, np.arange(roi_class_ids.shape[0]), roi_class_ids]
roi_class_names = np.array(dataset.class_names)[roi_class_ids]
roi_positive_ixs = np.where(roi_class_ids > 0)[0]
print("{} Valid proposals out of {}".format(np.sum(np.any(proposals, axis=1)), proposals.shape[0]))
print("{} Positive ROIs".format(len(roi_positive_ixs)))
roi_bbox_specific = mrcnn["deltas"][0, np.arange(proposals.shape[0]), roi_class_ids]
log("roi_bbox_specific", roi_bbox_specific)
refined_proposals = utils.apply_box_deltas(proposals, roi_bbox_specific * config.BBOX_STD_DEV).astype(np.int32)
log("refined_proposals", refined_proposals)
keep = np.where(roi_class_ids > 0)[0]
keep = np.intersect1d(keep, np.where(roi_scores >= config.DETECTION_MIN_CONFIDENCE)[0])
nms_keep = []
for class_id in np.unique(roi_class_ids[keep]):
    ixs = np.where(roi_class_ids[keep] == class_id)[0]
    class_keep = utils.non_max_suppression(
        refined_proposals[keep][ixs], roi_scores[keep][ixs], config.DETECTION_NMS_THRESHOLD
    )
    nms_keep = np.union1d(nms_keep, keep[ixs[class_keep]])
keep = np.intersect1d(keep, nms_keep).astype(np.int32)
print("Kept after per-class NMS:", len(keep) > 0)

# Step 3: masks
mrcnn = model.run_graph(
    [image],
    [
        ("detections", model.keras_model.get_layer("mrcnn_detection").output),
        ("masks", model.keras_model.get_layer("mrcnn_mask").output),
    ],
)
det_boxes = utils.denorm_boxes(mrcnn["detections"][0, :, :4], image.shape[:2])
det_mask_specific = np.array([mrcnn["masks"][0, i, :, :, c] for i, c in enumerate(det_class_ids)])
det_masks = np.array([utils.unmold_mask(m, det_boxes[i], image.shape) for i, m in enumerate(det_mask_specific)])
log("det_mask_specific", det_mask_specific)
log("det_masks", det_masks)
visualize.display_images(det_mask_specific[:4] * 255, cmap="Blues", interpolation="none")
visualize.display_images(det_masks[:4] * 255, cmap="Blues", interpolation="none")

# Activations
activations = model.run_graph(
    [image],
    [
        ("input_image", tf.identity(model.keras_model.get_layer("input_image").output)),
        ("res2c_out", model.keras_model.get_layer("res2c_out").output),
        ("res3c_out", model.keras_model.get_layer("res3c_out").output),
        ("rpn_bbox", model.keras_model.get_layer("rpn_bbox").output),
        ("roi", model.keras_model.get_layer("ROI").output),
    ],
)
_ = plt.imshow(modellib.unmold_image(activations["input_image"][0], config))
visualize.display_images(np.transpose(activations["res2c_out"][0, :, :, :4], [2, 0, 1]), cols=4)
plt.figure()
plt.hist(activations["rpn_bbox"][0, :, 0], 50)
visualize.display_weight_stats(model)
for layer in model.get_trainable_layers()[:2]:
    print(layer.name, [w.shape for w in layer.get_weights()])

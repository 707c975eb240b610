# Fine-tune Mask R-CNN on photos with boxes in VOC's XML, then measure it (the form of the much-copied kangaroo tutorial)
from os import listdir
from xml.etree import ElementTree

from matplotlib import pyplot
from matplotlib.patches import Rectangle
from mrcnn.config import Config
from mrcnn.model import MaskRCNN, load_image_gt, mold_image
from mrcnn.utils import Dataset, compute_ap
from numpy import asarray, expand_dims, mean, zeros


class AnimalDataset(Dataset):
    def load_dataset(self, dataset_dir, is_train=True):
        self.add_class("dataset", 1, "kangaroo")
        images_dir = dataset_dir + "/images/"
        annotations_dir = dataset_dir + "/annots/"
        for filename in sorted(listdir(images_dir)):
            image_id = filename[:-4]
            if image_id in ["00002"]:
                continue
            if is_train and int(image_id) >= 5:
                continue
            if not is_train and int(image_id) < 5:
                continue
            img_path = images_dir + filename
            ann_path = annotations_dir + image_id + ".xml"
            self.add_image("dataset", image_id=image_id, path=img_path, annotation=ann_path)

    def extract_boxes(self, filename):
        root = ElementTree.parse(filename).getroot()
        boxes = list()
        for box in root.findall(".//bndbox"):
            xmin = int(box.find("xmin").text)
            ymin = int(box.find("ymin").text)
            xmax = int(box.find("xmax").text)
            ymax = int(box.find("ymax").text)
            boxes.append([xmin, ymin, xmax, ymax])
        width = int(root.find(".//size/width").text)
        height = int(root.find(".//size/height").text)
        return boxes, width, height

    def load_mask(self, image_id):
        info = self.image_info[image_id]
        boxes, w, h = self.extract_boxes(info["annotation"])
        masks = zeros([h, w, len(boxes)], dtype="uint8")
        class_ids = list()
        for i in range(len(boxes)):
            box = boxes[i]
            masks[box[1] : box[3], box[0] : box[2], i] = 1
            class_ids.append(self.class_names.index("kangaroo"))
        return masks, asarray(class_ids, dtype="int32")

    def image_reference(self, image_id):
        info = self.image_info[image_id]
        return info["path"]


class AnimalConfig(Config):
    NAME = "kangaroo_cfg"
    NUM_CLASSES = 1 + 1
    STEPS_PER_EPOCH = 2
    VALIDATION_STEPS = 1
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    TRAIN_ROIS_PER_IMAGE = 16


class PredictionConfig(Config):
    NAME = "kangaroo_cfg"
    NUM_CLASSES = 1 + 1
    GPU_COUNT = 1
    IMAGES_PER_GPU = 1
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = 64
    IMAGE_MAX_DIM = 64
    DETECTION_MIN_CONFIDENCE = 0.0


def evaluate_model(dataset, model, cfg):
    APs = list()
    for image_id in dataset.image_ids:
        image, image_meta, gt_class_id, gt_bbox, gt_mask = load_image_gt(dataset, cfg, image_id, use_mini_mask=False)
        scaled_image = mold_image(image, cfg)
        sample = expand_dims(scaled_image, 0)
        yhat = model.detect(sample, verbose=0)
        r = yhat[0]
        AP, _, _, _ = compute_ap(gt_bbox, gt_class_id, gt_mask, r["rois"], r["class_ids"], r["scores"], r["masks"])
        APs.append(AP)
    return mean(APs)


def plot_actual_vs_predicted(dataset, model, cfg, n_images=2):
    for i in range(n_images):
        image = dataset.load_image(i)
        mask, _ = dataset.load_mask(i)
        scaled_image = mold_image(image, cfg)
        sample = expand_dims(scaled_image, 0)
        yhat = model.detect(sample, verbose=0)[0]
        pyplot.subplot(n_images, 2, i * 2 + 1)
        pyplot.imshow(image)
        for j in range(mask.shape[2]):
            pyplot.imshow(mask[:, :, j], cmap="gray", alpha=0.3)
        pyplot.subplot(n_images, 2, i * 2 + 2)
        pyplot.imshow(image)
        ax = pyplot.gca()
        for box in yhat["rois"]:
            y1, x1, y2, x2 = box
            rect = Rectangle((x1, y1), x2 - x1, y2 - y1, fill=False, color="red")
            ax.add_patch(rect)
    pyplot.savefig("actual_vs_predicted.png")


train_set = AnimalDataset()
train_set.load_dataset("kangaroo", is_train=True)
train_set.prepare()
print("Train: %d" % len(train_set.image_ids))
test_set = AnimalDataset()
test_set.load_dataset("kangaroo", is_train=False)
test_set.prepare()
print("Test: %d" % len(test_set.image_ids))

config = AnimalConfig()
config.display()
model = MaskRCNN(mode="training", model_dir="./", config=config)
model.load_weights(
    "mask_rcnn_coco.h5",
    by_name=True,
    exclude=["mrcnn_class_logits", "mrcnn_bbox_fc", "mrcnn_bbox", "mrcnn_mask"],
)
model.train(train_set, test_set, learning_rate=config.LEARNING_RATE, epochs=1, layers="heads")

cfg = PredictionConfig()
model = MaskRCNN(mode="inference", model_dir="./", config=cfg)
model.load_weights(model.find_last(), by_name=True)
train_mAP = evaluate_model(train_set, model, cfg)
print("Train mAP: %.3f" % train_mAP)
test_mAP = evaluate_model(test_set, model, cfg)
print("Test mAP: %.3f" % test_mAP)
plot_actual_vs_predicted(train_set, model, cfg)

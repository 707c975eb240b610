"""torchvision's side of benchmarks/torchvision_peer.py: python torchvision_worker.py TASK SHORTER_SIDE DATA_FOLDER

Needs NumPy, torch and torchvision. TASK is a network, whose time to detect includes masks on the photo above 0.5, as
`detect` gives them; or `training_<RoIs per image>`, a training step of v1 with frozen BatchNorm; or `loading`, the
images of a file in COCO's format with their masks, decoded and resized, which also needs pycocotools.
"""

import numpy as np
import torch
from torchvision.models import detection
from torchvision.models.detection.backbone_utils import resnet_fpn_backbone
from torchvision.ops import FrozenBatchNorm2d
from torchvision_task import answer_calls


def detecting(name, side, data):
    """A function that detects, and returns how many objects it found."""
    build = detection.maskrcnn_resnet50_fpn_v2 if name.endswith("v2") else detection.maskrcnn_resnet50_fpn
    model = build(weights=None, weights_backbone=None, num_classes=91, min_size=side, max_size=side * 5 // 3).eval()
    model.load_state_dict(torch.load(f"{data}/weights.pth", weights_only=True), strict=name.endswith("v2"))
    for module in model.modules():
        if name.endswith("v1") and isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.0  # as with torchvision's own weights of v1
    image = np.load(f"{data}/photo.npy")

    def detect():
        with torch.inference_mode():
            found = model([torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))])[0]
            return len(found["masks"][:, 0] > 0.5)

    return detect


def training(rois, side, data):
    """A function that makes a training step, and returns the number of RoIs that its mask head works on."""
    torch.manual_seed(0)
    backbone = resnet_fpn_backbone(
        backbone_name="resnet50", weights=None, norm_layer=FrozenBatchNorm2d, trainable_layers=5
    )
    model = detection.MaskRCNN(backbone, 81, min_size=side, max_size=side, box_batch_size_per_image=rois).train()
    weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.SGD(weights, lr=0.0, momentum=0.9, weight_decay=1e-4)
    batch = np.load(f"{data}/batch.npz")
    image, masks = torch.from_numpy(batch["image"].transpose(2, 0, 1).copy()), torch.from_numpy(batch["masks"])
    boxes, labels = torch.from_numpy(batch["boxes"][:, [1, 0, 3, 2]]).float(), torch.from_numpy(batch["classes"])
    pooled = []
    model.roi_heads.mask_head.register_forward_hook(lambda module, inputs, output: pooled.append(len(inputs[0])))

    def step():
        loss = sum(model([image], [{"boxes": boxes, "labels": labels.long(), "masks": masks}]).values())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return pooled.pop()

    return step


def loading(side, data):
    """A function that loads the samples, and returns how many masks they have."""
    from pycocotools import mask as coco_mask
    from torchvision.datasets import CocoDetection
    from torchvision.models.detection.transform import GeneralizedRCNNTransform
    from torchvision.transforms.v2 import functional

    dataset = CocoDetection(f"{data}/photos", f"{data}/chosen.json")
    resize = GeneralizedRCNNTransform(side, side, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])

    def sample(place):
        photo, objects = dataset[place]
        masks = np.zeros((len(objects), photo.height, photo.width), np.uint8)
        for mask, annotation in zip(masks, objects):
            polygons = coco_mask.frPyObjects(annotation["segmentation"], photo.height, photo.width)
            mask[:] = coco_mask.decode(polygons).any(axis=2)
        boxes = torch.tensor([annotation["bbox"] for annotation in objects]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        labels = torch.tensor([annotation["category_id"] for annotation in objects])
        image = functional.to_dtype(functional.pil_to_tensor(photo), torch.float32, scale=True)
        return resize([image], [{"boxes": boxes, "labels": labels, "masks": torch.from_numpy(masks)}])

    def samples():
        return sum(len(sample(place)[1][0]["masks"]) for place in range(len(dataset)))

    return samples


answer_calls(detecting, training, loading)

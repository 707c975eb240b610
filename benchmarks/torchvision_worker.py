"""torchvision's side of benchmarks/torchvision_peer.py: python torchvision_worker.py NAME SHORTER_SIDE DATA_FOLDER

Needs NumPy, torch and torchvision. The time includes masks on the photo above 0.5, as `detect` gives them.
"""

import json
import sys
import time

import numpy as np
import torch
from torchvision.models import detection

name, side, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
build = detection.maskrcnn_resnet50_fpn_v2 if name.endswith("v2") else detection.maskrcnn_resnet50_fpn
model = build(weights=None, weights_backbone=None, num_classes=91, min_size=side, max_size=side * 5 // 3).eval()
model.load_state_dict(torch.load(f"{data}/weights.pth", weights_only=True), strict=name.endswith("v2"))
for module in model.modules():
    if name.endswith("v1") and isinstance(module, torch.nn.BatchNorm2d):
        module.eps = 0.0  # as with torchvision's own weights of v1
image = np.load(f"{data}/photo.npy")
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    start, processor = time.perf_counter(), time.process_time()
    with torch.inference_mode():
        found = model([torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))])[0]
        masks = found["masks"][:, 0] > 0.5
    seconds = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**seconds, "found": len(masks)}), flush=True)

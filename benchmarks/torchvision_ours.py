"""This package's side of benchmarks/torchvision_peer.py: python torchvision_ours.py NAME SHORTER_SIDE DATA_FOLDER"""

import json
import sys
import time

import numpy as np

from mrcnn import MaskRCNN
from mrcnn.weights.golden.records import GOLDEN

name, side, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
sides = {"IMAGE_MIN_DIM": side, "IMAGE_MAX_DIM": side * 5 // 3}
model = MaskRCNN.from_preset(GOLDEN[name].preset, weights=f"{data}/weights.pth", **sides)
image = np.load(f"{data}/photo.npy")
print(json.dumps({"ready": True}), flush=True)
for _ in sys.stdin:
    start, processor = time.perf_counter(), time.process_time()
    masks = model.detect([image])[0]["masks"]  # pasted on the photo now
    seconds = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
    print(json.dumps({**seconds, "found": masks.shape[-1]}), flush=True)

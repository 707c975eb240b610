"""Run by .ci/run where only the wheel is installed: what it ships imports, and finds shapes in an image.

python tests/wheel_smoke.py
"""

from __future__ import annotations

import cv2
import numpy as np

import mrcnn
from mrcnn import MaskRCNN

image = np.full((128, 128, 3), (40, 90, 160), np.uint8)
cv2.rectangle(image, (15, 20), (55, 60), (230, 200, 40), -1)
cv2.circle(image, (90, 85), 22, (200, 40, 60), -1)
model = MaskRCNN("inference", weights="shapes")
found = model.detect([image])[0]
names = sorted(model.class_names[i] for i in found["class_ids"])
assert names == ["circle", "square"], names
assert found["masks"].shape == (128, 128, 2) and found["masks"][85, 90].any() and found["masks"][40, 35].any()
print(f"{mrcnn.__file__}: found a {' and a '.join(names)}")

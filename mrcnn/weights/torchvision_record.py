"""What torchvision itself computes from a checkpoint, stage by stage, for `python -m mrcnn.verify FILE --torchvision`.

Needs the packages torch and torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mrcnn.weights.layouts.network import Network
from mrcnn.weights.readers import read_state_dict


def torchvision_record(
    path: str, network: Network, image: np.ndarray, min_size: int, max_size: int, eps: float
) -> dict[str, np.ndarray]:
    """Runs a checkpoint in torchvision's own Mask R-CNN.

    Args:
        path: the checkpoint.
        network: what is in it, `mrcnn.weights.layouts`.
        image: [H, W, 3] uint8 RGB.
        min_size: pixels, `IMAGE_MIN_DIM`.
        max_size: pixels, `IMAGE_MAX_DIM`.
        eps: of all BatchNorms, `BATCH_NORM_EPS`.

    Returns:
        dict of `C2_0`..`C5_0` and `P2_0`..`P6_0`, [channels, h, w]; `boxes_0` [n, (x1, y1, x2, y2)] in pixels of the
        image; `scores_0` [n].

    Raises:
        ImportError: torch or torchvision is not installed.
        ValueError: the checkpoint has other weights than torchvision's network.
    """
    import torch
    from torchvision.models import detection

    build = detection.maskrcnn_resnet50_fpn_v2 if network.head_norm else detection.maskrcnn_resnet50_fpn
    sizes: dict[str, Any] = {"min_size": min_size, "max_size": max_size, "num_classes": network.classes}
    model = build(weights=None, weights_backbone=None, **sizes).eval()
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = eps
    state = {name: torch.from_numpy(np.array(array)) for name, array in read_state_dict(path).items()}
    result = model.load_state_dict(state, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("num_batches_tracked")]
    if missing or result.unexpected_keys:
        raise ValueError(
            f"{path} doesn't fit torchvision's {build.__name__}: missing {missing[:5]}, unexpected"
            f" {result.unexpected_keys[:5]}."
        )
    record: dict[str, np.ndarray] = {}

    def keep(letter: str, first: int):
        def hook(module, inputs, outputs):
            for i, feature in enumerate(outputs.values()):
                record[f"{letter}{first + i}_0"] = feature[0].numpy()

        return hook

    model.backbone.body.register_forward_hook(keep("C", 2))
    model.backbone.register_forward_hook(keep("P", 2))
    with torch.no_grad():
        found = model([torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))])[0]
    return record | {"boxes_0": found["boxes"].numpy(), "scores_0": found["scores"].numpy()}

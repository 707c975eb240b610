"""Makes a record (`records`) with torchvision itself, for `python -m mrcnn.verify FILE --torchvision`.

Needs the packages torch and torchvision.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from mrcnn.weights.layouts.network import Network
from mrcnn.weights.readers import read_state_dict

from .records import ANCHOR_STEP, CELLS, LOGIT_CELLS, thin_cells, thin_map

LEVELS = ("P2", "P3", "P4", "P5", "P6")
CLASS_STEP = 9  # of the box deltas in a record


def run_torchvision(
    path: str, network: Network, image: np.ndarray, min_size: int, max_size: int, eps: float
) -> dict[str, np.ndarray]:
    """Runs a checkpoint in torchvision's own Mask R-CNN.

    Args:
        path: The checkpoint.
        network: What is in it, `mrcnn.weights.layouts`.
        image: [H, W, 3] uint8 RGB.
        min_size: Pixels, `IMAGE_MIN_DIM`.
        max_size: Pixels, `IMAGE_MAX_DIM`.
        eps: Of all BatchNorms, `BATCH_NORM_EPS`.

    Returns:
        A record with all stages.

    Raises:
        ImportError: torch or torchvision is not installed.
        ValueError: The checkpoint has other weights than torchvision's network.
    """
    import torch

    model = load_torchvision(path, network, min_size, max_size, eps)
    record: dict[str, np.ndarray] = {}
    _watch(model, record)
    with torch.no_grad():
        found = model([torch.from_numpy(image.transpose(2, 0, 1) / np.float32(255))])[0]
    record |= {name: found[name].numpy() for name in ("boxes", "labels", "scores")}
    masks = found["masks"][:, 0].numpy() > 0.5
    return record | {"masks": np.packbits(masks), "masks_shape": np.array(masks.shape)}


def load_torchvision(path: str, network: Network, min_size: int, max_size: int, eps: float) -> Any:
    """torchvision's network with the weights of a checkpoint. Arguments and errors as for `run_torchvision`."""
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
    return model


def _watch(model: Any, record: dict[str, np.ndarray]) -> None:
    """Fills `record` while the model runs."""

    def watch(module, keep) -> None:
        module.register_forward_hook(lambda module, inputs, outputs: keep(outputs))

    def keep_maps(names):
        def keep(maps) -> None:
            record.update({name: thin_map(x[0].numpy()) for name, x in zip(names, maps.values())})

        return keep

    def keep_size(outputs) -> None:
        record["resized_size"] = np.array(outputs[0].image_sizes[0])

    def keep_rpn(outputs) -> None:
        for level, logits, deltas in zip(LEVELS, *outputs):
            record[f"rpn_logits_{level}"] = thin_cells(logits[0].numpy(), LOGIT_CELLS)
            record[f"rpn_deltas_{level}"] = thin_cells(deltas[0].numpy(), CELLS)
        record["cells"] = np.array([logits[0].numel() for logits in outputs[0]])

    def keep_anchors(outputs) -> None:
        of_levels = np.split(outputs[0].numpy(), np.cumsum(record.pop("cells"))[:-1])
        for level, anchors in zip(LEVELS, of_levels):
            record[f"anchors_{level}_first"] = anchors[:30:ANCHOR_STEP]
            record[f"anchors_{level}_last"] = anchors[-1:-31:-ANCHOR_STEP]

    def keep_proposals(outputs) -> None:
        record["proposals"] = outputs[0][0].numpy()
        record["proposal_count"] = np.array(len(record["proposals"]))

    def keep_classes(outputs) -> None:
        record["class_logits"] = outputs[0].numpy()
        record["box_deltas"] = outputs[1].numpy().reshape(len(outputs[1]), -1, 4)[:, ::CLASS_STEP]

    watch(model.transform, keep_size)
    watch(model.backbone.body, keep_maps(("C2", "C3", "C4", "C5")))
    watch(model.backbone, keep_maps(LEVELS))
    watch(model.rpn.head, keep_rpn)
    watch(model.rpn.anchor_generator, keep_anchors)
    watch(model.rpn, keep_proposals)
    watch(model.roi_heads.box_predictor, keep_classes)

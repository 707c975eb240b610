"""`mrcnn.utils` and `import mrcnn`: names, signatures and behavior that users' scripts rely on."""

from __future__ import annotations

import inspect
import random
import subprocess
import sys

import numpy as np
import pytest
from keras import ops

from mrcnn import utils

MATCH = "gt_boxes, gt_class_ids, gt_masks, pred_boxes, pred_class_ids, pred_scores, pred_masks"
SIGNATURES = {
    "extract_bboxes": "mask",
    "compute_iou": "box, boxes, box_area, boxes_area",
    "compute_overlaps": "boxes1, boxes2",
    "compute_overlaps_masks": "masks1, masks2",
    "non_max_suppression": "boxes, scores, threshold",
    "apply_box_deltas": "boxes, deltas",
    "box_refinement_graph": "box, gt_box",
    "box_refinement": "box, gt_box",
    "Dataset": "class_map=None",
    "resize_image": "image, min_dim=None, max_dim=None, min_scale=None, mode='square'",
    "resize_mask": "mask, scale, padding, crop=None",
    "minimize_mask": "bbox, mask, mini_shape",
    "expand_mask": "bbox, mini_mask, image_shape",
    "mold_mask": "mask, config",
    "unmold_mask": "mask, bbox, image_shape",
    "generate_anchors": "scales, ratios, shape, feature_stride, anchor_stride",
    "generate_pyramid_anchors": "scales, ratios, feature_shapes, feature_strides, anchor_stride",
    "trim_zeros": "x",
    "compute_matches": f"{MATCH}, iou_threshold=0.5, score_threshold=0.0",
    "compute_ap": f"{MATCH}, iou_threshold=0.5",
    "compute_ap_range": "gt_box, gt_class_id, gt_mask, pred_box, pred_class_id, pred_score, pred_mask, "
    "iou_thresholds=None, verbose=1",
    "compute_recall": "pred_boxes, gt_boxes, iou",
    "batch_slice": "inputs, graph_fn, batch_size, names=None",
    "download_trained_weights": "coco_model_path, verbose=1",
    "norm_boxes": "boxes, shape",
    "denorm_boxes": "boxes, shape",
    "resize": "image, output_shape, order=1, mode='constant', cval=0, clip=True, preserve_range=False, "
    "anti_aliasing=False, anti_aliasing_sigma=None",
}


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    return run.stdout.strip()


@pytest.mark.parametrize("name", SIGNATURES)
def test_signatures_match_matterport(name):
    parameters = inspect.signature(getattr(utils, name)).parameters.values()
    assert ", ".join(str(p.replace(annotation=p.empty)) for p in parameters) == SIGNATURES[name]


def test_coco_weights_are_those_of_release_2_0():
    assert utils.COCO_MODEL_URL.endswith("/releases/download/v2.0/mask_rcnn_coco.h5")  # v2.1 has none (#1515)


def test_star_import_brings_the_names_and_the_modules():
    names = [*SIGNATURES, "COCO_MODEL_URL"]
    names += ["sys", "os", "logging", "math", "random", "np", "scipy", "skimage", "urllib", "shutil", "warnings", "xml"]
    code = f"from mrcnn.utils import *\nprint(*(n for n in {names} if n not in globals()))"
    assert not hasattr(utils, "__all__")
    assert python(code) == ""


def test_modules_used_without_an_import_are_available():
    code = "import xml.etree\nfrom mrcnn import utils\nxml.etree.ElementTree.fromstring('<a/>')\n"
    code += "print(utils.skimage.io.imread.__name__, utils.skimage.transform.resize.__name__)"
    assert python(code) == "imread resize"


def test_importing_mrcnn_loads_nothing_heavy():
    heavy = "tensorflow keras jax torch cv2 skimage matplotlib"
    code = f"import sys, mrcnn\nprint(mrcnn.__version__, *(n for n in '{heavy}'.split() if n in sys.modules))"
    assert python(code) == "1.0.0"


def test_imgaug_can_be_imported_after_mrcnn():
    assert python("import mrcnn, imgaug.augmenters as iaa\nprint(iaa.Fliplr(0.5).name[:7])") == "Unnamed"


def test_sctypes_are_restored_only_where_missing():
    code = "import numpy as np\nmine = {}\nnp.sctypes = mine\nimport mrcnn\nprint(np.sctypes is mine)"
    assert python(code) == "True"


def test_crops_use_pythons_random():
    image = np.zeros((90, 200, 3), np.uint8)
    crops = []
    for seed in (1, 1, 2):
        random.seed(seed)
        crops.append(utils.resize_image(image, min_dim=64, mode="crop")[4])
    assert crops[0] == crops[1] != crops[2]


def test_batch_slice_stacks_the_results_for_each_image():
    batch = np.arange(6, dtype="float32").reshape(2, 3)
    one = utils.batch_slice(batch, lambda x: x * 2, 2)
    np.testing.assert_array_equal(ops.convert_to_numpy(one), batch * 2)
    both = utils.batch_slice([batch, batch + 1], lambda x, y: (x + y, y[:1]), 2, names=["sum", "first"])
    assert isinstance(both, list)
    np.testing.assert_array_equal(ops.convert_to_numpy(both[0]), 2 * batch + 1)
    np.testing.assert_array_equal(ops.convert_to_numpy(both[1]), [[1], [4]])


@pytest.mark.parametrize("verbose", [0, 1])
def test_download_trained_weights_fetches_coco_to_the_path(monkeypatch, capsys, verbose):
    calls = []
    monkeypatch.setattr(utils, "_download", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert utils.download_trained_weights("weights/coco.h5", verbose=verbose) is None
    assert calls == [((utils.COCO_MODEL_URL, "weights/coco.h5"), {"progress": bool(verbose)})]
    assert bool(capsys.readouterr().out) == bool(verbose)


def test_mold_mask_does_nothing():
    assert utils.mold_mask(np.ones((3, 3)), None) is None

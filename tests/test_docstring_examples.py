"""The examples in docstrings run and print what they show; public classes and functions that users call have one."""

from __future__ import annotations

import doctest
import importlib
import inspect
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
DOCUMENTED = re.findall(r"^::: (mrcnn\.[\w.]+\.\w+)", (ROOT / "docs/api.md").read_text(encoding="utf-8"), re.MULTILINE)
WITH_EXAMPLES = sorted(path for path in (ROOT / "mrcnn").rglob("*.py") if ">>>" in path.read_text(encoding="utf-8"))
MUST_HAVE_ONE = (
    "ops.anchors.anchors_of_image",
    "ops.boxes.apply_box_deltas",
    "ops.boxes.compute_overlaps",
    "ops.mask_boxes.extract_bboxes",
    "ops.boxes.norm_boxes",
    "ops.images.resize_image",
    "ops.pixel_values.to_rgb_uint8",
    "ops.masks.minimize_mask",
    "ops.masks.paste_masks",
    "ops.meta.compose_image_meta",
    "ops.nms.non_max_suppression",
    "nn.anchors.Anchors",
    "nn.detections.DetectionLayer",
    "nn.norm.BatchNorm",
    "nn.proposals.ProposalLayer",
    "nn.targets.DetectionTargetLayer",
    "data.dataset.Dataset",
    "data.generator.DataGenerator",
    "data.training_sample.load_image_gt",
    "data.summary.DatasetSummary",
    "data.class_names.check_same_classes",
    "data.class_names.number_classes",
    "data.format_detection.open_dataset",
    "data.format_detection.open_splits",
    "data.formats.via.ViaDataset",
    "data.formats.labelme.LabelmeDataset",
    "data.formats.labelme.save_labelme",
    "data.formats.voc.VocDataset",
    "data.formats.yolo.YoloSegDataset",
    "data.formats.open_images.OpenImagesDataset",
    "data.formats.m2nist.M2nistDataset",
    "data.formats.coco.CocoDataset",
    "data.formats.coco.save_coco",
    "data.formats.cvat_writer.save_cvat",
    "data.formats.yolo_writer.save_yolo",
    "data.convert.convert",
    "data.formats.cvat.CvatDataset",
    "data.formats.supervisely.SuperviselyDataset",
    "data.formats.cityscapes.CityscapesDataset",
    "data.formats.panoptic.PanopticDataset",
    "data.formats.label_studio.LabelStudioDataset",
    "data.formats.rle_csv.RleCsvDataset",
    "data.formats.id_png.PennFudanDataset",
    "data.formats.instance_pngs.NucleiDataset",
    "ops.rle.to_rle",
)


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_examples_print_what_they_show(path):
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    result = doctest.testmod(importlib.import_module(name.removesuffix(".__init__")))
    assert result.attempted and not result.failed


@pytest.mark.parametrize("name", MUST_HAVE_ONE)
def test_every_public_name_has_an_example(name):
    module, attribute = name.rsplit(".", 1)
    assert ">>>" in inspect.getdoc(getattr(importlib.import_module(f"mrcnn.{module}"), attribute))


@pytest.mark.parametrize("name", DOCUMENTED)
def test_everything_in_the_api_reference_has_an_example(name):
    module, attribute = name.rsplit(".", 1)
    found = inspect.getdoc(getattr(importlib.import_module(module), attribute))
    assert ">>>" in found or "Example:" in found

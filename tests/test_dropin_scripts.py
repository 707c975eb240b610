"""Runs whole scripts in the style of public ones (`dropin_scripts/`), unchanged, on small generated data.

The scripts were written for these tests and use only matterport's API. One runs in a separate process, the others in
this one, where TensorFlow runs eagerly to save compilation time.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import cv2
import keras
import matplotlib.pyplot as plt
import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.model import MaskRCNN

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
pytestmark = [
    pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="old scripts were written for TensorFlow"),
    pytest.mark.filterwarnings("ignore:Even though the `tf.config:UserWarning"),
]


class CocoShaped(Config):
    NAME = "coco"
    NUM_CLASSES = 1 + 80
    BACKBONE = "resnet50"
    IMAGE_MIN_DIM = IMAGE_MAX_DIM = 64


@pytest.fixture(scope="module")
def coco_weights(tmp_path_factory):
    """A file called mask_rcnn_coco.h5 with the right layers and shapes, and random numbers."""
    keras.utils.set_random_seed(3)
    path = tmp_path_factory.mktemp("weights") / "mask_rcnn_coco.h5"
    MaskRCNN("inference", CocoShaped(), "logs").save_weights(path)
    return path


@pytest.fixture
def folder(tmp_path, coco_weights, monkeypatch):
    """The folder in which a script runs, with the weights."""
    (tmp_path / "mask_rcnn_coco.h5").symlink_to(coco_weights)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def run(monkeypatch, capsys):
    """`run("x.py", *arguments)`: runs a script as `python x.py` would, and returns what it printed."""
    import tensorflow as tf

    def execute(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *arguments])
        monkeypatch.setattr(sys, "path", [*sys.path])
        modules = set(sys.modules)
        tf.config.run_functions_eagerly(True)
        try:
            runpy.run_path(str(HERE / "dropin_scripts" / name), run_name="__main__")
        finally:
            tf.config.run_functions_eagerly(False)
            plt.close("all")
            for module in set(sys.modules) - modules:
                if module.split(".")[0] in ("coco", "samples"):
                    del sys.modules[module]
        return capsys.readouterr().out

    return execute


def draw(height=64, width=64, seed=0):
    """A photo with a disc and a bar on noise, and their label map (1 disc, 2 bar)."""
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 60, (height, width, 3)).astype(np.uint8)
    labels = np.zeros((height, width), np.uint8)
    cv2.circle(labels, (18 + seed, 20), 12, 1, -1)
    cv2.rectangle(labels, (34, 30), (58, 56), 2, -1)
    image[labels == 1] = (30, 60, 220)
    image[labels == 2] = (40, 200, 40)
    return image, labels


# ---- The kangaroo tutorial ------------------------------------------------------------------------------------------
VOC = """<annotation><filename>{name}</filename><size><width>{width}</width><height>{height}</height><depth>3</depth>
</size>{objects}</annotation>"""
VOC_OBJECT = """<object><name>kangaroo</name><bndbox><xmin>{0}</xmin><ymin>{1}</ymin><xmax>{2}</xmax><ymax>{3}</ymax>
</bndbox></object>"""


@pytest.mark.slow
def test_kangaroo_with_voc_boxes_in_a_subprocess(folder):
    for part in ("images", "annots"):
        (folder / "kangaroo" / part).mkdir(parents=True)
    for i in range(1, 7):
        image, _ = draw(60, 80, seed=i)
        cv2.imwrite(f"kangaroo/images/0000{i}.jpg", image)
        objects = "".join(VOC_OBJECT.format(*box) for box in ((6 + i, 8, 30 + i, 32), (34, 30, 58, 56)))
        text = VOC.format(name=f"0000{i}.jpg", width=80, height=60, objects=objects)
        Path(f"kangaroo/annots/0000{i}.xml").write_text(text)
    settings = {"PYTHONPATH": str(ROOT), "MPLBACKEND": "Agg", "TF_CPP_MIN_LOG_LEVEL": "2"}
    script = subprocess.run(
        [sys.executable, HERE / "dropin_scripts" / "kangaroo.py"],
        env={**os.environ, **settings}, capture_output=True, text=True,
    )  # fmt: skip
    assert script.returncode == 0, script.stderr[-3000:]
    assert "Train: 3" in script.stdout and "Test: 2" in script.stdout
    lines = [line for line in script.stdout.splitlines() if "mAP" in line]
    assert [line.split(":")[0] for line in lines] == ["Train mAP", "Test mAP"]
    assert all(0 <= float(line.split(":")[1]) <= 1 for line in lines)
    assert len(list(folder.glob("kangaroo_cfg2*/mask_rcnn_kangaroo_cfg_0001.h5"))) == 1
    assert (folder / "actual_vs_predicted.png").stat().st_size > 1000


# ---- Balloons -------------------------------------------------------------------------------------------------------
def write_video(path, frames):
    height, width = frames[0].shape[:2]
    writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"MJPG"), 5, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(frame)
    writer.release()


def count_frames(path):
    capture, count = cv2.VideoCapture(str(path)), 0
    while capture.read()[0]:
        count += 1
    return count


def test_balloons_train_and_splash(folder, run):
    for subset, as_list in (("train", False), ("val", True)):  # VIA 1 wrote a dict of regions, VIA 2 a list
        (folder / "toys" / subset).mkdir(parents=True)
        annotations = {}
        for i in range(2):
            image, _ = draw(64, 80, seed=i)
            cv2.imwrite(f"toys/{subset}/{i}.jpg", image)
            shape = {"name": "polygon", "all_points_x": [6, 30, 30, 6], "all_points_y": [8, 8, 32, 40]}
            regions = [{"shape_attributes": shape, "region_attributes": {}}]
            regions = regions if as_list else {str(k): region for k, region in enumerate(regions)}
            annotations[f"{i}.jpg123"] = {"filename": f"{i}.jpg", "size": 123, "regions": regions}
        annotations["x.jpg9"] = {"filename": "x.jpg", "size": 9, "regions": []}  # not annotated
        Path(f"toys/{subset}/via_region_data.json").write_text(json.dumps(annotations))
    printed = run("balloons.py", "train", "--dataset=toys", "--weights=coco")
    assert "Training network heads" in printed and "BATCH_SIZE" in printed
    assert len(list(folder.glob("logs/balloon2*/mask_rcnn_balloon_0001.h5"))) == 1

    assert "Saved to  splash_" in run("balloons.py", "splash", "--weights=last", "--image=toys/val/0.jpg")
    (splash,) = folder.glob("splash_*.png")
    assert cv2.imread(str(splash)).shape == (64, 80, 3)
    write_video(folder / "clip.avi", [draw(64, 80, seed=i)[0] for i in range(3)])
    run("balloons.py", "splash", "--weights=last", "--video=clip.avi")
    (splash,) = folder.glob("splash_*.avi")
    assert count_frames(splash) == 3


# ---- Nuclei ---------------------------------------------------------------------------------------------------------
def test_nuclei_with_imgaug_crops_and_a_submission(folder, run):
    for i in range(4):
        image, labels = draw(70, 90, seed=i)
        for part in ("images", "masks"):
            (folder / f"nuclei/stage1_train/cell{i}/{part}").mkdir(parents=True)
        rgba = np.dstack([image, np.full(image.shape[:2], 255, np.uint8)])  # as the contest's files
        cv2.imwrite(f"nuclei/stage1_train/cell{i}/images/cell{i}.png", rgba)
        for label in (1, 2):
            cv2.imwrite(f"nuclei/stage1_train/cell{i}/masks/{label}.png", (labels == label).astype(np.uint8) * 255)
    printed = run("nuclei.py")
    assert "Starting at epoch 0" in printed and "Starting at epoch 1" in printed
    assert len(list(folder.glob("logs/nucleus2*/mask_rcnn_nucleus_000[12].h5"))) == 2
    (submission,) = folder.glob("results/nucleus/submit_*/submit.csv")
    lines = submission.read_text().splitlines()
    assert lines[0] == "ImageId,EncodedPixels" and len(lines) > 1
    assert all(line.startswith("cell3,") for line in lines[1:])
    runs = [int(n) for line in lines[1:] for n in line.split(",")[1].split()]
    assert all(1 <= n <= 70 * 90 for n in runs)  # none where two steps of training taught it nothing
    assert submission.with_name("cell3.png").stat().st_size > 1000


# ---- One channel ----------------------------------------------------------------------------------------------------
def test_one_channel_with_two_gpus_and_history(folder, run):
    for part in ("pic", "mask"):
        (folder / "gray" / part).mkdir(parents=True)
    for i in range(3):
        image, labels = draw(seed=i)
        cv2.imwrite(f"gray/pic/{i}.png", image[..., 1])
        cv2.imwrite(f"gray/mask/{i}.png", labels)
    printed = run("one_channel.py")
    for name in ("loss", "val_loss", "rpn_class_loss", "val_mrcnn_mask_loss"):
        assert f"\n{name} 1\n" in printed  # of the second call of train
    assert "epoch 2" in printed and "run gray_shapes2" in printed
    assert 0 <= float(printed.split("mAP: ")[1].split()[0]) <= 1
    assert (folder / "logs_gray" / "mask_rcnn_shapes.h5").is_file() and (folder / "loss.png").is_file()


# ---- COCO -----------------------------------------------------------------------------------------------------------
COCO_IDS = [
    *range(1, 12),
    *range(13, 26),
    27,
    28,
    *range(31, 45),
    *range(46, 66),
    67,
    70,
    *range(72, 83),
    *range(84, 91),
]


def test_coco_demo_with_import_coco(folder, run):
    (folder / "samples").symlink_to(ROOT / "samples")
    (folder / "images").mkdir()
    (folder / "coco_data" / "annotations").mkdir(parents=True)
    cv2.imwrite("images/photo.jpg", draw(80, 100)[0])
    write_video(folder / "clip.avi", [draw(64, 80, seed=i)[0] for i in range(2)])
    names = {88: "teddy bear"}
    content = {
        "images": [{"id": 7, "file_name": "7.jpg", "height": 80, "width": 100}],
        "categories": [{"id": i, "name": names.get(i, f"thing{i}"), "supercategory": "x"} for i in COCO_IDS],
        "annotations": [{"id": 1, "image_id": 7, "category_id": 88, "iscrowd": 0, "area": 400, "bbox": [5, 5, 20, 20],
                         "segmentation": [[5, 5, 25, 5, 25, 25, 5, 25]]}],
    }  # fmt: skip
    Path("coco_data/annotations/instances_val2017.json").write_text(json.dumps(content))
    printed = run("coco_demo.py")
    assert "81 classes, 1 images, 78" in printed
    assert "True results" in printed and "frames 2" in printed
    assert (folder / "demo.png").stat().st_size > 1000


# ---- Looking inside -------------------------------------------------------------------------------------------------
def test_inspect_model_step_by_step(folder, run):
    printed = run("inspect_model.py")
    for text in ("target_rpn_match", "pre_nms_anchors", "post_nms_anchor_ix", "RPN recall of all anchors: ",
                 "Valid proposals out of 1000", "Kept after per-class NMS: True", "det_masks", "res3c_out",
                 "rpn_conv_shared"):  # fmt: skip
        assert text in printed, text

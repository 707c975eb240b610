"""The networks of torchvision and detectron2 against what these computed (tests/golden/torch), by stages and whole.

Weights and images come from formulas. The records were made with torchvision 0.28 and detectron2 02b5c4e2 in float32 on
a CPU. The same networks in float64 differ from them by 1e-5 of the largest value; ten times that is allowed here.
Boxes of the records are x1, y1, x2, y2, and maps have their channels first.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest
from golden.torch.formula import IMAGES, draw, formula_state, grid, listing, sample
from keras import ops

from mrcnn.config import Config
from mrcnn.model import MaskRCNN
from mrcnn.weights.layouts import LAYOUTS, state_to_layers

FOLDER = Path(__file__).parent / "golden" / "torch"
YX = [1, 0, 3, 2]
CLOSE = 1e-4
C4 = {
    "IMAGE_RESIZE_MODE": "shorter_side",
    "PRE_NMS_LIMIT": 6000,
    "POST_NMS_ROIS_INFERENCE": 100,
    "MASK_SHAPE": [14, 14],
}
MODELS = {
    "torchvision_v1": {"BATCH_NORM_EPS": 0.0}, "torchvision_v2": {}, "detectron2_R50-FPN": {}, "detectron2_LSJ": {},
    "detectron2_cascade": {}, "detectron2_R50-C4": C4,
}  # fmt: skip


def numpy(tensors):
    return keras.tree.map_structure(ops.convert_to_numpy, tensors)


def all_layers(model) -> dict:
    """Layers by name, those of a nested model as "model/layer"."""
    found = {}
    for layer in model.layers:
        nested = {f"{layer.name}/{x.name}": x for x in layer.layers} if isinstance(layer, keras.Model) else {}
        found |= nested or {layer.name: layer}
    return found


class Case:
    """A network with the formula's weights, its record, and what it computes of one image."""

    def __init__(self, name: str, folder: str):
        self.name, self.project = name, name.split("_")[0]
        with np.load(FOLDER / f"{name}.npz") as record:
            self.record = dict(record)
        state = formula_state(listing(FOLDER / f"{name}_state.txt"), name)
        settings = LAYOUTS[self.project].network_of(state).settings() | MODELS[name]
        self.config = Config(NAME="golden", IMAGE_MIN_DIM=256, IMAGE_MAX_DIM=426, **settings)
        self.model = MaskRCNN("inference", self.config, folder)
        layers = all_layers(self.model)
        for layer, arrays in state_to_layers(state).items():
            missing = [np.zeros(w.shape) for w in layers[layer].weights[len(arrays) :]]  # a bias that theirs lacks
            layers[layer].set_weights([*arrays, *missing])
        self.c4 = self.config.BOX_HEAD == "c4"
        self.levels = ["C4"] if self.c4 else ["P2", "P3", "P4", "P5", "P6"]
        stages = ["res4f_out"] if self.c4 else ["res2c_out", "res3d_out", "res4f_out", "res5c_out"]
        logits, deltas, anchors, _, *levels = self.model.get_layer("ROI").input
        outputs = {
            "stages": [self.model.get_layer(stage).output for stage in stages], "levels": levels, "logits": logits,
            "deltas": deltas, "anchors": anchors, "proposals": self.model.get_layer("ROI").output,
        }  # fmt: skip
        self.first_stage = keras.Model(self.model.inputs, outputs)
        self.cascade = [] if "cascade" not in name else ["_s2", "_s3"]
        outputs = {
            part + head: self.model.get_layer(part + head).output
            for part in ("mrcnn_class", "mrcnn_bbox") for head in ["", *self.cascade]
        }  # fmt: skip
        self.heads = keras.Model(self.model.get_layer("roi_align_classifier").input, outputs)
        self.size, self.meta, self.found = [], [], []
        for i in range(len(IMAGES)):
            molded, meta, _ = self.model.mold_inputs([draw(*IMAGES[i])])
            self.size.append(np.tile(molded.shape[1:3], 2))
            self.meta.append(meta)
            self.found.append(numpy(self.first_stage([molded, meta])))

    def expected(self, name: str, i: int) -> np.ndarray:
        return self.record[f"{name}_{i}"]

    def error(self, ours, name: str, i: int) -> float:
        """Largest difference, relative to the largest value."""
        theirs = self.expected(name, i)
        return float(np.abs(ours - theirs).max() / np.abs(theirs).max())

    def of_levels(self, values, i: int):
        """Splits rows of all anchors: level, and [h, w, anchors, ...] for each."""
        start, per_cell = 0, 15 if self.c4 else 3
        for level, x in zip(self.levels, self.found[i]["levels"]):
            height, width = x.shape[1:3]
            rows = values[start : start + height * width * per_cell]
            start += len(rows)
            yield level, rows.reshape(height, width, per_cell, *values.shape[1:])


@pytest.fixture(scope="module", params=MODELS)
def case(request, tmp_path_factory):
    yield Case(request.param, str(tmp_path_factory.mktemp("logs")))
    keras.backend.clear_session()


def thinned(x, side: int) -> np.ndarray:
    """[C, h, w] as the record has it: rows and columns of `grid`, then every second value along each axis."""
    return x[:, grid(x.shape[1], side)][:, :, grid(x.shape[2], side)][::2, ::2, ::2]


def test_backbone_and_pyramid(case):
    stages = ["C4"] if case.c4 else ["C2", "C3", "C4", "C5"]
    for i, found in enumerate(case.found):
        for name, x in zip([*stages, *case.levels], [*found["stages"], *found["levels"]]):
            assert case.error(sample(x[0].transpose(2, 0, 1))[::2, ::2, ::2], name, i) < CLOSE, (name, i)


def test_rpn_and_anchors(case):
    for i, found in enumerate(case.found):
        assert case.meta[i][0, 7:11].tolist() == [0, 0, *case.expected("resized_size", i)]
        for level, x in case.of_levels(found["logits"][0][..., -1:], i):
            logits = thinned(x[..., 0].transpose(2, 0, 1), 14)
            assert case.error(logits, f"rpn_logits_{level}", i) < CLOSE, (level, i)
        for level, x in case.of_levels(found["deltas"][0], i):
            deltas = x[..., YX].reshape(*x.shape[:2], -1).transpose(2, 0, 1)  # [anchors * 4, h, w]
            assert case.error(thinned(deltas, 12), f"rpn_deltas_{level}", i) < CLOSE, (level, i)
        for level, x in case.of_levels(found["anchors"][0] * case.size[i], i):
            x = x.reshape(-1, 4)[:, YX]
            np.testing.assert_allclose(x[:30:29], case.expected(f"anchors_{level}_first", i), atol=1e-3)
            np.testing.assert_allclose(x[-1:-31:-29], case.expected(f"anchors_{level}_last", i), atol=1e-3)


def test_proposals(case):
    for i, found in enumerate(case.found):
        ours = found["proposals"][0] * case.size[i]
        ours, theirs = ours[ours.any(axis=1)][:, YX], case.expected("proposals", i)
        assert len(ours) == len(theirs)
        nearest = np.abs(theirs[:, None] - ours[None]).max(axis=-1).min(axis=1)
        assert np.mean(nearest < 0.01) >= 0.99


def test_the_class_heads_on_their_proposals(case):
    for i in (0, 2):
        found = case.found[i]
        boxes = np.zeros_like(found["proposals"])
        theirs = case.expected("proposals", i)[:, YX] / case.size[i]
        boxes[0, : len(theirs)] = theirs
        levels = found["levels"][:4]
        outputs = numpy(case.heads([boxes, case.meta[i], *levels]))
        for k, head in enumerate(["", *case.cascade]):
            probs, deltas = outputs["mrcnn_class" + head], outputs["mrcnn_bbox" + head]
            number = str(k) if case.cascade else ""
            logits = case.expected(f"class_logits{number}", i)
            if case.project == "detectron2":  # background is last there
                logits = np.roll(logits, 1, axis=1)
            expected = np.exp(logits - logits.max(axis=1, keepdims=True))
            expected /= expected.sum(axis=1, keepdims=True)
            np.testing.assert_allclose(probs[0, : len(expected)], expected, atol=CLOSE)
            expected = case.expected(f"box_deltas{number}", i)
            ours = deltas[0, : len(expected)][..., YX]
            if number:
                ours = ours[:, 0]  # the same for all classes
            else:  # every 9th class of torchvision's, of detectron2's without background every 8th
                ours = ours[:, ::9] if case.project == "torchvision" else ours[:, 1::8]
            np.testing.assert_allclose(ours, expected, atol=CLOSE)


def test_detections(case):
    for i in (0, 2) if case.name == "torchvision_v1" else (0,):  # the network is traced for each size
        (found,) = case.model.detect([draw(*IMAGES[i])])
        labels = case.expected("labels", i) + (case.project == "detectron2")
        boxes, scores = case.expected("boxes", i)[:, YX], case.expected("scores", i)
        assert len(found["scores"]) == len(scores)
        distance = np.abs(found["rois"][:, None] - boxes[None]).max(axis=-1)  # equal scores may change places
        distance[found["class_ids"][:, None] != labels[None]] = np.inf
        match = distance.argmin(axis=1)
        assert sorted(match) == list(range(len(scores)))
        assert distance.min(axis=1).max() < 0.05
        np.testing.assert_allclose(found["scores"], scores[match], atol=CLOSE)
        if i == 0:
            shape = case.record["masks_shape_0"]
            masks = np.unpackbits(case.record["masks_0"])[: shape.prod()].reshape(shape).astype(bool)
            masks = np.moveaxis(masks[match], 0, -1)
            both, either = (found["masks"] & masks).sum((0, 1)), (found["masks"] | masks).sum((0, 1))
            assert both.sum() / either.sum() >= 0.999
            # In float64 up to 6 of 100,000 pixels differ as well; one is more than 0.1 % of a small mask.
            assert np.all(either - both <= np.maximum(2, 0.001 * either))

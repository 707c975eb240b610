"""The steps from one photo to its detections as arrays: anchors, RPN, proposals, classes, candidates, masks.

`mrcnn serve` shows them on its web page. All are computed in one run of a graph with the layers of the model.

Shapes and units:
    A  anchors     K  anchors kept before the RPN's NMS     N  proposals     C  classes, 0 is background
    M  candidates: classified boxes before the NMS of detections
    boxes  (y1, x1, y2, x2), normalized to the padded image unless said otherwise
"""

from __future__ import annotations

from dataclasses import dataclass

import keras
import numpy as np

from mrcnn.graph import anchors_per_location, proposals_of
from mrcnn.inference import molding
from mrcnn.keras_private import source_of
from mrcnn.nn.detections import DetectedBoxes, DetectionLayer, FilledRows
from mrcnn.nn.folding import fold_batchnorm
from mrcnn.ops.anchors import anchors_of_image, backbone_shapes

MOST_CANDIDATES = 200
LOWEST_SCORE = 0.05  # of candidates
NO_NMS = 2.0  # an IoU that no two boxes have


@dataclass
class Inspection:
    """The steps of one photo.

    Attributes:
        photo_shape, molded_shape: (height, width), pixels.
        window: (y1, x1, y2, x2), the photo's place in the molded image, pixels.
        anchors: [A, 4] pixels of the molded image, level by level.
        level_shapes: [L, (height, width)], the cells of each level that have anchors.
        anchors_per_cell: Number of anchors in a cell.
        objectness: [A], the RPN's probability of an object.
        best_anchors, refined: [K, 4], anchors in the order of `ProposalLayer`, and moved by their deltas and clipped.
        kept: [n] int, rows of these that become proposals, best first.
        proposals: [n, 4], the input of the last class head.
        class_probs, class_deltas: [n, C] and [n, C, 4] of the class head; deltas divided by their standard deviation.
        candidates: [M, (y1, x1, y2, x2, class_id, score)], best score first; boxes are clipped to the window.
        masks: [M, 28, 28] float 0..1, of the candidate's class.
    """

    photo_shape: tuple[int, int]
    molded_shape: tuple[int, int]
    window: np.ndarray
    anchors: np.ndarray
    level_shapes: np.ndarray
    anchors_per_cell: int
    objectness: np.ndarray
    best_anchors: np.ndarray
    refined: np.ndarray
    kept: np.ndarray
    proposals: np.ndarray
    class_probs: np.ndarray
    class_deltas: np.ndarray
    candidates: np.ndarray
    masks: np.ndarray


class Inspector:
    """Runs all steps of a model on a photo.

    Candidates are what `detect` would find with NMS switched off and a minimum score of `LOWEST_SCORE`, up to
    `MOST_CANDIDATES`. Greedy NMS over them gives the detections for any higher minimum score and any NMS threshold.

    Args:
        model: `MaskRCNN`. Changes to its `config` after the first call have no effect here.

    Raises:
        ValueError: The model's class overrides `build`, so its steps are not known.
    """

    def __init__(self, model: keras.Model):
        if model.stages is None:
            raise ValueError("The model's class overrides build(); only the package's own graph can be inspected.")
        self.model = model
        self._network: keras.Model | None = None

    def inspect(self, photo: np.ndarray) -> Inspection:
        """The steps for one photo, [H0, W0, 3] as for `detect`."""
        config = self.model.config
        if self._network is None:
            self._network = _inspection_network(self.model.stages, config)
        molded, metas, windows = molding.mold_inputs([photo], config)
        inputs = [np.asarray(molded, np.float32), metas.astype(np.float32)]
        outputs = self.model.devices.predict(self._network, inputs)
        objectness, best, refined, kept, proposals, probs, deltas, candidates, masks = (x[0] for x in outputs)
        kept = kept[kept >= 0]
        found = int(np.count_nonzero(candidates[:, 4] > 0))
        settings = config.anchor_settings()
        shapes = backbone_shapes(molded[0].shape, settings["strides"], settings["level_shapes"])
        shapes = shapes[: len(settings["scales"])]
        return Inspection(
            photo.shape[:2], molded[0].shape[:2], windows[0], anchors_of_image(molded[0].shape, **settings),
            -(-shapes // config.RPN_ANCHOR_STRIDE), anchors_per_location(config), objectness[:, 1], best, refined,
            kept, proposals[: len(kept)], probs[: len(kept)], deltas[: len(kept)], candidates[:found], masks[:found],
        )  # fmt: skip


class _AllSteps(keras.layers.Layer):
    """The steps of a `ProposalLayer` or `LevelProposalLayer`, all from one computation."""

    def __init__(self, layer):
        super().__init__(name=f"{layer.name}_steps", dtype="float32")
        self.source = layer

    def compute_output_spec(self, inputs):
        best, refined, proposals = (keras.KerasTensor((None, None, 4), "float32") for _ in range(3))
        return best, refined, keras.KerasTensor((None, self.source.proposal_count), "int32"), proposals

    def call(self, inputs):
        steps = self.source.steps(inputs)
        names = ("pre_nms_anchors", "refined_anchors_clipped", "rpn_non_max_suppression", "proposals")
        return tuple(steps[name] for name in names)


def _inspection_network(stages, config) -> keras.Model:
    """Image, meta -> the arrays that `Inspector.inspect` reads, in order. BatchNorm is folded, as for `detect`."""
    layer = source_of(proposals_of(stages, config, config.POST_NMS_ROIS_INFERENCE, config.PRE_NMS_LIMIT))
    best, refined, kept, proposals = _AllSteps(layer)(layer.input)
    rois, probs, deltas = stages.class_head.classify(proposals, stages.meta, stages.pyramid)
    every = DetectionLayer(config, name="candidates")
    every.max_instances = MOST_CANDIDATES
    every.set_thresholds(min(LOWEST_SCORE, config.DETECTION_MIN_CONFIDENCE or 0), NO_NMS)
    found = FilledRows()(every([rois, probs, deltas, stages.meta]))  # [1, M, 6]
    masks = stages.mask_head.of_class(DetectedBoxes()(found), found[..., 4], stages.meta, stages.pyramid)
    _, objectness, _ = stages.rpn
    outputs = [objectness, best, refined, kept, rois, probs, deltas, found, masks]
    network = fold_batchnorm([stages.image, stages.meta], outputs)
    if keras.backend.backend() == "tensorflow":
        network.jit_compile = False
    return network

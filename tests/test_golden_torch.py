"""The networks of torchvision and detectron2 against what these computed (tests/golden/torch), stage by stage.

Weights and images come from formulas. The records were made with torchvision 0.28 and detectron2 02b5c4e2 in float32 on
a CPU. The same networks in float64 differ from them by 1e-5 of the largest value; ten times that is allowed here.

`test_backends` runs this file on JAX and PyTorch as well.
"""

from __future__ import annotations

from pathlib import Path

import keras
import numpy as np
import pytest

from mrcnn import MaskRCNN
from mrcnn.weights import write_state_dict
from mrcnn.weights.golden.formula import IMAGES, draw, formula_state
from mrcnn.weights.golden.records import GOLDEN, golden_record
from mrcnn.weights.golden.stages import StagedNetwork, match_detections, relative

FOLDER = Path(__file__).parent / "golden" / "torch"
ELSEWHERE = ("torchvision_v1", "torchvision_v2", "detectron2_R50-C4")  # on JAX and PyTorch
NAMES = GOLDEN if keras.backend.backend() == "tensorflow" else ELSEWHERE
IMAGES_HERE = (0, 1, 2) if keras.backend.backend() == "tensorflow" else (2,)
OLDER = "detectron2_cascade"  # its checkpoint is like older ones, which hold what is done to the pixels
PIXEL_MEAN, PIXEL_STD = np.float32([103.5301, 116.2801, 123.6751]), np.float32([57.375, 57.12, 58.395])  # BGR
STEM = "backbone.bottom_up.stem.conv1.weight"
FPN_STAGES, C4_STAGES, DETECTION_STAGES = 29, 9, 5


def write_formula_weights(name: str, path: Path) -> None:
    """Writes the checkpoint of a network of `GOLDEN`."""
    rows = (line.split("\t") for line in (FOLDER / f"{name}_state.txt").read_text().splitlines())
    shapes = {tensor: tuple(int(n) for n in sizes.split(",") if n) for tensor, sizes, _ in rows}
    state = formula_state(shapes, name)
    if name == OLDER:
        state[STEM] = state[STEM] * PIXEL_STD[:, None, None]
        state |= {"pixel_mean": PIXEL_MEAN.reshape(3, 1, 1), "pixel_std": PIXEL_STD.reshape(3, 1, 1)}
    write_state_dict(path, state)


def record_of(name: str, i: int) -> dict[str, np.ndarray]:
    with np.load(FOLDER / f"{name}.npz") as data:
        return {key.removesuffix(f"_{i}"): data[key] for key in data.files if key.endswith(f"_{i}")}


@pytest.fixture(scope="module", params=NAMES)
def network(request, tmp_path_factory):
    """A checkpoint with the formula's weights, as `from_preset` builds and loads it."""
    path = tmp_path_factory.mktemp("weights") / "formula.pth"
    write_formula_weights(request.param, path)
    golden = GOLDEN[request.param]
    yield request.param, StagedNetwork(MaskRCNN.from_preset(golden.preset, weights=path, **golden.settings))
    path.unlink()
    keras.backend.clear_session()


@pytest.mark.parametrize("i", range(len(IMAGES)))
def test_every_stage_matches_the_original(network, i, request):
    """Detections and masks of the last image only, on JAX of none; with --slow of all: they take most of the time."""
    name, staged = network
    if name == OLDER:
        np.testing.assert_allclose(staged.config.MEAN_PIXEL, PIXEL_MEAN[::-1], rtol=1e-6)
    slow = request.config.getoption("--slow")
    if i not in IMAGES_HERE and not slow:
        pytest.skip("runs with --slow on this backend")
    whole = slow or (i == IMAGES_HERE[-1] and keras.backend.backend() != "jax")
    errors = staged.errors(draw(*IMAGES[i]), record_of(name, i), whole)
    assert [error for error in errors if not error.small] == []
    expected = (C4_STAGES if name.endswith("C4") else FPN_STAGES) + DETECTION_STAGES * whole
    assert len(errors) == expected + (4 if name.endswith("cascade") else 0)  # it has two more class heads


@pytest.mark.parametrize("name", GOLDEN)
def test_the_package_ships_part_of_the_record(name):
    whole, part = record_of(name, 0), golden_record(name)
    assert set(part) == set(whole)
    for key, values in part.items():
        if not key.startswith("masks"):
            np.testing.assert_array_equal(values, whole[key][: len(values)] if values.ndim else whole[key], err_msg=key)


def test_a_wrong_map_and_a_wrong_box_are_detected():
    theirs = np.linspace(-2, 1, 50).reshape(2, 5, 5)
    assert relative("C2", theirs + 1e-4, theirs).small and not relative("C2", theirs + 3e-4, theirs).small
    boxes = np.array([[0, 0, 10, 10], [0, 0, 10.04, 10], [5, 5, 20, 20]], "float32")
    ids = np.array([1, 2, 1])
    assert match_detections(boxes, ids, boxes[[2, 1, 0]], ids[[2, 1, 0]]).tolist() == [[0, 2], [1, 1], [2, 0]]
    moved = boxes + [[0], [0], [0.1]]
    assert match_detections(boxes, ids, moved, ids).tolist() == [[0, 0], [1, 1]]
    assert match_detections(boxes, ids, boxes, np.array([1, 1, 1])).tolist() == [[0, 0], [2, 2]]
    assert match_detections(boxes[:0], ids[:0], boxes, ids).shape == (0, 2)

"""Fine-tunes the six networks of `mrcnn.weights.golden` on two classes of their own, from the weights of the formula.

    python tests/fine_tune_golden.py [NAME ...]

Prints the loss of each epoch, of `train` and then of `fit`. Images have 64 x 64 pixels; a network takes one to two
minutes.
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1])]

import keras  # noqa: E402
from kit import Squares  # noqa: E402
from test_golden_torch import write_formula_weights  # noqa: E402

from mrcnn import MaskRCNN  # noqa: E402
from mrcnn.data.generator import DataGenerator  # noqa: E402
from mrcnn.weights.golden.records import GOLDEN  # noqa: E402

SMALL = {
    "IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "IMAGES_PER_GPU": 2, "RPN_ANCHOR_SCALES": (8, 16, 32, 48, 64),
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 32, "PRE_NMS_LIMIT_TRAINING": 100, "POST_NMS_ROIS_TRAINING": 40,
    "TRAIN_ROIS_PER_IMAGE": 16, "MAX_GT_INSTANCES": 5, "SEED": 0, "STEPS_PER_EPOCH": 4, "VALIDATION_STEPS": 1,
}  # fmt: skip
LEARNING_RATE = 0.002


def fine_tune(name: str, folder: str, epochs: int = 3) -> tuple[list[float], list[float]]:
    """Trains a network of `GOLDEN` with `train`, and goes on with `fit`.

    Returns:
        The loss of each epoch of `train`, and of `fit`.
    """
    path = Path(folder) / f"{name}.pth"
    write_formula_weights(name, path)
    dataset = Squares(8)
    model = MaskRCNN.from_preset(
        GOLDEN[name].preset, mode="training", classes=["square", "disc"], weights=path, model_dir=folder, **SMALL
    )
    path.unlink()
    trained = model.train(dataset, dataset, LEARNING_RATE, epochs=epochs, layers="heads").history
    batches = DataGenerator(dataset, model.config, shuffle=True, seed=0)
    fitted = model.fit(batches, epochs=epochs, verbose=0).history
    return trained["loss"], fitted["loss"]


if __name__ == "__main__":
    for name in sys.argv[1:] or GOLDEN:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            trained, fitted = fine_tune(name, folder)
        losses = " | ".join(" ".join(f"{loss:.3f}" for loss in epochs) for epochs in (trained, fitted))
        print(f"{name:20} train | fit: {losses}   {time.process_time() - start:.0f} s", flush=True)
        keras.backend.clear_session()

"""Fine-tunes the networks of `mrcnn.weights.golden` on other classes, from the weights of the formula.

    python tests/fine_tune_golden.py [NAME ...]          losses of each epoch of `train`, then of `fit`
    python tests/fine_tune_golden.py NAME --steps 200    trains on drawn shapes; prints the AP before and after

The first command takes a minute of processor time for each network, on images of 64 x 64 pixels; the second a second
or two for each step, on images of 96 x 96. AP is that on 20 images which were not trained on.
"""

from __future__ import annotations

import argparse
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
from samples.shapes import SHAPES, ShapesDataset  # noqa: E402

SMALL = {
    "IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "IMAGES_PER_GPU": 2, "RPN_ANCHOR_SCALES": (8, 16, 32, 48, 64),
    "RPN_TRAIN_ANCHORS_PER_IMAGE": 32, "PRE_NMS_LIMIT_TRAINING": 100, "POST_NMS_ROIS_TRAINING": 40,
    "TRAIN_ROIS_PER_IMAGE": 16, "MAX_GT_INSTANCES": 5, "SEED": 0, "STEPS_PER_EPOCH": 4, "VALIDATION_STEPS": 1,
}  # fmt: skip
LEARNING_RATE = 0.0001  # weights by formula give large gradients
# A step of Adam changes each weight by its rate. The first layer of the class head adds up 12,544 inputs, so that at a
# rate of 3e-4 its outputs may change by 4 in a step. At 1e-3 training diverged; at 3e-4 the class loss did not fall.
ADAM_RATE, WARM_UP = 4e-5, 20  # steps


def fine_tune(name: str, folder: str, epochs: int = 3) -> tuple[list[float], list[float]]:
    """Trains a network of `GOLDEN` with `train`, and continues with `fit`.

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


def learn_shapes(name: str, folder: str, steps: int) -> str:
    """Trains all layers on squares, circles and triangles; returns the AP before and after, and the losses."""
    path = Path(folder) / f"{name}.pth"
    write_formula_weights(name, path)
    settings = {**SMALL, "IMAGE_MIN_DIM": 96, "IMAGE_MAX_DIM": 96, "RPN_ANCHOR_SCALES": (12, 24, 36, 48, 64)}
    settings |= {"POST_NMS_ROIS_TRAINING": 100, "STEPS_PER_EPOCH": 20, "ROI_POSITIVE_RATIO": 0.5}
    keras.utils.set_random_seed(0)
    model = MaskRCNN.from_preset(
        GOLDEN[name].preset, mode="training", classes=SHAPES, weights=path, model_dir=folder, **settings,
        POST_NMS_ROIS_INFERENCE=100, DETECTION_MAX_INSTANCES=30,
    )  # fmt: skip
    path.unlink()
    photos = drawn_shapes(20, 3)
    untrained = model.evaluate_dataset(photos)
    rate = keras.optimizers.schedules.CosineDecay(0.0, steps - WARM_UP, warmup_target=ADAM_RATE, warmup_steps=WARM_UP)
    optimizer = keras.optimizers.Adam(rate, global_clipnorm=5.0)
    losses = model.train(
        drawn_shapes(2 * steps, 1), None, learning_rate=rate, epochs=steps // 20, layers="all", optimizer=optimizer
    ).history["loss"]
    return f"before:\n{untrained}\nloss {losses[0]:.2f} -> {losses[-1]:.2f}, after:\n{model.evaluate_dataset(photos)}"


def drawn_shapes(count: int, seed: int) -> ShapesDataset:
    dataset = ShapesDataset()
    dataset.load_shapes(count, 96, 96, seed)
    dataset.prepare()
    return dataset


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=[*GOLDEN], metavar="NAME", help=", ".join(GOLDEN))
    parser.add_argument("--steps", type=int, help="train on shapes, a multiple of 20")
    options = parser.parse_args()
    for name in options.names:
        start = time.process_time()
        with tempfile.TemporaryDirectory() as folder:
            if options.steps:
                found = learn_shapes(name, folder, options.steps)
            else:
                found = " | ".join(" ".join(map("{:.3f}".format, epochs)) for epochs in fine_tune(name, folder))
        print(f"{name}: {found}   {time.process_time() - start:.0f} s of processor time", flush=True)
        keras.backend.clear_session()


if __name__ == "__main__":
    main()

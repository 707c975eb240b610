"""Trains on small photo sets with several recipes for the same processor time, and compares the average precision.

    python benchmarks/training.py --data DIR --minutes 5 --peer-python PYTHON    appends to results/training.jsonl
    python benchmarks/training.py --table                                        prints the table of the file

DIR is a folder like `../shared/data`, see `small_sets.py`. MINUTES are those of a machine with two cores: a training
gets two minutes of processor time for each, so that it has as many steps on a busy machine as on an idle one. The first
seed measures how many steps that is, the others take as many. Runs that the file has are not repeated. PYTHON has
torch, torchvision and efficientnet_lite_pytorch; without it, "torchvision" is left out.

    previous      that of the samples before version 1.1: MobileNetV2, wide heads, flips, zoom and colors by imgaug, SGD
                  with a cosine schedule. Needs DIR/mobilenet_v2/imagenet_notop.weights.h5
    small-data    that of the samples: EfficientNet-Lite0, narrow heads, `RECIPE = "small-data"`, AdamW. Needs
                  pip install 'mrcnn[pretrained]'
    torchvision   its Mask R-CNN with the same pretrained backbone, trained as in its tutorial on fine-tuning

Further recipes change something in "small-data":

    plain             `RECIPE = "matterport"`: no augmentation, constant learning rate, the last weights
    only NAME         plain, with one part of the recipe
    without NAME      small-data without that part
    with NAME         small-data with another setting or backbone

    python benchmarks/training.py --sets balloon --recipes plain 'only copy-paste' small-data 'with efficientnet_lite1'
"""

from __future__ import annotations

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from scipy import stats

from benchmarks.small_sets import PHOTO_SETS, SETS, small_set

RESULTS = Path(__file__).parent / "results" / "training.jsonl"
COLUMNS = ("previous", "small-data", "torchvision")
IMAGE_SIZE = {"balloon": 320, "nuclei": 256, "person": 320, "mammals": 320, "shapes": 128}  # pixels
USUAL_SIZES = (16, 32, 64, 128, 256)  # anchors
OBJECT_SIZES = {"nuclei": (8, 16, 32, 64, 128), "shapes": (24, 40, 56, 80, 128)}
CORES = 2
MEASURED_STEPS = 8  # the first ones also build the graph
PARTS = {  # of "small-data": the settings that switch each off
    "flips": {"FLIP_PROBABILITY": 0.0}, "scale jitter": {"SCALE_JITTER": None}, "colors": {"COLOR_JITTER": 0.0},
    "copy-paste": {"COPY_PASTE_PROBABILITY": 0.0}, "averages": {"EMA_MOMENTUM": 0.0},
    "cosine": {"LEARNING_SCHEDULE": "constant", "LEARNING_WARMUP": 0.0},
    "true boxes": {"ADD_GT_TO_PROPOSALS": False, "FILL_ROIS_WITH_NEGATIVES": False},
}  # fmt: skip
OFF = {key: value for settings in PARTS.values() for key, value in settings.items()}
AVERAGED_EPOCHS, SHORT_EPOCHS = 3, 10  # of "SWA"
CHANGES = {
    "group norm in the heads": {"HEAD_NORM": "group"}, "class-agnostic masks": {"CLASS_AGNOSTIC_MASK": True},
    "frozen batch norm in the pyramid": {"FPN_NORM": "batch"}, "large-scale jitter": {"SCALE_JITTER": (0.1, 2.0)},
    "multi-scale": {"SCALE_JITTER": (0.5, 1.0)}, "repeats": {"REPEAT_THRESHOLD": 0.5},
    "shorter averages": {"EMA_MOMENTUM": 0.975},
    "SWA": PARTS["averages"] | {"SWA_EPOCHS": AVERAGED_EPOCHS, "LEARNING_SCHEDULE": "constant"},
    "efficientnet_lite1": {"BACKBONE": "efficientnet_lite1"}, "efficientnet_lite2": {"BACKBONE": "efficientnet_lite2"},
    "mobilenet_v2": {"BACKBONE": "mobilenet_v2"},
}  # fmt: skip
RECIPES = (
    *COLUMNS, "plain",
    *(f"{word} {name}" for word in ("only", "without") for name in PARTS), *(f"with {name}" for name in CHANGES),
)  # fmt: skip
PREVIOUS_EPOCHS = 14
PREVIOUS = {
    "BACKBONE": "mobilenet_v2", "TOP_DOWN_PYRAMID_SIZE": 128, "FPN_CLASSIF_FC_LAYERS_SIZE": 512, "PRE_NMS_LIMIT": 1000,
    "POST_NMS_ROIS_TRAINING": 300, "POST_NMS_ROIS_INFERENCE": 200, "ROI_ALIGN": "aligned", "TRAIN_ROIS_PER_IMAGE": 64,
    "ADD_GT_TO_PROPOSALS": True, "FILL_ROIS_WITH_NEGATIVES": True, "WEIGHT_DECAY_PER_SIZE": False,
    "LEARNING_RATE": 0.02, "LEARNING_SCHEDULE": "cosine", "LEARNING_WARMUP": 1 / PREVIOUS_EPOCHS,
}  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=PHOTO_SETS)
    parser.add_argument("--recipes", nargs="+", choices=RECIPES, default=COLUMNS)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--minutes", type=float, default=5)
    parser.add_argument("--peer-python", help="an interpreter with torchvision")
    parser.add_argument("--results", type=Path, default=RESULTS)
    parser.add_argument("--table", action="store_true", help="only print the table")
    parser.add_argument("--one", nargs=3, metavar=("SET", "RECIPE", "SEED"), help=argparse.SUPPRESS)
    parser.add_argument("--steps", type=int, help=argparse.SUPPRESS)  # with --one; else they are measured
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train(*args.one[:2], int(args.one[2]), args)))
        return
    if not args.table:
        run_all(args)
    print_table(read(args.results))


def run_all(args) -> None:
    """Runs what the file lacks, each training in its own process, seeds in the outer loop."""
    recipes = [recipe for recipe in args.recipes if recipe != "torchvision" or args.peer_python]
    for seed in range(args.seeds):
        for name in args.sets:
            for recipe in recipes:
                training = {"set": name, "recipe": recipe, "minutes": args.minutes, "machine": processor()}
                wanted = training | {"seed": seed}
                known = [row for row in read(args.results) if training.items() <= row.items()]
                if any(row["seed"] == seed for row in known):
                    continue
                command = [
                    sys.executable, __file__, "--one", name, recipe, str(seed), "--data", args.data,
                    "--minutes", str(args.minutes), "--peer-python", args.peer_python or "",
                    *(["--steps", known[0]["steps"]] if known else []),
                ]  # fmt: skip
                done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
                if done.returncode:
                    raise RuntimeError(f"{wanted} failed:\n{done.stderr[-3000:]}")
                row = wanted | json.loads(done.stdout.strip().splitlines()[-1])
                with open(args.results, "a", encoding="utf-8") as file:
                    file.write(json.dumps(row) + "\n")
                print(row, flush=True)


# ---- One training ----------------------------------------------------------------------------------------------------
def train(name: str, recipe: str, seed: int, args) -> dict:
    """Trains, evaluates on the validation images, and returns the figures."""
    with tempfile.TemporaryDirectory() as folder:
        training, validation = small_set(name, args.data, Path(folder))
        if recipe == "torchvision":
            return train_torchvision(name, training, validation, seed, args, Path(folder))
        return train_ours(name, recipe, training, validation, seed, args, folder)


def train_ours(name: str, recipe: str, training, validation, seed: int, args, folder: str) -> dict:
    import keras

    steps = args.steps or affordable_steps(name, recipe, training, seed, args, folder)
    keras.utils.set_random_seed(seed)
    model, options = build(name, recipe, training.num_classes, seed, folder, args.data, steps)
    start = time.process_time()
    model.train(training, None, **options)
    used = time.process_time() - start
    report = model.evaluate_dataset(validation, progress=False)
    return figures(report) | {"steps": steps, "batch": model.config.BATCH_SIZE, "processor_s": round(used)}


def affordable_steps(name: str, recipe: str, training, seed: int, args, folder: str) -> int:
    """The number of steps for which the processor time is enough, from the median of a few."""
    import keras

    keras.utils.set_random_seed(seed)
    model, options = build(name, recipe, training.num_classes, seed, folder, args.data, steps=MEASURED_STEPS)
    seconds: list[float] = []
    model.train(training, None, custom_callbacks=[step_clock(seconds)], **options)
    keras.backend.clear_session()
    return int(args.minutes * 60 * CORES / np.median(seconds[len(seconds) // 2 :]))


def build(name: str, recipe: str, classes: int, seed: int, folder: str, data: Path, steps: int):
    """Returns a model, and the arguments of `train` for it."""
    if recipe == "previous":
        return with_previous_recipe(name, classes, seed, folder, data, steps)
    return with_small_data_recipe(name, changes_of(recipe), classes, seed, folder, data, steps)


def changes_of(recipe: str) -> dict:
    """Returns the settings in which a recipe differs from "small-data".

    Example:

    >>> changes_of("without flips")
    {'FLIP_PROBABILITY': 0.0}
    """
    word, _, name = recipe.partition(" ")
    if word == "without":
        return PARTS[name]
    if word == "with":
        return CHANGES[name]
    if word == "only":
        return {key: value for key, value in OFF.items() if key not in PARTS[name]}
    return OFF if recipe == "plain" else {}


def settings_of(name: str, classes: int, seed: int, steps: int) -> dict:
    """Settings that both of our recipes share."""
    size = IMAGE_SIZE[name]
    return {
        "NAME": name, "NUM_CLASSES": classes, "SEED": seed, "STEPS_PER_EPOCH": steps, "VALIDATION_STEPS": 0,
        "IMAGE_MIN_DIM": size, "IMAGE_MAX_DIM": size, "RPN_ANCHOR_SCALES": anchors_of(name),
    }  # fmt: skip


def anchors_of(name: str) -> tuple[int, ...]:
    return OBJECT_SIZES.get(name, USUAL_SIZES)


def with_previous_recipe(name: str, classes: int, seed: int, folder: str, data: Path, steps: int):
    """A model, and the arguments of `train` for it."""
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN

    settings = settings_of(name, classes, seed, math.ceil(steps / PREVIOUS_EPOCHS))
    config = Config(**PREVIOUS, **settings)
    model = MaskRCNN("training", config, folder)
    model.load_weights(mobilenet_weights(data), by_name=True)
    return model, {
        "learning_rate": config.LEARNING_RATE, "layers": "all", "epochs": PREVIOUS_EPOCHS,
        "augmentation": previous_augmentation(),
    }  # fmt: skip


def previous_augmentation():
    from imgaug import augmenters as iaa

    move = {"x": (-0.2, 0.2), "y": (-0.2, 0.2)}
    return iaa.Sequential(
        [
            iaa.Fliplr(0.5),
            iaa.Affine(scale=(0.5, 1.5), translate_percent=move),
            iaa.Multiply((0.7, 1.3)),
            iaa.AddToHueAndSaturation((-30, 30)),
        ]
    )


def with_small_data_recipe(name: str, changes: dict, classes: int, seed: int, folder: str, data: Path, steps: int):
    """A model, and the arguments of `train` for it."""
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.recipes import SmallNetwork

    epochs = SHORT_EPOCHS if changes.get("SWA_EPOCHS") else 1
    settings = settings_of(name, classes, seed, math.ceil(steps / epochs))
    config = type("SmallConfig", (SmallNetwork, Config), {})(**settings | changes)
    model = MaskRCNN("training", config, folder)
    if config.BACKBONE == "mobilenet_v2":
        model.load_weights(mobilenet_weights(data), by_name=True)
    else:
        model.load_weights("imagenet")
    return model, {"learning_rate": config.LEARNING_RATE, "layers": config.LAYERS, "epochs": epochs}


def mobilenet_weights(data: Path) -> Path:
    return data / "mobilenet_v2" / "imagenet_notop.weights.h5"


def train_torchvision(name: str, training, validation, seed: int, args, folder: Path) -> dict:
    from mrcnn import open_dataset
    from mrcnn.data.formats.coco import save_coco
    from mrcnn.evaluation import evaluate_predictions

    save_coco(training, folder / "train.json")
    save_coco(validation, folder / "validation.json")
    settings = {
        "size": IMAGE_SIZE[name], "anchors": anchors_of(name), "classes": training.num_classes, "seed": seed,
        "budget": args.minutes * 60 * CORES, "steps": args.steps,
    }  # fmt: skip
    command = [args.peer_python, Path(__file__).with_name("training_torchvision.py"), folder, json.dumps(settings)]
    idle = {"OMP_WAIT_POLICY": "passive"}  # threads that wait take no processor time
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, env=os.environ | idle)
    if done.returncode:
        raise RuntimeError(f"training_torchvision.py failed:\n{done.stderr[-3000:]}")
    numbered = open_dataset(folder / "validation.json", root="/")  # with the ids of images that results.json has
    report = evaluate_predictions(numbered, folder / "results.json", progress=False)
    return figures(report) | json.loads(done.stdout.strip().splitlines()[-1])


def step_clock(seconds: list[float]):
    """A callback that appends the processor seconds of each step."""
    import keras

    starts = []
    return keras.callbacks.LambdaCallback(
        on_train_batch_begin=lambda batch, logs: starts.append(time.process_time()),
        on_train_batch_end=lambda batch, logs: seconds.append(time.process_time() - starts[-1]),
    )


def figures(report) -> dict:
    return {"mask_ap50": round(float(report.mask_ap50), 4), "mask_ap": round(float(report.mask_ap), 4)}


# ---- Table -----------------------------------------------------------------------------------------------------------
def read(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()] if path.is_file() else []


def print_table(rows: list[dict]) -> None:
    """Mean mask AP50 of each set and recipe over the seeds, with its 95 % interval (Student's t)."""
    found = defaultdict(list)
    for row in rows:
        found[row["machine"], row["minutes"], row["recipe"], row["set"]].append(row)
    for machine, minutes in sorted({key[:2] for key in found}):
        print(f"\n{minutes:g} minutes on {CORES} cores, {machine}\n\n| recipe | {' | '.join(SETS)} |")
        print("|---" * (1 + len(SETS)) + "|")
        for recipe in RECIPES:
            cells = [found.get((machine, minutes, recipe, name), []) for name in SETS]
            if any(cells):
                print(f"| {recipe} | " + " | ".join(map(cell, cells)) + " |")


def cell(rows: list[dict]) -> str:
    return f"{interval([row['mask_ap50'] for row in rows])} ({rows[0]['steps']} steps)" if rows else ""


def interval(values: list[float]) -> str:
    if len(values) < 2:
        return f"{values[0]:.3f}" if values else ""
    half = stats.t.ppf(0.975, len(values) - 1) * stats.sem(values)
    return f"{np.mean(values):.3f} ± {half:.3f}"


def processor() -> str:
    from benchmarks.timing import machine

    return machine()["cpu"]


if __name__ == "__main__":
    main()

"""`mrcnn train`."""

from __future__ import annotations

import json
import re
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from mrcnn.cli import options, output

if TYPE_CHECKING:
    from mrcnn.cli.plan import Plan, Start
    from mrcnn.cli.train_data import Split
    from mrcnn.evaluation import Report
    from mrcnn.model import MaskRCNN

RECORD = "mrcnn_train.json"  # in the run folder: what was chosen, so that --resume and readers know


@options.with_reading_options()
def train(
    data: options.DataArgument,
    val: Annotated[Path | None, typer.Option(help="Validation images; without it, a part of DATA.")] = None,
    classes: options.ClassesOption = None,
    weights: Annotated[
        str | None, typer.Option("--weights", "-w", help="Initial weights: a name, a file, or none. Default: chosen.")
    ] = None,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder of the run folders.")] = Path("runs"),
    name: Annotated[str | None, typer.Option(help="Name of the run. Default: that of the data folder.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="Total number of epochs. Default: chosen.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Steps per epoch. Default: chosen.")] = None,
    image_size: Annotated[
        int | None, typer.Option(min=64, help="Image side for the network, a multiple of 64.")
    ] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Images per batch. Default: chosen.")] = None,
    flip: Annotated[bool, typer.Option(help="Mirror half of the images. Not for text or asymmetric objects.")] = True,
    seed: Annotated[int, typer.Option(help="Seed of the split, the order of images and new weights.")] = 0,
    recipe: Annotated[
        str | None, typer.Option(help="Augmentation, averages and losses: small-data or matterport (docs/training.md).")
    ] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue the last run of this name.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Show what would be chosen, and stop.")] = False,
    settings: options.SettingsOption = None,
    as_json: options.JsonOption = False,
    *,
    reading: dict[str, Any],
) -> None:
    """Train on images annotated in any known format, and measure the AP.

    Chooses the split, the image size, anchors, initial weights and the length of the training from the data, and prints
    why; options replace a choice. Checkpoints and choices are written to a new folder in --output. Prints the AP on the
    validation images at the end.
    """
    if image_size is not None and image_size % 64:
        raise typer.BadParameter(f"--image-size {image_size}: expected a multiple of 64.")
    output.start_backend()
    from mrcnn.cli.models import parse_settings
    from mrcnn.cli.train_data import open_split

    name = run_name(name or (data.resolve().parent if data.is_file() else data.resolve()).name)
    record = read_record(folder, name) if resume else None
    split = open_split(data, val, record["seed"] if record else seed, classes=options.names_in(classes), **reading)
    if record is None:
        changed = parse_settings(settings or ())
        given = {
            "epochs": epochs, "steps": steps or changed.get("STEPS_PER_EPOCH"), "weights": weights,
            "image_size": image_size or changed.get("IMAGE_MAX_DIM"), "batch": batch or changed.get("IMAGES_PER_GPU"),
        }  # fmt: skip
        plan, start = choose(split, given, with_recipe(recipe, changed), flip)
        record = {
            "data": str(data), "seed": seed, "classes": split.train.class_names,
            "settings": {**plan.settings, "NAME": name, "SEED": seed}, "recipe": plan.recipe, "choices": plan.why,
            "split": split.kind, "validation_images": [str(info["id"]) for info in split.val.image_info],
        }  # fmt: skip
        show_choices(plan)
    if dry_run:
        if as_json:
            output.print_json(record)
        return
    model = resumed_model(record, folder, name, epochs) if resume else new_model(record, start, folder, seed)
    run(model, split, record)
    print_result(model, split, record, as_json)


def run_name(text: str) -> str:
    """Reduces a name to letters, digits and "_", for file names."""
    return re.sub(r"[^a-z0-9]+", "_", text.lower()).strip("_") or "run"


def print_result(model: MaskRCNN, split: Split, record: dict[str, Any], as_json: bool) -> None:
    """Measures the trained model on the validation images and prints its AP."""
    report = measure(model, split)
    numbers = {key: report.numbers[key] for key in ("mask_ap", "mask_ap50", "box_ap", "box_ap50")}
    checkpoint = model.checkpoint_path.format(epoch=model.epoch)
    if as_json:
        output.print_json({"run": model.log_dir, "checkpoint": checkpoint, "validation": numbers, **record})
        return
    print(report)
    print(f"checkpoint: {checkpoint}")
    ap = ", ".join(f"{key.replace('_', ' ').replace('ap', 'AP')} {value:.3f}" for key, value in numbers.items())
    print(f"{ap} on {split.val.num_images} validation images")


# ---- Choices ---------------------------------------------------------------------------------------------------------
def choose(split: Split, given: dict[str, Any], settings: dict[str, Any], flip: bool) -> tuple[Plan, Start]:
    """The plan for these images, and the weights to start from."""
    from mrcnn.cli import plan as planning
    from mrcnn.cli.train_data import reading_masks_once
    from mrcnn.cli.train_start import choose_start, has_gpu
    from mrcnn.config import Config

    on_gpu = has_gpu()
    start = choose_start(given["weights"], on_gpu)
    sample = reading_masks_once(split.train)
    plan = planning.make_plan(planning.summarize_sample(sample), start, on_gpu, given["image_size"], given["batch"])
    planning.choose_recipe(
        plan, start, split.train.num_images, split.val.num_images, given["epochs"], given["steps"],
        settings,
    )  # fmt: skip
    plan.settings["FLIP_PROBABILITY"] = 0.5
    plan.settings |= settings if flip else {**settings, "FLIP_PROBABILITY": 0.0}
    classes = ", ".join(split.train.class_names[1:])
    plan.why[:0] = [
        ("classes", classes, "those of the annotations"),
        ("images", split.choice, split.reason),
        ("weights", start.weights or "new", start.reason),
    ]
    if settings:
        plan.why.append(("settings", ", ".join(f"{k} = {v}" for k, v in settings.items()), "as given"))
    config = Config.from_json({**start.base, **plan.settings, "NAME": "plan", "NUM_CLASSES": split.train.num_classes})
    recall = planning.summarize_sample(sample, config).anchor_recall(0.5)
    if recall is not None:
        plan.why.append(("anchor recall", f"{recall:.0%}", "objects that an anchor covers with an IoU of at least 0.5"))
    return plan, start


def with_recipe(recipe: str | None, settings: dict[str, Any]) -> dict[str, Any]:
    """Merges the settings of a recipe, if there is one, with those given, which take precedence.

    Raises:
        ValueError: there is no such recipe.
    """
    from mrcnn.recipes import recipe_settings

    if recipe is None:
        return settings
    return {**recipe_settings(recipe), "RECIPE": recipe, **settings}


def show_choices(plan: Plan) -> None:
    """Prints the table of choices to stderr."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table("what", "choice", "why")
    for row in plan.why:
        table.add_row(*map(Text, row))
    Console(stderr=True).print(table)


# ---- Training --------------------------------------------------------------------------------------------------------
def new_model(record: dict[str, Any], start: Any, folder: Path, seed: int) -> MaskRCNN:
    import keras

    from mrcnn.cli.train_start import build

    keras.utils.set_random_seed(seed)
    with output.prints_to_stderr():
        return build(start, record["settings"], record["classes"], folder)


def read_record(folder: Path, name: str) -> dict[str, Any]:
    """What `train` wrote to the folder of the last run of this name that has a checkpoint."""
    from mrcnn.weights import find_last

    path = Path(find_last(folder, name)).parent / RECORD
    if not path.is_file():
        raise FileNotFoundError(
            f"{path} does not exist: `mrcnn train` did not start this run, so it can't continue it."
        )
    return json.loads(path.read_text(encoding="utf-8"))


def resumed_model(record: dict[str, Any], folder: Path, name: str, epochs: int | None) -> MaskRCNN:
    """The model of the last run, with the weights of its last checkpoint."""
    from mrcnn.config import Config
    from mrcnn.model import MaskRCNN
    from mrcnn.weights import find_last

    if epochs:
        record["recipe"]["epochs"] = epochs
    with output.prints_to_stderr():
        model = MaskRCNN("training", Config.from_json(record["config"]), str(folder))
        model.load_weights(find_last(folder, name))
    return model


def run(model: MaskRCNN, split: Split, record: dict[str, Any]) -> None:
    """Trains, and writes the record to the run folder first."""
    from mrcnn.cli.train_progress import Progress
    from mrcnn.io import replacing

    recipe, config = record["recipe"], model.config
    record["config"] = config.to_json()
    with replacing(Path(model.log_dir) / RECORD) as unfinished:
        unfinished.write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
    with redirect_stdout(StringIO()):  # the list of all layers and Keras's bar, in whose place `Progress` is shown
        model.train(
            split.train, split.val, config.LEARNING_RATE, recipe["epochs"], recipe["layers"],
            custom_callbacks=[Progress(recipe["epochs"])],
        )  # fmt: skip


def measure(model: MaskRCNN, split: Split) -> Report:
    """Evaluates the model on the validation images and writes report.html to the run folder."""
    with output.prints_to_stderr():
        report = model.evaluate_dataset(split.val, progress=False)
        report.report(Path(model.log_dir) / "report.html")
    return report

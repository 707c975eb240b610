"""`mrcnn info`."""

from __future__ import annotations

import hashlib
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from mrcnn.cli import options, output

PARITY = "parity.json"  # beside an exported model
PARITY_ENDINGS = (".onnx", ".tflite", ".xml", ".pb")


def info(
    file: Annotated[
        str,
        typer.Argument(help="A weight file, an exported model, the folder of a run or preset, or a name of weights."),
    ],
    layers: Annotated[bool, typer.Option("--layers", help="List all layers with the shapes of their arrays.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is in a weight file: network, settings, classes, layers, checksum.

    Reads .h5 of matterport and of Keras, .keras, and .pth, .pkl and .safetensors of torchvision and detectron2. A name
    such as torchvision_v2 shows where the weights come from, without downloading them. Of an exported model, the
    parity.json beside it is shown.
    """
    output.start_backend()
    found = describe(file)
    if as_json:
        output.print_json(found)
        return
    listed = found.pop("layers", {})
    shown = {name: readable(value) for name, value in found.items() if value not in (None, {}, [])}
    if listed:
        shown["layers"] = f"{len(listed)} ({', '.join(list(listed)[:4])}, ...); --layers lists them"
    output.print_table(shown)
    if layers:
        output.print_table({name: ", ".join(map(str, shapes)) for name, shapes in listed.items()}, title="Layers")


def describe(file: str) -> dict[str, Any]:
    """Everything known about a file or named weights, JSON-ready."""
    from mrcnn.weights.downloads import SHIPPED, WORDS, pretrained

    path = Path(file)
    if file in SHIPPED and not path.is_file():
        return {"name": file} | describe_weights(Path(pretrained(file)))
    if file in WORDS and not path.is_file():
        return describe_name(file)
    if not path.exists():
        raise FileNotFoundError(f"{file}: no such file; expected a path or one of {', '.join(WORDS)}.")
    if path.is_dir():
        return describe_folder(path)
    return describe_export(path) if path.suffix.lower() in PARITY_ENDINGS else describe_weights(path)


def describe_folder(path: Path) -> dict[str, Any]:
    """A folder of `save_to_preset`; of a run, its last checkpoint; or that of an exported model."""
    from mrcnn.cli.models import is_preset
    from mrcnn.weights import last_of_run
    from mrcnn.weights.preset_folder import read_preset

    if (path / PARITY).is_file():
        return describe_export(path)
    if is_preset(path):
        settings, names, weights = read_preset(path)
        return describe_weights(weights) | {"classes": names, "settings": changed_settings(settings)}
    if last := last_of_run(path):
        return describe_weights(Path(last))
    return describe_export(path)


def describe_name(name: str) -> dict[str, Any]:
    """Where named weights come from."""
    from mrcnn.weights.downloads import PINNED, PRETRAINED
    from mrcnn.weights.presets import PRESETS

    if name in PRETRAINED:
        return {"name": name, "url": PRETRAINED[name], "checksum": PINNED.get(name)}
    preset = PRESETS[name]
    return {
        "name": name,
        "url": preset.url,
        "license": preset.license,
        "checksum": preset.checksum,
        "megabytes": preset.megabytes,
        "box AP on COCO, percent": preset.box_ap,
        "mask AP on COCO, percent": preset.mask_ap,
        "classes": list(preset.class_names),
        "settings": dict(preset.settings),
    }


def describe_export(path: Path) -> dict[str, Any]:
    """Sizes of the files of an exported model, and its parity report."""
    folder = path if path.is_dir() else path.parent
    report = folder / PARITY
    if not report.is_file():
        raise FileNotFoundError(
            f"{report} does not exist. `mrcnn export` writes it beside the model; it says how far the results are from"
            " those of Keras."
        )
    files = [path] if path.is_file() else sorted(p for p in folder.rglob("*") if p.is_file() and p != report)
    return {
        "files": {str(p.relative_to(folder)): p.stat().st_size for p in files},
        "sha256": {str(p.relative_to(folder)): sha256(p) for p in files},
        "parity": json.loads(report.read_text(encoding="utf-8")),
    }


def describe_weights(path: Path) -> dict[str, Any]:
    """Network, settings, classes and layers of a weight file."""
    from mrcnn.weights import read_class_names, read_settings
    from mrcnn.weights.readers import open_weights

    with open_weights(path) as opened:
        shapes = {name: [list(array.shape) for array in arrays] for name, arrays in opened.layers.items()}
        network, unused = opened.network, list(opened.unused)
    stored = read_settings(path) if network is None else network.settings()
    names = read_class_names(path) if network is None else None
    return {
        "file": str(path),
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "convention": (stored or {}).get("CONVENTION", "matterport"),
        "class_count": class_count(shapes, network),
        "classes": names,
        "parameters": sum(math.prod(shape) for arrays in shapes.values() for shape in arrays),
        "run": run_of(path, stored),
        "arrays without a place": unused,
        "settings": changed_settings(stored),
        "layers": shapes,
    }


def class_count(shapes: dict[str, list], network: Any) -> int | None:
    """The number of classes with the background, or None for a backbone."""
    if network is not None:
        return network.classes or None
    head = shapes.get("mrcnn_class_logits")
    return head[0][-1] if head else None


def run_of(path: Path, stored: dict[str, Any] | None) -> dict[str, Any] | None:
    """Run folder and epoch, if the file is a checkpoint of a training."""
    from mrcnn.weights import parse_checkpoint

    found = parse_checkpoint(path, (stored or {}).get("NAME") or "")
    return found and {"folder": str(found[0]), "epoch": found[1]}


def changed_settings(stored: dict[str, Any] | None) -> dict[str, Any]:
    """The settings that differ from the defaults of `Config`."""
    from mrcnn.config import Config

    defaults = Config().to_json()
    return {name: value for name, value in (stored or {}).items() if name not in defaults or value != defaults[name]}


def sha256(path: Path) -> str:
    with path.open("rb") as opened:
        return hashlib.file_digest(opened, "sha256").hexdigest()


def readable(value: Any) -> str:
    """One cell of the table."""
    if isinstance(value, dict):
        return "\n".join(f"{name}: {readable(inner).replace(chr(10), ' ')}" for name, inner in value.items())
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return f"{value:,}" if isinstance(value, int) else str(value)

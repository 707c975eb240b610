"""Open Images V6: download any class by name and train on it. The example class is pumpkins.

    python samples/open_images.py download --dataset DIR --classes Pumpkin --limit 300
    python samples/open_images.py train --dataset DIR --classes Pumpkin --weights coco           ResNet-101, for a GPU
    python samples/open_images.py train --dataset DIR --classes Pumpkin --weights efficientnet_lite0   for a CPU
    python samples/open_images.py evaluate --dataset DIR --weights last
    python samples/open_images.py detect --weights last --image photo.jpg                        photo_detected.png

Measured on a substitute, because Open Images could not be downloaded: on the 61 + 13 photos of balloon.py, converted to
its layout with masks of 400 pixels (see tests/test_samples_open_images.py). `train --classes Balloon` of version 1.0,
from ImageNet's MobileNetV2, took 17 minutes on 3 busy CPU cores and ended with

    mask AP50 = 0.554 (13 images)

(mask AP 0.357, box AP 0.307.) docs/open_images.png shows parts of two of the 13, from https://www.flickr.com/photo.gne
with ?id=5603212091 and ?id=3825919971. The downloads are tested against a local server with the same layout.

`download` fetches only what the classes need from the subsets train and validation: single photos, and single masks
from within the archives. To download manually, use

    https://storage.googleapis.com/openimages/v5/class-descriptions-boxable.csv
    https://storage.googleapis.com/openimages/v5/SUBSET-annotations-object-segmentation.csv
    https://storage.googleapis.com/openimages/v5/SUBSET-masks/SUBSET-masks-X.zip     X: first character of the image id
    https://open-images-dataset.s3.amazonaws.com/SUBSET/ID.jpg

(V6 uses the masks of V5). Put the CSV files in DIR, unpacked masks in DIR/SUBSET-masks and photos in DIR/SUBSET. 350
classes have masks; not every object in a photo has one. Several classes: --classes Pumpkin Balloon.
"""

from __future__ import annotations

import argparse
import csv
import http.client
import io
import math
import os
import sys
import urllib.error
import urllib.request
import zipfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # TensorFlow's log messages would clutter the progress bars

from tqdm import tqdm

from mrcnn import visualize, weights
from mrcnn.config import Config
from mrcnn.data.formats.open_images import OpenImagesDataset, class_labels
from mrcnn.data.image_reading import read_image
from mrcnn.io import replacing
from mrcnn.model import MaskRCNN
from mrcnn.recipes import SmallNetwork
from samples.common import (
    LOGS,
    class_names_of,
    classes_in,
    config_for,
    draw_detections,
    evaluate,
    find_weights,
    load_weights,
)

TABLES = MASKS = "https://storage.googleapis.com/openimages/v5"
PHOTOS = "https://open-images-dataset.s3.amazonaws.com"
DESCRIPTIONS = "class-descriptions-boxable.csv"
ANNOTATIONS = "{}-annotations-object-segmentation.csv"
TRAINING, VALIDATION = SUBSETS = "train", "validation"
CONNECTIONS = 8  # parallel downloads of photos
ATTEMPTS = 4  # attempts per request
PARTIAL_CONTENT = 206  # HTTP status of a response to a range request
TIMEOUT = 30  # seconds without a byte
PIECE = 1 << 16  # bytes per request from an archive; most masks are smaller


# ---- Download --------------------------------------------------------------------------------------------------------
def download(folder: str | Path, classes: Sequence[str], limit: int | None = None) -> None:
    """Downloads the photos and masks of some classes; existing files are not downloaded again.

    Args:
        folder: output folder; for its layout see the top of this file.
        classes: names or labels.
        limit: number of photos per subset, the first by id (so that few archives are needed); None means all.

    Raises:
        ConnectionError, FileNotFoundError: a download failed; the message has the URL.
        BrokenAnnotation: unknown class; the message lists similar names.
    """
    folder = Path(folder)
    labels = class_labels(weights.download(f"{TABLES}/{DESCRIPTIONS}", folder / DESCRIPTIONS), classes)
    for subset in SUBSETS:
        name = ANNOTATIONS.format(subset)
        everything = weights.download(f"{TABLES}/{name}", folder / "downloads" / f"{name}.whole")
        header, rows = _rows_of(everything, labels)
        chosen = set(sorted({row["ImageID"] for row in rows})[:limit])
        rows = [row for row in rows if row["ImageID"] in chosen]
        print(f"{subset}: {len(chosen)} photos, {len(rows)} masks of {', '.join(labels.values())}")
        _fetch_photos(subset, sorted(chosen), folder / subset)
        _fetch_masks(subset, sorted(row["MaskPath"] for row in rows), folder / f"{subset}-masks")
        _write_rows(folder / name, header, rows)  # last, so that it only lists existing files


def _rows_of(path, labels) -> tuple[list[str], list[dict]]:
    """Returns the header of a table of masks and its rows with the given labels."""
    with open(path, newline="", encoding="utf-8") as file:
        reader = csv.DictReader(file)
        return reader.fieldnames, [row for row in reader if row["LabelName"] in labels]


def _write_rows(path: Path, header, rows) -> None:
    """Writes a table of masks or adds new rows to it, so that classes can be downloaded one after another."""
    by_mask = {}
    if path.exists():
        with open(path, newline="", encoding="utf-8") as file:
            by_mask = {row["MaskPath"]: row for row in csv.DictReader(file)}
    by_mask |= {row["MaskPath"]: row for row in rows}
    text = io.StringIO()
    writer = csv.DictWriter(text, header, extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(by_mask[mask] for mask in sorted(by_mask))
    _write(path, text.getvalue().encode())


def _fetch_photos(subset: str, image_ids, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    missing = [image_id for image_id in image_ids if not (folder / f"{image_id}.jpg").exists()]

    def fetch(image_id):
        _write(folder / f"{image_id}.jpg", _request(f"{PHOTOS}/{subset}/{image_id}.jpg")[0])

    with ThreadPoolExecutor(CONNECTIONS) as pool:
        for _ in tqdm(pool.map(fetch, missing), total=len(missing), unit="photo", disable=not missing):
            pass


def _fetch_masks(subset: str, names, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    by_archive = defaultdict(list)
    for name in names:
        if not (folder / name).exists():
            by_archive[name[0]].append(name)
    with tqdm(total=sum(map(len, by_archive.values())), unit="mask", disable=not by_archive) as bar:
        for first, wanted in by_archive.items():
            url = f"{MASKS}/{subset}-masks/{subset}-masks-{first}.zip"
            with zipfile.ZipFile(io.BufferedReader(RemoteFile(url), PIECE)) as archive:
                places = {Path(place).name: place for place in archive.namelist()}
                for name in wanted:
                    if name not in places:
                        raise FileNotFoundError(
                            f"{url} does not contain {name}, which {ANNOTATIONS.format(subset)} lists."
                        )
                    _write(folder / name, archive.read(places[name]))
                    bar.update()


class RemoteFile(io.RawIOBase):
    """A file on a web server; only the ranges that are read are downloaded.

    Args:
        url: of a file on a server that supports range requests.
    """

    def __init__(self, url: str):
        self.url, self._position = url, 0
        _, headers = _request(url, 0, 1)
        length = headers.get("Content-Range", "").rpartition("/")[2]
        if not length.isdecimal():
            raise ConnectionError(
                f"{url}: the server does not support range requests. Download and unpack the file manually."
            )
        self._length = int(length)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._length}[whence]
        return self._position

    def tell(self) -> int:
        return self._position

    def readinto(self, buffer) -> int:
        size = min(len(buffer), max(0, self._length - self._position))
        if size:
            piece, _ = _request(self.url, self._position, size)
            size = len(piece)
            buffer[:size] = piece
        self._position += size
        return size


def _request(url: str, start: int | None = None, size: int = 0, attempts: int = ATTEMPTS):
    """Returns (content, headers) of a URL or a range of it; both empty if the server does not support ranges."""
    headers = {"User-Agent": "mrcnn"}
    if start is not None:
        headers["Range"] = f"bytes={start}-{start + size - 1}"
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT) as answer:
            if start is not None and answer.status != PARTIAL_CONTENT:
                return b"", {}
            return answer.read(), answer.headers
    except urllib.error.HTTPError as error:
        if error.code < 500 or attempts == 1:
            raise ConnectionError(f"{url}: the server answered {error.code} {error.reason}.") from error
    except (OSError, http.client.HTTPException) as error:
        if attempts == 1:
            raise ConnectionError(f"{url} cannot be downloaded ({error}); run again to continue.") from error
    return _request(url, start, size, attempts - 1)


def _write(path: Path, content: bytes) -> None:
    with replacing(path) as unfinished:
        unfinished.write_bytes(content)


# ---- Settings and data -----------------------------------------------------------------------------------------------
class OpenImagesConfig(Config):
    """ResNet-101 and 1024 pixels."""

    NAME = "open_images"
    IMAGES_PER_GPU = 2
    VALIDATION_STEPS = 5

    # Options of `train`; the model does not read them.
    EPOCHS = 12  # each epoch uses every photo once
    LAYERS = "heads"


class SmallOpenImagesConfig(SmallNetwork, OpenImagesConfig):
    """EfficientNet-Lite0 and smaller images; trains on a CPU."""

    IMAGE_MIN_DIM = 384
    IMAGE_MAX_DIM = 384
    RPN_ANCHOR_SCALES = (16, 32, 64, 128, 256)
    DETECTION_MAX_INSTANCES = 50
    EPOCHS = 24


def open_images_dataset(
    folder: str | Path, subset: str, classes: Sequence[str], skip_broken: bool = False
) -> OpenImagesDataset:
    """Returns the prepared dataset of the photos in one subset that show the classes."""
    dataset = OpenImagesDataset()
    dataset.load_open_images(
        folder,
        classes,
        images_dir=Path(folder) / subset,
        annotations=Path(folder) / ANNOTATIONS.format(subset),
        skip_broken=skip_broken,
    )
    dataset.prepare()
    return dataset


def open_images_config(path: str | Path | None, num_classes: int) -> OpenImagesConfig:
    """Returns the settings that match a weight file."""
    config = config_for(path, OpenImagesConfig, SmallOpenImagesConfig)
    config.NUM_CLASSES = num_classes
    return config


def trained_model(weights: str, logs: str | Path) -> MaskRCNN:
    """Returns a model for detection, with the classes it was trained on."""
    path = find_weights(weights, OpenImagesConfig.NAME, logs)
    model = MaskRCNN("inference", open_images_config(path, classes_in(path)), str(logs))
    load_weights(model, weights, path)
    return model


# ---- Commands --------------------------------------------------------------------------------------------------------
def train(
    training: OpenImagesDataset,
    validation: OpenImagesDataset,
    weights: str,
    logs: str | Path,
    epochs: int | None = None,
) -> None:
    """Trains the heads, then evaluates and draws detections next to the checkpoints."""
    path = find_weights(weights, OpenImagesConfig.NAME, logs)
    config = open_images_config(path, training.num_classes)
    config.STEPS_PER_EPOCH = math.ceil(training.num_images / config.BATCH_SIZE)
    model = MaskRCNN("training", config, str(logs))
    load_weights(model, weights, path)
    epochs = epochs or config.EPOCHS
    model.train(
        training,
        validation,
        learning_rate=config.LEARNING_RATE,
        epochs=epochs,
        layers=config.LAYERS,
    )
    evaluate(model, validation)
    draw_detections(model, validation, validation.image_ids[:8], Path(model.log_dir) / "detections.png")


def detect(model: MaskRCNN, class_names: Sequence[str], photos: Iterable[str | Path]) -> list[Path]:
    """Writes the detections on each photo to <photo>_detected.png in the same folder."""
    written = []
    for photo in map(Path, photos):
        image = read_image(photo)
        (found,) = model.detect([image])
        output = photo.with_name(f"{photo.stem}_detected.png")
        visualize.display_instances(
            image, found["rois"], found["masks"], found["class_ids"], class_names, found["scores"], save=output
        )
        print("Saved to", output)
        written.append(output)
    return written


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("command", choices=("download", "train", "evaluate", "detect"))
    parser.add_argument("--dataset", help="folder of the downloaded files")
    parser.add_argument("--classes", nargs="+", metavar="NAME", help="as in class-descriptions-boxable.csv")
    parser.add_argument("--limit", type=int, help="number of photos to download per subset (default: all)")
    parser.add_argument("--weights", help="coco, imagenet, last, or a file")
    parser.add_argument("--logs", default=str(LOGS), help="folder for runs and checkpoints (%(default)s)")
    parser.add_argument("--epochs", type=int, help="total number of epochs, for train")
    parser.add_argument("--skip-broken", action="store_true", help="skip photos whose files are missing or broken")
    parser.add_argument("--image", nargs="+", metavar="PHOTO", help="photos for detect")
    args = parser.parse_args(arguments)
    needed = {"download": ("dataset", "classes"), "train": ("dataset", "classes", "weights"),
              "evaluate": ("dataset", "weights"), "detect": ("weights", "image")}  # fmt: skip
    for option in needed[args.command]:
        if not getattr(args, option):
            parser.error(f"{args.command} needs --{option}")
    return args


def main(arguments: list[str] | None = None) -> None:
    args = parse(arguments)
    if args.command == "download":
        download(args.dataset, args.classes, args.limit)
        return
    if args.command == "train":
        sets = [open_images_dataset(args.dataset, subset, args.classes, args.skip_broken) for subset in SUBSETS]
        train(*sets, args.weights, args.logs, args.epochs)
        return
    path = find_weights(args.weights, OpenImagesConfig.NAME, args.logs)
    class_names = ["BG", *args.classes] if args.classes else class_names_of(path)
    if class_names is None:
        raise ValueError(f"{path} stores no class names; pass --classes, the classes that it was trained for.")
    model = trained_model(path, args.logs)
    if args.command == "evaluate":
        evaluate(model, open_images_dataset(args.dataset, VALIDATION, class_names[1:], args.skip_broken))
    else:
        detect(model, class_names, args.image)


if __name__ == "__main__":
    main()

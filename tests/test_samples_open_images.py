"""The Open Images sample: downloads from a local server, the command line, and reading the files.

The server here is small and local; the files have the names, columns and places of the real ones.
"""

from __future__ import annotations

import csv
import http.server
import io
import threading
import zipfile
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from mrcnn import weights
from mrcnn.data.formats import BrokenAnnotation
from samples import open_images
from samples.shapes import ShapesConfig

BALLOON, PUMPKIN = "/m/01j51", "/m/05zsy"
COLUMNS = [
    "MaskPath", "ImageID", "LabelName", "BoxID", "BoxXMin", "BoxXMax", "BoxYMin", "BoxYMax", "PredictedIoU", "Clicks"
]  # fmt: skip
MASK_SIDE = 400  # pixels, of the longer side of the masks that are written here


def write_open_images(dataset, folder: Path, subset: str, label: str) -> list[dict]:
    """Writes a prepared dataset in the layout of Open Images V6; its masks are of another size than its photos.

    Image ids are 16 hexadecimal digits, as there, and say the number of the image.

    Returns:
        The rows of the table of masks.
    """
    photos, masks, rows = folder / subset, folder / f"{subset}-masks", []
    for place in (photos, masks):
        place.mkdir(parents=True, exist_ok=True)
    (folder / "class-descriptions-boxable.csv").write_text(f"{BALLOON},Balloon\n{PUMPKIN},Pumpkin\n/m/0jbk,Animal\n")
    for i in dataset.image_ids:
        image, (instances, _) = dataset.load_image(i), dataset.load_mask(i)
        image_id = f"{i % 16:x}{i:015x}"  # the first digits differ, and with them the archives
        cv2.imwrite(str(photos / f"{image_id}.jpg"), image[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])
        height, width = image.shape[:2]
        size = [max(1, round(side * MASK_SIDE / max(height, width))) for side in (width, height)]
        for j, mask in enumerate(np.moveaxis(instances, -1, 0)):
            name = f"{image_id}_{label[1:].replace('/', '')}_{j:08x}.png"
            small = cv2.resize(mask.astype(np.uint8) * 255, size, interpolation=cv2.INTER_AREA)
            cv2.imwrite(str(masks / name), (small >= 128).astype(np.uint8) * 255)
            ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            box = (xs[0] / width, (xs[-1] + 1) / width, ys[0] / height, (ys[-1] + 1) / height)
            values = [name, image_id, label, f"{j:08x}", *(f"{value:.6f}" for value in box), "0.00000", ""]
            rows.append(dict(zip(COLUMNS, values)))
    write_table(folder / f"{subset}-annotations-object-segmentation.csv", rows)
    return rows


def write_table(path: Path, rows) -> None:
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(rows)


# ---- A server like theirs --------------------------------------------------------------------------------------------
class Squares(open_images.OpenImagesDataset):
    """Images 40 x 60 with one square each."""

    def load_squares(self, count: int) -> None:
        self.add_class("squares", 1, "square")
        for i in range(count):
            self.add_image("squares", i, None)
        self.prepare()

    def load_image(self, image_id):
        image = np.full((40, 60, 3), 30, np.uint8)
        image[8:24, 10 + image_id : 34 + image_id] = (230, 120, 20)
        return image

    def load_mask(self, image_id):
        mask = np.zeros((40, 60, 1), bool)
        mask[8:24, 10 + image_id : 34 + image_id] = True
        return mask, np.ones(1, np.int32)


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves `files` {path: bytes}, also in pieces; notes what was asked for in `asked`."""

    def do_GET(self):
        content = self.server.files.get(self.path)
        self.server.asked.append(self.path)
        if content is None:
            self.send_error(404)
            return
        wanted, status = self.headers.get("Range"), 200
        if wanted and self.server.pieces:
            start, end = (int(number) for number in wanted.removeprefix("bytes=").split("-"))
            status, total, content = 206, len(content), content[start : end + 1]
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{start + len(content) - 1}/{total}")
        self.send_header("Content-Type", "application/octet-stream")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)
        self.server.sent += len(content)

    def log_message(self, *args):
        pass


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A site with four pumpkin photos and one balloon photo to train, and two pumpkin photos to validate."""
    site = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site.files, site.asked, site.pieces, site.sent = {}, [], True, 0
    for subset, count in (("train", 5), ("validation", 2)):
        dataset, folder = Squares(), tmp_path / "site"
        dataset.load_squares(count)
        rows = write_open_images(dataset, folder, subset, PUMPKIN)
        if subset == "train":
            rows[4]["LabelName"] = BALLOON
        name = f"{subset}-annotations-object-segmentation.csv"
        write_table(folder / name, rows)
        site.files[f"/v5/{name}"] = (folder / name).read_bytes()
        for photo in (folder / subset).iterdir():
            site.files[f"/s3/{subset}/{photo.name}"] = photo.read_bytes()
        for first in {row["MaskPath"][0] for row in rows}:
            packed = io.BytesIO()
            with zipfile.ZipFile(packed, "w") as archive:
                archive.writestr(f"{first}_not_wanted.png", np.random.default_rng(0).bytes(500_000))
                for row in rows:
                    if row["MaskPath"][0] == first:
                        archive.write(folder / f"{subset}-masks" / row["MaskPath"], row["MaskPath"])
            site.files[f"/v5/{subset}-masks/{subset}-masks-{first}.zip"] = packed.getvalue()
    site.files["/v5/class-descriptions-boxable.csv"] = (folder / "class-descriptions-boxable.csv").read_bytes()
    address = f"http://127.0.0.1:{site.server_port}"
    monkeypatch.setattr(open_images, "TABLES", f"{address}/v5")
    monkeypatch.setattr(open_images, "MASKS", f"{address}/v5")
    monkeypatch.setattr(open_images, "PHOTOS", f"{address}/s3")
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield site
    site.shutdown()
    site.server_close()


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- Download --------------------------------------------------------------------------------------------------------
def test_download_brings_what_the_classes_need_and_the_format_reads_it(server, tmp_path):
    open_images.main(["download", "--dataset", str(tmp_path / "data"), "--classes", "Pumpkin"])
    assert len(names_in(tmp_path / "data" / "train")) == len(names_in(tmp_path / "data" / "train-masks")) == 4
    assert server.sent < 500_000  # the archives alone have 3.5 MB
    dataset = open_images.open_images_dataset(tmp_path / "data", "train", ["Pumpkin"])
    assert dataset.class_names == ["BG", "Pumpkin"] and dataset.num_images == 4
    squares = Squares()
    squares.load_squares(4)
    for i in range(4):  # the masks lie there 267 x 400
        (masks, class_ids), (expected, _) = dataset.load_mask(i), squares.load_mask(i)
        assert list(class_ids) == [1] and masks.shape == (40, 60, 1)
        assert (masks & expected).sum() / (masks | expected).sum() > 0.9


def test_download_of_a_few_and_then_of_another_class(server, tmp_path):
    open_images.download(tmp_path / "data", ["Pumpkin"], limit=2)
    assert len(names_in(tmp_path / "data" / "train")) == 2
    asked = len(server.asked)
    with pytest.raises(BrokenAnnotation, match="Pumpkin"):
        open_images.download(tmp_path / "data", ["Pumpkins"])
    assert len(server.asked) == asked
    open_images.download(tmp_path / "data", ["Balloon"])
    assert not any(path.startswith("/v5/class") or path.endswith(".csv") for path in server.asked[asked:])
    both = open_images.open_images_dataset(tmp_path / "data", "train", ["Pumpkin", "Balloon"])
    assert both.num_images == 3 and [int(both.load_mask(i)[1][0]) for i in range(3)] == [1, 1, 2]


def test_an_interrupted_download_is_resumed(server, tmp_path):
    photo = sorted(path for path in server.files if path.startswith("/s3/train"))[1]
    content = server.files.pop(photo)
    with pytest.raises(ConnectionError, match=f"{photo}: the server answered 404"):
        open_images.download(tmp_path / "data", ["Pumpkin"])
    assert not (tmp_path / "data" / "train-annotations-object-segmentation.csv").exists()
    server.files[photo] = content
    del server.asked[:]
    open_images.download(tmp_path / "data", ["Pumpkin"])
    assert server.asked.count(photo) == 1
    assert sum(path.startswith("/s3/train") for path in server.asked) < 4  # the others are there
    assert not [name for name in names_in(tmp_path / "data" / "train") if not name.endswith(".jpg")]


def test_servers_without_ranges_and_archives_without_a_mask(server, tmp_path):
    server.pieces = False
    with pytest.raises(ConnectionError, match="train-masks-0.zip: the server does not support range requests"):
        open_images.download(tmp_path / "data", ["Pumpkin"])
    server.pieces = True
    empty = io.BytesIO()
    zipfile.ZipFile(empty, "w").close()
    server.files["/v5/train-masks/train-masks-0.zip"] = empty.getvalue()
    with pytest.raises(FileNotFoundError, match="train-masks-0.zip does not contain 0000"):
        open_images.download(tmp_path / "data", ["Pumpkin"])


# ---- Command line ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "missing"),
    [
        (["download", "--dataset", "x"], "--classes"),
        (["train", "--dataset", "x", "--classes", "Pumpkin"], "--weights"),
        (["evaluate", "--weights", "last"], "--dataset"),
        (["detect", "--weights", "last"], "--image"),
    ],
)
def test_each_command_names_its_missing_options(words, missing, capsys):
    with pytest.raises(SystemExit):
        open_images.parse(words)
    assert f"{words[0]} needs {missing}" in capsys.readouterr().err


def test_a_checkpoint_without_class_names_needs_them_as_options(tmp_path):
    checkpoint = tmp_path / "mask_rcnn_open_images.h5"
    h5py.File(checkpoint, "w").close()
    with pytest.raises(ValueError, match="--classes"):
        open_images.main(["detect", "--weights", str(checkpoint), "--image", "x.jpg"])


# ---- Train, evaluate, detect -----------------------------------------------------------------------------------------
@pytest.mark.slow
def test_from_files_to_a_trained_model(server, tmp_path, monkeypatch):
    evaluated = []
    small = {name: getattr(ShapesConfig, name) for name in ShapesConfig.__dict__ if name.isupper()}
    for name, value in {**small, "IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "VALIDATION_STEPS": 0}.items():
        if name not in ("NAME", "NUM_CLASSES"):
            monkeypatch.setattr(open_images.OpenImagesConfig, name, value)
    monkeypatch.setattr("samples.common.backbone_of", lambda path: None)
    monkeypatch.setattr(open_images, "load_weights", load_if_whole)
    monkeypatch.setattr(open_images, "evaluate", lambda model, dataset: evaluated.append(dataset.image_info))
    start = tmp_path / "start.h5"
    start.touch()
    data, logs = str(tmp_path / "data"), str(tmp_path / "logs")
    common = ["--dataset", data, "--logs", logs]
    open_images.main(["download", "--dataset", data, "--classes", "Pumpkin", "Balloon"])
    open_images.main(["train", *common, "--classes", "Pumpkin", "Balloon", "--weights", str(start), "--epochs", "1"])
    (run,) = (tmp_path / "logs").iterdir()
    assert weights.read_class_names(run / "mask_rcnn_open_images_0001.h5") == ["BG", "Pumpkin", "Balloon"]
    assert (run / "detections.png").is_file()
    open_images.main(["evaluate", *common, "--weights", "last"])
    assert [len(images) for images in evaluated] == [2, 2]
    assert "validation" in evaluated[0][0]["path"] and evaluated[0] == evaluated[1]
    photo = next((tmp_path / "data" / "train").iterdir())
    open_images.main(["detect", "--logs", logs, "--weights", "last", "--image", str(photo)])
    assert photo.with_name(f"{photo.stem}_detected.png").is_file()


def load_if_whole(model, word, path) -> None:
    if Path(path).stat().st_size:
        model.load_weights(path)


def test_the_docstring_starts_with_the_commands():
    for command in ("download", "train", "evaluate", "detect"):
        assert f"python samples/open_images.py {command} " in open_images.__doc__

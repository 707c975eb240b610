"""`mrcnn detect`, `label` and `evaluate`, with the shipped weights on drawn shapes."""

from __future__ import annotations

import io
import json
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import tifffile
from PIL import Image

from mrcnn import open_dataset
from mrcnn.video import VideoFile, read_video


def drawn_shapes(shift=0):
    """A square and a circle, [128, 128, 3] uint8."""
    image = np.full((128, 128, 3), (40, 90, 160), np.uint8)
    cv2.rectangle(image, (15 + shift, 20), (55 + shift, 60), (230, 200, 40), -1)
    return cv2.circle(image, (90, 85), 22, (200, 40, 60), -1)


@pytest.fixture(scope="module")
def shapes_model():
    from mrcnn.cli.models import open_model

    model = open_model("shapes")
    return model, model.config.to_json()


@pytest.fixture(autouse=True)
def open_only_once(monkeypatch, shapes_model):
    """Commands share one model, which takes seconds to build; other weights are opened as ever."""
    from mrcnn.cli import models

    real, (model, config) = models.open_model, shapes_model

    def open_model(weights, **settings):
        if weights != "shapes":
            return real(weights, **settings)
        for name, value in {**config, **settings}.items():
            setattr(model.config, name, value)
        return model

    monkeypatch.setattr(models, "open_model", open_model)


@pytest.fixture
def photos(tmp_path):
    """A folder with two photos, one in a subfolder, and a broken one."""
    folder = tmp_path / "photos"
    (folder / "sub").mkdir(parents=True)
    Image.fromarray(drawn_shapes()).save(folder / "a.png")
    Image.fromarray(drawn_shapes(5)).save(folder / "sub" / "a.jpg", quality=95)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 cut off")
    return folder


def names_of(content, image_id):
    names = {category["id"]: category["name"] for category in content["categories"]}
    return sorted(names[one["category_id"]] for one in content["annotations"] if one["image_id"] == image_id)


# ---- detect ----------------------------------------------------------------------------------------------------------
def test_a_folder_gives_pictures_and_coco_results(run, photos, tmp_path):
    """A broken photo ended the run; two photos of one name shared a picture."""
    result = run("detect", photos, "--weights", "shapes", "--output", tmp_path / "out", "--json")
    assert result.exit_code == 1
    assert [line for line in result.stderr.splitlines() if line.startswith("error: ")] == [
        line for line in result.stderr.splitlines() if "broken.jpg" in line
    ]
    done = json.loads(result.stdout)
    assert (done["photos"], done["objects"], done["broken"]) == (2, 4, [str(photos / "broken.jpg")])
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert [image["file_name"] for image in content["images"]] == ["../photos/a.png", "../photos/sub/a.jpg"]
    assert names_of(content, 1) == names_of(content, 2) == ["circle", "square"]
    assert all(0.7 <= one["score"] <= 1 for one in content["annotations"])
    for name in ("a_detected.jpg", "sub/a_detected.jpg"):
        picture = np.asarray(Image.open(tmp_path / "out" / name))
        assert picture.shape == (128, 128, 3) and np.abs(picture.astype(int) - drawn_shapes()).mean() > 3
    dataset = open_dataset(tmp_path / "out" / "detections.json", root=photos)
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape == (128, 128, 2) and set(class_ids) == {1, 2} and masks[85, 90].any() and masks[40, 35].any()


def test_stdin_patterns_and_filters(run, photos, tmp_path):
    stream = io.BytesIO()
    Image.fromarray(drawn_shapes()).save(stream, "PNG")
    arguments = ["detect", "-", photos / "**" / "a.*", "-w", "shapes", "-o", tmp_path / "out", "--classes", "circle"]
    result = run(*arguments, "--no-pictures", input=stream.getvalue())
    assert result.exit_code == 0 and "3 photos, 0 videos, 3 objects in photos, 0 broken" in result.stdout
    content = json.loads((tmp_path / "out" / "detections.json").read_text())
    assert content["images"][0]["file_name"] == "stdin"
    assert [names_of(content, i) for i in (1, 2, 3)] == [["circle"]] * 3
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["detections.json"]


def test_a_large_geotiff_gives_whole_objects_and_a_file_with_its_coordinates(run, tmp_path):
    tags = [(33550, "d", 3, (0.5, 0.5, 0), True), (33922, "d", 6, (0, 0, 0, 1000, 2000, 0), True)]
    tags.append((34735, "H", 8, (1, 1, 0, 1, 3072, 0, 1, 32633), True))
    image = np.tile(drawn_shapes(), (2, 3, 1))
    tifffile.imwrite(tmp_path / "a.tif", image, tile=(64, 64), compression="zlib", photometric="rgb", extratags=tags)
    arguments = ["detect", tmp_path / "a.tif", "-w", "shapes", "-o", tmp_path / "out", "--json"]
    result = run(*arguments, "--tiled", "--tile", 128, "--overlap", 48)
    assert result.exit_code == 0 and json.loads(result.stdout)["objects"] == 12, result.stderr
    assert Image.open(tmp_path / "out" / "a_detected.jpg").size == (384, 256)
    features = json.loads((tmp_path / "out" / "a.geojson").read_text())["features"]
    corners = np.concatenate([ring for one in features for ring in one["geometry"]["coordinates"]])
    assert (corners.min(axis=0) > (1000, 2000 - 128)).all() and (corners.max(axis=0) < (1192, 2000)).all()
    assert run(*arguments, "--overlap", 48).exit_code == 2  # without --tiled


def test_a_video_gives_a_video_and_the_objects_of_each_frame(run, tmp_path):
    with VideoFile(tmp_path / "clip.avi", 10) as file:
        for shift in range(3):
            file.write(drawn_shapes(2 * shift))
    result = run("detect", tmp_path / "clip.avi", "-w", "shapes", "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["videos"] == 1
    content = json.loads((tmp_path / "out" / "clip_detections.json").read_text())
    assert [image["frame"] for image in content["images"]] == [0, 1, 2]
    tracks = {one["track_id"] for one in content["annotations"]}
    assert len(content["annotations"]) == 6 and len(tracks) == 2, "each object keeps its number"
    assert len(list(read_video(tmp_path / "out" / "clip_detected.mp4").frames)) == 3


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["photos", "--output", "photos"], 2, "choose another one"),
        (["nowhere.jpg"], 1, "nowhere.jpg does not exist"),
        (["no*.jpg"], 1, "no*.jpg: no photo or video"),
        (["photos", "--set", "IMAGE_MAX_DIMS=64"], 2, "Did you mean IMAGE_MAX_DIM?"),
        (["photos", "--classes", "cat"], 1, "no class 'cat'; its classes are: square, circle, triangle"),
        (["photos", "--weights", "nowhere.h5"], 1, "nowhere.h5: no such file"),
        (["photos", "--weights", "shape"], 1, "Did you mean 'shapes'?"),
    ],
)
def test_invalid_input_gives_a_one_line_error(run, photos, monkeypatch, arguments, code, says):
    monkeypatch.chdir(photos.parent)
    weights = [] if "--weights" in arguments else ["--weights", "shapes"]
    result = run("detect", *arguments, *weights)
    assert result.exit_code == code and says in result.stderr.replace("\n", " "), result.stderr
    assert not (photos.parent / "detections").exists() and result.stdout == ""


def test_settings_and_the_lowest_score_take_effect(run, photos, tmp_path):
    arguments = ["detect", photos / "a.png", "-w", "shapes", "-o", tmp_path / "out", "--json"]
    assert json.loads(run(*arguments, "--min-score", "1").stdout)["objects"] == 0
    assert json.loads(run(*arguments, "--set", "DETECTION_MIN_CONFIDENCE=1").stdout)["objects"] == 0


def test_a_folder_named_like_a_preset_is_not_the_weights(run, tmp_path, monkeypatch):
    """A dataset in the folder "shapes" was taken for a run, and for an exported model."""
    from mrcnn.cli.models import weights_path

    (tmp_path / "shapes").mkdir()
    monkeypatch.chdir(tmp_path)
    assert weights_path("shapes") is None
    assert json.loads(run("info", "shapes", "--json").stdout)["class_count"] == 4
    (tmp_path / "run").mkdir()
    for epoch in (9, 10):
        h5py.File(tmp_path / "run" / f"mask_rcnn_cells_{epoch:04}.h5", "w").close()
    assert weights_path("run").name == "mask_rcnn_cells_0010.h5"


class DislikesBlack:
    """A model that refuses a batch with a black photo, as ours refuses photos with the wrong number of bands."""

    def detect(self, images):
        if any(image.max() == 0 for image in images):
            raise ValueError("a black photo")
        return [int(image[0, 0, 0]) for image in images]


def test_one_unreadable_photo_does_not_lose_the_rest_of_its_batch(tmp_path):
    from mrcnn.cli.detect import detect_photos
    from mrcnn.cli.inputs import find_sources

    for i in (0, 1, 2, 3, 4):
        Image.fromarray(np.full((8, 8, 3), i % 3, np.uint8)).save(tmp_path / f"{i}.png")
    broken = []
    found = list(detect_photos(DislikesBlack(), find_sources([str(tmp_path)], tmp_path / "out"), 2, broken))
    assert [(source.name, result) for source, _, result in found] == [("1.png", 1), ("2.png", 2), ("4.png", 1)]
    assert broken == [str(tmp_path / "0.png"), str(tmp_path / "3.png")]


# ---- label and evaluate ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("to", "file"),
    [("labelme", ""), ("cvat", "annotations.xml"), ("coco", "annotations.json"), ("yolo", "data.yaml")],
)
def test_exported_labels_can_be_read_back(run, photos, tmp_path, to, file):
    result = run("label", photos / "a.png", "-w", "shapes", "--format", to, "-o", tmp_path / "out", "--json")
    assert result.exit_code == 0, result.stderr
    dataset = open_dataset(tmp_path / "out" / file, root=photos)
    masks, class_ids = dataset.load_mask(0)
    names = [dataset.class_names[i] for i in class_ids]
    assert sorted(names) == ["circle", "square"]
    assert masks[40, 35, names.index("square")] and masks[85, 90, names.index("circle")]
    again = run("label", photos / "a.png", "-w", "shapes", "--format", to, "-o", tmp_path / "out")
    assert again.exit_code == 1 and "--overwrite" in again.stderr


def test_evaluate_matches_classes_by_name(run, photos, tmp_path):
    """The classes of the file have other ids than those of the model."""
    run("label", photos, "-w", "shapes", "--format", "coco", "-o", photos)
    labels = json.loads((photos / "annotations.json").read_text())
    numbers = {category["id"]: 90 - category["id"] for category in labels["categories"]}
    labels["categories"] = [{**one, "id": numbers[one["id"]]} for one in labels["categories"]][::-1]
    labels["annotations"] = [{**one, "category_id": numbers[one["category_id"]]} for one in labels["annotations"]]
    (photos / "annotations.json").write_text(json.dumps(labels))
    page = tmp_path / "report.html"
    result = run("evaluate", photos / "annotations.json", "--weights", "shapes", "--json", "--report", page)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)
    assert found["mask_ap50"] == 1 and found["images"] == 2 and found["per_class"][0]["name"] == "square"
    assert "<html" in page.read_text()[:200]
    table = run("evaluate", photos / "annotations.json", "--weights", "shapes").stdout
    assert "mask" in table and "1.000" in table


def test_evaluate_refuses_classes_that_the_model_lacks(run, photos, tmp_path):
    run("label", photos / "a.png", "-w", "shapes", "--format", "coco", "-o", tmp_path)
    text = (tmp_path / "annotations.json").read_text().replace('"square"', '"house"')
    (tmp_path / "annotations.json").write_text(text)
    result = run("evaluate", tmp_path / "annotations.json", "--weights", "shapes")
    assert result.exit_code == 1 and "house" in result.stderr and result.stderr.startswith("error: ")


def test_an_unwritable_folder_is_refused_before_the_work(run, photos, tmp_path, shapes_model, monkeypatch):
    """After an hour of detection there was no permission to write the results."""
    data = tmp_path / "annotations.json"
    assert run("label", photos / "a.png", "-w", "shapes", "--format", "coco", "-o", tmp_path).exit_code == 0
    (tmp_path / "file").touch()
    for method in ("detect", "evaluate_dataset"):
        monkeypatch.setattr(shapes_model[0], method, lambda *_, **__: pytest.fail("the work was done first"))
    for command in (
        ["label", photos / "a.png", "--format", "yolo", "-o", tmp_path / "file" / "out"],
        ["evaluate", data, "--report", tmp_path / "file" / "report.html"],
        ["evaluate", data, "--save", tmp_path / "file" / "results.json"],
    ):
        result = run(*command, "--weights", "shapes")
        assert result.exit_code == 1 and "can't be written" in result.stderr, result.stderr


def test_output_files_appear_only_when_complete(tmp_path):
    from mrcnn.cli.detections_file import detections_file

    path = tmp_path / "detections.json"
    with pytest.raises(OSError, match="disk"), detections_file(path, ["BG", "cat"]):
        raise OSError("disk full")
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(KeyboardInterrupt), detections_file(path, ["BG", "cat"]):
        raise KeyboardInterrupt
    assert json.loads(Path(path).read_text()) == {
        "categories": [{"id": 1, "name": "cat"}],
        "annotations": [],
        "images": [],
    }

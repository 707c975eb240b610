"""The dataset doctor: finds every added mistake, reports nothing on clean datasets, writes a corrected copy."""

from __future__ import annotations

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from mrcnn.config import Config
from mrcnn.data import check, open_dataset, open_splits
from mrcnn.data.doctor.copies import find_copies, thumbnail
from mrcnn.data.doctor.findings import KINDS
from tests import doctor_kit as kit

CONFIG = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128, RPN_ANCHOR_SCALES=(8, 16, 32, 64, 128))
WRITERS = {
    "coco": kit.write_coco,
    "labelme": kit.write_labelme,
    "via": kit.write_via,
    "voc": kit.write_voc,
    "yolo": kit.write_yolo,
}


def alarms(findings):
    return [(one.severity, one.code, str(one)) for one in [*findings.errors, *findings.warnings]]


# ---- Planted faults --------------------------------------------------------------------------------------------------
def plant(photos, thick):
    """Plants a fault of each kind in a separate photo; returns {(code, stem of the photo)}.

    `thick`: a line is no mask without a pixel, because the format draws outlines as well.
    """
    photos["missing"] = kit.shapes_photo(101)
    photos["missing"].damage = "missing"
    photos["cut"] = kit.shapes_photo(102)
    photos["cut"].damage = "cut"
    photos["size"] = kit.shapes_photo(103)
    photos["size"].size = (kit.W, kit.H)
    photos["blank"] = kit.shapes_photo(104)
    photos["blank"].pixels[:] = 90
    photos["twice"] = kit.shapes_photo(0)  # a0 is in each clean set
    small = cv2.resize(photos["a1"].pixels, (kit.W // 2, kit.H // 2), interpolation=cv2.INTER_AREA)
    halves = [kit.Object(one.name, (np.array(one.points) / 2).tolist()) for one in photos["a1"].objects]
    photos["similar"] = kit.Photo(np.clip(small * 1.1 + 4, 0, 255).astype(np.uint8), halves)
    mirrored = [kit.Object(one.name, [[kit.W - x, y] for x, y in one.points]) for one in photos["a2"].objects]
    photos["mirrored"] = kit.Photo(np.ascontiguousarray(photos["a2"].pixels[:, ::-1]), mirrored)
    planted = {
        "empty": ("empty-object", kit.Object("disc", [[5, 5], [9, 5], [13, 5]][: 2 if thick else 3])),
        "outside": ("outside-image", kit.Object("disc", kit.rectangle(-40, -60, -10, -20))),
        "partly": ("partly-outside", kit.Object("disc", kit.rectangle(60, 4, 140, 24))),
        "pixel": (
            "one-pixel-object",
            kit.Object("disc", kit.rectangle(3, 3, 3, 3) if thick else kit.rectangle(3, 3, 4, 4)),
        ),
        "whole": ("whole-image-mask", kit.Object("disc", kit.rectangle(0, 0, kit.H, kit.W))),
        "double": ("duplicate-object", None),
        "two": ("conflicting-objects", None),
    }
    for number, (name, (_, extra)) in enumerate(planted.items()):
        photo = photos[name] = kit.shapes_photo(110 + number)
        if extra is None:
            first = photo.objects[0]
            extra = kit.Object("disc" if name == "double" else "plate", (np.array(first.points) + 0.3).tolist())
        photo.objects.append(extra)
    expected = {(code, name) for name, (code, _) in planted.items()}
    expected |= {("blank-image", "blank"), ("missing-image", "missing"), ("unreadable-image", "cut")}
    expected |= {("wrong-size", "size")}
    return expected | {("duplicate-image", name) for name in ("twice", "similar", "mirrored")}


def stem_of(finding):
    """The name of the photo that a finding is about."""
    path = Path(finding.file)
    if path.name == "train":  # a warning of labelme's reader for all files
        return re.search(r"(\w+)\.json: shapes", finding.what)[1]
    if path.stem != "instances_train":
        return path.stem
    images = json.loads(path.read_text())["images"]  # the reader left it out
    return next(Path(one["file_name"]).stem for one in images if f"image {one['id']}" == finding.entry)


@pytest.fixture(scope="module", params=["coco", "labelme"])
def planted(request, tmp_path_factory):
    """(folder of a set with a fault of each kind, what is expected, findings, the cleaned copy)."""
    folder = tmp_path_factory.mktemp(request.param)
    write = WRITERS[request.param]
    photos, val = kit.clean_set(4), kit.clean_set(3, seed=50)
    expected = plant(photos, thick=request.param == "labelme")
    if request.param == "coco":
        photos["box"] = kit.shapes_photo(130)
        photos["box"].objects[0].box = [60, 40, 30, 30]
        expected.add(("box-mismatch", "box"))
    expected.add(("leaking-image", "leaked"))
    leaked = kit.shapes_photo(52)  # of val, brighter and compressed again
    leaked.pixels = np.clip(leaked.pixels * 0.9, 0, 255).astype(np.uint8)
    photos["leaked"] = leaked
    write(photos, folder)
    write(val, folder, "val")
    clean = folder.parent / f"{request.param}_clean"
    return folder, expected, check(folder, config=CONFIG, fix=clean), clean


def test_only_the_planted_faults_are_found(planted):
    _, expected, findings, _ = planted
    found = [(one.code, stem_of(one)) for one in [*findings.errors, *findings.warnings]]
    assert sorted(found) == sorted(expected)


def test_the_cleaned_copy_has_no_fault_and_the_same_masks(planted):
    folder, _, findings, clean = planted
    again = check(clean, config=CONFIG)
    assert not alarms(again)
    train, val = open_splits(clean)
    assert val.num_images == 3 and findings.fixed["images"] == {"train": train.num_images, "val": 3}
    left_out = {"missing", "cut", "size", "blank", "twice", "similar", "mirrored", "leaked"}
    stems = {Path(info["path"]).stem for info in train.image_info}
    assert not stems & left_out and {"a0", "a1", "a2", "a3", "empty", "pixel", "whole", "two"} <= stems
    for i, info in enumerate(train.image_info):
        masks, class_ids = train.load_mask(i)
        assert masks.shape[-1] == len(class_ids) == (3 if Path(info["path"]).stem == "partly" else 2)
    file = json.loads((clean / "annotations/instances_train.json").read_text())
    for annotation in file["annotations"]:  # boxes are computed from the masks
        i = train.image_from_source_map[f"coco.{annotation['image_id']}"]
        masks, _ = train.load_mask(i)
        boxes = [cv2.boundingRect(mask.astype(np.uint8)) for mask in np.moveaxis(masks, -1, 0)]
        assert tuple(map(int, annotation["bbox"])) in boxes


@pytest.mark.parametrize("name", WRITERS)
def test_no_alarm_on_a_clean_set(tmp_path, name):
    target = WRITERS[name](kit.clean_set(5, seed=200), tmp_path)
    findings = check(target, config=CONFIG)
    assert not alarms(findings) and findings.images == {"train": 5} and findings.objects == {"train": 10}


def test_a_box_that_contradicts_its_outline_is_found_in_voc(tmp_path):
    photos = kit.clean_set(3)
    photos["a1"].objects[1].box = [2, 3, 20, 10]
    findings = check(kit.write_voc(photos, tmp_path), config=CONFIG)
    assert [(one.code, Path(one.file).stem, one.entry) for one in findings if one.severity != "advice"] == [
        ("box-mismatch", "a1", "object 1")
    ]


# ---- Faults of the set as a whole ------------------------------------------------------------------------------------
def rename(photos, new):
    """Renames the classes of the objects alternately."""
    objects = [one for photo in photos.values() for one in photo.objects]
    for i, one in enumerate(objects):
        one.name = new[i % len(new)]
    return photos


@pytest.mark.parametrize("name", ["coco", "labelme", "yolo"])
@pytest.mark.parametrize(
    ("train_names", "val_names", "code", "says"),
    [
        (["disc", "Disc "], ["disc"], "near-equal-names", "'disc' (7) and 'Disc' (3)"),
        (["balloon", "baloons"], ["balloon", "baloons"], "near-equal-names", "'balloon' (5) and 'baloons' (5)"),
        (["disc"], ["disc"], "class-without-objects", "'plate'"),
        (["disc"], ["disc", "plate"], "class-missing-in-train", "2 objects of the class 'plate'"),
        (["disc", "plate"], ["plate"], "class-missing-in-val", "3 objects of the class 'disc'"),
    ],
)
def test_faults_of_classes(tmp_path, name, train_names, val_names, code, says):
    names = train_names if code == "near-equal-names" else ["disc", "plate"]
    WRITERS[name](rename(kit.clean_set(3), train_names), tmp_path, "train", names)
    WRITERS[name](rename(kit.clean_set(2, seed=20), val_names), tmp_path, "val", names)
    findings = check(tmp_path, config=CONFIG)
    found = [one for one in findings if one.code == code]
    assert len(found) == 1 and says in found[0].what
    assert {one.code for one in findings if one.severity != "advice"} <= {code}


@pytest.mark.parametrize("name", ["coco", "labelme"])
def test_crowds_meant_as_objects_become_objects(tmp_path, name):
    photos = kit.clean_set(4)
    for photo in list(photos.values())[:2]:
        for one in photo.objects:
            one.crowd = True
    WRITERS[name](photos, tmp_path / "data")
    findings = check(tmp_path / "data" / ("" if name == "coco" else "train"), config=CONFIG, fix=tmp_path / "clean")
    assert [one.code for one in findings.warnings] == ["crowds"] and not findings.errors
    dataset = open_dataset(tmp_path / "clean")
    assert all((dataset.load_mask(i)[1] > 0).all() for i in range(4))
    assert not alarms(check(tmp_path / "clean", config=CONFIG))


@pytest.mark.parametrize("name", ["coco", "via"])
def test_advice_on_images(tmp_path, name):
    """Gray as RGB, turned photos, 12 of 16 bits, images without objects, rare classes."""
    photos = kit.clean_set(3)
    photos["gray"] = kit.shapes_photo(60)
    photos["gray"].pixels[:] = photos["gray"].pixels[..., :1]
    photos["gray"].suffix = ".png"
    photos["turned"] = kit.shapes_photo(61)
    photos["turned"].exif, photos["turned"].size = 8, (kit.W, kit.H)
    photos["turned"].objects = [kit.Object("disc", [[y, x] for x, y in kit.shapes_photo(61).objects[0].points])]
    photos["deep"] = kit.shapes_photo(62)
    photos["deep"].pixels, photos["deep"].suffix = photos["deep"].pixels.astype(np.uint16) * 16, ".png"
    photos["nothing"] = kit.shapes_photo(63, count=0)
    findings = check(WRITERS[name](photos, tmp_path), config=CONFIG)
    assert not alarms(findings)
    found = {(one.code, Path(one.file).stem) for one in findings.advice}
    assert found >= {("gray-as-rgb", "gray"), ("turned-image", "turned"), ("images-without-objects", "")}
    (deep,) = [one for one in findings.advice if one.code == "narrow-range"]
    assert "set IMAGE_RANGE = (0, 4095)" in deep.what


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_advice_on_sizes_and_anchors_follows_the_data(tmp_path, name):
    photos = kit.clean_set(2)
    for photo in photos.values():
        corners = [(y, x) for y in range(4, 20, 8) for x in range(4, 124, 8)]
        photo.objects = [kit.Object("disc", kit.rectangle(y, x, y + 5, x + 5)) for y, x in corners]
        photo.objects.append(kit.Object("plate", kit.rectangle(30, 30, 70, 70)))
    config = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128, RPN_ANCHOR_SCALES=(32, 64, 96, 128, 160))
    findings = check(WRITERS[name](photos, tmp_path), config=config)
    by_code = findings.by_code()
    assert not alarms(findings)
    assert "60 of 62 objects (97%) are smaller than 8 pixels" in by_code["tiny-objects"][0].what
    (anchors,) = by_code["anchor-recall"]
    assert (
        anchors.what.startswith("3% of the objects") and "IMAGE_MAX_DIM = 256, 256 and RPN_ANCHOR" in anchors.solution
    )


def test_suggested_anchors_raise_recall(tmp_path):
    photos = kit.clean_set(2)
    for photo in photos.values():
        photo.objects = [kit.Object("disc", kit.rectangle(y, 10, y + 9, 19)) for y in (5, 25, 45, 65)]
    dataset = open_dataset(kit.write_coco(photos, tmp_path))
    config = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128)
    (anchors,) = check(dataset, config=config).by_code()["anchor-recall"]
    scales = tuple(int(text) for text in anchors.solution.split("SCALES = (")[1].split(")")[0].split(","))
    better = Config(IMAGE_MIN_DIM=128, IMAGE_MAX_DIM=128, RPN_ANCHOR_SCALES=scales)
    assert dataset.summary(better, progress=False).anchor_recall(0.5) == 1
    assert dataset.summary(config, progress=False).anchor_recall(0.5) == 0


@pytest.mark.parametrize("name", ["coco", "yolo"])
def test_rare_classes_are_named(tmp_path, name):
    photos = kit.clean_set(2)
    corners = [(y, x) for y in range(4, 92, 12) for x in range(4, 116, 12)]
    photos["a0"].objects = [kit.Object("disc", kit.rectangle(y, x, y + 9, x + 9)) for y, x in corners]
    photos["a1"].objects = photos["a1"].objects[1:]
    (rare,) = check(WRITERS[name](photos, tmp_path), config=CONFIG).by_code()["class-imbalance"]
    assert "the most frequent class, disc, has 80 objects; rare are plate (1)" in rare.what


def test_objects_of_blank_images_count_for_their_class(tmp_path):
    """A set of empty photos was said to have no object of any class as well."""
    photos = kit.clean_set(2)
    for photo in photos.values():
        photo.pixels[:] = 7
        photo.suffix = ".png"
    findings = check(kit.write_coco(photos, tmp_path), config=CONFIG)
    assert {one.code for one in findings.warnings} == {"blank-image", "duplicate-image"} and not findings.errors


@pytest.mark.parametrize("name", ["coco", "labelme"])
def test_entries_that_give_no_mask_are_found(tmp_path, name):
    """A coordinate far away (a named error of the reader), and two points (a warning of the reader)."""
    photos = kit.clean_set(4)
    photos["a1"].objects[0].points[0][0] = 1e9
    photos["a3"].objects.append(kit.Object("disc", [[5, 5], [9, 9]], box=[0, 0, 0, 0]))
    findings = check(WRITERS[name](photos, tmp_path / "data"), config=CONFIG, fix=tmp_path / "clean")
    assert sorted(one.code for one in findings if one.severity != "advice") == ["broken-annotation", "empty-object"]
    assert findings.fixed["images"] == {"train": 3} and findings.fixed["images_left_out"] == {"train": 1}
    assert not alarms(check(tmp_path / "clean", config=CONFIG))


@pytest.mark.parametrize(
    ("name", "darker", "code", "says"),
    [
        ("coco", 3, "mean-pixel", "MEAN_PIXEL is [123.7, 116.8, 103.9]"),
        ("yolo", 3, "mean-pixel", "the mean pixel of the images is ["),
        ("coco", 8, "narrow-range", "they are dark"),
        ("yolo", 8, "narrow-range", "they are dark"),
    ],
)
def test_objects_that_training_would_lose_and_dark_images(tmp_path, name, darker, code, says):
    photos = {f"a{i}": kit.shapes_photo(i, count=0) for i in range(2)}
    for photo in photos.values():
        photo.pixels //= darker
        photo.objects = [kit.Object("disc", kit.rectangle(y, 8, y + 2, 10)) for y in range(10, 60, 10)]
        photo.objects.append(kit.Object("plate", kit.rectangle(10, 40, 70, 100)))
    config = Config(IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=64, IMAGE_RESIZE_MODE="square", MAX_GT_INSTANCES=4)
    for photo in photos.values():
        photo.pixels = cv2.resize(photo.pixels, (8 * kit.W, 8 * kit.H))
        for one in photo.objects[-1:]:
            one.points = (8 * np.array(one.points)).tolist()
    findings = check(WRITERS[name](photos, tmp_path), config=config)
    by_code = findings.by_code()
    assert not alarms(findings)
    assert by_code["lost-in-resizing"][0].what.startswith("10 objects have no pixel")
    assert by_code["too-many-objects"][0].solution.startswith("Raise MAX_GT_INSTANCES to 6")
    assert says in by_code[code][0].what and len({"mean-pixel", "narrow-range"} & set(by_code)) == 1


# ---- Copies ----------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    "change",
    [
        lambda photo: cv2.resize(photo, (53, 40), interpolation=cv2.INTER_LINEAR),
        lambda photo: cv2.imdecode(cv2.imencode(".jpg", photo, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], cv2.IMREAD_COLOR),
        lambda photo: np.clip(photo * 0.8 - 5, 0, 255).astype(np.uint8),
        lambda photo: (255 * (photo / 255.0) ** 0.8).astype(np.uint8),
        lambda photo: photo.astype(np.uint16) * 257,
    ],
    ids=["resized", "compressed", "darker", "gamma", "16 bit"],
)
def test_modified_copies_are_found(change):
    photos = [kit.shapes_photo(seed).pixels for seed in range(40)]
    thumbnails = np.stack([thumbnail(photo) for photo in [*photos, change(photos[7]), change(photos[8][:, ::-1])]])
    copies = find_copies(thumbnails, [bytes([i]) for i in range(42)])
    assert copies == [(7, 40, "similar"), (8, 41, "mirrored")]


def test_plain_photos_are_duplicates_only_if_identical():
    flat = np.full((4, 32, 32, 3), 200, np.uint8)
    flat[1, 5, 5] = 201
    flat[2, 9, 9] = 202
    assert find_copies(flat, [b"a", b"b", b"c", b"a"]) == [(0, 3, "identical")]
    assert find_copies(flat[:1], [b"a"]) == []


# ---- The rest --------------------------------------------------------------------------------------------------------
def test_findings_as_text_and_json(planted):
    _, _, findings, _ = planted
    content = json.loads(json.dumps(findings.to_dict()))
    assert content["counts"]["error"] == len(findings.errors) > 0 and findings.has_errors
    assert len(content["findings"]) == len(findings)
    first = content["findings"][0]
    assert first["severity"] == "error" and first["solution"] == KINDS[first["code"]].solution
    text = str(findings)
    assert all(code in text for code in findings.by_code()) and f"{len(findings.errors)} errors" in text


def test_an_unreadable_split_is_reported(tmp_path):
    kit.write_coco(kit.clean_set(2), tmp_path)
    kit.write_coco(kit.clean_set(1, seed=9), tmp_path, "val")
    for file in (tmp_path / "train").iterdir():
        file.write_bytes(b"no photo")
    findings = check(tmp_path, config=CONFIG)
    assert findings.images == {"val": 1}
    assert [(one.code, one.split) for one in findings.errors] == [("unreadable-image", "train")] * 2


def test_a_folder_with_files_is_not_overwritten(tmp_path):
    kit.write_coco(kit.clean_set(1), tmp_path)
    with pytest.raises(FileExistsError, match="not empty"):
        check(tmp_path, fix=tmp_path)


# ---- The command -----------------------------------------------------------------------------------------------------
def test_the_command_prints_a_table_and_exits_with_1(tmp_path):
    from typer.testing import CliRunner

    from mrcnn import cli

    photos = kit.clean_set(3)
    photos["a1"].damage = "cut"
    photos["a2"].objects.append(photos["a2"].objects[0])
    kit.write_coco(photos, tmp_path / "data")

    def run(*arguments):
        return CliRunner().invoke(cli.app, ["check", *map(str, arguments), "--size", "128"])

    result = run(tmp_path / "data")
    assert result.exit_code == 1 and "unreadable-image" in result.stdout and "1 errors, 1 warnings" in result.stdout
    result = run(tmp_path / "data", "--json")
    assert result.exit_code == 1
    assert [one["code"] for one in json.loads(result.stdout)["findings"]][:2] == [
        "unreadable-image",
        "duplicate-object",
    ]
    result = run(tmp_path / "data", "--fix", tmp_path / "clean")
    assert result.exit_code == 0 and "2 images, 4 objects; left out: 1 images, 1 objects" in result.stdout
    result = run(tmp_path / "clean")
    assert result.exit_code == 0 and "0 errors, 0 warnings" in result.stdout
    result = run(tmp_path / "data", "--fix", tmp_path / "clean")
    assert result.exit_code == 1 and result.stderr.startswith("error:") and "not empty" in result.stderr

"""VIA files from practice: CSV exports, several attributes, accidental clicks, paths of another machine."""

from __future__ import annotations

import csv
import json

import numpy as np
import pytest
from formats_kit import H, W, photo

from mrcnn.data import open_dataset, open_splits
from mrcnn.data.formats import BrokenAnnotation
from mrcnn.data.formats.via import ViaDataset

SQUARE = {"name": "polygon", "all_points_x": [3, 9, 9, 3], "all_points_y": [2, 2, 8, 8]}


def region(shape=SQUARE, **attributes):
    return {"shape_attributes": shape, "region_attributes": attributes}


def write(folder, *regions, filename="a.png", name="x.json"):
    photo(folder / "a.png")
    (folder / name).write_text(json.dumps({"a": {"filename": filename, "regions": list(regions)}}))
    return folder / name


# ---- CSV -------------------------------------------------------------------------------------------------------------
HEADER = ["filename", "file_size", "file_attributes", "region_count", "region_id"]
HEADER += ["region_shape_attributes", "region_attributes"]


def write_csv(folder, *regions, first="", last=("b.png", 9, "{}", 0, 0, "{}", "{}")):
    for name in ("a.png", "b.png"):
        photo(folder / name)
    with open(folder / "via_export.csv", "w", newline="") as file:
        lines = csv.writer(file)
        lines.writerow([first + HEADER[0], *HEADER[1:]])
        for i, one in enumerate(regions):
            cells = [json.dumps(one["shape_attributes"]), json.dumps(one["region_attributes"])]
            lines.writerow(["a.png", 9, "{}", len(regions), i, *cells])
        lines.writerow(last)
    return folder / "via_export.csv"


@pytest.mark.parametrize("first", ["", "#", "\ufeff"])  # VIA 2, VIA 1, saved by Excel
def test_a_csv_file_gives_the_same_as_its_json(tmp_path, first):
    long = {"name": "polygon", "all_points_x": [5.0000001] * 12_000 + [9, 9], "all_points_y": [5] * 12_000 + [5, 9]}
    regions = [region(kind="dog"), region({"name": "rect", "x": 1, "y": 2, "width": 3, "height": 4}, kind="cat")]
    regions.append(region(long, kind="cat"))
    assert len(json.dumps(long)) > 1 << 17  # of which Python's csv module has enough by default
    expected = open_dataset(write(tmp_path / "json", *regions))
    path = write_csv(tmp_path / "csv", *regions, first=first)
    loaded = ViaDataset()
    loaded.load_via(path.parent)
    loaded.prepare()
    for dataset in (open_dataset(path), open_dataset(path.parent), loaded):
        assert dataset.class_names == ["BG", "cat", "dog"] and dataset.num_images == 2
        for found, truth in zip(dataset.load_mask(0), expected.load_mask(0)):
            np.testing.assert_array_equal(found, truth)
        assert dataset.load_mask(1)[0].shape == (H, W, 0)


def test_a_csv_file_beside_its_json_is_not_a_second_dataset(tmp_path):
    write_csv(tmp_path, region())
    write(tmp_path, region())
    assert open_dataset(tmp_path).num_images == 1


@pytest.mark.parametrize(
    ("last", "message"),
    [
        (["b.png"], r"line 3: columns: expected 7 cells, got \['b.png'\]"),
        (["b.png", 9, "{}", 1, 0, "{name", "{}"], r"line 3: region_shape_attributes: expected an object in JSON"),
        (["b.png", 9, "{}", 1, 0, '{"name": 1}', "[]"], r"line 3: region_attributes: expected an object in JSON"),
        (["b.png", 9, "{}", 1, 0, '{"name": "star"}', "{}"], r"b\.png, region 0: shape_attributes.name: expected one"),
    ],
)
def test_csv_errors_name_file_and_row(tmp_path, last, message):
    with pytest.raises(BrokenAnnotation, match=message):
        open_dataset(write_csv(tmp_path, region(), last=last))


# ---- Classes ---------------------------------------------------------------------------------------------------------
def test_two_attributes_need_a_choice_unless_they_agree(tmp_path):
    path = write(tmp_path, region(insect="kudzu", inseto="kudzu"), region(insect="kudzu", inseto="kudzu"))
    assert open_dataset(path).class_names == ["BG", "kudzu"]
    path = write(tmp_path, region(age="old", kind="dog", note=""), region(age="old", kind="cat", note=""))
    with pytest.raises(BrokenAnnotation, match=r"'age': \['old'\], 'kind'.*open_dataset\(path, attribute='age'\)"):
        open_dataset(path)
    assert open_dataset(path, attribute="kind").class_names == ["BG", "cat", "dog"]
    assert open_dataset(path, attribute="age").load_mask(0)[1].tolist() == [1, 1]
    with pytest.raises(BrokenAnnotation, match=r"to find 'Kind' with a value, got \['age', 'kind', 'note'\]"):
        open_dataset(path, attribute="Kind")
    for split in ("train", "val"):
        write(tmp_path / "splits" / split, region(age="old", kind="dog"))
    train, _ = open_splits(tmp_path / "splits", attribute="kind")
    assert train.class_names == ["BG", "dog"]


def test_numeric_class_names(tmp_path):
    assert open_dataset(write(tmp_path, region(digit=7), region(digit="3"))).load_mask(0)[1].tolist() == [2, 1]


def test_an_attribute_is_an_error_for_another_format(tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "a.json").write_text(json.dumps({"imagePath": "a.png", "shapes": []}))
    with pytest.raises(ValueError, match=r"attribute='kind' is for VIA; .* is labelme"):
        open_dataset(tmp_path, attribute="kind")
    with pytest.raises(ValueError, match=r"crowds_as_objects=True is for COCO; .* is labelme"):
        open_dataset(tmp_path, crowds_as_objects=True)


def test_files_loaded_in_sequence_share_class_ids(tmp_path):
    # The second file's first class got the id, and the name, of the first file's.
    dataset = ViaDataset()
    for name in ("dog", "cat", "dog"):
        dataset.load_via(write(tmp_path, region(kind=name)))
    with pytest.warns(UserWarning, match="registered more than once"):
        dataset.prepare()
    assert [dataset.class_names[dataset.load_mask(i)[1][0]] for i in range(3)] == ["dog", "cat", "dog"]


def test_similar_class_names_give_a_warning(tmp_path):
    with pytest.warns(UserWarning, match="'Cat' and 'cat'") as caught:
        dataset = open_dataset(write(tmp_path, region(kind="cat"), region(kind="cat "), region(kind="Cat")))
    assert dataset.class_names == ["BG", "Cat", "cat"] and caught[0].filename == __file__


# ---- Regions and images ----------------------------------------------------------------------------------------------
@pytest.mark.parametrize("kind", ["polygon", "polyline"])
@pytest.mark.parametrize("points", [[], [4], [4, 5]])
def test_a_polygon_with_fewer_than_three_points_is_dropped(tmp_path, kind, points):
    click = {"name": kind, "all_points_x": points, "all_points_y": points}
    path = write(tmp_path, region(kind="dog"), region(click))  # and needs no class
    with pytest.warns(UserWarning, match="1 shapes have too few points and are left out: a, region 1") as caught:
        dataset = open_dataset(path)
    assert dataset.load_mask(0)[1].tolist() == [1] and caught[0].filename == __file__


@pytest.mark.parametrize("name", ["C:\\set\\a.png", "/home/me/set/a.png", "photos\\a.png", "A.png"])
def test_absolute_paths_from_another_machine_are_found(tmp_path, name):
    assert open_dataset(write(tmp_path, region(), filename=name)).load_image(0).shape == (H, W, 3)

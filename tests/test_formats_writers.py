"""COCO and labelme files written by this package: masks that are read back are equal in every pixel."""

from __future__ import annotations

import base64
import json

import numpy as np
import pytest
from formats_kit import Drawn, H, W, assert_same, masks_of_every_kind, objects, parts, photo, ring
from PIL import Image
from pycocotools.coco import COCO

from mrcnn.data.dataset import Dataset
from mrcnn.data.formats.coco import CocoDataset, save_coco
from mrcnn.data.formats.instance_pngs import NucleiDataset
from mrcnn.data.formats.labelme import LabelmeDataset, save_labelme
from mrcnn.data.formats.labelme_shapes import shapes_of
from mrcnn.data.formats.via import ViaDataset


def read_coco(path, **kwargs):
    dataset = CocoDataset()
    dataset.load_coco_format(path, **kwargs)
    dataset.prepare()
    return dataset


def read_labelme(folder, order=None, **kwargs):
    """In the order of the names of their files, or that given."""
    dataset = LabelmeDataset()
    dataset.load_labelme(folder, **kwargs)
    if order is not None:
        dataset.image_info.sort(key=lambda info: order.index(info["id"]))
    dataset.prepare()
    return dataset


def through_coco(dataset, folder):
    return read_coco(save_coco(dataset, folder / "coco.json"), root="/")  # images stay in the folder of the dataset


def through_labelme(dataset, folder):
    paths = save_labelme(dataset, folder / "labelme")
    return read_labelme(folder / "labelme", [path.stem for path in paths], root="/")


WAYS = pytest.mark.parametrize("way", [through_coco, through_labelme])


# ---- Round trips -----------------------------------------------------------------------------------------------------
@WAYS
def test_masks_of_every_kind_survive_the_round_trip(tmp_path, way):
    dataset = Drawn(masks_of_every_kind())
    again = way(dataset, tmp_path)
    assert_same(dataset, again)
    assert again.class_names == dataset.class_names and objects(again, 0)[1][2] == ("cat", True)


@WAYS
def test_a_dataset_without_objects(tmp_path, way):
    dataset = Drawn(np.zeros((H, W, 0), bool))
    assert_same(dataset, way(dataset, tmp_path))
    again = way(Drawn(np.zeros((0, 0, 0), bool)), tmp_path / "old")  # as matterport's base class has it
    assert again.load_mask(0)[0].shape == (H, W, 0)


@WAYS
def test_a_dataset_without_images(tmp_path, way):
    dataset = Dataset()
    dataset.prepare()
    if way is through_coco:
        assert way(dataset, tmp_path).num_images == 0
    else:
        assert save_labelme(dataset, tmp_path) == []


@WAYS
def test_from_via(tmp_path, way):
    """A VIA set keeps its masks and uses its own photos."""
    shapes = [
        {"name": "polygon", "all_points_y": [2, 2.5, 20, 14], "all_points_x": [3, 30.2, 25, 1]},
        {"name": "circle", "cy": 15, "cx": 20, "r": 6.3},
        {"name": "point", "cy": 5, "cx": 6},
        {"name": "ellipse", "cy": 10, "cx": 11, "ry": 4, "rx": 9, "theta": 0.5},
        {"name": "rect", "y": 1, "x": 2, "height": 5, "width": 7},
    ]
    kinds = ["dog", "cat", "dog", "cat", "cat"]
    regions = [{"shape_attributes": s, "region_attributes": {"kind": k}} for s, k in zip(shapes, kinds)]
    entries = [{"filename": f"{name}.png", "regions": regions[: 5 * (name == "b")]} for name in "ab"]
    photos = tmp_path / "photos"
    for name in "ab":
        photo(photos / f"{name}.png")
    (photos / "via.json").write_text(json.dumps(entries))
    dataset = ViaDataset()
    dataset.load_via(photos)
    dataset.prepare()
    again = way(dataset, tmp_path / "out")
    assert_same(dataset, again)
    assert not list((tmp_path / "out").rglob("*.png"))  # no photo is copied


@WAYS
def test_balloons(shared, tmp_path, way):
    dataset = ViaDataset()
    dataset.load_via(shared / "data" / "balloon" / "val", source="balloon", class_name="balloon")
    dataset.prepare()
    assert_same(dataset, way(dataset, tmp_path), images=False)


@WAYS
def test_coco_images(shared, tmp_path, way):
    """40 real ones, with parts, holes and crowds."""
    dataset = CocoDataset()
    dataset.load_coco(shared / "data" / "coco_val", "val", year="2017")
    dataset.image_info = [info for info in dataset.image_info if any(a["iscrowd"] for a in info["annotations"])][
        :20
    ] + (dataset.image_info[:20])
    dataset.image_info = list({info["id"]: info for info in dataset.image_info}.values())
    dataset.prepare()
    again = way(dataset, tmp_path)
    assert_same(dataset, again, images=False)
    if way is through_coco:
        assert again.class_names == dataset.class_names
        own_ids = [[a["category_id"] for a in info["annotations"]] for info in dataset.image_info]
        assert [[a["category_id"] for a in info["annotations"]] for info in again.image_info] == own_ids


@WAYS
def test_nuclei(shared, tmp_path, way):
    dataset = NucleiDataset()
    dataset.load_nuclei(shared / "data" / "nuclei" / "stage1_train")
    dataset.image_info = dataset.image_info[:6]
    dataset.prepare()
    assert_same(dataset, way(dataset, tmp_path))


# ---- What is written -------------------------------------------------------------------------------------------------
def test_coco_files_are_valid_for_pycocotools(tmp_path):
    masks = masks_of_every_kind()
    path = save_coco(Drawn(masks), tmp_path / "new" / "coco.json")
    coco = COCO(str(path))
    annotations = coco.loadAnns(coco.getAnnIds(coco.getImgIds()[0]))
    assert len(annotations) == masks.shape[-1] - 1 and [a["iscrowd"] for a in annotations] == [0, 0, 1] + [0] * 6
    for i, a in enumerate(annotations):
        np.testing.assert_array_equal(coco.annToMask(a), masks[..., i])
        rows, columns = np.flatnonzero(masks[..., i].any(axis=1)), np.flatnonzero(masks[..., i].any(axis=0))
        assert a["area"] == masks[..., i].sum()
        assert a["bbox"] == [columns[0], rows[0], np.ptp(columns) + 1, np.ptp(rows) + 1]
    assert coco.loadCats([1, 2])[1] == {"id": 2, "name": "dog", "supercategory": "drawn"}
    assert coco.imgs[1]["file_name"] == "coco_images/drawn_full.png" and coco.imgs[2]["width"] == W
    assert not list(tmp_path.rglob("*.part"))
    assert save_coco(Drawn(masks), path, indent=1).read_text().count("\n") > 100  # again, over the first


def test_ids_that_coco_does_not_allow_are_replaced(tmp_path):
    dataset = Drawn(masks_of_every_kind())
    for info, own_id in zip(dataset.class_info[1:], (9, 4)):
        info["id"] = own_id
    content = json.loads(save_coco(dataset, tmp_path / "coco.json").read_text())
    assert [c["id"] for c in content["categories"]] == [1, 2] and [i["id"] for i in content["images"]] == [1, 2]
    for info, own_id in zip(dataset.class_info[1:], (4, 9)):
        info["id"] = own_id
    for info, own_id in zip(dataset.image_info, (17, 139)):
        info["id"] = own_id
    content = json.loads(save_coco(dataset, tmp_path / "coco.json").read_text())
    assert [c["id"] for c in content["categories"]] == [4, 9] and [i["id"] for i in content["images"]] == [17, 139]
    assert {a["image_id"] for a in content["annotations"]} == {17}


def test_labelme_shapes_are_polygons_if_possible():
    assert [s["shape_type"] for s in shapes_of(ring(), 1)] == ["mask"]
    two = shapes_of(parts(), 5)
    assert [(s["shape_type"], s["group_id"], len(s["points"])) for s in two] == [("polygon", 5, 4)] * 2
    single = np.zeros((H, W), bool)
    single[4:7, 5:9] = True
    assert shapes_of(single, 5) == [
        {"points": [[5, 4], [5, 6], [8, 6], [8, 4]], "group_id": None, "shape_type": "polygon", "mask": None}
    ]
    single[:] = False
    single[4, 5] = True
    assert [(s["shape_type"], s["points"]) for s in shapes_of(single, 5)] == [("mask", [[5, 4], [5, 4]])]


def test_labelme_files_have_the_fields_labelme_reads(tmp_path):
    path = save_labelme(Drawn(masks_of_every_kind()), tmp_path)[0]
    content = json.loads(path.read_text())
    assert path.name == "drawn_full.json" and (tmp_path / content["imagePath"]).is_file()
    assert (content["imageHeight"], content["imageWidth"], content["imageData"]) == (H, W, None)
    assert {"label", "points", "group_id", "shape_type", "flags", "mask"} <= set(content["shapes"][0])
    assert [s["flags"] for s in content["shapes"] if s["flags"]] == [{"iscrowd": True}]


@WAYS
def test_images_can_be_selected(tmp_path, way):
    dataset = Drawn(masks_of_every_kind())
    write = save_coco if way is through_coco else save_labelme
    write(dataset, tmp_path / "x.json" if way is through_coco else tmp_path, image_ids=[1])
    again = read_coco(tmp_path / "x.json") if way is through_coco else read_labelme(tmp_path)
    assert again.num_images == 1 and again.load_mask(0)[0].shape == (H, W, 0)
    np.testing.assert_array_equal(again.load_image(0), dataset.load_image(1))
    with pytest.raises(ValueError, match=r"no image 2; expected image_ids in 0\.\.1"):
        write(dataset, tmp_path / "y.json", image_ids=[2])


# ---- Images ----------------------------------------------------------------------------------------------------------
def via_of(folder, name):
    (folder / "via.json").write_text(json.dumps([{"filename": name, "regions": []}]))
    dataset = ViaDataset()
    dataset.load_via(folder / "via.json")
    dataset.prepare()
    return dataset


@WAYS
def test_a_rotated_photo_is_written_as_it_was_read(tmp_path, way):
    """VIA's reader takes the stored pixels, labelme's the upright ones; the copy is the same to both."""
    path = photo(tmp_path / "a.png", orientation=6)
    before = path.read_bytes()
    dataset = via_of(tmp_path, "a.png")
    again = read_labelme(save_labelme(dataset, tmp_path)[0]) if way is through_labelme else way(dataset, tmp_path)
    assert_same(dataset, again)
    assert path.read_bytes() == before  # the photo itself isn't touched, though its name was taken
    upright = LabelmeDataset()
    (tmp_path / "b.json").write_text(json.dumps({"shapes": [], "imagePath": "a.png"}))
    upright.load_labelme(tmp_path / "b.json")
    upright.prepare()
    assert upright.load_image(0).shape == (W, H, 3)
    assert_same(upright, way(upright, tmp_path / "more"))


class Halved(ViaDataset):
    """Reads its photos at half their size, and has masks of that size."""

    def load_image(self, image_id):
        return super().load_image(image_id)[::2, ::2]

    def load_mask(self, image_id):
        return ring()[::2, ::2, None], np.ones(1, np.int32)


@WAYS
def test_an_image_read_at_another_size_is_written_at_that_size(tmp_path, way):
    photo(tmp_path / "a.png")
    dataset = Halved()
    (tmp_path / "via.json").write_text(json.dumps([{"filename": "a.png", "regions": []}]))
    dataset.load_via(tmp_path / "via.json")
    dataset.prepare()
    assert_same(dataset, way(dataset, tmp_path / "out"))


def test_an_image_embedded_in_a_labelme_file_is_written(tmp_path):
    dataset = Drawn(masks_of_every_kind())
    path = save_labelme(dataset, tmp_path)[0]
    content = json.loads(path.read_text())
    content["imageData"] = base64.b64encode((tmp_path / content["imagePath"]).read_bytes()).decode()
    (tmp_path / content["imagePath"]).unlink()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "a.json").write_text(json.dumps(content))
    embedded = read_labelme(tmp_path / "other")
    assert_same(embedded, through_coco(embedded, tmp_path / "more"))
    assert_same(embedded, through_labelme(embedded, tmp_path / "more"))


def test_equal_names_in_several_folders(tmp_path):
    dataset = Dataset()
    dataset.add_class("x", 1, "cat")
    for i, folder in enumerate(("one", "two")):
        dataset.add_image("x", i, str(photo(tmp_path / folder / "A.png" if i else tmp_path / folder / "a.png")))
    dataset.prepare()
    paths = save_labelme(dataset, tmp_path / "out")
    assert [path.name for path in paths] == ["a.json", "A_2.json"]
    assert json.loads(paths[1].read_text())["imagePath"] == "../two/A.png"


def test_image_urls_are_kept(tmp_path):
    dataset = Drawn(masks_of_every_kind())
    dataset.image_info[0]["path"] = "https://example.org/a.png"
    content = json.loads(save_coco(dataset, tmp_path / "coco.json").read_text())
    assert content["images"][0]["file_name"] == "https://example.org/a.png"


# ---- Mistakes --------------------------------------------------------------------------------------------------------
class Wrong(Drawn):
    def __init__(self, masks, class_ids, image=(H, W, 3), kind=np.uint8):
        super().__init__(np.zeros((H, W, 0), bool))
        self.given, self.image = (masks, class_ids), np.zeros(image, kind)

    def load_mask(self, image_id):
        return self.given

    def load_image(self, image_id):
        return self.image


MASK = np.ones((H, W, 1), bool)


@pytest.mark.parametrize("write", [save_coco, save_labelme])
@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (Dataset(), r"isn't prepared; call prepare\(\) first"),
        (Wrong(MASK, [1, 2]), r"masks of shape \(30, 40, 1\) and 2 class ids for image 0"),
        (Wrong(MASK[..., 0], [1]), r"masks of shape \(30, 40\) and 1 class ids"),
        (Wrong(MASK, [3]), r"class id 3 \(object 0\) for image 0 \(drawn.full\); expected 1\.\.2"),
        (Wrong(MASK, [0]), r"class id 0 \(object 0\) for image 0"),
        (Wrong(MASK, [1], (H, H, 3)), r"has 30 x 30 pixels \(height x width\), and its masks 30 x 40"),
        (Wrong(MASK, [1], kind=np.float32), r"is float32; expected uint8"),
    ],
)
def test_unwritable_datasets_are_named(tmp_path, write, dataset, message):
    with pytest.raises(ValueError, match=message):
        write(dataset, tmp_path / "x")
    assert not list(tmp_path.rglob("*.part")) and not list(tmp_path.rglob("*.json"))


def test_gray_images(tmp_path):
    for shape in ((H, W), (H, W, 1)):
        dataset = Wrong(MASK, [1], shape)
        assert read_labelme(save_labelme(dataset, tmp_path)[0]).load_image(0).shape == (H, W, 3)
        with Image.open(tmp_path / "drawn_full.png") as picture:
            assert picture.mode == "L"

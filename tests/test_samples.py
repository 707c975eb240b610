"""The samples: ground truth of the shapes, command lines, initial weights, and matterport's import paths."""

from __future__ import annotations

import importlib
import itertools
import re
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from pycocotools import mask as rle

from samples import balloon, coco, common, shapes

ROOT = Path(__file__).resolve().parent.parent


# ---- Shapes ----------------------------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def drawn():
    return shapes.shapes_dataset(50, seed=5)


def dataset_of(*specification, height=64, width=64) -> shapes.ShapesDataset:
    """A set with one image, black background, of the given (shape, color, (x, y, size))."""
    dataset = shapes.ShapesDataset()
    dataset.load_shapes(0, height, width)
    dataset.add_image("shapes", 0, None, width=width, height=height, bg_color=(0, 0, 0), shapes=list(specification))
    dataset.prepare()
    return dataset


def test_every_pixel_of_a_mask_has_the_color_of_its_shape_and_all_others_the_background(drawn):
    for image_id in drawn.image_ids:
        image, (masks, class_ids) = drawn.load_image(image_id), drawn.load_mask(image_id)
        info = drawn.image_info[image_id]
        assert masks.dtype == bool and class_ids.dtype == np.int32
        assert masks.shape == (128, 128, len(class_ids)) and 1 <= len(class_ids) <= 4
        assert masks.sum(axis=-1).max() == 1  # no pixel belongs to two shapes
        for i, (name, color, _) in enumerate(info["shapes"]):
            assert drawn.class_names[class_ids[i]] == name
            assert (image[masks[..., i]] == color).all()
        assert (image[~masks.any(axis=-1)] == info["bg_color"]).all()


def test_a_later_shape_covers_an_earlier_one():
    red, blue = (255, 0, 0), (0, 0, 255)
    dataset = dataset_of(("square", red, (20, 20, 10)), ("square", blue, (30, 20, 10)))
    masks, _ = dataset.load_mask(0)
    assert masks[..., 1].sum() == 21 * 21
    assert masks[..., 0].sum() == 21 * 10  # columns 10..19; 20..30 are covered
    assert tuple(dataset.load_image(0)[20, 25]) == blue


def test_no_shape_is_hidden_beyond_recognition():
    dataset = shapes.ShapesDataset()
    white = (255, 255, 255)
    queue = itertools.cycle([("square", white, (20, 20, 10)), ("circle", white, (24, 20, 20))])  # it hides the square
    dataset.random_shape = lambda height, width: next(queue)
    dataset.MAX_OVERLAP, dataset.MIN_CONTRAST = 1.0, 0
    for _ in range(10):
        _, drawn = dataset.random_image(64, 64)
        visible = dataset.visible_masks(drawn, 64, 64).sum((0, 1))
        whole = [dataset.visible_masks([shape], 64, 64).sum() for shape in drawn]
        assert (visible / whole >= dataset.MIN_VISIBLE).all()


def test_an_image_depends_only_on_seed_and_number(drawn):
    again, other = shapes.shapes_dataset(10, seed=5), shapes.shapes_dataset(10, seed=6)
    for i in range(10):
        np.testing.assert_array_equal(drawn.load_image(i), again.load_image(i))
    assert any((drawn.load_image(i) != other.load_image(i)).any() for i in range(10))


def test_evaluation_images_are_not_in_the_training_set():
    def specifications(count, seed):
        return {str(info["shapes"]) for info in shapes.shapes_dataset(count, seed).image_info}

    seen = specifications(2000, shapes.TRAINING)
    assert not seen & specifications(100, shapes.EVALUATION)
    assert not seen & specifications(40, shapes.VALIDATION)


def test_classes_and_reference(drawn):
    assert drawn.class_names == ["BG", "square", "circle", "triangle"]
    assert drawn.image_reference(0) == drawn.image_info[0]["shapes"]
    drawn.add_image("other", 0, "photo.jpg")
    assert not drawn.image_reference(len(drawn.image_info) - 1)  # matterport's raised here
    del drawn.image_info[-1]


def test_random_shape_and_draw_shape_can_be_called_alone():
    dataset = shapes.ShapesDataset()
    name, color, (x, y, size) = dataset.random_shape(128, 128)
    assert name in shapes.SHAPES and len(color) == 3
    assert 20 <= x < 108 and 20 <= y < 108 and 20 <= size <= 32
    image = dataset.draw_shape(np.zeros((128, 128, 3), np.uint8), name, (x, y, size), (9, 9, 9))
    assert tuple(image[y, x]) == (9, 9, 9)
    with pytest.raises(ValueError, match="hexagon"):
        dataset.draw_shape(image, "hexagon", (x, y, size), color)


def test_small_resnet_has_the_strides_that_the_pyramid_expects():
    import keras

    from mrcnn.nn.backbones import small_resnet_graph

    stages = small_resnet_graph(keras.Input((128, 128, 3)))
    assert [stage.shape[1] for stage in stages] == [64, 32, 16, 8, 4]


# ---- Balloon ---------------------------------------------------------------------------------------------------------
def test_the_shipped_model_finds_the_balloons_of_the_readme_and_keeps_their_color(tmp_path):
    photo, output = ROOT / "samples" / "data" / "balloons.jpg", tmp_path / "splash.png"
    model = balloon.trained_model("balloon-small", tmp_path)
    assert model.config.IMAGE_MAX_DIM == balloon.SmallBalloonConfig.DETECTION_DIM
    (found,) = model.detect([cv2.imread(str(photo))[..., ::-1]])
    assert len(found) >= 5 and found.names[0] == "balloon"
    balloon.detect_and_color_splash(model, image_path=photo, output=output)
    saturation = np.ptp(cv2.imread(str(output)).astype(int), axis=-1)
    assert saturation[120, 270] > 100  # a yellow balloon
    assert saturation[50, 50] == 0  # the sky


def test_balloon_photos(shared):
    dataset = balloon.balloon_dataset(shared / "data" / "balloon", "val")
    assert dataset.class_names == ["BG", "balloon"]
    assert len(dataset.image_ids) == 13
    masks, class_ids = dataset.load_mask(0)
    assert masks.shape[:2] == dataset.load_image(0).shape[:2]
    assert (class_ids == 1).all()
    assert sum(len(dataset.load_mask(i)[1]) for i in dataset.image_ids) == 50


def test_balloon_subset_is_train_or_val():
    with pytest.raises(ValueError, match="'test'"):
        balloon.BalloonDataset().load_balloon("balloon", "test")


class RedFinder:
    """Stands in for a model: one instance, the red pixels."""

    def detect(self, images, verbose=0):
        return [{"masks": (image[..., 0] > 128)[..., None]} for image in images]


def half_red(height=32, width=48) -> np.ndarray:
    image = np.full((height, width, 3), (0, 80, 40), np.uint8)
    image[:, : width // 2] = (255, 0, 0)
    return image


def test_color_splash_of_a_photo(tmp_path):
    photo = tmp_path / "photo.png"
    cv2.imwrite(str(photo), half_red()[..., ::-1])
    output = balloon.detect_and_color_splash(RedFinder(), image_path=photo, output=tmp_path / "splash.png")
    splash = cv2.imread(str(output))[..., ::-1]
    assert (splash[:, :24] == (255, 0, 0)).all()
    assert np.ptp(splash[:, 24:], axis=-1).max() == 0  # gray


def test_color_splash_of_a_video(tmp_path):
    clip = tmp_path / "clip.avi"
    writer = cv2.VideoWriter(str(clip), cv2.VideoWriter_fourcc(*"MJPG"), 10, (48, 32))
    for _ in range(3):
        writer.write(np.ascontiguousarray(half_red()[..., ::-1]))
    writer.release()
    output = balloon.detect_and_color_splash(RedFinder(), video_path=clip, output=tmp_path / "splash.avi")
    video, frames = cv2.VideoCapture(str(output)), []
    while (frame := video.read()[1]) is not None:
        frames.append(frame[..., ::-1].astype(int))
    assert len(frames) == 3 and video.get(cv2.CAP_PROP_FPS) == 10
    assert frames[0][16, 8, 0] > 200 and frames[0][16, 8, 1] < 60  # still red, within what JPEG leaves
    assert np.ptp(frames[0][16, 40]) < 12


def test_color_splash_needs_exactly_one_source(tmp_path):
    with pytest.raises(ValueError, match="either image_path"):
        balloon.detect_and_color_splash(RedFinder())
    with pytest.raises(OSError, match="no.avi"):
        balloon.detect_and_color_splash(RedFinder(), video_path=tmp_path / "no.avi")


# ---- COCO ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([], False),
        (["--download"], True),
        (["--download=True"], True),
        (["--download", "False"], False),  # matterport's `type=bool` took any text for True
        (["--download=no"], False),
    ],
)
def test_download_is_parsed_as_a_boolean(words, expected):
    args = coco.parse(["train", "--dataset", "x", "--model", "coco", *words])
    assert args.download is expected and args.weights == "coco"


def test_download_refuses_other_values(capsys):
    with pytest.raises(SystemExit):
        coco.parse(["train", "--dataset", "x", "--model", "coco", "--download", "maybe"])
    assert "'maybe'" in capsys.readouterr().err


def test_coco_minival_photos_are_in_val2014():
    annotations, photos = coco.coco_layout("data", "minival", "2014")
    assert annotations == Path("data/annotations/instances_minival2014.json")
    assert photos == Path("data/val2014")


def test_results_are_written_in_coco_format():
    dataset = coco.CocoDataset()
    dataset.add_class("coco", 17, "cat")
    dataset.prepare()
    masks = np.zeros((10, 12, 1), bool)
    masks[2:5, 3:9] = True
    (row,) = coco.build_coco_results(dataset, [42], np.array([[2, 3, 5, 9]]), np.array([1]), np.array([0.5]), masks)
    assert (row["image_id"], row["category_id"], row["bbox"], row["score"]) == (42, 17, [3, 2, 6, 3], 0.5)
    np.testing.assert_array_equal(rle.decode(row["segmentation"]), masks[..., 0])
    assert coco.build_coco_results(dataset, [42], None, None, None, None) == []


def test_training_stages_follow_the_batch_size():
    config = coco.CocoConfig()
    assert coco.matterport_stages(config) == [(40, "heads", 0.001), (120, "4+", 0.001), (160, "all", 0.0001)]
    config.IMAGES_PER_GPU = 16
    assert coco.paper_stages(config) == [(120, "all", 0.02), (160, "all", 0.002)]
    config.IMAGES_PER_GPU = 4  # a quarter of the batch: four times the steps, a quarter of the rate
    assert coco.paper_stages(config) == [(480, "all", 0.005), (640, "all", 0.0005)]


def test_coco_val_photos_are_loaded(shared):
    dataset = coco.CocoDataset()
    truth = dataset.load_coco(shared / "data" / "coco_val", "val", "2017", return_coco=True)
    dataset.prepare()
    assert dataset.num_classes == 81 and len(dataset.image_ids) == len(truth.getImgIds()) == 206


# ---- Initial weights, and import paths of the samples ----------------------------------------------------------------
def test_a_missing_weight_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"cocoo.*coco.*last"):
        common.find_weights("cocoo", "shapes", tmp_path)
    with pytest.raises(FileNotFoundError):
        common.find_weights("last", "shapes", tmp_path)


def test_a_checkpoint_of_a_run_is_used_with_the_settings_of_the_run(tmp_path):
    class Other(shapes.ShapesConfig):
        DETECTION_MIN_CONFIDENCE = 0.1

    model = common.build_model("inference", "shapes", tmp_path, Other, Other)
    assert model.config.DETECTION_MIN_CONFIDENCE == shapes.ShapesConfig.DETECTION_MIN_CONFIDENCE


@pytest.mark.parametrize(
    ("name", "attribute"),
    [
        ("coco", "CocoConfig"),
        ("shapes", "ShapesConfig"),
        ("balloon", "BalloonConfig"),
        ("nucleus", "NucleusConfig"),
    ],
)
def test_matterports_paths_lead_to_the_sample(monkeypatch, name, attribute):
    monkeypatch.syspath_prepend(str(ROOT / "samples" / name))
    monkeypatch.delitem(sys.modules, name, raising=False)
    assert getattr(importlib.import_module(name), attribute).NAME == name
    monkeypatch.delitem(sys.modules, name)
    nested = importlib.import_module(f"samples.{name}.{name}")  # what `from samples.coco import coco` imports
    assert getattr(nested, attribute).NAME == name


@pytest.mark.parametrize("sample", ["shapes", "balloon", "coco", "nucleus", "digits", "pedestrians"])
def test_a_sample_starts_with_its_commands(sample):
    text = (ROOT / "samples" / f"{sample}.py").read_text()
    assert re.search(rf"python samples/{sample}\.py train", text.split('"""')[1])

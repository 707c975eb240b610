"""`mrcnn.scale` without Ray: shards, batches, rows, files, and continuing. tests/test_scale_ray.py runs workers."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pyarrow = pytest.importorskip("pyarrow", reason="pip install -e '.[test]' brings it")

from mrcnn.config import Config
from mrcnn.inference import molding
from mrcnn.inference.results import Detections
from mrcnn.scale import attempts, batches, coco_results, detect_dataset, plan, read_detections, read_errors, rows, store

SMALL = {"IMAGE_MIN_DIM": 64, "IMAGE_MAX_DIM": 64, "DETECTION_MIN_CONFIDENCE": 0.05}


def draw_photos(folder: Path, count: int) -> list[Path]:
    """Squares on plain ground, in two sizes."""
    folder.mkdir(exist_ok=True)
    paths = [folder / f"{i}.png" for i in range(count)]
    for i, path in enumerate(paths):
        image = np.full((64 + 16 * (i % 2), 64, 3), 60 * i % 255, np.uint8)
        image[10 + i : 40 + i, 12:44] = (250, 30 * i, 40)
        Image.fromarray(image).save(path)
    return paths


# ---- Which images and shards -----------------------------------------------------------------------------------------
def test_lists_dicts_and_ray_datasets_name_images_alike():
    class Dataset:  # the part of ray.data.Dataset that is used
        def __init__(self, rows):
            self.rows = rows

        def columns(self):
            return list(self.rows[0])

        def select_columns(self, names):
            return Dataset([{name: row[name] for name in names} for row in self.rows])

        def iter_rows(self):
            return iter(self.rows)

    assert plan.list_images(["/b.jpg", Path("/a.jpg")]) == [(0, "/b.jpg"), (1, "/a.jpg")]
    assert plan.list_images({7: "/b.jpg", np.int64(3): "s3://x/a.jpg"}) == [(7, "/b.jpg"), (3, "s3://x/a.jpg")]
    unordered = [{"path": "/b.jpg", "size": 1}, {"path": "/a.jpg", "size": 2}]
    assert plan.list_images(Dataset(unordered)) == [(0, "/a.jpg"), (1, "/b.jpg")]
    with_ids = [{"image_id": 9, "path": "/b.jpg"}, {"image_id": 4, "path": "/c.jpg"}]
    assert plan.list_images(Dataset(with_ids)) == [(4, "/c.jpg"), (9, "/b.jpg")]
    with pytest.raises(ValueError, match="9 occurs twice"):
        plan.list_images(Dataset([{"image_id": 9, "path": path} for path in ("/b.jpg", "/c.jpg")]))
    with pytest.raises(ValueError, match=r"\['size'\].*path"):
        plan.list_images(Dataset([{"size": 1}]))


@pytest.mark.parametrize("paths", ["photos", [], {1: "a.jpg", "b": "b.jpg"}, {1.5: "a.jpg"}])
def test_paths_that_name_no_images_are_refused(paths):
    with pytest.raises(ValueError, match="expected"):
        plan.list_images(paths)


def test_relative_paths_are_those_of_the_caller(tmp_path, monkeypatch):
    """A worker has another working directory."""
    monkeypatch.chdir(tmp_path)
    assert plan.list_images(["a.jpg", "http://x/b.jpg"]) == [(0, f"{tmp_path}/a.jpg"), (1, "http://x/b.jpg")]


def test_shards_hold_every_image_once_and_only_missing_ones_are_done():
    images = [(i, f"/{i}.jpg") for i in range(7)]
    shards = plan.plan_shards(images, 3)
    assert [i for shard in shards for i in shard.images] == images
    assert [len(shard.images) for shard in shards] == [3, 3, 1]
    manifest = plan.make_manifest(images, 3, "shapes", "abc", {})
    assert list(plan.iterate_parts(manifest)) == [shard.name for shard in shards]
    there = {shards[1].name, plan.MANIFEST, ".part-000000.parquet.12.part"}  # the last one of a worker that died
    assert plan.missing_shards(shards, there) == [shards[0], shards[2]]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weights_sha256": "def"}, r"weights: shapes \(SHA-256 abc\)"),
        ({"settings": {"IMAGE_MIN_DIM": 64}}, "IMAGE_MIN_DIM: not set, now 64"),
        ({"shard_size": 4}, "shard_size: 3, now 4"),
        ({"images": [(0, "/b.jpg")]}, "images: 1, now 1, or others"),
    ],
)
def test_shards_of_another_job_are_not_mixed_in(change, message):
    job = {"images": [(0, "/a.jpg")], "shard_size": 3, "weights": "shapes", "weights_sha256": "abc", "settings": {}}
    stored = json.loads(json.dumps(plan.make_manifest(**job)))
    plan.check_same_job(stored, plan.make_manifest(**job), "out")
    with pytest.raises(ValueError, match=message):
        plan.check_same_job(stored, plan.make_manifest(**{**job, **change}), "out")


# ---- Rows ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("float_boxes", [False, True])
def test_rows_become_the_same_detections_again(float_boxes):
    masks = np.zeros((6, 8, 2), bool)
    masks[1:3, 1:5, 0] = masks[2:6, 4:8, 1] = True
    boxes = np.array([[1, 1, 3, 5], [2, 4, 6, 8]], np.float32 if float_boxes else np.int32)
    two = Detections(boxes, [1, 2], [0.9, 0.6], masks, class_names=["BG", "cat", "dog"], path="/a.jpg")
    none = Detections(boxes[:0], [], [], masks[..., :0], class_names=["BG", "cat", "dog"], path="/b.jpg")
    results = [
        rows.ImageResult(4, "/a.jpg", two), rows.ImageResult(5, "/b.jpg", none),
        rows.ImageResult(6, "/c.jpg", error="OSError: gone"), rows.ImageResult(7, "/a.jpg", two),
    ]  # fmt: skip
    table = rows.make_table(results, two.class_names, float_boxes)
    assert table.num_rows == 6 and table.column_names == list(rows.COLUMNS)
    assert rows.read_metadata(table.schema) == {
        "class_names": ["BG", "cat", "dog"], "images": 4, "errors": 1, "objects": 4,
    }  # fmt: skip
    stored = pyarrow.parquet.read_table(pyarrow.BufferReader(rows.to_bytes(table)))
    again = list(rows.results_in(stored))
    assert [(r.image_id, r.path, r.error) for r in again] == [(r.image_id, r.path, r.error) for r in results]
    for one, other in zip(again, results):
        if other.found is not None:
            assert one.found == other.found and one.found.rois.dtype == other.found.rois.dtype
            assert (one.found.path, one.found.names, one.found.image_shape) == (other.path, other.found.names, (6, 8))


# ---- Batches ---------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("mode", ["none", "square", "pad64", "pad32", "shorter_side", "crop"])
def test_the_size_in_the_network_follows_from_that_of_the_photo(mode):
    config = Config(IMAGE_RESIZE_MODE=mode, IMAGE_MIN_DIM=64, IMAGE_MAX_DIM=128)
    if mode == "shorter_side":
        config.CONVENTION = "torchvision"
    for height, width in [(64, 64), (128, 192), (50, 200)] if mode != "none" else [(64, 128)]:
        try:
            ((resized,), _, _) = molding.resize_inputs([np.zeros((height, width, 3), np.uint8)], config)
        except ValueError:  # "shorter_side" gives sides that are no multiples of 64: detect refuses them
            continue
        assert batches.network_shape(height, width, config) == resized.shape[:2]


def test_batches_hold_one_size_and_results_keep_the_order(tmp_path):
    """A batch of two sizes would be split by `detect`, or a result given to another image."""
    paths = draw_photos(tmp_path, 9)
    paths[4].write_bytes(b"not an image")
    seen = []

    def detect(photos):
        seen.append([photo.shape[:2] for photo in photos])
        sums = [photo.sum(dtype=float) for photo in photos]
        return [
            Detections([[0, 0, 1, 1]], [1], [total], np.ones((*p.shape[:2], 1), bool)) for total, p in zip(sums, photos)
        ]

    config = Config(IMAGE_RESIZE_MODE="pad64", IMAGE_MIN_DIM=None)
    images = [(i, str(path)) for i, path in enumerate(paths)] + [(9, str(tmp_path / "missing.png"))]
    found = batches.detect_images(detect, images, config, batch_size=2, readers=2)
    assert sorted(map(len, seen)) == [2, 2, 2, 2] and all(len(set(shapes)) == 1 for shapes in seen)
    assert [r.image_id for r in found] == list(range(10))
    for i, result in enumerate(found[:9]):
        if i != 4:
            total = np.asarray(Image.open(paths[i])).sum(dtype=float)
            assert result.found.scores[0] == np.float32(total) and result.found.path == str(paths[i])
    assert found[4].error.startswith("UnreadableImage") and found[9].error.startswith("FileNotFoundError")


def test_a_photo_that_the_model_refuses_costs_no_other():
    def detect(photos):
        if any(photo.shape[-1] != 3 for photo in photos):
            raise ValueError("4 channels")
        return [Detections([], [], [], np.zeros((*photo.shape[:2], 0), bool)) for photo in photos]

    found = [rows.ImageResult(i, str(i)) for i in range(3)]
    batches._detect_batch(detect, [(r, np.zeros((8, 8, 4 if i == 1 else 3))) for i, r in enumerate(found)])
    assert [r.error for r in found] == [None, "ValueError: 4 channels", None] and found[2].found is not None


# ---- Files -----------------------------------------------------------------------------------------------------------
def test_uris_are_read_by_pyarrow(tmp_path):
    (path,) = draw_photos(tmp_path, 1)
    np.testing.assert_array_equal(batches.read_photo(f"file://{path}"), np.asarray(Image.open(path)))
    with pytest.raises(FileNotFoundError):
        batches.read_photo(f"file://{tmp_path}/missing.png")


def test_results_can_be_in_an_object_store(monkeypatch):
    """As s3:// is: without folders and renaming. fsspec's memory stands for it."""
    fsspec = pytest.importorskip("fsspec")
    memory = pyarrow.fs.PyFileSystem(pyarrow.fs.FSSpecHandler(fsspec.filesystem("memory")))
    monkeypatch.setattr(store, "open_uri", lambda uri: (memory, uri.split("://")[1]))
    out = store.Store("memory://bucket/out.parquet")
    assert out.names() == set()
    out.write("part-000000.parquet", b"rows")
    assert out.names() == {"part-000000.parquet"} and out.read("part-000000.parquet") == b"rows"
    out.delete("part-000000.parquet")
    out.delete("part-000000.parquet")
    assert out.names() == set() and not out.exists("part-000000.parquet")


def test_an_image_that_ends_the_process_becomes_an_error(tmp_path):
    """Ray would repeat its shard without end."""
    out, shard = store.Store(str(tmp_path)), plan.Shard(0, ((0, "/a"), (1, "/b"), (2, "/c")))
    begun = []

    def search(images):
        begun.append(len(images))
        if (1, "/b") in images:
            raise SystemExit
        return [rows.ImageResult(*image) for image in images]

    for _ in range(3):
        with pytest.raises(SystemExit):
            attempts.search_shard(out, shard, search)
    found = attempts.search_shard(out, shard, search)
    assert begun == [3, 3, 1, 1, 1, 1]
    assert [(r.image_id, r.error) for r in found] == [(0, None), (1, attempts.DIED), (2, None)]
    attempts.forget(out, shard)
    assert out.names() == set()


# ---- All of it, in this process --------------------------------------------------------------------------------------
@pytest.fixture(scope="module")
def job(tmp_path_factory):
    """Arguments of a job, and the folder it wrote: 5 photos, one broken, in shards of 2."""
    folder = tmp_path_factory.mktemp("scale")
    paths = draw_photos(folder / "photos", 4)
    broken = folder / "photos" / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    arguments = {"paths": [*paths, broken], "weights": "shapes", "out": str(folder / "found.parquet")}
    arguments |= {"settings": SMALL, "shard_size": 2, "workers": 0}
    return arguments, detect_dataset(**arguments)


def test_results_are_those_of_detect(job):
    from mrcnn.model import MaskRCNN

    arguments, done = job
    model = MaskRCNN.from_preset("shapes", IMAGES_PER_GPU=1, **SMALL)
    expected = model.detect(arguments["paths"][:4])
    found = dict(read_detections(done.out))
    assert list(found) == [0, 1, 2, 3] and sum(map(len, expected)) > 0
    for i, result in found.items():
        assert result == expected[i] and result.names == expected[i].names and result.path == expected[i].path
    assert (done.images, done.errors, done.shards, done.skipped) == (5, 1, 3, 0)
    assert done.objects == sum(map(len, expected))
    assert "can't be read" in read_errors(done.out)[4]
    assert list(coco_results(done.out)) == [r for i, one in enumerate(expected) for r in one.to_coco(i)]


def test_a_second_start_does_only_what_is_missing(job):
    arguments, done = job
    files = {path.name: path for path in Path(done.out).glob("*.parquet")}
    before = {name: path.read_bytes() for name, path in files.items()}
    files["part-000001.parquet"].unlink()
    with pytest.raises(ValueError, match="2 of 3 files"):
        read_detections(done.out)
    assert [i for i, _ in read_detections(done.out, partial=True)] == [0, 1]
    again = detect_dataset(**arguments, retry_errors=True)  # the last file has an error
    assert (again.shards, again.skipped, again.images, again.errors) == (2, 1, 3, 1)
    assert {name: path.read_bytes() for name, path in files.items()} == before
    nothing = detect_dataset(**arguments)
    assert (nothing.shards, nothing.skipped, nothing.images) == (0, 3, 0)


def test_a_folder_of_something_else_is_refused(job, tmp_path):
    arguments, _ = job
    (tmp_path / "theirs.parquet").write_bytes(b"rows")
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ValueError, match="something else"):
        detect_dataset(**{**arguments, "out": tmp_path})
    with pytest.raises(ValueError, match="is a file"):
        detect_dataset(**{**arguments, "out": tmp_path / "file"})
    with pytest.raises(ValueError, match="another job"):
        detect_dataset(**{**arguments, "settings": {**SMALL, "DETECTION_MIN_CONFIDENCE": 0.5}})
    with pytest.raises(FileNotFoundError, match="no such weights"):
        detect_dataset(**{**arguments, "weights": str(tmp_path / "none.h5")})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batch_size": 0}, "batch_size is 0"),
        ({"workers": -1}, "workers is -1"),
        ({"shard_size": 2.5}, "shard_size is 2.5"),
        ({"settings": {"IMAGES_PER_GPU": 4}}, "argument batch_size"),
    ],
)
def test_a_wrong_argument_is_named(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        detect_dataset(**{"paths": ["a.jpg"], "weights": "shapes", "out": tmp_path / "out", "workers": 0, **change})


# ---- benchmarks/scale_model.py ---------------------------------------------------------------------------------------
def test_the_cost_of_large_jobs_follows_from_the_figures(capsys, monkeypatch):
    """By hand: a gradient of 1 GB at 1 GB/s, checkpoints of 2 s and a failure each hour, 10^8 photos at 0.043 s."""
    from benchmarks import scale_model

    assert scale_model.all_reduce_seconds(1000, 2, 1.0) == 1 and scale_model.all_reduce_seconds(1000, 4, 3.0) == 0.5
    assert scale_model.checkpoint_interval(2, 1) == 120
    measured = scale_model.load_measurements()
    detection = dict(scale_model.detection_rows(measured, 1e8, 100))
    assert (detection["GPU hours"], detection["hours"], detection["dollars, GPUs"]) == ("1,194", "11.9", "3,583")
    assert detection["photos read, GB/s"] == "7.0" and detection["files"] == "200,000"
    training = dict(scale_model.training_rows(measured, 1000, 8))
    assert (training["hours"], training["batch"], training["COCO epochs"]) == ("125.0", "16", "233")
    assert training["all-reduce, 10 Gbit Ethernet: share of a step"] == "119%"
    monkeypatch.setattr("sys.argv", ["scale_model.py"])
    scale_model.main()
    assert capsys.readouterr().out.count("| 1024 GPUs |") == 1

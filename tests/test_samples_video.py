"""samples/video.py and mrcnn.video: tracking, drawing frames, and writing files that can be played."""

from __future__ import annotations

import os
import re
import types
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest

from mrcnn.drawing import palette
from mrcnn.drawing.renderer import MASK_ALPHA
from mrcnn.video import Tracker, VideoFile, annotate_video, draw_frame, frames, read_video
from samples import coco, shapes, video

ROOT = Path(__file__).resolve().parent.parent


def gray(value: int, height: int = 32, width: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def read_all(path) -> tuple[np.ndarray, float]:
    """All frames [count, H, W, 3] RGB of a video, and its rate."""
    capture, found = cv2.VideoCapture(str(path)), []
    while (frame := capture.read()[1]) is not None:
        found.append(frame[..., ::-1])
    return np.array(found), capture.get(cv2.CAP_PROP_FPS)


# ---- Which object is which -------------------------------------------------------------------------------------------
def box(y: float, x: float, side: float = 10) -> list[float]:
    return [y, x, y + side, x + side]


def test_a_frame_without_objects():
    tracker = Tracker()
    assert tracker.update([], []).shape == (0,)
    assert list(tracker.update([box(0, 0)], [1])) == [1]
    assert tracker.update(np.zeros((0, 4), np.int32), np.zeros(0, np.int32)).shape == (0,)
    assert list(tracker.update([box(0, 0)], [1])) == [1]


def test_track_numbers_do_not_depend_on_the_order_of_objects():
    tracker = Tracker()
    assert list(tracker.update([box(0, 0), box(0, 40), box(40, 0)], [1, 1, 2])) == [1, 2, 3]
    assert list(tracker.update([box(40, 2), box(1, 1), box(2, 41)], [2, 1, 1])) == [3, 1, 2]


def test_a_new_object_has_a_new_number():
    tracker = Tracker()
    tracker.update([box(0, 0)], [1])
    assert list(tracker.update([box(80, 80), box(0, 0)], [1, 1])) == [2, 1]


def test_an_object_of_another_class_is_another_object():
    tracker = Tracker()
    tracker.update([box(0, 0)], [1])
    assert list(tracker.update([box(0, 0)], [2])) == [2]


def test_the_sum_of_the_ious_counts_not_the_best_pair():
    # Boxes of 10 x 10 in a row; IoU of a shift s: (10 - s) / (10 + s). The first of the new ones fits the second object
    # best (s 1: 0.82), but then nothing is left for the other: s 4 and s 3 (0.43 + 0.54) is more than s 1 alone.
    tracker = Tracker(min_iou=0.3)
    tracker.update([box(0, 0), box(0, 5)], [1, 1])
    assert list(tracker.update([box(0, 4), box(0, 8)], [1, 1])) == [1, 2]


def test_an_object_keeps_its_number_over_a_few_missed_frames():
    for missed, number in ((3, 1), (4, 2)):
        tracker = Tracker(max_missed=3)
        tracker.update([box(0, 0)], [1])
        for _ in range(missed):
            tracker.update([], [])
        assert list(tracker.update([box(0, 0)], [1])) == [number]


def test_motion_predicts_the_position_of_an_object():
    tracker = Tracker()
    for x in (0, 5, 10, 15, 20):
        assert list(tracker.update([box(0, x)], [1])) == [1]
    tracker.update([], [])
    tracker.update([], [])
    assert list(tracker.update([box(0, 35)], [1])) == [1]  # 15 from where it was seen last, so no overlap with that


def test_two_objects_that_pass_each_other_keep_their_numbers():
    tracker = Tracker()
    for step in range(12):
        there, back = box(0, 4 * step), box(6, 44 - 4 * step)
        numbers = tracker.update([there, back] if step % 2 else [back, there], [1, 1])
        assert list(numbers) == ([2, 1] if step % 2 else [1, 2])


# ---- What a frame looks like -----------------------------------------------------------------------------------------
def found_of(boxes, shape, class_ids=None) -> dict:
    masks = np.zeros((*shape[:2], len(boxes)), bool)
    for i, (y1, x1, y2, x2) in enumerate(boxes):
        masks[y1 + 1 : y2 - 1, x1 + 1 : x2 - 1, i] = True
    return {
        "rois": np.array(boxes, np.int32).reshape(-1, 4),
        "class_ids": np.ones(len(boxes), np.int32) if class_ids is None else np.array(class_ids),
        "scores": np.full(len(boxes), 0.9, np.float32),
        "masks": masks,
    }


def test_a_frame_without_detections_is_unchanged():
    frame = gray(90)
    drawn = draw_frame(frame, found_of([], frame.shape), [], ["BG", "cat"])
    np.testing.assert_array_equal(drawn, frame)


def test_a_frame_with_detections():
    frame = gray(90, 120, 160)
    boxes = [(60, 40, 100, 90), (0, 130, 30, 160)]  # the second one in the corner: its caption must fit as well
    drawn = draw_frame(frame, found_of(boxes, frame.shape), [5, 2], ["BG", "cat"])
    assert (frame == 90).all() and drawn.shape == frame.shape and drawn.dtype == np.uint8
    for (_, x1, y2, x2), number in zip(boxes, (5, 2)):
        color = np.rint(255 * np.array(palette.class_colors([number])[0]))
        np.testing.assert_array_equal(drawn[y2 - 1, x1 + 3], color)  # the box
        np.testing.assert_array_equal(drawn[y2 - 2, x1 + 3], color)  # the mask's outline
        expected = 90 + MASK_ALPHA * (color - 90)
        np.testing.assert_allclose(drawn[y2 - 6, (x1 + x2) // 2], expected, atol=1.01)
    changed = (drawn != frame).any(axis=-1)
    assert changed[40:59, 40:60].any()  # a caption above the first box
    assert changed[4, 115:130].any()  # the second one's begins left of its box, so that it ends in the frame
    assert not changed[40:110, 100:].any() and not changed[102:].any()


# ---- Files that can be played ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("ending", [".mp4", ".avi"])
def test_written_videos_can_be_read_back(tmp_path, ending):
    path = tmp_path / "new" / f"out{ending}"
    with VideoFile(path, 12.5) as file:
        for i in range(7):
            frame = gray(20 * i)
            frame[:, :16] = (200, 40, 90)
            file.write(frame)
        assert not path.exists()
    found, rate = read_all(path)
    assert found.shape == (7, 32, 48, 3) and rate == pytest.approx(12.5)
    assert [file.name for file in path.parent.iterdir()] == [path.name]
    np.testing.assert_allclose(found[:, 8:24, 4:12].mean(axis=(1, 2)), [[200, 40, 90]] * 7, atol=12)  # red, green, blue
    np.testing.assert_allclose(found[:, 16, 36, 1], 20 * np.arange(7), atol=8)
    again = read_video(path)
    assert (again.count, again.rate, again.live) == (7, 12.5, False) and len(list(again.frames)) == 7


def test_odd_sides_are_made_even(tmp_path):
    with VideoFile(tmp_path / "out.mp4", 10) as file:
        file.write(gray(100, 31, 47))
    assert read_all(tmp_path / "out.mp4")[0].shape == (1, 32, 48, 3)


def test_a_failed_video_keeps_the_old_file(tmp_path):
    path = tmp_path / "out.avi"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stop"), VideoFile(path, 10) as file:
        file.write(gray(1))
        raise RuntimeError("stop")
    with pytest.raises(ValueError, match=r"out.avi: no frame"), VideoFile(path, 10):
        pass
    with pytest.raises(ValueError, match=r"out.avi: a frame has the shape \(16, 48, 3\)"), VideoFile(path, 10) as file:
        file.write(gray(1))
        file.write(gray(1, 16))
    assert path.read_text() == "old" and len(list(tmp_path.iterdir())) == 1


def test_lost_frames_are_noticed(tmp_path, monkeypatch):
    monkeypatch.setattr(frames._OpenCvEncoder, "write", lambda self, frame: None)
    with pytest.raises(OSError, match=r"out.avi: 1 frames were written as MJPG \(OpenCV\), and 0"):
        write_squares(tmp_path / "out.avi", count=1)
    assert not list(tmp_path.iterdir())


def test_invalid_names_and_rates_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"out.gif: expected a name that ends in .mp4 or .avi"):
        VideoFile(tmp_path / "out.gif", 10)
    with pytest.raises(ValueError, match="the rate is 0"):
        VideoFile(tmp_path / "out.mp4", 0)


def test_h264_is_used_if_ffmpeg_is_available(tmp_path):
    if frames._ffmpeg_with_h264() is None:
        pytest.skip("no ffmpeg with libx264 here (pip install imageio-ffmpeg)")
    with VideoFile(tmp_path / "out.mp4", 30000 / 1001) as file:
        for i in range(5):
            file.write(gray(40 * i, 33, 49))
    found, rate = read_all(tmp_path / "out.mp4")
    assert file.codec == "H.264 (ffmpeg)" and found.shape == (5, 34, 50, 3)
    assert rate == pytest.approx(29.97, abs=0.01)
    assert cv2.VideoCapture(str(tmp_path / "out.mp4")).get(cv2.CAP_PROP_FOURCC) == cv2.VideoWriter_fourcc(*"h264")


@pytest.mark.skipif(os.name == "nt", reason="the made-up ffmpeg is a shell script")
def test_errors_of_ffmpeg_are_reported(tmp_path, monkeypatch):
    program = tmp_path / "ffmpeg"
    program.write_text("#!/bin/sh\necho no space left >&2\nexit 1\n")
    program.chmod(0o755)
    monkeypatch.setattr(frames, "_ffmpeg_with_h264", lambda: str(program))
    with pytest.raises(OSError, match=r"out.mp4: no space left"), VideoFile(tmp_path / "out.mp4", 10) as file:
        for _ in range(50):
            file.write(gray(1, 480, 640))


# ---- Sources ---------------------------------------------------------------------------------------------------------
def test_a_folder_of_frames_is_read_in_order(tmp_path):
    for i in (10, 9, 1):
        cv2.imwrite(str(tmp_path / f"frame{i}.png"), gray(i))
    (tmp_path / "notes.txt").touch()
    found = read_video(tmp_path)
    assert (found.count, found.rate) == (3, frames.DEFAULT_RATE)
    assert [frame[0, 0, 0] for frame in found.frames] == [1, 9, 10]
    assert read_video(tmp_path, rate=5).rate == 5


def test_frames_of_several_sizes_are_named(tmp_path):
    cv2.imwrite(str(tmp_path / "a.png"), gray(1))
    cv2.imwrite(str(tmp_path / "b.png"), gray(1, 16))
    with pytest.raises(ValueError, match=r"b.png has 16 x 48 pixels and the first frame, a.png, has 32 x 48"):
        list(read_video(tmp_path).frames)


def test_invalid_sources_are_refused(tmp_path, monkeypatch):
    with pytest.raises(FileNotFoundError, match="gone.mp4"):
        read_video(tmp_path / "gone.mp4")
    with pytest.raises(ValueError, match="holds no image"):
        read_video(tmp_path)
    for name, content in (("empty.mp4", b""), ("text.avi", b"not a video at all" * 100)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=f"{name} has no readable frame"):
            read_video(tmp_path / name)
    monkeypatch.setattr(frames.cv2, "VideoCapture", lambda number: Camera(0))
    with pytest.raises(OSError, match="Camera 3"):
        read_video(3)


def test_a_truncated_video_is_named(tmp_path):
    path = tmp_path / "cut.avi"
    rng = np.random.default_rng(0)
    with VideoFile(path, 10) as file:
        for _ in range(40):
            file.write(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.warns(UserWarning, match=r"cut.avi is truncated: \d+ of 40 frames"):
        assert 10 < len(list(read_video(path).frames)) < 30


class Camera:
    """Stands in for cv2.VideoCapture: a camera that gives so many frames."""

    def __init__(self, count: int):
        self.count = count

    def read(self):
        self.count -= 1
        return (True, gray(50)) if self.count >= 0 else (False, None)

    def get(self, name):
        return 0.0  # of the rate: not known

    def release(self):
        pass


# ---- A video ---------------------------------------------------------------------------------------------------------
class SquareFinder:
    """Stands in for a model: finds the red and the blue square, in an order that changes; now and then none."""

    def __init__(self, batch_size: int = 2, misses=()):
        self.config = types.SimpleNamespace(BATCH_SIZE=batch_size, NUM_CLASSES=2)
        self.batches, self.seen, self.misses = [], 0, misses

    def detect(self, images, verbose=0):
        self.batches.append(len(images))
        return [self._detect(image) for image in images]

    def _detect(self, image):
        self.seen += 1
        masks = [image[..., 0] > image[..., 1] + 60, image[..., 2] > image[..., 1] + 60][:: 1 if self.seen % 3 else -1]
        boxes = []
        for mask in masks if self.seen - 1 not in self.misses else []:
            ys, xs = np.flatnonzero(mask.any(axis=1)), np.flatnonzero(mask.any(axis=0))
            boxes.append((ys[0], xs[0], ys[-1] + 1, xs[-1] + 1))
        return found_of(boxes, image.shape)


def write_squares(path, count: int = 9, height: int = 96, width: int = 128) -> None:
    """A red square that goes right and a blue one that goes left, one above the other."""
    with VideoFile(path, 8) as file:
        for i in range(count):
            frame = gray(60, height, width)
            frame[10:34, 8 + 9 * i : 32 + 9 * i] = (230, 40, 40)
            frame[60:84, 96 - 9 * i : 120 - 9 * i] = (40, 40, 230)
            file.write(frame)


@pytest.mark.parametrize("misses", [(), (3, 4)])
def test_each_object_keeps_its_color(tmp_path, misses):
    write_squares(tmp_path / "clip.avi")
    model = SquareFinder(misses=misses)
    output = annotate_video(model, tmp_path / "clip.avi", tmp_path / "found.avi", ["BG", "square"], progress=False)
    assert output == tmp_path / "found.avi" and model.batches == [2, 2, 2, 2, 1]
    found, rate = read_all(output)
    assert found.shape == (9, 96, 128, 3) and rate == 8
    drawn = [i for i in range(9) if i not in misses]
    outlines = np.array([[found[i, 33, 18 + 9 * i], found[i, 83, 106 - 9 * i]] for i in drawn]).astype(int)
    colors = np.rint(255 * np.array(palette.class_colors([1, 2]))[:, :3])
    first = outlines[0]
    assert np.abs(outlines - first).max() < 70  # what JPEG leaves of a line one pixel wide
    distance = np.abs(first[:, np.newaxis] - colors).sum(axis=-1)  # [square, number]
    assert sorted(distance.argmin(axis=1)) == [0, 1]


def test_frames_and_rate_can_be_limited(tmp_path):
    write_squares(tmp_path / "clip.avi")
    options = {"limit": 3, "rate": 20, "progress": False}
    annotate_video(SquareFinder(), tmp_path / "clip.avi", tmp_path / "found.mp4", ["BG", "square"], **options)
    found, rate = read_all(tmp_path / "found.mp4")
    assert len(found) == 3 and rate == 20


def test_progress_shows_frames_per_second_and_the_output(tmp_path, capsys):
    write_squares(tmp_path / "clip.avi")
    annotate_video(SquareFinder(), tmp_path / "clip.avi", tmp_path / "found.avi", ["BG", "square"])
    said = capsys.readouterr()
    assert re.search(r"9/9 \[.* frames/s\]", said.err)
    assert "found.avi: 9 frames of" in said.out and "MJPG" in said.out


def test_a_camera_is_recorded_in_real_time_until_stopped(tmp_path, monkeypatch, caplog):
    class Slow(SquareFinder):
        def _detect(self, image):
            clock.now += 0.1 * (self.seen > 0)  # of each frame but the first
            self.seen += 1
            if self.seen == 5:
                raise KeyboardInterrupt
            return found_of([(4, 4, 20, 20)], image.shape)

    clock = types.SimpleNamespace(now=100.0)
    real = cv2.VideoCapture
    monkeypatch.setattr(frames.cv2, "VideoCapture", lambda source: Camera(9) if source == 0 else real(source))
    monkeypatch.setattr(frames.time, "monotonic", lambda: clock.now)
    model = Slow(batch_size=4)
    annotate_video(model, 0, tmp_path / "film.avi", ["BG", "square"], rate=20, progress=False)
    assert model.batches == [1, 1, 1, 1, 1]
    found, rate = read_all(tmp_path / "film.avi")
    assert rate == 20 and len(found) == 6  # 0.3 seconds
    assert "Stopped after 6 frames" in caplog.text


def test_class_names_must_match_the_number_of_classes(tmp_path):
    with pytest.raises(ValueError, match="3 class names for a model of 2 classes"):
        annotate_video(SquareFinder(), "clip.avi", tmp_path / "found.avi", ["BG", "square", "circle"])


# ---- Command line ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("weights", "sample"),
    [
        ("coco", "coco"),
        ("Shapes", "shapes"),
        ("models/shapes.h5", "shapes"),
        ("mask_rcnn_coco.h5", "coco"),
        ("logs/balloon20260101T0000/mask_rcnn_balloon_0014.h5", "balloon"),
        ("mask_rcnn_open_images_0002.h5", "open_images"),
    ],
)
def test_the_sample_is_chosen_by_the_name_of_the_weights(weights, sample):
    assert video.sample_of(weights, "logs") == (sample, weights)


def test_weights_without_information_about_the_sample(tmp_path):
    with pytest.raises(ValueError, match=r"mine.h5.*--sample"):
        video.sample_of("mine.h5", tmp_path)
    with pytest.raises(FileNotFoundError, match="no checkpoint of balloon"):
        video.sample_of("last", tmp_path)


def test_last_is_the_newest_run_of_all_samples(tmp_path):
    for age, name in ((20, "shapes"), (10, "balloon"), (30, "coco")):
        run = tmp_path / f"{name}20260101T0000"
        run.mkdir()
        checkpoint = run / f"mask_rcnn_{name}_0001.h5"
        h5py.File(checkpoint, "w").close()
        os.utime(checkpoint, (1000 - age, 1000 - age))
    sample, path = video.sample_of("last", tmp_path)
    assert sample == "balloon" and path.endswith("mask_rcnn_balloon_0001.h5")


def test_classes_come_from_the_run_or_the_options(tmp_path, monkeypatch):
    monkeypatch.setattr(coco, "trained_model", lambda weights, logs: weights)
    path = tmp_path / "mask_rcnn_coco_0001.h5"
    h5py.File(path, "w").close()
    assert video.open_model(str(path)) == (str(path), coco.CLASS_NAMES)
    (tmp_path / "classes.txt").write_text("BG\ncat\n")
    assert video.open_model(str(path))[1] == ["BG", "cat"]
    assert video.open_model(str(path), class_names=["dog"])[1] == ["BG", "dog"]


@pytest.mark.parametrize("sample", video.SAMPLES)
def test_each_sample_opens_its_model(sample):
    module = __import__(f"samples.{sample}", fromlist=["trained_model"])
    assert callable(module.trained_model)


def test_exactly_one_source_is_needed(capsys):
    for words in ([], ["clip.mp4", "--webcam", "0"]):
        with pytest.raises(SystemExit):
            video.parse([*words, "--weights", "coco"])
        assert "either a source or --webcam" in capsys.readouterr().err
    assert video.parse(["--webcam", "0", "--weights", "coco"]).webcam == 0


def test_from_a_video_to_a_video(tmp_path, monkeypatch, capsys):
    """The whole command, with the model that is shipped."""
    monkeypatch.chdir(tmp_path)
    dataset = shapes.ShapesDataset()
    with VideoFile("clip.mp4", 10) as file:
        for i in range(4):
            file.write(dataset.draw_shape(gray(40, 128, 128), "square", (50 + 4 * i, 60, 26), (220, 80, 60)))
    video.main(["clip.mp4", "--weights", "shapes", "--batch", "4"])
    assert "clip_detected.mp4: 4 frames" in capsys.readouterr().out
    found, _ = read_all("clip_detected.mp4")
    assert found.shape == (4, 128, 128, 3)
    assert np.abs(found.astype(int) - read_all("clip.mp4")[0]).max() > 50  # something is drawn

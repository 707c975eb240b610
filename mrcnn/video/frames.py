"""Video input and output: read frames from a file, folder or camera; write files that browsers and VLC play.

    frame   [H, W, 3] uint8, RGB; all frames of a video have the same size
    rate    frames per second

Output formats, by file extension:

    .mp4    H.264 if an ffmpeg with libx264 (on the PATH, or from `pip install imageio-ffmpeg`) or OpenCV supports it,
            otherwise VP9. Both play in current browsers and VLC; Apple's players require H.264. If OpenCV supports
            neither, the codec is MPEG-4 Part 2, which plays in VLC but not in browsers.
    .avi    Motion JPEG: large files that every build of OpenCV can write and read.

Audio is not copied.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")  # silent: this module reports errors with the file name

import cv2
import numpy as np

from mrcnn.data.image_reading import read_image
from mrcnn.weights.readers import natural_order

IMAGE_ENDINGS = (".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp")
DEFAULT_RATE = 25.0  # for folders, and for videos and cameras that do not report a rate
# A video with fewer than this share of its announced frames counts as truncated; some files only estimate the number.
WHOLE = 0.9
CODECS = {".mp4": ("avc1", "vp09", "mp4v"), ".avi": ("MJPG",)}  # for OpenCV, best first


# ---- In --------------------------------------------------------------------------------------------------------------
@dataclass
class Video:
    """An open video. `frames` can be iterated over once.

    Attributes:
        name: used in messages.
        rate: frames per second.
        count: expected number of frames; None if unknown.
        live: whether frames arrive in real time, as from a camera.
        frames: iterator over the frames.
    """

    name: str
    rate: float
    count: int | None
    live: bool
    frames: Iterator[np.ndarray]


def read_video(source: str | Path | int, rate: float | None = None) -> Video:
    """Opens a video and checks that it has at least one frame.

    Args:
        source: path of a video file or of a folder of images (in natural order of their names, so 10 follows 9), or
            the number of a camera.
        rate: frames per second; overrides the rate of the video.

    Raises:
        FileNotFoundError: the path does not exist.
        OSError: not a video, no readable frame, or no such camera.
        ValueError: the folder has no images, or images of different sizes.
    """
    if isinstance(source, int):
        return _read_camera(source, rate)
    path = Path(source)
    if path.is_dir():
        return _read_folder(path, rate)
    if not path.is_file():
        raise FileNotFoundError(f"{path} does not exist; expected a video file or a folder of images.")
    return _read_file(path, rate)


def _read_folder(folder: Path, rate: float | None) -> Video:
    files = [file for file in folder.iterdir() if file.suffix.lower() in IMAGE_ENDINGS]
    if not files:
        raise ValueError(f"{folder} holds no image; expected frames that end in {', '.join(IMAGE_ENDINGS)}.")
    files.sort(key=lambda file: natural_order(file.name))
    return Video(str(folder), rate or DEFAULT_RATE, len(files), False, _read_images(files))


def _read_images(files) -> Iterator[np.ndarray]:
    shape = None
    for file in files:
        frame = read_image(file)
        shape = shape or frame.shape
        if frame.shape != shape:
            raise ValueError(
                f"{file} has {frame.shape[0]} x {frame.shape[1]} pixels and the first frame, {files[0].name}, has"
                f" {shape[0]} x {shape[1]}; expected frames of one size (height x width)."
            )
        yield frame


def _read_file(path: Path, rate: float | None) -> Video:
    capture = cv2.VideoCapture(str(path))
    first = _next_frame(capture)
    if first is None:
        capture.release()
        raise OSError(
            f"{path} has no readable frame: it is empty, broken or not a video, or OpenCV has no decoder for it."
        )
    announced = int(capture.get(cv2.CAP_PROP_FRAME_COUNT))
    count = announced if announced > 0 else None
    return Video(str(path), rate or _rate_of(capture), count, False, _frames_of(capture, first, str(path), count))


def _read_camera(number: int, rate: float | None) -> Video:
    capture = cv2.VideoCapture(number)
    first = _next_frame(capture)
    if first is None:
        capture.release()
        raise OSError(f"Camera {number} gives no picture. Is it connected, and is another program using it?")
    name = f"camera {number}"
    return Video(name, rate or _rate_of(capture), None, True, _frames_of(capture, first, name, None))


def _frames_of(capture, first: np.ndarray, name: str, announced: int | None) -> Iterator[np.ndarray]:
    frame, seen = first, 0
    try:
        while frame is not None:
            seen += 1
            yield frame
            frame = _next_frame(capture)
    finally:
        capture.release()
    if announced and seen < WHOLE * announced:
        warnings.warn(f"{name} is truncated: {seen} of {announced} frames can be read.", stacklevel=2)


def _next_frame(capture) -> np.ndarray | None:
    there, frame = capture.read()
    return cv2.cvtColor(frame, cv2.COLOR_BGR2RGB) if there else None


def _rate_of(capture) -> float:
    rate = capture.get(cv2.CAP_PROP_FPS)
    return rate if 0 < rate < 1000 else DEFAULT_RATE  # files without a rate report 0, NaN or their clock rate of 90,000


# ---- Out -------------------------------------------------------------------------------------------------------------
class VideoFile:
    """Writes a video file. The file appears under its name only after the `with` block succeeds and it was verified.

        with VideoFile("out.mp4", rate=25) as file:
            file.write(frame)

    Args:
        path: ends in .mp4 or .avi. An existing file is replaced; missing folders are created.
        rate: frames per second.
        live: whether frames arrive in real time. If so, frames are repeated as needed so that the video lasts as
            long as the recording.

    Attributes:
        codec: name of the codec; None before the first frame.
        count: number of frames written.

    Raises:
        ValueError: unsupported extension, frames of different sizes, or no frame at all.
        OSError: the file cannot be written or read back.
    """

    def __init__(self, path: str | Path, rate: float, live: bool = False):
        self.path, self.rate, self.live = Path(path), float(rate), live
        if self.path.suffix.lower() not in CODECS:
            raise ValueError(f"{path}: expected a name that ends in {' or '.join(CODECS)}.")
        if not self.rate > 0:
            raise ValueError(f"{path}: the rate is {rate}; expected frames per second, more than 0.")
        self.codec, self.count = None, 0
        self._shape, self._encoder, self._started = None, None, 0.0
        self._unfinished = self.path.with_name(f".{self.path.stem}.{os.getpid()}{self.path.suffix.lower()}")

    def __enter__(self) -> VideoFile:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        return self

    def write(self, frame: np.ndarray) -> None:
        """Appends a frame, [H, W, 3] uint8 RGB. Odd sides are padded by one pixel because codecs require even sizes."""
        if self._shape is None:
            self._shape = frame.shape
            height, width = (side + side % 2 for side in frame.shape[:2])
            self._encoder, self.codec = _open_encoder(self.path, self._unfinished, self.rate, (width, height))
            self._started = time.monotonic()
        if frame.shape != self._shape:
            raise ValueError(f"{self.path}: a frame has the shape {frame.shape}, the first one {self._shape}.")
        height, width = frame.shape[:2]
        frame = np.pad(frame, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
        late = round((time.monotonic() - self._started) * self.rate) - self.count if self.live else 0
        for _ in range(max(1, late)):
            self._encoder.write(frame)
            self.count += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._encoder is not None:
                self._encoder.release()
            if kind is None:
                self._read_back()
                os.replace(self._unfinished, self.path)
        finally:
            self._unfinished.unlink(missing_ok=True)

    def _read_back(self) -> None:
        if not self.count:
            raise ValueError(f"{self.path}: no frame was written, so there is no video.")
        capture = cv2.VideoCapture(str(self._unfinished))
        readable = sum(1 for _ in iter(capture.grab, False))
        capture.release()
        if readable != self.count:
            raise OSError(
                f"{self.path}: {self.count} frames were written as {self.codec}, and {readable} can be read back."
                " Is the disk full? Another ending means another codec: .mp4 or .avi."
            )


class _OpenCvEncoder:
    """Writes through OpenCV."""

    def __init__(self, writer):
        self._writer = writer

    def write(self, frame):
        self._writer.write(cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))

    def release(self):
        self._writer.release()


class _FfmpegEncoder:
    """Writes H.264 through a pipe to ffmpeg."""

    def __init__(self, program: str, name: Path, path: Path, rate: float, size: tuple[int, int]):
        self._name = name
        width, height = size
        frames_in = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{width}x{height}", "-framerate", f"{rate:.6f}"]
        film_out = ["-an", "-c:v", "libx264", "-pix_fmt", "yuv420p", "-movflags", "+faststart"]  # required by browsers
        self._process = subprocess.Popen(
            [program, "-y", "-loglevel", "error", *frames_in, "-i", "-", *film_out, str(path)],
            stdin=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )

    def write(self, frame):
        try:
            self._process.stdin.write(np.ascontiguousarray(frame))
        except BrokenPipeError:
            self.release()

    def release(self):
        _, said = self._process.communicate()
        if self._process.returncode:
            raise OSError(f"ffmpeg can't write {self._name}: {said.decode(errors='replace').strip()}")


def _open_encoder(name: Path, path: Path, rate: float, size: tuple[int, int]):
    """Returns the best available encoder for the extension and its codec's name. Error messages refer to `name`."""
    if path.suffix == ".mp4" and (program := _ffmpeg_with_h264()):
        return _FfmpegEncoder(program, name, path, rate, size), "H.264 (ffmpeg)"
    log_level = cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)  # failed attempts are expected
    try:
        for codec in CODECS[path.suffix]:
            writer = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*codec), rate, size)
            if writer.isOpened():
                return _OpenCvEncoder(writer), f"{codec} (OpenCV)"
    finally:
        cv2.utils.logging.setLogLevel(log_level)
    tried = ", ".join(CODECS[path.suffix])
    raise OSError(f"{name} can't be written: OpenCV opens no encoder of {tried}. Is the folder writable?")


@functools.lru_cache(maxsize=1)
def _ffmpeg_with_h264() -> str | None:
    """Returns the path of an ffmpeg with libx264, or None."""
    programs = [shutil.which("ffmpeg")]
    try:
        import imageio_ffmpeg

        programs.append(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError):  # not installed, or without its executable
        pass
    for program in filter(None, programs):
        found = subprocess.run([program, "-hide_banner", "-encoders"], capture_output=True, text=True, check=False)
        if " libx264 " in found.stdout:
            return program
    return None

"""`mrcnn detect`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from mrcnn.cli import options, output

if TYPE_CHECKING:
    import numpy as np

    from mrcnn.cli.detections_file import DetectionsFile
    from mrcnn.cli.inputs import OutputNames, Source
    from mrcnn.cli.models import ChosenClasses
    from mrcnn.inference.results import Detections

Photo = tuple["Source", "np.ndarray"]
RESULTS = "detections.json"


def detect(
    inputs: options.InputsArgument,
    weights: options.WeightsOption,
    folder: Annotated[Path, typer.Option("--output", "-o", help="Folder for the results.")] = Path("detections"),
    min_score: options.MinScoreOption = None,
    classes: options.ChosenClassesOption = None,
    batch: Annotated[int, typer.Option(min=1, help="Photos per call of the network.")] = 1,
    pictures: Annotated[bool, typer.Option(help="Write a picture of the objects for each photo.")] = True,
    tiled: Annotated[bool, typer.Option("--tiled", help="Large images, also Zarr: detect on tiles.")] = False,
    tile: Annotated[int | None, typer.Option(min=1, help="Side of a tile, pixels.")] = None,
    overlap: Annotated[int | None, typer.Option(min=0, help="Pixels that tiles share.")] = None,
    settings: options.SettingsOption = None,
    as_json: options.JsonOption = False,
) -> None:
    """Find objects in photos, folders of photos and videos.

    Writes a picture for each photo and one detections.json for all photos: COCO results with images and categories. A
    video becomes a video in which objects keep their color, and a JSON file with the objects of each frame. A photo
    that can't be read is named and left out; the exit code is then 1. --tiled also writes .geojson files of GeoTIFFs.
    """
    from mrcnn.cli.detections_file import detections_file
    from mrcnn.cli.inputs import OutputNames, find_sources
    from mrcnn.cli.models import ChosenClasses, open_model, parse_settings
    from mrcnn.cli.tiled import detect_large, save_picture

    if not tiled and (tile is not None or overlap is not None):
        raise typer.BadParameter("--tile and --overlap need --tiled.")
    sources = find_sources(inputs, folder)
    found_settings = parse_settings(settings or ())
    if min_score is not None:
        found_settings["DETECTION_MIN_CONFIDENCE"] = min_score
    model = ChosenClasses(open_model(weights, **{"IMAGES_PER_GPU": batch, **found_settings}), options.names_in(classes))
    names, broken = OutputNames(folder), []
    photos = [source for source in sources if not source.is_video]
    videos = [source for source in sources if source.is_video]
    done = {"photos": 0, "videos": len(videos), "objects": 0, "broken": broken, "written": []}
    if photos:
        path = folder / RESULTS
        with output.prints_to_stderr(), detections_file(path, model.class_names) as results:
            found_photos = (
                detect_large(model, photos, names, broken, tile=tile, overlap=overlap)
                if tiled
                else detect_photos(model, output.track(photos, "photos"), batch, broken)
            )
            for source, image, found in found_photos:
                results.add(file_name(source, folder), found)
                if pictures:
                    save_picture(found, names.path(source, "_detected.jpg"), image)
        done |= {"photos": len(results.images), "objects": results.objects, "written": [str(path)]}
    for source in videos:
        try:
            with output.prints_to_stderr():
                written = detect_video(model, source, names)
        except (OSError, ValueError) as error:
            report_broken(broken, source, error)
        else:
            done["written"] += map(str, written)
    print_summary(done, as_json)
    if broken:
        raise typer.Exit(1)


def print_summary(done: dict, as_json: bool) -> None:
    """Prints the counts and the files written, as JSON or text."""
    if as_json:
        output.print_json(done)
        return
    photos = f"{done['photos']} photos, {done['videos']} videos, {done['objects']} objects in photos"
    print(f"{photos}, {len(done['broken'])} broken")
    print(*done["written"], sep="\n")


def file_name(source: Source, folder: Path) -> str:
    """The `file_name` of a photo in the results: its path from the folder of the results."""
    from mrcnn.data.formats.writers import relative_path

    return source.name if source.path is None else relative_path(source.path, folder)


def detect_photos(
    model: ChosenClasses, sources: Iterator[Source], batch: int, broken: list[str]
) -> Iterator[tuple[Source, np.ndarray, Detections]]:
    """Yields each photo with its objects; unreadable photos are reported, added to `broken` and left out."""
    photos = read_photos(sources, broken)
    while some := list(islice(photos, batch)):
        yield from detect_each(model, some, broken)


def read_photos(sources: Iterator[Source], broken: list[str]) -> Iterator[Photo]:
    for source in sources:
        try:
            image = source.read()
        except (OSError, ValueError) as error:
            report_broken(broken, source, error)
        else:
            yield source, image


def detect_each(
    model: ChosenClasses, photos: Sequence[Photo], broken: list[str]
) -> Iterator[tuple[Source, np.ndarray, Detections]]:
    """Detects on a batch; if the model refuses one of its photos, on each photo separately."""
    try:
        results = model.detect([image for _, image in photos])
    except ValueError as error:
        if len(photos) == 1:
            report_broken(broken, photos[0][0], error)
            return
        for photo in photos:
            yield from detect_each(model, [photo], broken)
        return
    for (source, image), found in zip(photos, results, strict=True):
        yield source, image, found


def report_broken(broken: list[str], source: Source, error: Exception) -> None:
    from mrcnn.cli import message_of

    name, text = source.name if source.path is None else str(source.path), message_of(error)
    broken.append(name)
    output.note(f"error: {text}" if name in text else f"error: {name}: {text}")


def detect_video(model: ChosenClasses, source: Source, names: OutputNames) -> list[Path]:
    """Writes the video with its objects, and the objects of each frame. Returns both paths."""
    from mrcnn.cli.detections_file import detections_file
    from mrcnn.video import annotate_video

    video, path = names.path(source, "_detected.mp4"), names.path(source, "_detections.json")
    with detections_file(path, model.class_names) as results:
        annotate_video(
            model, source.path, video, model.class_names, progress=output.is_terminal(),
            report=lambda frame, found, numbers: add_frame(results, source, frame, found, numbers),
        )  # fmt: skip
    return [video, path]


def add_frame(results: DetectionsFile, source: Source, frame: int, found: Detections, numbers: np.ndarray) -> None:
    """Adds a frame: an image with its number, and for each object its number in the video."""
    results.add(source.name, found, numbers.tolist(), frame=frame)

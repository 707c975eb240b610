"""What loading a weight file did: a line, a list of layers, or a table of all arrays."""

from __future__ import annotations

import csv
import os
from dataclasses import dataclass, field

from mrcnn.io import replacing

from .readers import shorten


@dataclass(frozen=True)
class LoadedArray:
    """An array of a file, and the array of the model that it was loaded into.

    Attributes:
        stored: Name in the file; "" for zeros that no file has.
        stored_shape: Shape in the file.
        layer: "rpn_model/rpn_conv_shared".
        array: "kernel".
        shape: Shape in the model.
        conversion: "OIHW to HWIO"; "" if the values are the same.
    """

    stored: str
    stored_shape: tuple[int, ...]
    layer: str
    array: str
    shape: tuple[int, ...]
    conversion: str = ""


@dataclass
class LoadReport:
    """What `load_weights_by_name` did. Its `repr` is one line; `print(report)` lists the layers.

    Attributes:
        path: The file.
        loaded: Names of the layers that were loaded from the file.
        missing: Layers of the model that the file does not have; they keep their values.
        excluded: Layers of the model that `exclude` left out; they keep their values.
        mismatched: Layers whose shapes differ, left out by `skip_mismatch`; they keep their values.
        unused: Layers of the file that the model does not have.
        arrays: A row for each array of the file that was loaded, `LoadedArray`: what went where.
        not_finite: Loaded layers with NaN or infinite weights, the sign of a training that diverged.

    Example:
        >>> LoadReport("coco.h5", loaded=["conv1", "bn_conv1"], missing=["mrcnn_mask"])
        <LoadReport coco.h5: 2 layers loaded, 1 missing>
    """

    path: str
    loaded: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    mismatched: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    not_finite: list[str] = field(default_factory=list)
    arrays: list[LoadedArray] = field(default_factory=list)

    def __repr__(self) -> str:
        rest = ("missing", "excluded", "mismatched", "unused", "not_finite")
        counts = [f"{len(getattr(self, name))} {name}" for name in rest if getattr(self, name)]
        return f"<LoadReport {self.path}: {', '.join([f'{len(self.loaded)} layers loaded', *counts])}>"

    def __str__(self) -> str:
        lines = [f"{self.path}: {len(self.loaded)} layers loaded."]
        for names, what in (
            (self.excluded, "left out by `exclude`, and keep their values"),
            (self.mismatched, "have other shapes in the file, and keep their values"),
            (self.missing, "of the model are not in the file, and keep their values"),
            (self.unused, "of the file are not in the model, and were not used"),
            (self.not_finite, "have NaN or infinite weights: the training that wrote the file had diverged"),
        ):
            if names:
                lines.append(f"  {len(names)} {what}: {shorten(names)}")
        return "\n".join(lines)

    def to_csv(self, path: str | os.PathLike) -> None:
        """Writes the conversion report: a row for each array of the file or layer of the model, and its outcome.

        Columns: in the file, its shape, layer, array, its shape, conversion; or "not loaded" and why.

        Example:
            >>> import tempfile
            >>> report = LoadReport("coco.h5", missing=["mrcnn_mask"])
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     report.to_csv(f"{folder}/report.csv")
            ...     print(open(f"{folder}/report.csv").read().splitlines()[1])
            ,,mrcnn_mask,,,not in the file
        """
        with replacing(path) as unfinished, open(unfinished, "w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file, lineterminator="\n")
            writer.writerow(("in the file", "shape in the file", "layer", "array", "shape", "conversion"))
            for row in self.arrays:
                shapes = ["x".join(map(str, shape)) for shape in (row.stored_shape, row.shape)]
                writer.writerow((row.stored, shapes[0], row.layer, row.array, shapes[1], row.conversion))
            for names, what in (
                (self.missing, "not in the file"), (self.excluded, "excluded"), (self.mismatched, "other shape"),
            ):  # fmt: skip
                writer.writerows(("", "", name, "", "", what) for name in names)
            writer.writerows((name, "", "", "", "", "not in the model") for name in self.unused)

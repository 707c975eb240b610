"""What an evaluation gives: numbers as attributes, a table, a file."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

from mrcnn.evaluate.coco import Accumulated, accumulate, mean_of, summarise
from mrcnn.evaluate.collector import Collector
from mrcnn.evaluate.results import Names, Predictions


class Report:
    """An evaluation of a data set.

    Attributes:
        box_ap, box_ap50, box_ap75, box_ap_small, box_ap_medium, box_ap_large, box_ar1, box_ar10, box_ar100,
        box_ar_small, box_ar_medium, box_ar_large: COCO's twelve numbers for boxes, in [0, 1]; -1 where there is no
            truth to measure by, as in pycocotools.
        mask_ap ...: the same for masks. boundary_ap ...: for masks compared along their contour.
        per_class: list of dicts, one a class: class_id, name, truths (how many true instances, crowds left out), and
            <kind>_ap, <kind>_ap50, <kind>_ap75, <kind>_ar100 for each kind.
        kinds: list, out of "box", "mask", "boundary"; `main` is the mask, or the box where results have no masks.
        notes: list of sentences about what doesn't count, and why.
        image_ids: list of the data set's numbers of the images, in the order of their ids in results.
        dataset, detections, truths, matches, accumulated: what the numbers come from, see `mrcnn.evaluate.coco`.
    """

    def __init__(self, names: Names, collector: Collector, predictions: Callable[[], Predictions], notes: list[str]):
        self.dataset = names.dataset
        self.class_names = list(names.dataset.class_names)
        self.notes = list(notes)
        self.kinds = collector.kinds
        self.main = "mask" if "mask" in self.kinds else "box"
        self.image_ids, self.detections, self.truths, self.matches = collector.finish(names.order)
        self.accumulated: dict[str, Accumulated] = {
            kind: accumulate(self.detections, self.truths, self.matches[kind], len(self.class_names))
            for kind in self.kinds
        }
        self.numbers: dict[str, float] = {
            f"{kind}_{name}": value for kind in self.kinds for name, value in summarise(self.accumulated[kind]).items()
        }
        self.__dict__.update(self.numbers)
        self.per_class = [self._of_class(k) for k in range(len(self.class_names) - 1)]
        self._read_predictions = predictions
        self._predictions = None

    def _of_class(self, k: int) -> dict:
        row = {"class_id": k + 1, "name": self.class_names[k + 1]}
        row["truths"] = int(self.accumulated[self.main].truths[k, 0])
        for kind in self.kinds:
            result = self.accumulated[kind]
            row[f"{kind}_ap"] = mean_of(result.precision[:, :, k, 0])
            row[f"{kind}_ap50"] = mean_of(result.precision[0, :, k, 0])
            row[f"{kind}_ap75"] = mean_of(result.precision[5, :, k, 0])
            row[f"{kind}_ar100"] = mean_of(result.recall[:, k, 0, -1])
        return row

    @property
    def predictions(self) -> Predictions:
        """The detections, image by image."""
        if self._predictions is None:
            self._predictions = self._read_predictions()
        return self._predictions

    def to_dict(self) -> dict:
        """All numbers, ready for json."""
        return {
            **self.numbers,
            "images": len(self.image_ids),
            "truths": int((~self.truths.crowd).sum()),
            "detections": len(self.detections.score),
            "per_class": self.per_class,
            "notes": self.notes,
        }

    def to_coco_json(self, path=None) -> list[dict] | None:
        """The detections as a COCO results list; pycocotools gives the same numbers for it.

        Args:
            path: where to write it as a file, or None.

        Returns:
            The list if there is no path.
        """
        if path is None:
            return list(self.predictions.stream())
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.part")
        with open(temporary, "w", encoding="utf-8") as file:
            for i, entry in enumerate(self.predictions.stream()):
                file.write("[\n" if i == 0 else ",\n")
                file.write(json.dumps(entry))
            file.write("\n]\n" if len(self.predictions) else "[]\n")
        os.replace(temporary, path)
        return None

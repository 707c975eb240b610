"""The dataset doctor: finds what is wrong with annotated images before they are trained on, and writes a clean copy.

    findings = check("balloon")              # folders train and val
    print(findings)                          # a table
    findings = check(train, val, config)     # datasets that are open
    check("balloon", fix="balloon_clean")    # COCO files and photos without what is wrong

`split_reader` opens the splits and keeps what their reader leaves out, `image_checks` checks each image,
`dataset_checks` the dataset, and `fix` writes the copy. `findings.KINDS` lists all kinds of findings.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from tqdm import tqdm

from mrcnn.config import Config
from mrcnn.data.dataset import Dataset
from mrcnn.data.doctor.dataset_checks import Splits, check_classes, check_copies, check_sizes, check_values
from mrcnn.data.doctor.findings import KINDS, Finding, Findings
from mrcnn.data.doctor.fix import write_clean
from mrcnn.data.doctor.image_checks import ImageRecord, examine
from mrcnn.data.doctor.split_reader import SPLITS, find_targets, open_target
from mrcnn.data.formats.recognition import OpenOptions
from mrcnn.data.summary import DatasetSummary, summary_of

__all__ = ["KINDS", "Finding", "Findings", "check"]

THREADS = 4  # that read images; OpenCV and hashing run at the same time


def check(
    train: str | Path | Dataset, val: str | Path | Dataset | None = None, config: Config | None = None,
    fix: str | Path | None = None, classes: Sequence[str] | None = None, attribute: str | None = None,
    crowds_as_objects: bool = False, root: str | Path | None = None, download: bool = False, progress: bool = False,
) -> Findings:  # fmt: skip
    """Checks the photos and annotations of a dataset. Reads each photo and each mask once.

    Args:
        train: A folder or annotation file of any format that `open_dataset` reads, or a prepared `Dataset`. If a folder
            has both a training and a validation split, as for `open_splits`, both are checked.
        val: The validation split, if it isn't a folder inside `train`.
        config: Settings of the network, for object sizes, anchors and the range of values. None: the defaults.
        fix: New or empty folder for a corrected copy (COCO files and photos).
        classes, attribute, crowds_as_objects, root, download: As in `open_dataset`.
        progress: Whether to show a progress bar.

    Returns:
        `Findings`: errors (training or evaluation would fail or be wrong), warnings (probably mistakes) and advice.

    Raises:
        FileNotFoundError: there is nothing at a path.
        UnknownFormat: a ValueError; no known format fits, or several.
        FileExistsError: `fix` isn't an empty folder.

    Example:
        >>> photo = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
        >>> mask = np.zeros((64, 64, 1), bool)
        >>> mask[8:40, 8:40] = True
        >>> dataset = Dataset()
        >>> dataset.load_image = lambda image_id: photo
        >>> dataset.load_mask = lambda image_id: (mask, np.array([1]))
        >>> dataset.add_class("cells", 1, "cell")
        >>> for name in ("a", "b"):
        ...     dataset.add_image("cells", name, path=None)
        >>> dataset.prepare()
        >>> [(finding.code, finding.image) for finding in check(dataset).warnings]
        [('duplicate-image', 'b')]
    """
    start = time.perf_counter()
    config = Config() if config is None else config
    if fix is not None and Path(fix).exists() and (not Path(fix).is_dir() or any(Path(fix).iterdir())):
        raise FileExistsError(f"{fix} exists and is not empty; expected a new folder for the clean copy.")
    options = OpenOptions(attribute=attribute, crowds_as_objects=crowds_as_objects, root=root, download=download)
    datasets, findings = _open(train, val, options, classes)
    splits: Splits = {}
    for split, dataset in datasets.items():
        splits[split] = list(_examine_all(dataset, config, split, progress))
        findings += [finding for record in splits[split] for finding in record.findings]
    copies, copied = check_copies(splits)
    findings += copies + check_values(splits, config)
    summaries = {split: _summarize(datasets[split], config, records) for split, records in splits.items()}
    if summaries:
        findings += check_classes(summaries) + check_sizes(summaries, config)
    images = {split: dataset.num_images for split, dataset in datasets.items()}
    objects = {split: len(summary.class_ids) for split, summary in summaries.items()}
    result = Findings(findings, images, objects)
    if fix is not None:
        result.fixed = write_clean(Path(fix), datasets, splits, copied, result, progress)
    result.seconds = time.perf_counter() - start
    return result


def _open(
    train: str | Path | Dataset, val: str | Path | Dataset | None, options: OpenOptions, classes: Sequence[str] | None
) -> tuple[dict[str, Dataset], list[Finding]]:
    """{split: dataset}, without splits of which nothing can be read, and the findings of opening them."""
    given = {split: dataset for split, dataset in zip(SPLITS, (train, val)) if isinstance(dataset, Dataset)}
    for split, dataset in given.items():
        if not hasattr(dataset, "class_names"):
            raise ValueError(f"The dataset for {split} isn't prepared; call its prepare() first.")
    paths = [path for path in (train, val) if not isinstance(path, Dataset)]
    if not given:
        targets = find_targets(*paths)
    else:
        targets = {
            split: find_targets(path)["train"]
            for split, path in zip(SPLITS, (train, val))
            if path is not None and split not in given
        }
    datasets, findings = dict(given), []
    for split, target in targets.items():
        dataset, found = open_target(target, split, options, classes)
        findings += found
        if dataset is not None:
            datasets[split] = dataset
    return {split: datasets[split] for split in SPLITS if split in datasets}, findings


def _summarize(dataset: Dataset, config: Config, records: Sequence[ImageRecord]) -> DatasetSummary:
    """The summary of the images whose objects could be measured."""
    usable = [record for record in records if record.measured]
    image_ids = np.array([record.image_id for record in usable], np.int64)
    return summary_of(dataset, config, image_ids, [record.measured for record in usable])


def _examine_all(dataset: Dataset, config: Config, split: str, progress: bool) -> Iterator[ImageRecord]:
    ids = dataset.image_ids.tolist()
    with ThreadPoolExecutor(min(THREADS, os.cpu_count() or 1)) as pool:
        records = pool.map(lambda image_id: examine(dataset, image_id, config, split), ids)
        yield from tqdm(records, total=len(ids), desc=f"Checking {split}", unit="image", disable=not progress)

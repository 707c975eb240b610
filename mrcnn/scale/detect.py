"""Implements `detect_dataset`: what is missing in the folder of results is divided among workers."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tqdm import tqdm

from mrcnn.scale.plan import (
    MANIFEST,
    Shard,
    absolute,
    check_same_job,
    list_images,
    make_manifest,
    missing_shards,
    plan_shards,
    read_manifest,
)
from mrcnn.scale.rows import read_metadata
from mrcnn.scale.store import INSTALL, Store, import_pyarrow
from mrcnn.scale.worker import Job, ShardWorker, resolve_weights, weights_digest
from mrcnn.settings import to_json

logger = logging.getLogger(__name__)
SET_BY_ARGUMENTS = {"IMAGES_PER_GPU": "batch_size", "BATCH_SIZE": "batch_size", "GPU_COUNT": "gpus_per_worker"}


@dataclass(frozen=True)
class DatasetResults:
    """What `detect_dataset` did.

    Attributes:
        out: The folder of results.
        images, objects, errors: Counts of this call. Errors are images that could not be read or searched.
        shards: Files written by this call.
        skipped: Files that were there before.
        seconds: Of this call.

    Example:

        done = detect_dataset(paths, "shapes", "found.parquet")
        print(f"{done.objects} objects in {done.images} images, {done.errors} errors")
    """

    out: str
    images: int
    objects: int
    errors: int
    shards: int
    skipped: int
    seconds: float


def detect_dataset(
    paths: Any, weights: str | os.PathLike, out: str | os.PathLike, *, settings: Mapping[str, Any] | None = None,
    workers: int = 1, batch_size: int = 1, shard_size: int = 500, cpus_per_worker: float = 1,
    gpus_per_worker: float = 0, resources: Mapping[str, float] | None = None, readers: int = 1,
    retry_errors: bool = False, progress: bool = True,
) -> DatasetResults:  # fmt: skip
    """Finds objects in any number of images, with Ray on any number of machines; the results are those of `detect`.

    `out` becomes a folder of Parquet files, each with the rows of `shard_size` images, which appears complete or not at
    all. A second call with the same `out` does only what is missing; Ray repeats the shard of a worker that died.
    docs/scaling.md lists the columns.

    Args:
        paths: Paths of images, or URIs (s3://, gs://) that pyarrow opens; a dict of them by id, int or str; or a
            `ray.data.Dataset` with the column "path" and perhaps "image_id". The whole list is held in memory here.
        weights: As of `mrcnn detect`: a file, the folder of a run or of `save_to_preset`, or a name such as "shapes".
        out: Folder, or URI, that all workers can write to. By convention it ends in ".parquet".
        settings: Of `Config`, in place of those stored with the weights, e.g. {"DETECTION_MIN_CONFIDENCE": 0.5}.
        workers: Processes, each with its own model. 0: no Ray, everything in this process.
        batch_size: Photos per call of the network. Photos of one size in the network make a batch.
        shard_size: Images per file. A worker that dies loses at most the work on one shard.
        cpus_per_worker: Ray's reservation, and the number of threads that the backend uses.
        gpus_per_worker: Ray's reservation, e.g. 1, or 0.25 for four workers on a GPU. 2 and more share each batch.
        resources: Further reservations by name, per worker, as in Ray's `resources`.
        readers: Threads per worker that read photos ahead of the network.
        retry_errors: Whether to do shards again that have images with errors, e.g. after a network drive was away.
        progress: Whether to show images done and time left, if stderr is a terminal.

    Raises:
        ImportError: Ray or pyarrow is not installed.
        ValueError: `out` has results of other weights, settings or images, or an argument is invalid.
        FileNotFoundError: There are no such weights.

    Example:

        detect_dataset(sorted(Path("photos").glob("*.jpg")), "shapes", "found.parquet", workers=2)
    """
    start = time.monotonic()
    _check_numbers(workers=(workers, 0), batch_size=(batch_size, 1), shard_size=(shard_size, 1), readers=(readers, 1))
    images, store = list_images(paths), Store(absolute(out))
    name, files = resolve_weights(weights)
    job = Job(
        name, weights_digest(files), store.out, _json_settings(settings or {}), batch_size, readers,
        threads=max(1, int(cpus_per_worker)) if workers else None, devices=max(1, int(gpus_per_worker)),
    )  # fmt: skip
    shards = plan_shards(images, shard_size)
    missing = _open_out(store, make_manifest(images, shard_size, name, job.weights_sha256, job.settings), shards)
    if retry_errors:
        missing = sorted({*missing, *_with_errors(store, shards, missing)}, key=lambda shard: shard.number)
    reservation = {"num_cpus": cpus_per_worker, "num_gpus": gpus_per_worker, "resources": dict(resources or {})}
    done = _in_this_process(job, missing) if workers == 0 else _with_ray(job, missing, workers, reservation)
    counts = _add_up(done, sum(len(shard.images) for shard in missing), progress)
    skipped = len(shards) - len(missing)
    return DatasetResults(store.out, **counts, skipped=skipped, seconds=time.monotonic() - start)


def _check_numbers(**numbers: tuple[int, int]) -> None:
    for name, (value, least) in numbers.items():
        if not isinstance(value, int) or value < least:
            raise ValueError(f"{name} is {value!r}; expected a whole number of at least {least}.")


def _json_settings(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings in JSON's types. Raises ValueError for one that doesn't exist, or that an argument sets."""
    from mrcnn.config import Config

    for name in settings:
        if name in SET_BY_ARGUMENTS:
            raise ValueError(f"settings has {name}; use the argument {SET_BY_ARGUMENTS[name]}.")
    known = Config(**settings)  # checks names and values
    return {name: to_json(name, getattr(known, name)) for name in sorted(settings)}


def _open_out(store: Store, manifest: dict[str, Any], shards: list[Shard]) -> list[Shard]:
    """Writes the manifest, or checks the one that is there; returns the shards without a file."""
    names = store.names()
    if MANIFEST in names:
        check_same_job(read_manifest(store.read(MANIFEST), f"{store.out}/{MANIFEST}"), manifest, store.out)
    elif any(name.endswith(".parquet") for name in names):
        raise ValueError(f"{store.out} has Parquet files of something else (no {MANIFEST}); give another out.")
    else:
        store.write(MANIFEST, json.dumps(manifest, indent=1).encode())
    return missing_shards(shards, names)


def _with_errors(store: Store, shards: list[Shard], missing: Iterable[Shard]) -> Iterator[Shard]:
    """The shards that have a file with errors."""
    arrow, left_out = import_pyarrow(), {shard.number for shard in missing}
    for shard in shards:
        if shard.number not in left_out:
            schema = arrow.parquet.read_schema(arrow.BufferReader(store.read(shard.name)))
            if read_metadata(schema)["errors"]:
                yield shard


def _add_up(done: Iterable[dict[str, Any]], images: int, progress: bool) -> dict[str, int]:
    """The sums of the shards' counts, shown as they arrive."""
    counts = {"images": 0, "objects": 0, "errors": 0, "shards": 0}
    with tqdm(total=images, unit=" images", disable=None if progress else True, smoothing=0.05) as bar:
        for row in done:
            counts["shards"] += 1
            for name in ("images", "objects", "errors"):
                counts[name] += int(row[name])
            bar.set_postfix(objects=counts["objects"], errors=counts["errors"], refresh=False)
            bar.update(int(row["images"]))
            logger.info("shard %s done: %s of %s images", row["number"], counts["images"], images)
    if counts["errors"]:
        text = "%d of %d images could not be searched; mrcnn.scale.read_errors(out) says why."
        logger.warning(text, counts["errors"], counts["images"])
    return counts


def _in_this_process(job: Job, shards: Iterable[Shard]) -> Iterator[dict[str, Any]]:
    worker = None
    for shard in shards:
        worker = worker or ShardWorker(job)
        yield worker.detect(shard)


# ---- Ray -------------------------------------------------------------------------------------------------------------
def import_ray(part: str) -> Any:
    """ray with one of its libraries, "data" or "train", or an ImportError that says how to install it."""
    try:
        import importlib

        importlib.import_module(f"ray.{part}")
        import ray
    except ImportError as error:
        raise ImportError(f"This needs Ray: {INSTALL} ({error}).") from error
    return ray


def worker_environment(threads: int) -> dict[str, str]:
    """Environment variables of a worker: the backend of this process, and as many threads as it has processors."""
    import keras

    threads = str(threads)
    names = ("OMP_NUM_THREADS", "TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OPENBLAS_NUM_THREADS")
    quiet = os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2")
    return {"KERAS_BACKEND": keras.backend.backend(), "TF_CPP_MIN_LOG_LEVEL": quiet, **dict.fromkeys(names, threads)}


def _with_ray(job: Job, shards: list[Shard], workers: int, reservation: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the counts of each shard when its file is written, in the order in which they finish."""
    if not shards:
        return
    ray = import_ray("data")
    rows = [
        {"number": shard.number, "ids": [i for i, _ in shard.images], "paths": [path for _, path in shard.images]}
        for shard in shards
    ]
    context = ray.data.DataContext.get_current()
    with _changed(context, enable_progress_bars=False):
        # One block a shard: Ray then starts what a dead worker had begun again, and nothing else.
        dataset = ray.data.from_items(rows, override_num_blocks=len(rows)).map(
            ShardWorker, fn_constructor_args=(job,), compute=ray.data.ActorPoolStrategy(size=min(workers, len(rows))),
            runtime_env={"env_vars": worker_environment(job.threads or 1)}, **reservation,
        )  # fmt: skip
        yield from dataset.iter_rows()


@contextmanager
def _changed(context: Any, **values: Any) -> Iterator[None]:
    """Changes attributes of an object within the block."""
    before = {name: getattr(context, name) for name in values}
    try:
        for name, value in values.items():
            setattr(context, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(context, name, value)

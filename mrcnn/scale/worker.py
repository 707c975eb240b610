"""One worker: holds the model, detects the images of a shard, and writes its file."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from mrcnn.scale.attempts import forget, search_shard
from mrcnn.scale.batches import detect_images
from mrcnn.scale.plan import Shard
from mrcnn.scale.rows import make_table, read_metadata, to_bytes
from mrcnn.scale.store import Store

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Job:
    """What every worker needs to know.

    Attributes:
        weights: As of `detect_dataset`, a path absolute.
        weights_sha256: `weights_digest` of them.
        out: Folder or URI.
        settings: Of `Config`, in JSON's types.
        batch_size: Photos per call of the network.
        readers: Threads that read photos.
        threads: Of the backend; None: its own choice.
        devices: Of the backend, that share a batch.
    """

    weights: str
    weights_sha256: str
    out: str
    settings: dict[str, Any] = field(default_factory=dict)
    batch_size: int = 1
    readers: int = 1
    threads: int | None = None
    devices: int = 1


def resolve_weights(weights: str | os.PathLike) -> tuple[str, list[Path]]:
    """The weights as workers can open them, and the files that they are in; a word is downloaded if needed.

    Raises:
        FileNotFoundError, ValueError: There are no such weights.
    """
    from mrcnn.cli.models import is_preset, weights_path
    from mrcnn.weights.downloads import pretrained
    from mrcnn.weights.preset_folder import CONFIG, WEIGHTS

    name = os.fspath(weights)
    if is_preset(name):
        return os.path.abspath(name), [Path(name) / CONFIG, Path(name) / WEIGHTS]
    path = weights_path(name)
    if path is None:
        return name, [Path(pretrained(name))]
    if not path.is_file():
        raise FileNotFoundError(f"{name}: no such weights; expected a file, a folder of a run, or a name as 'shapes'.")
    return str(path.absolute()), [path]


def weights_digest(files: Iterable[Path]) -> str:
    """SHA-256 of the content of these files."""
    found = hashlib.sha256()
    for path in files:
        with open(path, "rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()


class ShardWorker:
    """Detects the images of shards, one shard at a call.

    Raises:
        ValueError: The weights on this machine are others than those of the job.
    """

    def __init__(self, job: Job):
        self.job, self.store = job, Store(job.out)
        digest = weights_digest(resolve_weights(job.weights)[1])
        if digest != job.weights_sha256:
            raise ValueError(
                f"On this machine, {job.weights} has the SHA-256 {digest[:12]}; expected {job.weights_sha256[:12]}, as"
                " where the job was started. All machines need the same file."
            )
        if job.threads is not None:
            _limit_threads(job.threads)
        from mrcnn.cli.models import open_model

        batch = {"GPU_COUNT": job.devices, "IMAGES_PER_GPU": -(-job.batch_size // job.devices)}
        self.model = open_model(job.weights, **{**job.settings, **batch})

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """Ray's form of `detect`: a row with `number`, `ids` and `paths` of a shard, and one with its counts."""
        ids = [i.item() if hasattr(i, "item") else i for i in row["ids"]]
        return self.detect(Shard(int(row["number"]), tuple(zip(ids, map(str, row["paths"])))))

    def detect(self, shard: Shard) -> dict[str, Any]:
        """Writes the shard's file. Returns its number, and its counts of images, objects and errors."""
        config, job = self.model.config, self.job
        search = partial(
            detect_images, self.model.detect, config=config, batch_size=job.batch_size, readers=job.readers
        )
        results = search_shard(self.store, shard, search)
        table = make_table(results, self.model.class_names, not config.convention.whole_pixels)
        self.store.write(shard.name, to_bytes(table))
        forget(self.store, shard)
        counts = read_metadata(table.schema)
        return {"number": shard.number, **{name: counts[name] for name in ("images", "objects", "errors")}}


def _limit_threads(count: int) -> None:
    """TensorFlow, which takes all cores otherwise, and OpenCV. Environment variables do it for JAX and PyTorch."""
    import cv2
    import keras

    cv2.setNumThreads(count)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        tf.config.threading.set_intra_op_parallelism_threads(count)
        tf.config.threading.set_inter_op_parallelism_threads(count)

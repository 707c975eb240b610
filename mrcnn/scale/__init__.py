"""Detection in millions of photos, and training on many machines, with Ray (the extra `ray`).

    detect_dataset(paths, "shapes", "found.parquet", workers=8)   photos -> a folder of Parquet files
    for image_id, found in read_detections("found.parquet"): ...  and back, as `Detections`

`plan` divides the images into shards, `batches` those of a shard into batches, `worker` detects and writes one shard,
`attempts` finds images that end the process, `detect` runs workers until every shard is written. `train` starts a
training of several processes.
"""

from mrcnn.scale.detect import DatasetResults, detect_dataset
from mrcnn.scale.reading import coco_results, read_detections, read_errors
from mrcnn.scale.train import continue_run, join_processes, train_with_ray

__all__ = [
    "DatasetResults", "coco_results", "continue_run", "detect_dataset", "join_processes", "read_detections",
    "read_errors", "train_with_ray",
]  # fmt: skip

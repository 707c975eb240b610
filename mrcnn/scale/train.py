"""Training of several processes started by Ray: `JaxTrainer` runs the same function in each of them."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Mapping
from typing import Any

from mrcnn.scale.detect import import_ray, worker_environment

logger = logging.getLogger(__name__)


def train_with_ray(
    train: Callable[..., Any],
    *,
    workers: int,
    folder: str | os.PathLike,
    arguments: Mapping[str, Any] | None = None,
    cpus_per_worker: float = 1,
    gpus_per_worker: float = 0,
    max_failures: int = 3,
) -> Any:
    """Runs `train(**arguments)` in several processes that train one model together, on JAX.

    The processes are joined before `train` is called, so that it can be the script of one machine: it builds the model,
    calls `continue_run(model)` and `model.train(...)`. If a process dies, Ray ends the others and starts all again.

    Args:
        train: A function that imports what it needs.
        workers: Processes; on GPUs, one for each GPU.
        folder: Ray's own files; on several machines, on a shared file system.
        arguments: Of `train`.
        cpus_per_worker, gpus_per_worker: Reserved for each process.
        max_failures: How many times Ray starts the processes again. 0: a failure ends the training.

    Returns:
        Ray's `Result`.

    Raises:
        ImportError: Ray is not installed.
        RuntimeError: A training failed more often than that; of Ray, as `ray.train.TrainingFailedError`.

    Example:

        train_with_ray(train, workers=16, gpus_per_worker=1, folder="/shared/ray", arguments={"logs": "/shared/logs"})
    """
    import_ray("train")
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.v2.jax import JaxTrainer

    each = {"CPU": cpus_per_worker, **({"GPU": gpus_per_worker} if gpus_per_worker else {})}
    variables = {**worker_environment(max(1, int(cpus_per_worker))), "KERAS_BACKEND": "jax"}
    if not gpus_per_worker:
        variables |= {"JAX_PLATFORMS": "cpu", "JAX_CPU_COLLECTIVES_IMPLEMENTATION": "gloo"}
    trainer = JaxTrainer(
        _run_joined, train_loop_config={"train": train, "arguments": dict(arguments or {})},
        scaling_config=ScalingConfig(num_workers=workers, use_gpu=bool(gpus_per_worker), resources_per_worker=each),
        run_config=RunConfig(
            storage_path=os.path.abspath(folder), failure_config=FailureConfig(max_failures=max_failures),
            worker_runtime_env={"env_vars": variables},
        ),
    )  # fmt: skip
    return trainer.fit()


def _run_joined(config: Mapping[str, Any]) -> None:
    join_processes()
    config["train"](**config["arguments"])


def join_processes() -> None:
    """Joins the processes of a `JaxTrainer`, in each of them, before anything is computed.

    Ray does so itself on GPUs and TPUs; on CPUs its backend does nothing.
    """
    import jax
    import keras
    from ray import train, util
    from ray.train.collective import broadcast_from_rank_zero

    if jax.distributed.is_initialized():
        return
    context = train.get_context()
    rank, address = context.get_world_rank(), None
    if rank == 0:
        with socket.socket() as free:
            free.bind(("", 0))
            address = f"{util.get_node_ip_address()}:{free.getsockname()[1]}"
    address = broadcast_from_rank_zero(address)
    keras.distribution.initialize(address, context.get_world_size(), rank)


def continue_run(model: Any) -> bool:
    """Loads the last state of a training in a model's `model_dir`, if there is one; `train` then continues there.

    With several processes, call it in all of them.

    Returns:
        Whether there was one. It may be inside the first epoch, with `model.epoch == 0`.

    Example:

        if not continue_run(model):
            model.load_weights("coco", skip_mismatch=True)
    """
    try:
        path = model.find_last()
    except FileNotFoundError:
        return False
    logger.info("Continuing %s.", path)
    model.load_weights(path, by_name=True)
    return True

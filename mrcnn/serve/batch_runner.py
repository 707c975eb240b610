"""One thread runs the network; photos that wait at the same time can run as one batch.

The queue itself has no limit: `service.py` limits the number of requests.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Work = Callable[[list[np.ndarray]], list[Any]]


@dataclass
class Job:
    """A photo, the function to run on it, and a future for the result."""

    work: Work
    photo: np.ndarray
    key: Hashable
    deadline: float
    done: Future = field(default_factory=Future)

    def fits(self, other: Job) -> bool:
        """Whether both can run in one batch."""
        return self.work == other.work and self.key is not None and self.key == other.key


class BatchRunner:
    """Runs jobs in one thread in their order of arrival; those of a batch run together.

    Args:
        size: Maximum number of photos in a batch.
        wait: Seconds that the first photo of a batch waits for others.
        report: Called with the number of photos and the seconds of each batch.

    Example:

    >>> runner = BatchRunner(size=4, wait=0.001)
    >>> results = [runner.submit(lambda photos: [p.sum() for p in photos], np.ones((2, n)), None, 10) for n in (1, 2)]
    >>> [float(result.result()) for result in results]
    [2.0, 4.0]
    >>> runner.close()
    """

    def __init__(self, size: int, wait: float, report: Callable[[int, float], None] = lambda photos, seconds: None):
        self.size, self.wait, self.report = size, wait, report
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name="mrcnn-network", daemon=True)
        self._thread.start()

    def submit(self, work: Work, photo: np.ndarray, key: Hashable, seconds: float) -> Future:
        """Queues a photo.

        Args:
            work: Function of a list of photos that returns a result for each.
            photo: [H, W, channels].
            key: Photos with an equal key and `work` can share a batch; with None, a photo runs alone.
            seconds: If the job hasn't started by then, it is dropped, and the result is a TimeoutError.

        Raises:
            RuntimeError: after `close`.
        """
        job = Job(work, photo, key, time.monotonic() + seconds)
        with self._changed:
            if self._closing:
                raise RuntimeError("The server is stopping.")
            self._jobs.append(job)
            self._changed.notify()
        return job.done

    def __len__(self) -> int:
        """Number of photos that wait."""
        return len(self._jobs)

    def close(self) -> None:
        """Finishes the submitted jobs and ends the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while batch := self._next_batch():
            ready = [job for job in batch if self._starts(job)]
            if ready:
                started = time.monotonic()
                self._finish(ready)
                self.report(len(ready), time.monotonic() - started)

    def _next_batch(self) -> list[Job]:
        """The next jobs that run together; empty when the runner is closed and all jobs are done."""
        with self._changed:
            while not self._jobs:
                if self._closing:
                    return []
                self._changed.wait()
            batch = [self._jobs.popleft()]
            end = time.monotonic() + self.wait
            while len(batch) < self.size and batch[0].key is not None:
                batch += self._take_fitting(batch[0], self.size - len(batch))
                left = end - time.monotonic()
                if len(batch) == self.size or left <= 0 or self._closing:
                    break
                self._changed.wait(left)
            return batch

    def _take_fitting(self, first: Job, count: int) -> list[Job]:
        """Takes up to `count` jobs that can share a batch with `first` out of the queue."""
        taken, others = [], deque()
        while self._jobs:
            job = self._jobs.popleft()
            (taken if len(taken) < count and job.fits(first) else others).append(job)
        self._jobs = others
        return taken

    @staticmethod
    def _starts(job: Job) -> bool:
        """Whether a request still waits for the job."""
        if not job.done.set_running_or_notify_cancel():
            return False
        if time.monotonic() > job.deadline:
            job.done.set_exception(TimeoutError())
            return False
        return True

    def _finish(self, batch: list[Job]) -> None:
        """Runs a batch. If it fails, each photo runs alone, so that only the request of the faulty photo fails."""
        try:
            results = batch[0].work([job.photo for job in batch])
        except Exception as error:
            if len(batch) == 1:
                batch[0].done.set_exception(error)
                return
            for job in batch:
                self._finish([job])
            return
        for job, result in zip(batch, results, strict=True):
            job.done.set_result(result)

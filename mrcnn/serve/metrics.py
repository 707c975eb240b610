"""Counts and times of a server in Prometheus's text format.

Reference: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections import Counter

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
PHOTOS = (1, 2, 4, 8, 16, 32, 64)


class Histogram:
    """Counts values up to each bound, their number and their sum."""

    def __init__(self, bounds: tuple[float, ...]):
        self.bounds = bounds
        self.counts = [0] * (len(bounds) + 1)
        self.sum = 0.0

    def add(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def lines(self, name: str) -> list[str]:
        total, found = 0, []
        for bound, count in zip([*self.bounds, "+Inf"], self.counts):
            total += count
            found.append(f'{name}_bucket{{le="{bound}"}} {total}')
        return [*found, f"{name}_sum {self.sum:.6f}", f"{name}_count {total}"]


class Metrics:
    """The numbers of a server; several threads may count at once.

    Example:

    >>> metrics = Metrics()
    >>> metrics.count_request("/detect", 200, 0.03)
    >>> print(metrics.text(waiting=0, admitted=1).splitlines()[2])
    mrcnn_requests_total{path="/detect",status="200"} 1
    """

    def __init__(self):
        self._lock = threading.Lock()
        self.requests: Counter = Counter()
        self.latency = Histogram(SECONDS)
        self.batches = Histogram(PHOTOS)
        self.network = Histogram(SECONDS)
        self.objects = 0

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Counts an answer. `path` is that of a route, so that the number of different ones is bounded."""
        with self._lock:
            self.requests[path, status] += 1
            self.latency.add(seconds)

    def count_batch(self, photos: int, seconds: float) -> None:
        with self._lock:
            self.batches.add(photos)
            self.network.add(seconds)

    def count_objects(self, number: int) -> None:
        with self._lock:
            self.objects += number

    def text(self, waiting: int, admitted: int) -> str:
        """All numbers, as /metrics returns them.

        Args:
            waiting: Photos that wait for the network now.
            admitted: Requests with a photo that are in the server now.
        """
        with self._lock:
            requests = [
                f'mrcnn_requests_total{{path="{path}",status="{status}"}} {count}'
                for (path, status), count in sorted(self.requests.items())
            ]
            families = [
                ("requests_total", "counter", "Answers by path and status.", requests),
                ("request_seconds", "histogram", "Time of an answer.", self.latency.lines("mrcnn_request_seconds")),
                ("batch_photos", "histogram", "Photos of a batch.", self.batches.lines("mrcnn_batch_photos")),
                ("network_seconds", "histogram", "Time of a batch.", self.network.lines("mrcnn_network_seconds")),
                ("objects_total", "counter", "Objects found.", [f"mrcnn_objects_total {self.objects}"]),
                ("waiting_photos", "gauge", "Photos that wait.", [f"mrcnn_waiting_photos {waiting}"]),
                ("admitted_requests", "gauge", "Requests in work.", [f"mrcnn_admitted_requests {admitted}"]),
            ]
        lines = []
        for name, kind, meaning, samples in families:
            lines += [f"# HELP mrcnn_{name} {meaning}", f"# TYPE mrcnn_{name} {kind}", *samples]
        return "\n".join(lines) + "\n"

"""Measures `mrcnn serve` against bare `detect`, and checks that it stays up: load, soak, hostile bodies, a stop.

    python benchmarks/serve.py [--quick] [--only checks | load] [--json FILE]

Starts the server itself, with the weights of "shapes" (128 x 128 pixels, 20 ms a photo), and sends photos from up to 64
clients on this machine, which share its processors with the server. Takes 15 minutes on 2 cores, with --quick 4.
--json replaces the parts that ran in an existing file. Needs the extra `serve`.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

import numpy as np

CLIENTS = (1, 2, 4, 8, 16, 32, 64)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--quick", action="store_true", help="few requests; figures mean little")
    parser.add_argument("--only", choices=("checks", "load"), help="hostile bodies, soak and stop; or the load")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    photos, turns, soak = (16, 1, 300) if options.quick else (128, 3, 10_000)
    figures = {}
    if options.only != "load":
        figures |= checks(soak)
    if options.only != "checks":
        figures["load"] = compare(photos, turns)
    if options.json:
        known = json.loads(options.json.read_text()) if options.json.exists() else {}
        options.json.write_text(json.dumps({**known, **figures}, indent=1) + "\n")


def checks(soak: int) -> dict:
    """One server that gets hostile bodies, `soak` photos, and a signal to stop."""
    with server("--max-requests", "32") as (port, process):
        figures = {"hostile bodies": hostile(port, 500)}
        print(figures, flush=True)
        figures["soak"] = soak_test(port, process.pid, soak)
        print(figures["soak"], flush=True)
        figures["stop"] = stop(port, process)
        print(figures["stop"], flush=True)
    return figures


def compare(photos: int, turns: int) -> list[dict]:
    """Bare `detect`, and servers with batches of 1 and 8, in turns: the median of each figure."""
    lines = []
    with (
        bare_detect() as bare,
        server("--max-requests", "64") as (port1, process1),
        server("--max-requests", "64", "--batch", "8") as (port8, process8),
    ):
        runs = [bare(photos) for _ in range(turns)]
        lines.append({"what": "bare detect", **medians(runs)})
        print(lines[-1], flush=True)
        for clients in CLIENTS:
            found = {"batch 1": [], "batch 8": []}
            runs = []
            for _ in range(turns):
                runs.append(bare(photos // 4))
                found["batch 1"].append(load(port1, clients, photos, process1.pid))
                found["batch 8"].append(load(port8, clients, photos, process8.pid))
            lines.append({"what": "bare detect", **medians(runs)})
            lines += [{"what": name, "clients": clients, **medians(each)} for name, each in found.items()]
            for line in lines[-3:]:
                print(line, flush=True)
    return lines


def medians(runs: list[dict]) -> dict:
    """The median of each number; texts and dicts as in the first run."""
    numbers = {name for name, value in runs[0].items() if isinstance(value, (int, float))}
    return {name: round(float(np.median([run[name] for run in runs])), 1) if name in numbers else value
            for name, value in runs[0].items()}  # fmt: skip


def photo_file(side: int = 128) -> bytes:
    """A PNG with two shapes."""
    from kit import photo
    from serve_kit import image_file

    return image_file(photo(side, side))


BARE = """
import sys, time
from serve import photo_file
from mrcnn.data.image_reading import decode_image
from mrcnn.model import MaskRCNN
data, model = photo_file(), MaskRCNN(mode="inference", weights="shapes")
def run(count):
    for _ in range(count):
        model.detect([decode_image(data, "photo")])[0].rle
run(5)
print("ready", flush=True)
for line in sys.stdin:
    wall, processor = time.perf_counter(), time.process_time()
    run(int(line))
    print(time.perf_counter() - wall, time.process_time() - processor, flush=True)
"""


@contextmanager
def bare_detect():
    """Yields a function that runs `detect` on a number of photos in a separate process, including decoding."""
    environment = {**os.environ, "PYTHONPATH": f"{Path(__file__).parent}:{ROOT}"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
    with subprocess.Popen([sys.executable, "-c", BARE], text=True, env=environment, **pipes) as process:
        while process.stdout.readline().strip() != "ready":
            if process.poll() is not None:
                raise RuntimeError(f"bare detect does not start: exit code {process.poll()}")

        def run(photos: int) -> dict:
            process.stdin.write(f"{photos}\n")
            process.stdin.flush()
            wall, processor = map(float, process.stdout.readline().split())
            return {"photos a second": photos / wall, "processor ms a photo": 1000 * processor / photos}

        yield run
        process.stdin.close()


@contextmanager
def server(*options: str):
    """Runs `mrcnn serve` on a free port; yields the port and the process."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    command = [sys.executable, "-m", "mrcnn", "serve", "--weights", "shapes", "--port", str(port), *options]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + 300
        while not listens(port):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the server does not start: exit code {process.poll()}")
            time.sleep(0.2)
        yield port, process
    finally:
        if process.poll() is None:
            process.terminate()
            process.wait(60)


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def ask(connection: http.client.HTTPConnection, body: bytes, headers: dict[str, str] | None = None) -> int:
    connection.request("POST", "/detect", body, headers or {"Content-Type": "image/png"})
    answer = connection.getresponse()
    answer.read()
    return answer.status


def load(port: int, clients: int, requests: int, pid: int) -> dict:
    """Sends `requests` photos from `clients` threads. Each has a connection and sends its next request immediately."""
    body, times, statuses, lock = photo_file(), [], Counter(), threading.Lock()
    left = iter(range(requests))

    def client(_) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while True:
            with lock:
                if next(left, None) is None:
                    break
            started = time.perf_counter()
            status = ask(connection, body)
            with lock:
                times.append(time.perf_counter() - started)
                statuses[status] += 1
        connection.close()

    started, processor = time.perf_counter(), processor_seconds(pid)
    with ThreadPoolExecutor(clients) as pool:
        list(pool.map(client, range(clients)))
    took = time.perf_counter() - started
    return {
        "photos a second": requests / took, "p50 ms": milliseconds(times, 50), "p99 ms": milliseconds(times, 99),
        "processor ms a photo": 1000 * (processor_seconds(pid) - processor) / requests, "statuses": dict(statuses),
    }  # fmt: skip


def milliseconds(times: list[float], percentile: float) -> float:
    return 1000 * float(np.percentile(times, percentile))


def processor_seconds(pid: int) -> float:
    """User and system time of a process, which other programs on the machine disturb less than the clock."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def soak_test(port: int, pid: int, requests: int, clients: int = 16) -> dict:
    """Memory of the server after each tenth of many requests."""
    sizes, statuses = [], Counter()
    for _ in range(10):
        statuses.update(load(port, clients, requests // 10, pid)["statuses"])
        sizes.append(resident_megabytes(pid))
    return {"requests": requests, "statuses": dict(statuses), "resident MB after each tenth": sizes}


def resident_megabytes(pid: int) -> int:
    text = Path(f"/proc/{pid}/status").read_text()
    return round(int(re.search(r"VmRSS:\s+(\d+)", text).group(1)) / 1024)


def hostile(port: int, count: int) -> dict:
    """The statuses of bodies that aren't images."""
    from serve_kit import hostile_bodies

    statuses = Counter()
    for body, headers in hostile_bodies(count, seed=7):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        statuses[ask(connection, body, {k: v.encode("latin-1") for k, v in headers.items()})] += 1
        connection.close()
    return {"bodies": count, "statuses": dict(statuses)}


def stop(port: int, process: subprocess.Popen, requests: int = 16) -> dict:
    """SIGTERM while requests run: their statuses, and the exit code."""
    body = photo_file()

    def client(_) -> int:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        return ask(connection, body)

    with ThreadPoolExecutor(requests) as pool:
        jobs = [pool.submit(client, i) for i in range(requests)]
        deadline = time.monotonic() + 30
        while admitted(port) < requests // 2 and time.monotonic() < deadline:
            time.sleep(0.005)
        process.send_signal(signal.SIGTERM)
        statuses = Counter(job.result() for job in jobs)
    return {"statuses of running requests": dict(statuses), "exit code": process.wait(60)}


def admitted(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    return int(re.search(r"^mrcnn_admitted_requests (\d+)$", text, re.MULTILINE).group(1))


if __name__ == "__main__":
    main()

"""Breaks files of every format and weight container, and checks what reading them does.

    python tests/fuzz/fuzz_run.py --count 2000                  # about 40 s; reproducible
    python tests/fuzz/fuzz_run.py --count 1000 --cases coco voc
    python tests/fuzz/fuzz_run.py --first 1234 --count 1 --keep /tmp/broken   # one again, and its files

Allowed are masks that fit their image, or an error that names the file. Each takes at most `SECONDS` of processor time
and `MEMORY` bytes. A failure prints the number of the mutation, which is the seed of its random numbers, and keeps its
files. A child process does the work, because a broken file may end the interpreter; another continues with the next.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
SECONDS = 1.0  # of processor time; 0.05 is usual
MEMORY = 500 << 20
KILLED_AFTER = 10  # seconds of processor time, if a C library doesn't come back


# ---- The child process -----------------------------------------------------------------------------------------------
def work(names: list[str], first: int, count: int, keep: Path, progress: Path) -> None:
    """Breaks and reads files first, ..., first + count - 1. Prints a JSON line for each failure."""
    sys.path[:0] = [str(HERE), str(HERE.parent.parent)]
    import fuzz_cases
    from fuzz_mutations import mutate

    from mrcnn.data import image_reading
    from mrcnn.data.formats import limits

    # Sizes within the limits may use their memory, so the limits are set to fit into MEMORY.
    image_reading.MAX_PIXELS = 4_000_000
    limits.MAX_MASK_BYTES, limits.MAX_OUTLINE = 100 << 20, 500_000
    makers = {**fuzz_cases.FORMATS, **fuzz_cases.WEIGHTS}
    warnings.simplefilter("ignore")
    outcomes = Counter()
    with tempfile.TemporaryDirectory() as temporary:
        cases = {}
        for name in names:
            folder = Path(temporary) / "whole" / name
            folder.mkdir(parents=True)
            path = makers[name](folder)
            whole = (file for file in sorted(folder.rglob("*")) if file.is_file())
            files = {file.relative_to(folder): file.read_bytes() for file in whole}
            cases[name] = path.relative_to(folder), files, read_weights if name in fuzz_cases.WEIGHTS else read_masks
            cases[name][2](path)  # whole files are read, and what is imported on first use is there
        limit_memory()
        for number in range(first, first + count):
            name, rng = names[number % len(names)], random.Random(number)
            path, files, read = cases[name]
            folder = Path(temporary) / f"{number}_{name}"
            for file, content in files.items():
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                (folder / file).write_bytes(content)
            broken = rng.choice(sorted(files))
            progress.write_text(json.dumps([number, name, str(broken), as_rows(outcomes)]))
            what = f"{broken}: {mutate(folder / broken, rng)}"
            if count == 1:  # it may end this process
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
            outcome, failure = attempt(read, folder / path, folder)
            outcomes[name, outcome] += 1
            if failure:
                shutil.copytree(folder, keep / folder.name, dirs_exist_ok=True)
                report = {"number": number, "case": name, "what": what, "failure": failure}
                print(json.dumps({**report, "files": str(keep / folder.name)}), flush=True)
            elif count == 1:
                print(json.dumps({"number": number, "case": name, "what": what, "outcome": outcome}), flush=True)
            shutil.rmtree(folder)
    progress.write_text(json.dumps([first + count, None, None, as_rows(outcomes)]))


def as_rows(outcomes: Counter) -> list[list]:
    """[[case, outcome, count]], for JSON."""
    return [[*key, count] for key, count in sorted(outcomes.items())]


def attempt(read, path: Path, folder: Path) -> tuple[str, str | None]:
    """(outcome in a word, what is wrong with it or None)."""
    used = time.process_time()
    before = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (int(used) + KILLED_AFTER, before[1]))  # of all that the process has used
    failure = None
    try:
        read(path)
        outcome = "read"
    except (ValueError, FileNotFoundError) as error:
        outcome = type(error).__name__
        if str(folder) not in str(error):
            failure = f"doesn't name the file: {traceback.format_exc()}"
    except (Exception, SystemExit):
        outcome, failure = "failure", traceback.format_exc()
    finally:
        resource.setrlimit(resource.RLIMIT_CPU, before)  # a test calls this in pytest's own process
    used = time.process_time() - used
    return outcome, failure or (f"took {used:.1f} s of processor time" if used > SECONDS else None)


def opened(path: Path):
    """The dataset at a path; with class names where the files have none."""
    import fuzz_cases

    from mrcnn.data import open_dataset

    named = fuzz_cases.CLASSES if (path / "masks").is_dir() and (path / "images").is_dir() else None
    return open_dataset(path, classes=named)


def read_masks(path: Path) -> None:
    """Opens a dataset, and reads all that is in it."""
    import numpy as np

    from mrcnn.data import ground_truth

    dataset = opened(path)
    for image_id in dataset.image_ids:
        image = dataset.load_image(image_id)
        if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
            raise AssertionError(f"an image of {image.shape} {image.dtype}")
        masks, class_ids = ground_truth.load_masks(dataset, image_id, image.shape[:2])
        ground_truth.check_class_ids(class_ids, dataset, image_id)
        if masks.dtype != bool:
            raise AssertionError(f"masks of {masks.dtype}")


def read_weights(path: Path) -> None:
    """Reads all that a weight file holds."""
    import fuzz_cases

    from mrcnn import weights

    if path.name in fuzz_cases.STATE_DICTS:
        weights.read_state_dict(path)
    else:
        weights.read_weights(path)
    weights.read_class_names(path)
    weights.read_settings(path)


def limit_memory() -> None:
    """Lets the process take `MEMORY` bytes more than now."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


# ---- The parent process ----------------------------------------------------------------------------------------------
def run(first: int, count: int, cases: list[str], keep: Path) -> tuple[list[dict], Counter]:
    """Runs mutations first, ..., first + count - 1 in child processes.

    Returns:
        Reports of those that failed, and how often each (case, outcome) was.
    """
    keep.mkdir(parents=True, exist_ok=True)
    progress, failures, outcomes, end = keep / "progress.json", [], Counter(), first + count
    # No TensorFlow, and one arena: a thread's arena takes 64 MB of address space that it doesn't use.
    env = {**os.environ, "KERAS_BACKEND": "numpy", "MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1"}
    while first < end:
        progress.unlink(missing_ok=True)
        arguments = ["--work", "--first", first, "--count", end - first, "--keep", keep, "--cases", *cases]
        command = [sys.executable, "-X", "faulthandler", __file__, *map(str, arguments)]
        child = subprocess.run(command, env=env, capture_output=True, text=True)
        lines = [json.loads(line) for line in child.stdout.splitlines() if line.startswith("{")]
        for line in lines:
            if "failure" in line:
                failures.append(line)
            else:
                print(line)
        if not progress.exists():
            raise RuntimeError(f"the child process failed before the first mutation:\n{child.stderr[-3000:]}")
        number, name, what, rows = json.loads(progress.read_text())
        outcomes.update({(case, outcome): count for case, outcome, count in rows})
        if child.returncode == 0:
            break
        how = signal.Signals(-child.returncode).name if child.returncode < 0 else f"exit status {child.returncode}"
        report = f"the process ended with {how}\n{child.stderr[-3000:]}"
        failures.append({"number": number, "case": name, "what": what, "failure": report})
        first = number + 1
    return failures, outcomes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--cases", nargs="*", default=None, help="names of functions in fuzz_cases.py; default: all")
    parser.add_argument("--keep", type=Path, default=None, help="folder for the files of failures")
    parser.add_argument("--work", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    keep = arguments.keep or Path(tempfile.mkdtemp(prefix="fuzz_"))
    cases = arguments.cases or case_names()
    if arguments.work:
        work(cases, arguments.first, arguments.count, keep, keep / "progress.json")
        return
    failures, outcomes = run(arguments.first, arguments.count, cases, keep)
    for name in cases:
        print(name, {outcome: number for (case, outcome), number in sorted(outcomes.items()) if case == name})
    for failure in failures:
        print(f"\n{failure['number']} {failure['case']} {failure['what']}\n{failure['failure']}")
    print(f"\n{len(failures)} of {arguments.count} mutations failed; files in {keep}")
    sys.exit(bool(failures))


def case_names() -> list[str]:
    """Names of all cases, without importing them here."""
    sys.path.insert(0, str(HERE))
    import fuzz_cases

    return [*fuzz_cases.FORMATS, *fuzz_cases.WEIGHTS]


if __name__ == "__main__":
    main()

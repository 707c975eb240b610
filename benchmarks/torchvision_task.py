"""What torchvision_ours.py and torchvision_worker.py share: they answer each line on stdin with a measured call.

Imports nothing but the standard library, because the two run with different interpreters.
"""

import json
import os
import sys
import time


def answer_calls(detecting, training, loading):
    """Builds the task of the command line, TASK SHORTER_SIDE DATA_FOLDER, and answers in lines of JSON on stdout.

    Args: functions that return the call to measure: detecting(network, side, data), training(rois, side, data),
        loading(side, data). Each call returns a count, which is part of the answer.
    """
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what packages print goes to stderr
    task, side, data = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    if task == "loading":
        call = loading(side, data)
    elif task.startswith("training_"):
        call = training(int(task.removeprefix("training_")), side, data)
    else:
        call = detecting(task, side, data)
    answers.write(json.dumps({"ready": True}) + "\n")
    for _ in sys.stdin:
        start, processor = time.perf_counter(), time.process_time()
        found = call()
        seconds = {"seconds": time.perf_counter() - start, "processor": time.process_time() - processor}
        answers.write(json.dumps({**seconds, "found": found}) + "\n")

"""Tables for notebooks and terminals, and a table of a model's weights. `mrcnn.visualize` exports the functions."""

from __future__ import annotations

import itertools
import re
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING

import numpy as np

from mrcnn.text import printable

if TYPE_CHECKING:
    import keras

OVERFLOW = 1000  # display_weight_stats flags larger weights


def display_table(table: Iterable[Iterable[object]]) -> None:
    """Shows rows of cells: in a notebook as an HTML table (cells may contain HTML), otherwise as printed columns."""
    rows = [[printable(cell) for cell in row] for row in table]
    if _in_notebook():
        import IPython.display

        body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
        IPython.display.display(IPython.display.HTML(f"<table>{body}</table>"))
        return
    rows = [[re.sub(r"<[^>]*>", "", cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in itertools.zip_longest(*rows, fillvalue="")]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())


def _in_notebook() -> bool:
    """Whether this code runs in a Jupyter kernel, which can show HTML."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return shell is not None and hasattr(shell, "kernel")


def display_weight_stats(model: keras.Model) -> None:
    """Shows shape, minimum, maximum and standard deviation of each weight of a MaskRCNN, and flags problems.

    "dead?": all values are equal (not for biases, which may start at zero). "overflow?": an absolute value above 1000.
    "not a number": NaN or infinite values.
    """
    table = [["WEIGHT NAME", "SHAPE", "MIN", "MAX", "STD"]]
    for layer in model.get_trainable_layers():
        for weight, values in zip(layer.weights, layer.get_weights()):
            name = getattr(weight, "path", weight.name)
            low, high, spread = values.min(), values.max(), values.astype(np.float64).std()
            alerts = "".join(
                f" <span style='color:red'>*** {alert}</span>" for alert in _weight_alerts(name, low, high)
            )
            table.append([name + alerts, str(values.shape), f"{low:+9.4f}", f"{high:+9.4f}", f"{spread:9.4f}"])
    display_table(table)


def _weight_alerts(name: str, low: float, high: float) -> list[str]:
    if not np.isfinite([low, high]).all():
        return ["not a number"]
    looks = {"dead?": low == high and not re.search(r"bias(:0)?$", name), "overflow?": max(-low, high) > OVERFLOW}
    return [alert for alert, found in looks.items() if found]

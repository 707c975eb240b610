"""How a setting of `Config` is declared: its default, meaning, unit, allowed values, and when a change takes effect.

`Config` in `mrcnn.config` declares every setting once with `Setting`. Its checks, `help(Config)` and
`docs/settings.md` come from these declarations.
"""

from __future__ import annotations

import copy
import difflib
import numbers
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

# ---- When a change takes effect, once a model exists -----------------------------------------------------------------
T = TypeVar("T")

CALL = "at the next call"
LOSS = "at the next `fit`, `evaluate` or `train`"
COMPILE = "at the next `compile` or `train`"
DETECT = "at the next `detect`; other methods of an inference model refuse a change"
DETECT_AND_TRAIN = "at the next `detect`; other methods refuse a change"
TRAINING_GRAPH = "never: fixed when a model is built for training"
GRAPH = "never: fixed when a model is built"
FOLLOWED_BY_DETECT = (DETECT, DETECT_AND_TRAIN, TRAINING_GRAPH)


# ---- Allowed values --------------------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Values:
    """A set of allowed values.

    Args:
        text: how the set reads after "expected", e.g. "a whole number >= 1".
        check: function of a value; whether it belongs to the set.
    """

    text: str
    check: Callable[[Any], bool]

    def __contains__(self, value) -> bool:
        return bool(self.check(value))


def whole(low: int) -> Values:
    """Whole numbers >= `low`; a bool is not a number."""
    return Values(f"a whole number >= {low}", lambda value: is_whole(value) and value >= low)


def number(low: float = 0, high: float = np.inf, above: bool = False, none: bool = False) -> Values:
    """Numbers in [low, high]; with `above`, excluding `low`; with `none`, or None, which means "off"."""
    if high == np.inf:
        text = f"a number > {low}" if above else f"a number >= {low}"
    else:
        text = f"a number in {'(' if above else '['}{low}, {high}]"

    def check(value):
        if value is None or value is False:
            return none
        return is_number(value, low, high) and not (above and value == low)

    return Values(f"{text}, or None" if none else text, check)


def numbers_above(low: float, count: int, text: str) -> Values:
    """A list of exactly `count` numbers > `low`."""
    return Values(text, lambda value: count_numbers(value, above=low) == count)


def one_of(*values: Any) -> Values:
    """One of a few values."""

    def check(value):
        return isinstance(value, (str, int, np.bool_, type(None))) and value in values

    return Values("one of " + ", ".join(map(repr, values)), check)


def none_or(values: Values) -> Values:
    """None, or one of the values."""
    return Values(f"{values.text}, or None", lambda value: value is None or value in values)


ANYTHING = Values("any value", lambda value: True)


def is_whole(value: Any) -> bool:
    return isinstance(value, (int, np.integer)) and not isinstance(value, bool)


def is_number(value: Any, low: float = -np.inf, high: float = np.inf) -> bool:
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and bool(low <= value <= high)


def count_numbers(values: Any, above: float = -np.inf) -> int:
    """The length of a list of numbers (1 for a number); 0 if any is not a number, not finite, or not > `above`."""
    values = np.asarray(values)
    numeric = values.ndim <= 1 and values.dtype.kind in "iuf"
    return values.size if numeric and np.all(np.isfinite(values) & (values > above)) else 0


YES_OR_NO = Values(
    "True or False", lambda value: isinstance(value, (int, np.bool_, type(None))) and value in (None, 0, 1)
)
CONFIDENCE = number(0, 1, none=True)
IOU = number(0, 1)
STD_DEV = numbers_above(0, 4, "four numbers > 0, of dy, dx, dh, dw")
RATIOS = Values(
    "a list of one or more ratios > 0, width / height",
    lambda value: np.ndim(value) == 1 and count_numbers(value, above=0) > 0,
)
STRIDES = Values("five strides, of P2..P6", lambda value: count_numbers(value, above=0) >= 5)
# Scripts divide the number of images by the batch size; a fraction of a step counts as one, as in Keras's old loop.
STEPS = number(0, above=True)


# ---- A setting -------------------------------------------------------------------------------------------------------
@dataclass
class Setting:
    """The declaration of one setting.

    Args:
        default: its value in `Config`.
        meaning: one or two sentences.
        values: the allowed `Values`, as far as they do not depend on other settings.
        unit: e.g. "pixels"; "" where the meaning says it all.
        effect: when a change takes effect once a model exists: one of the constants above.

    Attributes:
        name, group: set by `collect_settings`.
    """

    default: Any
    meaning: str
    values: Values = ANYTHING
    unit: str = ""
    effect: str = CALL
    name: str = ""
    group: str = ""


class Group(str):
    """A heading of the table; the settings declared after it belong to it."""


def collect_settings(cls: type[T]) -> type[T]:
    """Class decorator: replaces each `Setting` by its default and collects them, in order, in `cls.settings_table`.

    Settings of base classes follow those of the class.
    """
    table, group = {}, ""
    declared = [(owner, name, value) for owner in cls.__mro__ for name, value in vars(owner).items()]
    for owner, name, value in declared:
        if isinstance(value, Group):
            group = str(value)
            delattr(owner, name)
        elif isinstance(value, Setting):
            value.name, value.group = name, group
            table[name] = value
            setattr(cls, name, value.default)
    cls.settings_table = table
    cls.__doc__ += "\n" + "\n".join(_help_lines(table.values()))
    return cls


def _help_lines(settings: Iterable[Setting]) -> list[str]:
    lines = ["    Settings:"]
    for setting in settings:
        unit = f", {setting.unit}" if setting.unit else ""
        lines.append(f"        {setting.name} = {setting.default!r}{unit}")
        lines.append(f"            {setting.meaning}")
    return lines


class FixedSettings:
    """The values of settings at the moment a graph was built with them.

    Args:
        config: `Config`.
        *effects: which settings: those declared with one of these effects, e.g. GRAPH.
        also: names of further settings.
    """

    def __init__(self, config: Any, *effects: str, also: Iterable[str] = ()):
        names = [name for name, setting in config.settings_table.items() if setting.effect in effects]
        names += also
        self.values = {name: _copy_mutable(getattr(config, name)) for name in names}

    def changed(self, config: Any) -> list[str]:
        """Names of the settings that have another value in `config` now."""
        return [name for name, value in self.values.items() if not same_value(value, getattr(config, name))]

    def refuse_changes(self, config: Any, method: str, follows: Iterable[str] = ()) -> None:
        """Raises ValueError if a setting has changed, unless `method` follows changes of its effect."""
        for name in self.changed(config):
            effect = config.settings_table[name].effect
            if effect in follows:
                continue
            hint = "; `detect` follows it" if effect in (DETECT, DETECT_AND_TRAIN) else ""
            raise ValueError(
                f"{type(config).__name__}.{name} was {self.values[name]!r} when this model was built and is"
                f" {getattr(config, name)!r} now. It is part of the graph that {method} runs and cannot change{hint}."
                " Set it back, or build a new MaskRCNN and load the weights into it."
            )


def _copy_mutable(value: Any) -> Any:
    """A copy of values that can change in place. Others, such as a backbone, are compared by identity."""
    return copy.copy(value) if isinstance(value, (list, dict, set, np.ndarray)) else value


def near_miss(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` probably misspells, or None. Names that scripts add are rarely that close."""
    if name in known or not name.isupper():
        return None
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.85)
    return found[0] if found else None


def settings_page(table: dict[str, Setting]) -> str:
    """The text of docs/settings.md."""
    lines = [
        "# Settings",
        "",
        "Every setting of `mrcnn.config.Config`, from the declarations in `mrcnn/config.py`",
        "(`python -m mrcnn.config > docs/settings.md` writes this page). *Effect* says when a change on `model.config`",
        "takes effect after the model was built; a change that cannot take effect is refused with its name.",
    ]
    group = None
    for setting in table.values():
        if setting.group != group:
            group = setting.group
            lines += [
                "",
                f"## {group}",
                "",
                "| setting | default | meaning | values | effect |",
                "|---|---|---|---|---|",
            ]
        unit = f" ({setting.unit})" if setting.unit else ""
        default = f"`{_short(setting.default)}`"
        cells = (f"`{setting.name}`", default, setting.meaning + unit, setting.values.text, setting.effect)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines) + "\n"


def _short(value) -> str:
    return repr(value.tolist() if isinstance(value, np.ndarray) else value)


def same_value(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return np.array_equal(a, b)
    return a is b or bool(a == b)


def to_json(name: str, value: Any) -> Any:
    """A setting's value in JSON's types."""
    if isinstance(value, (np.ndarray, np.generic)):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [to_json(name, v) for v in value]
    if isinstance(value, dict):
        return {str(k): to_json(name, v) for k, v in value.items()}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    raise ValueError(
        f"{name} is {value!r}; a model can be saved as .keras only if its settings are numbers, strings, lists and"
        " dicts. Save the weights instead: model.save_weights('x.weights.h5')."
    )

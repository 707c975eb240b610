"""The recipe of a training: applies its settings and logs them."""

from __future__ import annotations

import logging

from mrcnn.config import Config
from mrcnn.recipes import recipe_settings
from mrcnn.settings import FixedSettings, same_value

logger = logging.getLogger(__name__)


def use_recipe(config: Config, name: str, built_with: FixedSettings) -> None:
    """Sets `RECIPE`. Settings of the graph keep the value that the model was built with; a warning names them.

    Args:
        config: `Config` of the model.
        name: name of the recipe.
        built_with: the settings that the model was built with.

    Raises:
        ValueError: there is no such recipe.
    """
    wanted = recipe_settings(name)
    config.RECIPE = name
    kept = [setting for setting in built_with.changed(config) if setting in wanted]
    for setting in kept:
        setattr(config, setting, built_with.values[setting])
    if kept:
        values = ", ".join(f"{setting} = {getattr(config, setting)!r}" for setting in kept)
        logger.warning(
            "%s: the values that this model was built with. For the whole recipe, build it with Config(RECIPE=%r).",
            values,
            name,
        )


def describe_recipe(config: Config) -> str:
    """One line per setting of the recipe, with the current value and, if it differs, the recipe's.

    >>> from mrcnn.config import Config
    >>> print("\\n".join(describe_recipe(Config(RECIPE="small-data", FLIP_PROBABILITY=0)).splitlines()[:3]))
    Recipe: small-data
      FLIP_PROBABILITY = 0 (the recipe has 0.5)
      SCALE_JITTER = (0.5, 1.5)
    """
    lines = [f"Recipe: {config.RECIPE}"]
    for name, value in recipe_settings(config.RECIPE).items():
        ours = getattr(config, name)
        lines.append(f"  {name} = {ours!r}" + ("" if same_value(ours, value) else f" (the recipe has {value!r})"))
    return "\n".join(lines)

"""Values of `Config` that follow from settings: batch size, image shape, length of the image meta, convention."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np

from mrcnn.conventions import CONVENTIONS, MATTERPORT, Convention
from mrcnn.ops.resize_modes import SIZE_MULTIPLE
from mrcnn.recipes import RECIPES
from mrcnn.settings import same_value, to_json

DERIVED = ("BATCH_SIZE", "IMAGE_META_SIZE", "IMAGE_SHAPE")


class DerivedSettings:
    """Properties that are computed on every access. Setting one changes the settings it is derived from."""

    @property
    def BATCH_SIZE(self) -> int:
        """Images in a batch, over all devices."""
        return self.IMAGES_PER_GPU * self.GPU_COUNT

    @BATCH_SIZE.setter
    def BATCH_SIZE(self, value: int) -> None:
        if value % self.GPU_COUNT:
            self.GPU_COUNT = 1
        self.IMAGES_PER_GPU = value // self.GPU_COUNT

    @property
    def IMAGE_SHAPE(self) -> np.ndarray:
        """[height, width, channels] of a molded image. Outside the modes "square" and "crop", images may differ."""
        side = self.IMAGE_MIN_DIM if self.IMAGE_RESIZE_MODE == "crop" else self.IMAGE_MAX_DIM
        if self.IMAGE_RESIZE_MODE in ("pad32", "shorter_side"):
            side = -(-side // SIZE_MULTIPLE) * SIZE_MULTIPLE
        return np.array([side, side, self.IMAGE_CHANNEL_COUNT])

    @IMAGE_SHAPE.setter
    def IMAGE_SHAPE(self, value: Any) -> None:
        height, width, channels = (int(v) for v in value)
        if height != width:
            raise ValueError(
                f"IMAGE_SHAPE is {list(value)}; expected a square, [d, d, channels]. For other shapes set"
                ' IMAGE_RESIZE_MODE = "pad64" (or "none"): then each image keeps its own.'
            )
        self.IMAGE_CHANNEL_COUNT = channels
        if self.IMAGE_RESIZE_MODE == "crop":
            self.IMAGE_MIN_DIM = height
            self.IMAGE_MAX_DIM = max(self.IMAGE_MAX_DIM, height)
        else:
            self.IMAGE_MAX_DIM = height
            self.IMAGE_MIN_DIM = min(self.IMAGE_MIN_DIM, height)

    @property
    def IMAGE_META_SIZE(self) -> int:
        """Length of the image_meta vector: id 1, original shape 3, shape 3, window 4, scale 1, one flag per class."""
        return 1 + 3 + 3 + 4 + 1 + self.NUM_CLASSES

    @IMAGE_META_SIZE.setter
    def IMAGE_META_SIZE(self, value: int) -> None:
        if value != self.IMAGE_META_SIZE:
            raise ValueError(
                f"IMAGE_META_SIZE is {value}; it follows from NUM_CLASSES = {self.NUM_CLASSES} and must be"
                f" {self.IMAGE_META_SIZE}. Set NUM_CLASSES instead."
            )

    @property
    def convention(self) -> Convention:
        """The rules that `CONVENTION` names."""
        return CONVENTIONS.get(self.CONVENTION, MATTERPORT)

    def _follow_defaults(self, convention: str, recipe: str) -> None:
        """Gives settings that still have the default of this convention and recipe the default of the current ones.

        Settings of a subclass keep their values.
        """
        bases = [cls for cls in type(self).__mro__ if "settings_table" in cls.__dict__]
        subclasses = type(self).__mro__[: type(self).__mro__.index(bases[-1])]
        explicit = {name for cls in subclasses for name in cls.__dict__}
        before, now = self._defaults(convention, recipe), self._defaults(self.CONVENTION, self.RECIPE)
        for name in now.keys() - explicit:
            if not same_value(before[name], now[name]) and same_value(getattr(self, name), before[name]):
                setattr(self, name, copy.copy(now[name]))

    def _default(self, name: str) -> Any:
        """The default of a setting; `...` for an attribute that is not a setting."""
        return self._defaults(self.CONVENTION, self.RECIPE).get(name, ...)

    @classmethod
    def _defaults(cls, convention: str, recipe: str) -> dict[str, Any]:
        """The defaults of all settings under a convention and a recipe, where these are known."""
        defaults = {name: setting.default for name, setting in cls.settings_table.items()}
        rules = CONVENTIONS.get(convention, MATTERPORT).settings
        return defaults | rules | RECIPES.get(recipe, {}) | {"CONVENTION": "matterport", "RECIPE": "matterport"}

    @classmethod
    def _without_defaults(cls, settings: dict[str, Any]) -> dict[str, Any]:
        """The settings, in JSON's types, that differ from the defaults under their convention and recipe."""
        defaults = cls._defaults(settings.get("CONVENTION", "matterport"), settings.get("RECIPE", "matterport"))
        return {k: v for k, v in settings.items() if k not in defaults or to_json(k, defaults[k]) != v}

"""imgaug on NumPy 2: it can be imported before mrcnn, as in 14 of 20 scripts, and broken augmenters are repaired."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from mrcnn.data.augment import augment_sample
from mrcnn.data.mask_bits import pack, unpack

ROOT = Path(__file__).resolve().parent.parent


def python(code) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def test_imgaug_may_be_imported_before_mrcnn():
    run = python("import imgaug.augmenters as iaa, mrcnn; print(type(iaa.Fliplr(0.5)).__name__)")
    assert run.stdout.strip() == "Fliplr", run.stderr[-2000:]


def test_nothing_is_installed_into_python_startup():
    """An import hook in every interpreter of an environment passes no security review."""
    site = Path(np.__file__).parents[1]
    assert not list(site.glob("mrcnn*.pth"))


def test_imgaug_0_4_0_finds_the_sctypes_that_numpy_2_removed():
    run = python("import mrcnn.utils, numpy; print(numpy.sctypes['int'][0].__name__)")
    assert run.stdout.strip() == "int8", run.stderr[-2000:]


@pytest.mark.parametrize("name", ["Crop", "CropAndPad", "RandAugment"])
def test_augmenters_broken_by_numpy_2_work(name):
    iaa = pytest.importorskip("imgaug.augmenters")
    arguments = {
        "Crop": {"px": (4, 9)},
        "CropAndPad": {"percent": (-0.2, -0.1)},
        "RandAugment": {"n": 2, "m": 9},
    }
    image = np.random.default_rng(0).integers(0, 255, (64, 48, 3)).astype(np.uint8)
    masks = np.zeros((64, 48, 2), bool)
    masks[10:30, 5:25, 0] = masks[20:60, 20:40, 1] = True
    augmenter = getattr(iaa, name)(**arguments[name])
    augmented, planes = augment_sample(augmenter, image, pack(masks), 2, rng=np.random.default_rng(1))
    assert augmented.shape == image.shape and np.any(augmented != image)
    assert unpack(planes, 2).shape == masks.shape

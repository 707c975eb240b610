"""imgaug on NumPy 2, imported before mrcnn as 14 of 20 scripts do: what an installed mrcnn does about it (setup.py)."""

from __future__ import annotations

import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
BUILD = "import sys; from setuptools import build_meta; getattr(build_meta, sys.argv[1])(sys.argv[2])"


def python(*lines, cwd="/") -> subprocess.CompletedProcess:
    """A fresh interpreter that has this environment's packages but has run none of its `.pth` files."""
    packages = [path for path in sys.path if path.endswith("site-packages")]
    code = "\n".join([f"import site, sys; sys.path += {packages}", *lines])
    return subprocess.run([sys.executable, "-S", "-c", code], cwd=cwd, capture_output=True, text=True)


def start(folder) -> str:
    """The line that does with a folder what Python does with site-packages at its start."""
    return f"site.addsitedir({str(folder)!r})"


def first_on_path(folder) -> str:
    return f"sys.path.insert(0, {str(folder)!r})"


@pytest.fixture(scope="module", params=["build_wheel", "build_editable"])
def installed(request, tmp_path_factory):
    """A folder that holds what a wheel, or an editable install, puts into site-packages."""
    pytest.importorskip("setuptools")
    source, wheels = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("wheels")
    for name in ("setup.py", "pyproject.toml", "requirements.txt", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "mrcnn", source / "mrcnn", ignore=shutil.ignore_patterns("__pycache__"))
    run = subprocess.run([sys.executable, "-c", BUILD, request.param, str(wheels)], cwd=source, capture_output=True)
    assert run.returncode == 0, run.stderr.decode()[-2000:]
    (wheel,) = wheels.glob("*.whl")
    site = tmp_path_factory.mktemp("site-packages")
    zipfile.ZipFile(wheel).extractall(site)
    return site


@pytest.mark.skipif(np.__version__ < "2", reason="NumPy 1 needs no help")
def test_without_help_imgaug_is_not_importable():
    assert "sctypes" in python("import imgaug").stderr  # when this fails, imgaug has been mended, and the file can go


def test_imgaug_may_be_imported_first(installed):
    run = python(
        start(installed),
        "import imgaug, imgaug.augmenters as iaa",
        "print(type(iaa.Fliplr(0.5)).__name__, 'tensorflow' in sys.modules)",
    )
    assert run.stdout.split() == ["Fliplr", "False"], run.stderr[-2000:]


def test_the_start_of_python_loads_nothing(installed):
    run = python(start(installed), "print({'numpy', 'mrcnn', 'imgaug'} & set(sys.modules))")
    assert run.stdout.strip() == "set()", run.stderr[-2000:]


def test_other_imports_are_as_ever(installed):
    run = python(start(installed), "import json, numpy", "import no_such_package")
    assert run.stderr.endswith("No module named 'no_such_package'\n")


def test_an_mrcnn_folder_beside_the_script_still_wins(installed, tmp_path):
    (tmp_path / "mrcnn").mkdir()
    (tmp_path / "mrcnn" / "__init__.py").touch()
    run = python(first_on_path(tmp_path), start(installed), "import mrcnn", "print(mrcnn.__file__)")
    assert run.stdout.strip() == str(tmp_path / "mrcnn" / "__init__.py"), run.stderr[-2000:]


def test_left_behind_without_mrcnn_it_does_no_harm(installed, tmp_path):
    shutil.copy(installed / "mrcnn_imgaug.pth", tmp_path)
    (tmp_path / "imgaug.py").write_text("ok = True")
    run = python(first_on_path(tmp_path), start(tmp_path), "import imgaug", "print(imgaug.ok)")
    assert run.stdout.strip() == "True", run.stderr[-2000:]

"""2,000 broken files, over all formats and weight containers: masks or an error that names the file, and no crash.

The same 2,000 each time. `pytest tests/fuzz --long` reads 100,000 others; `fuzz_run.py` reads as many as you like.
"""

from __future__ import annotations

import random
import sys

import fuzz_cases
import fuzz_run
import numpy as np
import pytest
from fuzz_mutations import STRUCTURED, mutate

from mrcnn.data import formats

COUNT, LONG = 2_000, 100_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


def test_broken_files_give_masks_or_an_error_that_names_the_file(request, tmp_path):
    long = request.config.getoption("--long")
    first, count = (COUNT, LONG) if long else (0, COUNT)
    failures, outcomes = fuzz_run.run(first, count, [*fuzz_cases.FORMATS, *fuzz_cases.WEIGHTS], tmp_path)
    text = "\n\n".join(f"{f['number']} {f['case']} {f['what']}\n{f['failure']}" for f in failures[:20])
    again = "python tests/fuzz/fuzz_run.py --count 1 --keep FOLDER --first NUMBER"
    assert not failures, f"{len(failures)} of {count} failed, files in {tmp_path}. One again: {again}\n\n{text}"
    for name in (*fuzz_cases.FORMATS, *fuzz_cases.WEIGHTS):  # mutations that break nothing, or everything, test nothing
        read = outcomes[name, "read"] / (count / len(fuzz_cases.FORMATS | fuzz_cases.WEIGHTS))
        assert 0.05 < read < 0.95, f"{name}: {read:.0%} of the broken files can be read"


def test_every_format_has_a_case():
    modules = {
        "labelme_with_image": "labelme",
        "nuclei": "instance_pngs",
        "penn_fudan": "id_png",
        "m2nist_zip": "m2nist",
    }
    assert {modules.get(name, name) for name in fuzz_cases.FORMATS} >= set(formats.MODULES)


def test_what_is_not_allowed_is_seen(tmp_path):
    def fails(read):
        return fuzz_run.attempt(read, tmp_path / "a.json", tmp_path)[1]

    def raises(error):
        def read(path):
            raise error

        return read

    assert "KeyError" in fails(raises(KeyError("images")))
    assert "MemoryError" in fails(raises(MemoryError()))
    assert "doesn't name the file" in fails(raises(ValueError("not a number")))
    assert fails(raises(ValueError(f"{tmp_path / 'a.json'}: not a number"))) is None
    assert fails(lambda path: None) is None


@pytest.mark.parametrize("ending", [*STRUCTURED, ".zip", ".bin"])
def test_mutations_are_the_same_for_the_same_number_and_change_most_files(tmp_path, ending):
    text = {".json": '{"a": [1, 2]}', ".xml": "<annotation><a b='1'><name>c</name></a></annotation>"}.get(
        ending, "1,2\na: b\n"
    )
    path = fuzz_cases.keras_archive(tmp_path) if ending == ".zip" else tmp_path / "a"
    whole = path.read_bytes() if path.exists() else text.encode()
    if ending == ".png":
        whole = (fuzz_cases.penn_fudan(tmp_path) / "PedMasks" / "a_mask.png").read_bytes()
    broken = []
    for number in (*range(30), *range(30)):
        (tmp_path / f"a{ending}").write_bytes(whole)
        mutate(tmp_path / f"a{ending}", random.Random(number))
        broken.append((tmp_path / f"a{ending}").read_bytes())
    assert broken[:30] == broken[30:]
    assert np.mean([content != whole for content in broken]) > 0.6

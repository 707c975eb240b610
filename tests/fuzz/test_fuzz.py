"""2,000 broken files, over all formats and weight containers: masks or an error that names the file, and no crash.

The same 2,000 each time. `pytest tests/fuzz --long` reads 100,000 others; `fuzz_run.py` reads as many as you like.
"""

from __future__ import annotations

import json
import random
import resource
import sys

import fuzz_cases
import fuzz_run
import numpy as np
import pytest
from fuzz_mutations import STRUCTURED, mutate

from mrcnn.data import formats

COUNT, LONG = 2_000, 100_000

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="memory is limited as Linux does it")


def test_broken_files_give_masks_or_an_error_naming_the_file(request, tmp_path):
    long = request.config.getoption("--long")
    first, count = (COUNT, LONG) if long else (0, COUNT)
    failures, outcomes = fuzz_run.run(first, count, [*fuzz_cases.FORMATS, *fuzz_cases.WEIGHTS], tmp_path)
    text = "\n\n".join(f"{f['number']} {f['case']} {f['what']}\n{f['failure']}" for f in failures[:20])
    again = "python tests/fuzz/fuzz_run.py --count 1 --keep FOLDER --first NUMBER"
    assert not failures, f"{len(failures)} of {count} failed, files in {tmp_path}. One again: {again}\n\n{text}"
    for name in (*fuzz_cases.FORMATS, *fuzz_cases.WEIGHTS):  # mutations that break nothing, or everything, test nothing
        read = outcomes[name, "read"] / (count / len(fuzz_cases.FORMATS | fuzz_cases.WEIGHTS))
        assert 0.05 < read < 0.95, f"{name}: {read:.0%} of the broken files can be read"


@pytest.mark.parametrize("name", fuzz_cases.FORMATS)
def test_harmless_mutations_keep_the_masks(tmp_path, name):
    """Line ends of Windows, indented JSON with keys in another order, comments."""
    path = fuzz_cases.FORMATS[name](tmp_path)
    whole = masks_of(path)
    for file in tmp_path.rglob("*"):
        if file.suffix not in (".json", ".xml", ".txt", ".csv", ".yaml", ".data", ".names"):
            continue
        text = file.read_text(encoding="utf-8")
        if file.suffix == ".json":
            text = json.dumps(reversed_keys(json.loads(text)), indent=3)
        elif file.suffix == ".xml":
            text = text.replace("</name>", "</name><!-- a comment -->\n").replace("/>", " />")
        elif file.suffix == ".yaml":
            text = f"# a comment\n{text}\nauthor: me\n"
        file.write_bytes(text.replace("\n", "\r\n").encode())
    again = masks_of(path)
    assert len(whole) == len(again)
    for (masks, names), (other_masks, other_names) in zip(whole, again):
        np.testing.assert_array_equal(masks, other_masks)
        assert names == other_names and masks.any()


def masks_of(path):
    dataset = fuzz_run.opened(path)
    loaded = [dataset.load_mask(image_id) for image_id in dataset.image_ids]
    return [(masks, [dataset.class_names[abs(i)] for i in class_ids]) for masks, class_ids in loaded]


def reversed_keys(value):
    if isinstance(value, list):
        return [reversed_keys(item) for item in value]
    return {key: reversed_keys(value[key]) for key in reversed(value)} if isinstance(value, dict) else value


def test_every_format_has_a_case():
    modules = {
        "labelme_with_image": "labelme",
        "nuclei": "instance_pngs",
        "penn_fudan": "id_png",
        "m2nist_zip": "m2nist",
    }
    assert {modules.get(name, name) for name in fuzz_cases.FORMATS} >= set(formats.MODULES)


def test_unexpected_errors_are_reported(tmp_path):
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


def test_cpu_limit_is_restored_after_an_attempt(tmp_path):
    before = resource.getrlimit(resource.RLIMIT_CPU)
    fuzz_run.attempt(lambda path: None, tmp_path / "a.json", tmp_path)
    assert resource.getrlimit(resource.RLIMIT_CPU) == before


@pytest.mark.parametrize("ending", [*STRUCTURED, ".zip", ".bin"])
def test_mutations_are_reproducible_and_change_most_files(tmp_path, ending):
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

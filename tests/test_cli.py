"""The command `mrcnn`: start, help, errors, completion, `info` and `convert`."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from formats_kit import photo

from mrcnn.weights import pretrained
from mrcnn.weights.preset_folder import CONFIG, WEIGHTS

CLI = Path(__file__).resolve().parent.parent / "mrcnn" / "cli"
TEXTS = {path: path.read_text(encoding="utf-8") for path in sorted(CLI.glob("*.py"))}
COMMAND_FILES = [path for path, text in TEXTS.items() if f"\ndef {path.stem}(" in text and "import typer" in text]
SLOW_IMPORTS = ("tensorflow", "keras", "cv2", "numpy", "rich")
MOST_SECONDS = 0.3  # of processor time, to show the help


# ---- Start -----------------------------------------------------------------------------------------------------------
def test_help_starts_without_heavy_imports():
    """A command imported at the start brings NumPy or TensorFlow along, and help takes seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    arguments = [sys.executable, "-X", "importtime", "-m", "mrcnn", "--help"]
    shown = subprocess.run(arguments, capture_output=True, text=True, check=True, cwd=CLI.parent.parent)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    imported = {line.rsplit("|", 1)[-1].strip().split(".")[0] for line in shown.stderr.splitlines()}
    assert "typer" in imported and imported.isdisjoint(SLOW_IMPORTS)
    assert after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime < MOST_SECONDS
    assert "convert" in shown.stdout and "info" in shown.stdout


@pytest.mark.parametrize("path", COMMAND_FILES, ids=lambda path: path.stem)
def test_command_files_import_only_typer_at_the_top(path):
    """`mrcnn NAME --help` took seconds."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    names = [alias.name for node in body if isinstance(node, ast.Import) for alias in node.names]
    names += [f"{node.module}." for node in body if isinstance(node, ast.ImportFrom)]
    allowed = {*sys.stdlib_module_names, "typer"}
    wrong = [name for name in names if name.split(".")[0] not in allowed and not name.startswith("mrcnn.cli")]
    assert wrong == []


def test_each_command_has_a_file_and_its_summary_matches(run):
    """The list of commands and a command's own help said different things."""
    from mrcnn import cli

    assert set(cli.COMMANDS) == {path.stem for path in COMMAND_FILES}
    for name, sentence in cli.COMMANDS.items():
        assert " ".join(cli.load_command(name).help.split("\n\n")[0].split()) == sentence


def test_python_m_mrcnn_is_the_same_command():
    shown = subprocess.run([sys.executable, "-m", "mrcnn", "--version"], capture_output=True, text=True, check=True)
    import mrcnn

    assert shown.stdout.strip() == mrcnn.__version__


# ---- Errors ----------------------------------------------------------------------------------------------------------
def test_without_a_command_the_help_is_shown(run):
    result = run()
    assert result.exit_code == 2 and "Usage: mrcnn" in result.output


def test_a_misspelled_command_is_a_usage_error_with_a_suggestion(run):
    result = run("conver")
    assert result.exit_code == 2 and "Did you mean 'convert'?" in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ("--nothing",),
        ("conver",),
        ("detect",),
        ("detect", "--nothing"),
        ("detect", "a.jpg", "--min-score", "much"),
        ("export", "shapes", "--format", "pdf"),
    ],
    ids=" ".join,
)
def test_a_wrong_command_line_takes_one_line(run, arguments):
    """typer shows a usage summary, a hint and a framed text, of which the last line says what is wrong."""
    result = run(*arguments)
    assert result.exit_code == 2 and result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and "--help" in result.stderr


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("convert", "nowhere", "out", "--to", "coco"), "nowhere does not exist"),
        (("info", "nowhere"), "nowhere: no such file"),
        (("info", "."), "parity.json does not exist"),
    ],
)
def test_errors_are_one_line_without_a_traceback(run, tmp_path, monkeypatch, arguments, says):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("error: ") and result.stderr.count("\n") == 1 and says in result.stderr


def test_bad_options_are_usage_errors(run, tmp_path):
    result = run("convert", tmp_path, tmp_path / "out", "--to", "pdf")
    assert result.exit_code == 2 and "pdf" in result.stderr


def test_photos_without_annotations_are_one_line(run, tmp_path):
    """The list of all formats filled the screen."""
    photo(tmp_path / "ü" / "a.png")
    result = run("convert", tmp_path / "ü", tmp_path / "out", "--to", "coco")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "no annotations of a known format. Found files: 1 .png; folders: none. `mrcnn label`" in result.stderr


def test_several_broken_images_are_one_line(run, tmp_path):
    """The errors of five images followed, in as many lines."""
    for name, x in zip("abcd", (7.5, 7.5, 7.5, 0.5)):
        photo(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"0 {x} 0.5 0.5 0.5")
    result = run("convert", tmp_path, tmp_path / "out", "--to", "coco", "--classes", "cat")
    assert result.exit_code == 1 and result.stderr.count("\n") == 1
    assert "a.txt" in result.stderr and "2 more of the images are broken: `mrcnn check` lists them." in result.stderr


def test_annotations_are_not_replaced_by_their_conversion(run, tmp_path):
    photo(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("0 0.5 0.5 0.5 0.5")
    run("convert", tmp_path, tmp_path / "all.json", "--to", "coco", "--classes", "cat")
    (tmp_path / "a.txt").unlink()
    before = (tmp_path / "all.json").read_text()
    for source in (tmp_path, tmp_path / "all.json"):
        result = run("convert", source, tmp_path / "all.json", "--to", "coco")
        assert result.exit_code == 1 and "would be replaced" in result.stderr
    assert (tmp_path / "all.json").read_text() == before


def test_warnings_are_single_lines_on_stderr(run, tmp_path):
    """Warnings came as two lines with the path of a Python file."""
    for name, x in (("a", "0.5"), ("b", "7.5")):
        photo(tmp_path / f"{name}.png")
        (tmp_path / f"{name}.txt").write_text(f"0 {x} 0.5 0.5 0.5")
    result = run("convert", tmp_path, tmp_path / "out", "--to", "coco", "--classes", "cat,dog", "--skip-broken")
    assert result.exit_code == 0
    assert result.stderr.startswith("warning: ") and "b.txt" in result.stderr and ".py:" not in result.stderr


# ---- Completion ------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("words", "number", "expected"), [("mrcnn con", 1, "convert"), ("mrcnn convert --sk", 2, "--skip-broken")]
)
def test_bash_completes_commands_and_their_options(run, words, number, expected):
    """Options of commands that are imported later were unknown to the shell."""
    result = run(env={"_MRCNN_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(number)})
    assert result.stdout.split() == [expected]


# ---- info and convert ------------------------------------------------------------------------------------------------
def test_info_of_the_shipped_weights(run):
    result = run("info", "shapes", "--json")
    found = json.loads(result.stdout)
    file = Path(pretrained("shapes"))
    assert found["sha256"] == hashlib.sha256(file.read_bytes()).hexdigest() and found["bytes"] == os.path.getsize(file)
    assert found["classes"] == ["BG", "square", "circle", "triangle"] and found["class_count"] == 4
    assert found["settings"]["BACKBONE"] == "small_resnet" and "LEARNING_RATE" not in found["settings"]
    assert found["layers"]["mrcnn_class_logits"] == [[128, 4], [4]]
    table = run("info", "shapes", "--layers").stdout
    assert "small_resnet" in table and "mrcnn_class_logits" in table


def test_info_names_the_run_of_a_checkpoint(run, tmp_path):
    folder = tmp_path / "shapes20260102T0304"
    folder.mkdir()
    file = folder / "mask_rcnn_shapes_0012.h5"
    file.write_bytes(Path(pretrained("shapes")).read_bytes())
    assert json.loads(run("info", file, "--json").stdout)["run"] == {"folder": str(folder), "epoch": 12}


def test_info_of_a_preset_downloads_nothing(run, tmp_path, monkeypatch):
    monkeypatch.setenv("MRCNN_CACHE", str(tmp_path))
    found = json.loads(run("info", "torchvision_v2", "--json").stdout)
    assert found["mask AP on COCO, percent"] == 41.8 and found["classes"][1] == "person"
    assert list(tmp_path.iterdir()) == []


def test_info_of_an_exported_model_shows_its_parity(run, tmp_path):
    (tmp_path / "model.onnx").write_bytes(b"weights")
    (tmp_path / "parity.json").write_text('{"boxes": 1e-7}')
    for target in (tmp_path, tmp_path / "model.onnx"):
        found = json.loads(run("info", target, "--json").stdout)
        assert found["parity"] == {"boxes": 1e-7} and found["files"] == {"model.onnx": 7}


def test_info_of_a_folder_describes_the_weights_in_it(run, tmp_path):
    """The folders of a run and of a preset were taken for exported models, and refused."""
    run_folder, preset = tmp_path / "shapes20260102T0304", tmp_path / "preset"
    for file in (run_folder / "mask_rcnn_shapes_0003.h5", run_folder / "mask_rcnn_shapes_0012.h5", preset / WEIGHTS):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(Path(pretrained("shapes")).read_bytes())
    found = json.loads(run("info", run_folder, "--json").stdout)
    assert found["run"] == {"folder": str(run_folder), "epoch": 12} and found["class_count"] == 4
    names = ["BG", "a", "b", "c"]
    (preset / CONFIG).write_text(json.dumps({"config": {"BACKBONE": "small_resnet"}, "class_names": names}))
    found = json.loads(run("info", preset, "--json").stdout)
    assert found["classes"] == names and found["settings"] == {"BACKBONE": "small_resnet"} and found["layers"]
    result = run("info", tmp_path)
    assert result.exit_code == 1 and "parity.json" in result.stderr


def test_convert_prints_what_it_wrote(run, tmp_path):
    photo(tmp_path / "in" / "a.png")
    (tmp_path / "in" / "a.txt").write_text("1 0.5 0.5 0.5 0.5")
    result = run("convert", tmp_path / "in", tmp_path / "out", "--to", "coco", "--classes", "cat, dog", "--json")
    (written,) = json.loads(result.stdout)["written"]
    content = json.loads(Path(written).read_text())
    assert [category["name"] for category in content["categories"]] == ["cat", "dog"]
    assert len(content["annotations"]) == 1


def test_convert_needs_no_tensorflow(tmp_path):
    """Keras takes seconds to import."""
    arguments = ["-X", "importtime", "-m", "mrcnn", "convert", str(tmp_path / "nothing"), "out", "--to", "coco"]
    done = subprocess.run([sys.executable, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 1 and f"error: {tmp_path}/nothing does not exist" in done.stderr
    assert "mrcnn.data.convert" in done.stderr and "| keras" not in done.stderr and "| tensorflow" not in done.stderr

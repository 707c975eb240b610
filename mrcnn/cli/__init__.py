"""The command `mrcnn`, which is also `python -m mrcnn`.

To add a command `NAME`:

1. Write the function `NAME` in `mrcnn/cli/NAME.py`. Its parameters are typer's, `Annotated[Path, typer.Argument(...)]`;
   `mrcnn/cli/options.py` has those that several commands share. At module level the file imports typer and the standard
   library only; everything else is imported inside the function, so that `mrcnn NAME --help` starts at once.
2. Add it to `COMMANDS` below, with one sentence that describes it. The docstring of the function begins with the same
   sentence.
3. A command that uses Keras calls `output.start_backend()` first, which keeps TensorFlow's startup log off the screen.
   Print with `mrcnn/cli/output.py`: results go to stdout (a table, or with `--json` one JSON value), everything else to
   stderr.
4. Let the package's errors through: a ValueError, OSError or ImportError becomes one line, `error: ...`, and the exit
   code 1. Raise `typer.BadParameter` for options that contradict each other (exit code 2), and `typer.Exit(1)` when a
   part of the work failed and was reported.
5. Test it with `typer.testing.CliRunner().invoke(mrcnn.cli.app, ["NAME", ...])`, and describe it in docs/cli.md.

Exit codes: 0 done, 1 the work or a part of it failed, 2 the command line is wrong, 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

COMMANDS = {  # imported when they run
    "check": "Find what is wrong with a dataset: photos, copies, masks, boxes, classes, sizes.",
    "convert": "Convert annotations of any known format to COCO, YOLO, labelme or CVAT.",
    "detect": "Find objects in photos, folders of photos and videos.",
    "evaluate": "Measure a model on annotated images by COCO's protocol.",
    "export": "Export a model to ONNX, LiteRT, SavedModel or OpenVINO, if its results stay the same.",
    "info": "Show what is in a weight file: network, settings, classes, layers, checksum.",
    "label": "Annotate photos with a model, to correct them in labelme, CVAT or another tool.",
    "serve": "Serve a web page and an HTTP API that find objects in photos.",
    "train": "Train on images annotated in any known format, and measure the AP.",
}
# Errors about files, arguments and missing extras: shown as a message, without a traceback.
ALLOWED = (OSError, ValueError, ImportError)
UsageError = typer.BadParameter.__base__  # of click, or of the copy of it that recent versions of typer contain


@contextmanager
def usage_errors_in_a_line() -> Iterator[None]:
    """Lets typer show an error of the command line as one line, instead of a usage summary and the error."""
    try:
        yield
    except UsageError as error:
        if type(error).show is UsageError.show:  # not that of `mrcnn` without arguments, which shows the help
            command = error.ctx.command_path if error.ctx else "mrcnn"
            text = " ".join(error.format_message().split()).rstrip(".")
            error.show = lambda file=None: print(f"error: {text}. See {command} --help", file=file or sys.stderr)
        raise


class LazyCommands(TyperGroup):
    """Lists `COMMANDS` without importing them, imports the one that runs, and reports its errors."""

    def __init__(self, **options: Any):
        super().__init__(**options)
        self.commands |= {name: TyperCommand(name, help=text) for name, text in COMMANDS.items()}

    def make_context(self, info_name: str | None, args: list[str], parent: Any = None, **extra: Any) -> Any:
        with usage_errors_in_a_line():
            return super().make_context(info_name, args, parent, **extra)

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> tuple[str | None, TyperCommand | None, list[str]]:
        name, _, rest = super().resolve_command(ctx, args)
        return name, None if name is None else load_command(name), rest

    def invoke(self, ctx: typer.Context) -> Any:
        with warnings.catch_warnings(), usage_errors_in_a_line():
            warnings.showwarning = lambda message, *_: print(f"warning: {message}", file=sys.stderr)
            try:
                return super().invoke(ctx)
            except KeyboardInterrupt:
                raise typer.Exit(130) from None
            except BrokenPipeError:  # of `mrcnn ... | head`; typer ends quietly
                raise
            except ALLOWED as error:
                print(f"error: {message_of(error)}", file=sys.stderr)
                raise typer.Exit(1) from error


def load_command(name: str) -> TyperCommand:
    """Imports `mrcnn.cli.<name>` and makes a command of its function `<name>`."""
    single = typer.Typer(add_completion=False, rich_markup_mode=None)
    single.command(name)(getattr(import_module(f"mrcnn.cli.{name}"), name))
    return typer.main.get_command(single)


def message_of(error: BaseException) -> str:
    """The text of an error, in a line where it has a short form, and without the number of the system's errors."""
    if short := getattr(error, "short", None):
        return short
    if isinstance(error, OSError) and error.strerror and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error) or type(error).__name__


app = typer.Typer(
    name="mrcnn",
    cls=LazyCommands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120},
)


def show_version(wanted: bool) -> None:
    if wanted:
        from mrcnn import __version__

        print(__version__)
        raise typer.Exit


@app.callback()
def mrcnn(
    version: Annotated[
        bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Mask R-CNN: find objects in images, train on your own, evaluate and export.

    Exit codes: 0 done, 1 the work or a part of it failed, 2 the command line is wrong, 130 interrupted.
    """
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # TensorFlow's log would hide the progress; errors are raised


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs the command and exits with its exit code.

    Args:
        arguments: those after the command's name; None: of this process.
    """
    app(args=None if arguments is None else list(arguments), prog_name="mrcnn")


__all__ = ["app", "main"]

"""The `fcos-zoo` command: one typer application, whose commands are functions of this folder."""

from __future__ import annotations

import errno
import importlib.metadata
import io
import os
import sys
import warnings
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from fcos.text import TextConsole
from tools import (
    bench,
    cache,
    data,
    demo,
    download,
    evaluate,
    export,
    info,
    pin,
    predict,
    push,
    report,
    results,
    serve,
    train,
    verify,
)
from tools import list as list_command
from tools.arguments import App, DefaultCommand, Group, ListOptions

ERRORS = (LookupError, ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError)
USAGE_ERROR: type[Exception] = typer.BadParameter.__bases__[0]  # typer does not export it
REMEDIES = {
    errno.ENOSPC: ": free some space, or write elsewhere",
    errno.EROFS: ": write elsewhere, such as with --out or run.folder",
    errno.ENOENT: ": check the path",
    errno.ENOTDIR: ": check the path",
    errno.EEXIST: ": choose another folder",
    errno.EISDIR: ": name a file",
    errno.EACCES: ": check its permissions",
}
CLOSED_PIPE = 141  # 128 + SIGPIPE, as for other programs when the reader (`head`) has ended
HELP = {"help_option_names": ["-h", "--help"]}

USE, DATA, TRAIN = "Use a model", "Data", "Train"
MEASURE, PUBLISH = "Measure", "Publish and maintain"
PANELS = (USE, DATA, TRAIN, MEASURE, PUBLISH)


class _Commands(Group):
    """Lists the commands by panel; typer lists groups of commands last."""

    def list_commands(self, ctx: Any) -> list[str]:
        return sorted(self.commands, key=lambda name: PANELS.index(self._panel(name)))

    def _panel(self, name: str) -> str:
        return str(getattr(self.commands[name], "rich_help_panel"))  # noqa: B009


app: typer.Typer = App(
    cls=_Commands,
    context_settings=HELP,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",  # wraps paragraphs, whereas "rich" keeps line breaks
)


def _show_version(wanted: bool) -> None:
    if wanted:
        print(f"fcos-zoo {importlib.metadata.version('fcos-zoo')}")
        raise typer.Exit()


@app.callback(epilog="Add --debug to any command to see the traceback of an error.")
def fcos_zoo(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Use, train, measure and export published FCOS detectors."""


app.command("list", rich_help_panel=USE)(list_command.list_entries)
app.command("info", rich_help_panel=USE)(info.info)
app.command("predict", rich_help_panel=USE)(predict.predict)
app.command("export", rich_help_panel=USE)(export.export)
app.command("demo", rich_help_panel=USE)(demo.demo)
app.command("serve", rich_help_panel=USE)(serve.serve)
app.command("download", rich_help_panel=USE)(download.download)
app.command("cache", rich_help_panel=USE, cls=ListOptions)(cache.show_cache)
app.command("verify-cache", rich_help_panel=USE)(cache.verify_cache)
app.add_typer(data.app, name="data", rich_help_panel=DATA)
app.command("train", rich_help_panel=TRAIN)(train.train)
app.command("evaluate", rich_help_panel=MEASURE, cls=ListOptions)(evaluate.evaluate)
bench_app = App(cls=DefaultCommand, help="Measure models; compare, merge or publish results.")
bench_app.command("run")(bench.bench)
bench_app.command("compare")(results.compare_results)
bench_app.command("merge")(results.merge)
bench_app.command("push")(results.push_results)
app.add_typer(bench_app, name="bench", rich_help_panel=MEASURE)
report_app = App(cls=DefaultCommand, help="Report results, or plot training curves.")
report_app.command("results")(report.report)
report_app.command("curves", cls=ListOptions)(report.curves)
app.add_typer(report_app, name="report", rich_help_panel=MEASURE)
app.command("verify", rich_help_panel=MEASURE)(verify.verify)
app.command("push", rich_help_panel=PUBLISH, cls=ListOptions)(push.push)
app.command("pin", rich_help_panel=PUBLISH)(pin.pin_entries)


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; errors are raised."""
    words = [_with_home(word) for word in arguments]
    code = app(args=words, prog_name="fcos-zoo", standalone_mode=False)
    sys.stdout.flush()
    return code or 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; warnings, and errors that a user can fix, are one line each."""
    sys.stdout = sys.stdout or io.StringIO()  # None if the shell has closed it: `>&-`
    sys.stderr = sys.stderr or io.StringIO()
    given = sys.argv[1:] if arguments is None else arguments
    words = [word for word in given if word != "--debug"]
    errors = TextConsole(stderr=True, soft_wrap=True)
    prefix = " ".join(["fcos-zoo", *words[:1]])
    try:
        with warnings.catch_warnings():
            if len(words) == len(given):
                warnings.simplefilter("ignore", DeprecationWarning)  # of libraries, as by default
                warnings.showwarning = lambda message, *_: errors.print(
                    f"{prefix}: warning: {message}", style="yellow"
                )
            code = run(words or ["--help"])
    except (BrokenPipeError, SystemExit) as error:
        if isinstance(error, SystemExit) and error.code != 1:
            raise  # for the shell's completion
        _discard_output()
        return CLOSED_PIPE
    except USAGE_ERROR as error:
        message = error.format_message().replace("Value error, ", "")  # type: ignore[attr-defined]
        errors.print(f"{prefix}: {message}", style="red")
        return 2
    except ERRORS as error:
        if isinstance(error, KeyError | IndexError) or len(words) < len(given):
            raise
        errors.print(f"{prefix}: {_message(error)}", style="red")
        _discard_output()
        return 1
    if code == 130:
        errors.print(f"{prefix}: interrupted")
    return code if words else 2


def _with_home(word: str) -> str:
    """Replace ~ in words such as `--out=~/here` or `data.train=~/coco`, which shells leave."""
    key, equals, value = word.partition("=")
    return key + equals + os.path.expanduser(value) if value.startswith("~/") else word


def _message(error: Exception) -> str:
    """Return an error in one line; errors of the system without numbers, with the file if known."""
    if not (isinstance(error, OSError) and error.errno and error.strerror):
        return str(error)
    file = "" if error.filename is None else f"{error.filename}: "
    return f"{file}{error.strerror}{REMEDIES.get(error.errno, '')}"


def _discard_output() -> None:
    """Prevent another failure at exit, when Python flushes output that cannot be written."""
    try:
        sys.stdout.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())

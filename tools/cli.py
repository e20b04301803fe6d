"""The `fcos-zoo` command: one word a task, each a file of this folder."""

from __future__ import annotations

import importlib
import importlib.metadata
import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

COMMANDS = {
    "list": "names of the zoo's entries with their published figures",
    "info": "everything that is known of one entry",
    "download": "fetch published weights into the cache",
    "cache": "what the cache holds, and removing it",
    "verify-cache": "hash all cached weights anew and repair them",
    "pin": "write the hosts' sizes and SHA-256 of weights into the entries",
    "push": "publish an entry's weights on the Hugging Face Hub",
    "data": "fetch, draw and check datasets",
    "train": "train an entry by its recipe, on its dataset or yours",
    "predict": "find objects in pictures: boxes drawn, and COCO results as JSON",
    "evaluate": "COCO AP of an entry on a COCO-format dataset",
    "bench": "measure parameters, GFLOPs, latency, memory and AP",
    "report": "the measured tables beside the published ones",
    "export": "one file for other runtimes: torch.export or ONNX",
    "verify": "check entries against golden fixtures",
}
ERRORS = (LookupError, ValueError, TypeError, OSError, RuntimeError, ImportError, ArithmeticError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; errors that a user can mend are one line and a non-zero exit."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        _print_help()
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"fcos-zoo {importlib.metadata.version('fcos-zoo')}")
        return 0
    name, *rest = arguments
    errors = Console(stderr=True, soft_wrap=True, markup=False, highlight=False)
    if name not in COMMANDS:
        errors.print(f"fcos-zoo: no command {name!r}; there are {', '.join(COMMANDS)}")
        return 2
    debug = "--debug" in rest
    try:
        command = importlib.import_module(f"tools.{name.replace('-', '_')}")
        return int(command.main([word for word in rest if word != "--debug"]) or 0)
    except KeyboardInterrupt:
        errors.print(f"fcos-zoo {name}: interrupted")
        return 130
    except BrokenPipeError:
        return 0
    except ERRORS as error:
        if isinstance(error, KeyError | IndexError) or debug:
            raise
        errors.print(f"fcos-zoo {name}: {error}", style="red")
        return 1


def _print_help() -> None:
    table = Table(box=None, show_header=False, padding=(0, 2))
    for name, summary in COMMANDS.items():
        table.add_row(f"[bold]{name}[/]", summary)
    console = Console()
    console.print("usage: fcos-zoo COMMAND [ARGUMENT ...]      (COMMAND --help tells more)\n")
    console.print(table)
    console.print("\n--version: which this is; COMMAND ... --debug: where an error is from")


if __name__ == "__main__":
    sys.exit(main())

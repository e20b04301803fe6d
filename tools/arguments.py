"""Arguments that several commands share, and how typer reads them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from typer.core import TyperCommand, TyperGroup

TRAINED = (".pth", ".pt", ".safetensors")  # suffixes of files of training
EXPORTED = (".onnx", ".xml", ".pt2")  # and of exported ones
METAVARS = {  # for options without one, by typer's name of their type
    "bool": "",
    "str": "TEXT",
    "int": "NUMBER",
    "float": "NUMBER",
    "path": "PATH",
    "Path": "PATH",
    "list[Path]": "PATHS",
}


def _complete(incomplete: str) -> list[str]:
    """Return entries for the shell's completion."""
    import zoo

    return zoo.names(f"{incomplete}*")


Model = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="An entry, see `fcos-zoo list`, or a file that `fcos-zoo train` or "
        "`fcos-zoo export` wrote.",
        autocompletion=_complete,
    ),
]
Trainable = Annotated[
    str,
    typer.Argument(
        metavar="NAME",
        help="An entry, see `fcos-zoo list`, or a file that `fcos-zoo train` wrote.",
        autocompletion=_complete,
    ),
]
Weights = Annotated[
    str | None,
    typer.Option(metavar="PATH|URL", help="Load these weights instead of the published ones."),
]


def check_device(device: str | None) -> str | None:
    """Return the device if its name is known; torch's message would list twenty kinds.

    Raises:
        typer.BadParameter: its name is not known.
    """
    if device and not re.fullmatch(r"cpu|cuda(:\d+)?", device):
        raise typer.BadParameter(f"unknown device {device!r}; choose cpu, cuda or cuda:N")
    return device


Device = Annotated[
    str | None,
    typer.Option(
        help="cpu, cuda or cuda:N.", show_default="cuda if available", callback=check_device
    ),
]
Precision = Annotated[
    Literal["fp32", "bf16", "fp16"], typer.Option(help="Floating-point format of the forward pass.")
]
Winograd = Annotated[
    bool,
    typer.Option(
        "--winograd",
        help="Compute 3x3 convolutions by Winograd's algorithm: faster in fp32 on a CPU, for more "
        "memory.",
    ),
]
MultiScale = Annotated[
    bool,
    typer.Option(
        "--multi-scale",
        help="Use test-time augmentation: merge detections in 17 scaled and flipped copies.",
    ),
]


class PlainHelp:
    """Help pages without Python's types: typer prints `<bool>` at each flag, `<list[str]>`, ..."""

    def get_params(self, ctx: Any) -> list[Any]:
        parameters: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for parameter in parameters:
            if parameter.param_type_name == "argument":
                parameter.display_type_rich = lambda ctx: None
            elif parameter.metavar is None:
                kind = parameter.display_type(ctx).strip("<>")
                parameter.metavar = METAVARS.get(kind.removesuffix(" range"), kind)
        return parameters

    def get_usage(self, ctx: Any) -> str:
        """Return the usage line, without the name of a group's default command."""
        usage: str = super().get_usage(ctx)  # type: ignore[misc]
        group = ctx.parent and ctx.parent.command
        if isinstance(group, DefaultCommand) and ctx.info_name == group.default:
            usage = usage.replace(f" {ctx.info_name} ", " ", 1)
        return usage


class Command(PlainHelp, TyperCommand):
    """A command of this package."""


class App(typer.Typer):
    """An application of such commands."""

    def command(self, name: str | None = None, *, cls: Any = Command, **options: Any) -> Any:
        return super().command(name, cls=cls, **options)


class ListOptions(Command):
    """A command whose repeatable options also take several values at once: `--out a.png b.png`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        repeatable = {name for p in self.params if getattr(p, "multiple", False) for name in p.opts}
        spread: list[str] = []
        option = None
        for word in args:
            if word.startswith("-"):
                option = word if word in repeatable else None
            elif option and spread[-1] != option:
                spread.append(option)
            spread.append(word)
        return super().parse_args(ctx, spread)


class Group(PlainHelp, TyperGroup):
    """A group of commands."""


class DefaultCommand(Group):
    """A group that runs its first command unless the first argument names another one."""

    @property
    def default(self) -> str:
        return next(iter(self.commands))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if not (args and args[0] in self.commands):
            args = [self.default, *args]
        return super().parse_args(ctx, args)


def words(text: str | None, known: Sequence[str], option: str) -> tuple[str, ...] | None:
    """Split an option's value into comma-separated words.

    Raises:
        typer.BadParameter: a word is not among the known ones.
    """
    if text is None:
        return None
    chosen = tuple(filter(None, text.split(",")))
    for word in chosen:
        if word not in known:
            raise typer.BadParameter(
                f"unknown {word!r}; choose from {', '.join(known)}", param_hint=option
            )
    return chosen


def name_for_files(model: str) -> str:
    """Return the name of a model's files: its name, or RUN_best for `runs/RUN/best.pth`."""
    path = Path(model)
    if path.suffix not in TRAINED:
        return path.name
    return "_".join(filter(None, (path.parent.name, path.stem)))


def load_model(
    name: str,
    weights: str | None,
    device: str | None,
    precision: str,
    resize: str | None = None,
    winograd: bool = False,
    multi_scale: bool = False,
) -> Any:
    """Load a fused detector of the zoo, by default on a GPU if there is one, or an exported file.

    Raises:
        ValueError: an option does not apply to an exported file.
    """
    import zoo

    if Path(name).suffix not in EXPORTED:
        options: Any = {"precision": precision, "resize": resize, "winograd": winograd}
        return zoo.get(name, weights, device or default_device(), **options).fuse()
    if weights or resize or winograd or precision != "fp32":
        raise ValueError(
            f"{name} has its own weights, precision, resize and algorithms: leave out --weights, "
            "--precision, --resize and --winograd"
        )
    if multi_scale:
        raise ValueError(f"{name} has no test-time augmentation: leave out --multi-scale")
    if device not in (None, "cpu"):
        raise ValueError(f"{name} is an exported file, which is run on the CPU: leave out --device")
    return zoo.load(name)


def default_device() -> str:
    """Return "cuda" if there is a GPU, else "cpu"."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def exact_float32() -> None:
    """Compute fp32 convolutions on GPUs in full; torch rounds their inputs to TF32 by default."""
    import torch

    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False

"""`runners`: engines that there are, made usable, and native programs handed on."""

from pathlib import Path
from typing import Any

import click

from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark, yes_no
from edgebench.cli.progress import Progress
from edgebench.core.errors import UsageError
from edgebench.core.units import data_size

TOOLKITS = ("cpu", "cuda", "vulkan", "metal")
"""What llama_cpp is built for."""
ELSEWHERE = ("android-arm64", "android-x86_64", "linux-arm64", "linux-x86_64")
"""What native programs are built for."""
_HASH = Column("sha256", "sha256")
_PROGRAM = [Column("level", "level"), Column("program", "program"), Column("toolchain", "toolchain")]


@click.group(
    epilog=examples(
        "edgebench runners list -o json",
        "edgebench runners build",
        "edgebench runners build native",
        "edgebench runners build --target android-arm64",
        "edgebench runners export native.zip",
    )
)
def runners() -> None:
    """Engines: what runs a model here, and how to get what does not yet."""


@runners.command("list", epilog=examples("edgebench runners list -o json"))
@output_option
def runners_list(output: str) -> None:
    """Every engine, usable here or not, and the command that makes it usable."""
    from edgebench.session_catalog import list_runners

    columns = [
        Column("name", "name"),
        Column("available", "available", yes_no),
        Column("version", "version"),
        Column("backends", "computes on", ", ".join),
        Column("why", "why not"),
        Column("install", "install with"),
    ]
    emit(list_runners(), columns, output)


@runners.command(
    "build",
    epilog=examples(
        "edgebench runners build llama_cpp",
        "edgebench runners build --target cuda --dry-run",
        "edgebench runners build --target vulkan",
        "edgebench runners build onnx",
        "edgebench runners build native                     the program for this computer",
        "edgebench runners build --target android-arm64     for phones, a program a level",
        "edgebench runners build --target android-arm64 --level armv8.2-a+dotprod+fp16 --toolchain zig",
        "edgebench runners build native --program llama-bench --dry-run",
    ),
)
@click.argument("name", required=False)
@click.option(
    "--target",
    type=click.Choice([*TOOLKITS, *ELSEWHERE]),
    help="What llama_cpp is built for (cpu to metal; its CMAKE_ARGS are added to yours), or the native"
    " program (android, linux).  [default: any llama_cpp will do; a native program is for this computer]",
)
@click.option(
    "--level",
    metavar="LEVEL|all",
    help="Instructions the native program may use; a name nobody knows lists them."
    "  [default: this computer's; all for another target]",
)
@click.option(
    "--toolchain",
    type=click.Choice(["gcc", "zig", "ndk"]),
    help="What compiles the native program; zig is fetched by pip.  [default: a gcc that is here, else zig]",
)
@click.option(
    "--program",
    "programs",
    type=click.Choice(["edgebench-native", "llama-bench"]),
    multiple=True,
    help="What of it is built; may be repeated.  [default: edgebench-native]",
)
@click.option(
    "--dry-run",
    "--explain",
    "dry_run",
    is_flag=True,
    help="Say what would be done, what it takes and what is missing; do nothing.",
)
@output_option
def runners_build(name: str | None, target: str | None, dry_run: bool, output: str, **native: Any) -> None:
    """Make an engine usable: build llama_cpp or native, or make the environment another one works in.

    NAME is llama_cpp by default, native where --target says android or linux. What is built is kept: a
    wheel once for a version, a processor and a target, a native program once for a source, a compiler and a
    level, the same bytes wherever it is built. An engine that works is replaced only by a wheel that is whole
    and loads. -o is for --dry-run and native programs.
    """
    from edgebench.session_runners import NativeRequest, build_native, explain_native, is_native

    if is_native(name, target):
        request = NativeRequest(name=name, target=target, **native)
        if dry_run:
            _explain(explain_native(request), output, f"runners build {name or 'native'}")
            return
        with Progress() as progress:
            rows = build_native(request, progress)
        columns = [Column("target", "target"), *_PROGRAM, Column("size_bytes", "size", data_size, right=True)]
        emit(rows, [*columns, _HASH], output)
        return
    if given := [option for option in ("level", "toolchain", "programs") if native[option]]:
        raise UsageError(
            f"--{given[0].removesuffix('s')} is for native programs", "edgebench runners build native"
        )
    _build_engine(name or "llama_cpp", target, dry_run, output)


def _build_engine(name: str, target: str | None, dry_run: bool, output: str) -> None:
    from edgebench.session_catalog import build_runner, explain_build
    from edgebench.session_runners import steps

    if dry_run:
        _explain(explain_build(name, target), output, f"runners build {name}")
        return
    with Progress() as progress:
        build_runner(name, target, progress.say, steps(progress, f"building {name}"))
    remark(f"{name} is ready" + (f" for {target}" if target else ""))


def _explain(told: dict[str, Any], output: str, title: str) -> None:
    emit_one(told, output, title)
    for what, install in told.get("missing", {}).items():
        remark(f"missing: {what}" + (f"; install with: {install}" if install else ""))


_SHARED = [Column("targets", "targets", "\n".join), *_PROGRAM, _HASH]


@runners.command(
    "export",
    epilog=examples(
        "edgebench runners export native.zip",
        "edgebench runners export phones.zip --target android-arm64",
    ),
)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--target", "targets", type=click.Choice(ELSEWHERE), multiple=True, help="Only these.  [default: all]"
)
@output_option
def runners_export(file: Path, targets: tuple[str, ...], output: str) -> None:
    """Write the native programs that are built into a zip, for computers without a compiler."""
    from edgebench.session_runners import export_native

    emit(export_native(file, targets), _SHARED, output)
    remark(f"{file} is for the same edgebench and llama-cpp-python: edgebench runners import {file.name}")


@runners.command(
    "import", epilog=examples("edgebench runners import native.zip", "edgebench runners import a.zip -o json")
)
@click.argument("file", type=click.Path(path_type=Path))
@output_option
def runners_import(file: Path, output: str) -> None:
    """Take the native programs of an exported zip into the cache, all of them or none.

    Names, sizes, hashes and kinds of programs are checked, and nothing of it is run. What the programs do
    when they are run, no check can tell: import what you would install.
    """
    from edgebench.session_runners import import_native

    emit(import_native(file), _SHARED, output)
    remark("imported: runs take these instead of building")

"""`models`, `cache`: what there is."""

from pathlib import Path

import click

from edgebench.cli.output import Column, emit, emit_one, examples, output_option, remark, yes_no
from edgebench.core.units import data_size

LICENCE = Column("licence", "licence")


@click.group(
    epilog=examples(
        "edgebench models list",
        "edgebench models show smollm2-135m",
        "edgebench models show ./model.gguf -o json",
        "edgebench models add ./model.gguf --name mine",
    )
)
def models() -> None:
    """Model files: what is known by name, and what is inside a file."""


@models.command("list", epilog=examples("edgebench models list", "edgebench models list -o json"))
@output_option
def models_list(output: str) -> None:
    """Models known by name; any local GGUF file works too."""
    from edgebench.session_catalog import list_models

    columns = [
        Column("name", "name"),
        Column("title", "title"),
        Column("size_bytes", "size", data_size, right=True),
        LICENCE,
        Column("cached", "cached", yes_no),
        Column("source", "source"),
    ]
    emit(list_models(), columns, output)


@models.command(
    "show",
    epilog=examples("edgebench models show smollm2-135m", "edgebench models show ./model.gguf -o json"),
)
@click.argument("model")
@output_option
def models_show(model: str, output: str) -> None:
    """A model file's manifest: hash, level, effective bits per weight, tensor types."""
    from edgebench.session_catalog import show_model

    emit_one(show_model(model, remark), output, model)


@models.command(
    "add",
    epilog=examples("edgebench models add ./model.gguf", "edgebench models add ./exported-onnx --name mine"),
)
@click.argument("path", type=click.Path(path_type=Path, exists=True))
@click.option("--name", help="What it is called from now on.  [default: from the file's name]")
@output_option
def models_add(path: Path, name: str | None, output: str) -> None:
    """Adopt a GGUF file, an ONNX folder or a checkpoint made elsewhere; it stays where it is."""
    from edgebench.session_catalog import show_model
    from edgebench.session_models import add_model

    artifact = add_model(path, name)
    emit_one(show_model(artifact.model, remark), output, artifact.model)


@click.group(
    epilog=examples(
        "edgebench cache list",
        "edgebench cache clear artifacts tools",
        "edgebench cache prefetch smollm2-135m export",
    )
)
def cache() -> None:
    """Fetched models, made levels, built engines and tools (EDGEBENCH_CACHE moves them)."""


CACHE_COLUMNS = [
    Column("part", "part"),
    Column("n_files", "files", right=True),
    Column("size_bytes", "size", data_size, right=True),
    Column("path", "where"),
]


@cache.command("list", epilog=examples("edgebench cache list"))
@output_option
def cache_list(output: str) -> None:
    """What the cache holds."""
    from edgebench.session_catalog import list_cache

    emit(list_cache(), CACHE_COLUMNS, output)


@cache.command(
    "clear", epilog=examples("edgebench cache clear artifacts tools", "edgebench cache clear --yes")
)
@click.argument("parts", nargs=-1)
@click.option("--yes", is_flag=True, help="Don't ask.")
@output_option
def cache_clear(parts: tuple[str, ...], yes: bool, output: str) -> None:
    """Remove parts of the cache, or all of it; results are never touched."""
    from edgebench.session_catalog import clear_cache

    if not yes:
        click.confirm(f"remove {', '.join(parts) or 'everything'} from the cache?", abort=True, err=True)
    emit(clear_cache(parts), CACHE_COLUMNS, output, "removed")


@cache.command(
    "prefetch",
    epilog=examples(
        "edgebench cache prefetch smollm2-135m export genai",
        "edgebench cache prefetch gemma3-270m --accept-licence",
    ),
)
@click.argument("pieces", nargs=-1, required=True)
@click.option(
    "--accept-licence", is_flag=True, help="Accept the terms of weights that are not open; recorded."
)
def cache_prefetch(pieces: tuple[str, ...], accept_licence: bool) -> None:
    """Get PIECES for work without a network.

    Models by name or ORG/NAME, `engine` (llama.cpp's source), the tool environments `export` and `genai`.
    """
    from edgebench.session_catalog import prefetch

    prefetch(pieces, remark, accept_license=accept_licence)

"""`recommend`: which file to ship on a device."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from edgebench.cli.compare import asking_filters, device_id, filters
from edgebench.cli.measure import db_option, with_options
from edgebench.cli.output import Column, emit, emit_one, examples, output_option
from edgebench.cli.recommended import as_data, as_rows, facts, misses, named, title_of
from edgebench.core.errors import EdgebenchError

_SIZES = {"B": 1.0, "KB": 1e3, "MB": 1e6, "GB": 1e9, "KIB": 2.0**10, "MIB": 2.0**20, "GIB": 2.0**30}
_DURATIONS = {"": 1.0, "S": 1.0, "MS": 1e-3}
_NUMBER = re.compile(r"(\d+(?:\.\d+)?) *([A-Za-z]*)")


class Quantity(click.ParamType[Any]):
    """A positive number with one of a few units, in SI: `3GB`, `800ms`."""

    name = "quantity"

    def __init__(self, units: Mapping[str, float], like: str) -> None:
        self._units, self._like = units, like

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """An example."""
        return self._like.upper()

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number in the unit's base."""
        if isinstance(value, float):
            return value
        match = _NUMBER.fullmatch(str(value).strip())
        if match is None or match[2].upper() not in self._units or float(match[1]) <= 0:
            self.fail(f"{value!r} is not a positive quantity like {self._like}", param, ctx)
        return float(match[1]) * self._units[match[2].upper()]


class LeastAccuracy(click.ParamType[Any]):
    """`medqa:0.35`, several by comma; without a name the only suite there is."""

    name = "accuracy"

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """How it is spelled."""
        return "[SUITE:]SHARE"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[tuple[str | None, float], ...]:
        """Pairs of a suite and a share of right answers."""
        return value if isinstance(value, tuple) else tuple(self._one(one) for one in str(value).split(","))

    def _one(self, text: str) -> tuple[str | None, float]:
        suite, _, least = text.strip().rpartition(":")
        try:
            number = float(least)
        except ValueError:
            number = 0.0
        if not 0 < number <= 1:
            self.fail(f"{text.strip()!r} does not end in a share above 0 and up to 1, like medqa:0.35")
        return suite or None, number


class _Repeated(click.Option):
    """May be given more than once; a configuration file has all of it in one text."""

    def type_cast_value(self, ctx: click.Context, value: Any) -> Any:
        """One text is a list of one."""
        return super().type_cast_value(ctx, [value] if isinstance(value, str) else value)


_POSITIVE = click.FloatRange(min=0, min_open=True)
_LIMITS = [
    click.option("--max-memory", type=Quantity(_SIZES, "3GB"), help="Peak memory, a GPU's included."),
    click.option("--max-size", type=Quantity(_SIZES, "500MB"), help="Size of the file."),
    click.option(
        "--max-ttft", type=Quantity(_DURATIONS, "1s"), help="Time to first token of a chat request."
    ),
    click.option("--max-energy", type=_POSITIVE, help="Joules per output token."),
    click.option("--min-speed", type=_POSITIVE, help="Tokens/s while decoding."),
    click.option("--min-prefill", type=_POSITIVE, help="Tokens/s of a prompt."),
    click.option(
        *("--min-acc", "least_acc"),
        cls=_Repeated,
        type=LeastAccuracy(),
        multiple=True,
        help="Accuracy in a suite; several by comma or repeated.",
    ),
]
_KEYS = {
    "max_memory": "memory_bytes",
    "max_size": "size_bytes",
    "max_ttft": "ttft_s",
    "max_energy": "energy_j_per_token",
    "min_speed": "decode_tokens_per_s",
    "min_prefill": "prefill_tokens_per_s",
}
"""Option -> the figure it limits."""


@click.command(
    epilog=examples(
        "edgebench recommend --max-memory 3GB --prefer speed",
        "edgebench recommend --device pixel8 --max-memory 3GB --min-acc medqa:0.35 --prefer energy",
        "edgebench recommend --min-acc everyday:0.5 --prefer size --sure -o json",
    )
)
@with_options(_LIMITS)
@click.option(
    "--prefer",
    type=click.Choice(["speed", "prefill", "ttft", "energy", "memory", "accuracy", "size"]),
    default="speed",
    show_default=True,
    help="What to have the best of, within the limits.",
)
@click.option("--sure", is_flag=True, help="Only what meets every limit with its whole 95 % interval.")
@click.option("--scope", help="Joules of this scope only: package, battery, …  [default: the commonest]")
@click.option("--allow-synthetic", is_flag=True, help="Let figures stand that were not measured; labelled.")
@with_options(filters)
@with_options(asking_filters)
@db_option
@output_option
def recommend(
    prefer: str,
    sure: bool,
    scope: str | None,
    allow_synthetic: bool,
    device: str | None,
    least_acc: tuple[tuple[tuple[str | None, float], ...], ...],
    db: Path,
    output: str,
    **asked: Any,
) -> None:
    """Which file to ship on a device: the best within the limits, how sure that is, and the runner-up.

    A file, an engine and its settings are a row, by the newest runs. Exits 1 with the nearest miss when
    nothing fits.
    """
    from edgebench.results.recommend import recommend as found_for
    from edgebench.results.store import Store

    limits = {key: asked.pop(name) for name, key in _KEYS.items()}
    with Store.open_readonly(db) as store:
        found = found_for(
            store,
            device=device_id(device),
            prefer=prefer,
            limits={key: limit for key, limit in limits.items() if limit is not None},
            least_acc=[one for several in least_acc for one in several],
            scope=scope,
            allow_synthetic=allow_synthetic,
            sure=sure,
            **asked,
        )
    if output in ("json", "jsonl"):
        emit_one(as_data(found), output)
    elif output == "csv":
        emit(as_rows(found), [], output)
    else:
        lines = [{"fact": key, "value": value} for key, value in facts(found) if value]
        emit(lines, [Column("fact", "fact"), Column("value", "value")], output, title_of(found))
    if found.nearest:
        raise EdgebenchError(
            f"nothing on {found.device_id} fits; the nearest, {named(found.nearest)}, has"
            f" {'; '.join(misses(found.nearest, found))}",
            "loosen that limit, or measure more: edgebench run",
        )

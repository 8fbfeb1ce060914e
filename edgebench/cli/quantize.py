"""`quantize` and `reproduce`: a ladder of levels, and how a level was made."""

from pathlib import Path
from typing import Any

import click

from edgebench.cli.measure import busy_option, db_option
from edgebench.cli.output import Column, emit, output_option, remark
from edgebench.cli.progress import Progress
from edgebench.cli.run_options import NAMES, POSITIVE, data_option
from edgebench.core.errors import UsageError
from edgebench.core.units import data_size, significant

DAMAGE_COLUMNS = [
    Column("label", "level"),
    Column("size_bytes", "size", data_size, right=True),
    Column("bits", "bits/w, by class"),
    Column("kld_mean", "KLD, nats [95 %]", lambda e: _estimate(e), right=True),
    Column("kld_p99_nats", "KLD p99", lambda v: _nats(v) if v >= LEAST_NATS else "< 1e-06", right=True),
    Column("same_top_share", "same top token", lambda v: f"{v:.1%}", right=True),
    Column("ppl_ratio", "PPL ratio [95 %]", lambda e: _estimate(e, 3), right=True),
    Column("greedy", "greedy tokens alike", right=True),
    Column("flips", "flips (own noise)", right=True),
    Column("verdict", "verdict"),
    Column("notes", "notes"),
]

QUANTIZE_EPILOG = """\b
Examples:
  edgebench quantize smollm2-135m --to q8_0,q4_k_m,q4_0 --out levels
  edgebench quantize org/name --to q4_k_m,iq3_xxs --calibration builtin --out levels
  edgebench quantize ./checkpoint --adapter ./lora --to q8_0,onnx-int8,onnx-nbits4 --out levels
  edgebench quantize model.gguf --to q4_k_m --tensor-type 'ffn_down=q6_k' --embedding-type q8_0 --out levels

MODEL is a name of `models list`, a GGUF file, a folder of safetensors, or a hub's ORG/NAME. Levels have
their tools' names: f32 f16 bf16 q8_0 q6_k q5_k_m … iq1_s tq2_0 (llama.cpp), onnx-fp32 onnx-fp16 onnx-int8
onnx-nbits8 onnx-nbits4 (onnxruntime), genai-fp32 genai-int8 genai-int4 (onnxruntime-genai).

Every level is compared with the model it was made from: KL divergence, perplexity, greedy text, answers
that flip. The same command again makes and checks only what is missing.
"""


class TensorTypes(click.ParamType[Any]):
    """`PATTERN=TYPE`."""

    name = "pattern=type"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, str]:
        """Split at the last equals sign: a pattern may hold one."""
        if isinstance(value, tuple):
            return value
        pattern, _, kind = str(value).rpartition("=")
        if not pattern or not kind:
            self.fail(f"{value!r} is not PATTERN=TYPE", param, ctx)
        return pattern, kind.lower()


@click.command(epilog=QUANTIZE_EPILOG)
@click.argument("model")
@click.option("--to", "levels", type=NAMES, required=True, help="Levels to make, by comma.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Folder the levels are written to, each directly in it.  [default: this one]",
)
@click.option("--revision", help="Branch, tag or commit of a hub's repository.")
@click.option(
    "--adapter",
    type=click.Path(path_type=Path, file_okay=False),
    help="A peft adapter (LoRA, rsLoRA, DoRA) to merge first.",
)
@click.option(
    "--calibration",
    help="Text for the importance matrix: a file, `builtin`, or a ready matrix (GGUF).  [default: none]",
)
@click.option(
    "--calibration-suite",
    "calibration_suites",
    multiple=True,
    help="Add a suite's train or dev questions; never its test questions.  May be repeated.",
)
@data_option
@click.option(
    "--tensor-type",
    "tensor_types",
    type=TensorTypes(),
    multiple=True,
    help="Another type for tensors whose name matches: 'ffn_down=q6_k'.  May be repeated; GGUF only.",
)
@click.option("--output-type", help="Type of the output head: q8_0, q6_k, …  GGUF only.")
@click.option("--embedding-type", help="Type of the token embedding.  GGUF only.")
@click.option("--max-shard", help="Cut GGUF files into parts of at most this size: 500M, 2G.")
@click.option(
    "--search/--no-search",
    default=True,
    show_default=True,
    help="Try recipes for 4-bit ONNX and take the best; off: the exporter's default.",
)
@click.option(
    "--check/--no-check", default=True, show_default=True, help="Measure what each level lost, and store it."
)
@click.option("--check-chunks", type=POSITIVE, help="512-token chunks of text to check on.  [default: all]")
@click.option(
    "--accept-licence", is_flag=True, help="Accept the terms of weights that are not open; recorded."
)
@click.option("-t", "--threads", type=POSITIVE, help="CPU threads.  [default: physical cores]")
@db_option
@busy_option
@click.option(
    "--dry-run", is_flag=True, help="Show what would be made, how large it comes out; make nothing."
)
@output_option
def quantize(db: Path, busy_timeout: float, dry_run: bool, output: str, **options: Any) -> None:
    """Make levels of a model, as GGUF and ONNX, and measure what each one lost."""
    from edgebench.results.store import Store
    from edgebench.session_ladder import preview_ladder, quantize_and_check

    request = _request(options)
    if dry_run:
        with Progress() as progress:
            rows = preview_ladder(request, progress)
        emit(rows, PREVIEW_COLUMNS, output, f"levels of {request.model} in {request.out}")
        return
    with Store.open(db, busy_timeout_s=busy_timeout) as store:
        with Progress() as progress:
            made = quantize_and_check(
                request, store, progress, check=options["check"], n_chunks=options["check_chunks"]
            )
        _show(made, output)
    made.outcome.raise_if_bad()


PREVIEW_COLUMNS = [
    Column("level", "level"),
    Column("state", "file"),
    Column("size_bytes", "size", data_size, right=True),
    Column("bits_per_weight", "bits/w", lambda v: f"{v:.2f}", right=True),
    Column("notes", "notes"),
]


def _request(options: dict[str, Any]) -> Any:
    from edgebench.session_quantize import default_threads
    from edgebench.session_request import QuantizeRequest
    from edgebench.session_split import check_shard_size

    if not options["levels"]:
        raise UsageError("--to names no level", "edgebench quantize --help lists them")
    own = ("check", "check_chunks", "threads", "accept_licence", "max_shard", "levels")
    return QuantizeRequest(
        **{key: value for key, value in options.items() if key not in own},
        levels=tuple(dict.fromkeys(level.lower() for level in options["levels"])),
        n_threads=options["threads"] or default_threads(),
        accept_license=options["accept_licence"],
        max_shard=check_shard_size(options["max_shard"]) if options["max_shard"] else None,
    )


CHECKED = ("kld_mean", "kld_p99_nats", "same_top_share", "ppl_ratio", "greedy", "flips", "verdict")
UNTOLD = ("norm", "other")
"""Classes too small to matter; the manifest has them."""
SHORT = {"embedding": "emb", "attention": "attn"}


def _show(made: Any, output: str) -> None:
    rows = [_row(row) for row in made.rows]
    if made.reference is None:
        columns = [column for column in DAMAGE_COLUMNS if column.key not in CHECKED]
        emit(rows, columns, output, f"{made.model}: levels made, not checked")
        return
    emit(rows, DAMAGE_COLUMNS, output, f"{made.model}: what each level lost against {made.reference}")
    remark(made.footnote)
    if made.picture is not None:
        remark(f"picture: {made.picture}")


def _row(row: dict[str, Any]) -> dict[str, Any]:
    greedy, flips = None, None
    if row.get("greedy_same") is not None:
        greedy = f"{row['greedy_same']:.1f} of {row['n_greedy']}"
    if row.get("n_flips") is not None:
        flips = f"{row['n_flips']} of {row['n_questions']} ({row['n_self_flips']})"
    return {**row, "bits": _bits(row), "greedy": greedy, "flips": flips}


def _bits(row: dict[str, Any]) -> str | None:
    """`5.14` and, below, what it is made of: a level's name tells neither."""
    if row["bits_per_weight"] is None:
        return None
    classes = row.get("bits_per_class") or {}
    parts = [f"{SHORT.get(name, name)} {bits:.3g}" for name, bits in classes.items() if name not in UNTOLD]
    return f"{row['bits_per_weight']:.2f}" + (f"\n{' · '.join(parts)}" if parts else "")


LEAST_NATS = 1e-6
"""Below, a divergence is rounding: its digits, and even its sign, mean nothing."""


def _nats(value: float) -> str:
    return f"{value:.1e}" if LEAST_NATS <= value < 1e-3 else significant(value)


def _estimate(estimate: dict[str, Any], n_digits: int | None = None) -> str:
    if n_digits is None and estimate["value"] < LEAST_NATS:
        return f"< {LEAST_NATS:.0e}"

    def show(value: float) -> str:
        return _nats(value) if n_digits is None else f"{value:.{n_digits}f}"

    if estimate["ci_low"] is None:
        return show(estimate["value"])
    return f"{show(estimate['value'])}\n[{show(estimate['ci_low'])}, {show(estimate['ci_high'])}]"

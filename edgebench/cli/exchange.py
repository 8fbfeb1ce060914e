"""`import`, `export` and `db anonymize`: results of other programs in, and results for them out."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, examples, output_option, remark

if TYPE_CHECKING:
    from edgebench.results.records import RunRow
    from edgebench.results.store import Store

FORMATS = ("llama-bench", "lm-eval", "csv", "parquet")


@click.command(
    "import",
    epilog=examples(
        "edgebench import llama-bench.jsonl --db others.sqlite",
        "edgebench import results_2026-01-02.json benchmark.json",
    ),
)
@click.argument("files", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@db_option
@output_option
def import_results(files: tuple[Path, ...], db: Path, output: str) -> None:
    """Take results of other programs: llama-bench (json, jsonl, sql), lm-eval, optimum-benchmark.

    A file is taken whole or not at all, and each row of it once. What is imported was not measured here:
    its evidence is `replayed`, and it never ranks.
    """
    from edgebench.results.import_file import import_file
    from edgebench.results.store import Store

    rows = []
    with Store.open(db) as store:
        for file in files:
            outcome = import_file(store, file)
            n_new = len(outcome.run_ids)
            known = f", {outcome.n_known} of its rows known already" if outcome.n_known else ""
            remark(f"{file}: {outcome.tool}: {n_new} new {'run' if n_new == 1 else 'runs'}{known}")
            runs = [store.run(run_id) for run_id in outcome.run_ids]
            rows += [
                {
                    "id": run.id,
                    "tool": run.runner,
                    "mode": run.mode.value,
                    "model": run.model,
                    "level": run.label,
                    "what": run.suite_id or " ".join(run.config.get("tests", [])),
                    "device": run.device_id,
                    "evidence": run.evidence.value,
                }
                for run in runs
            ]
    names = ("tool", "model", "level", "what", "device", "evidence")
    if rows or output in ("json", "csv"):
        emit(rows, [Column("id", "run"), *(Column(name, name) for name in names)], output)


@click.command(
    "export",
    epilog=examples(
        "edgebench export --format llama-bench --out llama-bench.sqlite",
        "edgebench export --format lm-eval --out lm-eval/",
        "edgebench export 01JD9A --format csv --table trials --out trials.csv",
        "edgebench export --format parquet --out figures.parquet",
    ),
)
@click.argument("runs", nargs=-1, metavar="[RUN]...")
@click.option(
    "--format", "form", type=click.Choice(FORMATS), required=True, help="Whose files the export looks like."
)
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The file, or lm-eval's folder.")
@click.option(
    "--table",
    type=click.Choice(["figures", "trials", "answers"]),
    default="figures",
    show_default=True,
    help="What a csv or parquet file holds.",
)
@click.option(
    "--allow-synthetic", is_flag=True, help="llama-bench, lm-eval: also runs that were not measured here."
)
@click.option("--force", is_flag=True, help="Replace a file that is there.")
@db_option
def export(
    runs: tuple[str, ...], form: str, out: Path, table: str, allow_synthetic: bool, force: bool, db: Path
) -> None:
    """Write runs for other programs; all of them, or those named.

    llama-bench: the table that compare-llama-bench.py reads; the ending of --out chooses SQLite (.sqlite,
    .db), .jsonl, .json or .sql. lm-eval: a results JSON, or one per model into a folder. csv and parquet: a
    plain table with evidence and status in every row.
    """
    from edgebench.results.export_runs import refuse_existing
    from edgebench.results.store import Store

    if not out.is_dir():
        refuse_existing(out, db, force=force)
    with Store.open_readonly(db) as store:
        if form == "llama-bench":
            n = _llama_bench(store, runs, out, allow_synthetic)
        elif form == "lm-eval":
            n = _lm_eval(store, runs, out, allow_synthetic)
        else:
            n = _table(store, runs, out, table, form)
    remark(f"{out}: {n}")


def _llama_bench(store: "Store", runs: tuple[str, ...], out: Path, allow_synthetic: bool) -> str:
    from edgebench.core.types import Mode
    from edgebench.results.export_llama_bench import llama_bench_rows, write_llama_bench
    from edgebench.results.export_runs import comparable_runs, nothing_to_export

    chosen = comparable_runs(store, runs, Mode.PERFORMANCE, allow_synthetic=allow_synthetic)
    rows = llama_bench_rows(store, chosen.runs)
    if not rows:
        raise nothing_to_export(store.path, ["no pp or tg test in these runs"], Mode.PERFORMANCE)
    write_llama_bench(rows, out)
    _tell(chosen.left_out)
    return f"{len(rows)} rows of {len(chosen.runs)} runs"


def _lm_eval(store: "Store", runs: tuple[str, ...], out: Path, allow_synthetic: bool) -> str:
    from edgebench.core.types import Mode
    from edgebench.results.export_lm_eval import lm_eval_files, write_lm_eval
    from edgebench.results.export_runs import comparable_runs, nothing_to_export

    chosen = comparable_runs(store, runs, Mode.ACCURACY, allow_synthetic=allow_synthetic)
    files, left_out = lm_eval_files(store, chosen.runs)
    if not files:
        raise nothing_to_export(store.path, left_out, Mode.ACCURACY)
    paths = write_lm_eval(files, out)
    _tell([*chosen.left_out, *left_out, *_medical_notes(store, chosen.runs)])
    return f"{len(paths)} files" if len(paths) > 1 else paths[0].name


def _table(store: "Store", runs: tuple[str, ...], out: Path, table: str, form: str) -> str:
    from edgebench.core.errors import UsageError
    from edgebench.results.export_runs import chosen_runs
    from edgebench.results.export_tables import table_rows, write_csv, write_parquet

    chosen = chosen_runs(store, runs)
    rows = table_rows(store, chosen, table)
    if not rows:
        raise UsageError(f"{store.path} has no {table} to export", "edgebench runs list shows what is there")
    (write_csv if form == "csv" else write_parquet)(rows, out)
    _tell(_medical_notes(store, chosen))
    return f"{len(rows)} {table} of {len(chosen)} runs"


def _medical_notes(store: "Store", runs: "Iterable[RunRow]") -> list[str]:
    """What must be said of accuracies, once."""
    from edgebench.results.answers import suite_facts

    ids = dict.fromkeys(run.suite_id for run in runs if run.suite_id)
    return list(dict.fromkeys(note for suite_id in ids for note in suite_facts(store, suite_id).notes))


def _tell(lines: Iterable[str]) -> None:
    for line in lines:
        remark(line)


@click.command(
    "anonymize",
    epilog=examples(
        "edgebench db anonymize edgebench.sqlite --out public.sqlite",
        "edgebench db anonymize --db lab.sqlite --out public.sqlite --also ada",
    ),
)
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), required=True, help="The new file.")
@click.option(
    "--also", multiple=True, metavar="WORD", help="A name to remove wherever it stands; repeatable."
)
@db_option
def anonymize_database(file: Path | None, out: Path, also: tuple[str, ...], db: Path) -> None:
    """Copy a database, FILE or --db, without usernames, hostnames, serial numbers, addresses and paths.

    What models wrote is left out, and of suites without a public key the key and every grade.
    """
    from edgebench.results.anonymize import anonymize

    n = anonymize(file or db, out, also)
    remark(f"{out}: {n} texts changed; a name that stands nowhere telling is not known: look, or --also NAME")

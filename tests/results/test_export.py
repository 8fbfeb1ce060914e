"""What is written for other programs: their names and columns, honest about evidence, and readable again."""

import csv
import json
import re
import sqlite3
import subprocess
import sys
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import MissingDependency, UsageError
from edgebench.core.paths import cache_dir
from edgebench.core.types import Evidence, Mode
from edgebench.results.export_llama_bench import BOOLEANS, COLUMNS, llama_bench_rows, write_llama_bench
from edgebench.results.export_lm_eval import lm_eval_files, write_lm_eval
from edgebench.results.export_runs import Chosen, chosen_runs, comparable_runs, refuse_existing
from edgebench.results.export_tables import table_rows, write_csv, write_parquet
from edgebench.results.import_file import import_file
from edgebench.results.store import Store
from edgebench.results.summary import figures

SETTINGS = {
    "n_threads": 4,
    "n_batch": 1024,
    "n_ubatch": 256,
    "n_gpu_layers": 0,
    "flash_attn": "on",
    "type_k": "q8_0",
    "type_v": "f16",
    "mmap": False,
}
SOURCES = sorted(cache_dir().glob("source/llama_cpp_python-*/tools/llama-bench/llama-bench.cpp"))
"""The tool's own source, where the engine was built here."""
SCRIPTS = sorted(cache_dir().glob("source/llama_cpp_python-*/scripts/compare-llama-bench.py"))
KEYS = (
    *("cpu_info", "gpu_info", "backends", "n_gpu_layers", "n_cpu_moe", "tensor_buft_overrides"),
    *("model_filename", "model_type", "n_batch", "n_ubatch", "embeddings", "cpu_mask", "cpu_strict", "poll"),
    *(
        "n_threads",
        "type_k",
        "type_v",
        "load_mode",
        "no_kv_offload",
        "split_mode",
        "main_gpu",
        "tensor_split",
    ),
    *("flash_attn", "n_prompt", "n_gen", "n_depth", "fit_target", "fit_min_ctx"),
)
"""What compare-llama-bench.py joins two builds on: NULL would join nothing."""


@pytest.fixture
def speeds(lab: Any) -> str:
    """A run of four tests in two processes."""
    artifact = lab.artifact("q8_0", 8.5, n_params=1_000_000)
    run_id: str = lab.run(artifact, config={"settings": SETTINGS}, runner_version="0.9")
    for i in range(6):
        place = {"repetition": i, "process_index": i % 2, "started_s": 10.0 * i}
        took_s = 0.5 + 0.013 * i
        lab.trial(run_id, **place, prefill_s=took_s)
        tg = {"test": "tg128", "n_prompt": 0, "n_gen": 128}
        lab.trial(run_id, **place, **tg, decode_s=2 * took_s)
        lab.trial(run_id, **place, **tg | {"test": "tg128@d512", "n_depth": 512}, decode_s=3 * took_s)
        lab.trial(run_id, **place, **tg | {"test": "chat128", "n_prompt": 30}, ttft_s=took_s)
        lab.trial(run_id, **place, **tg | {"test": "sustained60"}, decode_s=took_s)
        both = {"test": "pp512+tg128", "n_gen": 128}
        lab.trial(run_id, **place, **both, prefill_s=took_s, decode_s=2 * took_s)
    lab.trial(run_id, phase="warmup", prefill_s=99.0)
    lab.finish(run_id)
    return run_id


@pytest.fixture
def other(tmp_path: Path) -> Any:
    with Store.open(tmp_path / "other.sqlite") as opened:
        yield opened


def rows_of(store: Store) -> list[dict[str, Any]]:
    return llama_bench_rows(store, comparable_runs(store, [], Mode.PERFORMANCE, allow_synthetic=False).runs)


def rates(store: Store, run_id: str) -> dict[tuple[str, str], Sequence[Any]]:
    return {
        (row["test"], row["metric"]): (row["value"], row["ci_low"], row["ci_high"], row["n"])
        for row in figures(store, run_id)
        if row["metric"].endswith("_tokens_per_s") and row["statistic"] == "median"
    }


@pytest.mark.usefixtures("speeds")
@pytest.mark.parametrize("end", ["jsonl", "json"])
def test_what_was_exported_comes_back_as_it_was(
    store: Store, other: Store, speeds: str, tmp_path: Path, end: str
) -> None:
    out = tmp_path / f"bench.{end}"
    write_llama_bench(rows_of(store), out)
    (run_id,) = import_file(other, out).run_ids
    before, after = rates(store, speeds), rates(other, run_id)
    before = {key: value for key, value in before.items() if key[0] not in ("chat128", "sustained60")}
    assert len(before) == 4
    assert after.keys() == before.keys()
    for key, figure in before.items():
        assert after[key] == pytest.approx(figure, rel=1e-8), key
    run = other.run(run_id)
    assert (run.model, run.quant, run.evidence) == ("tiny", "q8_0", Evidence.REPLAYED)
    assert run.settings == SETTINGS


@pytest.mark.parametrize("end", ["sqlite", "db", "sql"])
def test_the_table_comes_back_by_its_means(
    store: Store, other: Store, speeds: str, tmp_path: Path, end: str
) -> None:
    out = tmp_path / f"bench.{end}"
    rows = rows_of(store)
    write_llama_bench(rows, out)
    (run_id,) = import_file(other, out).run_ids
    means = [row["avg_ts"] for row in rows if (row["n_prompt"], row["n_gen"]) == (512, 0)]
    value = rates(other, run_id)["pp512", "prefill_tokens_per_s"][0]
    assert value == pytest.approx(sum(means) / 2, rel=1e-6)
    again = llama_bench_rows(other, other.runs())
    assert [row["avg_ts"] for row in again] == pytest.approx([row["avg_ts"] for row in rows], rel=1e-6)
    assert {row["build_commit"] for row in again} == {"0.9"}


def test_rows_are_llama_benchs(store: Store, speeds: str) -> None:
    rows = rows_of(store)
    assert speeds
    tests = [(row["n_prompt"], row["n_gen"], row["n_depth"]) for row in rows]
    assert sorted(set(tests)) == [(0, 128, 0), (0, 128, 512), (512, 0, 0), (512, 128, 0)]
    assert len(tests) == 8  # two processes each
    row = next(row for row in rows if row["n_gen"] == 0)
    assert list(row) == [*COLUMNS, "samples_ns", "samples_ts"]
    assert row["samples_ns"] == [500_000_000, 526_000_000, 552_000_000]
    assert row["avg_ns"] == 526_000_000
    assert row["stddev_ns"] == 26_000_000  # of a sample: n - 1
    assert row["avg_ts"] == pytest.approx(sum(512 / t for t in (0.5, 0.526, 0.552)) / 3)
    assert (row["n_threads"], row["type_k"], row["flash_attn"], row["load_mode"]) == (4, "q8_0", 1, "none")
    assert (row["model_type"], row["model_size"]) == ("tiny q8_0", 1_062_500)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row["test_time"])


def test_the_table_has_the_tools_columns_and_joins(store: Store, lab: Any, tmp_path: Path) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    for version, took_s in (("1", 1.0), ("2", 0.5)):
        lab.performance(artifact, [took_s, took_s], config={"settings": SETTINGS}, runner_version=version)
    out = tmp_path / "llama-bench.sqlite"
    write_llama_bench(rows_of(store), out)
    with closing(sqlite3.connect(out)) as connection:
        told = connection.execute("SELECT name, type FROM pragma_table_info('llama_bench')").fetchall()
        assert dict(told) == COLUMNS
        tables = connection.execute("SELECT name FROM sqlite_master").fetchall()
        assert tables == [("llama_bench",)]
        equal = " AND ".join(f"b.{key} = c.{key}" for key in KEYS)
        compared = connection.execute(
            "SELECT avg(b.avg_ts), avg(c.avg_ts) FROM llama_bench b JOIN llama_bench c"
            f" ON {equal} AND b.build_commit = '1' AND c.build_commit = '2' GROUP BY b.n_prompt"
        ).fetchall()
    assert compared == [(512.0, 1024.0)]


@pytest.mark.skipif(not SOURCES, reason="llama.cpp's source is not in the cache: edgebench runners build")
def test_the_columns_are_the_sources() -> None:
    source = SOURCES[-1].read_text(encoding="utf-8")
    block = source[source.index("get_fields() {") : source.index("return fields;")]
    assert tuple(re.findall(r'"(\w+)"', block)) == tuple(COLUMNS)
    types = source[source.index("get_field_type(") : source.index("get_values() const")]
    booleans = re.findall(r'"(\w+)"', types[types.index("return INT;") : types.index("return BOOL;")])
    assert set(booleans) & set(COLUMNS) == set(BOOLEANS)


@pytest.mark.skipif(not SCRIPTS, reason="llama.cpp's source is not in the cache: edgebench runners build")
@pytest.mark.parametrize("end", ["sqlite", "jsonl", "json"])
def test_the_real_script_compares_our_builds(store: Store, lab: Any, tmp_path: Path, end: str) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    for version, took_s in (("1", 1.0), ("2", 0.5)):
        lab.performance(artifact, [took_s, took_s], config={"settings": SETTINGS}, runner_version=version)
    out = tmp_path / f"bench.{end}"
    write_llama_bench(rows_of(store), out)
    # Its two packages are for finding commits and for drawing the table.
    (tmp_path / "git.py").write_text(
        "class InvalidGitRepositoryError(Exception): pass\nCommit = object\n"
        "def Repo(*a, **k): raise InvalidGitRepositoryError\n"
    )
    (tmp_path / "tabulate.py").write_text("def tabulate(rows, **k): return str([list(r) for r in rows])\n")
    done = subprocess.run(
        [sys.executable, str(SCRIPTS[-1]), "--tool", "llama-bench", "-i", str(out), "-b", "1", "-c", "2"],
        env={"PYTHONPATH": str(tmp_path)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "pp512" in done.stdout
    assert "512" in done.stdout
    assert "1024" in done.stdout
    assert "2.0" in done.stdout  # twice as fast


def test_gpus_are_named_as_llama_bench_names_them(store: Store, lab: Any) -> None:
    run_id = lab.run(lab.artifact("q8_0", 8.5), config={"settings": SETTINGS | {"n_gpu_layers": 99}})
    gpu, cpu = {"description": "Imaginary RTX", "kind": "gpu"}, {"description": "CPU", "kind": "cpu"}
    store.set_engine(
        run_id, {"backends": ["cuda", "cpu"], "devices": [gpu, cpu], "model_description": "tiny 1B"}
    )
    lab.trial(run_id, prefill_s=0.5)
    lab.finish(run_id)
    (row,) = rows_of(store)
    assert (row["backends"], row["gpu_info"], row["n_gpu_layers"]) == ("CUDA", "Imaginary RTX", 99)
    assert row["model_type"] == "tiny 1B"


def test_a_strangers_quote_stays_inside_its_text(
    store: Store, other: Store, lab: Any, tmp_path: Path
) -> None:
    artifact = lab.artifact("q8_0", 8.5, model="it's'); DROP TABLE llama_bench; --")
    lab.performance(artifact, [1.0], config={"settings": SETTINGS})
    out = tmp_path / "bench.sql"
    write_llama_bench(rows_of(store), out)
    assert len(import_file(other, out).run_ids) == 1


def test_only_what_was_measured_goes_where_evidence_has_no_place(store: Store, lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    lab.performance(artifact, [1.0], evidence=Evidence.SYNTHETIC)
    with pytest.raises(UsageError, match=r"nothing to export.*not measured here but synthetic"):
        comparable_runs(store, [], Mode.PERFORMANCE, allow_synthetic=False)
    measured = lab.performance(artifact, [1.0])
    lab.run(artifact)  # still running
    lab.performance(artifact, [1.0], config={"protocol": "tune"})
    chosen: Chosen = comparable_runs(store, [], Mode.PERFORMANCE, allow_synthetic=False)
    assert [run.id for run in chosen.runs] == [measured]
    assert len(chosen.left_out) == 3
    assert len(comparable_runs(store, [], Mode.PERFORMANCE, allow_synthetic=True).runs) == 2


def test_named_runs_alone_are_taken(store: Store, lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    ids = [lab.performance(artifact, [1.0]) for _ in range(3)]
    assert [run.id for run in chosen_runs(store, [ids[1], ids[1]])] == [ids[1]]
    assert [run.id for run in chosen_runs(store, [])] == ids
    with pytest.raises(UsageError, match="no run begins with"):
        chosen_runs(store, ["ZZZ"])


@pytest.mark.parametrize("end", ["csv", "txt", ""])
def test_an_ending_without_a_form_is_refused(tmp_path: Path, end: str) -> None:
    with pytest.raises(UsageError, match="does not end in"):
        write_llama_bench([], tmp_path / f"bench.{end}")
    assert list(tmp_path.glob("*bench*")) == []


def test_no_file_is_replaced_by_accident(store: Store, tmp_path: Path) -> None:
    out = tmp_path / "there.json"
    refuse_existing(out, store.path, force=False)
    out.write_text("mine")
    with pytest.raises(UsageError, match="is there already"):
        refuse_existing(out, store.path, force=False)
    refuse_existing(out, store.path, force=True)
    with pytest.raises(UsageError, match="the database itself"):
        refuse_existing(store.path, store.path, force=True)


# lm-eval


@pytest.fixture
def answered(lab: Any) -> str:
    suite = lab.asked("exam", n=40, subjects=("art", "law"))
    artifact = lab.artifact("q4_0", 4.5, n_params=1000)
    run_id: str = lab.answered(artifact, suite, lambda question, _: int(question.id[1:]) % 3)
    return run_id


def accuracy_files(store: Store) -> tuple[dict[str, dict[str, Any]], list[str]]:
    return lm_eval_files(store, comparable_runs(store, [], Mode.ACCURACY, allow_synthetic=False).runs)


def test_lm_eval_reads_and_gives_back_what_was_scored(
    store: Store, other: Store, answered: str, tmp_path: Path
) -> None:
    files, left_out = accuracy_files(store)
    (path,) = write_lm_eval(files, tmp_path / "results.json")
    assert left_out == []
    file = json.loads(path.read_text())
    assert {"results", "versions", "n-shot", "n-samples", "configs", "config", "higher_is_better"} <= set(
        file
    )
    assert file["group_subtasks"] == {"exam": ["exam_art", "exam_law"]}
    assert "lm_eval_version" not in file  # it was not lm-eval
    assert file["edgebench_version"]
    before = {(row["test"], row["metric"]): row for row in figures(store, answered)}
    whole = before["exam@1", "acc"]
    assert file["results"]["exam"]["acc,none"] == whole["value"]
    assert file["results"]["exam"]["acc_stderr,none"] == before["exam@1", "acc_stderr_pooled"]["value"]
    assert file["n-samples"]["exam"] == {"original": 40, "effective": 40}

    (run_id,) = import_file(other, path).run_ids
    after = {(row["test"], row["metric"]): row for row in figures(other, run_id)}
    for test, theirs in (
        ("exam@1", "exam@lm-eval-1"),
        ("exam@1/subject/law", "exam@lm-eval-1/subject/exam_law"),
    ):
        for name in ("value", "ci_low", "ci_high", "n"):
            assert after[theirs, "acc"][name] == before[test, "acc"][name], (test, name)
    run = other.run(run_id)
    assert (run.model, run.quant) == ("tiny", "q4_0")


def test_a_file_holds_one_model(store: Store, lab: Any, tmp_path: Path) -> None:
    for quant, model in (("q8_0", "tiny"), ("q4_0", "../../tiny")):
        lab.accuracy(lab.artifact(quant, 8.5, model=model), [0, 1, 0, 2])
    files, _ = accuracy_files(store)
    with pytest.raises(UsageError, match="holds one model"):
        write_lm_eval(files, tmp_path / "results.json")
    paths = write_lm_eval(files, tmp_path / "lm")
    assert len(paths) == 2
    assert {path.parent for path in paths} == {tmp_path / "lm"}


def test_what_lm_eval_has_no_name_for_is_left_out(store: Store, lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    old = lab.accuracy(artifact, [1, 1, 1, 1])
    new = lab.accuracy(artifact, [0, 0, 0, 0])
    lab.accuracy(artifact, [0, 0, 0, 0], shape="alone")
    suite = lab.asked("turned", n=4)
    lab.answered(artifact, suite, lambda question, _: 0, permute="cyclic")
    files, left_out = accuracy_files(store)
    (file,) = files.values()
    assert file["results"]["everyday"]["acc,none"] == 1.0
    assert new
    assert [line.partition(" left out: ")[2].split(":")[0] for line in left_out] == [
        "it asked every rotation of the options",
        "a noise floor",
        "a newer run of everyday is there",
    ]
    assert left_out[-1].startswith(old)


def test_grades_by_a_key_that_is_not_public_stay_here(store: Store, lab: Any) -> None:
    artifact = lab.artifact("q8_0", 8.5)
    suite = lab.asked("secret", n=8, key_sha256="a" * 64)
    lab.answered(artifact, suite, lambda question, _: question.answer_index)
    files, left_out = accuracy_files(store)
    assert files == {}
    assert "key is not public" in left_out[0]
    runs = chosen_runs(store, [])
    metrics = {row["metric"] for row in table_rows(store, runs, "figures")}
    assert metrics
    assert all(metric.startswith("share_choice_") for metric in metrics)
    answers = table_rows(store, runs, "answers")
    assert [row["correct"] for row in answers] == [None] * 8
    assert all(row["choice_index"] is not None for row in answers)


# Plain tables


@pytest.mark.usefixtures("speeds", "answered")
@pytest.mark.parametrize("table", ["figures", "trials", "answers"])
def test_tables_hold_every_row_with_its_evidence(store: Store, tmp_path: Path, table: str) -> None:
    rows = table_rows(store, chosen_runs(store, []), table)
    stored = "summary" if table == "figures" else table.removesuffix("s")
    assert len(rows) == store.rows(f"SELECT count(*) AS n FROM {stored}")[0]["n"]
    assert {(row["evidence"], row["status"]) for row in rows} == {("measured", "complete")}
    assert not {"output_text", "answer_index", "logprobs_json"} & rows[0].keys()
    out = tmp_path / "t.csv"
    write_csv(rows, out)
    with out.open(newline="", encoding="utf-8") as handle:
        read = list(csv.DictReader(handle))
    assert [{k: "" if v is None else str(v) for k, v in row.items()} for row in rows] == read


@pytest.mark.usefixtures("speeds", "answered")
@pytest.mark.parametrize("table", ["figures", "trials", "answers"])
def test_parquet_holds_the_same(store: Store, tmp_path: Path, table: str) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow is not installed: pip install pyarrow")
    rows = table_rows(store, chosen_runs(store, []), table)
    out = tmp_path / "t.parquet"
    write_parquet(rows, out)
    assert parquet.read_table(out).to_pylist() == rows


def test_without_pyarrow_a_line_says_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(MissingDependency, match="needs pyarrow"):
        write_parquet([{"a": 1}], tmp_path / "t.parquet")
    assert list(tmp_path.iterdir()) == []

"""Files of other programs: taken whole and once, marked as not measured here, or refused in one line."""

import json
import random
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import EdgebenchError, UsageError
from edgebench.core.hashing import sha256_file
from edgebench.core.types import Evidence, Mode
from edgebench.results.export_llama_bench import COLUMNS
from edgebench.results.import_file import import_file
from edgebench.results.import_store import add_told_figures, split_level
from edgebench.results.levels import level_rows
from edgebench.results.merge import merge
from edgebench.results.pareto import front, metric
from edgebench.results.store import Store
from edgebench.results.summary import figures, rebuild

PP = {
    "build_commit": "8cf427ff",
    "build_number": 5163,
    "cpu_info": "Imaginary 9000",
    "gpu_info": "",
    "backends": "CPU",
    "model_filename": "/Users/bob/models/Tiny-1B-Q4_K_M.gguf",
    "model_type": "tiny 1B Q4_K - Medium",
    "model_size": 600_000_000,
    "model_n_params": 1_000_000_000,
    "n_batch": 2048,
    "n_ubatch": 512,
    "n_threads": 8,
    "cpu_strict": False,
    "type_k": "f16",
    "type_v": "f16",
    "n_gpu_layers": 0,
    "flash_attn": -1,
    "load_mode": "mmap",
    "n_prompt": 512,
    "n_gen": 0,
    "n_depth": 0,
    "test_time": "2026-01-02T03:04:05Z",
    "avg_ns": 2_000_000_000,
    "stddev_ns": 1,
    "avg_ts": 256.0,
    "stddev_ts": 1.0,
    "samples_ns": [1_900_000_000, 2_000_000_000, 2_100_000_000],
    "samples_ts": [269.5, 256.0, 243.8],
}
TG = PP | {"n_prompt": 0, "n_gen": 128, "n_depth": 4096, "avg_ns": 4_000_000_000, "avg_ts": 32.0}
TG["samples_ns"] = [4_000_000_000] * 3
PG = PP | {"n_gen": 128, "avg_ns": 3_200_000_000, "avg_ts": 200.0, "samples_ns": [3_200_000_000] * 2}

LM_EVAL = {
    "results": {
        "tiny": {"alias": "tiny", "acc,none": 0.5, "acc_stderr,none": 0.0625, "acc_norm,none": 0.45},
        "tiny_a": {"alias": " - a", "acc,none": 0.75, "acc_stderr,none": "N/A"},
        "tiny_b": {"alias": " - b", "acc,none": 0.25, "acc_stderr,none": 0.1},
        "story": {"exact_match,strict-match": 0.125, "exact_match_stderr,strict-match": 0.01},
    },
    "group_subtasks": {"tiny": ["tiny_a", "tiny_b"]},
    "versions": {"tiny": 2, "tiny_a": 2, "tiny_b": 2, "story": 1.0},
    "n-shot": {"tiny": 5, "story": 0},
    "n-samples": {
        "tiny_a": {"original": 100, "effective": 32},
        "tiny_b": {"original": 100, "effective": 32},
        "story": {"original": 8, "effective": 8},
    },
    "config": {"model": "hf", "model_args": "pretrained=org/Tiny-1B", "batch_size": "8", "limit": 32.0},
    "date": 1_767_323_045.0,
    "lm_eval_version": "0.4.9",
    "model_name": "org/Tiny-1B",
}
LATENCY = {"unit": "s", "count": 2, "total": 1.0}
OPTIMUM = {
    "config": {
        "backend": {"name": "pytorch", "version": "2.5", "model": "org/Tiny-1B", "torch_dtype": "float16"},
        "scenario": {
            "name": "inference",
            "input_shapes": {"batch_size": 1, "sequence_length": 64},
            "generate_kwargs": {"max_new_tokens": 33, "min_new_tokens": 33},
        },
        "environment": {"cpu": " Imaginary 9000", "cpu_ram_mb": 16_000.0, "system": "Linux"},
    },
    "report": {
        "load_model": {"latency": {**LATENCY, "values": [2.0], "mean": 2.0}},
        "prefill": {
            "memory": {"unit": "MB", "max_ram": 900.5},
            "latency": {**LATENCY, "values": [0.25, 0.5], "mean": 0.375},
            "throughput": {"unit": "samples/s", "value": 2.6667},
            "energy": {"unit": "kWh", "total": 0.1},
        },
        "decode": {
            "memory": {"unit": "MB", "max_ram": 901.0},
            "latency": {**LATENCY, "values": [1.0, 2.0], "mean": 1.5},
            "throughput": {"unit": "tokens/s", "value": 21.3333},
        },
        "per_token": {"latency": {**LATENCY, "values": [0.01], "mean": 0.01}},
    },
}


@pytest.fixture
def write(tmp_path: Path) -> Any:
    """`write(name, value)`: a file with this text, these bytes, or this value as JSON."""

    def make(name: str, value: Any) -> Path:
        path = tmp_path / name
        if not isinstance(value, bytes):
            value = (value if isinstance(value, str) else json.dumps(value)).encode()
        path.write_bytes(value)
        return path

    return make


def told(store: Store, run_id: str) -> dict[tuple[str, str, str], dict[str, Any]]:
    return {(row["test"], row["metric"], row["statistic"]): row for row in figures(store, run_id)}


def statements(*rows: dict[str, Any]) -> str:
    names = [name for name in PP if not name.startswith("samples")]
    columns = ", ".join(f"{name} {COLUMNS[name]}" for name in names)
    lines = [f"CREATE TABLE IF NOT EXISTS llama_bench (\n  {columns}\n);\n"]
    for row in rows:
        values = ", ".join(f"'{int(v) if isinstance(v, bool) else v}'" for v in (row[name] for name in names))
        lines.append(f"INSERT INTO llama_bench ({', '.join(names)}) VALUES ({values});\n")
    return "\n".join(lines)


@pytest.mark.parametrize("lines", [False, True], ids=["json", "jsonl"])
def test_llama_bench_has_its_repetitions(store: Store, write: Any, lines: bool) -> None:
    text = "\n".join(map(json.dumps, [PP, TG, PG])) if lines else json.dumps([PP, TG, PG])
    path = write("bench", text)
    (run_id,) = import_file(store, path).run_ids
    run = store.run(run_id)
    assert (run.model, run.quant, run.mode) == ("Tiny-1B", "q4_k_m", Mode.PERFORMANCE)
    assert (run.runner, run.runner_version) == ("llama-bench", "5163 (8cf427ff)")
    assert run.started_at.startswith("2026-01-02T03:04:05")
    assert run.bits_per_weight == pytest.approx(4.8)
    assert run.settings["flash_attn"] == "auto"
    assert run.settings["mmap"] is True
    found = told(store, run_id)
    assert found["pp512", "prefill_tokens_per_s", "median"]["value"] == pytest.approx(256.0)
    assert found["pp512", "prefill_tokens_per_s", "median"]["n"] == 3
    assert found["tg128@d4096", "decode_tokens_per_s", "median"]["value"] == pytest.approx(32.0)
    assert found["pp512+tg128", "total_tokens_per_s", "median"]["value"] == pytest.approx(200.0)


def test_one_row_alone_is_taken(store: Store, write: Any) -> None:
    assert len(import_file(store, write("one.jsonl", json.dumps(PP))).run_ids) == 1


def test_rows_of_one_setting_are_processes_of_one_run(store: Store, write: Any) -> None:
    later = PP | {"test_time": "2026-01-02T04:00:00Z"}
    other = PP | {"n_threads": 4}
    outcome = import_file(store, write("bench.json", [PP, later, other]))
    runs = {store.run(run_id).settings["n_threads"]: run_id for run_id in outcome.run_ids}
    sql = "SELECT DISTINCT process_index AS i FROM trial WHERE run_id = ? ORDER BY i"
    assert [row["i"] for row in store.rows(sql, (runs[8],))] == [0, 1]
    assert [row["i"] for row in store.rows(sql, (runs[4],))] == [0]


def test_statements_and_their_database_give_the_mean(store: Store, write: Any, tmp_path: Path) -> None:
    path = write("bench.sql", statements(PP, TG))
    (run_id,) = import_file(store, path).run_ids
    figure = told(store, run_id)["pp512", "prefill_tokens_per_s", "median"]
    assert (figure["value"], figure["n"], figure["ci_low"]) == (pytest.approx(256.0), 1, None)
    assert store.run(run_id).config["only_means"] is True
    database = tmp_path / "bench.sqlite"
    with closing(sqlite3.connect(database)) as connection:
        connection.executescript(path.read_text())
    before = sha256_file(database)
    assert import_file(store, database).n_known == 2
    assert sha256_file(database) == before


def test_the_same_is_taken_once_in_whatever_form(store: Store, write: Any) -> None:
    first = write("a.json", [PP, TG])
    assert len(import_file(store, first).run_ids) == 1
    for path in (
        first,
        write("a.jsonl", "\n".join(map(json.dumps, [PP, TG]))),
        write("a.sql", statements(PP)),
    ):
        outcome = import_file(store, path)
        assert outcome.run_ids == ()
        assert outcome.n_known > 0
    grown = import_file(store, write("b.json", [PP, TG, PG]))
    assert (len(grown.run_ids), grown.n_known) == (1, 2)
    assert store.run(grown.run_ids[0]).config["tests"] == ["pp512+tg128"]
    assert len(store.runs()) == 2


def test_two_databases_give_a_file_the_same_ids(lab: Any, write: Any, tmp_path: Path) -> None:
    path = write("lm.json", LM_EVAL)
    with Store.open(tmp_path / "other.sqlite") as other:
        assert import_file(other, path).run_ids == import_file(lab.store, path).run_ids


def test_lm_eval_has_its_figures(store: Store, write: Any) -> None:
    path = write("results.json", LM_EVAL)
    by_suite = {store.run(i).suite_id: store.run(i) for i in import_file(store, path).run_ids}
    assert set(by_suite) == {"tiny@lm-eval-2", "story@lm-eval-1.0"}
    run = by_suite["tiny@lm-eval-2"]
    assert (run.model, run.runner, run.runner_version) == ("Tiny-1B", "lm-eval", "0.4.9")
    assert run.config["num_fewshot"] == 5
    found = told(store, run.id)
    acc = found["tiny@lm-eval-2", "acc", "mean"]
    assert (acc["value"], acc["n"]) == (0.5, 64)
    assert acc["ci_low"] < 0.5 < acc["ci_high"]
    assert found["tiny@lm-eval-2", "acc_stderr", "lm_eval"]["value"] == 0.0625
    # 0.45 of 64 is no count of answers: its interval is not known.
    assert found["tiny@lm-eval-2", "acc_norm", "mean"]["ci_low"] is None
    assert found["tiny@lm-eval-2/subject/tiny_a", "acc", "mean"]["n"] == 32
    assert ("tiny@lm-eval-2/subject/tiny_a", "acc_stderr", "lm_eval") not in found
    story = told(store, by_suite["story@lm-eval-1.0"].id)
    assert story["story@lm-eval-1.0", "exact_match@strict-match", "mean"]["value"] == 0.125


def test_groups_of_groups_are_one_run(store: Store, write: Any) -> None:
    results = {name: {"acc,none": 0.5} for name in ("all", "part", "leaf")}
    value = LM_EVAL | {"results": results, "group_subtasks": {"all": ["part"], "part": ["leaf"], "leaf": []}}
    value["n-samples"] = {"leaf": {"original": 10, "effective": 10}}
    (run_id,) = import_file(store, write("g.json", value)).run_ids
    tests = {test for test, _, _ in told(store, run_id)}
    assert tests == {"all@lm-eval-0", "all@lm-eval-0/category/part", "all@lm-eval-0/subject/leaf"}


@pytest.mark.parametrize(("task", "medical"), [("medqa_4options", 1), ("mmlu_anatomy", 1), ("arc_easy", 0)])
def test_medical_tasks_keep_their_note(store: Store, write: Any, task: str, medical: int) -> None:
    import_file(
        store, write("r.json", LM_EVAL | {"results": {task: {"acc,none": 0.5}}, "group_subtasks": {}})
    )
    assert store.rows("SELECT medical FROM suite")[0]["medical"] == medical


def test_optimum_benchmark_has_its_repetitions(store: Store, write: Any) -> None:
    (run_id,) = import_file(store, write("benchmark.json", OPTIMUM)).run_ids
    run, found = store.run(run_id), told(store, run_id)
    assert (run.model, run.quant, run.runner) == ("Tiny-1B", "float16", "optimum-benchmark")
    assert found["prefill64", "prefill_tokens_per_s", "median"]["value"] == pytest.approx((256 + 128) / 2)
    assert found["decode32@d64", "decode_tokens_per_s", "median"]["value"] == pytest.approx((32 + 16) / 2)
    assert found["*", "load_s", "median"]["value"] == 2.0
    assert found["*", "peak_rss_bytes", "max"]["value"] == 901_000_000
    assert not any("energy" in metric for _, metric, _ in found)  # nobody knows whether it was measured


def test_a_report_without_its_configuration_tells_what_it_can(store: Store, write: Any) -> None:
    (run_id,) = import_file(store, write("benchmark_report.json", OPTIMUM["report"])).run_ids
    assert store.run(run_id).config["tests"] == ["decode32"]


def test_a_batch_is_no_request(store: Store, write: Any) -> None:
    value = json.loads(json.dumps(OPTIMUM))
    value["config"]["scenario"]["input_shapes"]["batch_size"] = 8
    with pytest.raises(UsageError, match="batches of 8"):
        import_file(store, write("b.json", value))


@pytest.mark.parametrize("value", [[PP, TG], LM_EVAL, OPTIMUM], ids=["llama-bench", "lm-eval", "optimum"])
def test_provenance_stays_and_nothing_ranks(store: Store, write: Any, value: Any) -> None:
    path = write("results.json", value)
    for run_id in import_file(store, path).run_ids:
        run = store.run(run_id)
        assert run.evidence is Evidence.REPLAYED
        assert run.timing_source == "engine"
        assert run.config["imported"]["sha256"] == sha256_file(path)
        assert run.config["imported"]["tool"] == run.runner
        assert run.runner_version
        assert run.config["imported"]["file"] == "results.json"


def test_imported_speeds_are_shown_and_beat_nobody(store: Store, write: Any) -> None:
    import_file(store, write("a.json", [PP, PP | {"n_prompt": 0, "n_gen": 128}]))
    found = front(level_rows(store), metric("pp"), metric("tg"))
    assert [(point.ranked, point.on_front) for point in found.points] == [(False, False)]


@pytest.mark.parametrize("value", [[PP, PG], LM_EVAL], ids=["llama-bench", "lm-eval"])
def test_summaries_made_anew_have_what_only_the_file_told(store: Store, write: Any, value: Any) -> None:
    ids = import_file(store, write("a.json", value)).run_ids
    before = [figures(store, run_id) for run_id in ids]
    rebuild(store)
    add_told_figures(store)
    assert [figures(store, run_id) for run_id in ids] == before


def test_figures_of_a_merged_stranger_write_nothing_else(store: Store, write: Any) -> None:
    (run_id,) = import_file(store, write("a.json", [PG])).run_ids
    evil = {"test": "x", "metric": "m", "statistic": "s", "value": 1.0, "n": 1, "n) SELECT 1 --": "x"}
    with store.transaction() as connection:
        sql = "UPDATE run SET engine_json = ? WHERE id = ?"
        connection.execute(sql, (json.dumps({"figures": [evil]}), run_id))
    rebuild(store)
    add_told_figures(store)
    assert told(store, run_id)["x", "m", "s"]["value"] == 1.0


def test_no_folder_of_a_strangers_is_kept(store: Store, write: Any) -> None:
    for i, name in enumerate(
        ("/Users/bob/x/Tiny-Q8_0.gguf", "C:\\Users\\bob\\Tiny-Q8_0.gguf", "../../Tiny-Q8_0")
    ):
        import_file(store, write(f"{i}.json", [PP | {"model_filename": name, "n_threads": i}]))
    assert {(run.model, run.quant) for run in store.runs()} == {("Tiny", "q8_0")}
    cells = store.rows("SELECT config_json || engine_json || command AS cell FROM run")
    assert not any("bob" in row["cell"] or ".." in row["cell"] for row in cells)


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        ("Tiny-1B-Q4_K_M.gguf", ("Tiny-1B", "q4_k_m")),
        ("tiny.F16.gguf", ("tiny", "f16")),
        ("tiny-IQ4_XS.gguf", ("tiny", "iq4_xs")),
        ("tiny.gguf", ("tiny", "unknown")),
        ("q8_0.gguf", ("q8_0", "unknown")),
        ("", ("", "unknown")),
    ],
)
def test_a_files_name_tells_its_level(name: str, wanted: tuple[str, str]) -> None:
    assert split_level(name) == wanted


DEEP = "[" * 1_000_000 + "]" * 1_000_000
HOSTILE: dict[str, Any] = {
    "empty": "",
    "blank": " \n\t ",
    "binary": b"\x00\xff\xfe\x01" * 10,
    "not results": '{"a": 1}',
    "a number": "12",
    "null": "null",
    "empty list": "[]",
    "truncated": json.dumps([PP, TG])[:-40],
    "truncated lines": json.dumps(PP) + "\n" + json.dumps(TG)[:-5],
    "a bad line": json.dumps(PP) + "\nnonsense\n",
    "a line of another kind": json.dumps(PP) + "\n[1]\n",
    "deep": DEEP,
    "deep inside": json.dumps(PP)[:-1] + ', "x": ' + DEEP + "}",
    "objects deep": '{"results":' * 200_000 + "1" + "}" * 200_000,
    "NaN": json.dumps([PP | {"avg_ts": float("nan")}]),
    "infinity": json.dumps([PP | {"samples_ns": [float("inf")]}]),
    "beyond floats": json.dumps([PP]).replace("256.0", "1e999", 1),
    "a huge whole number": json.dumps([PP]).replace("600000000", "9" * 400),
    "digits without end": json.dumps([PP]).replace("600000000", "9" * 10_000),
    "huge count": [PP | {"n_prompt": 2**60}],
    "negative count": [PP | {"n_prompt": -512}],
    "half a token": [PP | {"n_gen": 0.5}],
    "no test": [PP | {"n_prompt": 0}],
    "no time": [PP | {"samples_ns": [0, 1]}],
    "negative time": [PP | {"samples_ns": [-5]}],
    "text for times": [PP | {"samples_ns": "fast"}],
    "texts among times": [PP | {"samples_ns": [1e9, "2"]}],
    "rate of nothing": [PP | {"samples_ns": None, "avg_ts": 0}],
    "text for a rate": [PP | {"samples_ns": None, "avg_ts": "256"}],
    "list for a name": [PP | {"model_filename": ["a"]}],
    "object for a name": [PP | {"cpu_info": {"a": 1}}],
    "one bad row of two": [PP, TG | {"n_gen": "many"}],
    "another program's rows": [{"a": 1}],
    "results of lists": LM_EVAL | {"results": {"tiny": [1]}},
    "no figure": LM_EVAL | {"results": {"tiny": {"alias": "tiny"}}, "group_subtasks": {}},
    "a share of 7": LM_EVAL | {"results": {"story": {"acc,none": 7}}},
    "a NaN share": json.dumps(LM_EVAL | {"results": {"story": {"acc,none": float("nan")}}}),
    "list for a share": LM_EVAL | {"results": {"story": {"acc,none": [1]}}},
    "members of nothing": LM_EVAL | {"group_subtasks": {"tiny": "tiny_a"}},
    "members are numbers": LM_EVAL | {"group_subtasks": {"tiny": [1]}},
    "a circle of groups": LM_EVAL
    | {"results": {"a": {"acc,none": 1}, "b": {"acc,none": 1}}, "group_subtasks": {"a": ["b"], "b": ["a"]}},
    "samples are text": LM_EVAL | {"n-samples": {"story": "8"}},
    "minutes": {"decode": {"latency": {"unit": "min", "values": [1]}, "throughput": {"value": 9}}},
    "latency is a list": {"decode": {"latency": [1]}},
    "no values": {"decode": {"latency": {"unit": "s", "values": []}}},
    "statements of another kind": "CREATE TABLE secrets (a);",
    "statements without rows": "CREATE TABLE llama_bench (a);",
    "a name with a quote": statements(PP | {"cpu_info": "Bob's"}),
}
ATTACKS = {
    "another file": "ATTACH '{folder}/x.sqlite' AS x; CREATE TABLE x.llama_bench (a);",
    "a file by a query": "INSERT INTO llama_bench SELECT writefile('{folder}/x.sqlite', 'x');",
    "a dump": "VACUUM INTO '{folder}/x.sqlite';",
    "blobs": "INSERT INTO llama_bench (n_gen) VALUES (zeroblob(2000000000));",
    "no end": "INSERT INTO llama_bench (n_gen) WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x+1 FROM c)"
    " SELECT x FROM c;",
    "a pragma": "PRAGMA writable_schema = ON;",
    "a trigger": "CREATE TRIGGER t AFTER INSERT ON llama_bench BEGIN SELECT 1; END;",
    "a view": "CREATE VIEW test AS SELECT 1;",
    "an extension": "SELECT load_extension('x');",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_files_are_told_in_a_line_and_leave_nothing(store: Store, write: Any, name: str) -> None:
    path = write("hostile.json", HOSTILE[name])
    with pytest.raises(UsageError) as refused:
        import_file(store, path)
    assert str(path) in refused.value.message
    assert "\n" not in refused.value.message
    assert len(refused.value.message) < 600
    for table in ("run", "trial", "model", "artifact", "device", "suite", "summary"):
        assert store.rows(f"SELECT count(*) AS n FROM {table}")[0]["n"] == 0


@pytest.mark.parametrize("name", ATTACKS)
def test_statements_may_do_nothing_but_fill_the_table(
    store: Store, write: Any, tmp_path: Path, name: str
) -> None:
    path = write("attack.sql", statements(PP) + ATTACKS[name].format(folder=tmp_path))
    with pytest.raises(UsageError, match="is not what llama-bench -o sql writes"):
        import_file(store, path)
    assert not (tmp_path / "x.sqlite").exists()
    assert store.runs() == []


@pytest.mark.parametrize("sql", ["CREATE VIEW llama_bench AS SELECT 1 AS n_prompt", "CREATE TABLE run (id)"])
def test_databases_without_the_table_are_refused(store: Store, tmp_path: Path, sql: str) -> None:
    path = tmp_path / "other.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(sql)
        connection.commit()
    with pytest.raises(UsageError, match="no table llama_bench"):
        import_file(store, path)


def test_a_damaged_database_is_refused(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "damaged.sqlite"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript(
            "BEGIN;" + statements(*[PP | {"n_threads": i} for i in range(400)]) + "COMMIT;"
        )
    data = bytearray(path.read_bytes())
    data[2000:] = b"\xff" * (len(data) - 2000)
    path.write_bytes(data)
    with pytest.raises(UsageError, match="can't be imported"):
        import_file(store, path)


def test_a_file_that_is_too_large_is_not_read(
    store: Store, write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("edgebench.results.import_read.MAX_BYTES", 1000)
    with pytest.raises(UsageError, match="is larger than"):
        import_file(store, write("large.json", [PP, TG]))


def test_a_limit_of_questions_makes_no_other_suite(store: Store, write: Any, tmp_path: Path) -> None:
    hashed = [
        LM_EVAL | {"task_hashes": {"tiny": digest}, "date": float(i)} for i, digest in enumerate("ab", 1)
    ]
    import_file(store, write("a.json", hashed[0]))
    with Store.open(tmp_path / "other.sqlite") as other:
        import_file(other, write("b.json", hashed[1]))
    assert merge(store, tmp_path / "other.sqlite").n_new == 2


def test_a_missing_file_and_a_folder_are_told(store: Store, tmp_path: Path) -> None:
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="can't be read"):
            import_file(store, path)


def test_texts_of_strangers_are_fit_to_be_shown(store: Store, write: Any) -> None:
    name = "<script>\x1b[31m\n\ud800" + "x" * 10_000
    import_file(store, write("a.json", [PP | {"cpu_info": name}]))
    (device,) = store.rows("SELECT name, id FROM device")
    assert device["name"].isprintable()
    assert len(device["name"]) <= 200
    assert len(device["id"]) < 100


def refusal(store: Store, path: Path) -> str | None:
    """Why a file was refused, if it was."""
    try:
        import_file(store, path)
    except EdgebenchError as error:
        return error.message
    return None


def test_fuzzed_files_never_crash(store: Store, write: Any) -> None:
    """Values of real files replaced by anything: taken, or refused in a line."""
    seeds = [[PP, TG], LM_EVAL, OPTIMUM, OPTIMUM["report"]]
    odd = [
        None,
        True,
        -1,
        0,
        1e300,
        2**70,
        "",
        "x" * 500,
        "\ud800",
        "nan",
        [],
        [[]],
        {},
        {"a": {}},
        [None],
        0.5,
    ]
    rng = random.Random(7)
    n_refused = 0
    for i in range(400):
        value = json.loads(json.dumps(rng.choice(seeds)))
        for _ in range(rng.randint(1, 3)):
            place: Any = value
            while True:
                keys = list(place) if isinstance(place, dict) else list(range(len(place)))
                key = rng.choice(keys) if keys else None
                if key is None:
                    break
                if not isinstance(place[key], dict | list) or rng.random() < 0.2:
                    place[key] = rng.choice(odd)
                    break
                place = place[key]
        refused = refusal(store, write("fuzz.json", json.dumps(value)))
        n_refused += refused is not None
        assert "\n" not in (refused or ""), i
    assert 60 < n_refused < 400
    for run in store.runs():
        assert run.evidence is Evidence.REPLAYED

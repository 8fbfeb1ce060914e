"""The verbs that read the database and keep house: runs, compare, pareto, db, cache."""

import json

import pytest


@pytest.fixture
def ask(edgebench):
    def call(*args, **more):
        done = edgebench(*args, "-o", "json", **more)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return call


def refused(done, code, *words):
    assert done.returncode == code
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


# runs


def test_runs_are_listed_newest_first(measured, ask):
    listed = ask("runs", "list")
    assert len(listed) == 6  # two levels: speed, accuracy, noise floor
    assert [r["started_at"] for r in listed] == sorted((r["started_at"] for r in listed), reverse=True)
    assert sum("noise floor" in r["what"] for r in listed) == 2


def test_a_run_goes_by_the_beginning_of_its_id_or_latest(measured, ask):
    newest, *_, oldest = ask("runs", "list")
    assert ask("runs", "show", "latest")["id"] == ask("runs", "show")["id"] == newest["id"]
    assert ask("runs", "show", oldest["id"])["id"] == oldest["id"]
    assert ask("runs", "show", oldest["id"][:-3].lower())["id"] == oldest["id"]


def test_a_shown_run_carries_its_settings_and_figures(measured, ask):
    run = next(r for r in ask("runs", "list") if r["mode"] == "performance")
    shown = ask("runs", "show", run["id"])
    assert shown["config"]["repetitions"] == 3
    assert shown["evidence"] == "synthetic"
    assert {"prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s"} <= {
        f["metric"] for f in shown["figures"]
    }


def test_an_ambiguous_or_unknown_run_lists_candidates(measured, edgebench, ask):
    ids = [r["id"] for r in ask("runs", "list")]
    refused(edgebench("runs", "show", "01"), 2, "6 runs begin with '01'", ids[0])
    refused(edgebench("runs", "show", "ZZZ"), 2, "no run begins with 'ZZZ'", ids[0])
    refused(edgebench("runs", "show", "%"), 2, "no run begins with '%'")
    refused(edgebench("runs", "rm", "01", "--yes"), 2, "6 runs begin with '01'")


def test_a_removed_run_is_gone_with_all_it_yielded(measured, edgebench, ask, rows):
    gone = ask("runs", "list")[-1]["id"]
    assert edgebench("runs", "rm", gone, "--yes").returncode == 0
    assert gone not in [r["id"] for r in ask("runs", "list")]
    for table in ("trial", "answer", "reading", "summary"):
        assert rows(measured, f"SELECT * FROM {table} WHERE run_id = ?", gone) == []
    assert rows(measured, "SELECT * FROM token_time WHERE trial_id NOT IN (SELECT id FROM trial)") == []


def test_removing_asks_first_and_no_answer_removes_nothing(measured, edgebench, ask):
    done = edgebench("runs", "rm", "latest")
    assert done.returncode != 0
    assert "remove " in done.stderr
    assert "Traceback" not in done.stderr
    assert len(ask("runs", "list")) == 6


# compare


def test_levels_are_compared_pairwise_with_their_noise(measured, ask):
    base, new = ask("compare", "--by", "quant", "--base", "q8_0")
    if base["verdict"] != "baseline":
        base, new = new, base
    assert (base["level"], base["flips"], base["verdict"]) == ("q8_0", None, "baseline")
    assert new["flips"]["n"] == 24
    assert 0 <= new["p_holm"] <= 1
    assert new["noise_floor"]["n"] == 24
    assert new["verdict"] in ("worse", "better", "not separable")
    assert new["decode_tokens_per_s"]["n"] == 6


def test_a_base_nobody_measured_is_refused(measured, edgebench):
    refused(edgebench("compare", "--by", "quant", "--base", "q4_1"), 2, "unknown level 'q4_1'", "q4_0")


def test_two_runs_of_accuracy_compare_by_their_answers(measured, ask):
    first, second = (r["id"] for r in ask("runs", "list") if r["what"] == "everyday@1 cloze")
    (pair,) = ask("compare", first, second)
    assert pair["n"] == 24
    back = ask("compare", second, first)[0]
    assert (pair["n_lost"], pair["n_won"]) == (back["n_won"], back["n_lost"])
    same = ask("compare", first, first)[0]
    assert (same["n_lost"], same["n_won"], same["p"], same["verdict"]) == (0, 0, 1.0, "not separable")


def test_two_runs_of_speed_compare_by_ratios(measured, ask):
    first, second = (r["id"] for r in ask("runs", "list") if r["mode"] == "performance")
    ratios = ask("compare", first, second)
    assert {"pp8", "tg4", "chat4"} <= {r["test"] for r in ratios}
    for ratio in ratios:
        assert ratio["ratio"]["value"] == pytest.approx(ratio["new"]["value"] / ratio["base"]["value"])
    same = ask("compare", first, first)
    assert {r["verdict"] for r in same} == {"not separable"}


def test_runs_of_two_kinds_are_not_compared(measured, edgebench, ask):
    speed = next(r["id"] for r in ask("runs", "list") if r["mode"] == "performance")
    refused(edgebench("compare", speed, "latest"), 2, "compare two runs of one kind")
    refused(edgebench("compare", speed), 2, "two runs")


# pareto


def test_synthetic_figures_rank_only_when_asked(measured, ask):
    axes = ("pareto", "--x", "decode_tokens_per_s", "--y", "acc")
    points = ask(*axes)
    assert [p["ranked"] for p in points] == [False, False]
    assert not any(p["on_front"] for p in points)
    allowed = ask(*axes, "--allow-synthetic")
    assert all(p["ranked"] for p in allowed)
    assert any(p["on_front"] for p in allowed)


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_front_is_drawn(measured, edgebench, tmp_path, kind):
    flags = ("--x", "decode_tokens_per_s", "--y", "acc", "--allow-synthetic", "--out", f"front [1].{kind}")
    done = edgebench("pareto", *flags)
    assert done.returncode == 0, done.stderr
    content = (tmp_path / f"front [1].{kind}").read_bytes()
    match kind:
        case "png":
            from matplotlib.image import imread

            height, width, *_ = imread(tmp_path / f"front [1].{kind}").shape
            assert min(height, width) > 300
        case "svg":
            from xml.etree import ElementTree

            assert ElementTree.fromstring(content).tag.endswith("svg")
        case _:
            assert content.startswith(b"%PDF")


def test_a_picture_of_an_unknown_kind_is_refused(measured, edgebench, tmp_path):
    flags = ("--x", "decode_tokens_per_s", "--y", "acc", "--out", "front.gifx")
    refused(edgebench("pareto", *flags), 2, "gifx")
    assert not (tmp_path / "front.gifx").exists()


def test_a_picture_where_nothing_can_be_written_is_refused(measured, edgebench):
    flags = ("--x", "decode_tokens_per_s", "--y", "acc", "--out", "/proc/front.png")
    done = edgebench("pareto", *flags)
    assert done.returncode in (1, 2)
    assert "Traceback" not in done.stderr
    assert "/proc/front.png" in done.stderr


# db


def test_summaries_can_be_rebuilt_from_the_raw_rows(measured, edgebench, rows):
    everything = "SELECT * FROM summary ORDER BY run_id, test, metric, statistic"
    before = rows(measured, everything)
    assert before
    import sqlite3
    from contextlib import closing

    with closing(sqlite3.connect(measured)) as connection:
        connection.execute("DELETE FROM summary")
        connection.commit()
    assert edgebench("db", "rebuild").returncode == 0
    assert rows(measured, everything) == before


def test_migrating_a_database_of_this_version_changes_nothing(measured, edgebench, rows):
    before = rows(measured, "SELECT name, sql FROM sqlite_master")
    done = edgebench("db", "migrate")
    assert done.returncode == 0
    assert "schema 4" in done.stderr
    assert rows(measured, "SELECT name, sql FROM sqlite_master") == before


def test_vacuuming_keeps_every_row_and_frees_space(measured, edgebench, ask):
    for run in ask("runs", "list")[:5]:
        assert edgebench("runs", "rm", run["id"], "--yes").returncode == 0
    left, size = ask("runs", "list"), measured.stat().st_size
    assert edgebench("db", "vacuum").returncode == 0
    assert measured.stat().st_size < size
    assert ask("runs", "list") == left


def test_housekeeping_makes_no_database(edgebench, tmp_path):
    for verb in ("migrate", "rebuild", "vacuum"):
        refused(edgebench("db", verb), 1, "no database at edgebench.sqlite")
    assert not (tmp_path / "edgebench.sqlite").exists()


# cache


def test_the_cache_is_listed_and_cleared_by_part(edgebench, ask, tmp_path):
    env = {"EDGEBENCH_CACHE": str(tmp_path / "cache")}
    listed = ask("cache", "list", env=env)
    assert sum(row["n_files"] for row in listed) == 0
    for part in ("models", "artifacts"):
        (tmp_path / "cache" / part).mkdir(parents=True, exist_ok=True)
        (tmp_path / "cache" / part / "file").write_bytes(bytes(1000))
    sizes = {row["part"]: row["size_bytes"] for row in ask("cache", "list", env=env)}
    assert (sizes["models"], sizes["artifacts"]) == (1000, 1000)
    ask("cache", "clear", "artifacts", "--yes", env=env)
    assert not (tmp_path / "cache" / "artifacts").exists()
    assert (tmp_path / "cache" / "models" / "file").exists()
    ask("cache", "clear", "--yes", env=env)
    assert not (tmp_path / "cache" / "models").exists()


def test_clearing_the_cache_asks_first(edgebench, tmp_path):
    env = {"EDGEBENCH_CACHE": str(tmp_path / "cache")}
    (tmp_path / "cache" / "models").mkdir(parents=True)
    (tmp_path / "cache" / "models" / "file").touch()
    done = edgebench("cache", "clear", env=env)
    assert done.returncode != 0
    assert (tmp_path / "cache" / "models" / "file").exists()


def test_a_cache_that_can_not_be_made_is_named(edgebench):
    done = edgebench("cache", "list", env={"EDGEBENCH_CACHE": "/proc/cache"})
    refused(done, 1, "/proc/cache", "EDGEBENCH_CACHE")


# models


@pytest.mark.engine
def test_a_model_is_shown_by_name_and_by_path(ask, smollm2):
    by_name, by_path = ask("models", "show", "smollm2-135m"), ask("models", "show", smollm2)
    assert by_name["sha256"] == by_path["sha256"]
    assert by_name["level"] == "q4_1"
    assert 4 < by_name["bits_per_weight"] < 9
    assert sum(by_name["tensor_types"].values()) > 100

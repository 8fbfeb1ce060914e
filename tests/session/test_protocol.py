"""How performance is measured: the order of visits, baselines, windows, long runs, and what is said after."""

import json
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import edgebench.session_visit
from edgebench.cli.measure import make_requests, run
from edgebench.results.store import Store
from edgebench.session import execute_all
from edgebench.session_plan import Request, make_plan
from edgebench.session_reproduce import command_of
from edgebench.session_speed import visits_of

QUICK = ("--mode", "performance", "-p", "8", "-n", "4", "--chat", "0", "-r", "2", "--rounds", "1")


class Silent:
    """A watcher that keeps what it is told."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def say(self, line: str) -> None:
        self.lines.append(line)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None: ...

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None: ...


@pytest.mark.parametrize(("rounds", "expected"), [(1, "ABC"), (2, "ABCCBA"), (3, "ABCCBAABC")])
def test_levels_take_turns_forth_and_back(rounds: int, expected: str) -> None:
    assert "".join("ABC"[cell] for _, cell in visits_of(3, rounds, anchored=False)) == expected


def test_the_anchor_is_visited_before_between_and_after_all_others() -> None:
    visits = visits_of(3, 2, anchored=True)
    assert [cell for _, cell in visits] == [0, 1, 0, 2, 0, 2, 0, 1, 0]
    assert len(set(visits)) == len(visits)  # every visit is resumed by itself
    assert visits_of(1, 2, anchored=True) == [(0, 0), (1, 0)]


def test_the_full_protocol_watches_idle_power_and_gives_net_joules(
    tmp_path: Path, fake_sysfs: Any, toy: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEBENCH_SYSFS", str(tmp_path / "sys"))
    monkeypatch.setattr(edgebench.session_visit, "IDLE_S", 5.2)
    zones = [fake_sysfs.Zone("intel-rapl:0", "package-0", 50.0)]
    tree = fake_sysfs.RaplTree(tmp_path / "sys", zones)
    stop, began_s = threading.Event(), time.perf_counter()

    def drive() -> None:
        while not stop.wait(0.01):
            tree.write(time.perf_counter() - began_s)

    thread = threading.Thread(target=drive)
    thread.start()
    try:
        names = (str(toy("q8_0", token_s=0.02)), str(toy("q4_0", token_s=0.02, seed=2)))
        request = Request(
            models=names,
            mode="performance",
            n_prompt=(),
            n_gen=(4,),
            n_chat=0,
            rigorous=True,
            repetitions=2,
            rounds=1,
        )
        plan = make_plan(request)
        assert {(job.n_rounds, job.n_repetitions, job.anchored) for job in plan.jobs} == {(5, 5, True)}
        monkeypatch.setattr("edgebench.session_plan.RIGOROUS_ROUNDS", 1)
        plan = make_plan(request)
        with Store.open(tmp_path / "r.sqlite") as store:
            outcome = execute_all([plan], store, Silent())
            assert not outcome.failures
            anchor, other = outcome.run_ids[0]
            kinds = [w["kind"] for w in store.windows(other)]
            assert kinds == ["idle_before", "loaded_idle", "test", "idle_after"]
            figures = {
                row["metric"]: row["value"]
                for row in store.rows("SELECT * FROM summary WHERE run_id = ?", (other,))
            }
            runs = {run.id: run for run in store.runs()}
            assert runs[anchor].anchor_id == runs[other].anchor_id == anchor
            assert store.rows(
                "SELECT count(DISTINCT process_index) AS n FROM trial WHERE run_id = ?", (anchor,)
            ) == [{"n": 2}]
    finally:
        stop.set()
        thread.join()
    assert figures["idle_before_w"] == pytest.approx(50, rel=0.1)
    # The tree draws the same power whatever happens, so all of it is idle power.
    assert abs(figures["energy_net_j_per_token"]) < 0.15 * figures["energy_j_per_token"]


def test_an_interval_asked_for_brings_more_visits(
    edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    done = edgebench("run", "-m", toy(token_s=0.002).name, *QUICK, "--target-ci", "0.5")
    assert done.returncode == 0, done.stderr
    database = tmp_path / "edgebench.sqlite"
    n = rows(database, "SELECT count(DISTINCT process_index) AS n FROM trial")[0]["n"]
    assert n >= 3  # two repetitions carry no interval; six do
    assert "wider than ± 0.5: once more" in done.stderr


def test_a_sustained_run_is_a_run_of_its_own_with_every_token(
    edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    tests_asked = ("-p", "0", "-n", "8", "--chat", "0", "-r", "1", "--rounds", "1", "--sustained", "3")
    command = ("run", "-m", toy(token_s=0.02).name, "--mode", "performance", *tests_asked)
    done = edgebench(*command)
    assert done.returncode == 0, done.stderr
    database = tmp_path / "edgebench.sqlite"
    tests = rows(
        database, "SELECT run_id, test, n_gen, total_s FROM trial WHERE phase = 'measured' ORDER BY test"
    )
    assert [t["test"] for t in tests] == ["sustained3", "tg8"]
    assert len({t["run_id"] for t in tests}) == 2
    sustained = tests[0]
    assert sustained["total_s"] >= 3
    assert sustained["n_gen"] % 8 == 0
    stamps = rows(
        database,
        "SELECT count(*) AS n FROM token_time JOIN trial ON trial.id = trial_id WHERE test = 'sustained3'"
        " AND phase = 'measured'",
    )
    assert stamps == [{"n": sustained["n_gen"]}]
    again = edgebench(*command)
    assert again.returncode == 0
    assert len(rows(database, "SELECT id FROM trial WHERE phase = 'measured'")) == 2  # nothing twice


def test_load_times_from_disk_and_from_memory_are_told_apart(
    edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    done = edgebench("run", "-m", toy().name, *QUICK[:-2], "--rounds", "2", "--cold-load")
    assert done.returncode == 0, done.stderr
    database = tmp_path / "edgebench.sqlite"
    shares = rows(
        database, "SELECT DISTINCT round_index, load_cached_share AS share FROM trial ORDER BY round_index"
    )
    if shares[0]["share"] != 0:
        pytest.skip("this file system keeps files in memory: nothing can be loaded from disk")
    assert [s["share"] for s in shares] == [0, 1]
    metrics = {f["metric"] for f in rows(database, "SELECT metric FROM summary")}
    assert {"load_cold_s", "load_warm_s"} <= metrics


def test_the_harness_takes_next_to_nothing_of_the_timed_window(
    edgebench: Any, toy: Any, rows: Any, tmp_path: Path
) -> None:
    done = edgebench("run", "-m", toy(token_s=0.002).name, *QUICK)
    assert done.returncode == 0, done.stderr
    overheads = rows(
        tmp_path / "edgebench.sqlite", "SELECT value FROM summary WHERE metric = 'overhead_share'"
    )
    assert len(overheads) == 2
    assert all(0 <= row["value"] <= 0.02 for row in overheads)


def test_a_run_can_be_asked_for_again_word_for_word(edgebench: Any, toy: Any, tmp_path: Path) -> None:
    model = toy().name
    assert edgebench("run", "-m", model, *QUICK, "--seed", "7", "-fa", "off").returncode == 0
    told = edgebench("reproduce", "latest")
    assert told.returncode == 0, told.stderr
    assert told.stdout.strip() == (
        f"edgebench run -m {model} --mode performance -p 8 -n 4 --chat 0"
        " --repetitions 2 --rounds 1 -fa off --seed 7"
    )
    assert "nothing that is recorded differs from then" in told.stderr
    again = edgebench(*told.stdout.split()[1:], "--dry-run", "-o", "json")
    assert [row["n_todo"] for row in json.loads(again.stdout)] == [0]


def test_what_differs_now_is_told(edgebench: Any, toy: Any, tmp_path: Path) -> None:
    assert edgebench("run", "-m", toy().name, *QUICK, env={"OMP_NUM_THREADS": "3"}).returncode == 0
    told = edgebench("reproduce", "latest", "-o", "json")
    differs = {one["name"]: (one["before"], one["after"]) for one in json.loads(told.stdout)["differs"]}
    assert [pair for name, pair in differs.items() if name.endswith("OMP_NUM_THREADS")] == [("3", "1")]


def test_every_field_of_a_request_has_its_flag() -> None:
    request = Request(
        models=("a.gguf",), quants=("q8_0",), runner="llama_cpp", n_threads=3, data=Path("d"), key=Path("k"),
        limit=8, target_ci=0.1, meter="none", tdp_w=5.0, rigorous=True, cold_load=True, sustained_s=60,
        marker=True, noise_floor=True, limit_first=True, apply_chat_template=True, truncate=False, mmap=False,
        num_fewshot=5, n_prompt=(1, 2), n_gen=(3,), n_depth=(4,), n_chat=5, repetitions=6, rounds=7,
        n_batch=8, n_ubatch=9, n_gpu_layers=10, flash_attn="off", type_k="f32", type_v="q8_0", seed=11,
        suites=("mmlu",), mode="both", device="auto",
    )  # fmt: skip
    words = command_of(request).split()[2:]
    with run.make_context("run", words) as made:
        assert make_requests(made.params) == [request]
        assert (made.params["no_mmap"], made.params["rigorous"]) == (True, True)
        assert made.params["n_prompt"] == (1, 2)
        assert made.params["sustained"] == 60

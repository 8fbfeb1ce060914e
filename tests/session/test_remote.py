"""A run on another computer: link cut, server killed, client killed; nothing is lost or done twice."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import DeviceError, ModelError, RunFailed
from edgebench.devices import ssh
from edgebench.results.store import Store
from edgebench.session_plan import Request
from edgebench.session_remote import execute_remote

QUICK = {"n_prompt": (8,), "n_gen": (4,), "n_chat": 4, "repetitions": 2, "limit": 32}
FLAGS = ("-p", "8", "-n", "4", "--chat", "4", "-r", "2", "--mode", "performance")
N_MEASURED = 3 * 2 * 2
N_ANSWERS = 32
TRIALS = "SELECT test, phase, round_index, repetition, started_s, total_s FROM trial ORDER BY id"


class Witness:
    """A watcher that hears everything, and does mischief at some of it."""

    def __init__(self, mischief: Callable[[int], None] = lambda _: None) -> None:
        self.said: list[str] = []
        self.n_steps = 0
        self._mischief = mischief

    def say(self, line: str) -> None:
        self.said.append(line)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        self.said.append(title)

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        self.n_steps += 1
        self._mischief(self.n_steps)


@pytest.fixture
def board(ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The host with a folder of this test's own, and this very interpreter as the one that has edgebench."""
    variables = {
        "HOME": str(ssh_server.home),
        "EDGEBENCH_HOST_DIR": str(ssh_server.board / tmp_path.name),
        "EDGEBENCH_HOST_PYTHON": sys.executable,
        "EDGEBENCH_HOST_PATIENCE": "60",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(ssh, "KEEPALIVE_S", 0.3)
    ssh_server.root = ssh_server.board / tmp_path.name
    return ssh_server


def request_of(board: Any, *models: Path, **more: Any) -> Request:
    return Request(device=board.device, models=tuple(map(str, models)), **{**QUICK, **more})


def assert_whole(rows: Any, database: Path, n_models: int = 1, n_answers: int = 0) -> None:
    """Every planned trial and answer of complete runs is there, exactly once."""
    runs = rows(database, "SELECT id, status FROM run")
    assert [run["status"] for run in runs] == ["complete"] * n_models * (2 if n_answers else 1)
    trials = rows(
        database, "SELECT run_id, test, round_index, repetition FROM trial WHERE phase = 'measured'"
    )
    assert len(trials) == N_MEASURED * n_models
    by_visit = Counter((t["run_id"], t["test"], t["round_index"]) for t in trials)
    assert set(by_visit.values()) == {2}
    assert rows(database, "SELECT count(*) AS n FROM answer") == [{"n": n_answers * n_models}]


@pytest.mark.slow
def test_two_cuts_and_a_killed_server_change_nothing(board, toy, rows, tmp_path):
    """The cable is pulled while speed and while answers are measured, and the server is killed between."""
    models = [toy("q8_0", seed=1, token_s=0.001), toy("q4_0", seed=2, token_s=0.001)]
    done: list[str] = []

    def mischief(n_steps: int) -> None:
        for name, at, act, mend in (
            ("cut", 4, board.cut, board.mend),
            ("kill", 20, board.kill, board.start),
            ("second cut", 38, board.cut, board.mend),
        ):
            if n_steps >= at and name not in done:
                done.append(name)
                act()
                threading.Timer(2.0, mend).start()
                return

    witness = Witness(mischief)
    database = tmp_path / "edgebench.sqlite"
    with Store.open(database) as store:
        outcome = execute_remote([request_of(board, *models)], store, witness)
        outcome.raise_if_bad()
        assert done == ["cut", "kill", "second cut"]
        assert sum(line.endswith("is back") for line in witness.said) >= 2
        assert_whole(rows, database, 2, N_ANSWERS)
        assert {run.id for run in store.runs()} == set(outcome.run_ids[0])

        again = Witness()
        assert execute_remote([request_of(board, *models)], store, again).run_ids == outcome.run_ids
        assert again.said[-1].endswith("runs: 4 known already")
    assert_whole(rows, database, 2, N_ANSWERS)
    runs = rows(database, "SELECT id, command FROM run ORDER BY id")
    assert rows(board.root / "edgebench.sqlite", "SELECT id, command FROM run ORDER BY id") == runs
    asked = f"edgebench run --device {board.device} -m {models[0]},{models[1]} "
    assert all(run["command"].startswith(asked) for run in runs)
    device = json.loads(rows(database, "SELECT profile_json FROM device")[0]["profile_json"])
    assert device["transport"] == "ssh"
    assert {path.name for path in (board.root / "models").glob("*/*")} == {model.name for model in models}


def test_questions_go_along_and_are_asked_there(board, toy, rows, tmp_path):
    data = tmp_path / "data" / "medqa"
    data.mkdir(parents=True)
    options = {letter: f"option {letter}" for letter in "ABCD"}
    questions = [{"question": f"Which one, {i}?", "options": options, "answer_idx": "B"} for i in range(16)]
    text = "".join(json.dumps(question) + "\n" for question in questions)
    (data / "phrases_no_exclude_test.jsonl").write_text(text)
    request = request_of(board, toy(), mode="accuracy", suites=("medqa",), data=data.parent, limit=None)
    witness = Witness()
    with Store.open(tmp_path / "edgebench.sqlite") as store:
        execute_remote([request], store, witness).raise_if_bad()
        assert [run.status for run in store.runs()] == ["complete"]
        assert store.rows("SELECT count(*) AS n, count(correct) AS n_graded FROM answer") == [
            {"n": 16, "n_graded": 16}
        ]
    assert any("questions go to" in line for line in witness.said)
    assert len(list((board.root / "data").glob("*/medqa/*.jsonl"))) == 1


@pytest.fixture
def client(tmp_path: Path, board: Any) -> Any:
    """`client(words)`: `edgebench run` on the board, in the background."""
    started: list[subprocess.Popen[str]] = []

    def call(*words: object) -> "subprocess.Popen[str]":
        command = [
            sys.executable,
            "-m",
            "edgebench",
            "run",
            "--device",
            board.device,
            *map(str, words),
            *FLAGS,
        ]
        started.append(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
            )
        )
        return started[-1]

    yield call
    for process in started:
        process.kill()
        process.communicate()


@pytest.fixture
def n_there(board: Any, rows: Any) -> Callable[[], int]:
    """How many trials the host has stored so far."""
    database = board.root / "edgebench.sqlite"

    def ask() -> int:
        if not database.exists() or not rows(database, "SELECT 1 FROM sqlite_master WHERE name = 'trial'"):
            return 0
        return int(rows(database, "SELECT count(*) AS n FROM trial")[0]["n"])

    return ask


def hanging(toy: Any, cause: Path) -> Path:
    """Hangs in its tenth engine call, as long as `cause` is there."""
    cause.touch()
    path: Path = toy("q8_0", seed=1, dies_after=10, how="hang", **{"while": str(cause)})
    return path


@pytest.mark.slow
def test_ctrl_c_stops_it_there_and_brings_what_there_is(
    board, client, toy, rows, n_there, wait_until, tmp_path
):
    cause, database = tmp_path / "cause", tmp_path / "edgebench.sqlite"
    model = hanging(toy, cause)
    running = client("-m", model)
    wait_until(lambda: n_there() >= 3)
    running.send_signal(signal.SIGINT)
    out, err = running.communicate(timeout=60)
    assert (running.returncode, out) == (130, ""), err
    assert "stopping what runs on" in err
    assert err.splitlines()[-1].startswith("interrupted: what was measured is stored")
    assert {run["status"] for run in rows(database, "SELECT status FROM run")} == {"interrupted"}
    kept = rows(database, TRIALS)
    assert len(kept) >= 3
    wait_until(lambda: not _workers_of(board.root))

    cause.unlink()
    finished = client("-m", model)
    _, err = finished.communicate(timeout=100)
    assert finished.returncode == 0, err
    assert "that went further" in err
    assert_whole(rows, database)
    assert rows(database, TRIALS)[: len(kept)] == kept


@pytest.mark.slow
def test_a_killed_client_is_followed_up_by_the_same_command_and_by_no_other(
    board, client, toy, rows, n_there, wait_until, tmp_path
):
    cause = tmp_path / "cause"
    model = hanging(toy, cause)
    running = client("-m", model)
    wait_until(lambda: n_there() >= 3)
    running.kill()
    running.communicate()
    assert _workers_of(board.root)

    other = client("-m", toy("q4_0", seed=2))
    _, err = other.communicate(timeout=60)
    assert other.returncode == 1
    assert "is busy with another command of edgebench" in err

    same = client("-m", model)
    told = iter(same.stderr.readline, "")
    assert any("is at it already: following" in line for line in told)
    cause.unlink()  # the engine there goes on
    [worker] = _workers_of(board.root)
    os.killpg(worker, signal.SIGTERM)  # a hang sleeps on: as if the host were told to stop
    _, err = same.communicate(timeout=60)
    assert same.returncode == 1
    assert f"the run was stopped on {board.device}" in err
    assert n_there() == len(rows(tmp_path / "edgebench.sqlite", TRIALS)) >= 3


def test_what_goes_wrong_there_is_told_here_with_its_own_code(board, toy, tmp_path):
    with Store.open(tmp_path / "edgebench.sqlite") as store:
        outcome = execute_remote(
            [request_of(board, toy(dies_after=3, how="kill"), mode="accuracy")], store, Witness()
        )
        with pytest.raises(RunFailed, match="SIGKILL"):
            outcome.raise_if_bad()
        with pytest.raises(ModelError, match="no model file"):
            execute_remote([request_of(board, Path("x.synthetic.json"))], store, Witness())
        assert [run.status for run in store.runs()] == ["failed"]


@pytest.mark.slow
def test_a_worker_that_is_killed_leaves_what_it_had(board, toy, rows, tmp_path):
    database = tmp_path / "edgebench.sqlite"
    model = toy("q8_0", seed=1, token_s=0.001)

    def mischief(n_steps: int) -> None:
        if n_steps == 6:
            for pid in _workers_of(board.root):
                os.killpg(pid, signal.SIGKILL)

    with Store.open(database) as store:
        with pytest.raises(RunFailed, match="was killed, or the host restarted"):
            execute_remote([request_of(board, model, mode="performance")], store, Witness(mischief))
        before = rows(database, TRIALS)
        assert len(before) >= 4
        execute_remote([request_of(board, model, mode="performance")], store, Witness()).raise_if_bad()
    assert_whole(rows, database)
    assert rows(database, TRIALS)[: len(before)] == before


@pytest.mark.slow
def test_a_host_that_stays_away_is_given_up_and_goes_on(board, toy, rows, tmp_path, monkeypatch):
    monkeypatch.setenv("EDGEBENCH_HOST_PATIENCE", "1")
    model = toy("q8_0", seed=1, token_s=0.001)

    def mischief(n_steps: int) -> None:
        if n_steps == 3:
            board.kill()

    with Store.open(tmp_path / "edgebench.sqlite") as store:
        try:
            with pytest.raises(DeviceError, match="for 1 s now") as caught:
                execute_remote([request_of(board, model, mode="performance")], store, Witness(mischief))
        finally:
            board.start()
        assert caught.value.hint == "what runs there goes on; the same command finds it again"
        execute_remote([request_of(board, model, mode="performance")], store, Witness()).raise_if_bad()
    assert_whole(rows, tmp_path / "edgebench.sqlite")


def _workers_of(root: Path) -> list[int]:
    """Process groups of jobs that run under a folder."""
    found = []
    for pid in root.glob("runs/*/pid"):
        group = int(pid.read_text() or 0)
        try:
            os.killpg(group, 0)
        except (ProcessLookupError, PermissionError):
            continue
        found.append(group)
    return found

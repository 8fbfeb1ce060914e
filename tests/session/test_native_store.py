"""From what a program and its sampler left on a phone to rows: each once, and no more believed than fits."""

import json
from collections.abc import Callable, Iterable
from typing import Any

import pytest

from edgebench.core.types import Status
from edgebench.session_cell import Cell, Outcome
from edgebench.session_native_batch import Batch
from edgebench.session_native_jobs import NativeJob, idle_job
from edgebench.session_native_store import clock_of
from edgebench.session_native_work import Work

Lines = list[dict[str, Any]]
AsLines = Callable[[Iterable[dict[str, Any]]], str]
BEGIN_S = 5000.0
"""The phone's uptime when its sampler began."""
LOADED = {
    "type": "loaded",
    "load_s": 0.5,
    "start_s": BEGIN_S,
    "end_s": BEGIN_S + 0.5,
    "baseline_rss_bytes": 9,
}
LOADED |= {"facts": {"n_layers": 2}}
HAL = "Thermal Status: {status}\nHAL Ready: true\nCurrent temperatures from HAL:\n"
HAL += "\tTemperature{{mValue=41.5, mType=3, mName=SKIN, mStatus=0}}"


def trial(test: str = "pp8", repetition: int = 0, at_s: float = 1.0, **more: Any) -> dict[str, Any]:
    """A repetition of some two seconds; no two are equally long."""
    start_s, total_s = BEGIN_S + at_s, 2.0 + at_s * 1e-3
    usual = {"type": "trial", "test": test, "phase": "measured", "repetition": repetition}
    usual |= {"start_s": start_s, "end_s": start_s + total_s, "total_s": total_s, "n_ctx": 256, "n_depth": 0}
    usual |= {"n_prompt": 8, "n_gen": 0, "prefill_s": total_s, "decode_s": None, "token_times_s": []}
    if test.startswith("tg"):
        usual |= {"n_prompt": 0, "n_gen": 4, "prefill_s": None, "decode_s": total_s}
        usual |= {"token_times_s": [0.5, 1.0, 1.5, 2.0]}
    usual |= {"ttft_s": None, "engine_s": total_s, "canary_before_s": 0.01, "canary_after_s": 0.01}
    usual |= {"n_major_faults": 0, "swap_bytes": 0, "kv_cache_bytes": 4096}
    return usual | {"peak_rss_bytes": 300, "rss_anon_bytes": 200, "rss_file_bytes": 100} | more


def window(test: str, first: dict[str, Any], last: dict[str, Any]) -> dict[str, Any]:
    told = {"type": "window", "test": test, "start_s": first["start_s"], "end_s": last["end_s"]}
    return told | {"busy_s": 6.0, "n_requests": 3, "n_prompt": 24, "n_gen": 0}


def visit(*tests: str, first_s: float = 1.0, n: int = 3) -> Lines:
    """What a program says of a visit: of each test a warm-up, `n` repetitions and the window around them."""
    lines: Lines = [LOADED]
    at_s = first_s
    for test in tests or ("pp8", "tg4"):
        lines.append(trial(test, 0, at_s, phase="warmup"))
        own = [trial(test, i, at_s + 2.5 * (i + 1)) for i in range(n)]
        lines += [*own, window(test, own[0], own[-1])]
        at_s += 2.5 * (n + 1)
    return [*lines, {"type": "done"}]


def log(length_s: float = 30.0, *, foreign: float = 0.02, status: int = 0, charging: bool = False) -> str:
    """A sampler's log: 2 W out of a battery of 4 V, one processor busy with the job, a share with others."""
    lines = ["edgebench-samples 1"]
    for i in range(round(length_s * 4) + 1):
        t_s, passed_s = BEGIN_S + i / 4, i / 4
        uah = round(3_270_000 - passed_s * 0.5 / 3.6e-3)
        word, number = ("Charging", 2) if charging else ("Discharging", 3)
        busy = round(100 * (1 + foreign) * passed_s)
        lines += [
            f"t {t_s:.2f}",
            f"b {-500000 + 9000 * (i % 3 - 1)} 4000000 {uah} {word} 301 80",
            "f 1704000 2914000",
        ]
        lines += [f"c {busy} 0 0 90000 0 0 0 0", f"p 2000 1000 {round(100 * passed_s)} 0", "m 4000000"]
        battery = f"AC powered: {str(charging).lower()}\n  status: {number}\n  level: 80\n  scale: 100"
        battery += f"\n  voltage: 4000\n  Charge counter: {uah}"
        services = {"battery": battery, "thermalservice": HAL.format(status=status)}
        for service, text in services.items() if i % 4 == 0 else ():
            lines += [f"> {service}", *(f"| {line}" for line in text.splitlines()), f"< {t_s:.2f}"]
    return "\n".join(lines) + "\n"


@pytest.fixture
def cell(bare: Any) -> Cell:
    """pp8 and tg4, three times each."""
    found: Cell = bare.speed_cell()
    return found


@pytest.fixture
def left(bare: Any, cell: Cell, as_lines: AsLines) -> Callable[..., Outcome]:
    """`left(lines, rc="0", log=…)`: a visit's job is collected that left this."""

    def collect(lines: Lines | str, *, rc: str = "0", samples: str = "", err: str = "") -> Outcome:
        text = lines if isinstance(lines, str) else as_lines(lines)
        files = {"out.jsonl": text, "samples.txt": samples, "rc": f"{rc}\n", "err.txt": err}
        found: Outcome = bare.collect(NativeJob(name="speed", cell=cell), files)
        return found

    return collect


def trials(bare: Any, phase: str = "measured") -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = bare.store.rows("SELECT * FROM trial WHERE phase = ? ORDER BY id", (phase,))
    return rows


def named(bare: Any) -> list[tuple[str, int]]:
    return [(row["test"], row["repetition"]) for row in trials(bare)]


def flags(bare: Any) -> list[set[str]]:
    return [set(json.loads(row["flags_json"])) for row in trials(bare)]


ALL = [(test, i) for test in ("pp8", "tg4") for i in range(3)]


# Each once


def test_a_visit_is_stored_once_however_often_it_is_collected(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    for _ in range(3):
        assert left(visit(), samples=log()).failures == []
        assert named(bare) == ALL
        assert len(trials(bare, "warmup")) == 2
        assert len(bare.store.rows("SELECT DISTINCT test, source FROM energy_window")) == 4
        assert len(bare.store.windows(cell.run_id)) == 4
    assert {row["process_index"] for row in trials(bare)} == {0}
    assert len(bare.store.rows("SELECT * FROM token_time")) == 4 * 4


def test_a_file_that_grew_is_stored_to_its_new_end_only(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    whole = visit()
    for n in (3, 3, 4, 8, len(whole)):
        left(whole[:n], rc="", samples=log())
    assert named(bare) == ALL
    assert len(trials(bare, "warmup")) == 2
    assert len(bare.store.windows(cell.run_id)) == 4  # two tests, two meters


def test_a_hole_in_the_file_is_no_reason_to_count_its_rest_twice(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    lines = visit("pp8")
    del lines[3]  # repetition 1
    for _ in range(3):
        left(lines, samples=log())
    assert named(bare) == [("pp8", 0), ("pp8", 2)]
    assert len(bare.store.windows(cell.run_id)) == 2


def test_a_line_that_stands_there_twice_is_one_repetition(bare: Any, left: Callable[..., Outcome]) -> None:
    twice = [trial(), trial(), trial(total_s=9.0), trial(phase="warmup"), trial(phase="warmup", total_s=8.0)]
    assert left(twice).failures == []
    assert [row["total_s"] for row in trials(bare)] == [twice[0]["total_s"]]
    assert len(trials(bare, "warmup")) == 1


def test_repetitions_that_only_make_a_window_longer_are_kept(bare: Any, left: Callable[..., Outcome]) -> None:
    left(visit("pp8", n=5))
    assert named(bare) == [("pp8", i) for i in range(5)]


def test_what_nobody_asked_for_is_not_stored(bare: Any, left: Callable[..., Outcome]) -> None:
    assert left([trial("pp16"), trial(phase="made up"), trial("pp8", 1)]).failures == []
    assert named(bare) == [("pp8", 1)]


# What stands in the rows


def test_stamps_are_seconds_since_the_run_began(bare: Any, cell: Cell, left: Callable[..., Outcome]) -> None:
    left(visit(), samples=log())
    boot_unix_s = 1_700_000_000.0  # as the batch noted it
    expected = [boot_unix_s + BEGIN_S + 3.5 + 2.5 * i - cell.started_unix_s for i in range(3)]
    assert [row["started_s"] for row in trials(bare)][:3] == pytest.approx(expected, abs=1e-3)


def test_a_device_that_nobody_asked_the_time_begins_at_its_first_stamp(cell: Cell) -> None:
    clock = clock_of(NativeJob(name="j", cell=cell), None, visit())
    assert clock.run_s(BEGIN_S + 2.0) == 2.0
    assert clock_of(NativeJob(name="j", cell=cell), None, []).run_s(3.0) == 3.0


def test_energy_memory_and_heat_are_of_the_repetitions_own_time(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    left(visit(), samples=log())
    for window in bare.store.windows(cell.run_id):
        length_s = window["end_s"] - window["start_s"]
        assert window["energy_j"] == pytest.approx(2.0 * length_s, rel=0.05)
        assert (window["scope"], window["n_requests"]) == ("battery", 3)
    headline = {w["source"] for w in bare.store.windows(cell.run_id) if w["headline"]}
    assert len(headline) == 1
    one = trials(bare)[0]
    assert (one["peak_rss_bytes"], one["peak_rss_anon_bytes"], one["peak_rss_file_bytes"]) == (300, 200, 100)
    assert (one["temperature_start_c"], one["throttled"], one["load_s"]) == (41.5, 0, 0.5)
    assert one["frequency_start_hz"] == pytest.approx(2.309e9)
    assert one["energy_source"] in headline
    assert one["kv_cache_predicted_bytes"] == 256 * 64
    channels = {row["channel"] for row in bare.store.rows("SELECT DISTINCT channel FROM reading")}
    assert channels >= {"power:current_voltage", "energy:charge_counter", "temperature", "battery_full"}
    facts = bare.store.rows("SELECT engine_json, baseline_rss_bytes FROM run")[0]
    assert (json.loads(facts["engine_json"]), facts["baseline_rss_bytes"]) == ({"n_layers": 2}, 9)
    assert flags(bare) == [set()] * 6  # on its battery is where a phone belongs


@pytest.mark.parametrize(("samples", "reason"), [("", "unreadable"), (log(charging=True), "plugged_in")])
def test_without_a_meter_there_is_the_reason_and_no_joule(
    bare: Any, cell: Cell, left: Callable[..., Outcome], samples: str, reason: str
) -> None:
    left(visit(), samples=samples)
    assert {(row["energy_j"], row["energy_reason"]) for row in trials(bare)} == {(None, reason)}
    windows = bare.store.windows(cell.run_id)
    assert [(w["test"], w["energy_j"], w["energy_reason"]) for w in windows] == [
        ("pp8", None, reason),
        ("tg4", None, reason),
    ]


# Flags


@pytest.mark.parametrize(
    ("more", "samples", "flag"),
    [
        ({}, {"foreign": 0.5}, "noisy_neighbour"),
        ({}, {"status": 3}, "throttled"),
        ({"n_major_faults": 4}, {}, "paging"),
        ({"swap_bytes": 1}, {}, "paging"),
        ({"canary_after_s": 0.02}, {}, "unstable_host"),
    ],
)
def test_what_disturbed_a_repetition_is_flagged(
    bare: Any, left: Callable[..., Outcome], more: dict[str, Any], samples: dict[str, Any], flag: str
) -> None:
    left([trial("pp8", 0, 1.0), trial("pp8", 1, 5.0, **more)], samples=log(**samples))
    assert flag in flags(bare)[1]
    assert (flag in flags(bare)[0]) is bool(samples)  # what the log says is of both
    assert (trials(bare)[1]["throttled"] == 1) is (flag == "throttled")


def test_what_a_device_does_not_tell_raises_no_flag(bare: Any, left: Callable[..., Outcome]) -> None:
    left([trial(n_major_faults=None, swap_bytes=None)])
    assert flags(bare) == [set()]
    assert trials(bare)[0]["throttled"] is None


def test_a_phone_that_did_not_cool_down_is_flagged(bare: Any, left: Callable[..., Outcome]) -> None:
    left([{"type": "hot", "temperature_c": 44, "target_c": 38}, trial()])
    assert flags(bare) == [{"thermal_not_settled"}]


# What ends early


def test_a_job_that_was_killed_fails_its_run_and_keeps_what_it_measured(
    bare: Any, cell: Cell, left: Callable[..., Outcome], as_lines: AsLines
) -> None:
    text = as_lines(visit()[:5])  # loaded, warm-up, three repetitions
    half = text + '{"type":"trial","test":"tg4","pha'
    for _ in range(2):
        outcome = left(half, rc="137", samples=log())
        assert outcome.failures == ["q4_0 pp8 tg4: the native program was killed: out of memory, most likely"]
        run = bare.store.run(cell.run_id)
        assert (run.status, "out of memory" in (run.invalid_reason or "")) == (Status.FAILED, True)
        assert named(bare) == ALL[:3]
    left(visit(first_s=40.0), samples=log())  # the same job, done again from its beginning
    assert named(bare) == ALL
    assert {row["process_index"] for row in trials(bare)} == {0, 1}
    outcome = Outcome()
    Work(bare.plan(), [cell]).close(bare.store, bare.ear, outcome, set())
    assert bare.store.run(cell.run_id).status is Status.COMPLETE
    left(half, rc="137")  # the old folder again: what is whole stays whole
    assert bare.store.run(cell.run_id).status is Status.COMPLETE


def test_a_run_whose_job_died_at_its_very_end_is_closed_by_the_next_command(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    work = Work(bare.plan(), [cell])
    left(visit(), rc="139")
    work.close(bare.store, bare.ear, Outcome(), {cell.run_id})
    assert bare.store.run(cell.run_id).status is Status.FAILED
    work.close(bare.store, bare.ear, Outcome(), set())
    assert bare.store.run(cell.run_id).status is Status.COMPLETE


@pytest.mark.parametrize(
    ("rc", "said"),
    [
        ("132", "SIGILL"),
        ("127", "is not there"),
        ("3", "ended with status 3"),
        ("9" * 5000, "ended with '99999999999999999999'"),
        ("\x1b[31mrm", "ended with"),
    ],
)
def test_how_a_program_ended_is_told_in_words(left: Callable[..., Outcome], rc: str, said: str) -> None:
    (failure,) = left([LOADED], rc=rc).failures
    assert said in failure
    assert failure.isprintable()


def test_a_program_says_itself_why_it_ended(left: Callable[..., Outcome]) -> None:
    error = {"type": "error", "message": "no \x1b[31mroom\n" + "x" * 1000}
    (failure,) = left([error], rc="1", err="last words\n\n").failures
    assert "ended with status 1: no [31mroomx" in failure
    assert len(failure) < 400
    (failure,) = left([LOADED], rc="1", err="first\nlast words\n\n").failures
    assert failure.endswith("ended with status 1: last words")


def test_a_job_without_an_end_says_nothing_of_its_run(
    bare: Any, cell: Cell, left: Callable[..., Outcome]
) -> None:
    assert left(visit()[:4], rc="").failures == []  # the phone went down: it is gone on with
    assert bare.store.run(cell.run_id).status is Status.RUNNING
    assert named(bare) == ALL[:2]


# Garbage


def test_what_is_no_answer_is_passed_over(bare: Any, left: Callable[..., Outcome], as_lines: AsLines) -> None:
    noise = 'llama: loading\n\n{}\n{"type":7}\n[1]\nnull\n{"type":"trial"\n{"type":"news"}\n\x00\ufffd\n'
    noise += "[" * 5000 + '\n{"type":"progress","share":0.5}\n'
    text = noise + noise.join(as_lines([line]) for line in visit())
    assert (
        left(text, samples="edgebench-samples 1\nt nan\nb ; rm -rf\n> battery\n| level: x\n").failures == []
    )
    assert named(bare) == ALL


def test_texts_may_hold_what_other_systems_end_lines_with(bare: Any, left: Callable[..., Outcome]) -> None:
    facts = {"name": "a\u2028b\x85c"}
    left("\n".join(json.dumps(line, ensure_ascii=False) for line in [{**LOADED, "facts": facts}, trial()]))
    assert json.loads(bare.store.rows("SELECT engine_json FROM run")[0]["engine_json"]) == facts


@pytest.mark.parametrize(
    "more",
    [
        {"total_s": -1.0},
        {"total_s": float("nan")},
        {"n_gen": 1e300},
        {"repetition": True},
        {"token_times_s": [0.1, "x"]},
        {"test": None},
    ],
)
def test_figures_that_can_t_be_fail_the_run_and_store_nothing(
    bare: Any, cell: Cell, left: Callable[..., Outcome], more: dict[str, Any]
) -> None:
    (failure,) = left([trial("pp8", 0), trial("pp8", 1, 5.0) | more]).failures
    assert "answers nonsense" in failure
    assert bare.store.run(cell.run_id).status is Status.FAILED
    assert trials(bare) == []


@pytest.mark.parametrize("facts", [{"x": float("inf")}, {"x": "\ud800"}, ["x"], None])
def test_facts_that_can_t_be_stored_fail_the_run(
    bare: Any, left: Callable[..., Outcome], facts: object
) -> None:
    (failure,) = left([{**LOADED, "facts": facts}]).failures
    assert "answers nonsense: in a line of type loaded, facts" in failure


def test_another_batchs_job_is_nobodys(bare: Any, cell: Cell) -> None:
    batch = Batch(name="b", jobs=(), boot_unix_s=None, synthetic=False)
    batch.collect("speed", lambda _job, _file: pytest.fail("read"), bare.store, bare.ear, Outcome())


# Baselines


def test_a_baseline_is_stored_once_for_each_round(bare: Any, cell: Cell, as_lines: AsLines) -> None:
    for round_index in (0, 1, 1):
        told = {"type": "idle", "start_s": BEGIN_S + 1 + round_index, "end_s": BEGIN_S + 21 + round_index}
        files = {"out.jsonl": as_lines([told]), "samples.txt": log(), "rc": "0"}
        bare.collect(idle_job(cell, round_index, "idle_before", 30), files)
    windows = [w for w in bare.store.windows(cell.run_id) if w["headline"]]
    assert [(w["kind"], w["round_index"]) for w in windows] == [("idle_before", 0), ("idle_before", 1)]
    assert [w["energy_j"] for w in windows] == pytest.approx([40.0] * 2, rel=0.05)


def test_a_baseline_that_no_meter_watched_is_none(bare: Any, cell: Cell, as_lines: AsLines) -> None:
    told = {"type": "idle", "start_s": BEGIN_S + 1, "end_s": BEGIN_S + 21}
    bare.collect(idle_job(cell, 0, "idle_before", 30), {"out.jsonl": as_lines([told]), "rc": "0"})
    assert bare.store.windows(cell.run_id) == []

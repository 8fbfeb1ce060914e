"""What is recommended: against brute force over random databases, and case by case."""

import json
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edgebench.core.errors import EdgebenchError, UsageError
from edgebench.core.types import MEDICAL_NOTE, Evidence, Status
from edgebench.results.recommend import Choice, Recommendation, Verdict, evidence, recommend
from edgebench.results.store import Store

LESS = {"ttft_s", "energy_j_per_token", "memory_bytes", "size_bytes"}
KEYS = {
    "speed": "decode_tokens_per_s",
    "prefill": "prefill_tokens_per_s",
    "ttft": "ttft_s",
    "energy": "energy_j_per_token",
    "memory": "memory_bytes",
    "accuracy": "exam@1",
    "size": "size_bytes",
}
Triple = tuple[float, float | None, float | None]


@dataclass(frozen=True)
class Made:
    """A run of a random database: everything a recommendation may look at."""

    artifact: int
    device: str
    runner: str
    threads: int
    batch: int
    accuracy: bool
    evidence: str
    status: str
    tuning: bool
    scope: str
    energy_evidence: str
    decode_test: str
    values: dict[str, Triple | None]


SMALL = st.integers(1, 6)


@st.composite
def triples(draw: st.DrawFn) -> Triple | None:
    value = float(draw(SMALL))
    kind = draw(st.sampled_from(["none", "plain", "interval", "interval"]))
    below, above = draw(st.sampled_from([0.0, 0.5, 1.5])), draw(st.sampled_from([0.0, 0.5, 1.5]))
    if kind == "none":
        return None
    return (value, None, None) if kind == "plain" else (value, value - below, value + above)


MADE = st.builds(
    Made,
    artifact=st.integers(0, 1),
    device=st.sampled_from(["phone", "phone", "phone", "laptop"]),
    runner=st.sampled_from(["llama_cpp", "onnx"]),
    threads=st.integers(1, 2),
    batch=st.sampled_from([256, 256, 256, 512]),
    accuracy=st.booleans(),
    evidence=st.sampled_from(["measured", "measured", "measured", "synthetic"]),
    status=st.sampled_from(["complete", "complete", "complete", "invalid"]),
    tuning=st.sampled_from([False, False, False, True]),
    scope=st.sampled_from(["package", "battery"]),
    energy_evidence=st.sampled_from(["measured", "measured", "replayed"]),
    decode_test=st.sampled_from(["tg128", "tg128", "tg32"]),
    values=st.fixed_dictionaries({key: triples() for key in (*KEYS.values(), "peak_vram_bytes")}),
)


def fill(store: Store, made: Sequence[Made], artifacts: Sequence[str]) -> list[str]:
    """Put them in, oldest first; their ids."""
    ids = []
    with store.transaction() as connection:
        connection.execute("DELETE FROM run")
        for i, one in enumerate(made):
            run_id = f"R{i:03}"
            ids.append(run_id)
            config = {"settings": {"n_batch": one.batch, "n_threads": one.threads}}
            config |= {"protocol": "tune"} if one.tuning else {}
            config |= {"shape": "grouped"} if one.accuracy else {}
            connection.execute(
                "INSERT INTO run (id, mode, status, evidence, artifact_id, device_id, environment_id,"
                " suite_id, runner, runner_version, config_sha256, config_json, seed, started_at,"
                " edgebench_version, scorer) VALUES (?,?,?,?,?,?,'env',?,?,'1','plan',?,0,?,'1',?)",
                (
                    *(run_id, "accuracy" if one.accuracy else "performance", one.status, one.evidence),
                    *(artifacts[one.artifact], one.device, "exam@1" if one.accuracy else None, one.runner),
                    *(json.dumps(config, separators=(",", ":")), f"2026-01-01T00:{i:02}", "letter"),
                ),
            )
            for key, test in figures_of(one).items():
                if triple := one.values[key]:
                    name = {"memory_bytes": "peak_rss_bytes", "exam@1": "acc"}.get(key, key)
                    connection.execute(
                        "INSERT INTO summary VALUES (?,?,?,?,?,?,?,9)",
                        (run_id, test, name, "max" if test == "*" else "mean", *triple),
                    )
            if not one.accuracy and one.values["energy_j_per_token"]:
                connection.execute(
                    "INSERT INTO energy_window (run_id, kind, test, start_s, end_s, scope, headline,"
                    " energy_j, evidence) VALUES (?, 'test', ?, 0, 1, ?, 1, 5.0, ?)",
                    (run_id, one.decode_test, one.scope, one.energy_evidence),
                )
    return ids


def figures_of(one: Made) -> dict[str, str]:
    """Figure -> the test it is of in this run."""
    if one.accuracy:
        return {"exam@1": "exam@1"}
    return {
        "decode_tokens_per_s": one.decode_test,
        "energy_j_per_token": one.decode_test,
        "prefill_tokens_per_s": "pp512",
        "ttft_s": "chat32",
        "memory_bytes": "*",
        "peak_vram_bytes": "*",
    }


Shown = tuple[int, str, int, int]
"""Artifact, engine, threads, batch: what a row is."""


def brute_rows(
    made: Sequence[Made], ids: Sequence[str], *, synthetic: bool
) -> dict[Shown, dict[str, tuple[Triple, str | None, bool]]]:
    """Each row of the phone with (value and interval, run, whether it is borrowed), by plain loops."""
    alive = [
        (run_id, one)
        for run_id, one in zip(ids, made, strict=True)
        if one.status == "complete" and not one.tuning and (synthetic or one.evidence == "measured")
    ][::-1]  # newest first
    own = [(run_id, one) for run_id, one in alive if one.device == "phone"]
    timed = {key_of(one) for _, one in own if not one.accuracy}
    answered = {key_of(one) for _, one in own if one.accuracy}
    answered = {key for key in answered if not any(no_threads(key) == no_threads(other) for other in timed)}
    decode_tests: Counter[str] = Counter()
    for test in ("tg128", "tg32"):
        decode_tests[test] = len(
            {
                key_of(one)
                for _, one in own
                if not one.accuracy and one.decode_test == test and one.values["decode_tokens_per_s"]
            }
        )
    decode_test = max(("tg128", "tg32"), key=lambda test: (decode_tests[test], test == "tg128"))
    joules = [
        (run_id, one)
        for run_id, one in own
        if not one.accuracy
        and one.values["energy_j_per_token"]
        and one.decode_test == decode_test
        and (synthetic or one.energy_evidence == "measured")
        and decode_tests[decode_test]
    ]
    by_scope = {s: len({key_of(one) for _, one in joules if one.scope == s}) for s in ("battery", "package")}
    scope = max(by_scope, key=lambda name: (by_scope[name], name))
    rows: dict[Shown, dict[str, tuple[Triple, str | None, bool]]] = {}
    for key in timed | answered:
        figures: dict[str, tuple[Triple, str | None, bool]] = {}
        figures["size_bytes"] = ((float(key[0] + 1) * 1e6, None, None), None, False)
        for name in ("decode_tokens_per_s", "prefill_tokens_per_s", "ttft_s", "memory_bytes"):
            for run_id, one in own:
                wrong_test = name == "decode_tokens_per_s" and one.decode_test != decode_test
                if one.accuracy or key_of(one) != key or wrong_test or one.values[name] is None:
                    continue
                value, low, high = one.values[name] or (0, None, None)
                if name == "memory_bytes":
                    vram = newest_with(own, key, "peak_vram_bytes")
                    extra = one.values["peak_vram_bytes"] if vram == run_id else None
                    value, low, high = value + (extra[0] if extra else 0), None, None
                figures[name] = ((value, low, high), run_id, False)
                break
        for run_id, one in joules:
            if key_of(one) == key and one.scope == scope:
                figures["energy_j_per_token"] = (one.values["energy_j_per_token"], run_id, False)  # type: ignore[assignment]
                break
        best = None
        for run_id, one in alive:
            if not one.accuracy or one.artifact != key[0] or one.values["exam@1"] is None:
                continue
            strange = (
                one.device != "phone",
                one.runner != key[1],
                no_threads(key_of(one)) != no_threads(key),
            )
            if best is None or strange < best[0]:
                best = (strange, one.values["exam@1"], run_id)
        if best:
            figures["exam@1"] = (best[1], best[2], any(best[0]))
        rows[key] = figures
    return rows


def newest_with(own: Sequence[tuple[str, Made]], key: Shown, name: str) -> str | None:
    return next((i for i, one in own if not one.accuracy and key_of(one) == key and one.values[name]), None)


def key_of(one: Made) -> Shown:
    return one.artifact, one.runner, one.threads, one.batch


def no_threads(key: Shown) -> tuple[int, str, int]:
    return key[0], key[1], key[3]


def state(figures: dict[str, Any], key: str, limit: float) -> tuple[str, float | None, float | None]:
    """(verdict, how far it misses, how far its worst end misses), both as shares of the limit."""
    if key not in figures:
        return "unknown", None, None
    (value, low, high), _, borrowed = figures[key]

    def beyond(x: float) -> float:
        return (x - limit) / limit if key in LESS else (limit - x) / limit

    if beyond(value) > 0:
        return "missed", beyond(value), beyond(value)
    if borrowed:
        return "unsure", 0.0, None
    if key in ("memory_bytes", "size_bytes"):
        return "met", 0.0, 0.0
    worst = high if key in LESS else low
    if worst is None:
        return "unsure", 0.0, None
    return ("unsure", 0.0, beyond(worst)) if beyond(worst) > 0 else ("met", 0.0, 0.0)


def same(choice: Choice | None, key: Shown | None, artifacts: Sequence[str]) -> bool:
    if choice is None or key is None:
        return choice is None and key is None
    one = choice.candidate
    told = (artifacts.index(one.artifact_id), one.runner, one.settings["n_threads"], one.settings["n_batch"])
    return told == key


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    made=st.lists(MADE, min_size=1, max_size=16),
    prefer=st.sampled_from(sorted(KEYS)),
    limits=st.dictionaries(st.sampled_from(sorted(set(KEYS.values()) - {"size_bytes"})), SMALL, max_size=3),
    sure=st.booleans(),
    synthetic=st.booleans(),
)
def test_it_is_what_brute_force_finds(
    lab: Any, made: list[Made], prefer: str, limits: dict[str, int], sure: bool, synthetic: bool
) -> None:
    store = lab.store
    artifacts = [lab.artifact(f"q{i}", float(i + 1)) for i in range(2)]
    for device in ("phone", "laptop"):
        lab.device(device)
    lab.environment()
    lab.suite("exam")
    ids = fill(store, made, artifacts)
    rows = brute_rows(made, ids, synthetic=synthetic)
    wishes = {key: float(limit) for key, limit in limits.items()}
    goal = KEYS[prefer]

    def ask() -> Recommendation:
        return recommend(
            store,
            device="phone",
            prefer=prefer,
            limits={key: limit for key, limit in wishes.items() if key != "exam@1"},
            least_acc=[("exam", wishes["exam@1"])] if "exam@1" in wishes else [],
            suite="exam" if prefer == "accuracy" else None,
            allow_synthetic=synthetic,
            sure=sure,
        )

    asks_exam = "exam@1" in (goal, *wishes)
    if not rows or (asks_exam and not any(one.accuracy and one.status == "complete" for one in made)):
        with pytest.raises(EdgebenchError):
            ask()
        return

    def order(key: Shown) -> tuple[Any, ...]:
        figures = rows[key]
        loss = math.inf if goal not in figures else figures[goal][0][0] * (1 if goal in LESS else -1)
        speed = figures["decode_tokens_per_s"][0][0] if "decode_tokens_per_s" in figures else 0.0
        return loss, -speed, key[0], artifacts[key[0]], key[1], key[3], key[2]

    good = {"met"} if sure else {"met", "unsure"}
    told = {key: [state(rows[key], name, limit) for name, limit in wishes.items()] for key in rows}
    fits = [key for key in rows if goal in rows[key] and all(one[0] in good for one in told[key])]
    fits.sort(key=order)
    found = ask()
    assert same(found.chosen, fits[0] if fits else None, artifacts)
    assert same(found.runner_up, fits[1] if len(fits) > 1 else None, artifacts)
    assert (found.lost is None) == (len(fits) < 2)
    assert len(found.field.candidates) == len(rows)
    if fits:
        certain = [key for key in fits if all(one[0] == "met" for one in told[key])]
        needed = certain[0] if certain and certain[0] != fits[0] else None
        assert same(found.surest, needed, artifacts)
        better = [key for key in rows if key not in fits and order(key)[0] < order(fits[0])[0]]
        assert same(found.shut_out, min(better, key=order, default=None), artifacts)
        assert found.nearest is None
    else:

        def distance(key: Shown) -> tuple[Any, ...]:
            short = [one[2] if sure and one[0] == "unsure" else one[1] for one in told[key]]
            known = [one for one in short if one is not None]
            return len(short) - len(known) + (goal not in rows[key]), max(known, default=0.0), order(key)

        assert same(found.nearest, min(rows, key=distance), artifacts)
    shown = found.chosen or found.nearest
    assert shown is not None
    at = next(key for key in rows if same(shown, key, artifacts))
    cited = {
        name: (f.estimate.value, f.run_id) for name, f in shown.candidate.figures.items() if name in rows[at]
    }
    compared = {name: (triple[0], run_id) for name, (triple, run_id, _) in rows[at].items()}
    if not asks_exam:
        compared.pop("exam@1", None)
    assert cited == compared
    assert [check.verdict for check in shown.checks] == [
        state(rows[at], check.limit.key, check.limit.limit)[0] for check in shown.checks
    ]


# Case by case


def speeds(lab: Any, quant: str, bits: float, decode_s: float, **more: Any) -> str:
    """A file with a run of six repetitions, 1 % apart; the run's id."""
    spread = [decode_s * (1 + i / 100) for i in range(6)]
    return str(lab.performance(lab.artifact(quant, bits), spread, spread, **more))


def test_the_fastest_is_recommended_with_its_run_and_why_the_other_lost(lab: Any) -> None:
    speeds(lab, "q8_0", 8.5, 2.0)
    run_id = speeds(lab, "q4_0", 4.5, 1.0)
    found = recommend(lab.store)
    assert (found.chosen.candidate.label, found.chosen.goal.run_id) == ("q4_0", run_id)
    lab.store.set_flags(run_id, ["throttled"])
    assert recommend(lab.store).flags == ("throttled",)
    assert found.runner_up.candidate.label == "q8_0"
    assert found.lost.verdict == "separable"
    assert found.lost.ratio.value == pytest.approx(0.5)


def test_a_runner_up_within_the_noise_is_told_so(lab: Any) -> None:
    speeds(lab, "q8_0", 8.5, 1.001)
    speeds(lab, "q4_0", 4.5, 1.0)
    assert recommend(lab.store).lost.verdict == "not separable"


def test_settings_and_engines_of_a_file_are_rows_of_their_own(lab: Any) -> None:
    for threads, runner, decode_s in ((1, "llama_cpp", 3.0), (2, "llama_cpp", 2.0), (2, "llama_server", 2.5)):
        speeds(lab, "q4_0", 4.5, decode_s, runner=runner, config={"settings": {"n_threads": threads}})
    found = recommend(lab.store)
    assert len(found.field.candidates) == 3
    assert dict(found.chosen.candidate.settings) == {"n_threads": 2}
    assert (found.chosen.candidate.runner, found.runner_up.candidate.runner) == ("llama_cpp", "llama_server")


def test_an_older_run_tells_what_the_newest_does_not(lab: Any) -> None:
    older = speeds(lab, "q4_0", 4.5, 1.0)
    newer = lab.performance(lab.artifact("q4_0", 4.5), [1.0] * 6)
    figures = recommend(lab.store).chosen.candidate.figures
    assert (figures["decode_tokens_per_s"].run_id, figures["prefill_tokens_per_s"].run_id) == (older, newer)


def test_trials_of_tune_and_invalid_runs_recommend_nothing(lab: Any) -> None:
    lab.store.set_status(speeds(lab, "q4_0", 4.5, 1.0), Status.INVALID, "paging")
    speeds(lab, "q5_0", 5.5, 1.0, config={"protocol": "tune", "settings": {"n_threads": 9}})
    speeds(lab, "q8_0", 8.5, 2.0)
    found = recommend(lab.store)
    assert [one.label for one in found.field.candidates] == ["q8_0"]
    assert found.left_out == ("1 run left out: invalid",)


def test_only_what_was_measured_is_recommended_unless_allowed(lab: Any) -> None:
    speeds(lab, "q4_0", 4.5, 1.0, evidence=Evidence.SYNTHETIC)
    with pytest.raises(
        EdgebenchError, match="no measured runs on laptop; 1 run left out: synthetic"
    ) as caught:
        recommend(lab.store)
    assert "--allow-synthetic" in str(caught.value.hint)
    speeds(lab, "q8_0", 8.5, 2.0)
    assert recommend(lab.store).chosen.candidate.label == "q8_0"
    found = recommend(lab.store, allow_synthetic=True)
    assert found.chosen.candidate.label == "q4_0"
    assert evidence(found.chosen, [found.key]) is Evidence.SYNTHETIC


def joules(lab: Any, quant: str, energy_j: float, *, scope: str = "package", kind: str = "measured") -> None:
    artifact = lab.artifact(quant, 4.0)
    run_id = lab.run(artifact)
    for i in range(6):
        fields = {"test": "tg128", "n_prompt": 0, "n_gen": 128}
        lab.trial(run_id, **fields, repetition=i, process_index=i % 2, decode_s=1.0 + i / 100)
    with lab.store.transaction() as connection:
        for i in range(6):
            connection.execute(
                "INSERT INTO energy_window (run_id, kind, test, process_index, start_s, end_s, n_gen, scope,"
                " source, headline, energy_j, energy_u95_j, evidence)"
                " VALUES (?, 'test', 'tg128', ?, 0, 1, 128, ?, 'meter', 1, ?, 0.01, ?)",
                (run_id, i % 2, scope, energy_j * (1 + i / 1000), kind),
            )
    lab.finish(run_id)


def test_joules_of_another_scope_do_not_compete_and_are_counted(lab: Any) -> None:
    joules(lab, "q8_0", 200.0)
    joules(lab, "q5_0", 150.0)
    joules(lab, "q4_0", 10.0, scope="gpu_board")
    found = recommend(lab.store, prefer="energy")
    assert (found.chosen.candidate.label, found.field.scope) == ("q5_0", "package")
    assert found.lost.verdict == "separable"
    assert found.left_out == (
        "1 of 3 left out: energy of another scope (gpu_board, not package); --scope gpu_board takes those",
    )
    assert recommend(lab.store, prefer="energy", scope="gpu_board").chosen.candidate.label == "q4_0"
    with pytest.raises(UsageError, match="unknown energy scope"):
        recommend(lab.store, prefer="energy", scope="gpu_boards")


def test_replayed_joules_of_a_measured_run_are_not_measured(lab: Any) -> None:
    joules(lab, "q8_0", 200.0)
    joules(lab, "q4_0", 10.0, kind="replayed")
    found = recommend(lab.store, prefer="energy")
    assert found.chosen.candidate.label == "q8_0"
    assert found.left_out == ("1 of 2 left out: no energy_j_per_token",)
    allowed = recommend(lab.store, prefer="energy", allow_synthetic=True)
    assert evidence(allowed.chosen, [allowed.key]) is Evidence.REPLAYED


def exam(lab: Any, quant: str, n_right: int, n: int = 100, **more: Any) -> str:
    suite = lab.asked("exam", n=n, medical=True)
    right = {question.id for question in suite.questions[:n_right]}

    def choose(question: Any, _: int) -> int:
        return (question.answer_index + (question.id not in right)) % len(question.choices)

    return str(lab.answered(lab.artifact(quant, 4.0), suite, choose, **more))


def test_a_limit_met_within_the_uncertainty_is_unsure_and_the_sure_one_is_named(lab: Any) -> None:
    for quant, n_right, decode_s in (("q2_k", 38, 1.0), ("q4_0", 42, 1.5), ("q8_0", 90, 3.0)):
        lab.performance(lab.artifact(quant, 4.0), [1.0] * 6, [decode_s * (1 + i / 100) for i in range(6)])
        exam(lab, quant, n_right)
    found = recommend(lab.store, least_acc=[("exam", 0.4)])
    assert found.chosen.candidate.label == "q4_0"
    (check,) = found.chosen.checks
    assert (check.verdict, check.reason) == (Verdict.UNSURE, "its interval passes the limit")
    assert found.surest.candidate.label == "q8_0"
    assert found.shut_out.candidate.label == "q2_k"
    assert found.shut_out.checks[0].reason == "within its uncertainty"
    assert found.notes == [MEDICAL_NOTE]
    assert recommend(lab.store, least_acc=[("exam", 0.4)], sure=True).chosen.candidate.label == "q8_0"


def test_nothing_fits_and_the_nearest_is_told_with_its_miss(lab: Any) -> None:
    exam(lab, "q4_0", 30)
    exam(lab, "q8_0", 36)
    found = recommend(lab.store, prefer="size", least_acc=[(None, 0.4)])
    assert (found.chosen, found.runner_up, found.lost) == (None, None, None)
    assert found.nearest.candidate.label == "q8_0"
    assert found.nearest.checks[0].shortfall_share(sure=False) == pytest.approx(0.1)
    assert "2 of 2 left out: exam@1 beyond the limit" in found.left_out


def test_accuracies_are_held_against_each_other_on_the_same_questions(lab: Any) -> None:
    exam(lab, "q8_0", 90)
    exam(lab, "q5_0", 88)
    exam(lab, "q4_0", 40)
    close = recommend(lab.store, prefer="accuracy")
    assert close.chosen.candidate.label == "q8_0"
    assert close.lost.verdict == "not separable"
    assert close.lost.difference.value == pytest.approx(-0.02)
    exam(lab, "q5_0", 50)
    assert recommend(lab.store, prefer="accuracy").lost.verdict == "separable"
    exam(lab, "q5_0", 50, scheme_sha256="others")
    assert recommend(lab.store, prefer="accuracy").lost.verdict == "not comparable"


def test_a_bare_limit_is_of_the_suite_that_is_named(lab: Any) -> None:
    exam(lab, "q4_0", 60)
    lab.accuracy(lab.artifact("q4_0", 4.0), [0, 1])
    with pytest.raises(UsageError, match="accuracies of 2 suites"):
        recommend(lab.store, prefer="size", least_acc=[(None, 0.5)])
    found = recommend(lab.store, prefer="size", least_acc=[(None, 0.5)], suite="exam")
    assert [limit.key for limit in found.limits] == ["exam@1"]
    assert recommend(lab.store, prefer="accuracy", suite="everyday").key == "everyday@1"


def test_accuracy_from_another_device_counts_and_is_never_sure(lab: Any) -> None:
    lab.device("phone")
    speeds(lab, "q4_0", 4.0, 1.0, device_id="phone")
    exam(lab, "q4_0", 99)
    found = recommend(lab.store, device="phone", least_acc=[("exam", 0.4)])
    (check,) = found.chosen.checks
    assert (check.verdict, check.reason) == (Verdict.UNSURE, "asked with laptop")
    assert recommend(lab.store, device="phone", least_acc=[("exam", 0.4)], sure=True).chosen is None


def test_too_few_repetitions_for_an_interval_are_unsure(lab: Any) -> None:
    lab.performance(lab.artifact("q4_0", 4.0), [1.0] * 3, [1.0] * 3)
    (check,) = recommend(lab.store, limits={"decode_tokens_per_s": 100.0}).chosen.checks
    assert (check.verdict, check.reason) == (Verdict.UNSURE, "no interval of n = 3")


def test_equal_sizes_go_to_the_faster_setting(lab: Any) -> None:
    for threads, decode_s in ((1, 2.0), (2, 1.0)):
        speeds(lab, "q4_0", 4.0, decode_s, config={"settings": {"n_threads": threads}})
    found = recommend(lab.store, prefer="size")
    assert found.chosen.candidate.settings["n_threads"] == 2
    assert found.lost.verdict == "equal"


def test_a_device_that_was_not_measured_gets_what_to_run(lab: Any) -> None:
    with pytest.raises(UsageError, match="no complete runs"):
        recommend(lab.store)
    lab.device("pixel8-0629")
    speeds(lab, "q4_0", 4.0, 1.0, device_id="pixel8-0629")
    assert recommend(lab.store, device="pixel8").device_id == "pixel8-0629"
    with pytest.raises(EdgebenchError, match="jetson was not measured") as caught:
        recommend(lab.store, device="jetson")
    assert "edgebench run --device jetson" in str(caught.value.hint)
    speeds(lab, "q4_0", 4.0, 1.0)
    with pytest.raises(UsageError, match="runs of 2 devices"):
        recommend(lab.store)


def test_what_does_not_exist_is_refused(lab: Any) -> None:
    speeds(lab, "q4_0", 4.0, 1.0)
    with pytest.raises(UsageError, match="no accuracy runs"):
        recommend(lab.store, least_acc=[("exam", 0.4)])
    exam(lab, "q4_0", 40)
    with pytest.raises(UsageError, match="unknown suite"):
        recommend(lab.store, least_acc=[("exams", 0.4)])
    with pytest.raises(UsageError, match="exam@1 has two limits"):
        recommend(lab.store, least_acc=[("exam", 0.4), ("exam@1", 0.5)])
    with pytest.raises(UsageError, match="unknown preference"):
        recommend(lab.store, prefer="sped")
    with pytest.raises(UsageError, match="unknown model on laptop"):
        recommend(lab.store, model="tinny")

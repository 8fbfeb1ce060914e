"""Which runs stand for a level, and their figures: the rows that compare and pareto read."""

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from edgebench.core.errors import UsageError, nearest
from edgebench.core.stats import Estimate
from edgebench.core.types import Evidence, Mode, Permutation, Shape, Status
from edgebench.results.answers import HEADLINES, SuiteFacts, suite_facts
from edgebench.results.energy_summary import energy_told
from edgebench.results.performance_summary import WHOLE_RUN
from edgebench.results.records import RunRow
from edgebench.results.store import Store

USUAL_TESTS = ("pp512", "tg128")

Summaries = dict[tuple[str, str], Estimate]
"""(test, metric) -> the figure: a share's mean, a rate's or duration's median, a peak's maximum."""


class Asking(NamedTuple):
    """What was asked, and how: accuracies of two ways of asking don't stand in one table."""

    suite_id: str | None = None
    scorer: str | None = None
    num_fewshot: int | None = None
    permute: str | None = None
    apply_chat_template: bool | None = None

    @property
    def title(self) -> str:
        """`mmlu@1 by letter, 5-shot, all rotations, chat template`."""
        if self.suite_id is None:
            return ""
        parts = [f"{self.suite_id} by {self.scorer}"]
        parts += [f"{self.num_fewshot}-shot"] if self.num_fewshot else []
        parts += ["all rotations"] if self.permute == Permutation.CYCLIC else []
        parts += ["chat template"] if self.apply_chat_template else []
        return ", ".join(parts)


def asking(run: RunRow) -> Asking:
    """How an accuracy run asked; runs of before there was a choice asked in the plain way."""
    config = run.config
    return Asking(
        suite_id=run.suite_id,
        scorer=run.scorer,
        num_fewshot=config.get("num_fewshot", 0),
        permute=config.get("permute", Permutation.NONE.value),
        apply_chat_template=config.get("apply_chat_template", False),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class LevelRow:
    """One artifact with the runs that speak for it."""

    artifact_id: str
    model: str
    quant: str
    label: str
    """The level's name; a piece of the hash tells two files of the same level apart."""
    device_id: str
    suite_id: str | None
    scorer: str | None
    headline: str
    """The metric the suite is known by: `acc`, `acc_mean_of_subjects` or `macro_f1`."""
    notes: tuple[str, ...]
    """What must stand under everything that shows this accuracy."""
    prefill_test: str | None
    decode_test: str | None
    chat_test: str | None
    figures: Mapping[str, Estimate]
    """Metric name -> figure; what is not known has no entry."""
    tests: Mapping[tuple[str, str], Estimate]
    """(test, metric) -> every rate that was measured, the ones in `figures` among them."""
    n_outliers: int
    """Values outside Tukey's fences, over all tests."""
    n_fallback: int
    """Tensors that are not of a type the level's name promises, because of their shape."""
    n_flagged: int
    """Measured trials taken while something disturbed the device."""
    meter: Mapping[str, Any]
    """What the joules come from (source, scope, method, evidence), or the reason for none."""
    performance: RunRow | None
    accuracy: RunRow | None
    alone: RunRow | None
    """The same file and questions, scored one by one: its noise floor."""

    @property
    def runs(self) -> list[RunRow]:
        """The runs behind the figures."""
        return [run for run in (self.performance, self.accuracy) if run]

    @property
    def engine(self) -> str:
        """The engine that ran it; with a row per engine there is one."""
        return self.runs[0].runner

    @property
    def flags(self) -> list[str]:
        """What a person should know of the runs behind the row: `not_steady`, `throttled`, and more."""
        return list(dict.fromkeys(flag for run in self.runs for flag in run.flags))

    @property
    def evidence(self) -> Evidence:
        """`measured` when every run behind the row is; else the first other kind."""
        kinds = [run.evidence for run in self.runs]
        return next((kind for kind in kinds if kind is not Evidence.MEASURED), Evidence.MEASURED)


@dataclass(slots=True, kw_only=True)
class _Runs:
    """The runs that stand for an artifact."""

    performance: RunRow | None = None
    accuracy: RunRow | None = None
    alone: RunRow | None = None

    def offer(self, run: RunRow) -> None:
        """Take a run where none newer has the place; they are offered newest first, noise floors last."""
        if run.mode is Mode.PERFORMANCE:
            self.performance = self.performance or run
        elif run.shape == Shape.GROUPED:
            self.accuracy = self.accuracy or run
        elif run.shape == Shape.ALONE and (self.accuracy is None or _same_engine(self.accuracy, run)):
            self.alone = self.alone or run


def _same_engine(one: RunRow, other: RunRow) -> bool:
    """Whether two runs' answers differ by their batches' shape alone; threads have no say in those."""
    told = [{**run.settings, "n_threads": None} for run in (one, other)]
    return one.runner == other.runner and told[0] == told[1]


def level_rows(
    store: Store,
    *,
    device: str | None = None,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    permute: str | None = None,
    num_fewshot: int | None = None,
    only: Container[str] | None = None,
    per_engine: bool = False,
    prefer: Callable[[RunRow], bool] = lambda _: False,
) -> list[LevelRow]:
    """Levels with their newest complete runs, widest first within a model; one device, one way of asking.

    What is not said of the asking is as in the newest accuracy run. `only` keeps to these runs, by id;
    `per_engine` gives a level a row for each engine that ran it; accuracy runs that `prefer` likes go before
    newer ones.
    """
    complete = [run for run in store.runs(status=Status.COMPLETE) if not run.is_tuning]
    runs = [run for run in complete if only is None or run.id in only]
    runs = _asked(runs, model, "model", lambda run: {run.model})
    runs = _asked(runs, device, "device", lambda run: {run.device_id})
    _refuse_several_devices(runs)
    wanted = _asking(runs, Asking(suite_id=suite, scorer=scorer, num_fewshot=num_fewshot, permute=permute))
    chosen: dict[tuple[str, str], _Runs] = {}
    # The order is kept within each.
    for run in sorted(runs, key=lambda run: (run.shape == Shape.ALONE, not prefer(run))):
        if run.mode is Mode.PERFORMANCE or asking(run) == wanted:
            key = (run.artifact_id, run.runner if per_engine else "")
            chosen.setdefault(key, _Runs()).offer(run)
    rows = _rows(store, [one for one in chosen.values() if one.performance or one.accuracy])
    return _told_apart(rows, per_engine=per_engine)


def refuse_mixed_schemes(rows: Sequence[LevelRow]) -> None:
    """UsageError when one engine scored the questions of these levels in different groups or batches.

    Engines differ anyway: their levels are compared, each beside its own noise floor.
    """
    runs = [(row.label, row.accuracy) for row in rows if row.accuracy]
    for runner in dict.fromkeys(run.runner for _, run in runs):
        scored = [(label, run.scheme_sha256 or "none") for label, run in runs if run.runner == runner]
        if len({scheme for _, scheme in scored}) > 1:
            named = ", ".join(f"{label} (scheme {scheme[:8]})" for label, scheme in scored)
            raise UsageError(
                f"questions were scored in different groups or batches: {named}",
                "batch company moves answers: run these levels again together",
            )


def refuse_mixed_scopes(rows: Sequence[LevelRow]) -> None:
    """UsageError when the joules of these levels are of different things: a package's, a whole device's."""
    scopes = {str(row.meter["scope"]): row.label for row in rows if row.meter["scope"]}
    if len(scopes) > 1:
        named = ", ".join(f"{label} ({scope})" for scope, label in scopes.items())
        raise UsageError(
            f"energy was measured in different scopes, which don't compare: {named}",
            "measure the levels with one meter: edgebench run --energy NAME",
        )


def settings_that_differ(rows: Iterable[LevelRow]) -> list[str]:
    """Names of settings in which the performance runs of these rows differ: they make no fair table."""
    runs = [row.performance for row in rows if row.performance]
    configs = [
        {**run.config, **run.config.get("settings", {}), "environment": run.environment_id} for run in runs
    ]
    for config in configs:
        config.pop("settings", None)
    names = sorted(set().union(*configs))
    return [name for name in names if any(config.get(name) != configs[0].get(name) for config in configs)]


def _asked(
    runs: Sequence[RunRow], name: str | None, kind: str, names_of: Callable[[RunRow], set[str]]
) -> list[RunRow]:
    """The runs that go by `name`; all where none was asked for."""
    known: set[str] = set().union(*map(names_of, runs))
    if name is not None and name not in known:
        # `pixel8` is enough for `pixel8-0629b79d`, where there is one of them only.
        begun = [one for one in known if one.startswith(f"{name}-")] if kind == "device" else []
        name = begun[0] if len(begun) == 1 else name
    if runs and name is not None and name not in known:
        raise nearest(name, known, kind=f"{kind} in this database")
    return [run for run in runs if name is None or name in names_of(run)]


def _refuse_several_devices(runs: Iterable[RunRow]) -> None:
    devices = sorted({run.device_id for run in runs})
    if len(devices) > 1:
        raise UsageError(
            f"this database holds runs of {len(devices)} devices: {', '.join(devices)}",
            "name one: --device NAME",
        )


def _asking(runs: Iterable[RunRow], wanted: Asking) -> Asking:
    """The way of asking that was wanted; where nothing was said, that of the newest accuracy run."""
    grouped = [run for run in runs if run.mode is Mode.ACCURACY and run.shape == Shape.GROUPED]
    n_shots = None if wanted.num_fewshot is None else str(wanted.num_fewshot)
    grouped = _asked(grouped, wanted.suite_id, "suite", lambda run: _suite_names(run.suite_id or ""))
    grouped = _asked(grouped, wanted.scorer, "scorer", lambda run: {run.scorer or ""})
    grouped = _asked(grouped, wanted.permute, "permutation", lambda run: {str(asking(run).permute)})
    grouped = _asked(grouped, n_shots, "num_fewshot", lambda run: {str(asking(run).num_fewshot)})
    return asking(grouped[0]) if grouped else wanted


def _suite_names(suite_id: str) -> set[str]:
    return {suite_id, suite_id.partition("@")[0]}


def _rows(store: Store, chosen: Sequence[_Runs]) -> list[LevelRow]:
    summaries = {
        run.id: _summaries(store, run.id) for one in chosen for run in (one.performance, one.accuracy) if run
    }
    tests = {
        metric: _commonest_test(summaries.values(), metric)
        for metric in ("prefill_tokens_per_s", "decode_tokens_per_s", "ttft_s")
    }
    suite_ids = {one.accuracy.suite_id for one in chosen if one.accuracy}
    facts = {suite_id: suite_facts(store, suite_id) for suite_id in suite_ids}
    sql = "SELECT run_id, sum(value) AS n FROM summary WHERE statistic = 'n_outliers' GROUP BY run_id"
    n_outliers = {row["run_id"]: int(row["n"]) for row in store.rows(sql)}
    rows = [_level(store, one, summaries, tests, facts, n_outliers) for one in chosen]
    rows.sort(key=lambda row: (row.model, -_bits(row), row.label))
    return rows


def _level(
    store: Store,
    one: _Runs,
    summaries: Mapping[str, Summaries],
    tests: Mapping[str, str | None],
    facts: Mapping[str | None, SuiteFacts],
    n_outliers: Mapping[str, int],
) -> LevelRow:
    run = one.performance or one.accuracy
    if run is None:
        raise ValueError("a level needs a run")
    speed = summaries[one.performance.id] if one.performance else {}
    answers = summaries[one.accuracy.id] if one.accuracy else {}
    chat = tests["ttft_s"]
    suite = facts[one.accuracy.suite_id] if one.accuracy else None
    asked = (one.accuracy.suite_id or WHOLE_RUN) if one.accuracy else WHOLE_RUN
    found = {
        "size_bytes": _exact(run.size_bytes),
        "bits_per_weight": _exact(run.bits_per_weight),
        "prefill_tokens_per_s": speed.get((str(tests["prefill_tokens_per_s"]), "prefill_tokens_per_s")),
        "decode_tokens_per_s": speed.get((str(tests["decode_tokens_per_s"]), "decode_tokens_per_s")),
        "ttft_s": speed.get((str(chat), "ttft_s")),
        "tpot_s": speed.get((str(chat), "tpot_s")),
        "peak_rss_bytes": speed.get((WHOLE_RUN, "peak_rss_bytes")),
        **_energy_figures(speed, tests),
        **{name: answers.get((asked, name)) for name in _OF_ANSWERS},
        "load_s": speed.get((WHOLE_RUN, "load_s")),
        **{metric: answers.get((asked, metric)) for metric in HEADLINES.values()},
    }
    flagged = speed.get((WHOLE_RUN, "n_flagged"))
    return LevelRow(
        artifact_id=run.artifact_id,
        model=run.model,
        quant=run.quant,
        label=run.label,
        device_id=run.device_id,
        suite_id=one.accuracy.suite_id if one.accuracy else None,
        scorer=one.accuracy.scorer if one.accuracy else None,
        headline=suite.headline if suite else "acc",
        notes=suite.notes if suite else (),
        prefill_test=tests["prefill_tokens_per_s"],
        decode_test=tests["decode_tokens_per_s"],
        chat_test=chat,
        figures={name: figure for name, figure in found.items() if figure is not None},
        tests={key: figure for key, figure in speed.items() if key[1].endswith("_tokens_per_s")},
        n_outliers=n_outliers.get(one.performance.id, 0) if one.performance else 0,
        n_fallback=run.n_fallback,
        n_flagged=int(flagged.value) if flagged else 0,
        meter=energy_told(store.windows(run.id)),
        performance=one.performance,
        accuracy=one.accuracy,
        alone=one.alone,
    )


_OF_ANSWERS = ("energy_j_per_question", "energy_j_per_correct", "questions_per_charge")


def _energy_figures(speed: Summaries, tests: Mapping[str, str | None]) -> dict[str, Estimate | None]:
    """Joules of the tests that stand for the row, and the share of the device's limits they reach."""
    decode, prefill = str(tests["decode_tokens_per_s"]), str(tests["prefill_tokens_per_s"])
    return {
        "energy_j_per_token": speed.get((decode, "energy_j_per_token")),
        "energy_j_per_prompt_token": speed.get((prefill, "energy_j_per_prompt_token")),
        "energy_j_per_request": speed.get((str(tests["ttft_s"]), "energy_j_per_request")),
        "battery_percent_per_1k_tokens": speed.get((decode, "battery_percent_per_1k_tokens")),
        "mbu": speed.get((decode, "mbu")),
        "mfu": speed.get((prefill, "mfu")),
    }


def _summaries(store: Store, run_id: str) -> Summaries:
    sql = "SELECT * FROM summary WHERE run_id = ? AND statistic NOT IN ('n_outliers','p50','p90','p95','p99')"
    return {
        (row["test"], row["metric"]): Estimate(
            value=row["value"], ci_low=row["ci_low"], ci_high=row["ci_high"], n=row["n"]
        )
        for row in store.rows(sql, (run_id,))
    }


def _commonest_test(summaries: Iterable[Summaries], metric: str) -> str | None:
    """The test most levels have this metric of; a usual one, then an empty cache, before others."""
    counts = Counter(test for summary in summaries for test, name in summary if name == metric)
    return max(
        counts, key=lambda test: (counts[test], test in USUAL_TESTS, "@" not in test, test), default=None
    )


def _told_apart(rows: Sequence[LevelRow], *, per_engine: bool) -> list[LevelRow]:
    names = [(row.model, row.label, row.engine if per_engine else "") for row in rows]
    counts = Counter(names)
    return [
        replace(row, label=f"{row.label} #{row.artifact_id[:6]}") if counts[name] > 1 else row
        for row, name in zip(rows, names, strict=True)
    ]


def _bits(row: LevelRow) -> float:
    figure = row.figures.get("bits_per_weight")
    return figure.value if figure else 0.0


def _exact(value: float | None) -> Estimate | None:
    return None if value is None else Estimate(value=value, ci_low=None, ci_high=None, n=1)

"""What could be shipped on a device: a row for every file, engine and setting, with its newest figures.

SQLite picks them: a database may hold a hundred thousand runs, and few of them are the newest.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edgebench.core.errors import EdgebenchError, UsageError, nearest
from edgebench.core.stats import Estimate
from edgebench.core.types import Evidence, level_label
from edgebench.results.answers import SuiteFacts, suite_facts
from edgebench.results.levels import USUAL_TESTS, Asking
from edgebench.results.performance_summary import WHOLE_RUN
from edgebench.results.store import Store

DECODE, PREFILL, TTFT = "decode_tokens_per_s", "prefill_tokens_per_s", "ttft_s"
ENERGY, MEMORY, SIZE = "energy_j_per_token", "memory_bytes", "size_bytes"

NO_SAY = ("n_threads", "mmap", "cpu_mask")
"""Settings that change no answer."""

# Complete runs of a device by what was told to the engine; trials of `tune` stand for nothing.
_RUNS = """
  SELECT run.id, run.artifact_id, run.device_id, run.runner, run.mode, run.evidence, run.started_at,
    coalesce(json_extract(config_json, '$.settings'), '{}') AS settings
  FROM run
  WHERE run.status = 'complete' AND (run.evidence = 'measured' OR ?3)
    AND coalesce(json_extract(config_json, '$.protocol'), '') <> 'tune'
    AND (?2 IS NULL OR run.artifact_id IN (SELECT id FROM artifact WHERE model_id = ?2))"""

_KEYS = f"""
  SELECT run.artifact_id, runner, settings, max(mode = 'performance') AS timed,
    model_id AS model, quant, parent_quant, size_bytes
  FROM ({_RUNS} AND run.device_id = ?1 AND coalesce(json_extract(config_json, '$.shape'), '') <> 'alone')
    AS run JOIN artifact ON artifact.id = run.artifact_id
  GROUP BY run.artifact_id, runner, settings"""  # noqa: S608

# Joules by the scope they were measured in: the newest of each.
_FIGURES = f"""
  WITH own AS MATERIALIZED ({_RUNS} AND run.device_id = ?1 AND mode = 'performance'),
  told AS (
    SELECT own.*, s.test, s.metric, s.value, s.ci_low, s.ci_high, s.n,
      CASE WHEN metric = 'energy_j_per_token' THEN (
        SELECT coalesce(w.evidence, 'measured') || ' ' || coalesce(w.scope, '') FROM energy_window w
        WHERE w.run_id = own.id AND w.kind = 'test' AND w.test = s.test AND w.headline
          AND w.energy_j IS NOT NULL
        ORDER BY coalesce(w.evidence, 'measured') = 'measured' LIMIT 1) END AS meter
    FROM own JOIN summary s ON s.run_id = own.id
    WHERE s.metric IN ('decode_tokens_per_s', 'prefill_tokens_per_s', 'ttft_s', 'peak_rss_bytes',
      'peak_vram_bytes', 'energy_j_per_token')
      AND s.statistic IN ('median', 'mean', 'max') AND s.test NOT GLOB 'sustained*'
      AND (s.test = '{WHOLE_RUN}') = (s.metric GLOB 'peak_*')
  )
  SELECT * FROM (
    SELECT *, row_number() OVER (
      PARTITION BY artifact_id, runner, settings, metric, test, substr(meter, instr(meter, ' '))
      ORDER BY started_at DESC, id DESC
    ) AS place FROM told
    WHERE metric <> 'energy_j_per_token' OR meter GLOB 'measured *' OR (?3 AND meter <> '')
  ) WHERE place = 1"""  # noqa: S608

# The newest for each way of asking and of computing.
_ASKED = f"""
  WITH asked AS (
    SELECT run.*, r.suite_id, r.scorer, s.value, s.ci_low, s.ci_high, s.n,
      coalesce(json_extract(r.config_json, '$.num_fewshot'), 0) AS num_fewshot,
      coalesce(json_extract(r.config_json, '$.permute'), 'none') AS permute,
      coalesce(json_extract(r.config_json, '$.apply_chat_template'), 0) AS apply_chat_template
    FROM ({_RUNS} AND mode = 'accuracy' AND suite_id = ?4
      AND json_extract(config_json, '$.shape') = 'grouped') AS run
    JOIN run r ON r.id = run.id
    JOIN summary s ON s.run_id = run.id AND s.test = ?4 AND s.metric = ?5 AND s.statistic = 'mean'
  )
  SELECT * FROM (
    SELECT *, row_number() OVER (
      PARTITION BY artifact_id, device_id, runner, settings, scorer, num_fewshot, permute, apply_chat_template
      ORDER BY started_at DESC, id DESC
    ) AS place FROM asked
  ) WHERE place = 1 AND (?6 IS NULL OR scorer = ?6) AND (?7 IS NULL OR permute = ?7)
    AND (?8 IS NULL OR num_fewshot = ?8)
  ORDER BY started_at DESC, id DESC"""  # noqa: S608


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """A figure with the run that it is from."""

    estimate: Estimate
    run_id: str | None
    """None for what the file itself tells."""
    evidence: Evidence = Evidence.MEASURED
    test: str | None = None
    scope: str | None = None
    """Of joules: what they are of."""
    borrowed: str | None = None
    """Where it was measured, if not with this engine, these settings and this device."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """One file with one engine in one setting, on one device."""

    artifact_id: str
    model: str
    label: str
    size_bytes: int
    runner: str
    settings: Mapping[str, Any]
    figures: Mapping[str, Figure]
    """Name of a figure, or a suite's id -> its newest value; what is not known has no entry."""
    other_scopes: tuple[str, ...] = ()
    """Scopes of its joules that were left out."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """Which runs count."""

    device: str
    model: str | None = None
    suites: tuple[str, ...] = ()
    """Ids of the suites whose accuracy is meant."""
    scorer: str | None = None
    permute: str | None = None
    num_fewshot: int | None = None
    scope: str | None = None
    allow_synthetic: bool = False

    @property
    def params(self) -> tuple[object, ...]:
        """?1, ?2 and ?3 of the queries."""
        return self.device, self.model, self.allow_synthetic


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """All candidates, and how their figures were picked."""

    candidates: tuple[Candidate, ...]
    scope: str | None
    """Of the joules that stand; None without any."""
    asked: Mapping[str, Asking] = field(default_factory=dict)
    """Suite id -> the way of asking that stands."""
    facts: Mapping[str, SuiteFacts] = field(default_factory=dict)
    """Suite id -> what it says of itself."""


def measured_device(store: Store, name: str | None) -> str:
    """The device's id: its name, or a beginning that only one has; the only one where none is named.

    EdgebenchError for one that has no complete runs.
    """
    sql = "SELECT DISTINCT device_id FROM run WHERE status = 'complete' ORDER BY device_id"
    known = [row["device_id"] for row in store.rows(sql)]
    fitting = [one for one in known if name is None or one == name] or [
        one for one in known if one.startswith(str(name))
    ]
    if len(fitting) == 1:
        return str(fitting[0])
    if not known:
        raise UsageError(f"no complete runs in {store.path}", "edgebench run measures levels")
    if fitting:
        raise UsageError(
            f"this database holds runs of {len(fitting)} devices: {', '.join(fitting)}",
            "name one: --device NAME",
        )
    raise EdgebenchError(
        f"{name} was not measured: {store.path} has runs of {', '.join(known)}",
        f"edgebench run --device {name} -m MODEL measures it; edgebench devices fit MODEL predicts, for this"
        " computer only",
    )


def stored_suite(store: Store, name: str | None) -> str:
    """The id of the suite of this name, the newest asked of several; the only one where none is named."""
    sql = """SELECT suite_id AS id, max(started_at) AS at FROM run
      WHERE mode = 'accuracy' AND status = 'complete' GROUP BY suite_id ORDER BY at DESC"""
    known = [row["id"] for row in store.rows(sql)]
    names = list(dict.fromkeys(one.partition("@")[0] for one in known))
    if not known:
        raise UsageError(f"no accuracy runs in {store.path}", "edgebench run --mode accuracy --suite NAME")
    if name is None and len(names) > 1:
        raise UsageError(
            f"this database holds accuracies of {len(names)} suites", f"name one: {', '.join(names)}"
        )
    found = [one for one in known if name in (None, one, one.partition("@")[0])]
    if not found:
        raise nearest(str(name), {*names}, kind="suite in this database")
    return str(found[0])


def candidates(store: Store, wanted: Wanted) -> Field:
    """Every file, engine and setting that was run on the device, with its newest figures.

    Rates, latencies and joules are of the test that most candidates have; joules of the scope that most
    have, unless one is wanted. UsageError for a model or scope that nothing has.
    """
    keys = store.rows(_KEYS, wanted.params)
    if wanted.model is not None and not keys:
        sql = "SELECT DISTINCT model_id FROM artifact JOIN run ON run.artifact_id = artifact.id"
        known = {row["model_id"] for row in store.rows(f"{sql} WHERE device_id = ?", (wanted.device,))}
        if wanted.model not in known:
            raise nearest(wanted.model, known, kind=f"model on {wanted.device}")
    found = store.rows(_FIGURES, wanted.params)
    tests = {metric: _commonest_test(found, metric) for metric in (DECODE, PREFILL, TTFT)}
    tests[ENERGY] = tests[DECODE]
    told = [row for row in found if row["test"] in (WHOLE_RUN, tests.get(row["metric"]))]
    scope = _scope(told, wanted.scope)
    figures: dict[tuple[str, str, str], dict[str, Figure]] = defaultdict(dict)
    scopes: dict[tuple[str, str, str], list[str]] = defaultdict(list)
    for row in told:
        figure = _figure(row)
        if figure.scope in (None, scope):
            figures[_key(row)][row["metric"]] = figure
        else:
            scopes[_key(row)].append(str(figure.scope))
    asked, answers = {}, {}
    facts = {suite_id: suite_facts(store, suite_id) for suite_id in wanted.suites}
    for suite_id in wanted.suites:
        asked[suite_id], answers[suite_id] = _answers(store, wanted, suite_id, facts[suite_id].headline)
    return Field(
        candidates=tuple(
            _candidate(row, wanted.device, figures[_key(row)], answers, scopes[_key(row)])
            for row in _without_repeats(keys)
        ),
        scope=scope,
        asked=asked,
        facts=facts,
    )


def _key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    return row["artifact_id"], row["runner"], row["settings"]


def _answer_key(row: Mapping[str, Any]) -> tuple[str, str, str]:
    """As `_key`, of all that has a say in answers."""
    told = json.loads(row["settings"])
    kept = {name: told[name] for name in sorted(told) if name not in NO_SAY}
    return row["artifact_id"], row["runner"], json.dumps(kept)


def _without_repeats(keys: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """Without settings that were only asked questions, where others that give the same answers were timed."""
    timed = {_answer_key(row) for row in keys if row["timed"]}
    for row in keys:
        if row["timed"] or _answer_key(row) not in timed:
            yield row


def _commonest_test(found: Iterable[Mapping[str, Any]], metric: str) -> str | None:
    """The test most candidates have, as in a table of levels; a usual one, then an empty cache, first."""
    counts = Counter(row["test"] for row in found if row["metric"] == metric)
    return max(
        counts, key=lambda test: (counts[test], test in USUAL_TESTS, "@" not in test, test), default=None
    )


def _scope(told: Iterable[Mapping[str, Any]], wanted: str | None) -> str | None:
    """The scope of joules that stands: the one asked for, or the one that most candidates have."""
    counts = Counter(_meter(row)[0] for row in told if row["metric"] == ENERGY)
    if wanted is not None and counts and wanted not in counts:
        raise nearest(wanted, {str(scope) for scope in counts}, kind="energy scope in this database")
    return wanted or max(counts, key=lambda scope: (counts[scope], str(scope)), default=None)


def _meter(row: Mapping[str, Any]) -> tuple[str | None, Evidence | None]:
    evidence, _, scope = (row["meter"] or "").partition(" ")
    return scope or None, Evidence(evidence) if evidence else None


def _figure(row: Mapping[str, Any]) -> Figure:
    scope, metered = _meter(row)
    own = Evidence(row["evidence"])
    return Figure(
        estimate=_estimate(row),
        run_id=row["id"],
        evidence=metered if metered and own is Evidence.MEASURED else own,
        test=row["test"] if row["test"] != WHOLE_RUN else None,
        scope=scope,
    )


def _estimate(row: Mapping[str, Any]) -> Estimate:
    return Estimate(value=row["value"], ci_low=row["ci_low"], ci_high=row["ci_high"], n=row["n"])


def _candidate(
    row: Mapping[str, Any],
    device: str,
    own: Mapping[str, Figure],
    answers: Mapping[str, Mapping[str, Sequence[Mapping[str, Any]]]],
    other_scopes: Sequence[str],
) -> Candidate:
    size = Estimate(value=row["size_bytes"], ci_low=None, ci_high=None, n=1)
    figures = {SIZE: Figure(estimate=size, run_id=None), **own}
    for suite_id, by_artifact in answers.items():
        if found := _accuracy(row, device, by_artifact.get(row["artifact_id"], ())):
            figures[suite_id] = found
    resident, on_gpu = figures.pop("peak_rss_bytes", None), figures.pop("peak_vram_bytes", None)
    if resident:
        figures[MEMORY] = _together(resident, on_gpu)
    return Candidate(
        artifact_id=row["artifact_id"],
        model=row["model"],
        label=level_label(row["quant"], row["parent_quant"]),
        size_bytes=row["size_bytes"],
        runner=row["runner"],
        settings=json.loads(row["settings"]),
        figures=figures,
        other_scopes=tuple(sorted(other_scopes)),
    )


def _together(resident: Figure, on_gpu: Figure | None) -> Figure:
    """Peak memory of the process and of what a GPU held beside it, of one run."""
    if on_gpu is None or on_gpu.run_id != resident.run_id:
        return resident
    one, other = resident.estimate, on_gpu.estimate
    both = Estimate(value=one.value + other.value, ci_low=None, ci_high=None, n=min(one.n, other.n))
    return Figure(estimate=both, run_id=resident.run_id, evidence=resident.evidence)


def _answers(
    store: Store, wanted: Wanted, suite_id: str, headline: str
) -> tuple[Asking, dict[str, list[dict[str, Any]]]]:
    """The way of asking that stands, and for each file its runs asked so, newest first.

    What is not said is as in the newest run of the device, else of any.
    """
    way = (wanted.scorer, wanted.permute, wanted.num_fewshot)
    runs = store.rows(_ASKED, (*wanted.params, suite_id, headline, *way))
    first = next((run for run in runs if run["device_id"] == wanted.device), runs[0] if runs else None)
    if first is None:
        return Asking(suite_id=suite_id), {}
    stands = _asking(first)
    found: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        if _asking(run) == stands:
            found[run["artifact_id"]].append({**run, "key": _answer_key(run)})
    return stands, found


def _asking(run: Mapping[str, Any]) -> Asking:
    return Asking(
        suite_id=run["suite_id"],
        scorer=run["scorer"],
        num_fewshot=run["num_fewshot"],
        permute=run["permute"],
        apply_chat_template=bool(run["apply_chat_template"]),
    )


def _accuracy(row: Mapping[str, Any], device: str, runs: Sequence[Mapping[str, Any]]) -> Figure | None:
    """A file's accuracy: asked as it would be shipped, else by the nearest of its other runs, and told so."""
    own_key = _answer_key(row)

    def strangeness(run: Mapping[str, Any]) -> tuple[bool, bool, bool]:
        return run["device_id"] != device, run["runner"] != row["runner"], run["key"] != own_key

    run = min(runs, key=strangeness, default=None)  # of equals the first, which is the newest
    if run is None:
        return None
    other_device, other_engine, other = strangeness(run)
    from_where = [run["device_id"]] if other_device else []
    from_where += [run["runner"]] if other_engine else []
    from_where += ["other settings"] if other and not other_engine else []
    return Figure(
        estimate=_estimate(run),
        run_id=run["id"],
        evidence=Evidence(run["evidence"]),
        test=run["suite_id"],
        borrowed=", ".join(from_where) or None,
    )

"""Energy figures of a run from its windows: gross joules per unit of work, net of idle where known."""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain
from typing import Any

from edgebench.core.energy import EnergyReading, Method, Scope
from edgebench.core.energy_split import EnergyWindow, split_prefill_decode
from edgebench.core.integration import net_of_idle, repeated
from edgebench.core.stats import Estimate

Window = Mapping[str, Any]
Figure = tuple[str, str, str, Estimate | None]
"""Test, metric, statistic, value."""


def energy_figures(
    windows: Sequence[Window], *, accuracy: float | None = None, suite_id: str = "*", acc: float | None = None
) -> Iterator[Figure]:
    """Figures of the headline meter; none where no window has joules.

    `accuracy` is the meter's documented relative error; `acc` the share of right answers, for joules per
    correct answer. A window's net value uses the idle baselines of its own process.
    """
    measured = [window for window in windows if window["headline"] and window["energy_j"] is not None]
    tests: dict[str, list[Window]] = defaultdict(list)
    for window in measured:
        if window["kind"] == "test":
            tests[window["test"]].append(window)
    for test, own in tests.items():
        unit, count = _unit(own[0])
        yield test, f"energy_j_per_{unit}", "mean", _per(own, [w["energy_j"] for w in own], count, accuracy)
        net_j = [_net_j(window, windows) for window in own]
        if None not in net_j:
            yield test, f"energy_net_j_per_{unit}", "mean", _per(own, net_j, count, accuracy)
        yield test, "power_w", "mean", _per(own, [w["energy_j"] for w in own], "seconds", accuracy)
    for kind in ("idle_before", "loaded_idle", "idle_after"):
        idle = [window for window in measured if window["kind"] == kind]
        yield "*", f"{kind}_w", "mean", _per(idle, [w["energy_j"] for w in idle], "seconds", accuracy)
    yield from _split(list(chain.from_iterable(tests.values())), accuracy)
    yield from _answers([w for w in measured if w["kind"] == "answers"], suite_id, acc, accuracy)
    yield from _modelled(windows)


def energy_told(windows: Iterable[Window]) -> dict[str, Any]:
    """What stands beside a run's energy figures: source, scope, method, evidence, or the reason for none."""
    headline = [w for w in windows if w["headline"] and w["kind"] in ("test", "answers")]
    measured = [w for w in headline if w["energy_j"] is not None]
    one = next(iter(measured or headline), None)
    if one is None:
        return {"source": None, "scope": None, "method": None, "evidence": None, "reason": "not_recorded"}
    told = {key: one[key] for key in ("source", "scope", "method", "evidence")}
    return {**told, "reason": None if measured else one["energy_reason"]}


def _unit(window: Window) -> tuple[str, str]:
    """What the joules of a test are counted by: output tokens, prompt tokens, or requests."""
    if window["test"].startswith("chat") or (window["n_prompt"] and window["n_gen"]):
        return "request", "n_requests"
    return ("token", "n_gen") if window["n_gen"] else ("prompt_token", "n_prompt")


def _per(
    windows: Sequence[Window], joules: Sequence[float | None], count: str, accuracy: float | None
) -> Estimate | None:
    groups: dict[int, list[float]] = defaultdict(list)
    for window, energy_j in zip(windows, joules, strict=True):
        n = window["end_s"] - window["start_s"] if count == "seconds" else window[count]
        if energy_j is not None and n:
            groups[window["process_index"]].append(energy_j / n)
    return repeated(list(groups.values()), accuracy=accuracy)


def _net_j(window: Window, windows: Sequence[Window]) -> float | None:
    """A window's joules less idle power x time; None without both baselines of the same process and meter."""

    def idle(kind: str) -> EnergyReading | None:
        for other in windows:
            same = all(other[key] == window[key] for key in ("process_index", "source"))
            if same and other["kind"] == kind:
                return _reading(other)
        return None

    before, after = idle("idle_before"), idle("idle_after")
    return net_of_idle(_reading(window), before, after).value_j if before and after else None


def _reading(window: Window) -> EnergyReading:
    return EnergyReading(
        value_j=window["energy_j"],
        reason=None,
        source=window["source"],
        scope=Scope(window["scope"]) if window["scope"] else None,
        method=Method(window["method"]) if window["method"] else None,
        resolution_j=window["energy_resolution_j"],
        u95_j=window["energy_u95_j"],
        duration_s=window["end_s"] - window["start_s"],
        n_samples=window["n_samples"],
    )


def _split(windows: Sequence[Window], accuracy: float | None) -> Iterator[Figure]:
    """Joules per prompt and per output token by regression over all tests, where they can be told apart.

    For meters too slow for tests of one kind: it needs windows that mix the two in different proportions.
    """
    found = split_prefill_decode(
        [
            EnergyWindow(
                energy_j=window["energy_j"],
                duration_s=window["end_s"] - window["start_s"],
                n_prompt=window["n_prompt"],
                n_output=window["n_gen"],
            )
            for window in windows
        ],
        accuracy=accuracy,
    )
    yield "*", "energy_split_j_per_prompt_token", "regression", found.prompt_j_per_token
    yield "*", "energy_split_j_per_token", "regression", found.output_j_per_token


def _answers(
    windows: Sequence[Window], suite_id: str, acc: float | None, accuracy: float | None
) -> Iterator[Figure]:
    """Joules per question and per correct answer; a run that was resumed has a window for each process."""
    question = _per(windows, [w["energy_j"] for w in windows], "n_questions", accuracy)
    yield suite_id, "energy_j_per_question", "mean", question
    if question is not None and acc:
        # The questions asked while a meter ran are part of all; the share of right ones is of all.
        per_correct = Estimate(value=question.value / acc, ci_low=None, ci_high=None, n=question.n)
        yield suite_id, "energy_j_per_correct", "mean", per_correct


def _modelled(windows: Iterable[Window]) -> Iterator[Figure]:
    """Modelled joules, where they were asked for: never beside measured ones."""
    tests: dict[str, list[Window]] = defaultdict(list)
    for window in windows:
        if window["energy_modelled_j"] is not None and window["kind"] == "test":
            tests[window["test"]].append(window)
    for test, own in tests.items():
        unit, count = _unit(own[0])
        values = [window["energy_modelled_j"] / window[count] for window in own if window[count]]
        if values:
            mean = sum(values) / len(values)
            plain = Estimate(value=mean, ci_low=None, ci_high=None, n=len(values))
            yield test, f"energy_modelled_j_per_{unit}", "mean", plain

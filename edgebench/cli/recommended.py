"""How a recommendation reads: lines for people, one object or rows for programs."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from edgebench.core.flags import FLAG_WORDS
from edgebench.core.setting_flags import as_flags
from edgebench.core.units import ABSENT, data_size, duration, share, significant

_SHOWN: dict[str, tuple[str, Callable[[float | None], str]]] = {
    "decode_tokens_per_s": ("decode", lambda value: f"{significant(value)} t/s"),
    "prefill_tokens_per_s": ("prefill", lambda value: f"{significant(value)} t/s"),
    "ttft_s": ("TTFT", duration),
    "energy_j_per_token": ("energy", lambda value: f"{significant(value)} J/token"),
    "memory_bytes": ("peak memory", data_size),
    "size_bytes": ("file size", data_size),
}
"""Figure -> what it is called and how it reads; everything else is a suite's accuracy."""


def named(choice: Any) -> str:
    """`smollm2-135m q4_0 (--runner llama_cpp -t 4)`."""
    return f"{choice.candidate.model} {choice.candidate.label} ({_settings(choice)})"


def title_of(found: Any) -> str:
    """What stands over the lines; figures that were not measured are told here already."""
    from edgebench.results.recommend import evidence

    kind = evidence(found.chosen or found.nearest, [found.key, *(limit.key for limit in found.limits)])
    told = "recommended" if found.chosen else "nothing fits; the nearest"
    return f"{told} on {found.device_id}" + (f" ({kind}, not measured)" if kind != "measured" else "")


def _settings(choice: Any) -> str:
    """`--runner llama_cpp -t 4 -fa on`."""
    one = choice.candidate
    return f"--runner {one.runner} {as_flags(one.settings)}".strip()


def _title(key: str) -> str:
    return _SHOWN[key][0] if key in _SHOWN else key


def _value(key: str, value: float | None) -> str:
    return ABSENT if value is None else _SHOWN[key][1](value) if key in _SHOWN else share(value)


def _figure(key: str, figure: Any) -> str:
    """`0.071 J/token [0.069 J/token, 0.074 J/token], package`."""
    if figure is None:
        return "not measured"
    e = figure.estimate
    bounds = "" if e.ci_low is None else f" [{_value(key, e.ci_low)}, {_value(key, e.ci_high)}]"
    beside = [figure.test if key in _SHOWN else f"n = {e.n}", figure.scope]
    beside += [f"asked with {figure.borrowed}"] if figure.borrowed else []
    beside += [figure.evidence.value] if figure.evidence != "measured" else []
    return f"{_value(key, e.value)}{bounds}" + "".join(f", {one}" for one in beside if one)


def _limit(limit: Any) -> str:
    sign = "≤" if limit.better == "lower" else "≥"
    return f"{_title(limit.key)} {sign} {_value(limit.key, limit.limit)}"


def misses(choice: Any, found: Any) -> list[str]:
    """What keeps it from fitting, and by how much."""
    told = [] if choice.goal else [f"no {_title(found.key)}"]
    for check in choice.checks:
        short = check.shortfall_share(sure=found.sure)
        if check.figure is None:
            told.append(f"no {_title(check.limit.key)}")
        elif short is None:
            told.append(f"{_limit(check.limit)} unsure: {check.reason}")
        elif short > 0:
            by = _value(check.limit.key, short * check.limit.limit)
            within = ", within its uncertainty" if check.reason == "within its uncertainty" else ""
            value = _value(check.limit.key, check.figure.estimate.value)
            if check.verdict == "unsure":
                value = f"at worst {_value(check.limit.key, check.worst)}"
            side = "above" if check.limit.better == "lower" else "short of"
            told.append(
                f"{_title(check.limit.key)} {value}, {by} ({100 * short:.1f} %) {side}"
                f" {_limit(check.limit)}{within}"
            )
    return told


def facts(found: Any) -> list[tuple[str, str]]:
    """What a person reads, line by line."""
    choice = found.chosen or found.nearest
    one = choice.candidate
    lines = [
        ("file", f"{one.model} {one.label}, {data_size(one.size_bytes)}"),
        ("sha256", one.artifact_id),
        ("run with", _settings(choice)),
        (f"preferred: {found.prefer}", f"{_title(found.key)} {_figure(found.key, choice.goal)}"),
    ]
    for check in choice.checks:
        why = f" ({check.reason})" if check.reason else ""
        lines.append((_limit(check.limit), f"{check.verdict}{why}: {_figure(check.limit.key, check.figure)}"))
    lines += [("asked", way.title) for way in found.field.asked.values()]
    lines.append(("evidence", "; ".join(_cited(choice, found))))
    lines.append(("flags", "; ".join(f"{flag}: {FLAG_WORDS.get(flag, '')}" for flag in found.flags)))
    if found.runner_up:
        lines.append(("runner-up", f"{named(found.runner_up)}: {_figure(found.key, found.runner_up.goal)}"))
        lines.append(("which lost", _lost(found)))
    elif found.chosen:
        lines.append(("runner-up", "none: nothing else fits"))
    if found.surest:
        lines.append(
            ("surely within the limits", f"{named(found.surest)}: {_figure(found.key, found.surest.goal)}")
        )
    if found.shut_out:
        why = "; ".join(misses(found.shut_out, found))
        figure = _figure(found.key, found.shut_out.goal)
        lines.append(("shut out", f"{named(found.shut_out)}: {figure}, but {why}"))
    lines += [("did not take part", "; ".join(found.left_out))]
    lines += [("note", note) for note in found.notes]
    return lines


def _cited(choice: Any, found: Any) -> list[str]:
    """`decode, TTFT: run 01J… (measured)`: which run has which of the figures that were looked at."""
    keys = dict.fromkeys((found.key, *(limit.key for limit in found.limits)))
    by_run: dict[str, list[str]] = {}
    for key in keys:
        if (figure := choice.candidate.figures.get(key)) and figure.run_id:
            by_run.setdefault(f"run {figure.run_id} ({figure.evidence})", []).append(_title(key))
    return [f"{', '.join(titles)}: {run}" for run, titles in by_run.items()]


def _lost(found: Any) -> str:
    """Why the runner-up lost, and how surely."""
    lost = found.lost
    told = str(lost.verdict)
    if lost.ratio:
        told += f": {_title(found.key)} × {_interval(lost.ratio)}"
    if lost.difference:
        told += f": accuracy {lost.difference.value:+.3f} on the same questions"
        if lost.difference.ci_low is not None:
            told += f" [{lost.difference.ci_low:+.3f}, {lost.difference.ci_high:+.3f}]"
    told += f": {lost.reason}" if lost.reason else ""
    return told + (f"; not alike: {', '.join(lost.differs)}" if lost.differs else "")


def _interval(e: Any) -> str:
    bounds = "" if e.ci_low is None else f" [{e.ci_low:.3f}, {e.ci_high:.3f}]"
    return f"{e.value:.3f}{bounds}"


def as_data(found: Any) -> dict[str, Any]:
    """All of it, in SI units."""
    return {
        "device": found.device_id,
        "prefer": found.prefer,
        "metric": found.key,
        "limits": [{"metric": o.key, "limit": o.limit, "better": o.better} for o in found.limits],
        "sure": found.sure,
        "energy_scope": found.field.scope,
        "asked": {suite: way._asdict() for suite, way in found.field.asked.items()},
        "n_candidates": len(found.field.candidates),
        **{place: choice and _choice_data(choice, found) for place, choice in _places(found)},
        "lost": found.lost and asdict(found.lost),
        "flags": list(found.flags),
        "did_not_take_part": list(found.left_out),
        "notes": found.notes,
    }


def _places(found: Any) -> Sequence[tuple[str, Any]]:
    return (
        ("recommended", found.chosen),
        ("runner_up", found.runner_up),
        ("surely_within", found.surest),
        ("shut_out", found.shut_out),
        ("nearest_miss", found.nearest),
    )


def _choice_data(choice: Any, found: Any) -> dict[str, Any]:
    from edgebench.results.recommend import evidence

    one = choice.candidate
    return {
        **_identity(choice),
        "evidence": evidence(choice, [found.key, *(limit.key for limit in found.limits)]).value,
        "settings": dict(one.settings),
        "figures": {key: _figure_data(figure) for key, figure in one.figures.items()},
        "limits": [
            {
                "metric": check.limit.key,
                "verdict": check.verdict.value,
                "reason": check.reason,
                "miss_share": check.shortfall_share(sure=False),
            }
            for check in choice.checks
        ],
    }


def _identity(choice: Any) -> dict[str, Any]:
    one = choice.candidate
    return {
        "model": one.model,
        "level": one.label,
        "artifact_sha256": one.artifact_id,
        "runner": one.runner,
        "run_with": _settings(choice),
    }


def _figure_data(figure: Any) -> dict[str, Any]:
    told = asdict(figure)
    return {**told.pop("estimate"), **told, "evidence": figure.evidence.value}


def as_rows(found: Any) -> list[dict[str, Any]]:
    """A row for each file that is named, with the figures that were looked at."""
    rows = []
    for place, choice in _places(found):
        if choice is None:
            continue
        row = {"place": place, "device": found.device_id, **_identity(choice)}
        for key in dict.fromkeys((found.key, *(limit.key for limit in found.limits))):
            figure = choice.candidate.figures.get(key)
            told = figure.estimate if figure else None
            row |= {
                key: told and told.value,
                f"{key}_ci_low": told and told.ci_low,
                f"{key}_ci_high": told and told.ci_high,
                f"{key}_run": figure and figure.run_id,
                f"{key}_evidence": figure and figure.evidence.value,
            }
        row |= {f"{check.limit.key}_verdict": check.verdict.value for check in choice.checks}
        rows.append(
            {**row, "lost": found.lost.verdict if place == "runner_up" else None, "notes": found.notes}
        )
    return rows

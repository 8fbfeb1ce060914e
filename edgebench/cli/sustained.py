"""`sustained`: what is left of a level's speed after minutes of generation."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from edgebench.cli.flips import estimate_dict
from edgebench.cli.measure import db_option
from edgebench.cli.output import Column, emit, examples, output_option, remark
from edgebench.core.units import interval, share, significant


@click.command(
    epilog=examples(
        "edgebench sustained",
        "edgebench sustained --out sustained.png",
        "edgebench sustained 01JD9A -o json",
    )
)
@click.argument("run", default="latest")
@click.option("--out", type=click.Path(path_type=Path, dir_okay=False), help="A picture: PNG, SVG or PDF.")
@db_option
@output_option
def sustained(run: str, out: Path | None, db: Path, output: str) -> None:
    """What is left of the speed after minutes of continuous generation?

    RUN is a unique beginning of a run's id, or `latest`: the newest run with a sustained test. The table
    has the figures; json, jsonl and csv have tokens/s, watts and °C of every 10 s too.
    """
    from edgebench.results.store import Store
    from edgebench.results.sustained import find_sustained, sustained_report

    with Store.open_readonly(db) as store:
        report = sustained_report(store, find_sustained(store, run))
    row = _row(report)
    emit([row], _columns(row), output, f"{report.test} on {report.run.device_id}")
    _explain(row, report)
    if out is not None:
        from edgebench.results.sustained_plot import sustained_picture

        sustained_picture(report, out)
        remark(f"picture: {out}")


def _row(report: Any) -> dict[str, Any]:
    found, run = report.figures, report.run
    return {
        "model": run.model,
        "level": run.label,
        "burst_tokens_per_s": estimate_dict(found.burst_tokens_per_s),
        "sustained_tokens_per_s": estimate_dict(found.sustained_tokens_per_s),
        "retained_share": estimate_dict(found.retained_share),
        "time_to_90_s": found.time_to_90_s,
        "slope": estimate_dict(found.slope),
        "temperature_max_c": found.temperature_max_c,
        "burst_w": found.burst_w,
        "sustained_w": found.sustained_w,
        "burst_j_per_token": found.burst_j_per_token,
        "sustained_j_per_token": found.sustained_j_per_token,
        "reasons": {name: str(why) for name, why in found.reasons.items()},
        "energy_source": report.energy_source,
        "energy_scope": report.energy_scope,
        "energy_evidence": report.energy_evidence,
        "flags": list(report.flags),
        "test": report.test,
        "duration_s": report.duration_s,
        "n_tokens": report.n_tokens,
        "n_threads": report.n_threads,
        "device": run.device_id,
        "evidence": run.evidence.value,
        "status": run.status.value,
        "run": run.id,
        "bins": [asdict(each) for each in report.bins],
    }


def _columns(row: Mapping[str, Any]) -> list[Column]:
    """The columns this run has something in."""
    columns = [
        Column("model", "model"),
        Column("level", "level"),
        Column("burst_tokens_per_s", "burst\ntokens/s", _figure, right=True),
        Column("sustained_tokens_per_s", "sustained\ntokens/s", _figure, right=True),
        Column("retained_share", "retained", _retained, right=True),
        Column("time_to_90_s", "below 90 %\nfrom", _moment, right=True),
        Column("slope", "per minute", _per_minute, right=True),
        Column("temperature_max_c", "max °C", significant, right=True),
        Column("burst_w", "burst\nW", significant, right=True),
        Column("sustained_w", "sustained\nW", significant, right=True),
        Column("burst_j_per_token", "burst\nJ/token", significant, right=True),
        Column("sustained_j_per_token", "sustained\nJ/token", significant, right=True),
    ]
    return [column for column in columns if row[column.key] is not None]


def _figure(estimate: Mapping[str, Any]) -> str:
    low, high = estimate["ci_low"], estimate["ci_high"]
    return significant(estimate["value"]) + ("" if low is None else f"\n{interval(low, high)}")


def _retained(estimate: Mapping[str, Any]) -> str:
    return f"{share(estimate['value'])}\n[{share(estimate['ci_low'])}, {share(estimate['ci_high'])}]"


def _moment(value_s: float) -> str:
    """`2:05`."""
    from edgebench.results.sustained_plot import clock

    return f"{clock(value_s)} min"


def _per_minute(slope: Mapping[str, Any]) -> str:
    """A slope of ln(rate) in 1/s as the change of a minute: `-6.1 %`."""
    import math

    low, value, high = (100 * math.expm1(60 * slope[name]) for name in ("ci_low", "value", "ci_high"))
    return f"{value:+.1f} %\n[{low:+.1f}, {high:+.1f}]"


def _explain(row: Mapping[str, Any], report: Any) -> None:
    from edgebench.results.sustained import flag_words

    remark("burst: median of the first 30 s; sustained: of the last 60 s; in bins of 10 s")
    if row["retained_share"]:
        remark("retained: sustained over burst; its 95 % interval is of the noise within this run")
    for told in _absences(row["reasons"]):
        remark(told)
    if row["burst_w"] is not None or row["sustained_w"] is not None:
        remark(
            f"energy: {row['energy_source']}" + (f", {row['energy_scope']}" if row["energy_scope"] else "")
        )
    if row["flags"]:
        remark(f"flags: {'; '.join(map(flag_words, row['flags']))}")
    if row["status"] != "complete":
        remark(f"the run is {row['status']}" + (f": {why}" if (why := report.run.invalid_reason) else ""))
    if row["evidence"] != "measured" or row["energy_evidence"] not in (None, "measured"):
        remark("some figures are not measured (see evidence in -o json); they never rank")


_TOLD = {
    "burst_tokens_per_s": "burst",
    "sustained_tokens_per_s": "sustained",
    "retained_share": "retained",
    "time_to_90_s": "time to 90 %",
    "slope": "change per minute",
    "temperature_max_c": "temperature",
    "burst_w": "power in burst",
    "sustained_w": "power sustained",
}


def _absences(reasons: Mapping[str, str]) -> Sequence[str]:
    """`power in burst, power sustained: none (no_sensor)`: figures without a value, by the reason."""
    by_reason: dict[str, list[str]] = {}
    for name, why in reasons.items():
        if name in _TOLD:
            by_reason.setdefault(why, []).append(_TOLD[name])
    return [f"{', '.join(names)}: none ({why})" for why, names in by_reason.items()]

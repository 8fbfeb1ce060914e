"""The same file on several devices: do they answer alike, and what does it cost on each?

A phone scores thousands of questions in hours, a computer in minutes. Where a sample that was asked on the
phone agrees with the computer's answers, the computer's accuracy of that very file holds for the phone.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

from edgebench.core.errors import UsageError, nearest
from edgebench.core.types import Evidence, Mode, Shape, Status
from edgebench.results.compare import noise_floor
from edgebench.results.engines import EngineRow, EngineTable, compared, title, weights_of
from edgebench.results.levels import Asking, LevelRow, asking, level_rows
from edgebench.results.parity import Gate
from edgebench.results.records import RunRow
from edgebench.results.store import Store


def by_device(
    store: Store,
    *,
    model: str | None = None,
    suite: str | None = None,
    scorer: str | None = None,
    permute: str | None = None,
    num_fewshot: int | None = None,
    base: str | None = None,
) -> EngineTable:
    """Every device and engine that ran the base's file. `base` begins a device's id; default: most answers.

    What is not said of the asking is as most devices were asked. UsageError when no two devices ran the same
    file, or the base is not known.
    """
    runs = [run for run in store.runs(status=Status.COMPLETE) if not run.is_tuning]
    wanted = Asking(suite_id=suite, scorer=scorer, num_fewshot=num_fewshot, permute=permute)
    way = _shared_asking([run for run in runs if model in (None, run.model)], wanted)
    rows: list[LevelRow] = []
    refused: dict[str, UsageError] = {}
    for device in dict.fromkeys(run.device_id for run in runs):
        try:
            rows += level_rows(
                store,
                device=device,
                model=model,
                suite=way.suite_id,
                scorer=way.scorer,
                permute=way.permute,
                num_fewshot=way.num_fewshot,
                per_engine=True,
            )
        except UsageError as error:
            refused[device] = error
    if not rows and refused:
        raise next(iter(refused.values()))
    models = sorted({row.model for row in rows})
    if len(models) > 1:
        raise UsageError(f"{len(models)} models can't share a base: {', '.join(models)}", "name one: -m")
    weights = weights_of(store)
    chosen = _base(rows, weights, base)
    same = [row for row in rows if weights[row.artifact_id] == weights[chosen.artifact_id]]
    if len({row.device_id for row in same}) < 2:
        raise UsageError(
            "no two devices ran the same file",
            "measure it on both: edgebench run -m FILE, edgebench run -m FILE --device pixel8",
        )
    against = EngineRow(row=chosen, parity=None, flips=None, noise=noise_floor(store, chosen), ratios=())
    others = tuple(compared(store, chosen, row) for row in same if row is not chosen)
    left_out = [(f"{title(row)} on {row.device_id}", "another file") for row in rows if row not in same]
    left_out += [(device, "another model, or asked in another way") for device in refused]
    return EngineTable(base=against, engines=(against, *others), left_out=tuple(left_out))


def accepted(table: EngineTable) -> list[str]:
    """Devices for which the base's accuracy may stand, each a line with the agreement that shows it."""
    base = table.base.row
    told = []
    for one in table.engines:
        found, figure = one.parity, base.figures.get(base.headline)
        if found is None or found.agree is None or figure is None or one.row.device_id == base.device_id:
            continue
        agree = f"{round(found.agree.value * found.agree.n)} of {found.agree.n} answers agree"
        if Evidence.SYNTHETIC in (base.evidence, one.row.evidence):
            told.append(
                f"{one.row.device_id}: {agree} with {base.device_id}; no device's, so it shows nothing"
            )
            continue
        what = f"{base.headline} {figure.value:.3f} of {figure.n} questions on {base.device_id}"
        holds = _HOLDS[found.gate]
        told.append(f"{what} {holds} for {one.row.device_id}: {'; '.join([agree, *found.reasons])}")
    return told


def _shared_asking(runs: Sequence[RunRow], wanted: Asking) -> Asking:
    """The way of asking that most devices share and that is as wanted; of several, the newest run's."""
    devices: dict[Asking, set[str]] = defaultdict(set)
    for run in runs:
        if run.mode is Mode.ACCURACY and run.shape == Shape.GROUPED and _fits(asking(run), wanted):
            devices[asking(run)].add(run.device_id)
    return max(devices, key=lambda way: len(devices[way]), default=wanted)


def _fits(way: Asking, wanted: Asking) -> bool:
    suite_id = way.suite_id or ""
    if wanted.suite_id not in (None, suite_id, suite_id.partition("@")[0]):
        return False
    return all(
        getattr(wanted, name) in (None, getattr(way, name)) for name in ("scorer", "num_fewshot", "permute")
    )


_HOLDS = {Gate.PASS: "holds", Gate.FAIL: "does not hold", Gate.UNKNOWN: "is not shown to hold"}


def _base(rows: list[LevelRow], weights: Mapping[str, tuple[str, str]], name: str | None) -> LevelRow:
    """The device that was named, else the one that answered most; of its files, one that others ran too."""
    if not rows:
        raise UsageError("no complete runs", "edgebench run --device NAME measures on a device")
    fitting = [row for row in rows if name is None or row.device_id.startswith(name)]
    if not fitting:
        raise nearest(str(name), {row.device_id for row in rows}, kind="device in this database")

    def company(row: LevelRow) -> tuple[bool, int]:
        devices = {one.device_id for one in rows if weights[one.artifact_id] == weights[row.artifact_id]}
        figure = row.figures.get(row.headline)
        return len(devices) > 1, figure.n if figure else 0

    return max(fitting, key=company)

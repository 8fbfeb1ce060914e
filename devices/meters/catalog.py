"""All meters of this device, and which one a run's energy figure is taken from.

The others are stored beside it and never summed: their scopes overlap.
"""

from collections.abc import Sequence

from edgebench.core import registry
from edgebench.core.energy import Absence, Meter, MeterFacts, MeterSource, Method, Scope, SourceStatus

PREFERENCE = (
    Scope.WALL,
    Scope.BATTERY,
    Scope.GPU_MODULE,
    Scope.GPU_BOARD,
    Scope.PLATFORM,
    Scope.RAILS,
    Scope.SOC_RAILS,
    Scope.PACKAGE,
    Scope.SOC_MODEL,
)
"""From all of the device to its parts.

A GPU's board counts only for a run on the GPU. It comes before the platform there: a laptop's platform
counter need not have the card in it, and boards that really count all (a Jetson's, a Mac's) have no
GPU meter of their own.
"""
_OF_A_GPU = frozenset({Scope.GPU_MODULE, Scope.GPU_BOARD})


def probe_all() -> list[SourceStatus]:
    """What every family says, the widest scope first; a family that fails is a line of its own."""
    found = [status for name in registry.names("meters") for status in _probe(name)]
    return sorted(found, key=lambda status: (_rank(status.scope), not status.usable))


def open_all() -> list[Meter]:
    """Every usable meter, the widest scope first; the caller closes them."""
    meters = [meter for name in registry.names("meters") for meter in _open(name)]
    return sorted(meters, key=lambda meter: _rank(meter.facts.scope))


def headline(facts: Sequence[MeterFacts], *, on_gpu: bool = False) -> MeterFacts | None:
    """The meter whose joules are a run's figure; None when no meter fits.

    `facts` are those that have a reading: a battery that was plugged in is not among them. Of one
    scope, a counter comes before a sampled meter, then the order given decides. `on_gpu` says that
    the model runs on the GPU; otherwise a GPU's board says nothing about the run and is never taken.
    """
    fitting = [f for f in facts if on_gpu or f.scope not in _OF_A_GPU]
    return min(fitting, key=lambda f: (_rank(f.scope), f.method is not Method.COUNTER), default=None)


def _rank(scope: Scope | None) -> int:
    return len(PREFERENCE) if scope is None else PREFERENCE.index(scope)


def _probe(name: str) -> list[SourceStatus]:
    try:
        family: MeterSource = registry.load("meters", name)
        return family.probe()
    except Exception as error:  # noqa: BLE001 - a plug-in may raise anything, and the others still count
        return [_broken(name, error)]


def _open(name: str) -> list[Meter]:
    try:
        family: MeterSource = registry.load("meters", name)
        return family.open()
    except Exception:  # noqa: BLE001 - probe_all says why
        return []


def _broken(name: str, error: Exception) -> SourceStatus:
    why = " ".join(f"the family {name} failed: {error}".split())
    return SourceStatus(
        source=name, title=f"meters of {name}", scope=None, reason=Absence.UNREADABLE, why=why
    )

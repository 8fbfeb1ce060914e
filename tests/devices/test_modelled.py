"""The modelled figure: its arithmetic, and that nobody takes it for a measurement."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.energy import EnergyReading
from edgebench.core.errors import UsageError
from edgebench.core.types import Evidence
from edgebench.devices.meters.modelled import tdp_energy_j


@given(st.floats(0, 1e6), st.integers(1, 512), st.floats(0.1, 1000))
def test_all_cores_busy_all_the_time_is_the_design_power(wall_s: float, n_cores: int, tdp_w: float) -> None:
    full = tdp_energy_j(wall_s * n_cores, n_cores, tdp_w, source="data sheet")
    assert full.value_j == pytest.approx(tdp_w * wall_s)
    assert tdp_energy_j(wall_s, n_cores, tdp_w, source="data sheet").value_j <= full.value_j


def test_figure_says_what_it_is() -> None:
    modelled = tdp_energy_j(30.0, 4, 60.0)
    assert modelled.value_j == 450.0
    assert modelled.label == "MODELLED – not measured"
    assert modelled.evidence is Evidence.MODELLED
    assert modelled.source == "the user"
    assert eval(modelled.formula, {"tdp_w": 60.0, "busy_core_s": 30.0, "n_cores": 4}) == modelled.value_j
    assert not isinstance(modelled, EnergyReading)


@pytest.mark.parametrize(
    ("busy_core_s", "n_cores", "tdp_w"),
    [
        (1.0, 0, 60.0),
        (1.0, 4, 0.0),
        (1.0, 4, -5.0),
        (-1.0, 4, 60.0),
        (float("nan"), 4, 60.0),
        (1.0, 4, float("nan")),
    ],
)
def test_nonsense_is_refused(busy_core_s: float, n_cores: int, tdp_w: float) -> None:
    with pytest.raises(UsageError):
        tdp_energy_j(busy_core_s, n_cores, tdp_w)

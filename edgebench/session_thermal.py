"""Cooling down by temperature: a test begins as warm as the first one did, or says that it did not."""

import time
from dataclasses import dataclass

from edgebench.devices.state import settled
from edgebench.session_cell import Watcher
from edgebench.session_recorder import Recorder

USUAL_CAP_S, RIGOROUS_CAP_S = 60.0, 600.0
"""The longest wait before one test."""
LOOK_S = 2.0
CLOSE_C = 2.0
"""As warm as at the start, give or take so much: no need to wait."""
UNSETTLED = "thermal_not_settled"


@dataclass(slots=True, kw_only=True)
class Thermostat:
    """Waits until the computer is as cool as at the start of the campaign."""

    cap_s: float = USUAL_CAP_S
    target_c: float | None = None
    """The temperature at the start; None until the first look, and where there is no sensor."""

    def begin(self, recorder: Recorder) -> None:
        """Take the temperature the campaign starts at."""
        if self.target_c is None and (state := recorder.state_now()) is not None:
            self.target_c = state.temperature_c

    def cool_down(self, recorder: Recorder, watcher: Watcher) -> list[str]:
        """Wait where it is too warm; the flags of what follows (`thermal_not_settled`, or none)."""
        if self.target_c is None:
            return []
        begun = time.perf_counter()
        state = recorder.state_now()
        if state is None or state.temperature_c is None or state.temperature_c <= self.target_c + CLOSE_C:
            return []
        watcher.say(
            f"cooling down from {state.temperature_c:.0f} °C to {self.target_c:.0f} °C,"
            f" at most {self.cap_s:.0f} s"
        )
        while time.perf_counter() - begun < self.cap_s:
            time.sleep(LOOK_S)
            seen = [(at_s, s.temperature_c) for at_s, s in recorder.states if at_s >= begun]
            if settled([(at_s, c) for at_s, c in seen if c is not None], self.target_c):
                return []
        return [UNSETTLED]

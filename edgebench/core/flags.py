"""What can be wrong with a measurement, in words: flags of trials and runs, and what memory means."""

FLAG_WORDS = {
    "noisy_neighbour": "other programs had more than a tenth of the time; close them and run again",
    "unstable_host": "a fixed piece of work took longer than the host can do it: its speed is not steady",
    "throttled": "the processor slowed itself down because of its heat; let it cool, or see --sustained",
    "power_capped": "the GPU was at its power limit and its clocks lower for it, as at any full load",
    "on_battery": "a battery was discharging; speeds on mains are others",
    "governor_changed": "the frequency governor was changed meanwhile",
    "not_steady": "speed had a trend over the test; cool down longer (--rigorous), or see --sustained",
    "thermal_not_settled": "it did not cool down to where the run began before a test",
    "paging": "pages were read from disk or swap meanwhile: it does not fit in memory",
    "cache_resident": "the weights fit in the processor's last cache: no measure of memory bandwidth",
    "tokens_in_lumps": "the server sent several tokens at once: there are no times of single tokens",
    "power_disagrees": "the meter's counter and its own sampled power are more than 5 % apart",
    "gap": "the meter was silent for a part of a window",
    "idle_drift": "idle power moved by more than a tenth between before and after",
    "negative_net": "less energy than idle power alone: the baseline is not this run's",
}
"""Flag -> what it says and what to do."""

USUAL = frozenset({"power_capped"})
"""Flags that tell how a device runs at full load: no disturbance of a measurement."""

MEMORY_DEFINITION = (
    "peak memory: the most that was resident at once (VmHWM), mapped weights included; anon is what the"
    " process allocated, file the pages of mapped files it touched, and PSS counts a page that n processes"
    " share as 1/n; memory needed = anonymous + touched mapped file + GPU"
)
"""What the figures mean: printed with them."""

"""Does a run tell that it was disturbed? Runs with a competing load that starts midway, and quiet ones.

    python benchmarks/contention_flags.py [--runs 20]

Each run measures the embedded model's q8_0 level in a fresh database through `edgebench run`; every other
one gets a process that spins from the middle of it on. Prints how many runs of each kind
carry the flag `noisy_neighbour`, and exits 1 when it is fewer than 19 of 20 disturbed ones, or more than 1
of 20 quiet ones with a steady canary. Takes about ten minutes; run it on a quiet machine.
"""

import argparse
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

from edgebench.session_models import make_level, resolve

LEAST_CAUGHT, MOST_FALSE = 19 / 20, 1 / 20
FLAG = "noisy_neighbour"
RUN = ("--mode", "performance", "-t", "1", "-p", "96", "-n", "32", "--chat", "0", "-r", "5", "--rounds", "1")
"""One thread: two that wait for each other lose nine tenths of their speed to a neighbour."""


def measured(model: Path, folder: Path, *, disturb_after_s: float | None) -> tuple[list[str], bool, float]:
    """The flags of one run, whether its canary was steady, and how long it took."""
    database = folder / f"{time.time_ns()}.sqlite"
    command = [sys.executable, "-m", "edgebench", "run", "-m", str(model), *RUN, "--db", str(database)]
    rivals: list[subprocess.Popen[bytes]] = []
    begun = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as run:
        while run.poll() is None:
            if disturb_after_s is not None and not rivals and time.monotonic() - begun > disturb_after_s:
                spin = [sys.executable, "-c", "while True: pass"]
                rivals = [subprocess.Popen(spin)]
            time.sleep(0.05)
    for rival in rivals:
        rival.kill()
        rival.wait()
    with closing(sqlite3.connect(database)) as connection:
        flags = json.loads(connection.execute("SELECT flags_json FROM run").fetchone()[0])
        trials = [json.loads(row[0]) for row in connection.execute("SELECT flags_json FROM trial")]
    return flags, not any("unstable_host" in trial for trial in trials), time.monotonic() - begun


def main() -> None:
    """Alternate quiet and disturbed runs."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=20, help="of each kind")
    n_runs = parser.parse_args().runs
    model = make_level(resolve("smollm2-135m", print), "q8_0", n_threads=2, progress=lambda _: None).path
    quiet: list[tuple[bool, bool]] = []
    disturbed: list[bool] = []
    with tempfile.TemporaryDirectory() as folder:
        *_, usual_s = measured(model, Path(folder), disturb_after_s=None)
        for i in range(n_runs):
            flags, steady, _ = measured(model, Path(folder), disturb_after_s=None)
            quiet.append((FLAG in flags, steady))
            flags, _, _ = measured(model, Path(folder), disturb_after_s=0.5 * usual_s)
            disturbed.append(FLAG in flags)
            n_flagged = sum(flagged for flagged, _ in quiet)
            told = f"{i + 1}/{n_runs}: disturbed {sum(disturbed)} caught, quiet {n_flagged} flagged"
            print(told, file=sys.stderr, flush=True)
    n_steady = sum(steady for _, steady in quiet)
    n_false = sum(flagged for flagged, steady in quiet if steady)
    print(f"disturbed from the middle on: {sum(disturbed)} of {n_runs} flagged {FLAG}")
    print(f"quiet, canary steady: {n_false} of {n_steady} flagged")
    print(f"quiet, all: {sum(flagged for flagged, _ in quiet)} of {n_runs} flagged")
    bad = sum(disturbed) < LEAST_CAUGHT * n_runs or n_false > max(MOST_FALSE * n_steady, 1)
    sys.exit(int(bad))


if __name__ == "__main__":
    main()

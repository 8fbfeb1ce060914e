"""Progress on stderr: a bar with the time left on a terminal, plain lines elsewhere."""

import sys
import time
from types import TracebackType
from typing import Any, Self

import click

QUIET_S = 15.0
"""Without a terminal, at most one progress line in so many seconds."""


class Progress:
    """What `edgebench.session` tells, shown. A context manager."""

    def __init__(self) -> None:
        self._live = sys.stderr.isatty()
        self._bar: Any = None
        self._task: Any = None
        self._done = self._total = self._units_done = self._n_units = 0
        self._began_s = self._told_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                TextColumn("{task.fields[count]}", markup=False),
                TimeElapsedColumn(),
                TextColumn("left"),
                TimeRemainingColumn(),
                TextColumn("{task.fields[note]}", style="dim", markup=False),
                console=Console(file=sys.stderr),
            )
            self._bar.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line for people."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            click.echo(line, err=True)

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None:
        """A part of the work begins; the time left goes by units, where steps differ in size."""
        self._total, self._done = n_steps, 0
        self._n_units, self._units_done, self._began_s = n_units or n_steps, 0, time.monotonic()
        if self._bar is not None:
            self._task = self._bar.add_task(title, total=self._n_units, note="", count=self._count())
        else:
            click.echo(title, err=True)
            self._told_s = time.monotonic()

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None:
        """Some of it is done."""
        if self._bar is not None and self._task is None:
            self.stage("working", n_steps)
        self._done += n_steps
        advance = n_steps if n_units is None else n_units
        self._units_done += advance
        if self._bar is not None:
            self._bar.update(self._task, advance=advance, note=note, count=self._count())
        elif time.monotonic() - self._told_s > QUIET_S or self._done == self._total:
            self._told_s = time.monotonic()
            click.echo(f"  {self._count()} {note}{self._left()}", err=True)

    def _count(self) -> str:
        return f"{self._done}/{self._total}"

    def _left(self) -> str:
        """How long the rest takes at the pace so far."""
        rest = self._n_units - self._units_done
        if rest <= 0 or not self._units_done:
            return ""
        left_s = (time.monotonic() - self._began_s) * rest / self._units_done
        return f", {left_s / 60:.0f} min left" if left_s >= 90 else f", {left_s:.0f} s left"

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
        self._done = self._total = 0
        self._title = ""
        self._told_s = 0.0

    def __enter__(self) -> Self:
        if self._live:
            from rich.console import Console
            from rich.progress import (
                BarColumn,
                MofNCompleteColumn,
                TextColumn,
                TimeElapsedColumn,
                TimeRemainingColumn,
            )
            from rich.progress import Progress as Bar

            self._bar = Bar(
                TextColumn("{task.description}", markup=False),
                BarColumn(),
                MofNCompleteColumn(),
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

    def stage(self, title: str, n_steps: int) -> None:
        """A part of the work begins."""
        self._title, self._total, self._done = title, n_steps, 0
        if self._bar is not None:
            self._task = self._bar.add_task(title, total=n_steps, note="")
        else:
            click.echo(title, err=True)
            self._told_s = time.monotonic()

    def step(self, note: str, n_steps: int = 1) -> None:
        """Some of it is done."""
        self._done += n_steps
        if self._bar is not None:
            self._bar.update(self._task, advance=n_steps, note=note)
        elif time.monotonic() - self._told_s > QUIET_S or self._done == self._total:
            self._told_s = time.monotonic()
            click.echo(f"  {self._done}/{self._total} {note}", err=True)

"""Where native programs run: a host, its folder, the program built for it, and how files get there."""

import posixpath
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from edgebench.core.errors import DeviceError, UsageError
from edgebench.core.hashing import sha256_text
from edgebench.core.paths import cache_part
from edgebench.core.types import Artifact, Evidence
from edgebench.core.units import data_size
from edgebench.devices.local import default_threads, local_device, local_environment
from edgebench.devices.local_host import LocalHost
from edgebench.devices.phone_batch import batch_argv
from edgebench.session_cell import Watcher
from edgebench.session_native_program import Program, program_here
from edgebench.session_native_work import Terms
from edgebench.session_plan import Request, Site
from edgebench.session_remote_cargo import (
    SPARE_BYTES,
    File,
    file_of,
    free_bytes_there,
    model_files,
    send,
    sizes_there,
)
from edgebench.session_remote_link import Link

PIECE_BYTES = 2**23
"""Of a file, in one look."""
COOL_CAP_S = 60
RIGOROUS_COOL_CAP_S = 600
"""The longest wait for a cooler device before a job."""


@dataclass(slots=True, kw_only=True)
class Place:
    """A device that is reached, and what is known of it."""

    link: Link
    root: str
    """The folder on the device that is ours."""
    site: Site
    build: Callable[[], Program]
    """Makes what does the work there, or finds it made."""
    available_bytes: int | None = None
    """Memory that could be had when it was reached; None: not told, or swap makes the question idle."""
    boot_unix_s: float | None = None
    minimum_s: float = 0.0
    """How long a test's window must be for the meter its energy comes from."""
    rigorous_s: float = 0.0
    """The same under --rigorous."""
    is_phone: bool = True
    candidates: tuple[tuple[int, str | None], ...] = ()
    """Numbers of threads worth trying, and the processors each is for."""
    owner: str = ""
    """The unit: what edgebench left in its folder there to know it again by. No serial number."""
    _program: Program | None = None

    @property
    def program(self) -> Program:
        """What does the work there: built when it is first needed, which may take minutes."""
        if self._program is None:
            self._program = self.build()
        return self._program

    @property
    def synthetic(self) -> bool:
        """Whether it is a stand-in, whose figures are nobody's."""
        return self.site.evidence is Evidence.SYNTHETIC

    @property
    def program_path(self) -> str:
        """The native program's path there."""
        return f"{self.root}/bin/{self.program.key}/{self.program.name}"

    @property
    def terms(self) -> Terms:
        """What its jobs must know."""
        return Terms(
            model_path=self.model_path,
            minimum_s=self.minimum_s,
            rigorous_s=self.rigorous_s,
            shares_beginnings=self.program.shares_beginnings,
        )

    def model_path(self, artifact: Artifact) -> str:
        """Where a model's file lies there, by its hash."""
        return f"{self.root}/models/{artifact.sha256}/{artifact.path.name}"

    def bring_programs(self, watcher: Watcher) -> None:
        """The program and all it needs beside it, unless it is there already."""
        folder = f"{self.root}/bin/{self.program.key}"
        files = [file_of(path, f"{folder}/{name}") for name, path in self.program.files.items()]
        self._bring(files, watcher)
        self.link.run(["chmod", "755", *(file.target for file in files)])

    def bring_models(self, artifacts: Sequence[Artifact], watcher: Watcher) -> None:
        """Model files that are not there yet. DeviceError, before anything is sent, when they don't fit."""
        self._bring([file for one in artifacts for file in model_files(one, self.model_path(one))], watcher)

    def bring_folder(self, folder: Path, target: str) -> None:
        """Small text files, each whole or not at all, in the place of any that were there."""
        for path in sorted(path for path in folder.rglob("*") if path.is_file()):
            there = posixpath.join(target, path.relative_to(folder).as_posix())
            self.link.put(there, path.read_text(encoding="utf-8"))

    def _bring(self, files: Sequence[File], watcher: Watcher) -> None:
        script = 'for f; do if [ -f "$f" ]; then echo y; else echo n; fi; done'
        told = self.link.run(["sh", "-c", script, "sh", *(file.target for file in files)]).split()
        files = [file for file, word in zip(files, told, strict=True) if word == "n"]
        if not files:
            return
        self.link.run(["mkdir", "-p", self.root])
        begun = sizes_there(self.link, [file.target for file in files])
        missing_bytes = sum(max(0, file.size_bytes - n) for file, n in zip(files, begun, strict=True))
        free_bytes = free_bytes_there(self.link, self.root)
        if free_bytes < missing_bytes + SPARE_BYTES:
            raise DeviceError(
                f"{self.link.host.name} has {data_size(free_bytes)} of storage free in {self.root}; the files"
                f" take {data_size(missing_bytes)} more, and {data_size(SPARE_BYTES)} stay free",
                f"free some there (edgebench devices clean {self.link.host.name})",
            )
        send(self.link, files, watcher, missing_bytes)

    def read(self, path: str, offset: int = 0) -> bytes | None:
        """A file there from a byte on, however long it is; None when there is none."""
        script = '[ ! -f "$1" ] || { echo there; tail -c "+$(($2 + 1))" "$1" | head -c "$3"; }'
        found = b""
        while True:
            begin = str(offset + len(found))
            argv = ["sh", "-c", script, "sh", path, begin, str(PIECE_BYTES)]
            told = self.link.run(argv, deadline_s=300).encode("utf-8", "surrogateescape")
            if not told:
                return None
            piece = told.partition(b"\n")[2]
            found += piece
            if len(piece) < PIECE_BYTES:
                return found

    def batch_settings(self, request: Request) -> dict[str, str]:
        """What batch.sh is told besides its jobs."""
        cap_s = RIGOROUS_COOL_CAP_S if request.rigorous else COOL_CAP_S
        screen = {"screen": "off"} if self.is_phone else {}
        return {"cool_cap_s": str(cap_s), **screen}

    def start_batch(self, name: str) -> None:
        """Begin, detached; DeviceError when something else of ours runs there."""
        argv = batch_argv(f"{self.root}/batches/{name}", self.program_path)
        running = self.link(lambda: self.link.host.start(argv, root=self.root, job=name))
        if running not in (None, name):
            raise DeviceError(
                f"{self.link.host.name} is busy with another batch of edgebench ({running})",
                "wait for it, or stop it where it was started: two at once would spoil each other",
            )

    def drop_batch(self, name: str) -> None:
        """Remove a batch whose results are stored."""
        folders = [f"{self.root}/batches/{name}", f"{self.root}/runs/{name}"]
        self.link.run(["rm", "-rf", *folders])


@contextmanager
def place_here(request: Request, database: Path, watcher: Watcher) -> Iterator[Place]:
    """This computer as a place for native programs, with a folder in the cache for each database."""
    if request.device not in ("local", "auto"):
        raise UsageError(f"--runner {request.runner} does not run on {request.device}")
    program = program_here(request, watcher)
    root = cache_part("native") / "host" / sha256_text(str(database.resolve()))[:12]
    yield Place(
        link=Link(LocalHost(), watcher),
        root=str(root),
        site=Site(
            device=local_device(),
            environment=local_environment(),
            runner=program.runner,
            n_threads=default_threads(),
            evidence=Evidence.MEASURED,
            level=program.level,
        ),
        build=lambda: program,
        boot_unix_s=_boot_unix_s(),
        is_phone=False,
    )
    if not any((root / "batches").glob("*")):  # else there is something to collect
        shutil.rmtree(root, ignore_errors=True)


def _boot_unix_s() -> float:
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)

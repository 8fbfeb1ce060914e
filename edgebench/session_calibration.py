"""An importance matrix from text: what llama.cpp's own tool sees pass through the model's matrices."""

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from edgebench.core.errors import ModelError, UsageError
from edgebench.core.hashing import sha256_json, sha256_text
from edgebench.core.paths import atomic_path, cache_part
from edgebench.core.types import Artifact, Scorer
from edgebench.quantize.gguf_file import MAGIC
from edgebench.quantize.imatrix import read_imatrix
from edgebench.runners.llama_source import tool
from edgebench.suites.definition import find_definition
from edgebench.suites.loader import load_dev, load_suite
from edgebench.suites.prompts import LETTERS, build_prompt

BUILT_IN = "builtin"
N_CTX = 512
MIN_TOKENS_PER_CHUNK = 2 * N_CTX
"""The tool wants this many tokens at the least."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Calibration:
    """An importance matrix, and what it was made of."""

    imatrix: Path
    sha256: str
    facts: dict[str, Any]


def calibration_text(what: str | None, suites: Sequence[str], data: Path | None) -> tuple[str, list[str]]:
    """The text to calibrate with, and the names of its parts. Of suites only train or dev questions."""
    texts, names = [], []
    if what == BUILT_IN:
        texts.append((files("edgebench.quantize") / "data" / "calibration.txt").read_text(encoding="utf-8"))
        names.append(BUILT_IN)
    elif what is not None:
        try:
            texts.append(Path(what).read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise UsageError(f"no calibration text at {what}", f"a file's path, or {BUILT_IN}") from None
        except UnicodeDecodeError as error:
            raise UsageError(f"{what} is neither UTF-8 text nor an importance matrix") from error
        names.append(Path(what).name)
    for suite in suites:
        texts.append(_dev_text(suite, data))
        names.append(f"{suite} (dev)")
    return "\n\n".join(texts), names


def calibrate(
    base: Artifact,
    what: str | None,
    suites: Sequence[str],
    data: Path | None,
    *,
    n_threads: int,
    say: Callable[[str], None],
) -> Calibration | None:
    """The importance matrix for a model; None when nothing was given. Made once for a model and a text.

    `what` is a text file, `builtin`, or a ready importance matrix in GGUF form.
    """
    if what is None and not suites:
        return None
    if what is not None and what != BUILT_IN and _is_gguf(Path(what)):
        if suites:
            raise UsageError("a ready importance matrix can't be joined with suites", "give one of the two")
        ready = read_imatrix(Path(what))
        facts: dict[str, Any] = {"imatrix": Path(what).name, "n_chunks": ready.n_chunks}
        return Calibration(imatrix=Path(what).absolute(), sha256=ready.sha256, facts=facts)
    text, names = calibration_text(what, suites, data)
    program = tool("llama-imatrix", say)
    key = sha256_json([base.sha256, sha256_text(text), N_CTX, program.parent.name])[:16]
    target = cache_part("artifacts") / base.sha256[:16] / f"imatrix-{key}.gguf"
    if not target.exists():
        say(f"calibrating {base.model} on {len(text.encode()) / 1000:.0f} kB of text ({', '.join(names)})")
        _run(program, base, text, target, n_threads)
    made = read_imatrix(target)
    facts = {"text_sha256": sha256_text(text), "parts": names, "n_ctx": N_CTX, "n_chunks": made.n_chunks}
    return Calibration(imatrix=target, sha256=made.sha256, facts=facts)


def _run(program: Path, base: Artifact, text: str, target: Path, n_threads: int) -> None:
    with atomic_path(target) as partial:
        # The tool writes the text's path into its file: a bare name keeps this computer's paths out of it.
        folder = partial.with_suffix(".text")
        folder.mkdir()
        try:
            (folder / "calibration.txt").write_text(text, encoding="utf-8")
            command = [str(program), "-m", str(base.path.absolute()), "-f", "calibration.txt"]
            command += ["-o", str(partial.absolute()), "-c", str(N_CTX), "-t", str(n_threads), "--no-ppl"]
            done = subprocess.run(
                command, cwd=folder, capture_output=True, text=True, errors="replace", check=False
            )
        finally:
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()
        if done.returncode or not partial.exists():
            told = [line.strip() for line in done.stderr.splitlines() if "error" in line or "need" in line]
            reason = (told or done.stderr.strip().splitlines()[-1:] or ["no reason given"])[-1]
            short = len(text) < 4 * MIN_TOKENS_PER_CHUNK
            raise ModelError(
                f"llama-imatrix could not calibrate {base.model}: {reason}",
                f"the text is short: it takes {MIN_TOKENS_PER_CHUNK} tokens at the least" if short else None,
            )


def _is_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


def _dev_text(name: str, data: Path | None) -> str:
    """A suite's dev questions as it asks them, each with its right answer."""
    suite = load_suite(name, data)
    scorer = Scorer.LETTER if Scorer.LETTER in find_definition(name).prompts else suite.default_scorer
    texts = []
    for question in load_dev(name, data):
        if question.answer_index is None:
            continue  # nothing to calibrate on
        answer = question.choices[question.answer_index]
        prompt = build_prompt(suite, question, scorer)
        mark = f"{LETTERS[question.answer_index]}. " if scorer is Scorer.LETTER else ""
        texts.append(f"{prompt.context} {mark}{answer}")
    return "\n\n".join(texts)

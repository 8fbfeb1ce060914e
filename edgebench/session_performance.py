"""One performance test inside the measuring process: this loop owns the clock, for every engine.

`pp` and `tg` are llama-bench's: random tokens, an empty cache (or one of `n_depth` tokens), no
tokenizer, no sampling. `chat` is a text request: its clock starts when the text is handed over and
`ttft_s` ends at the first token that is not empty, so templating and tokenization are inside.
"""

import os
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from edgebench.core.engine import Session
from edgebench.core.types import Workload
from edgebench.devices.contention import UNSTABLE_FACTOR, CpuTimes, is_noisy, spin_s

CHAT_TEXT = (
    "My phone feels slow since the last update and its battery is empty before the evening. I mostly "
    "read messages, listen to music on the train and take a few pictures of the garden. What should I "
    "look at first, and in which order? Please answer with a short list and one sentence for each step."
)
"""The chat-like request; invented, about 60 tokens."""


@dataclass(frozen=True, slots=True)
class Canary:
    """A fixed spin before and after every repetition: slower than at the start means the host moved."""

    best_s: float

    @classmethod
    def calibrated(cls) -> "Canary":
        """The fastest of seven spins, taken before anything is measured."""
        return cls(min(spin_s() for _ in range(7)))

    def is_slow(self, *spins_s: float) -> bool:
        """Whether any of the spins took clearly longer than the host can."""
        return max(spins_s) > UNSTABLE_FACTOR * self.best_s


def measure(
    session: Session, workload: Workload, canary: Canary, *, seed: int, repetitions: list[int]
) -> Iterator[Mapping[str, Any]]:
    """One full warm-up, then the repetitions asked for, by number; yields trials as they are made."""
    rng = random.Random(f"{seed}:{workload.name}:{repetitions}")
    chat_tokens = len(session.tokenize(session.chat_prompt(CHAT_TEXT)[0])) if workload.chat else 0
    session.open(n_ctx=workload.n_prompt + workload.n_gen + workload.n_depth + chat_tokens)
    for phase, repetition in [("warmup", 0), *(("measured", r) for r in repetitions)]:
        session.reset()
        if workload.n_depth:
            session.prefill(_random_tokens(session, rng, workload.n_depth))
        canary_before_s = spin_s()
        before = CpuTimes.read(os.getpid(), os.getppid())
        started_unix_s = time.time()
        timed = _chat(session, workload) if workload.chat else _synthetic_tokens(session, workload, rng)
        after = CpuTimes.read(os.getpid(), os.getppid())
        canary_after_s = spin_s()
        foreign_s = after.foreign_since(before) if before and after else None
        flags = []
        if foreign_s is not None and is_noisy(foreign_s, timed["total_s"]):
            flags.append("noisy_neighbour")
        if canary.is_slow(canary_before_s, canary_after_s):
            flags.append("unstable_host")
        yield {
            "test": workload.name,
            "phase": phase,
            "repetition": repetition,
            "n_prompt": chat_tokens or workload.n_prompt,
            "n_gen": workload.n_gen,
            "n_depth": workload.n_depth,
            "started_unix_s": started_unix_s,
            "foreign_cpu_s": foreign_s,
            "canary_before_s": canary_before_s,
            "canary_after_s": canary_after_s,
            "flags": flags,
            **timed,
        }


def _random_tokens(session: Session, rng: random.Random, n: int, *, first: bool = True) -> list[int]:
    """Random ids; a text's first is BOS when the tokenizer adds one, as in llama-bench."""
    tokens = [rng.randrange(session.n_vocab) for _ in range(n)]
    if first and tokens and session.bos is not None:
        tokens[0] = session.bos
    return tokens


def _synthetic_tokens(session: Session, workload: Workload, rng: random.Random) -> dict[str, Any]:
    prompt = _random_tokens(session, rng, workload.n_prompt, first=not workload.n_depth)
    steps = _random_tokens(session, rng, workload.n_gen, first=not (workload.n_depth or workload.n_prompt))
    stamps: list[int] = []
    start = time.perf_counter_ns()
    if prompt:
        session.prefill(prompt)
    prefilled = time.perf_counter_ns()
    for token in steps:
        session.prefill([token])
        stamps.append(time.perf_counter_ns())
    end = stamps[-1] if stamps else prefilled
    return {
        "prefill_s": (prefilled - start) * 1e-9 if prompt else None,
        "decode_s": (end - prefilled) * 1e-9 if steps else None,
        "ttft_s": None,
        "total_s": (end - start) * 1e-9,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps],
    }


def _chat(session: Session, workload: Workload) -> dict[str, Any]:
    stamps: list[int] = []
    first: int | None = None
    start = time.perf_counter_ns()
    tokens = session.tokenize(session.chat_prompt(CHAT_TEXT)[0])
    session.prefill(tokens)
    prefilled = time.perf_counter_ns()
    for i in range(workload.n_gen):
        token = session.greedy()
        shown = session.piece(token)
        stamps.append(time.perf_counter_ns())
        if first is None and shown:
            first = stamps[-1]
        if i < workload.n_gen - 1:
            session.prefill([token])
    return {
        "prefill_s": (prefilled - start) * 1e-9,
        "decode_s": (stamps[-1] - prefilled) * 1e-9,
        "ttft_s": (first - start) * 1e-9 if first is not None else None,
        "total_s": (stamps[-1] - start) * 1e-9,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps],
    }

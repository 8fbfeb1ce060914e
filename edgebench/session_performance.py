"""One performance test inside the measuring process: this loop owns the clock, for every engine.

`pp` and `tg` are llama-bench's: random tokens, an empty cache (or one of `n_depth` tokens), no
tokenizer, no sampling. `chat` is a text request: its clock starts when the text is handed over and
`ttft_s` ends at the first token that is not empty, so templating and tokenization are inside.

A test's repetitions make one window, for meters that are slower than a repetition: it goes on past the
repetitions asked for until it is as long as the meter needs.

An engine that streams (a server) is given a request where others are given token by token: `tg` then is
as many evaluations of one token as elsewhere, and its sampling and the way here are inside. What it says
of its own time stands beside.
"""

import itertools
import os
import random
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from edgebench.core.engine import Session, Streaming, TextSession
from edgebench.core.errors import InvalidRun
from edgebench.core.types import Workload
from edgebench.devices.contention import UNSTABLE_FACTOR, CpuTimes, is_noisy, spin_s
from edgebench.devices.memory import read_faults, read_memory

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


class Timed:
    """Calls of the engine with the time they took: the rest of a repetition is the harness's own."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.inside_ns = 0

    def prefill(self, tokens: list[int]) -> int:
        """Evaluate tokens; the moment they were done."""
        begun = time.perf_counter_ns()
        self._session.prefill(tokens)
        done = time.perf_counter_ns()
        self.inside_ns += done - begun
        return done

    def steps(self, tokens: list[int]) -> list[int]:
        """Evaluate tokens one by one: the moment each was done. A stream goes on from the first by itself."""
        if not tokens or not isinstance(self._session, Streaming):
            return [self.prefill([token]) for token in tokens]
        begun = time.perf_counter_ns()
        written = self._session.stream(tokens[:1], n_gen=len(tokens))
        stamps = [time.perf_counter_ns() for _ in written]
        self.inside_ns += stamps[-1] - begun
        return stamps


def measure(
    session: Session,
    workload: Workload,
    canary: Canary,
    *,
    seed: int,
    repetitions: list[int],
    minimum_s: float = 0.0,
    progress: Callable[[float], None] = lambda _: None,
) -> Iterator[Mapping[str, Any]]:
    """One full warm-up, the repetitions asked for by number, more until `minimum_s`; then their window.

    Yields `trial` messages as they are made and one `window`.
    """
    rng = random.Random(f"{seed}:{workload.name}:{repetitions}")
    chat_tokens = _n_chat_tokens(session) if workload.chat else 0
    session.open(n_ctx=workload.n_prompt + workload.n_gen + workload.n_depth + chat_tokens)
    yield _repetition(session, _warm_up(workload), canary, rng, chat_tokens, 0, "warmup", progress)
    made: list[Mapping[str, Any]] = []
    for repetition in itertools.chain(repetitions, itertools.count(repetitions[-1] + 1)):
        long_enough = bool(made) and made[-1]["end_s"] - made[0]["start_s"] >= minimum_s
        if len(made) >= len(repetitions) and long_enough:
            break
        trial = _repetition(session, workload, canary, rng, chat_tokens, repetition, "measured", progress)
        made.append(trial)
        yield trial
    yield {
        "type": "window",
        "test": workload.name,
        "start_s": made[0]["start_s"],
        "end_s": made[-1]["end_s"],
        "busy_s": sum(trial["total_s"] for trial in made),
        "n_requests": len(made),
        "n_prompt": sum(trial["n_prompt"] for trial in made),
        "n_gen": sum(trial["n_gen"] for trial in made),
    }


def engine_pid(session: Session) -> int | None:
    """The process that computes: this one, or a server's; None where that is not known."""
    return session.pid if isinstance(session, Streaming) else os.getpid()


def _n_chat_tokens(session: Session) -> int:
    """Tokens of the chat-like request; 0 where the engine tells them with its answer only."""
    if isinstance(session, TextSession):
        return 0
    return len(session.tokenize(session.chat_prompt(CHAT_TEXT)[0]))


def _warm_up(workload: Workload) -> Workload:
    """One full pass; of a sustained run, one of its requests."""
    return Workload(n_gen=workload.n_gen) if workload.sustained_s else workload


def _repetition(
    session: Session,
    workload: Workload,
    canary: Canary,
    rng: random.Random,
    chat_tokens: int,
    repetition: int,
    phase: str,
    progress: Callable[[float], None],
) -> Mapping[str, Any]:
    """One pass from an empty cache (or `n_depth` tokens), and what else the computer did meanwhile."""
    session.reset()
    if workload.n_depth:
        session.prefill(_random_tokens(session, rng, workload.n_depth))
    pid = engine_pid(session)
    canary_before_s = spin_s()
    faults, memory = (read_faults(pid), read_memory(pid)) if pid else (None, None)
    before = _own_times(pid)
    start_s = time.perf_counter()
    if workload.chat:
        timed = _chat(session, workload, chat_tokens)
    elif workload.sustained_s:
        timed = _sustained(session, workload, rng, progress)
    else:
        timed = _synthetic_tokens(session, workload, rng)
    end_s = time.perf_counter()
    after = _own_times(pid)
    later_faults, later_memory = (read_faults(pid), read_memory(pid)) if pid else (None, None)
    canary_after_s = spin_s()
    foreign_s = after.foreign_since(before) if before and after else None
    n_major = later_faults.n_major - faults.n_major if faults and later_faults else None
    swap_bytes = later_memory.swap_bytes - memory.swap_bytes if memory and later_memory else None
    flags: list[str] = timed.pop("flags", [])
    if foreign_s is not None and is_noisy(foreign_s, timed["total_s"]):
        flags.append("noisy_neighbour")
    if canary.is_slow(canary_before_s, canary_after_s):
        flags.append("unstable_host")
    if n_major or (swap_bytes or 0) > 0:
        flags.append("paging")
    return {
        "type": "trial",
        "pid": pid,
        "usage": asdict(session.usage) if isinstance(session, Streaming) and session.usage else None,
        "test": workload.name,
        "phase": phase,
        "repetition": repetition,
        "n_prompt": chat_tokens or workload.n_prompt,
        "n_gen": workload.n_gen,
        "n_depth": workload.n_depth,
        "start_s": start_s,
        "end_s": end_s,
        "foreign_cpu_s": foreign_s,
        "canary_before_s": canary_before_s,
        "canary_after_s": canary_after_s,
        "n_major_faults": n_major,
        "swap_bytes": swap_bytes,
        "n_ctx": session.n_ctx,
        "kv_cache_bytes": session.kv_cache_bytes,
        "flags": flags,
        **timed,
    }


def _own_times(pid: int | None) -> CpuTimes | None:
    """Processor time of everybody and of this measurement; None where the engine's is not known."""
    return CpuTimes.read(*{os.getpid(), os.getppid(), pid}) if pid else None


def _random_tokens(session: Session, rng: random.Random, n: int, *, first: bool = True) -> list[int]:
    """Random ids; a text's first is BOS when the tokenizer adds one, as in llama-bench."""
    tokens = [rng.randrange(session.n_vocab) for _ in range(n)]
    if first and tokens and session.bos is not None:
        tokens[0] = session.bos
    return tokens


def _synthetic_tokens(session: Session, workload: Workload, rng: random.Random) -> dict[str, Any]:
    prompt = _random_tokens(session, rng, workload.n_prompt, first=not workload.n_depth)
    steps = _random_tokens(session, rng, workload.n_gen, first=not (workload.n_depth or workload.n_prompt))
    engine = Timed(session)
    start = time.perf_counter_ns()
    prefilled = engine.prefill(prompt) if prompt else start
    stamps = engine.steps(steps)
    end = stamps[-1] if stamps else prefilled
    return {
        "prefill_s": (prefilled - start) * 1e-9 if prompt else None,
        "decode_s": (end - prefilled) * 1e-9 if steps else None,
        "ttft_s": None,
        "total_s": (end - start) * 1e-9,
        "engine_s": engine.inside_ns * 1e-9,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps],
    }


def _sustained(
    session: Session, workload: Workload, rng: random.Random, progress: Callable[[float], None]
) -> dict[str, Any]:
    """Requests of `n_gen` tokens until the time is over; the last one is finished."""
    engine = Timed(session)
    stamps: list[int] = []
    start = time.perf_counter_ns()
    while (passed_s := (time.perf_counter_ns() - start) * 1e-9) < workload.sustained_s:
        progress(passed_s / workload.sustained_s)
        session.reset()
        stamps += engine.steps(_random_tokens(session, rng, workload.n_gen))
    total_s = (stamps[-1] - start) * 1e-9
    return {
        "n_gen": len(stamps),
        "prefill_s": None,
        "decode_s": total_s,
        "ttft_s": None,
        "total_s": total_s,
        "engine_s": engine.inside_ns * 1e-9,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps],
    }


def _chat(session: Session, workload: Workload, chat_tokens: int) -> dict[str, Any]:
    if isinstance(session, Streaming):
        return _chat_streamed(session, workload, chat_tokens)
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
        "engine_s": None,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps],
    }


def _chat_streamed(session: Streaming, workload: Workload, chat_tokens: int) -> dict[str, Any]:
    """The same of a server: what it writes may end early, and it says itself how many tokens that was."""
    stamps: list[int] = []
    first: int | None = None
    start = time.perf_counter_ns()
    for shown in session.stream(CHAT_TEXT, n_gen=workload.n_gen):
        stamps.append(time.perf_counter_ns())
        if first is None and shown:
            first = stamps[-1]
    end = time.perf_counter_ns()
    usage = session.usage
    if usage is None or not stamps:
        raise InvalidRun("the server answered a chat request with nothing", "try another model")
    if chat_tokens and usage.n_prompt != chat_tokens:
        raise InvalidRun(
            f"the server counts {usage.n_prompt} prompt tokens of a chat request that are {chat_tokens}",
            "its figures can't be trusted: try a newer version of it",
        )
    apart = len(stamps) == usage.n_gen
    return {
        "n_prompt": usage.n_prompt,
        "n_gen": usage.n_gen,
        "prefill_s": (stamps[0] - start) * 1e-9,
        "decode_s": (stamps[-1] - stamps[0]) * 1e-9,
        "ttft_s": (first - start) * 1e-9 if first is not None else None,
        "total_s": (end - start) * 1e-9,
        "engine_s": None,
        "token_times_s": [(stamp - start) * 1e-9 for stamp in stamps] if apart else [],
        "flags": [] if apart else ["tokens_in_lumps"],
    }

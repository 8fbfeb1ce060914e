"""The nouns every room shares: frozen data and closed sets of names.

Units stand in the names (`_s`, `_bytes`, `_tokens_per_s`); counts begin with `n_`.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any


class Format(StrEnum):
    """How a model is stored."""

    GGUF = "gguf"
    ONNX = "onnx"
    SAFETENSORS = "safetensors"
    SERVED = "served"
    """Behind a server that does not hand its file out: known by what the server calls it."""
    SYNTHETIC = "synthetic"


class Mode(StrEnum):
    """What one run measures."""

    PERFORMANCE = "performance"
    ACCURACY = "accuracy"


class Evidence(StrEnum):
    """How a number came to be; only `measured` ranks."""

    MEASURED = "measured"
    REPLAYED = "replayed"
    MODELLED = "modelled"
    SYNTHETIC = "synthetic"


class Status(StrEnum):
    """Where a run stands. Everything but `complete` and `invalid` is resumed by the same command."""

    RUNNING = "running"
    COMPLETE = "complete"
    INTERRUPTED = "interrupted"
    FAILED = "failed"
    INVALID = "invalid"


class Scorer(StrEnum):
    """How a multiple-choice question becomes an answer."""

    LETTER = "letter"
    """The options are listed; the likeliest of " A", " B", … wins (lm-eval's MMLU)."""
    CLOZE = "cloze"
    """The options are not listed; the likeliest option *text* after "Answer:" wins."""
    GENERATE = "generate"
    """The options are listed; the model writes, greedily, and a strict ladder reads the letter off."""


class Permutation(StrEnum):
    """In which orders the options of a question are shown."""

    NONE = "none"
    CYCLIC = "cyclic"
    """As many times as there are options: in rotation r, place j shows option (j + r) mod k."""


class Shape(StrEnum):
    """The company a question keeps in a batch: it moves the log-likelihoods of quantized files."""

    GROUPED = "grouped"
    """Questions are scored in fixed groups, several in one batch. The figure that counts."""
    ALONE = "alone"
    """One question a batch: the same file asked again in another shape shows its noise floor."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """What a level is called, and what is really inside (read back from the file)."""

    name: str
    """llama.cpp's own name, lower case: `q4_0`, `q8_0`, `f16`."""
    format: Format
    bits_per_weight: float | None = None
    """8 x bytes of all tensors / number of weights; None where the file can't tell."""
    tensor_types: Mapping[str, int] = field(default_factory=dict)
    """Tensor type -> number of tensors, as read back: {"Q4_0": 210, "Q8_0": 1, "F32": 61}."""
    n_fallback: int = 0
    """Tensors that are not of a type this level would give them, because of their shape."""
    fallback_share: float = 0.0
    """Of the layers' weights, those in such tensors."""
    bits_per_class: Mapping[str, float] = field(default_factory=dict)
    """Class of tensors (embedding, head, attention, ffn, norm, other) -> bits per weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Artifact:
    """A model file, known by the sha256 of its bytes."""

    sha256: str
    path: Path
    model: str
    """The model's name, shared by all its levels: `smollm2-135m`."""
    quant: QuantSpec
    size_bytes: int
    n_params: int | None = None
    family: str | None = None
    kv_bytes_per_token: int | None = None
    """What a token takes in an f16 cache; None where the file does not tell."""
    parent_sha256: str | None = None
    parent_quant: str | None = None
    """The narrowest level on the way to this file: `q4_1`, also through an f16 made from it."""
    source: str = "file"
    license: str | None = None
    tool: str = "none"
    tool_version: str = ""
    revision: str | None = None
    """The commit of the hub's repository it came from."""
    chat_template_sha256: str | None = None
    calibration_sha256: str | None = None
    """Of the importance matrix it was made with."""
    recipe: Mapping[str, Any] = field(default_factory=dict)
    """How it was made: options, adapter, command, what the tool changed. JSON-ready."""
    created_at: str | None = field(default=None, compare=False)
    """When it was first described (UTC)."""

    @property
    def label(self) -> str:
        """`q8_0`, or `q8_0 (from q4_1)` when the weights had been quantized before."""
        return level_label(self.quant.name, self.parent_quant)


WHOLE_LEVELS = frozenset({"f32", "f16", "bf16", "onnx-fp32", "onnx-fp16", "genai-fp32"})
"""Levels that keep what their parent had."""

MEDICAL_NOTE = "exam-style accuracy, not clinical safety; not a medical device"
"""What stands under everything that shows the accuracy of a medical suite."""


def level_label(quant: str, parent_quant: str | None) -> str:
    """`q8_0`, or `q8_0 (from q4_1)` when the parent's weights had been quantized before."""
    whole = parent_quant is None or parent_quant in WHOLE_LEVELS
    return quant if whole else f"{quant} (from {parent_quant})"


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """What an engine is told; every field is passed explicitly and recorded. Names are llama-bench's."""

    n_threads: int
    n_batch: int = 2048
    n_ubatch: int = 512
    n_gpu_layers: int = 0
    flash_attn: str = "on"
    type_k: str = "f16"
    type_v: str = "f16"
    mmap: bool = True
    provider: str | None = None
    """Where an engine that can choose computes: `cpu`, `cuda`, …; None: its usual place."""
    dtype: str | None = None
    """What the torch engine keeps weights in: `f32`, `bf16`, …; None: its usual type."""
    gpu: str | None = None
    """Index or UUID of the GPU, where one is used; None: the first."""
    server: str | None = None
    """URL of a server that runs already, for the engine that asks one."""
    cpu_mask: str | None = None
    """Processors the threads may use, in hex: `f0` or `0xf0`; None: any."""

    @property
    def on_gpu(self) -> bool:
        """Whether any of the work is a GPU's."""
        return self.n_gpu_layers != 0 or self.provider not in (None, "cpu")

    def as_config(self) -> dict[str, Any]:
        """What a run's key is made of; what was left to the engine is left out, so old keys stay."""
        return {key: value for key, value in asdict(self).items() if value is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """A performance test: `n_prompt` tokens in, `n_gen` out, `n_depth` already in the cache.

    `pp512`, `tg128` and `pp512@d4096` are llama-bench's tests (random tokens, no tokenizer, no
    sampling); `chat` is a text request with greedy sampling, the one that has a TTFT. `sustained` is
    tg over and over, each from an empty cache, so that a token's work stays the same and heat does not.
    """

    n_prompt: int = 0
    n_gen: int = 0
    n_depth: int = 0
    chat: bool = False
    sustained_s: int = 0
    """Requests of `n_gen` tokens, one after the other, for so long; 0: one request."""

    @property
    def name(self) -> str:
        """llama-bench's spelling: `pp512`, `tg128`, `pp512+tg128`, `pp512@d4096`."""
        if self.sustained_s:
            return f"sustained{self.sustained_s}"
        if self.chat:
            return f"chat{self.n_gen}"
        parts = [f"pp{self.n_prompt}"] if self.n_prompt else []
        parts += [f"tg{self.n_gen}"] if self.n_gen else []
        return "+".join(parts) + (f"@d{self.n_depth}" if self.n_depth else "")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """One multiple-choice question as its suite gives it; `answer_index` counts from 0.

    `answer_index` is None in suites whose key is not public; `passage` is what is read before it;
    `worked` is the answer in full, reasoning included, where a worked example has one.
    """

    id: str
    text: str
    choices: tuple[str, ...]
    answer_index: int | None
    subject: str = ""
    passage: str = ""
    worked: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptTemplate:
    """How a scorer asks. Texts may hold {subject} {question} {options} {passage}."""

    context: str
    """The question, up to where the answer begins."""
    description: str = ""
    """Stands once, before the worked examples."""
    delimiter: str = " "
    """Between context and answer; nothing under a chat template."""
    shot_delimiter: str = "\n\n"
    """After a worked example."""
    n_gen: int = 0
    """`generate`: tokens to write at most."""
    stop: tuple[str, ...] = ()
    """`generate`: texts that end the answer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Suite:
    """A loaded suite: definition and questions. `sha256` covers the questions, in the order of their ids."""

    name: str
    version: str
    title: str
    sha256: str
    questions: tuple[Question, ...]
    default_scorer: Scorer
    prompts: Mapping[Scorer, PromptTemplate]
    license: str
    citation: str
    source: str
    medical: bool = False
    verified: bool = True
    """The data's hashes are the ones the definition pins."""
    seed: int = 0
    categories: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Category -> its subjects; a table of its own in reports."""
    slices: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """Slice (`health`) -> its subjects; slices may overlap."""
    headline: str = "acc"
    """The figure the suite is known by: `acc`, `mean_of_subjects` (unweighted) or `macro_f1`."""
    label: str = ""
    """What must stand beside its scores: "non-commercial, no derivatives"."""
    first_shots: bool = True
    """Worked examples are the first of the pool (lm-eval's MMLU); else a seeded draw per question."""
    key_sha256: str | None = None
    """Of a key the user supplied to a suite that has none."""
    asks_for_submission: bool = False
    """Its authors grade: every run leaves a file to hand in."""

    @property
    def id(self) -> str:
        """`everyday@1`; with a suffix from the content's hash when the data is not the pinned one."""
        suffix = "" if self.verified else f"+{self.sha256[:8]}"
        suffix += f"+key-{self.key_sha256[:8]}" if self.key_sha256 else ""
        return f"{self.name}@{self.version}{suffix}"

    @property
    def has_key(self) -> bool:
        """Whether answers can be graded here."""
        return all(question.answer_index is not None for question in self.questions)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prompt:
    """A question as the engine gets it: log-likelihoods of each continuation after `context`.

    Without continuations the model is to write. `rotation` is the number of the order of the options;
    continuations stand in the order they are shown. `n_shots` worked examples are part of the context.
    """

    question_id: str
    context: str
    continuations: tuple[str, ...]
    rotation: int = 0
    n_shots: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """What a model gives a continuation: natural-log probability, and whether greedy would say it."""

    logprob: float
    is_greedy: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """A device as facts; unknown facts stay None."""

    id: str
    name: str
    kind: str
    transport: str = "local"
    soc: str | None = None
    memory_bytes: int | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Environment:
    """The slow-changing state of a device's software; its id is the hash of its facts."""

    id: str
    os: str
    kernel: str | None = None
    cpu: str | None = None
    governor: str | None = None
    on_battery: bool | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

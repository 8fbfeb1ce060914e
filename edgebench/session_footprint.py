"""The memory a GGUF file's model takes, counted part by part before it is loaded.

The counts are llama.cpp's (its CPU backend, flash attention on); constants that follow from no documented
layout were measured with files of known size, and name what they stand for.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from edgebench.core.roofline import ModelShape, kv_cache_bytes
from edgebench.core.types import Settings

REPACKED: Mapping[str, frozenset[str]] = {
    "avx2": frozenset({"Q4_0", "Q4_K", "IQ4_NL", "MXFP4"}),
    "avx512f": frozenset({"Q2_K"}),
    "asimddp": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "IQ4_NL", "MXFP4"}),
    "i8mm": frozenset({"Q4_0", "Q4_K", "Q5_K", "Q6_K", "Q8_0", "Q1_0"}),
}
"""Processor's feature -> types llama.cpp's CPU backend keeps a rearranged copy of (ggml-cpu/repack.cpp)."""

N_CELLS = 256
"""llama.cpp rounds a cache up to a multiple of so many tokens."""
TOKEN_BYTES, MERGE_BYTES = 166, 187
"""What the loaded vocabulary takes, a token (text, score, two maps) and the merge it came from (BPE)."""
LOADING_BYTES = 56
"""What a token takes besides while a model is loaded: the file's own arrays, freed afterwards."""
ENGINE_BYTES = 8 * 10**6
"""Libraries' pages and small buffers, where no measurement of another model tells."""
BASELINE_BYTES = 36 * 10**6
"""The process before it loads a model, where none was measured."""
MASK_BYTES = 5
"""Of a token and a cell: the attention mask, in f32 and its f16 copy by turns."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryParts:
    """Where the bytes go."""

    baseline_bytes: int
    """Interpreter and engine, before a model is loaded."""
    engine_bytes: int
    """What the engine's libraries touch and allocate besides."""
    weights_bytes: int
    repacked_bytes: int
    """Copies beside the mapped file; 0 without mmap, where there is one of each."""
    vocabulary_bytes: int
    cache_bytes: int
    compute_bytes: int
    loading_bytes: int
    """Held only while loading."""

    @property
    def loaded_bytes(self) -> int:
        """With the model loaded and nothing asked."""
        resident = self.baseline_bytes + self.engine_bytes + self.weights_bytes
        return resident + self.repacked_bytes + self.vocabulary_bytes

    @property
    def running_bytes(self) -> int:
        """With the model at work."""
        return self.loaded_bytes + self.cache_bytes + self.compute_bytes

    @property
    def peak_bytes(self) -> int:
        """Loading is over before the work begins."""
        return max(self.running_bytes, self.loaded_bytes + self.loading_bytes)


def memory_parts(
    shape: ModelShape,
    settings: Settings,
    *,
    n_ctx: int,
    n_at_once: int,
    flags: Collection[str],
    baseline_bytes: int = BASELINE_BYTES,
    engine_bytes: int = 0,
) -> MemoryParts | None:
    """Count the bytes of a context of `n_ctx` tokens, up to `n_at_once` of them evaluated together.

    None where the cache can't be counted.
    """
    n_cells, n_at_once = _padded(n_ctx), max(1, min(n_at_once, settings.n_ubatch))
    n_window_cells = _padded(min(n_cells, shape.n_window + settings.n_ubatch)) if shape.n_window else 0
    cache = kv_cache_bytes(shape, n_cells, n_window_cells, type_k=settings.type_k, type_v=settings.type_v)
    if cache is None:
        return None
    # Alive together in the feed-forward part: gate, up and their product; the text's, its norm, the sum.
    activations = 3 * 4 * n_at_once * (shape.n_ff * max(1, shape.n_expert_used) + shape.n_embd)
    masks = MASK_BYTES * n_at_once * (n_cells + n_window_cells)
    logits = 2 * 4 * shape.n_vocab
    token_bytes = TOKEN_BYTES + (MERGE_BYTES if shape.merges else 0)
    return MemoryParts(
        baseline_bytes=baseline_bytes,
        engine_bytes=engine_bytes,
        weights_bytes=shape.weight_bytes,
        repacked_bytes=repacked_bytes(shape, flags) if settings.mmap else 0,
        vocabulary_bytes=token_bytes * shape.n_vocab,
        cache_bytes=round(cache),
        compute_bytes=activations + masks + logits,
        loading_bytes=LOADING_BYTES * shape.n_vocab,
    )


def repacked_bytes(shape: ModelShape, flags: Collection[str]) -> int:
    """Bytes of weights that llama.cpp copies into an order the processor likes: matrices, not lookups."""
    kinds = frozenset().union(*(kinds for flag, kinds in REPACKED.items() if flag in flags))
    used = [part for part in shape.weights if part.purpose != "embedding" or shape.tied]
    return sum(part.size_bytes for part in used if part.by_eights and part.kind in kinds)


def _padded(n: int) -> int:
    return -(-n // N_CELLS) * N_CELLS

"""How near a speed comes to what the device can do, and which speeds can't be.

Decoding a token reads every weight that takes part in it, so its speed is bounded by memory bandwidth;
prefill shares those reads among many tokens, so it is bounded by arithmetic. MBU and MFU are the shares
of the two that a figure reaches, with the least that has to be read or computed: published decode figures
stand at an MBU of 0.54 to 0.74, and none can stand above 1 (some slack is left for the bound itself,
which is measured too).
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

MOST_SHARE = 1.05
"""Of a bound that was measured: a figure above it is none."""
CACHE_RESIDENT = "cache_resident"
"""Flag: the weights fit the last-level cache, so memory bandwidth bounds nothing."""

BYTES_PER_CACHED_VALUE = {
    "f32": 4.0,
    "f16": 2.0,
    "bf16": 2.0,
    "q8_0": 34 / 32,
    "q5_1": 24 / 32,
    "q5_0": 22 / 32,
    "q4_1": 20 / 32,
    "q4_0": 18 / 32,
    "iq4_nl": 18 / 32,
}
"""Bytes of one value in a cache of keys and values, by ggml's type (a block of 32 and its scales)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Weights:
    """All tensors of a file that have one purpose and one type."""

    purpose: str
    """embedding, head, attention, ffn, norm or other."""
    kind: str
    """ggml's name of the type: `Q4_0`."""
    n_weights: int
    size_bytes: int
    experts: bool = False
    """Of a mixture: a token uses some of them."""
    by_eights: bool = False
    """Matrices whose rows come in eights: what llama.cpp's rearranged copies ask for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """What a model file's head tells of the work a token takes. Absent numbers are None."""

    weights: tuple[Weights, ...]
    n_layers: int
    n_embd: int
    n_ff: int
    """Width of the feed-forward part of one expert, or of the only one."""
    n_head: int
    n_head_kv: int | None
    """None where layers differ, as their cache does."""
    n_head_width: int
    n_vocab: int
    tied: bool
    """The embedding table is the head too."""
    n_expert: int = 0
    n_expert_used: int = 0
    n_window: int = 0
    """Tokens that a layer with a sliding window sees; 0: all layers see the whole text."""
    n_window_layers: int = 0
    merges: bool = False
    """The vocabulary has merges beside its tokens (BPE)."""
    head_bytes: int = 0
    """Of the file, before the first tensor: metadata, vocabulary."""

    @classmethod
    def from_facts(cls, facts: Mapping[str, Any]) -> "ModelShape":
        """The shape that `dataclasses.asdict` made `facts` of, perhaps by way of JSON."""
        return cls(**{**facts, "weights": tuple(Weights(**part) for part in facts["weights"])})

    @property
    def weight_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(part.size_bytes for part in self.weights)

    def used_share(self, part: Weights) -> float:
        """Of these weights, the share a token uses: 1, or top-k of the experts."""
        return self.n_expert_used / self.n_expert if part.experts and self.n_expert else 1.0

    def read(self) -> Iterable[tuple[Weights, float]]:
        """(weights, how much of them) that every token multiplies with: no embedding lookup."""
        for part in self.weights:
            if part.purpose != "embedding" or self.tied:
                yield part, self.used_share(part)

    def kv_values_per_token(self, n_ctx: float) -> float | None:
        """Cached values that a token reads over all layers, `n_ctx` tokens in the cache (itself counted)."""
        if self.n_head_kv is None:
            return None
        n_seen = min(n_ctx, self.n_window) if self.n_window else n_ctx
        n_tokens = (self.n_layers - self.n_window_layers) * n_ctx + self.n_window_layers * n_seen
        return 2 * self.n_head_kv * self.n_head_width * n_tokens


def bytes_per_decode_token(
    shape: ModelShape, n_ctx: float, *, type_k: str = "f16", type_v: str = "f16"
) -> float | None:
    """The least bytes a decoded token reads: its weights, its row of the embedding, the cache.

    `n_ctx` is the mean number of tokens in the cache. None where the file does not tell the cache's shape
    or its types are unknown, and the cache counts.
    """
    total = sum(part.size_bytes * share for part, share in shape.read())
    if not shape.tied:
        total += sum(p.size_bytes for p in shape.weights if p.purpose == "embedding") / max(shape.n_vocab, 1)
    if n_ctx <= 0:
        return total
    values, sizes = shape.kv_values_per_token(n_ctx), _cached_value_bytes(type_k, type_v)
    return None if values is None or sizes is None else total + values * sizes


def _cached_value_bytes(type_k: str, type_v: str) -> float | None:
    """Mean over keys and values."""
    k, v = BYTES_PER_CACHED_VALUE.get(type_k), BYTES_PER_CACHED_VALUE.get(type_v)
    return None if k is None or v is None else (k + v) / 2


def kv_cache_bytes(
    shape: ModelShape, n_cells: int, n_window_cells: int, *, type_k: str, type_v: str
) -> float | None:
    """What a cache of `n_cells` tokens takes, `n_window_cells` of them in layers with a window."""
    sizes = _cached_value_bytes(type_k, type_v)
    if shape.n_head_kv is None or sizes is None:
        return None
    n_full = (shape.n_layers - shape.n_window_layers) * n_cells
    return (
        2 * shape.n_head_kv * shape.n_head_width * sizes * (n_full + shape.n_window_layers * n_window_cells)
    )


def flops_per_prompt_token(shape: ModelShape, n_prompt: int, n_depth: int = 0) -> float:
    """The least operations of a prompt's token: 2 a weight and 4 an attended value.

    The head counts once a prompt, as only the last token's logits are needed. Attention is causal: a
    token sees `n_depth` and on average half of the prompt, or its window.
    """
    layers = sum(2 * p.n_weights * s for p, s in shape.read() if p.purpose not in ("head", "embedding"))
    head = sum(2 * p.n_weights for p, _ in shape.read() if p.purpose in ("head", "embedding"))
    n_seen = n_depth + (n_prompt + 1) / 2
    n_windowed = min(n_seen, shape.n_window) if shape.n_window else n_seen
    seen = (shape.n_layers - shape.n_window_layers) * n_seen + shape.n_window_layers * n_windowed
    return layers + head / max(n_prompt, 1) + 4 * shape.n_head * shape.n_head_width * seen


def mbu(tokens_per_s: float, bytes_per_token: float, bandwidth_bytes_per_s: float) -> float:
    """Model bandwidth utilisation: the share of the read bandwidth that decoding needs at least."""
    return tokens_per_s * bytes_per_token / bandwidth_bytes_per_s


def mfu(tokens_per_s: float, flops_per_token: float, flops_per_s: float) -> float:
    """Model FLOPs utilisation: the share of the arithmetic that prefill needs at least."""
    return tokens_per_s * flops_per_token / flops_per_s


def is_cache_resident(shape: ModelShape, last_level_cache_bytes: int | None) -> bool:
    """Whether what a token reads fits the last-level cache."""
    read = sum(part.size_bytes * share for part, share in shape.read())
    return last_level_cache_bytes is not None and read < last_level_cache_bytes


def decode_verdict(tokens_per_s: float, bytes_per_token: float, bandwidth_bytes_per_s: float) -> str | None:
    """Why a decode rate can't be true, in a sentence with its numbers; None when it can."""
    share = mbu(tokens_per_s, bytes_per_token, bandwidth_bytes_per_s)
    if share <= MOST_SHARE:
        return None
    return (
        f"implausible: {tokens_per_s:.4g} tokens/s of {bytes_per_token / 1e6:.4g} MB each would read "
        f"{share:.2f} times the {bandwidth_bytes_per_s / 1e9:.3g} GB/s that memory delivers here"
    )


def prefill_verdict(
    tokens_per_s: float, flops_per_token: float, flops_per_s: float, headroom: float
) -> str | None:
    """Why a prefill rate can't be true, in a sentence with its numbers; None when it can.

    `headroom` is how many times the f32 rate the file's types could reach (`compute_headroom`).
    """
    share = mfu(tokens_per_s, flops_per_token, flops_per_s)
    if share <= MOST_SHARE * headroom:
        return None
    return (
        f"implausible: {tokens_per_s:.4g} tokens/s of {flops_per_token / 1e6:.4g} MFLOP each would compute "
        f"{share:.2f} times the {flops_per_s / 1e9:.3g} GFLOP/s measured here in f32, and these types allow "
        f"{headroom:g} times at most"
    )

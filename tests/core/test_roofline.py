"""Bytes and operations a token takes, by hand and by properties; shares of limits; verdicts."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.roofline import (
    ModelShape,
    Weights,
    bytes_per_decode_token,
    decode_verdict,
    flops_per_prompt_token,
    is_cache_resident,
    kv_cache_bytes,
    mbu,
    mfu,
    prefill_verdict,
)

COUNTS = st.integers(min_value=1, max_value=10_000)


def weights(
    purpose: str, n_weights: int, size_bytes: int, kind: str = "F16", *, experts: bool = False
) -> Weights:
    return Weights(
        purpose=purpose,
        kind=kind,
        n_weights=n_weights,
        size_bytes=size_bytes,
        experts=experts,
        by_eights=True,
    )


def shape(*parts: Weights, tied: bool = True, **numbers: int | None) -> ModelShape:
    """Llama-3.2-1B's cache: 16 layers, 8 heads of 64 for keys and values."""
    facts = {"n_layers": 16, "n_embd": 2048, "n_ff": 8192, "n_head": 32, "n_head_kv": 8, "n_head_width": 64}
    return ModelShape(weights=parts, n_vocab=100, tied=tied, **(facts | numbers))  # type: ignore[arg-type]


EMBEDDING = weights("embedding", 1000, 2000)
LAYERS = weights("ffn", 500, 1000)
HEAD = weights("head", 1000, 4000)


def test_an_embedding_that_is_no_head_is_one_row() -> None:
    assert bytes_per_decode_token(shape(EMBEDDING, LAYERS, HEAD, tied=False), 0) == 1000 + 4000 + 2000 / 100


def test_a_tied_head_is_read_whole() -> None:
    assert bytes_per_decode_token(shape(EMBEDDING, LAYERS), 0) == 3000


def test_of_a_mixture_the_used_experts_are_read() -> None:
    experts = weights("ffn", 800, 1600, experts=True)
    mixture = shape(EMBEDDING, LAYERS, experts, n_expert=8, n_expert_used=2)
    assert bytes_per_decode_token(mixture, 0) == 3000 + 1600 / 4


def test_cache_of_a_known_model() -> None:
    """2 x 16 layers x 8 heads x 64 x 2 bytes: 32 KiB a token."""
    llama = shape(LAYERS)
    assert bytes_per_decode_token(llama, 10) == 1000 + 10 * 32 * 1024
    assert kv_cache_bytes(llama, 256, 0, type_k="f16", type_v="f16") == 256 * 32 * 1024
    assert kv_cache_bytes(llama, 256, 0, type_k="q8_0", type_v="f16") == 256 * 32 * 1024 * (34 / 64 + 1) / 2


def test_layers_with_a_window_stop_reading_more() -> None:
    windowed = shape(LAYERS, n_window=100, n_window_layers=12)
    value = 2 * 8 * 64 * 2
    assert bytes_per_decode_token(windowed, 50) == 1000 + 16 * 50 * value
    assert bytes_per_decode_token(windowed, 1000) == 1000 + (4 * 1000 + 12 * 100) * value


def test_unknown_caches_have_no_size() -> None:
    assert bytes_per_decode_token(shape(LAYERS, n_head_kv=None), 10) is None
    assert bytes_per_decode_token(shape(LAYERS, n_head_kv=None), 0) == 1000
    assert bytes_per_decode_token(shape(LAYERS), 10, type_k="q9") is None
    assert kv_cache_bytes(shape(LAYERS), 10, 0, type_k="f16", type_v="q9") is None


@given(COUNTS, COUNTS)
def test_a_deeper_text_costs_more_bytes_and_more_operations(n_ctx: int, more: int) -> None:
    small = shape(EMBEDDING, LAYERS, n_window=64, n_window_layers=4)
    shallow, deep = bytes_per_decode_token(small, n_ctx), bytes_per_decode_token(small, n_ctx + more)
    assert shallow is not None
    assert deep is not None
    assert shallow < deep
    assert flops_per_prompt_token(small, 8, n_ctx) < flops_per_prompt_token(small, 8, n_ctx + more)


def test_operations_of_a_prompt() -> None:
    """2 a weight, the head once a prompt, and causal attention: 4 x layers x width x half the text."""
    llama = shape(EMBEDDING, LAYERS)
    assert flops_per_prompt_token(llama, 9) == 2 * 500 + 2 * 1000 / 9 + 4 * 16 * 32 * 64 * 5
    untied = shape(EMBEDDING, LAYERS, HEAD, tied=False)
    assert flops_per_prompt_token(untied, 9, 100) == 2 * 500 + 2 * 1000 / 9 + 4 * 16 * 32 * 64 * 105


def test_published_figure_stands_where_published_figures_stand() -> None:
    """Llama-3.2-3B in 4 bits (2.0 GB) at 4.61 tokens/s on a Pi 5 (17.1 GB/s): 0.54."""
    share = mbu(4.61, 2.0e9, 17.1e9)
    assert share == pytest.approx(0.54, abs=0.005)
    assert decode_verdict(4.61, 2.0e9, 17.1e9) is None


def test_impossible_speeds_are_told_with_their_numbers() -> None:
    told = decode_verdict(900, 140e6, 30e9)
    assert told is not None
    assert re.search(r"900 tokens/s of 140 MB .* 4\.20 times the 30 GB/s", told)
    told = prefill_verdict(5000, 250e6, 200e9, 2.0)
    assert told is not None
    assert re.search(r"5000 tokens/s of 250 MFLOP .* 6\.25 times the 200 GFLOP/s .* 2 times", told)
    assert "\n" not in told


@given(st.floats(1e-3, 1e6), st.floats(1, 1e12), st.floats(1e6, 1e14))
def test_verdict_is_the_share_above_the_limit(rate: float, per_token: float, limit: float) -> None:
    assert (decode_verdict(rate, per_token, limit) is None) == (mbu(rate, per_token, limit) <= 1.05)
    told = prefill_verdict(rate, per_token, limit, 4.0)
    assert (told is None) == (mfu(rate, per_token, limit) <= 4.2)


def test_weights_that_a_cache_holds() -> None:
    small = shape(EMBEDDING, LAYERS)
    assert is_cache_resident(small, 3001)
    assert not is_cache_resident(small, 3000)
    assert not is_cache_resident(small, None)
    assert is_cache_resident(shape(EMBEDDING, LAYERS, tied=False), 1001)

"""One text in a torch model, written on token by token: what speed is measured on.

A growing cache is transformers' own usual one. A fixed one has room for the whole context from the
start: a step's shapes and addresses never change, so on a GPU its kernels are recorded once, as a CUDA
graph, and launched all together from then on. Scoring needs ways back and has caches of its own.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Step = Callable[[], Any]
"""Evaluates one token and gives its logits."""

_N_WARM_UPS = 3
"""Steps before a graph is recorded: libraries allocate their workspaces in the first."""
_TRIED = (5, 3, 8, 2, 7, 4)
"""Token ids that every vocabulary has."""
_MOST_APART = 0.05
"""Two ways to compute the same step differ by less of the logits' range, in half precision too."""


class Text(Protocol):
    """The tokens evaluated so far, and where the next ones go."""

    n_seen: int

    @property
    def n_bytes(self) -> int:
        """What keys and values take."""

    def go_on(self, tokens: Sequence[int]) -> Any:
        """Evaluate tokens after what is there: the last one's logits, of shape (n_vocab,), on the device.

        They are valid until the next call. On a GPU the work may still be under way.
        """

    def clear(self) -> None:
        """Drop every token."""


class GrowingText:
    """A text whose cache grows with it, as in a plain loop over the model."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.clear()

    @property
    def layers(self) -> list[tuple[Any, Any]]:
        """Keys and values of each layer that keeps any; known after the first token."""
        return list(self._cache)

    @property
    def n_bytes(self) -> int:
        """What keys and values take now."""
        return _n_bytes(self._cache)

    def clear(self) -> None:
        """Drop every token."""
        self._cache = continued(())
        self.n_seen = 0

    def go_on(self, tokens: Sequence[int]) -> Any:
        """Evaluate tokens after what is there: the last one's logits."""
        import torch

        with torch.inference_mode():
            found = self._model(
                input_ids=torch.tensor([tokens], device=self._model.device),
                past_key_values=self._cache,
                use_cache=True,
                logits_to_keep=1,
            )
        self.n_seen += len(tokens)
        return found.logits[0, -1]


class FixedText:
    """A text of `n_ctx` tokens at most, whose steps can be recorded.

    A step reads its token and its place from tensors that stay where they are, recorded or not.
    """

    def __init__(self, model: Any, n_ctx: int) -> None:
        import torch
        from transformers.cache_utils import Cache, StaticLayer

        self._model = model
        begun = GrowingText(model)
        begun.go_on([0])  # what a layer keeps of one token tells the shape of all
        with torch.inference_mode():
            layers = [
                _layer(StaticLayer(max_cache_len=n_ctx), [_stretched(part, n_ctx) for part in parts])
                for parts in begun.layers
            ]
            self._cache = Cache(layers=layers)
            self._token = torch.zeros((1, 1), dtype=torch.int64, device=model.device)
            self._place = torch.zeros(1, dtype=torch.int64, device=model.device)

            def step() -> Any:
                return model(
                    input_ids=self._token,
                    cache_position=self._place,
                    past_key_values=self._cache,
                    use_cache=True,
                    logits_to_keep=1,
                ).logits

            self._step: Step = recorded(step) if model.device.type == "cuda" else step
        self.clear()

    @property
    def n_bytes(self) -> int:
        """What keys and values take, used or not."""
        return _n_bytes(self._cache)

    def clear(self) -> None:
        """Drop every token and its data: what is masked must still be a number."""
        import torch

        with torch.inference_mode():
            self._cache.reset()
        self.n_seen = 0

    def go_on(self, tokens: Sequence[int]) -> Any:
        """Evaluate tokens after what is there: the last one's logits."""
        import torch

        begin, self.n_seen = self.n_seen, self.n_seen + len(tokens)
        with torch.inference_mode():
            if len(tokens) == 1:
                self._token.fill_(tokens[0])
                self._place.fill_(begin)
                return self._step()[0, -1]
            return self._part(torch.tensor([tokens], device=self._model.device), begin)

    def _part(self, ids: Any, begin: int) -> Any:
        """Several tokens, as in a growing text: without unused cells, attention is faster."""
        cache = continued([(keys[:, :, :begin], values[:, :, :begin]) for keys, values in self._cache])
        found = self._model(input_ids=ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
        for kept, made in zip(self._cache, cache, strict=True):
            for cells, grown in zip(kept, made, strict=True):
                cells[:, :, begin : self.n_seen] = grown[:, :, begin:]
        return found.logits[0, -1]


def continued(layers: Sequence[tuple[Any, Any]], n_rows: int = 1) -> Any:
    """A growing cache of so many rows that goes on from tensors of one row, which stay as they are.

    Made without the model's config: layers with a sliding window keep everything and mask it, so that
    every token of a text is there to go on from.
    """
    from transformers import DynamicCache
    from transformers.cache_utils import DynamicLayer

    cache = DynamicCache()
    for parts in layers:
        # The layer puts them together with what comes, for every row, when it comes: no copy before.
        cache.layers.append(_layer(DynamicLayer(), [part.expand(n_rows, -1, -1, -1) for part in parts]))
    return cache


def recorded(step: Step) -> Step:
    """A step as a CUDA graph: the same work on the same tensors, launched as one. Exercised on a GPU only.

    Raises RuntimeError where the step does what can't be recorded.
    """
    import torch

    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(_N_WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        logits = step()

    def replay() -> Any:
        graph.replay()
        return logits

    return replay


def why_not_fixed(model: Any) -> str | None:
    """Try it: None when a fixed cache gives what a growing one gives, else why it can't be used."""
    try:
        ways = GrowingText(model), FixedText(model, len(_TRIED))
        for tokens in (_TRIED[:3], *([token] for token in _TRIED[3:])):
            usual, fixed = (text.go_on(tokens).float() for text in ways)
            if not (usual - fixed).abs().max() <= _MOST_APART * (usual.max() - usual.min()):
                return "it changes the logits"
    except (RuntimeError, ValueError, TypeError, AttributeError, IndexError) as error:
        return (str(error).strip().splitlines() or [type(error).__name__])[0]
    return None


def _layer(layer: Any, parts: Sequence[Any]) -> Any:
    """A layer of a cache that holds keys and values already."""
    layer.keys, layer.values = parts
    layer.dtype, layer.device, layer.is_initialized = layer.keys.dtype, layer.keys.device, True
    return layer


def _stretched(part: Any, n_cells: int) -> Any:
    """Zeros of the shape of keys or values, for so many tokens."""
    return part.new_zeros((*part.shape[:2], n_cells, part.shape[-1]))


def _n_bytes(cache: Any) -> int:
    return sum(part.nbytes for layer in cache for part in layer)

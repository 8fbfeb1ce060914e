"""The real llama-server with the embedded model: what it computes is what the library in-process computes."""

import itertools
import os
import signal
from contextlib import closing

import psutil
import pytest

from edgebench.core.errors import InvalidRun, ModelError, ServerError, UsageError
from edgebench.core.types import Settings
from edgebench.runners.llama_server import LlamaServer
from edgebench.runners.llama_server_session import LlamaServerSession
from edgebench.runners.log_softmax import log_softmax

pytestmark = pytest.mark.engine

SETTINGS = Settings(n_threads=1, n_ubatch=256)
TEXTS = (
    "",
    "The capital of France is",
    "  two blanks,\ttab\n\n",
    "naïve 日本語 🙂",
    "<|im_start|>user\nHi<|im_end|>",
)
QUESTION = "The following are questions about geography.\n\nWhich river flows through Paris?\nAnswer:"


@pytest.fixture(scope="module")
def server(smollm2):
    with LlamaServer().load(smollm2, SETTINGS) as session:
        session.open(n_ctx=500)
        yield session


@pytest.fixture(scope="module")
def inside(smollm2):
    from edgebench.runners.llama_cpp import LlamaCpp

    with LlamaCpp().load(smollm2, SETTINGS) as session:
        session.open(n_ctx=500)
        yield session


def test_it_says_the_same_of_the_model(server, inside):
    for name in ("n_params", "n_vocab", "n_ctx_train", "add_bos", "chat_template"):
        assert server.facts[name] == inside.facts[name]
    assert (server.n_vocab, server.bos) == (inside.n_vocab, inside.bos)
    assert "AVX" in server.facts["system_info"] or "NEON" in server.facts["system_info"]
    assert server.kv_cache_bytes == pytest.approx(
        inside.kv_cache_bytes * server.n_ctx / inside.n_ctx, rel=0.01
    )


@pytest.mark.parametrize("text", TEXTS)
def test_texts_become_the_same_tokens_and_come_back(server, inside, text):
    tokens = server.tokenize(text)
    assert tokens == inside.tokenize(text)
    assert server.chat_prompt(text) == inside.chat_prompt(text)
    plain = [t for t in tokens if inside.piece(t) and inside.piece(t).decode("utf-8", "ignore")]
    assert (
        [server.piece(t) for t in plain] == [inside.piece(t) for t in plain] or "🙂" in text or "日" in text
    )


def in_the_same_shape(inside, text, tokens):
    """Log-probabilities of tokens after a text whose last token was evaluated once more, alone."""
    inside.reset()
    inside.prefill(text)
    inside._lib.llama_memory_seq_rm(inside._memory, 0, len(text) - 1, -1)
    inside.prefill(text[-1:])
    return [logprob for logprob, _ in log_softmax(inside._logits(-1), tokens)]


def test_letters_are_the_librarys_to_float_rounding(server, inside):
    context = server.tokenize(QUESTION)
    letters = [server.tokenize(f" {letter}") for letter in "ABCD"]
    rare = [[server.n_vocab - 1], [7]]
    (scores,) = server.loglikelihoods([(context, [*letters, *rare])], n_cells=0)
    tokens = [token for (token,) in [*letters, *rare]]
    expected = in_the_same_shape(inside, context, tokens)
    assert [s.logprob for s in scores] == pytest.approx(expected, abs=1e-3)
    best = int(inside._logits(-1).argmax())
    (first,), (last,) = (server.loglikelihoods([(context, [[t]])], n_cells=0)[0] for t in (best, 7))
    assert (first.is_greedy, last.is_greedy) == (True, False)


def test_continuations_are_sums_of_their_tokens(server, inside):
    context = server.tokenize(QUESTION)
    options = [server.tokenize(text) for text in (" The Seine", " The Thames", " The river Rhine")]
    (scores,) = server.loglikelihoods([(context, options)], n_cells=0)
    for option, score in zip(options, scores, strict=True):
        (total,) = in_the_same_shape(inside, context, option[:1])
        for before, token in itertools.pairwise(option):
            inside.prefill([before])
            total += log_softmax(inside._logits(-1), [token])[0][0]
        assert score.logprob == pytest.approx(total, abs=2e-3)


def test_a_groups_scores_are_the_same_bits_whatever_was_asked_before(server):
    shared = server.tokenize("The following are questions about geography.\n\n")
    letters = [server.tokenize(f" {letter}") for letter in "ABCD"]
    groups = [
        [([*shared, *server.tokenize(text)], letters) for text in texts]
        for texts in (
            ("Which river is longest?\nAnswer:", "Which is wettest?\nAnswer:"),
            ("Where?\nAnswer:",),
        )
    ]
    server.reset()
    first = [server.loglikelihoods(group, n_cells=512, shared=shared) for group in groups]
    server.loglikelihoods([(groups[0][0][0][:-2], letters)], n_cells=0)
    server.reset()
    again = [server.loglikelihoods(group, n_cells=512, shared=shared) for group in reversed(groups)]
    assert first == again[::-1]


def test_it_writes_what_the_library_writes(server, inside):
    contexts = [server.tokenize(text) for text in ("The capital of France is", "Emoji: 🙂🙂🙂 and again: ")]
    made = server.generate(contexts, n_gen=20, n_cells=512)
    assert [len(text) for text in made] == [20, 20]
    assert (
        b"".join(server.piece(t) for t in made[0]).decode() == b"".join(map(inside.piece, made[0])).decode()
    )
    stopped = server.generate(contexts[:1], n_gen=20, n_cells=512, ended=lambda text: len(text) == 3)
    assert stopped == [made[0][:3]]


def test_a_stream_has_every_token_and_the_servers_own_times(server):
    server.reset()
    pieces = list(server.stream([1], n_gen=24))
    assert len(pieces) == 24
    assert (server.usage.n_prompt, server.usage.n_gen) == (1, 24)
    assert server.usage.decode_s > 0
    server.reset()
    chat = list(server.stream("Say 🙂 five times.", n_gen=16))
    assert len(chat) == server.usage.n_gen == 16
    assert server.usage.n_prompt == len(server.tokenize(server.chat_prompt("Say 🙂 five times.")[0]))
    assert any(chat)


def test_a_prompt_goes_on_after_what_was_given_and_after_nothing_else(server):
    server.reset()
    server.prefill(list(range(100, 140)))
    server.prefill(list(range(200, 240)))
    assert len(list(server.stream([300], n_gen=4))) == 4
    assert server.usage.n_prompt == 81
    server.reset()
    server.prefill(list(range(100, 140)))
    assert server.usage.n_prompt == 40
    assert server.usage.prefill_s > 0
    server._held = (5, 6, 7)  # what it does not hold
    with pytest.raises(InvalidRun, match="0 tokens taken from its cache where 3 were to be"):
        server.prefill([8, 9])


def test_what_no_server_gives_is_refused(server):
    with pytest.raises(UsageError, match="gives no logits"):
        server.logits([1, 2], 0)


def test_a_longer_context_is_another_launch_and_the_last_one_ends(smollm2):
    with LlamaServer().load(smollm2, SETTINGS) as session:
        before = session.pid
        session.open(n_ctx=1000)
        assert session.pid != before
        assert session.n_ctx == 1024
        assert not psutil.pid_exists(before)
        after = session.pid
    assert not psutil.pid_exists(after)


def test_a_file_it_cant_open_is_told_in_its_own_words(tmp_path):
    path = tmp_path / "bad.gguf"
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelError, match=r"llama-server can't serve .*bad\.gguf: .*(fail|error)"):
        LlamaServer().load(path, SETTINGS)


def test_a_server_that_dies_says_of_what(smollm2):
    with LlamaServer().load(smollm2, SETTINGS) as session:
        pieces = session.stream([1], n_gen=400)
        next(pieces)
        os.kill(session.pid, signal.SIGKILL)
        with pytest.raises(ServerError, match="is gone: llama-server was killed by signal 9"):
            list(pieces)
        with pytest.raises(ServerError, match="is gone: llama-server was killed by signal 9"):
            session.tokenize("Hello")


def test_a_running_llama_server_is_asked_like_one_of_ours(server, smollm2, monkeypatch):
    key = server._client._headers["Authorization"].removeprefix("Bearer ")
    url = server._client.url
    runner = LlamaServer()
    with pytest.raises(ServerError, match="wants an API key"):
        runner.attach(url)
    monkeypatch.setenv("EDGEBENCH_SERVER_KEY", key)
    assert runner.attach(f"{url}/v1") is None
    assert runner.version().startswith("llama-server ")
    settings = Settings(n_threads=1, server=url)
    with closing(server._client), runner.load(smollm2, settings) as session:
        assert isinstance(session, LlamaServerSession)
        assert session.pid is None
        assert session.facts["memory_reason"]
        session.open(n_ctx=300)
        assert session.tokenize("Hello") == server.tokenize("Hello")
        with pytest.raises(ServerError, match="has a context of 512 tokens, 4001 are needed"):
            session.open(n_ctx=4000)
    with pytest.raises(ServerError, match=r"does not serve .*another\.gguf, but SmolLM2"):
        runner.load(smollm2.with_name("another.gguf"), settings)

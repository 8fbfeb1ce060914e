"""Servers that misbehave, each in its own way: one clear error, never a figure."""

import json
import socket
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgebench.core.engine import Streaming, TextSession
from edgebench.core.errors import InvalidRun, MissingDependency, ServerError, UsageError
from edgebench.core.types import Settings
from edgebench.runners import server_http
from edgebench.runners.llama_server import LlamaServer
from edgebench.runners.openai_server import OpenAiSession
from edgebench.runners.server_http import Client, server_url
from edgebench.runners.server_identity import Served, identify

SERVED = Served(kind="openai", model="toy", names=("toy",))


def session(url, *, answer_s=5.0, served=SERVED):
    return OpenAiSession(Client(url, answer_s=answer_s), served)


def streamed(url, *, n_gen=8, answer_s=5.0):
    with session(url, answer_s=answer_s) as open_session:
        return list(open_session.stream("Hello?", n_gen=n_gen)), open_session.usage


def test_a_chat_is_streamed_word_by_word_and_counted_by_the_server(model_server):
    with model_server.serve() as server:
        words, usage = streamed(server.url)
    assert words == [word.encode() for word in model_server.WORDS]
    assert (usage.n_prompt, usage.n_gen) == (7, 5)
    (path, body, _) = server.asked[-1]
    assert path == "/v1/chat/completions"
    assert (body["model"], body["stream"], body["temperature"]) == ("toy", True, 0)


def test_no_two_requests_begin_alike_where_a_server_keeps_what_it_saw(model_server):
    with model_server.serve() as server:
        for _ in range(3):
            streamed(server.url)
    said = [body["messages"][0]["content"] for _, body, _ in server.asked]
    assert len({text.partition("\n")[0] for text in said}) == 3
    assert all(text.endswith("\n\nHello?") for text in said)


def test_it_is_a_session_that_streams_and_takes_texts(model_server):
    with model_server.serve() as server, session(server.url) as open_session:
        assert isinstance(open_session, Streaming)
        assert isinstance(open_session, TextSession)
        with pytest.raises(UsageError, match="no token ids"):
            open_session.prefill([1, 2])
        with pytest.raises(UsageError, match="no token ids"):
            next(iter(open_session.stream([1, 2], n_gen=3)))


def half_a_stream(handler, _):
    handler.begin_stream()
    handler.chunk(b'data: {"choices": [{"delta": {"content": "Wat"}}]}\n\n')
    handler.drop()


def no_finish(handler, _):
    handler.events([{"choices": [{"delta": {"content": "Water"}}]}], done=False)


def garbage(handler, _):
    handler.begin_stream()
    handler.chunk(b"data: {\x00\xff not json\n\n")


def no_events(handler, _):
    handler.begin_stream()
    handler.chunk(b"<html>It works!</html>\n")


def a_list(handler, _):
    handler.events([["not", "an", "object"]])


def endless_line(handler, _):
    handler.begin_stream()
    handler.chunk(b"data: " + b"x" * 200)


def an_error(handler, _):
    handler.events([{"error": {"message": "the GPU fell off"}}])


BROKEN = {
    half_a_stream: "in the middle of an answer|breaks the connection",
    no_finish: "in the middle of an answer, after 1 piece",
    garbage: "streams what is no JSON object",
    no_events: "streams what is no event",
    a_list: "streams what is no JSON object",
    endless_line: "streams a line without an end",
    an_error: "breaks off: the GPU fell off",
    lambda handler, _: handler.drop(): "closes the connection without an answer",
    lambda handler, _: handler.json(
        {}, status=302, headers={"Location": "http://elsewhere/"}
    ): "redirects to",
    lambda handler, _: handler.json({"error": {"message": "no key"}}, status=401): "wants an API key: no key",
    lambda handler, _: handler.json({"error": "out of memory"}, status=500): "status 500: out of memory",
    lambda handler, _: handler.json({}, status=404): "status 404",
}


@pytest.mark.parametrize(("route", "told"), BROKEN.items(), ids=[getattr(r, "__name__", "") for r in BROKEN])
def test_what_breaks_a_stream_is_told(model_server, monkeypatch, route, told):
    monkeypatch.setattr(server_http, "MAX_LINE_BYTES", 100 if route is endless_line else 2**20)
    with model_server.serve(chat=route) as server, pytest.raises(ServerError, match=told) as raised:
        streamed(server.url)
    assert server.url in raised.value.message
    assert "\n" not in raised.value.message


def test_a_server_that_hangs_is_left(model_server):
    def stalls(handler, _):
        handler.begin_stream()
        handler.chunk(b'data: {"choices": [{"delta": {"content": "Wat"}}]}\n\n')
        model_server.hang(handler, _)

    for route in (model_server.hang, stalls):
        with (
            model_server.serve(chat=route) as server,
            pytest.raises(ServerError, match=r"nothing for 0\.2 s"),
        ):
            streamed(server.url, answer_s=0.2)


def test_an_answer_for_another_model_is_refused(model_server):
    def other(handler, _):
        handler.events(model_server.chunks(model="gpt-9"))

    with (
        model_server.serve(chat=other) as server,
        pytest.raises(ServerError, match="'gpt-9', asked was 'toy'"),
    ):
        streamed(server.url)


IMPOSSIBLE = [
    ({"prompt_tokens": -3, "completion_tokens": 5}, "prompt tokens are -3"),
    ({"prompt_tokens": "7", "completion_tokens": 5}, "prompt tokens are '7'"),
    ({"prompt_tokens": 7, "completion_tokens": True}, "completion tokens are True"),
    ({"prompt_tokens": 7, "completion_tokens": 5.5}, r"completion tokens are 5\.5"),
    ({"prompt_tokens": 7}, "completion tokens are None"),
    ({"prompt_tokens": 0, "completion_tokens": 5}, "0 prompt tokens"),
    ({"prompt_tokens": 7, "completion_tokens": 0}, "0 completion tokens in 5 pieces"),
    ({"prompt_tokens": 7, "completion_tokens": 9}, "9 completion tokens, 8 were asked for"),
]


@pytest.mark.parametrize(("usage", "told"), IMPOSSIBLE)
def test_a_usage_that_cant_be_makes_the_run_invalid(model_server, usage, told):
    def lies(handler, _):
        handler.events(model_server.chunks(usage=usage))

    with model_server.serve(chat=lies) as server, pytest.raises(InvalidRun, match=told):
        streamed(server.url)


def test_without_usage_there_is_no_count(model_server):
    def silent(handler, _):
        handler.events(model_server.chunks()[:-1])

    with (
        model_server.serve(chat=silent) as server,
        pytest.raises(ServerError, match="does not report `usage`"),
    ):
        streamed(server.url)


def test_letters_are_scored_by_the_likeliest_first_tokens(model_server):
    with model_server.serve() as server, session(server.url) as open_session:
        scores, n_prompt = open_session.score_text("Which?\nAnswer:", [" A", " B", " C", " D"], chat=False)
    assert [score.logprob for score in scores] == [-2.0, -0.5, -3.0, -4.0]
    assert [score.is_greedy for score in scores] == [False, True, False, False]
    assert n_prompt == 11


def test_a_letter_that_is_not_told_is_no_guess(model_server):
    with (
        model_server.serve() as server,
        session(server.url) as open_session,
        pytest.raises(MissingDependency, match="not that of ' F'") as raised,
    ):
        open_session.score_text("Which?", [" A", " F"], chat=False)
    assert raised.value.hint == "--scorer generate"


def echo(handler, body):
    """Log-probabilities of a prompt's characters, -1 for each, and of one token more."""
    text = body["prompt"] + "!"
    told = {
        "text_offset": list(range(len(text))),
        "token_logprobs": [None, *([-1.0] * (len(text) - 1))],
        "top_logprobs": [None, *({c: -1.0} for c in text[1:])],
    }
    choice = {"text": text, "logprobs": told}
    usage = {"prompt_tokens": len(text) - 1, "completion_tokens": 1}
    handler.json({"model": "toy", "choices": [choice], "usage": usage})


@settings(max_examples=25, deadline=None)
@given(context=st.text(min_size=1, max_size=20), continuation=st.text(min_size=1, max_size=20))
def test_an_echo_scores_what_follows_the_context(echoing, context, continuation):
    (score,), _ = echoing.score_text(context, [continuation], chat=False)
    assert score.logprob == -len(continuation)
    assert score.is_greedy


@pytest.fixture(scope="module")
def echoing(model_server):
    served = Served(kind="vllm", model="toy", names=("toy",))
    with model_server.serve(completions=echo) as server, session(server.url, served=served) as open_session:
        yield open_session


def test_ollama_completes_no_bare_text(model_server):
    served = Served(kind="ollama", model="toy", names=("toy",))
    with model_server.serve() as server, session(server.url, served=served) as open_session:
        with pytest.raises(UsageError, match="chat template"):
            open_session.write_text("Once", n_gen=4, stop=(), chat=False)
        text, usage = open_session.write_text("Once", n_gen=4, stop=("\n",), chat=True)
    assert text == "Water boils at 100"
    assert usage.n_gen == 4


def tags(handler, _):
    handler.json({"models": [{"name": "toy:latest", "digest": "abc123", "size": 42, "details": {}}]})


def test_a_model_is_known_by_what_the_server_calls_it(model_server):
    def version(handler, _):
        handler.json({"version": "0.40.1"})

    with (
        model_server.serve(api_tags=tags, api_version=version) as server,
        closing(Client(server.url)) as client,
    ):
        served = identify(client, "toy")
        assert (served.kind, served.version, served.digest) == ("ollama", "0.40.1", "abc123")
        with pytest.raises(ServerError, match="does not serve llama3, but toy:latest") as raised:
            identify(client, "llama3")
    assert raised.value.hint == "-m toy:latest"
    again = Served(kind="ollama", model="toy:latest", digest="another", size_bytes=42)
    assert len({served.sha256, again.sha256, SERVED.sha256}) == 3


@pytest.mark.parametrize(
    "answer", [[], {}, {"data": 3}, {"data": [None, "x"]}, {"data": [{"id": 7}]}, "text"]
)
def test_a_server_that_names_no_model_is_told_so(model_server, answer):
    with (
        model_server.serve(models=lambda handler, _: handler.json(answer)) as server,
        closing(Client(server.url)) as client,
        pytest.raises(ServerError, match="names no model"),
    ):
        identify(client, "toy")


def test_the_key_is_sent_and_kept_out_of_every_fact(model_server, monkeypatch):
    monkeypatch.setenv("EDGEBENCH_SERVER_KEY", "s3cret")
    with model_server.serve() as server:
        runner = LlamaServer()
        assert runner.attach(server.url) == "openai takes texts and no token ids"
        with runner.load(Path("toy"), Settings(n_threads=1, server=server.url)) as opened:
            list(opened.stream("Hello?", n_gen=3))
            assert "s3cret" not in json.dumps(opened.facts)
    assert {headers.get("Authorization") for _, _, headers in server.asked} == {"Bearer s3cret"}


def test_no_proxy_stands_between(model_server, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    with model_server.serve() as server:
        assert streamed(server.url)[1].n_gen == 5


def test_nobody_at_the_address_is_said_so():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ServerError, match="can't be reached: Connection refused"):
            Client(url).ask("/v1/models")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "localhost:8080",
        "ftp://host",
        "http://",
        "http://a:b@host",
        "http://host?x=1",
        "http://host:99999",
    ],
)
def test_what_is_no_servers_url_is_refused(url):
    with pytest.raises(UsageError):
        server_url(url)


@given(
    st.from_regex(r"https?://[a-z0-9.-]{1,12}(:[1-9][0-9]{0,3})?(/[a-z]{1,5}){0,2}/?(/v1/?)?", fullmatch=True)
)
def test_a_servers_url_is_normal_once_it_was_read(url):
    once = server_url(url)
    assert server_url(once) == once
    assert not once.endswith(("/v1", "/"))

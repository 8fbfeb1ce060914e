"""Models behind servers, from the command line to the database."""

import json
import os

import psutil
import pytest

from edgebench.runners.openai_server import OpenAiSession
from edgebench.runners.server_http import Client
from edgebench.runners.server_identity import Served
from edgebench.session_text import score_texts

QUICK = ("-t", "1", "-r", "2", "--rounds", "1", "--energy", "none")


@pytest.fixture
def database(tmp_path):
    return tmp_path / "edgebench.sqlite"


def run(edgebench, server, *args, model="toy", **more):
    return edgebench("run", "-m", model, "--server", server.url, *QUICK, *args, **more)


def test_a_server_that_takes_texts_is_timed_by_its_streams(model_server, edgebench, rows, database):
    with model_server.serve() as server:
        done = run(edgebench, server, "--mode", "performance", "--chat", "4")
    assert done.returncode == 0, done.stderr
    assert "not measured: pp512, tg128 (openai takes texts and no token ids)" in done.stderr
    (artifact,) = rows(database, "SELECT * FROM artifact")
    assert (artifact["format"], artifact["quant"], artifact["size_bytes"]) == ("served", "served", 0)
    trials = rows(database, "SELECT * FROM trial WHERE phase = 'measured'")
    assert [(t["test"], t["n_prompt"], t["n_gen"]) for t in trials] == [("chat4", 7, 4)] * 2
    assert all(0 < t["ttft_s"] <= t["total_s"] for t in trials)
    assert all(t["peak_rss_bytes"] is None and t["foreign_cpu_s"] is None for t in trials)
    assert rows(database, "SELECT count(*) AS n FROM token_time")[0]["n"] == 3 * 4
    (engine,) = [json.loads(row["engine_json"]) for row in rows(database, "SELECT engine_json FROM run")]
    assert "not started here" in engine["memory_reason"]


def test_questions_are_asked_by_letters_where_they_are_told(model_server, edgebench, rows, database):
    with model_server.serve() as server:
        asked = ("--mode", "accuracy", "--suite", "everyday", "--limit", "8", "--scorer", "letter")
        done = run(edgebench, server, *asked)
    assert done.returncode == 0, done.stderr
    answers = rows(database, "SELECT * FROM answer")
    assert len(answers) >= 8
    assert {a["choice_index"] for a in answers} == {1}  # this server always prefers B
    assert {a["n_prompt"] for a in answers} == {11}


def test_answers_are_written_as_texts_and_counted_by_the_server(model_server):
    prompt = {"id": "q", "rotation": 0, "n_shots": 0, "context": "Which?", "continuations": []}
    job = {"wanted": [0], "groups": [[prompt]], "n_gen": 4, "stop": [" at"], "chat": True}
    served = Served(kind="ollama", model="toy", names=("toy",))
    with model_server.serve() as server, OpenAiSession(Client(server.url), served) as session:
        (result,) = score_texts(session, job)
    (answer,) = result["answers"]
    assert (answer["text"], answer["n_gen"], answer["n_prompt"]) == ("Water boils", 4, 7)
    assert server.asked[-1][1]["stop"] == [" at"]


def test_several_tokens_in_a_piece_are_counted_and_not_timed_one_by_one(
    model_server, edgebench, rows, database
):
    def lumps(handler, _):
        handler.events(
            model_server.chunks(
                ["Water boils", " at 100"], usage={"prompt_tokens": 7, "completion_tokens": 4}
            )
        )

    with model_server.serve(chat=lumps) as server:
        done = run(edgebench, server, "--mode", "performance", "--chat", "4")
    assert done.returncode == 0, done.stderr
    trials = rows(database, "SELECT * FROM trial")
    assert {t["n_gen"] for t in trials} == {4}
    assert all("tokens_in_lumps" in t["flags_json"] for t in trials)
    assert rows(database, "SELECT count(*) AS n FROM token_time")[0]["n"] == 0


def test_a_server_whose_counts_cant_be_makes_an_invalid_run(model_server, edgebench, rows, database):
    def lies(handler, _):
        handler.events(model_server.chunks(usage={"prompt_tokens": 7, "completion_tokens": 99}))

    with model_server.serve(chat=lies) as server:
        done = run(edgebench, server, "--mode", "performance", "--chat", "4")
    assert done.returncode == 4, done.stderr
    assert "99 completion tokens, 4 were asked for" in done.stderr
    (stored,) = rows(database, "SELECT status FROM run")
    assert stored["status"] == "invalid"


@pytest.mark.parametrize(
    ("args", "code", "told"),
    [
        (("--runner", "llama_cpp"), 2, "--server is asked by --runner llama_server, not by llama_cpp"),
        (("--quant", "q8_0"), 2, "a running server has its model already"),
        (
            ("--chat", "0", "--mode", "performance"),
            2,
            "nothing to measure: openai takes texts and no token ids",
        ),
        (("--mode", "performance", "-m", "llama3"), 1, "does not serve llama3, but toy hint: -m toy"),
    ],
)
def test_what_cant_be_asked_of_a_server_is_said_before_it_is(model_server, edgebench, args, code, told):
    with model_server.serve() as server:
        done = run(edgebench, server, *args)
    assert done.returncode == code
    assert told in " ".join(done.stderr.split())
    assert "Traceback" not in done.stderr


def test_nobody_at_the_address_is_one_line(edgebench):
    done = edgebench("run", "-m", "toy", "--server", "http://127.0.0.1:9", *QUICK)
    assert done.returncode == 1
    assert "the server at http://127.0.0.1:9 can't be reached" in done.stderr


@pytest.mark.engine
@pytest.mark.slow
def test_a_launched_server_is_measured_like_any_engine(edgebench, rows, database, smollm2):
    sizes = ("-p", "16", "-n", "8", "-d", "0,32", "--chat", "4")
    done = edgebench(
        "run", "-m", smollm2, "--runner", "llama_server", "--mode", "performance", *QUICK, *sizes
    )
    assert done.returncode == 0, done.stderr
    trials = rows(database, "SELECT * FROM trial WHERE phase = 'measured'")
    assert {t["test"] for t in trials} == {"pp16", "tg8", "pp16@d32", "tg8@d32", "chat4"}
    # The server's memory, not that of the process which asks it.
    assert all(t["peak_rss_bytes"] > smollm2.stat().st_size / 2 for t in trials)
    assert all(t["kv_cache_bytes"] > 0 and t["foreign_cpu_s"] is not None for t in trials)
    assert {t["n_prompt"] for t in trials if t["test"] == "chat4"} != {0}
    told = rows(
        database, "SELECT channel, count(*) AS n FROM reading WHERE channel GLOB 'engine_*' GROUP BY channel"
    )
    assert {row["channel"] for row in told} == {"engine_prefill", "engine_decode"}
    times = rows(
        database, "SELECT count(*) AS n FROM token_time JOIN trial ON trial.id = trial_id WHERE test = 'tg8'"
    )
    assert times[0]["n"] == 3 * 8
    ours = [p for p in psutil.process_iter(["name", "ppid"]) if p.info["name"] == "llama-server"]
    assert not [p for p in ours if p.info["ppid"] in (os.getpid(), 1)]


@pytest.mark.engine
def test_a_running_server_is_measured_under_the_hash_of_the_file_it_serves(
    edgebench, rows, database, smollm2
):
    from edgebench.core.types import Settings
    from edgebench.runners.server_launch import Launched

    own = Launched(smollm2, Settings(n_threads=1), n_ctx=512, swa_full=False)
    try:
        env = {"EDGEBENCH_SERVER_KEY": own.client._headers["Authorization"].removeprefix("Bearer ")}
        args = (
            "--server",
            own.client.url,
            "--mode",
            "performance",
            "-p",
            "16",
            "-n",
            "4",
            "--chat",
            "0",
            *QUICK,
        )
        done = edgebench("run", "-m", smollm2, *args, env=env)
        assert done.returncode == 0, done.stderr
        (artifact,) = rows(database, "SELECT * FROM artifact")
        assert artifact["format"] == "gguf"
        assert env["EDGEBENCH_SERVER_KEY"] not in database.read_bytes().decode("latin-1")
    finally:
        own.close()

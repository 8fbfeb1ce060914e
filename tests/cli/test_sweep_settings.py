"""Several values of a setting in one command: every combination is a run, and a row that tells which."""

import json

import click
import pytest

from edgebench.cli.measure import make_requests, run
from edgebench.core.errors import UsageError
from edgebench.session_plan import Request

QUICK = ("--mode", "performance", "-p", "8", "-n", "4", "--chat", "0", "-r", "1", "--rounds", "1")
SETTINGS = (
    "SELECT json_extract(config_json, '$.settings.n_threads') AS t,"
    " json_extract(config_json, '$.settings.n_ubatch') AS ub FROM run ORDER BY id"
)


def requests_of(*flags):
    with run.make_context("run", list(flags)) as made:
        return make_requests(made.params)


def test_single_values_are_the_request_they_always_were():
    (request,) = requests_of("-m", "a.gguf")
    assert request == Request(models=("a.gguf",))
    (request,) = requests_of(
        *("-m", "a.gguf", "-t", "3", "-b", "128", "-ub", "256", "-ngl", "-1", "-fa", "off", "-ctk", "f32"),
        *("-ctv", "q8_0", "--no-mmap", "--provider", "cuda", "--dtype", "bf16"),
    )
    assert request == Request(
        models=("a.gguf",),
        n_threads=3,
        n_batch=128,
        n_ubatch=256,
        n_gpu_layers=-1,
        flash_attn="off",
        type_k="f32",
        type_v="q8_0",  # alone, what can't be combined is the engine's to refuse
        mmap=False,
        provider="cuda",
        dtype="bf16",
    )


@pytest.mark.parametrize(
    ("flags", "mmap"),
    [
        ((), [True]),
        (("--mmap",), [True]),
        (("--mmap", "--seed", "0"), [True]),
        (("--no-mmap",), [False]),
        (("--mmap", "off"), [False]),
        (("--mmap=on,off",), [True, False]),
        (("-mmp", "0,1"), [False, True]),
        (("--mmap", "on", "--no-mmap"), [False]),
    ],
)
def test_spellings_of_mmap(flags, mmap):
    assert [request.mmap for request in requests_of(*flags)] == mmap


def test_lists_and_ranges_make_every_combination_in_order():
    made = requests_of("-t", "1-4*2", "-fa", "1,0", "--provider", "cpu,cuda")
    assert [(r.n_threads, r.flash_attn, r.provider) for r in made] == [
        (t, fa, provider) for t in (1, 2, 4) for fa in ("on", "off") for provider in ("cpu", "cuda")
    ]


def test_a_combination_the_engine_would_refuse_or_repeat_is_left_out(capsys):
    made = requests_of("-fa", "on,off", "-ctv", "f16,q8_0")
    assert [(r.flash_attn, r.type_v) for r in made] == [("on", "f16"), ("on", "q8_0"), ("off", "f16")]
    assert "-fa off with a quantized -ctv is left out" in capsys.readouterr().err
    made = requests_of("-b", "128,1024", "-ub", "256,512")
    assert [(r.n_batch, r.n_ubatch) for r in made] == [(128, 128), (1024, 256), (1024, 512)]
    assert "-b 128 -ub 256: a physical batch is at most the logical one" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("-t", "0"), "0 is below 1"),
        (("-t", "1,x"), "'x' is not a number or a range"),
        (("-ctk", "f16,q9"), "'q9' is not one of f32, f16"),
        (("--mmap", "perhaps"), "'perhaps' is not one of on, off"),
        (("-t", "1-40", "-b", "1-40"), "1600 combinations"),
    ],
)
def test_a_wrong_value_is_named(flags, words):
    with pytest.raises((UsageError, click.BadParameter)) as refused:
        requests_of("-m", "a.gguf", *flags)
    assert refused.value.exit_code == 2
    assert words in refused.value.message


def test_every_combination_is_a_run_and_a_row(toy, edgebench, rows, tmp_path):
    models = f"{toy().name},{toy('q4_0', seed=2).name}"
    done = edgebench("run", "-m", models, *QUICK, "-t", "1,2", "-ub", "64,128")
    assert done.returncode == 0, done.stderr
    every = [(t, ub) for t in (1, 2) for ub in (64, 128)]
    found = rows(tmp_path / "edgebench.sqlite", SETTINGS)
    assert [(r["t"], r["ub"]) for r in found] == [one for one in every for _ in range(2)]
    assert done.stdout.count("toy on") == 1  # one table
    for t, ub in every:
        assert done.stdout.count(f"-t {t} -ub {ub} ") == 2
    assert "not a fair table" not in done.stderr
    listed = json.loads(edgebench("runs", "list", "-o", "json").stdout)
    assert [row["settings"]["n_ubatch"] for row in listed] == [128, 128, 64, 64] * 2
    assert edgebench("runs", "list").stdout.count("-t 1 -ub 64") == 2


def test_a_single_setting_has_no_column_for_it(toy, edgebench):
    done = edgebench("run", "-m", toy().name, *QUICK)
    assert "settings" not in done.stdout
    assert "settings" not in edgebench("runs", "list").stdout

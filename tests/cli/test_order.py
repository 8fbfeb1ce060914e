"""Permuted runs as the verbs show them: order, compare, runs show."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

LETTERS = ("--mode", "accuracy", "--scorer", "letter", "--permute", "cyclic", "--limit", "24")


@pytest.fixture(scope="module")
def permuted(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], write_toy: Callable[..., Path]
) -> Callable[..., Any]:
    """Two levels that the pretend engine asked in every order, and once plainly; the verbs beside them."""
    folder = tmp_path_factory.mktemp("permuted")
    models = ",".join(write_toy(folder, level, seed=i).name for i, level in enumerate(("q8_0", "q2_k")))
    edgebench = edgebench_in(folder)
    done = edgebench("run", "-m", models, *LETTERS)
    assert done.returncode == 0, done.stderr
    call: Callable[..., Any] = edgebench
    return call


def test_a_row_for_each_level_that_was_asked_in_every_order(permuted):
    done = permuted("order", "-o", "json")
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {row["level"] for row in rows} == {"q8_0", "q2_k"}
    for row in rows:
        assert row["n_questions"] == 24
        places = row["chosen_places"]
        assert sum(place["value"] for place in places.values()) == pytest.approx(1)
        assert row["acc_by_gold_place"].keys() == places.keys() == row["fair_share"].keys()
        assert row["circular"]["value"] <= row["acc"]["value"]
        assert row["acc_debiased"]["n"] + row["n_pride_calibration"] == 24
    assert "not clinical safety" in done.stderr  # a third of these questions are about health


@pytest.mark.parametrize("output", ["table", "md", "csv", "jsonl"])
def test_the_table_is_printed_in_every_form(permuted, output):
    done = permuted("order", "-o", output)
    assert done.returncode == 0, done.stderr
    assert "q2_k" in done.stdout
    if output in ("table", "md"):
        assert "leans on" in done.stdout
    assert "leans on" in done.stderr


def test_the_picture_is_drawn(permuted, tmp_path):
    done = permuted("order", "--out", str(tmp_path / "order.png"))
    assert done.returncode == 0, done.stderr
    from matplotlib.image import imread

    height, width, *_ = imread(tmp_path / "order.png").shape
    assert min(height, width) > 300


def test_without_permuted_runs_the_command_is_told(measured, edgebench):
    done = edgebench("order")
    assert done.returncode == 2
    assert "--permute cyclic" in done.stderr
    assert "Traceback" not in done.stderr


def test_levels_are_compared_by_question(permuted):
    done = permuted("compare", "--by", "quant", "--margin", "0.01", "-o", "json")
    assert done.returncode == 0, done.stderr
    (level,) = [row for row in json.loads(done.stdout) if row["verdict"] != "baseline"]
    flips = level["flips"]
    assert (flips["n_questions"], flips["test"], level["margin"]) == (24, "clustered_t", 0.01)
    assert flips["n"] > 24
    assert flips["difference_bootstrap"]["value"] == pytest.approx(flips["difference"]["value"])
    shown = permuted("compare", "--by", "quant", "--margin", "0.01")
    assert "clustered by question" in shown.stderr
    assert "all rotations" in shown.stdout
    assert "worse by more than 1.0 points" in " ".join(shown.stdout.split())
    assert "not measured" in shown.stdout  # no flip rate without its noise floor, or that there is none


def test_a_permuted_run_is_shown_with_its_places(permuted):
    shown = json.loads(permuted("runs", "show", "-o", "json").stdout)
    assert (shown["permute"], shown["num_fewshot"], shown["scorer"]) == ("cyclic", 0, "letter")
    assert shown["headline"]["metric"] == "acc"
    assert shown["headline"]["n"] == 24
    assert sum(place["value"] for place in shown["chosen_places"].values()) == pytest.approx(1)
    assert {"ece", "brier", "nll_nats"} <= shown["calibration"].keys()
    table = permuted("runs", "show")
    assert "share_choice_A" in table.stdout
    assert "headline" in table.stdout


def test_a_difference_that_was_not_found_says_what_would_have_been(measured, edgebench):
    table = edgebench("compare", "--by", "quant").stdout
    assert table.count("not separable") == table.count("(finds ≥")
    ids = [run["id"] for run in json.loads(edgebench("runs", "list", "-o", "json").stdout)]
    kinds = {run: edgebench("runs", "show", run, "-o", "json").stdout for run in ids}
    answers = [run for run, text in kinds.items() if json.loads(text)["what"] == "everyday@1 cloze"]
    pair = edgebench("compare", answers[0], answers[0], "--margin", "0.2")
    assert "(finds ≥" in pair.stdout
    assert "noise floor" in pair.stdout


def test_a_margin_is_a_share(measured, edgebench):
    done = edgebench("compare", "--by", "quant", "--margin", "2")
    assert done.returncode == 2
    assert "--margin" in done.stderr

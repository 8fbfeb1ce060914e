"""`edgebench sustained` on an invented run, and on one that the pretend engine took real seconds for."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from edgebench.cli.sustained import sustained
from edgebench.core.errors import UsageError
from edgebench.core.types import (
    Artifact,
    DeviceProfile,
    Environment,
    Evidence,
    Format,
    Mode,
    QuantSpec,
    Status,
)
from edgebench.results.store import Store


@pytest.fixture
def database(tmp_path: Path) -> Path:
    """Two minutes at 40 and then 20 tokens/s, heat measured, no meter."""
    path = tmp_path / "edgebench.sqlite"
    artifact = Artifact(
        sha256="a" * 64,
        path=Path("x.gguf"),
        model="tiny",
        quant=QuantSpec(name="q4_0", format=Format.GGUF, bits_per_weight=4.5),
        size_bytes=1000,
    )
    moments = [(i + 1) / 40 for i in range(2400)] + [60 + (i + 1) / 20 for i in range(1200)]
    with Store.open(path) as store:
        store.add_artifact(artifact, {})
        store.add_device(DeviceProfile(id="laptop", name="laptop", kind="laptop"))
        store.add_environment(Environment(id="env", os="Linux"))
        run_id = store.create_run(
            mode=Mode.PERFORMANCE,
            evidence=Evidence.MEASURED,
            artifact_id=artifact.sha256,
            device_id="laptop",
            environment_id="env",
            suite_id=None,
            runner="llama_cpp",
            runner_version="1",
            config={"settings": {"n_threads": 2}},
            config_sha256="plan",
            seed=0,
        )
        trial = {
            "test": "sustained120",
            "phase": "measured",
            "repetition": 0,
            "n_prompt": 0,
            "n_gen": len(moments),
            "started_s": 3.0,
            "total_s": 120.0,
            "energy_reason": "no_sensor",
            "flags_json": '["on_battery"]',
        }
        store.add_trial(run_id, trial, moments)
        store.add_readings(run_id, "temperature", "C", [(3.0 + i, 50 + i / 10) for i in range(121)])
        store.set_status(run_id, Status.INTERRUPTED, "stopped by the user")
    return path


def call(*args: object) -> Any:
    return CliRunner().invoke(sustained, [str(arg) for arg in args], catch_exceptions=False)


def test_json_has_figures_reasons_and_bins(database: Path) -> None:
    done = call("--db", database, "-o", "json")
    assert done.exit_code == 0, done.output
    (row,) = json.loads(done.stdout)
    assert (row["model"], row["level"], row["n_threads"], row["n_tokens"]) == ("tiny", "q4_0", 2, 3600)
    assert row["retained_share"]["value"] == pytest.approx(0.5)
    assert row["time_to_90_s"] == 60
    assert row["temperature_max_c"] == pytest.approx(62)
    assert (row["burst_w"], row["reasons"]["burst_w"]) == (None, "no_sensor")
    assert [each["tokens_per_s"] for each in row["bins"]] == pytest.approx([40] * 6 + [20] * 6)
    assert row["bins"][0]["power_w"] is None
    assert row["flags"] == ["on_battery", "not_steady"]


@pytest.mark.parametrize("output", ["table", "md"])
def test_the_table_shows_what_is_known_and_says_what_is_not(database: Path, output: str) -> None:
    done = call("latest", "--db", database, "-o", output)
    assert done.exit_code == 0, done.output
    for text in ("tiny", "q4_0", "0.500", "1:00 min", "max °C"):
        assert text in done.stdout
    assert "J/token" not in done.stdout
    assert "power in burst, power sustained: none (no_sensor)" in done.stderr
    assert "a battery was discharging" in done.stderr
    assert "interrupted: stopped by the user" in done.stderr


@pytest.mark.parametrize("output", ["csv", "jsonl"])
def test_the_other_forms_are_one_row(database: Path, output: str) -> None:
    done = call("--db", database, "-o", output)
    assert done.exit_code == 0, done.output
    assert len(done.stdout.splitlines()) == (2 if output == "csv" else 1)
    assert "tokens_per_s" in done.stdout


def test_the_picture_is_drawn(database: Path, tmp_path: Path) -> None:
    out = tmp_path / "sustained.png"
    done = call("--db", database, "--out", out)
    assert done.exit_code == 0, done.output
    assert f"picture: {out}" in done.stderr
    from matplotlib.image import imread

    height, width, *_ = imread(out).shape
    assert min(height, width) > 300


def test_a_run_can_be_named(database: Path) -> None:
    (row,) = json.loads(call("--db", database, "-o", "json").stdout)
    (same,) = json.loads(call(row["run"][:12], "--db", database, "-o", "json").stdout)
    assert same["run"] == row["run"]


def test_what_a_run_generated_is_shown(edgebench: Any, toy: Any) -> None:
    quick = ("--mode", "performance", "-p", "0", "-n", "8", "--chat", "0", "-r", "1", "--rounds", "1")
    made = edgebench("run", "-m", toy(token_s=0.02).name, *quick, "--sustained", "5")
    assert made.returncode == 0, made.stderr
    done = edgebench("sustained", "-o", "json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["test"] == "sustained5"
    assert len(row["bins"]) == 1
    assert row["bins"][0]["tokens_per_s"] > 5
    assert row["reasons"]["burst_tokens_per_s"] == "window_too_short"
    assert "never rank" in done.stderr


def test_without_a_sustained_run_the_command_that_makes_one_is_told(tmp_path: Path) -> None:
    Store.open(tmp_path / "empty.sqlite").close()
    with pytest.raises(UsageError, match="sustained") as caught:
        call("--db", tmp_path / "empty.sqlite")
    assert "edgebench run --sustained" in str(caught.value.hint)

"""A batch that goes to a device by hand: the folder, what is refused when it comes back, and archives."""

import json
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from edgebench.core.errors import DeviceError, RunFailed
from edgebench.session_bundle import collect_bundle

pytestmark = pytest.mark.engine  # jobs are of the version of llama.cpp that is installed here
QUICK = ("--mode", "performance", "-p", "8", "-n", "4", "--chat", "0", "-r", "2", "--rounds", "1", "-t", "1")
FACTS = """
@@ edgebench properties
[ro.product.model]: [Pixel 8]
[ro.product.manufacturer]: [Google]
[ro.product.device]: [shiba]
[ro.product.cpu.abi]: [arm64-v8a]
[ro.edgebench.double]: [{double}]
@@ edgebench kernel
aarch64
@@ edgebench memory
MemTotal:        7700000 kB
MemAvailable:    5200000 kB
@@ edgebench uptime
8123.45 60000.1
"""


def write_gguf(path: Path) -> Path:
    """A file that looks like a model, and is none that could speak."""
    np = pytest.importorskip("numpy")
    writer_of = pytest.importorskip("gguf", reason="gguf is not installed").GGUFWriter
    writer = writer_of(path, "llama")
    writer.add_block_count(1)
    writer.add_embedding_length(32)
    writer.add_head_count(4)
    writer.add_tokenizer_model("gpt2")
    writer.add_tensor("token_embd.weight", np.zeros((100, 32), np.float16))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


@pytest.fixture(scope="module")
def home(
    tmp_path_factory: pytest.TempPathFactory, edgebench_in: Callable[..., Any], native_program: Any
) -> Path:
    """A folder with a model and its bundle; not to be changed."""
    folder = tmp_path_factory.mktemp("bundle")
    write_gguf(folder / "tiny.gguf")
    there = ("--target", native_program.target, "--level", native_program.level)
    model = folder / "tiny.gguf"
    done = edgebench_in(folder)("plan", "--device", "pixel8", "-m", model, *QUICK, *there, "--out", "bundle")
    assert done.returncode == 0, done.stderr
    assert "edgebench collect bundle" in done.stderr
    return folder


@pytest.fixture
def bundle(home: Path, tmp_path: Path) -> Path:
    """The test's own copy of the bundle, as `plan` wrote it; its program is left out."""
    return Path(shutil.copytree(home / "bundle", tmp_path / "bundle", ignore=shutil.ignore_patterns("bin")))


@pytest.fixture
def back(bundle: Path) -> Path:
    """The same, as a phone would have it when it is done."""
    (bundle / "facts.txt").write_text(FACTS.format(double=""))
    (bundle / "clock.txt").write_text("1700000000 8123.45\n")
    (bundle / "done").touch()
    (job,) = (bundle / "batches").glob("*/jobs/*")
    lines: list[dict[str, Any]] = []
    for test, n_prompt, n_gen in (("pp8", 8, 0), ("tg4", 0, 4)):
        for repetition in range(2):
            total_s = 1.0 + 0.25 * len(lines)
            one = {"type": "trial", "test": test, "phase": "measured", "repetition": repetition}
            one |= {"start_s": 8200.0, "end_s": 8200.0 + total_s, "total_s": total_s, "n_depth": 0}
            one |= {"prefill_s": total_s if n_prompt else None, "decode_s": total_s if n_gen else None}
            one |= {"n_prompt": n_prompt, "n_gen": n_gen, "n_ctx": 256, "token_times_s": []}
            one |= {"ttft_s": None, "engine_s": None, "canary_before_s": 0.01, "canary_after_s": 0.01}
            one |= dict.fromkeys(("n_major_faults", "swap_bytes", "kv_cache_bytes", "peak_rss_bytes"))
            lines.append(one | dict.fromkeys(("rss_anon_bytes", "rss_file_bytes")))
    (job / "out.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (job / "rc").write_text("0\n")
    return bundle


@pytest.fixture
def collect(tmp_path: Path, bare: Any) -> Callable[[Path], list[dict[str, Any]]]:
    """`collect(folder)`: stores what is there; every measured trial in the database."""

    def call(folder: Path) -> list[dict[str, Any]]:
        collect_bundle(folder, bare.store, bare.ear).raise_if_bad()
        found: list[dict[str, Any]] = bare.store.rows("SELECT * FROM trial WHERE phase = 'measured'")
        return found

    return call


def plan_of(bundle: Path, **changes: Any) -> dict[str, Any]:
    """What the bundle's plan.json says; with changes, it says those from now on."""
    told: dict[str, Any] = json.loads((bundle / "plan.json").read_text())
    if changes:
        (bundle / "plan.json").write_text(json.dumps(told | changes))
    return told


# plan


def test_a_bundle_has_all_that_a_device_without_edgebench_needs(home: Path, native_program: Any) -> None:
    folder = home / "bundle"
    assert {path.name for path in folder.iterdir()} == {
        *(
            "batch.txt",
            "batches",
            "bin",
            "facts.sh",
            "levels.txt",
            "models",
            "pick.sh",
            "plan.json",
            "start.sh",
        ),
    }
    told = plan_of(folder)
    (batch,) = (folder / "batches").iterdir()
    assert (folder / "batch.txt").read_text().strip() == told["batch"] == batch.name
    (row,) = (batch / "jobs.txt").read_text().splitlines()
    assert [row.split()[0]] == [job["name"] for job in told["jobs"]]
    (job,) = (batch / "jobs").glob("*/job.txt")
    model = bytes.fromhex(job.read_text().splitlines()[1].split()[1]).decode()
    assert (batch / model).resolve().read_bytes() == (home / "tiny.gguf").read_bytes()
    (level,) = (folder / "levels.txt").read_text().splitlines()
    program = folder / "bin" / level.split()[0] / "edgebench-native"
    assert program.read_bytes() == native_program.files["edgebench-native"].read_bytes()
    assert program.stat().st_mode & 0o111


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("--target", "android-arm65"), "unknown target 'android-arm65'"),
        (("--level", "armv9"), "unknown level 'armv9'"),
        (("-ngl", "99"), "-ngl: not on a device"),
        (("--cpu-mask", "4-7"), "--cpu-mask '4-7'"),
        (("--device", "pixel99"), "unknown device 'pixel99'"),
        (("--device", "ssh:pi@board"), "unknown device 'ssh:pi@board'"),
        (("--runner", "torch"), "--runner torch needs the whole of edgebench"),
        (("--runner", "onnx"), "a bundle carries GGUF files"),
    ],
)
def test_what_can_not_be_planned_is_told_before_anything_is_written(
    home: Path, tmp_path: Path, edgebench: Any, args: tuple[str, ...], said: str
) -> None:
    done = edgebench("plan", "-m", home / "tiny.gguf", *QUICK, *args, "--out", "bundle")
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr.splitlines()[0]
    assert not list(tmp_path.glob("*bundle*"))


def test_a_model_the_program_can_not_open_is_refused(toy: Any, tmp_path: Path, edgebench: Any) -> None:
    done = edgebench("plan", "-m", toy(), *QUICK, "--out", "bundle")
    assert done.returncode == 1
    assert "llama_native runs gguf" in done.stderr
    assert not list(tmp_path.glob("*bundle*"))


def test_a_folder_that_is_there_is_left_alone(home: Path, bundle: Path, edgebench: Any) -> None:
    before = sorted((path, path.stat().st_mtime_ns) for path in bundle.rglob("*"))
    done = edgebench("plan", "-m", home / "tiny.gguf", *QUICK, "--out", bundle)
    assert done.returncode == 2
    assert "bundle is there already" in done.stderr
    assert "name a new folder" in done.stderr
    assert sorted((path, path.stat().st_mtime_ns) for path in bundle.rglob("*")) == before


# collect


def test_what_came_back_is_stored_once(back: Path, bare: Any, collect: Any) -> None:
    for _ in range(2):
        found = collect(back)
        assert sorted((row["test"], row["repetition"]) for row in found) == [
            ("pp8", 0),
            ("pp8", 1),
            ("tg4", 0),
            ("tg4", 1),
        ]
    (run,) = bare.store.runs()
    assert (run.status, run.evidence, run.runner) == ("complete", "measured", "llama_native")
    assert run.device_id.startswith("pixel8-")
    assert bare.store.rows("SELECT timing_source FROM run")[0]["timing_source"] == "engine"


def test_a_stand_ins_figures_are_synthetic(back: Path, bare: Any, collect: Any) -> None:
    (back / "facts.txt").write_text(FACTS.format(double="1"))
    collect(back)
    (run,) = bare.store.runs()
    assert run.evidence == "synthetic"


def test_a_batch_that_was_not_over_is_stored_as_far_as_it_went(back: Path, bare: Any, collect: Any) -> None:
    (back / "done").unlink()
    (out,) = back.glob("batches/*/jobs/*/out.jsonl")
    whole = out.read_text()
    out.write_text(whole[: whole.index('"tg4"')])
    (rc,) = back.glob("batches/*/jobs/*/rc")
    rc.unlink()
    assert len(collect(back)) == 2
    assert any("was not over" in line for line in bare.ear.said)
    assert {run.status for run in bare.store.runs()} == {"interrupted"}
    out.write_text(whole)
    assert len(collect(back)) == 4
    assert {run.status for run in bare.store.runs()} == {"complete"}


def test_the_command_shows_what_it_stored(back: Path, edgebench: Any) -> None:
    done = edgebench("collect", back, "-o", "json")
    assert done.returncode == 0, done.stderr
    (row,) = json.loads(done.stdout)
    assert row["device"].startswith("pixel8-")
    assert {test["test"] for test in row["tests"]} == {"pp8", "tg4"}


def test_a_job_that_died_there_is_an_error_here(back: Path, edgebench: Any) -> None:
    (rc,) = back.glob("batches/*/jobs/*/rc")
    rc.write_text("137\n")
    done = edgebench("collect", back)
    assert done.returncode == 1
    assert "out of memory" in done.stderr


def test_what_was_never_started_says_how_to(bundle: Path, edgebench: Any) -> None:
    done = edgebench("collect", bundle)
    assert (done.returncode, done.stdout) == (1, "")
    assert "was not started on a device yet: it has no facts.txt" in done.stderr
    assert "start.sh" in done.stderr


def test_what_is_no_bundle_is_told_as_such(tmp_path: Path, edgebench: Any) -> None:
    (tmp_path / "empty").mkdir()
    for name in ("empty", "nowhere"):
        done = edgebench("collect", name)
        assert (done.returncode, done.stdout) == (1, "")
        assert f"{name} is no bundle: it has no plan.json" in done.stderr
    assert edgebench("collect").returncode == 2
    assert edgebench("collect", "empty", "--device", "pixel8").returncode == 2


ESCAPES = ["..", ".", "../../x", "/etc", "a/b", "", "a\x00b", "x" * 300, 5, None, ["a"]]


def damages(told: dict[str, Any]) -> dict[str, Any]:
    """Name -> the text of a plan.json that was changed on its way."""
    job = told["jobs"][0]
    whole = json.dumps(told)
    found = {
        "cut": whole[: len(whole) // 2],
        "empty": "",
        "list": "[]",
        "null": "null",
        "deep": "[" * 100_000,
        "version": json.dumps(told | {"format": "edgebench-bundle 2"}),
        "unknown field": json.dumps(told | {"requests": [{"colour": "red"}]}),
        "other requests": json.dumps(told | {"requests": [3]}),
        "a server": json.dumps(told | {"requests": [{**told["requests"][0], "server": "http://a.b"}]}),
        "no jobs": json.dumps({key: value for key, value in told.items() if key != "jobs"}),
        "no meter": json.dumps({key: value for key, value in told.items() if key != "meter"}),
        "meter": json.dumps(told | {"meter": ["rails"]}),
        "threads": json.dumps(told | {"n_threads": "many"}),
        "jobs": json.dumps(told | {"jobs": "all"}),
    }
    found |= {f"batch {i}": json.dumps(told | {"batch": name}) for i, name in enumerate(ESCAPES)}
    return found | {
        f"job {i}": json.dumps(told | {"jobs": [job | {"name": name}]}) for i, name in enumerate(ESCAPES)
    }


def test_a_plan_that_was_changed_on_its_way_is_refused_in_a_line(back: Path, bare: Any, collect: Any) -> None:
    for name, text in damages(plan_of(back)).items():
        (back / "plan.json").write_text(text)
        with pytest.raises(DeviceError) as caught:
            collect(back)
        assert caught.value.message.endswith("plan.json can't be read"), name
        assert caught.value.hint == "it is of another version, or damaged"
    assert bare.store.runs() == []


def test_a_job_that_was_changed_on_its_way_is_refused(back: Path, collect: Any) -> None:
    told = plan_of(back)
    plan_of(back, jobs=[told["jobs"][0] | {"round_index": "first"}])
    with pytest.raises(DeviceError, match="not as it was written"):
        collect(back)


def test_what_this_version_would_not_ask_is_told_and_not_stored(back: Path, bare: Any, collect: Any) -> None:
    told = plan_of(back)
    plan_of(back, jobs=[told["jobs"][0] | {"config_sha256": "0" * 64}])
    assert collect(back) == []
    assert any("1 jobs are not what this version asks" in line for line in bare.ear.said)


def test_links_that_a_device_left_are_not_followed(back: Path, tmp_path: Path, collect: Any) -> None:
    (out,) = back.glob("batches/*/jobs/*/out.jsonl")
    out.rename(tmp_path / "elsewhere.jsonl")
    out.symlink_to(tmp_path / "elsewhere.jsonl")
    with pytest.raises(RunFailed, match=r"out\.jsonl is damaged"):
        collect(back)


@pytest.mark.parametrize("text", ["", "now\n", "1 2 3", "\x00"])
def test_without_a_clock_stamps_begin_with_the_first(back: Path, collect: Any, text: str) -> None:
    (back / "clock.txt").write_text(text)
    assert {row["started_s"] for row in collect(back)} == {0.0}


@pytest.mark.slow
def test_a_bundle_runs_here_and_its_answers_come_back(
    smollm2: Path, native_program: Any, edgebench: Any, rows: Any, tmp_path: Path
) -> None:
    """The scripts are those for phones; this computer is a device without Android."""
    there = ("--target", native_program.target, "--level", native_program.level)
    what = ("--suite", "everyday", "--limit", "16", "-p", "0", "-n", "4", "--chat", "0", "-r", "2")
    done = edgebench("plan", "-m", smollm2, *what, "--rounds", "1", "-t", "2", *there, "--out", "bundle")
    assert done.returncode == 0, done.stderr
    subprocess.run(["sh", "bundle/start.sh", "wait"], cwd=tmp_path, check=True, timeout=300)
    assert (tmp_path / "bundle" / "done").exists(), (tmp_path / "bundle" / "errors").read_text()
    done = edgebench("collect", "bundle")
    assert done.returncode == 0, done.stderr
    database = tmp_path / "edgebench.sqlite"
    assert {row["status"] for row in rows(database, "SELECT status FROM run")} == {"complete"}
    trials = rows(database, "SELECT test, repetition FROM trial WHERE phase = 'measured'")
    assert {row["test"] for row in trials} == {"tg4"}
    assert len(trials) == len({row["repetition"] for row in trials}) >= 2
    assert len(rows(database, "SELECT DISTINCT question_id FROM answer")) >= 16

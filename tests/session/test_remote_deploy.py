"""What a host must have, what is put there, and how it is taken away again."""

import json
import shutil
import struct
import subprocess
import sys
import zipfile
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgebench.core.errors import DeviceError, EdgebenchError, SuiteError, UsageError
from edgebench.core.own_wheel import own_wheel
from edgebench.core.types import Permutation, Scorer
from edgebench.session_plan import Request
from edgebench.session_remote import execute_remote
from edgebench.session_remote_cargo import cargo_of
from edgebench.session_remote_deploy import deploy, find_board, platform_tags
from edgebench.session_remote_link import Link
from edgebench.session_remote_request import needs_llama, request_as_json, request_from_json


class Silent:
    """A watcher nobody looks at."""

    def say(self, line: str) -> None: ...

    def stage(self, title: str, n_steps: int, n_units: int | None = None) -> None: ...

    def step(self, note: str, n_steps: int = 1, n_units: int | None = None) -> None: ...


class Here:
    """This computer as a host whose PATH holds only what a test puts there."""

    name = "ssh:board"

    def __init__(self, tools: Path, home: Path) -> None:
        self._environment = {"PATH": str(tools), "HOME": str(home)}

    def run(self, argv: Any, *, given: bytes = b"", deadline_s: float = 60.0) -> str:
        done = subprocess.run(argv, env=self._environment, input=given, capture_output=True, check=True)
        return done.stdout.decode()


@pytest.fixture
def poor(tmp_path: Path) -> Any:
    """`poor(uname=…, python3=…)`: a link to a computer with just these programs, each a line of shell."""

    def make(**programs: str) -> Link:
        tools, home = tmp_path / "tools", tmp_path / "home"
        for folder in (tools, home):
            folder.mkdir()
        for name in ("sh", "mkdir", "ls"):
            (tools / name).symlink_to(shutil.which(name) or "")
        linux = {"uname": "[ $1 = -s ] && echo Linux || echo aarch64"}
        for name, line in {**linux, **programs}.items():
            (tools / name).write_text(f"#!/bin/sh\n{line}\n")
            (tools / name).chmod(0o755)
        return Link(Here(tools, home), Silent())  # type: ignore[arg-type]

    return make


OLD = 'echo "3 9 1 2.31 1"'
GOOD = 'echo "3 13 1 2.41 1"'


@pytest.mark.parametrize(
    ("programs", "told", "hint"),
    [
        ({}, "needs Python 3.11 or newer$", "sudo apt install python3"),
        ({"python3": OLD}, "needs Python 3.11 or newer; its newest is 3.9", "sudo apt install python3"),
        ({"python3": 'echo "3 12 1 2.39 0"'}, "can't make a virtual environment", "python3-venv"),
        ({"python3": 'echo "3 13 0 2.41 1"'}, "aarch64 with a 32-bit system", "64-bit system"),
        ({"python3": GOOD, "uname": "[ $1 = -s ] && echo Linux || echo riscv64"}, "is a riscv64", "64-bit"),
        ({"uname": "echo Darwin"}, "runs Darwin, not Linux", "only Linux"),
        ({"uname": ":"}, "not Linux", "only Linux"),
    ],
    ids=["none", "old", "no-venv", "32-bit", "riscv", "mac", "silent"],
)
def test_a_host_that_will_not_do_says_why_and_what_mends_it(poor, programs, told, hint):
    link = poor(**programs)
    with pytest.raises(DeviceError, match=told) as caught:
        deploy(link, find_board(link), Silent(), engine=False)
    assert hint in caught.value.hint


def test_the_newest_enough_python_is_found_behind_an_old_one(poor):
    link = poor(**{"python3": OLD, "python3.12": "exit 1", "python3.13": GOOD})
    board = find_board(link)
    assert (board.version, board.libc, board.machine) == ((3, 13), "2.41", "aarch64")
    assert board.python.endswith("/tools/python3.13")
    assert board.root.endswith("/home/.cache/edgebench-host")


def test_wheels_for_a_host_are_those_its_libc_can_load():
    assert platform_tags("aarch64", "2.19") == [
        *("manylinux_2_19_aarch64", "manylinux_2_18_aarch64", "manylinux_2_17_aarch64"),
        *("manylinux2014_aarch64", "linux_aarch64"),
    ]
    assert platform_tags("x86_64", "-")[0] == "manylinux_2_17_x86_64"


def test_the_wheel_is_this_very_edgebench():
    name, content = own_wheel()
    assert own_wheel() == (name, content)
    with zipfile.ZipFile(BytesIO(content)) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        here = Path(sys.modules["edgebench.session_remote_deploy"].__file__)
        assert archive.read("edgebench/session_remote_deploy.py") == here.read_bytes()
    assert len(set(names)) == len(names)
    for wanted in ("devices/ssh.py", "results/merge.py", "core/environments/export.txt", "py.typed"):
        assert f"edgebench/{wanted}" in names
    assert not [name for name in names if "__pycache__" in name or name.endswith(".pyc")]


REQUESTS = st.builds(
    Request,
    models=st.tuples(st.text(max_size=8), st.text(max_size=8)),
    quants=st.sampled_from([(), ("q8_0", "q4_0")]),
    scorer=st.none() | st.sampled_from(Scorer),
    permutation=st.sampled_from(Permutation),
    data=st.none() | st.just(Path("/some/where")),
    target_ci=st.none() | st.floats(0.01, 0.4),
    n_prompt=st.lists(st.integers(0, 9), max_size=3).map(tuple),
    n_threads=st.none() | st.integers(1, 64),
    mmap=st.booleans(),
)


@given(request=REQUESTS)
def test_a_request_arrives_as_it_was_asked(request):
    assert request_from_json(json.loads(json.dumps(request_as_json(request)))) == request


@pytest.mark.parametrize(
    "told", [{"nonsense": 1}, {"scorer": "guess"}, {"n_prompt": 3}, {"data": 5}, {"permutation": None}]
)
def test_what_is_no_request_is_refused(told):
    with pytest.raises(UsageError, match="request"):
        request_from_json(told)


@pytest.mark.parametrize(
    ("more", "needed"),
    [
        ({"models": ("a.gguf",)}, True),
        ({"models": ("a.gguf",), "runner": "llama_server"}, False),
        ({"models": ("folder",)}, False),
        ({"models": ("folder",), "runner": "llama_cpp"}, True),
    ],
)
def test_the_engine_is_brought_where_it_is_needed(more, needed):
    assert needs_llama(Request(**more)) is needed


@pytest.fixture
def board(ssh_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("HOME", str(ssh_server.home))
    monkeypatch.setenv("EDGEBENCH_HOST_DIR", str(ssh_server.board / tmp_path.name))
    monkeypatch.setenv("EDGEBENCH_HOST_PYTHON", sys.executable)
    ssh_server.root = ssh_server.board / tmp_path.name
    return ssh_server


def test_a_folder_of_somebody_else_is_left_alone(board, toy, edgebench):
    board.root.mkdir()
    (board.root / "thesis.tex").write_text("mine")
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root)}
    for words in (
        ("run", "--device", board.device, "-m", toy()),
        ("devices", "clean", board.device, "--yes"),
    ):
        done = edgebench(*words, env=surroundings)
        assert done.returncode == 1
        assert "was not made by edgebench" in done.stderr
    assert [path.name for path in board.root.iterdir()] == ["thesis.tex"]


def test_clean_removes_everything_and_asks_first(board, edgebench):
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root), "EDGEBENCH_HOST_PYTHON": sys.executable}
    told = edgebench("devices", "probe", "--device", board.device, "-o", "json", env=surroundings)
    assert told.returncode == 0, told.stderr
    assert {row["source"] for row in json.loads(told.stdout)["meters"]} >= {"rapl", "battery"}
    assert board.root.is_dir()
    asked = edgebench("devices", "clean", board.device, env=surroundings)
    assert asked.returncode == 1
    assert f"remove {board.root} on {board.device} (" in asked.stderr
    assert board.root.is_dir()
    cleaned = edgebench("devices", "clean", board.device, "--yes", env=surroundings)
    assert cleaned.returncode == 0, cleaned.stderr
    assert not board.root.exists()
    again = edgebench("devices", "clean", board.device, "--yes", env=surroundings)
    assert "nothing of edgebench" in again.stderr


def test_another_version_there_is_refused(board, edgebench, toy, tmp_path):
    liar = tmp_path / "python"
    liar.write_text('#!/bin/sh\necho \'{"version": "0.0.1"}\'\n')
    liar.chmod(0o755)
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root), "EDGEBENCH_HOST_PYTHON": str(liar)}
    done = edgebench("run", "--device", board.device, "-m", toy(), env=surroundings)
    assert done.returncode == 1
    assert f"{liar} has edgebench 0.0.1" in done.stderr


@pytest.mark.parametrize(
    ("named", "told", "hint"),
    [
        ({"EDGEBENCH_HOST_DIR": "/proc/nothing"}, "/proc/nothing", "EDGEBENCH_HOST_DIR"),
        ({"EDGEBENCH_HOST_PYTHON": "/nowhere/python"}, "/nowhere/python", "EDGEBENCH_HOST_PYTHON"),
        ({"EDGEBENCH_HOST_PATIENCE": "soon"}, "'soon', not a number", None),
    ],
)
def test_a_wrong_variable_is_named(board, toy, monkeypatch, named, told, hint):
    for name, value in named.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(EdgebenchError, match=told) as caught:
        execute_remote([Request(device=board.device, models=(str(toy()),))], None, Silent())  # type: ignore[arg-type]
    assert hint is None or hint in caught.value.hint


def test_what_does_not_fit_is_not_begun(board, toy, edgebench):
    board.root.mkdir()
    if not board.small_disk(board.root):
        pytest.skip("a small disk can't be mounted here: that needs root")
    surroundings = {"EDGEBENCH_HOST_DIR": str(board.root), "EDGEBENCH_HOST_PYTHON": sys.executable}
    done = edgebench("run", "--device", board.device, "-m", toy(), env=surroundings)
    assert done.returncode == 1, done.stdout
    assert f"free in {board.root}; the files to measure take" in done.stderr
    assert "EDGEBENCH_HOST_DIR" in done.stderr
    assert "sending" not in done.stderr


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A folder of safetensors, as small as one can be."""
    folder = tmp_path / "tiny-f32"
    folder.mkdir()
    config = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "num_hidden_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "tokenizer.json").write_text("{}")
    names = ("model.embed_tokens.weight", "model.layers.0.mlp.up_proj.weight")
    places = {
        name: {"dtype": "F32", "shape": [2, 1], "data_offsets": [8 * i, 8 * i + 8]}
        for i, name in enumerate(names)
    }
    head = json.dumps(places).encode()
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(head)) + head + bytes(16))
    return folder


def test_a_folder_goes_file_by_file_with_what_is_known_of_it(tmp_path, checkpoint):
    request = Request(device="ssh:b", models=(str(checkpoint),), mode="performance", data=tmp_path)
    cargo = cargo_of(request, "/there", Silent())
    [model] = cargo.request.models
    assert model.startswith("/there/models/")
    assert model.endswith("/tiny-f32")  # from which the host reads the same name
    assert {f.target.removeprefix(model) for f in cargo.files} == {
        "/config.json",
        "/model.safetensors",
        "/tokenizer.json",
    }
    assert [where for where, _ in cargo.manifests] == [f"{model}.manifest.json"]
    assert (cargo.request.device, cargo.request.data) == ("local", None)


def test_a_suite_of_ones_own_is_not_sent(toy, tmp_path):
    own = tmp_path / "mine.toml"
    shutil.copy(Path(sys.modules["edgebench"].__path__[0]) / "suites/data/everyday.toml", own)
    with pytest.raises(SuiteError, match="hosts know the built-in ones only"):
        cargo_of(Request(device="ssh:b", models=(str(toy()),), suites=(str(own),)), "/there", Silent())

import subprocess
import sys
from pathlib import Path

import pytest

from edgebench.core.errors import EdgebenchError
from edgebench.core.paths import CACHE_PARTS, atomic_path, cache_dir, cache_part, exclusive, free_bytes


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def interrupted(path: Path) -> None:
    """Somebody who is stopped in the middle of the work."""
    path.mkdir(parents=True) if path.name == "below" else path.write_text("half")
    raise KeyboardInterrupt


def test_cache_is_where_the_variable_says_and_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EDGEBENCH_CACHE", "here/it is")
    assert cache_dir() == tmp_path / "here" / "it is"
    assert cache_dir().is_dir()


def test_cache_is_the_users_without_the_variable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEBENCH_CACHE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir().is_relative_to(tmp_path)


def test_cache_that_cannot_be_made_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path / "file" / "below"))
    with pytest.raises(EdgebenchError, match="can't be made") as caught:
        cache_dir()
    assert "EDGEBENCH_CACHE" in (caught.value.hint or "")


def test_parts_are_made_on_demand_and_others_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEBENCH_CACHE", str(tmp_path))
    assert [cache_part(name).is_dir() for name in CACHE_PARTS] == [True] * len(CACHE_PARTS)
    with pytest.raises(ValueError, match=r"'\.\./models'"):
        cache_part("../models")


def test_free_bytes_of_a_folder_that_is_not_made_yet(tmp_path: Path) -> None:
    assert free_bytes(tmp_path / "not" / "yet") > 0


def test_file_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    target = tmp_path / "new" / "front.png"
    with atomic_path(target) as part:
        part.write_text("whole")
        assert part.parent == target.parent
        assert part.suffix == ".png"
        assert not target.exists()
    assert target.read_text() == "whole"
    assert names(target.parent) == ["front.png"]


def test_folder_appears_only_when_it_is_whole(tmp_path: Path) -> None:
    with atomic_path(tmp_path / "tree") as part:
        (part / "below").mkdir(parents=True)
    assert (tmp_path / "tree" / "below").is_dir()
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "other") as part:
        interrupted(part / "below")
    assert names(tmp_path) == ["tree"]


def test_failure_keeps_the_old_file_and_leaves_nothing(tmp_path: Path) -> None:
    target = tmp_path / "file"
    target.write_text("old")
    with pytest.raises(KeyboardInterrupt), atomic_path(target) as part:
        interrupted(part)
    assert target.read_text() == "old"
    assert names(tmp_path) == ["file"]


HOLD = """
import sys
from pathlib import Path
from edgebench.core.paths import exclusive
with exclusive(Path(sys.argv[1]), print):
    print("mine", flush=True)
    sys.stdin.read(1)
    Path(sys.argv[1]).write_text("made by the first")
"""


def test_second_process_waits_for_the_first_and_says_so(tmp_path: Path) -> None:
    target = tmp_path / "wheel"
    command = [sys.executable, "-c", HOLD, str(target)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as first:
        assert first.stdin is not None
        assert first.stdout is not None
        assert first.stdout.readline() == "mine\n"
        said: list[str] = []

        def say(line: str) -> None:
            said.append(line)
            assert first.stdin is not None
            first.stdin.write("x")  # only now the first may finish
            first.stdin.flush()

        with exclusive(target, say):
            assert target.read_text() == "made by the first"
    assert said == ["another process is making wheel: waiting for it"]


def test_lock_ends_with_its_holder(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), exclusive(tmp_path / "wheel", print):
        raise RuntimeError
    said: list[str] = []
    with exclusive(tmp_path / "wheel", said.append):
        assert said == []

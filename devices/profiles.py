"""Device profiles: small TOML files of facts with sources. Unknown facts stay empty."""

import tomllib
from pathlib import Path

from edgebench.core.errors import nearest
from edgebench.core.types import DeviceProfile
from edgebench.devices.local import local_device

_FOLDER = Path(__file__).parent / "profiles"


def profile_names() -> list[str]:
    """Ids of all profiles this version knows."""
    return sorted(path.stem for path in _FOLDER.glob("*.toml"))


def find_profile(name: str) -> DeviceProfile:
    """A profile by id; `local` (and `auto`, its only candidate so far) is this computer, read now.

    The local profile can also be named by the id its facts make, as stored databases show it.
    """
    local = local_device()
    if name in ("local", "auto", local.id):
        return local
    if name not in profile_names():
        raise nearest(name, [*profile_names(), "auto"], kind="device")
    raw = tomllib.loads((_FOLDER / f"{name}.toml").read_text(encoding="utf-8"))
    return DeviceProfile(id=raw["id"], name=raw["name"], kind=raw["kind"], transport=raw["transport"])

"""The profiles of the containers. For example, PROFILE=tls adds `compose.tls.yaml` to `compose.yaml`.

Owns the names of the profiles, the order of their files, the services that they add, and which profiles
cannot be combined.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Final

from core.errors import SettingsError

REPLICA: Final = "replica"

SERVICES: Final[Mapping[str, tuple[str, ...]]] = MappingProxyType(
    {
        REPLICA: ("replica",),
        "pooler": ("pooler",),
        "scale": ("haproxy",),
        "sentinel": ("redis-replica", "sentinel-1", "sentinel-2", "sentinel-3"),
        "tls": (),
        "dev": (),
    }
)
"""The services that each profile adds. The profiles' files are passed to compose in this order."""

_PLAIN: Final = frozenset({REPLICA, "pooler", "sentinel"})
"""The profiles that cannot be combined with `tls`, because their servers have no certificate."""

*_FIRST, _LAST = SERVICES
FORM: Final = f"one or several of {', '.join(_FIRST)} and {_LAST}, with commas between them"


def check_profiles(text: str) -> str:
    """Return the value of PROFILE unchanged. Raises `ValueError` if it names an unknown profile."""
    unknown = set(_split(text)) - SERVICES.keys()
    if unknown:
        raise ValueError(f"there is no profile {min(unknown)}")
    return text


def list_profiles(variables: Mapping[str, str]) -> tuple[str, ...]:
    """Return the profiles that PROFILE and REPLICAS choose, in the order of their files."""
    chosen = set(_split(variables.get("PROFILE", "")))
    if int(variables.get("REPLICAS") or 0):
        chosen.add(REPLICA)
    return tuple(name for name in SERVICES if name in chosen)


def check_combination(profiles: Iterable[str]) -> None:
    """Raise `SettingsError` if these profiles cannot be combined."""
    chosen = set(profiles)
    plain = sorted(_PLAIN & chosen)
    if "tls" in chosen and plain:
        raise SettingsError(
            f"PROFILE=tls does not go together with {', '.join(plain)}, whose servers have no certificates;"
            " leave one of them out"
        )


def separate_replica(profile: str) -> tuple[str, bool]:
    """Return the value of PROFILE without `replica`, and whether it contained `replica`."""
    names = _split(profile)
    return ",".join(name for name in names if name != REPLICA), REPLICA in names


def list_files(root: Path, profiles: Iterable[str]) -> list[Path]:
    """Return the paths of `compose.yaml` and of the profiles' files, in the order that compose needs."""
    return [root / "compose.yaml", *(root / f"compose.{name}.yaml" for name in profiles)]


def _split(text: str) -> tuple[str, ...]:
    return tuple(name for name in re.split(" *, *", text.strip()) if name)

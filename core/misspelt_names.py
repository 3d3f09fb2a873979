"""Names that are almost those of settings.

Owns how alike two names have to be. Reads no environment and raises nothing.
"""

import re
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches

# One letter of ten that is missing, doubled, wrong or in another place: DATABSE_URL, but not REDIS_HOST.
ALIKE = 0.9
# For a name that is wrong anyway, and may just have no setting that it could mean.
SIMILAR = 0.6


def find_closest(name: str, known: Collection[str], *, likeness: float = SIMILAR) -> str | None:
    """Return the known name that is most like `name`, or None when none is like it."""
    return next(iter(get_close_matches(name, known, n=1, cutoff=likeness)), None)


def find_misspelt(names: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """Return those of `names` that nobody knows and that are almost a known name, with that name."""
    found: dict[str, str] = {}
    for name in names:
        closest = None if name in known else find_closest(name, known, likeness=ALIKE)
        if closest is not None and not _is_deliberate(name, closest):
            found[name] = closest
    return found


def _is_deliberate(name: str, known: str) -> bool:
    """Say whether a name says of itself that it is another one, such as DATABASE_URL_2 or OLD_REDIS_URL."""
    return re.fullmatch(rf"(\w+_)?{re.escape(known)}(_\w+|\d+)?", name) is not None

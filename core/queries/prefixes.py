"""How names are found by what they begin with, in any case.

Case is folded by PostgreSQL on both sides: Python's `lower` gives other letters for some names
(a final sigma, the dotted I). In some locales PostgreSQL's own depends on the place of a letter:
a capital sigma becomes another small letter at the end of a word, and the end of a prefix is not
that of the name.
"""

import re
from typing import NamedTuple

_SIGMAS = "\u03a3\u03c3\u03c2"
_FINAL, _SMALL = "\u03c2", "\u03c3"
_CONDITION = re.compile(r"lower\((?P<column>[a-z.]+)\) LIKE lower\(%\(pattern\)s\)")


class Prefix(NamedTuple):
    """A prefix for statements: `pattern` is a pattern of LIKE, which `exact` refines."""

    pattern: str
    exact: str

    @property
    def parameters(self) -> dict[str, str]:
        """The parameters that a statement needs."""
        return self._asdict()

    def refine(self, statement: str) -> str:
        """Return a statement whose conditions hold for this prefix; but for a sigma it is the same."""
        if self.pattern == self.exact:
            return statement
        return _CONDITION.sub(_refine, statement)


def build_prefix(text: str) -> Prefix:
    """Return what finds the names that begin with a text."""
    exact = text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_") + "%"
    # what stands before it finds the range of the index; at the beginning it is always the same letter
    pattern = exact[:1] + re.sub(f"[{_SIGMAS}]", "_", exact[1:])
    return Prefix(pattern, exact)


def match_prefix(column: str) -> str:
    """Return the condition on a column, which its index on `lower(column)` answers."""
    return f"lower({column}) LIKE lower(%(pattern)s)"


def _refine(condition: re.Match[str]) -> str:
    name, wanted = (
        f"translate(lower({text}), '{_FINAL}', '{_SMALL}')" for text in (condition["column"], "%(exact)s")
    )
    return f"{condition[0]} AND {name} LIKE {wanted}"

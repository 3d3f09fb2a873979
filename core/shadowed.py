"""Finds out whether `import core` finds this package, or another project's package of the same name.

Callers load this file by its path (`runpy.run_path`): an import by name would look in the other package. For
the same reason, it imports no module of this project.
"""

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

OWN = Path(__file__).resolve().parent
WRONG_SETTING = 2


def find_shadow() -> str | None:
    """Return the path of the package that `import core` finds, or None if that is this package.

    If it finds nothing, or a module without a file, returns a description such as "not on the path".
    """
    module = sys.modules.get("core")
    spec = getattr(module, "__spec__", None) if module else find_spec("core")
    if spec is None:
        return (
            "not on the path"
            if module is None
            else str(getattr(module, "__file__", "a module without a file"))
        )
    folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or ()]
    if folders == [OWN]:
        return None
    return str(spec.origin or ", ".join(map(str, folders)))


def describe(shadow: str) -> str:
    """Return the error message, which names both packages and the remedy."""
    return (
        f"`core` is {shadow}, not the package of Echo Markets in {OWN}: another project's package of that"
        " name comes first on the path; start this from another folder and without that project in"
        " PYTHONPATH, or rename the other package"
    )


def exit_when_shadowed() -> None:
    """Print an error line and exit, if `core` is another project's package."""
    shadow = find_shadow()
    if shadow is not None:
        _exit(shadow)


def refuse_shadow() -> None:
    """Raise `ImportError` if `core` is another project's package.

    Under `python -m`, print an error line and exit.
    """
    shadow = find_shadow()
    if shadow is None:
        return
    if sys.argv[:1] == ["-m"]:  # Python sets this while it looks for the module of `-m`
        _exit(shadow)
    raise ImportError(describe(shadow), name="core")


def _exit(shadow: str) -> NoReturn:
    sys.stderr.write(f"error: {describe(shadow)}\n")
    sys.exit(WRONG_SETTING)

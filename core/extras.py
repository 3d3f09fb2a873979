"""Which extras of the distribution are installed.

Owns what is said when one is missing. The parts of the stack that need an extra call
`require_extra` before they import anything from it.
"""

import sys
from importlib.util import find_spec

from core.errors import MissingExtra

# The modules that the stack imports from each extra of pyproject.toml; a test compares the two.
# `local` is missing: its programs are looked for where they are started.
MODULES = {
    "dashboard": ("numpy", "pandas", "pyarrow", "starlette", "streamlit", "uvicorn", "uvloop"),
    "exporter": ("bcrypt", "starlette", "uvicorn", "yaml"),
    "frames": ("pandas",),
    "simulation": ("numpy", "pyarrow"),
}


def require_extra(extra: str) -> None:
    """Raise `MissingExtra` unless every module of an extra can be imported.

    `python -m` of a package that calls this while it is imported ends with that one line.
    """
    missing = [name for name in MODULES[extra] if name not in sys.modules and find_spec(name) is None]
    if not missing:
        return
    error = MissingExtra(f"{', '.join(missing)} is missing; run: pip install 'echo-markets[{extra}]'")
    if sys.argv[:1] == ["-m"]:  # which Python documents for the time while it looks for the module
        sys.stderr.write(f"error: {error}\n")
        sys.exit(1)
    raise error

"""What is found by the name of the distribution: installed as the package `echo_markets`.

Owns the entry points, which must work where `import core` finds another project's package. Imports
nothing of the stack before it is known to be the stack.
"""

from pathlib import Path
from runpy import run_path


def call_shadowed(function: str) -> None:
    """Call a function of `core/shadowed.py`, by its place and not by its name."""
    here = Path(__file__).resolve().parent
    # an installed wheel has `core` beside this package, a checkout around it
    own = here.with_name("core") if here.with_name("core").is_dir() else here.parent
    run_path(str(own / "shadowed.py"))[function]()

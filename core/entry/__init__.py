"""The entry points of the distribution, installed as the package `echo_markets`.

Before an entry point imports any other module of this project, it checks whether `import core` would find
another project's package. If so, it reports this.
"""

from pathlib import Path
from runpy import run_path


def main() -> None:
    """Run the command `echo-markets`. If `core` is another project's package, print one line instead."""
    call_shadowed("exit_when_shadowed")
    from core.cli import main as run_command_line

    run_command_line()


def call_shadowed(function: str) -> None:
    """Call a function of `core/shadowed.py`, and find this file by its path, not by its module name."""
    here = Path(__file__).resolve().parent
    # in an installed wheel `core` is beside this package; in a checkout this package is inside of `core`
    own = here.with_name("core") if here.with_name("core").is_dir() else here.parent
    run_path(str(own / "shadowed.py"))[function]()

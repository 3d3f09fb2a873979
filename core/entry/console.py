"""The command `echo-markets`."""

from pathlib import Path
from runpy import run_path


def main() -> None:
    """Run the command line, or say in one line why `core` is not ours."""
    here = Path(__file__).resolve().parent
    # an installed wheel has `core` beside this package, a checkout around it
    own = here.with_name("core") if here.with_name("core").is_dir() else here.parent
    run_path(str(own / "shadowed.py"))["exit_when_shadowed"]()
    from core.cli import main as run_command_line  # noqa: PLC0415  # not before it is known to be ours

    run_command_line()

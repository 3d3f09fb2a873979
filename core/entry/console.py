"""The command `echo-markets`."""

from . import call_shadowed


def main() -> None:
    """Run the command line, or say in one line why `core` is not ours."""
    call_shadowed("exit_when_shadowed")
    from core.cli import main as run_command_line

    run_command_line()

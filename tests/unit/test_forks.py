"""Methods that are called in a forked child process."""

import gc
import os
import subprocess
import sys

import pytest

from core import forks
from core.forks import call_in_forked_child


class Owner:
    """An object whose `reset` is called in a forked child."""

    def __init__(self, name: str, calls: list[str]) -> None:
        self._name = name
        self._calls = calls
        call_in_forked_child(self.reset)

    def reset(self) -> None:
        """Record the call."""
        self._calls.append(self._name)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
@pytest.mark.filterwarnings("ignore:This process:DeprecationWarning")
def test_a_child_resets_living_objects_in_order() -> None:
    """A child calls the methods in the order of registration, but not those of deleted objects."""
    calls: list[str] = []
    owners = [Owner(name, calls) for name in ("first", "second", "third")]
    del owners[1]
    gc.collect()
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(writer, " ".join(calls).encode())
        os._exit(0)
    os.waitpid(child, 0)
    assert os.read(reader, 100) == b"first third"
    assert calls == []
    os.close(reader)
    os.close(writer)


def test_a_program_that_ends_prints_nothing() -> None:
    """An object that is destroyed while the interpreter exits causes no traceback."""
    lines = ("from tests.unit.test_forks import Owner", "owner = Owner('last', [])", "owner.cycle = owner")
    program = "\n".join((*lines, "print('end')"))
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.stderr) == ("end\n", "")


def test_deleted_objects_are_not_registered() -> None:
    """The methods of deleted objects are removed, so forks do not become slower with each service opened."""
    gc.collect()
    before = len(forks._methods)
    for _ in range(100):
        Owner("short-lived", [])
    gc.collect()
    assert len(forks._methods) == before

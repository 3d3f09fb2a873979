"""Forks child processes of the test process, like a program that opens the service before it forks."""

import json
import multiprocessing
import os
import signal
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

ANSWER_SECONDS = 60.0


class Child:
    """A forked process that runs commands by name until `end`."""

    def __init__(self, commands: Mapping[str, Callable[[], Any]]) -> None:
        self._pipe, end = multiprocessing.Pipe()
        self.pid = os.fork()
        if self.pid == 0:
            self._pipe.close()
            try:
                _serve(end, commands)
            finally:
                os._exit(0)
        end.close()

    def ask(self, name: str) -> Any:
        """Run a command in the child and return its result; raise `AssertionError` if the command failed."""
        self._pipe.send(name)
        if not self._pipe.poll(ANSWER_SECONDS):
            raise AssertionError(f"the child did not answer {name}")
        is_good, answer = json.loads(self._pipe.recv())
        if not is_good:
            raise AssertionError(answer)
        return answer

    def end(self, *, signal_number: int = 0) -> None:
        """End the child with a signal, or without one let it exit, and wait until the process has ended."""
        if signal_number:
            os.kill(self.pid, signal_number)
        self._pipe.close()
        os.waitpid(self.pid, 0)


def _serve(pipe: Any, commands: Mapping[str, Callable[[], Any]]) -> None:
    while True:
        try:
            name = pipe.recv()
        except EOFError:
            return
        try:
            answer = json.dumps([True, commands[name]()])
        except BaseException as error:
            answer = json.dumps([False, f"{type(error).__name__}: {error}"])
        pipe.send(answer)


@contextmanager
def forked(**commands: Callable[[], Any]) -> Iterator[Child]:
    """Fork a child that runs these commands; end it at the end of the block."""
    child = Child(commands)
    try:
        yield child
    finally:
        child.end(signal_number=signal.SIGKILL)


def ask_child(work: Callable[[], Any]) -> Any:
    """Run `work` in a forked child; return its result, or the class name of the error that it raises."""

    def answer() -> Any:
        try:
            return work()
        except BaseException as error:
            return type(error).__name__

    with forked(work=answer) as child:
        return child.ask("work")

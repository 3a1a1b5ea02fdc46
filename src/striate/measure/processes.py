"""Runs contestants in separate processes: what one changes in the allocator, in threads or in torch's settings does not
affect another.
"""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, TypeVar

__all__ = ["LineWorker", "Worker", "in_a_process", "run_python"]

T = TypeVar("T")
Contestant = Callable[..., Generator[Any, Any, None]]


def _serve(pipe: Connection, contestant: Contestant, arguments: tuple[Any, ...]) -> None:
    """Runs in the child: sends what the generator yields, and passes each question to it."""
    answers = contestant(*arguments)
    pipe.send(next(answers))
    while True:
        try:
            pipe.send(answers.send(pipe.recv()))
        except (StopIteration, EOFError):
            return


class Worker:
    """A generator that runs in a separate process, which is spawned: it inherits nothing.

    ``first`` is what the generator yields when it is ready; :meth:`ask` sends it a question and waits for what it
    yields next. Function and arguments have to be picklable.
    """

    def __init__(self, name: str, contestant: Contestant, *arguments: Any) -> None:
        context = multiprocessing.get_context("spawn")
        self.name = name
        self._pipe, child = context.Pipe()
        self._process = context.Process(target=_serve, args=(child, contestant, arguments), daemon=True)
        self._process.start()
        child.close()  # otherwise the end of the process would go unnoticed
        self.first: Any = self._receive()

    def ask(self, question: Any) -> Any:
        """Sends a question and returns the answer. Raises ChildProcessError if the process has ended."""
        with suppress(BrokenPipeError):  # _receive notices that the process has ended
            self._pipe.send(question)
        return self._receive()

    def _receive(self) -> Any:
        try:
            return self._pipe.recv()
        except (EOFError, ConnectionResetError):
            message = f"{self.name} ended before it was asked to: its message stands above"
            raise ChildProcessError(message) from None

    def stop(self) -> None:
        """Waits for the process to end; it must have answered its last question."""
        self._pipe.close()
        self._process.join()

    def kill(self) -> None:
        self._process.kill()
        self._process.join()


def _once(function: Callable[..., T], arguments: tuple[Any, ...]) -> Generator[T, Any, None]:
    yield function(*arguments)


def in_a_process(function: Callable[..., T], *arguments: Any) -> T:
    """Calls a function in a separate process and returns its result. All three, function, arguments and result, have to
    be picklable.

    Raises ChildProcessError if it raises there.
    """
    worker = Worker(getattr(function, "__name__", "the process"), _once, function, arguments)
    worker.stop()
    answer: T = worker.first
    return answer


def run_python(*arguments: str, without: Sequence[str] = ()) -> str:
    """Runs this Python with these arguments and returns what it prints; without: environment variables to remove.

    Raises subprocess.CalledProcessError if it fails.

    >>> run_python("-c", "print(6 * 7)")
    '42\\n'
    """
    environment = {name: value for name, value in os.environ.items() if name not in without}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout


class LineWorker:
    """A command that answers each line of input with a line of output, for contestants that run in another Python."""

    def __init__(self, *command: str) -> None:
        self.name = command[0]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line: str) -> str:
        """Sends a line and returns the answer. Raises ChildProcessError if the command has ended."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            self._process.stdin.write(line + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            answer = ""
        else:
            answer = self._process.stdout.readline()
        if not answer:
            raise ChildProcessError(f"{self.name} ended before it was asked to: its message stands above")
        return answer.rstrip("\n")

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

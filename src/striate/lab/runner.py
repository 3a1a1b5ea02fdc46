"""Runs experiments: trials in processes of one thread each, several at once, and no trial twice."""

from __future__ import annotations

import queue
import signal
import threading
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from ..errors import ArgumentError, build, describe_error
from ..measure import Worker
from ..random_states import seeded
from . import images
from .claim import QUICK_SHARE, Claim, Trial
from .fingerprint import machine
from .store import Store
from .verdict import Outcome, Result

__all__ = ["Progress", "check", "run_claims", "run_trial"]

Task = tuple[Claim, int]
Tasks = queue.SimpleQueue[Task | None]
Measured = tuple[Claim, Outcome]


@dataclass(frozen=True)
class Progress:
    """How far a run is: trials that are done, of how many, the seconds that are left, and the name of the experiment
    whose trial was done last.
    """

    done: int
    of: int
    seconds_left: float
    name: str


def check(claims: Sequence[Claim], data: str | None, model: str | None) -> None:
    """Raises ArgumentError where a claim does not take data or a model of one's own, and what opening either raises."""
    for what, given in (("data", data), ("model", model)):
        refusing = [claim.name for claim in claims if what not in claim.takes] if given is not None else []
        if refusing:
            hint = "striate lab list says which do."
            raise ArgumentError(build("lab", f"experiments that take one's own {what}", refusing[0], hint=hint))
    if data is not None:
        images.load(data, 0, 8)
    if model is not None:
        Trial(seed=0, data=data, model=model).network(torch.nn.Identity)


def run_trial(claim: Claim, trial: Trial) -> Outcome:
    """Measures one trial. The random generators begin at its seed; what it raises becomes the outcome's error.

    >>> from striate.lab.claim import Claim
    >>> claim = Claim("a", "A is 0.", "1", "notes", "holds", "None.", {"a": "a number"}, "a < 1",
    ...               lambda trial: {"a": 1 / trial.seed}, "", seconds=1)
    >>> run_trial(claim, Trial(seed=2)).values, run_trial(claim, Trial(seed=0)).error
    ({'a': 0.5}, 'ZeroDivisionError: division by zero')
    """
    begun = time.process_time()  # on a busy machine the clock on the wall tells of others
    try:
        with seeded(trial.seed):
            values = {name: float(value) for name, value in claim.measure(trial).items()}
    except Exception as error:  # an experiment that fails must not end the others
        return Outcome(trial.seed, seconds=time.process_time() - begun, error=describe_error(error))
    if set(values) != set(claim.statistics):
        gave, named = (", ".join(sorted(names)) or "nothing" for names in (values, claim.statistics))
        said = f"measure gave {gave}, and statistics has {named}"
        return Outcome(trial.seed, seconds=time.process_time() - begun, error=said)
    return Outcome(trial.seed, values, dict(trial.kept), time.process_time() - begun)


def run_claims(
    claims: Sequence[Claim],
    store: Store,
    *,
    again: bool = False,
    processes: int | None = None,
    on_progress: Callable[[Progress], None] = lambda progress: None,
    on_result: Callable[[Result], None] = lambda result: None,
) -> list[Result]:
    """Runs all seeds of some claims, and returns their results in the order of the claims.

    store: where what was measured lies, and is looked for first unless ``again``; its settings are those of all
    trials. processes: at once, each of one thread; None for as many as torch takes threads. on_progress: called
    after each trial; on_result: after the last one of a claim, in the order in which they end.

    What a stopped run had measured is in the store: the same call goes on there. A trial whose process ends, as for
    want of memory, has that as its error.
    """
    run = _Run(claims, store, on_progress, on_result)
    todo = run.begin(again)
    workers = min(len(todo), processes or torch.get_num_threads())
    run.work(todo, workers)
    return [run.results[claim.name] for claim in claims]


class _Run:
    """Which trials are done, and what is left of the time."""

    def __init__(
        self,
        claims: Sequence[Claim],
        store: Store,
        on_progress: Callable[[Progress], None],
        on_result: Callable[[Result], None],
    ) -> None:
        self.claims, self.store = claims, store
        self.on_progress, self.on_result = on_progress, on_result
        self.outcomes: dict[str, dict[int, Outcome]] = {claim.name: {} for claim in claims}
        self.results: dict[str, Result] = {}
        self.begun, self.expected = time.monotonic(), 0.0  # seconds that its trials so far were expected to take

    def begin(self, again: bool) -> list[Task]:
        """Takes what is in the store, and returns the other trials, those that take longest first: the last ones then
        end at nearly the same time.
        """
        todo = []
        for claim in self.claims:
            for seed in claim.seeds_of(self.store.quick):
                outcome = None if again else self.store.load(claim, seed)
                if outcome is None:
                    todo.append((claim, seed))
                else:
                    self.outcomes[claim.name][seed] = outcome
            self._conclude(claim)
        return sorted(todo, key=lambda task: -self._seconds(task[0]))

    def work(self, todo: Sequence[Task], workers: int) -> None:
        """Has trials measured by so many processes."""
        tasks: Tasks = queue.SimpleQueue()
        done: queue.SimpleQueue[Measured | BaseException] = queue.SimpleQueue()
        for task in (*todo, *(None,) * workers):
            tasks.put(task)
        pool = [_Process(self.store, tasks, done) for _ in range(workers)]
        try:
            for number in range(1, len(todo) + 1):
                measured = done.get()
                if isinstance(measured, BaseException):
                    raise measured
                self._note(*measured)
                self.on_progress(Progress(number, len(todo), self._seconds_left(todo), measured[0].name))
                self._conclude(measured[0])
        finally:
            for process in pool:
                process.end()

    def _note(self, claim: Claim, outcome: Outcome) -> None:
        self.outcomes[claim.name][outcome.seed] = outcome
        self.store.save(claim, outcome)
        self.expected += self._seconds(claim)

    def _conclude(self, claim: Claim) -> None:
        """Makes the result of a claim if its seeds are all measured."""
        outcomes, store = self.outcomes[claim.name], self.store
        if len(outcomes) == len(claim.seeds_of(store.quick)):
            ordered = [outcomes[seed] for seed in sorted(outcomes)]
            self.results[claim.name] = Result(claim, ordered, store.quick, store.data, store.model, machine())
            self.on_result(self.results[claim.name])

    def _seconds(self, claim: Claim) -> float:
        """What a trial is expected to take."""
        return claim.seconds / claim.seeds / (QUICK_SHARE if self.store.quick else 1)

    def _seconds_left(self, todo: Sequence[Task]) -> float:
        """What is expected of the trials that are left, times what passed over what was expected of those done."""
        left = sum(self._seconds(claim) for claim, seed in todo if seed not in self.outcomes[claim.name])
        return left * (time.monotonic() - self.begun) / self.expected


class _Process:
    """Takes trials from a queue and has a process of one thread measure them; if that ends, a new one goes on."""

    def __init__(self, store: Store, tasks: Tasks, done: queue.SimpleQueue[Measured | BaseException]) -> None:
        self.store, self.tasks, self.done = store, tasks, done
        self.worker: Worker | None = None
        self.is_ended = False
        threading.Thread(target=self._serve, daemon=True).start()

    def end(self) -> None:
        """Ends the process, whatever it does."""
        self.is_ended = True
        if self.worker is not None:
            self.worker.kill()

    def _serve(self) -> None:
        try:
            while (task := self.tasks.get()) is not None and not self.is_ended:
                self.done.put(self._measured(*task))
            if self.worker is not None:
                self.worker.stop()
        except BaseException as error:  # else the run would wait for ever
            self.done.put(error)

    def _measured(self, claim: Claim, seed: int) -> Measured:
        begun = time.monotonic()
        try:
            if self.worker is None:
                store = self.store
                self.worker = Worker(claim.name, _measure_all, store.quick, store.data, store.model)
            if self.is_ended:
                self.worker.kill()
            return claim, self.worker.ask((claim.measure.__module__, seed))
        except ChildProcessError:
            self.worker = None
            if self.is_ended:
                raise
            return claim, Outcome(seed, seconds=time.monotonic() - begun, error="its process ended")


def _measure_all(quick: bool, data: str | None, model: str | None) -> Generator[Any, Any, None]:
    """Runs in a process: measures trials as they are named, by the module of the claim and the seed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of a terminal: the first one ends all
    torch.set_num_threads(1)
    task = yield None
    while True:
        module, seed = task
        task = yield run_trial(import_module(module).CLAIM, Trial(seed, quick, data, model))

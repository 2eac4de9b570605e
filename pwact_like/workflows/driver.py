"""Drives one stage at a time: plan, dispatch, collect. There is no resume mode: a finished stage is skipped."""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from typing import Any, Protocol

from pwact_like.crashpoints import reach
from pwact_like.errors import BudgetExceededError, JobError, PwactLikeError
from pwact_like.jobs.signals import SIGNALS
from pwact_like.jobs.types import Judge, Task, TaskResult, TaskState
from pwact_like.stages.base import Stage

log = logging.getLogger(__name__)

PR_SET_PDEATHSIG = 1  # linux/prctl.h


class Dispatching(Protocol):
    """What the driver needs of a dispatcher."""

    def run(self, tasks: Sequence[Task], judge: Judge) -> Mapping[str, TaskResult]:
        """Run the tasks to their ends."""

    def dry_run(self, tasks: Sequence[Task]) -> Any:
        """Write every script, submit nothing."""


class DryRunDone(PwactLikeError):
    """A dry run has written the first stage that would submit."""

    exit_status = 0

    def __init__(self, stage: Stage, tasks: Sequence[Task]) -> None:
        self.stage_name = stage.name
        self.tasks = tuple(tasks)
        super().__init__(f"dry run: wrote {len(tasks)} tasks of the stage {stage.name!r}; submitted nothing")


class Driver:
    """Runs stages through a dispatcher.

    Parameters
    ----------
    dispatcher
        Takes the tasks.
    on_change
        Called when a stage begins or ends, with its name and "begun" or "finished".
    dry_run
        Stop, with DryRunDone, at the first stage that would submit.
    on_give_up
        Called with the failed tasks when their stage stops the workflow: the user mends the cause and starts again.
    """

    def __init__(
        self,
        dispatcher: Dispatching,
        on_change: Callable[[Stage, str], None],
        *,
        dry_run: bool = False,
        on_give_up: Callable[[Sequence[Task]], None] = lambda tasks: None,
    ) -> None:
        self._dispatcher = dispatcher
        self._on_change = on_change
        self._dry_run = dry_run
        self._on_give_up = on_give_up

    def __call__(self, stage: Stage) -> None:
        """Bring a stage to its end.

        Raises
        ------
        DryRunDone
            In a dry run, at the first stage that would submit.
        """
        if stage.finished:
            return
        self._on_change(stage, "begun")
        tasks = stage.plan()
        reach("stage-planned")
        if self._dry_run and tasks:
            self._dispatcher.dry_run(tasks)
            raise DryRunDone(stage, tasks)
        if tasks:
            log.info("%s: %d tasks", stage.name, len(tasks))
        results = self._dispatcher.run(tasks, stage.judge) if tasks else {}
        reach("collecting")
        try:
            stage.collect(results)
        except (BudgetExceededError, JobError):
            self._on_give_up([result.task for result in results.values() if result.state is TaskState.FAILED])
            raise
        self._on_change(stage, "finished")


def _begin_child(parent: int) -> None:
    # Ctrl-C, a terminal that is closed, and the end of a job reach every process; the master alone decides what ends
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    _end_with(parent)


def _end_with(parent: int) -> None:
    """Make this process end when its parent does, SIGKILL included: it would sleep for ever, with the parent's stdout open.

    What it was to write is written by rename, and its product has no manifest yet: nothing is half done by that. The system kills it
    where it can (Linux); everywhere a thread waits for the end of the pipe that only the parent holds open.
    """
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(ctypes.c_int(PR_SET_PDEATHSIG), ctypes.c_ulong(signal.SIGKILL))
    if os.getppid() != parent:  # it ended before that was asked for
        os._exit(1)
    threading.Thread(target=_wait_for_the_end_of, args=(multiprocessing.parent_process(),), name="parent", daemon=True).start()


def _wait_for_the_end_of(parent: Any) -> None:
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """A child that is started meanwhile begins with these signals blocked: none can end it before it ignores them."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    try:
        resource_tracker.ensure_running()  # starts a process, too, and unblocks two of them afterwards
        signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def fork(function: Callable[..., Any], *arguments: Any, beat: Callable[[], None] | None = None) -> Any:
    """Run a module-level function in a fresh child process, so that what it imports and reads leaves the master small.

    ``beat`` is called every second meanwhile. The child ends with the master, however that ends.

    Raises
    ------
    PwactLikeError
        Whatever the function raised, or when the child was killed (out of memory, most often).
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context, initializer=_begin_child, initargs=(os.getpid(),)) as pool:
        with _signals_held_back():
            future = pool.submit(function, *arguments)
        while not wait([future], timeout=1.0).done:
            if beat is not None:
                beat()
        try:
            return future.result()
        except BrokenProcessPool as error:
            raise PwactLikeError(
                f"the child process that ran {function.__name__} was killed; most often the login node's memory limit: "
                "start again on a machine with more memory, or label fewer frames at a time"
            ) from error

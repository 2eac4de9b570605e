"""A master's session in a folder: lock, journal, scheduler, dispatcher, signals, log, status snapshot."""

from __future__ import annotations

import functools
import json
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pwact_like.crashpoints import reach
from pwact_like.errors import InProgress, InputError, PwactLikeError, StopRequested
from pwact_like.jobs.choose import choose_scheduler
from pwact_like.jobs.clock import SystemClock
from pwact_like.jobs.dispatcher import Dispatcher
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.record import is_out_of_attempts
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import Task
from pwact_like.stages.base import Fork, Stage
from pwact_like.workflows.driver import Driver, DryRunDone, fork
from pwact_like.workflows.edits import Edits, Sources
from pwact_like.workflows.rewind_plan import refuse_half_rewound
from pwact_like.workflows.snapshot import Snapshot

if TYPE_CHECKING:
    from pwact_like.config.resource import Resource

WorkflowName = Literal["init_bulk", "run"]
STATE_DIR = ".pwact_like"

LOG_FILE_ONLY = {"log_file_only": True}
ANOTHER_ROUND = "another_round"  # in the journal: names of tasks

log = logging.getLogger(__name__)


@dataclass
class Session:
    """What a workflow works with.

    ``drive(stage)`` brings a stage to its end, ``fork`` runs a function in a child process, ``board`` is what status
    shows, ``edits`` knows whether the settings files were edited.
    """

    work_dir: Path
    state_dir: Path
    resource: Resource
    drive: Driver
    board: Snapshot
    fork: Fork
    stop: StopFlag
    dry_run: bool
    edits: Edits

    def command(self, section: Literal["train", "explore", "dft", "direct"]) -> str:
        """The user's command of a section, "" when resource.json or the section is absent."""
        settings = getattr(self.resource, section)
        return "" if settings is None else str(settings.command)


@contextmanager
def open_session(
    workflow: WorkflowName,
    loaded: Any,
    *,
    sources: Sources | None = None,
    dry_run: bool = False,
    once: bool = False,
    take_over: bool = False,
    echo: bool = True,
) -> Iterator[Session]:
    """Hold a folder, and publish how the session ended.

    Parameters
    ----------
    workflow
        Names the state folder and the log.
    loaded
        ``config.load.Loaded``.
    sources
        Where the settings came from: edits are shown and applied to what has not begun.
    dry_run
        Stop at the first stage that would submit.
    once
        Do what can be done now and do not wait for jobs.
    take_over
        Take the lock of a master on another machine.
    echo
        Log to the terminal as well.
    """
    param, resource = loaded.param, loaded.resource
    work_dir: Path = param.work_dir
    work_dir.mkdir(parents=True, exist_ok=True)
    state_dir = work_dir / STATE_DIR / workflow
    with ExitStack() as stack:
        lock = stack.enter_context(MasterLock(state_dir, take_over=take_over))
        refuse_half_rewound(state_dir)
        stack.enter_context(_logging(work_dir / f"{workflow}.log", echo=echo))
        stop = StopFlag()
        stack.callback(stop.close)
        stack.enter_context(stop.installed())
        journal = stack.enter_context(Journal(state_dir / "journal.sqlite", lock))
        scheduler = choose_scheduler(resource.scheduler, journal, state_dir, resource.slurm_timeout_s)
        dispatcher = Dispatcher(
            state_dir,
            work_dir,
            journal,
            scheduler,
            resource,
            getattr(param, "campaign", "init_bulk"),
            clock=SystemClock(),
            on_tick=lambda: tick(),
            stop=stop,
            once=once,
        )
        edits = Edits(None if dry_run else sources, loaded, state_dir)
        board = Snapshot(state_dir, workflow, getattr(param, "campaign", "init_bulk"), dispatcher.counts, notes=list(loaded.notes))
        board.job_rows, board.scheduler, board.silent = dispatcher.job_rows, scheduler.name, lambda: dispatcher.silent
        board.refusal = lambda: dispatcher.refusal

        def changed(stage: Stage, what: str) -> None:
            board.stage = stage.name
            if what == "begun":
                edits.stage_begins()
            else:
                edits.stage_ends()
            board.publish()
            log.info("%s %s", stage.name, what)
            stop.check()

        def tick() -> None:
            board.beat()
            if edits.poll() is not None:
                use_edited(session, dispatcher)

        def given_up(tasks: Sequence[Task]) -> None:
            edits.stage_ends()  # the user mends it
            promise_another_round(journal, session.resource, tasks)

        session = Session(
            work_dir=work_dir,
            state_dir=state_dir,
            resource=resource,
            drive=Driver(dispatcher, changed, dry_run=dry_run, on_give_up=given_up),
            board=board,
            fork=functools.partial(fork, beat=board.beat),
            stop=stop,
            dry_run=dry_run,
            edits=edits,
        )
        if not dry_run:
            give_another_round(journal)
            edits.tell_since_last_start()
            edits.take_up_stage()
        log.info("%s in %s, jobs go to %s, log in %s.log", workflow, work_dir, scheduler.name, workflow)
        board.publish()
        try:
            yield session
        except DryRunDone:
            board.state, board.reason = "stopped", "dry run"
            raise
        except InProgress as waiting:
            board.state, board.reason = "waiting", str(waiting)
            raise
        except StopRequested as request:
            board.state, board.reason = "stopped", f"{request}; the jobs stay, and the same command goes on"
            log.info("%s", board.reason)
            raise
        except PwactLikeError as error:
            board.state, board.reason = "failed", str(error)
            log.error("%s", error, extra=LOG_FILE_ONLY)  # the command line prints it
            raise
        except BaseException as error:
            board.state, board.reason = "failed", f"internal error: {error!r}"
            log.exception("internal error")
            raise
        finally:
            board.publish()
            reach("iteration-done")


def use_edited(session: Session, dispatcher: Dispatcher) -> None:
    """Take over an edited resource.json for every job that is not submitted yet; its commands count from the next stage on."""
    try:
        dispatcher.use(session.edits.loaded.resource)
    except InputError as error:
        log.warning("resource.json edited, and not applied:\n%s", error)
    else:
        session.resource = session.edits.loaded.resource


def promise_another_round(journal: Journal, resource: Resource, tasks: Sequence[Task]) -> None:
    """Note which tasks begin anew at the next start: those that ran out of attempts when their stage stopped the workflow.

    A task that its engine rejected stays failed: the same inputs would give the same again.
    """
    recorded = journal.tasks()
    exhausted = [task.name for task in tasks if task.name in recorded and is_out_of_attempts(journal, task, resource)]
    if exhausted:
        with journal.transaction() as writer:
            writer.set_meta(ANOTHER_ROUND, json.dumps(exhausted))
        log.info("%d failed tasks will be tried again at the next start", len(exhausted))


def give_another_round(journal: Journal) -> None:
    """Let those tasks begin anew: the user has started again, so what made them fail should be mended."""
    names = json.loads(journal.meta(ANOTHER_ROUND) or "[]")
    if not names:
        return
    generation = int(journal.meta("generation") or 0)
    with journal.transaction() as writer:
        writer.set_meta("generation", str(generation + 1))  # the names of the jobs must be new ones
        writer.set_meta(ANOTHER_ROUND, "[]")
        for name in names:
            writer.forget_task(name)
            writer.event("anew", f"{name}: out of attempts when its stage stopped the workflow; it is tried again")
    log.info("%d tasks that had failed are tried again", len(names))


@contextmanager
def _logging(path: Path, *, echo: bool) -> Iterator[None]:
    """Log to a file, and to the terminal if asked for."""
    logger = logging.getLogger("pwact_like")
    level = logger.level
    handlers: list[logging.Handler] = [logging.FileHandler(path, encoding="utf-8")]
    if echo:
        terminal = logging.StreamHandler(sys.stderr)
        terminal.addFilter(lambda record: not getattr(record, "log_file_only", False))
        handlers.append(terminal)
    for handler in handlers:
        handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        for handler in handlers:
            logger.removeHandler(handler)
            handler.close()
        logger.setLevel(level)


def refuse_unavailable(problems: Any) -> None:
    """Raise for engines or options that are known but not built.

    Raises
    ------
    InputError
        With every problem.
    """
    found = list(problems)
    if found:
        raise InputError(found)

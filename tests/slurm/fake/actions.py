"""What tests do to the fake: ends, failures of nodes and of the controller, and the passing of time."""

from __future__ import annotations

import time

from fake import controller, processes
from fake.store import Folder, Job, Locked, State

_END_CODES = {"OUT_OF_MEMORY": (0, 125), "FAILED": (1, 0), "CANCELLED": (0, 15)}
_SETTLE_S = 0.5  # real time that processes get to go after SIGTERM
_TRAP_S = 0.2  # and a script to run its trap after the warning


def _job(state: State, number: int) -> Job:
    return Job(state.jobs[number])


def end(folder: Folder, state: State, number: int, new_state: str, exit_code: tuple[int, int] | None, reason: str, kill: bool) -> None:
    """End a job in this state."""
    job = _job(state, number)
    if job.live:
        controller.finish(folder, state, job, new_state, exit_code or _END_CODES.get(new_state, (0, 0)), reason, kill)


def cancel(folder: Folder, state: State, number: int) -> None:
    """As by scancel."""
    cancel_job(folder, state, _job(state, number))


def cancel_job(folder: Folder, state: State, job: Job) -> None:
    """SIGTERM, and SIGKILL after KillWait."""
    controller.stop(folder, state, job, "CANCELLED", "")


def set_state(folder: Folder, state: State, number: int, shown: str) -> None:
    """Show a job in any state; "" shows the true one again."""
    _job(state, number).shown = shown


def set_pending_reason(folder: Folder, state: State, number: int, reason: str) -> None:
    """Keep a job pending for this reason; "" lets it go."""
    job = _job(state, number)
    job.forced_reason = reason
    if reason and job.state == "PENDING":
        job.reason = reason
    elif job.state == "PENDING":
        job.reason = "None"


def node_down(folder: Folder, state: State, name: str, kill: bool) -> None:
    """A node stops answering: its jobs end with NODE_FAIL, or wait again when they may be requeued."""
    state.nodes[name]["state"] = "DOWN"
    for job in state.all_jobs():
        if job.active and name in job.nodes:
            if job.requeue and not job.completing:
                controller.requeue(folder, state, job, kill)
            else:
                controller.finish(folder, state, job, job.state if job.completing else "NODE_FAIL", (0, 0), kill=kill)


def node_up(folder: Folder, state: State, name: str) -> None:
    """The node is there again."""
    state.nodes[name]["state"] = "UP"


def drain(folder: Folder, state: State, name: str) -> None:
    """The node takes no more jobs; those on it go on."""
    state.nodes[name]["state"] = "DRAIN"


def partition_state(folder: Folder, state: State, name: str, word: str) -> None:
    """UP, DOWN, INACTIVE, DRAIN."""
    state.partitions[name]["state"] = word


def requeue(folder: Folder, state: State, number: int, kill: bool) -> None:
    """As by scontrol requeue, whatever the job says of it."""
    controller.requeue(folder, state, _job(state, number), kill)


def purge(folder: Folder, state: State, number: int) -> None:
    """The controller forgets a job."""
    _job(state, number).purged = True


def accounting(folder: Folder, state: State, number: int, word: str) -> None:
    """What sacct says of a job: a state, "absent", or "" for the truth."""
    _job(state, number).accounting_end = word


def controller_down(folder: Folder, state: State, delay_s: float) -> None:
    """No command gets an answer any more, after so many (real) seconds."""
    state.controller_up, state.controller_delay_s = False, delay_s


def controller_up(folder: Folder, state: State, ends_after_s: float) -> None:
    """Commands are answered; ends are noticed after so many seconds."""
    state.controller_up, state.quiet_until = True, state.now + ends_after_s if ends_after_s else 0.0


def configure(folder: Folder, state: State, key: str, value: object) -> None:
    """Set a value of the configuration."""
    state.config[key] = value


def foreign(folder: Folder, state: State, values: dict) -> int:
    """A job of another user; it holds no resources."""
    job = Job({**blank(), **values, "id": state.next_id, "submit": state.stamp})
    if job.state == "RUNNING":
        job.start = state.stamp
    job.forced_reason = "Priority"
    state.jobs[job.id] = job.__dict__
    state.next_id += 1
    return job.id


def blank() -> dict:
    """A job with nothing set."""
    kinds: dict[str, object] = {"int": 0, "str": "", "bool": False, "float": 0.0, "float | None": None}
    values = {name: kinds[kind] for name, kind in Job.__annotations__.items() if kind in kinds}
    values |= {"arguments": [], "exclude": [], "nodelist": [], "nodes": [], "gpus": {}}
    return values | {"state": "PENDING", "reason": "None", "min_nodes": 1, "tasks": 1, "cpus_per_task": 1, "cpus_per_node": 1}


APPLY = {
    function.__name__: function
    for function in (
        end,
        cancel,
        set_state,
        set_pending_reason,
        node_down,
        node_up,
        drain,
        partition_state,
        requeue,
        purge,
        accounting,
        controller_down,
        controller_up,
        configure,
        foreign,
    )
}
_EVEN_WITHOUT_CONTROLLER = {"controller_up", "controller_down", "configure", "foreign"}


def apply(folder: Folder, name: str, arguments: tuple, in_s: float) -> object:
    """Do one of `APPLY`, now or when the clock has gone on by ``in_s``, and let the controller look at it."""
    with Locked(folder) as locked:
        state = locked.state
        result = None
        if in_s or not (state.controller_up or name in _EVEN_WITHOUT_CONTROLLER):
            state.timers.append((state.now + in_s, name, arguments))
            if name == "end" and not in_s and arguments[-1]:  # the controller hears of it later; the processes end now
                job = _job(state, arguments[0])
                processes.end_run(folder, job.id, job.run, controller.spare(state))
        else:
            result = APPLY[name](folder, state, *arguments)
        controller.tick(folder, locked)
    return result


# ------------------------------------------------------------------ time


def advance(folder: Folder, seconds: float) -> None:
    """Let the virtual clock go on, from one event to the next, so that a chain of them happens in its order."""
    with Locked(folder) as locked:
        controller.tick(folder, locked)
        target = locked.state.now + seconds
    moment = 0.0
    while moment < target:
        with Locked(folder) as locked:
            state = locked.state
            moment = min((at for at in _events(state) if state.now < at <= target), default=target)
            state.offset = moment
            before = {job.id: (job.completing, job.kill_at, job.warned) for job in state.all_jobs() if job.active}
            controller.tick(folder, locked)
            touched = [job for job in state.all_jobs() if job.id in before and before[job.id] != (job.completing, job.kill_at, job.warned)]
        _settle(folder, touched)
        with Locked(folder) as locked:
            controller.tick(folder, locked)


def _events(state: State) -> list[float]:
    moments = [at for at, _, _ in state.timers] + [state.quiet_until]
    for job in state.all_jobs():
        moments.extend(at for at in (controller.limit_at(job), controller.warn_at(job), job.kill_at) if at is not None)
        if job.state == "PENDING":
            moments.append(job.eligible)
    return moments


def _settle(folder: Folder, touched: list[Job]) -> None:
    """Give processes that got a signal some real time, before the clock goes on."""
    deadline = time.monotonic() + _SETTLE_S
    for job in touched:
        if not job.completing:
            time.sleep(_TRAP_S)
        while job.completing and processes.read_end(folder.run_folder(job.id, job.run)) is None and time.monotonic() < deadline:
            time.sleep(0.005)

"""What slurmctld does: notice ends, keep limits, forget old jobs, start what fits. Every command calls `tick`."""

from __future__ import annotations

import os
import signal
import time

from fake import processes
from fake.launch import output_paths
from fake.schedule import schedule
from fake.store import Folder, Job, Locked, State
from fake.units import UNLIMITED, clock

_REASONS = {
    "NODE_FAIL": "NodeDown",
    "TIMEOUT": "TimeLimit",
    "OUT_OF_MEMORY": "OutOfMemory",
    "FAILED": "NonZeroExitCode",
    "DEADLINE": "DeadLine",
}


def tick(folder: Folder, locked: Locked) -> None:
    """Bring the state to the present moment."""
    state = locked.state
    if not state.controller_up:
        return
    run_timers(folder, state)
    if state.now >= state.quiet_until:
        notice_ends(folder, state)
    keep_limits(folder, state)
    forget(state)
    schedule(folder, locked)
    if locked.gates:
        locked.save()  # whoever wants to end one of these jobs next must find its processes


def spare(state: State) -> set[int]:
    """Pids of all shepherds: they may stand in the environment of a job that submitted them."""
    return {pid for _, _, pid, _ in state.runs}


# ------------------------------------------------------------------ ends


def notice_ends(folder: Folder, state: State) -> None:
    """Look for the marks that shepherds leave."""
    for job in state.all_jobs():
        if job.active and job.run:
            ended = processes.read_end(folder.run_folder(job.id, job.run))
            if ended is not None:
                status, moment = ended
                _has_ended(state, job, status, max(job.start or 0.0, min(state.stamp, moment + state.offset)))
            elif not _shepherd_lives(state, job):
                _lost_shepherd(folder, state, job)


def _shepherd_lives(state: State, job: Job) -> bool:
    return any(
        (number, run) == (job.id, job.run) and processes.start_time(pid) == started for number, run, pid, started in state.runs[::-1]
    )


def _lost_shepherd(folder: Folder, state: State, job: Job) -> None:
    pid, started = processes.read_begun(folder.run_folder(job.id, job.run))
    if processes.read_end(folder.run_folder(job.id, job.run)) is not None:
        return  # it ended between two looks
    if not pid and job.state == "RUNNING" and not job.completing:
        # the command that started it was killed before it could say "go": nothing has run
        release(job)
        job.state, job.start, job.nodes, job.reason = "PENDING", None, [], "None"
    elif not pid or processes.start_time(pid) != started:
        _has_ended(state, job, signal.SIGKILL, state.stamp)


def _has_ended(state: State, job: Job, status: int, moment: float) -> None:
    if not job.completing:
        job.end, job.ended = moment, state.now
        if status == processes.LAUNCH_FAILED:
            job.state, job.reason, job.exit_signal = "FAILED", "JobLaunchFailure", processes.LAUNCH_FAILED
        elif os.WIFSIGNALED(status):
            job.state, job.reason, job.exit_signal = "FAILED", "JobLaunchFailure", os.WTERMSIG(status)
        elif os.WEXITSTATUS(status):
            job.state, job.reason, job.exit_code = "FAILED", "NonZeroExitCode", os.WEXITSTATUS(status)
        else:
            job.state, job.reason = "COMPLETED", "None"
    elif job.state == "CANCELLED" and status != processes.LAUNCH_FAILED and os.WIFSIGNALED(status):
        job.exit_signal = os.WTERMSIG(status)
    job.completing, job.kill_at = False, None
    release(job)


def release(job: Job) -> None:
    """Give its GPUs back; its nodes and memory stay on record, and count only while it is active."""
    job.gpus = {}


def stop(folder: Folder, state: State, job: Job, new_state: str, words: str | None = None) -> None:
    """End a job as slurmctld does: SIGTERM for all its processes, SIGKILL after KillWait."""
    if job.state == "PENDING":
        job.state, job.reason = new_state, "None"
        job.start = job.end = state.stamp
        job.ended = state.now
        if job.array_id and new_state == "CANCELLED":
            job.purged = True  # so it is on a real one: a task that never ran leaves nothing
        return
    if job.completing or not job.active:
        return
    job.state, job.reason, job.completing, job.end = new_state, _REASONS.get(new_state, "None"), True, state.stamp
    job.ended = state.now
    job.kill_at = state.now + state.config["kill_wait_s"]
    job.kill_at_real = time.time() + state.config["kill_wait_s"]
    if words is not None:
        say(folder, job, f"slurmstepd: error: *** JOB {job.id} ON {job.nodes[0]} CANCELLED AT {clock(state.stamp)}{words} ***\n")
    for number in (signal.SIGCONT, signal.SIGTERM):
        processes.signal_run(folder, job.id, job.run, number, spare(state))


def say(folder: Folder, job: Job, text: str) -> None:
    """Write a line of slurmstepd's into the job's error file."""
    path = output_paths(job)[1]
    if processes.read_begun(folder.run_folder(job.id, job.run), wait_s=0.5)[0]:
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
        except OSError:
            return
        os.write(descriptor, text.encode(errors="surrogateescape"))
        os.close(descriptor)


def finish(
    folder: Folder, state: State, job: Job, new_state: str, exit_code: tuple[int, int] = (0, 0), reason: str = "", kill: bool = True
) -> None:
    """End a job at once, in any state, whatever its processes do (they are killed unless a test wants a split brain)."""
    if kill and job.run:
        processes.end_run(folder, job.id, job.run, spare(state))
    job.state, job.completing, job.kill_at, job.end = new_state, False, None, state.stamp
    job.start, job.ended = job.start or state.stamp, state.now
    job.reason = reason or _REASONS.get(new_state, "None")
    job.exit_code, job.exit_signal = exit_code
    release(job)


def requeue(folder: Folder, state: State, job: Job, kill: bool = True) -> None:
    """Back to PENDING under the same id."""
    if kill and job.run:
        processes.end_run(folder, job.id, job.run, spare(state))
    release(job)
    job.state, job.completing, job.kill_at, job.reason = "PENDING", False, None, "BeginTime"
    job.start = job.end = None
    job.exit_code = job.exit_signal = 0
    job.nodes, job.warned = [], False
    job.eligible = state.now + state.config["requeue_delay_s"]
    job.restarts += 1


# ------------------------------------------------------------------ time


def run_timers(folder: Folder, state: State) -> None:
    """Do what a test has put off to a moment that has come."""
    from fake import actions  # here, since it imports this module

    for timer in sorted(timer for timer in state.timers if timer[0] <= state.now):
        state.timers.remove(timer)
        actions.APPLY[timer[1]](folder, state, *timer[2])


def limit_at(job: Job) -> float | None:
    """Moment at which the time limit ends a running job."""
    if job.state != "RUNNING" or job.completing or job.limit_min == UNLIMITED:
        return None
    return job.began + job.limit_min * 60


def warn_at(job: Job) -> float | None:
    """Moment of the warning signal."""
    at = limit_at(job)
    return None if at is None or not job.warn_signal or job.warned else max(at - job.warn_s, job.began)


def keep_limits(folder: Folder, state: State) -> None:
    """Warn, end and kill jobs whose time has come."""
    for job in state.all_jobs():
        if not job.active:
            continue
        warn, at = warn_at(job), limit_at(job)
        if warn is not None and warn <= state.now:
            job.warned = True
            if job.warn_batch:  # else it is for job steps, and there are none
                processes.signal_run(folder, job.id, job.run, job.warn_signal, spare(state), batch_only=True)
        if at is not None and at <= state.now:
            stop(folder, state, job, "TIMEOUT", " DUE TO TIME LIMIT")
        elif job.completing and job.kill_at is not None and (job.kill_at <= state.now or job.kill_at_real <= time.time()):
            job.kill_at = None
            processes.end_run(folder, job.id, job.run, spare(state))


def forget(state: State) -> None:
    """Drop jobs that ended MinJobAge ago (0: never); the accounting keeps them."""
    age = state.config["min_job_age_s"]
    if not age:
        return
    for values in state.jobs.values():
        if values["end"] is not None and not values["purged"] and values["ended"] + age < state.now:
            values["purged"] = not Job(values).live

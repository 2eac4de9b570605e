"""A Slurm for tests: commands on PATH, jobs that are real processes, a clock that is moved by hand, faults by plan.

::

    with FakeSlurm(tmp_path / "slurm") as slurm:
        slurm.install(monkeypatch)
        slurm.fault("sbatch", "accept_then_die")
        ...                              # run what calls sbatch, squeue, …
        slurm.advance(3600)              # the jobs' time limits have come
        slurm.end("pwl-a-b-1", "NODE_FAIL")

What it says is what Slurm 22.05.8 says (recorded); what it does not know it refuses, so that a wrong call is not hidden.
"""

from __future__ import annotations

import ast
import marshal
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from fake import faults, processes
from fake.controller import spare
from fake.processes import end_run, read_begun
from fake.store import FOLDER_VARIABLE, Folder, Job, Locked, State
from fake.units import minutes

COMMANDS = ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo")


class FakeSlurm:
    """One cluster in a folder; a second instance on the same folder is the same cluster.

    Parameters
    ----------
    nodes
        Names; or, by name, what differs from the rest: ``{"n3": {"cpus": 8, "memory_mb": 64000, "gpus": 2, "features": ["a"]}}``.
    partitions
        By name: ``nodes``, ``max_time`` and ``default_time`` (text of --time, or UNLIMITED), ``max_nodes``, ``state``; the first is the
        default one. None: one of all nodes, ``cpu``, with an hour at most and ten minutes unless asked for.
    min_job_age_s
        After so long the controller forgets a job that has ended; 0: never.
    accounting, accounting_lag_s
        Whether sacct works, and how late it hears of ends.
    max_submit, max_job_count
        Above the one sbatch is refused, above the other it blocks.
    accounts, qos
        Names that are accepted; None: any.
    requeue_delay_s
        How long a requeued job waits at least (on a real one two minutes).
    """

    def __init__(
        self,
        folder: Path,
        nodes: Sequence[str] | Mapping[str, Mapping[str, object]] = ("n1", "n2", "n3"),
        cpus: int = 4,
        memory_mb: int = 16000,
        partitions: Mapping[str, Mapping[str, object]] | None = None,
        min_job_age_s: float = 300.0,
        accounting: bool = False,
        max_submit: int | None = None,
        max_array_size: int = 2001,
        version: str = "22.05.8",
        *,
        gpus: int = 0,
        kill_wait_s: float = 2.0,
        max_job_count: int = 10000,
        accounts: Sequence[str] | None = None,
        qos: Sequence[str] | None = None,
        def_mem_per_cpu: int = 1500,
        cluster: str = "fake",
        requeue_delay_s: float = 0.0,
        accounting_lag_s: float = 0.0,
    ) -> None:
        self.path = folder.absolute()
        self.bin = self.path / "bin"
        self._folder = Folder(str(self.path))
        self._forgotten = 0  # calls that are not counted any more
        if (self.path / "state").exists():
            return
        self.path.mkdir(parents=True, exist_ok=True)
        plain = {"cpus": cpus, "memory_mb": memory_mb, "gpus": gpus, "features": [], "state": "UP"}
        known = {name: plain | dict(nodes[name] if isinstance(nodes, Mapping) else {}) for name in nodes}
        self._folder.create(
            State(
                {
                    "offset": 0.0,
                    "next_id": 1,
                    "controller_up": True,
                    "controller_delay_s": 0.0,
                    "quiet_until": 0.0,
                    "nodes": known,
                    "partitions": _partitions(partitions or {"cpu": {"max_time": "1:00:00", "default_time": "10"}}, list(known)),
                    "jobs": {},
                    "runs": [],
                    "timers": [],
                    "config": {
                        "min_job_age_s": float(min_job_age_s),
                        "accounting": accounting,
                        "accounting_lag_s": float(accounting_lag_s),
                        "max_submit": max_submit,
                        "max_array_size": max_array_size,
                        "max_job_count": max_job_count,
                        "version": version,
                        "kill_wait_s": float(kill_wait_s),
                        "requeue_delay_s": float(requeue_delay_s),
                        "accounts": None if accounts is None else list(accounts),
                        "qos": None if qos is None else list(qos),
                        "def_mem_per_cpu": def_mem_per_cpu,
                        "cluster": cluster,
                        "boot": time.time(),
                    },
                }
            )
        )
        self.bin.mkdir()
        for command in (*COMMANDS, "control"):
            _write_command(self.bin / command if command != "control" else self.path / command, command, self.path)

    # ------------------------------------------------------------------ use

    @property
    def environment(self) -> dict[str, str]:
        """Variables for processes that shall see this cluster."""
        return {"PATH": f"{self.bin}{os.pathsep}{os.environ.get('PATH', os.defpath)}", FOLDER_VARIABLE: str(self.path)}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Put the commands first on PATH, for this process and its children."""
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def run(self, *argv: str, cwd: Path | None = None, timeout_s: float = 60.0) -> subprocess.CompletedProcess[str]:
        """Run one of the commands."""
        return subprocess.run(
            [str(self.bin / argv[0]), *argv[1:]],
            cwd=cwd or self.path,
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=timeout_s,
        )

    def __enter__(self) -> FakeSlurm:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ looking

    @property
    def now(self) -> float:
        """The present moment as the cluster shows it: real time and what `advance` has added."""
        return self._folder.peek().stamp

    def jobs(self, forgotten: bool = False) -> list[Job]:
        """All jobs, those that the controller has forgotten only on demand."""
        self.tick()
        state = self._folder.peek()
        return [Job(values) for values in state.jobs.values()] if forgotten else state.all_jobs()

    def job(self, which: str | int) -> Job:
        """A job by id or name (of several the last one), a forgotten one, too."""
        jobs = self.jobs(forgotten=True)
        for job in reversed(jobs):
            if str(which) in {str(job.id), job.name}:
                return job
        raise KeyError(f"no job {which!r}; there are {[(job.id, job.name) for job in jobs]}")

    def wait(self, which: str | int, *states: str, timeout_s: float = 10.0) -> Job:
        """Wait in real time until a job shows one of these states."""
        deadline = time.monotonic() + timeout_s
        while (job := self.job(which)).display not in states:
            assert time.monotonic() < deadline, f"job {which} is {job.display} ({job.reason}), not {' or '.join(states)}"
            time.sleep(0.01)
        return job

    def pids(self, which: str | int) -> list[int]:
        """Pids of the processes of a job's present (or last) run."""
        job = self.job(which)
        pid, _ = read_begun(self._folder.run_folder(job.id, job.run), wait_s=1.0) if job.run else (0, 0)
        return sorted(processes.members(self._folder.token(job.id, job.run), pid or -1, spare(self._folder.peek())))

    def calls(self, command: str | None = None) -> list[list[str]]:
        """Arguments of every call of a command (of all commands, each with its name first), in their order."""
        return [argv if command else [name, *argv] for name, argv, *_ in self._calls()[self._forgotten :] if command in {None, name}]

    def _calls(self) -> list[tuple[str, list[str], int, int, str, float]]:
        path = self.path / "calls"
        return [ast.literal_eval(line) for line in path.read_text("ascii").splitlines()] if path.exists() else []

    def forget_calls(self) -> None:
        """Count calls anew."""
        self._forgotten = len(self._calls())

    # ------------------------------------------------------------------ doing

    def tick(self) -> None:
        """Let the controller look at its jobs; every command does so, too."""
        self._control("tick")

    def advance(self, seconds: float) -> None:
        """Move the virtual clock on; what is to happen meanwhile happens in its order.

        Only this moves the clock that limits, ages and delays go by (KillWait passes in real time, too); the times that are shown
        are real ones, moved by the same amount.
        """
        self._control("advance", float(seconds))

    def end(
        self,
        which: str | int,
        state: str,
        exit_code: tuple[int, int] | None = None,
        *,
        reason: str = "",
        in_s: float = 0.0,
        kill: bool = True,
    ) -> None:
        """End a job in any state, now or later; its processes are killed, unless a split brain is wanted (``kill=False``)."""
        self._apply("end", self.job(which).id, state, exit_code, reason, kill, in_s=in_s)

    def cancel(self, which: str | int, in_s: float = 0.0) -> None:
        """Cancel a job as somebody else's scancel would."""
        self._apply("cancel", self.job(which).id, in_s=in_s)

    def set_state(self, which: str | int, state: str) -> None:
        """Show a job in this state, known to Slurm or not; "" shows the true one again."""
        self._apply("set_state", self.job(which).id, state)

    def set_pending_reason(self, which: str | int, reason: str) -> None:
        """Keep a waiting job waiting for this reason; "" lets it go."""
        self._apply("set_pending_reason", self.job(which).id, reason)

    def node_down(self, node: str, *, in_s: float = 0.0, kill: bool = True) -> None:
        """A node fails: NODE_FAIL, or PENDING again without --no-requeue; ``kill=False``: its processes go on."""
        self._apply("node_down", node, kill, in_s=in_s)

    def node_up(self, node: str, *, in_s: float = 0.0) -> None:
        """A node comes back."""
        self._apply("node_up", node, in_s=in_s)

    def drain(self, node: str) -> None:
        """A node takes no more jobs."""
        self._apply("drain", node)

    def partition_state(self, partition: str, state: str) -> None:
        """UP, DOWN, INACTIVE or DRAIN."""
        self._apply("partition_state", partition, state)

    def requeue(self, which: str | int, *, in_s: float = 0.0, kill: bool = True) -> None:
        """Send a job back to PENDING under its id, --no-requeue or not."""
        self._apply("requeue", self.job(which).id, kill, in_s=in_s)

    def purge(self, which: str | int) -> None:
        """The controller forgets a job (the accounting does not)."""
        self._apply("purge", self.job(which).id)

    def accounting_says(self, which: str | int, state: str) -> None:
        """What sacct says of a job: RUNNING for one whose end it has missed, "absent", or "" for the truth."""
        self._apply("accounting", self.job(which).id, state)

    def controller_down(self, delay_s: float = 0.0) -> None:
        """slurmctld goes away; jobs go on. Commands say so after ``delay_s`` real seconds (a real one: 9 to 18)."""
        self._apply("controller_down", float(delay_s))

    def controller_up(self, ends_after_s: float = 0.0) -> None:
        """slurmctld is back; what has ended meanwhile is seen after so many (virtual) seconds (a real one: up to 30)."""
        self._apply("controller_up", float(ends_after_s))

    def configure(self, **values: object) -> None:
        """Set values of the constructor anew: ``configure(max_submit=2)``."""
        for key, value in values.items():
            assert key in self._folder.peek().config, key
            self._apply("configure", key, value)

    def foreign_job(self, name: str, user: str = "somebody", **values: object) -> int:
        """Queue a job of another user (it is only shown); gives its id."""
        partition = next(iter(self._folder.peek().partitions))
        fields = {"name": name, "user": user, "uid": 4242, "partition": partition, **values}
        number = self._control("apply", "foreign", (fields,), 0.0)
        assert isinstance(number, int)
        return number

    # ------------------------------------------------------------------ faults

    def fault(self, command: str, kind: str, times: int | None = 1, after: int = 0, match: str | None = None) -> None:
        """Plan a fault.

        Parameters
        ----------
        command
            Of which command; ``*``: of any.
        kind
            One of `fake.faults.KINDS`; with more after a colon: ``error:TEXT`` (on stderr, rc 1, nothing done), ``slow:SECONDS``,
            ``until:PATH`` (the call goes on when that file is there), ``partial:lines`` (whole lines only),
            ``stderr:TEXT`` and ``status:N`` (beside the true answer), ``bad_partition:NAME``.
        times
            How often; None: for ever.
        after
            So many calls (that match) go well before.
        match
            Only calls whose arguments, or whose job name (sbatch), have this regular expression in them.
        """
        assert kind.partition(":")[0] in faults.KINDS, f"{kind} is none of {faults.KINDS}"
        assert command in {*COMMANDS, "*"}, command
        new = {"command": command, "kind": kind, "times": -1 if times is None else times, "after": after, "match": match or ""}
        faults.plan(self._folder, [*faults.read(self._folder), new])

    def clear_faults(self) -> None:
        """No more faults."""
        faults.plan(self._folder, [])

    # ------------------------------------------------------------------ the end

    def close(self) -> None:
        """End every process that was ever started here: commands that hang, shepherds, and all that their jobs left."""
        if not (self.path / "state").exists():
            return
        with Locked(self._folder) as locked:
            state = locked.state
            state.controller_up = False  # a call that comes late starts nothing
            for _, _, pid, started in state.runs:
                processes.send(pid, started, signal.SIGKILL)
            for number, run, _, _ in state.runs:
                end_run(self._folder, number, run, set(), begins=False)
        for _, _, pid, started, *_ in self._calls():
            processes.send(pid, started, signal.SIGKILL)

    # ------------------------------------------------------------------ machinery

    def _apply(self, name: str, *arguments: object, in_s: float = 0.0) -> None:
        self._control("apply", name, arguments, float(in_s))

    def _control(self, what: str, *arguments: object) -> object:
        done = subprocess.run(
            [str(self.path / "control")],
            input=marshal.dumps((what, arguments)),
            capture_output=True,
            env=os.environ | {FOLDER_VARIABLE: str(self.path)},
            timeout=300,
        )
        assert done.returncode == 0, done.stderr.decode(errors="replace")
        return marshal.loads(done.stdout)


def _partitions(partitions: Mapping[str, Mapping[str, object]], nodes: list[str]) -> dict[str, dict]:
    known = {}
    for name, facts in partitions.items():
        longest = minutes(str(facts.get("max_time", "UNLIMITED")))
        usual = minutes(str(facts.get("default_time", facts.get("max_time", "UNLIMITED"))))
        assert longest is not None and usual is not None, facts
        known[name] = {
            "nodes": list(facts.get("nodes", nodes)),  # type: ignore[call-overload]
            "max_time_min": longest,
            "default_time_min": usual,
            "max_nodes": facts.get("max_nodes"),
            "state": facts.get("state", "UP"),
            "default": bool(facts.get("default", name == next(iter(partitions)))),
        }
    return known


def _write_command(path: Path, command: str, home: Path) -> None:
    python = Path(sys.executable).resolve()  # not the virtual environment's: -S has no use for it
    source = Path(__file__).resolve().parent.parent
    lines = (f"#!{python} -IS", "import sys", f"sys.path.append({str(source)!r})")
    lines += ("from fake.command import main", f"main({command!r}, {str(home)!r})")
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    path.chmod(0o755)

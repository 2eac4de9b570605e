"""A real Slurm for tests: started in a folder of its own by whoever runs them, root or not, with nothing of the system's Slurm.

Root's cluster authenticates by a munged of its own, everybody else's not at all (auth/none). All daemons stay children of
the tests, so they can be killed and started again, and none outlives the tests.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
import subprocess
import tempfile
from contextlib import suppress
from pathlib import Path

import pytest
from cluster_config import NODES, ClusterConfig, cgroup_problem, uses_munge
from cluster_daemon import Daemon, DaemonError, processes_with, wait_for

INSTALL = "apt-get install --no-install-recommends slurmctld slurmd slurm-client munge"
_START_S = 30.0
# enough for a controller that is busy; what it answers in vain takes up to 18 s
_COMMAND_S = 60.0
_ATTEMPTS = 3
_CGROUPS = Path("/sys/fs/cgroup")
_NODE_MARK = "PWL_TEST_NODE"
_PREFIXES = ("SLURM_", "SLURMD_", "SBATCH_", "SQUEUE_", "SACCT_", "SCANCEL_", "SCONTROL_", "SINFO_", "SRUN_", "SALLOC_")


class Cluster:
    """Three nodes of four CPUs: n1 and n2 in the partitions ``cpu`` (default) and ``short`` (one minute), n3 with two GPUs in ``gpu``.

    Parameters
    ----------
    cgroup
        Jobs over their memory end OUT_OF_MEMORY, by the kernel. Otherwise slurmd looks once a second and kills them, which
        shows as FAILED 0:9.
    settings
        Lines of slurm.conf, e.g. ``{"MinJobAge": 5}``.
    """

    def __init__(self, cgroup: bool = False, **settings: str | int) -> None:
        self.has_cgroup_oom = cgroup and not cgroup_problem()
        self.given_settings = dict(settings)
        self.settings = dict(settings)
        self.daemons: dict[str, Daemon] = {}
        self._cgroup_lock = -1
        self.folder = Path()
        self.config: ClusterConfig

    def __enter__(self) -> Cluster:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ start and end

    def start(self) -> Cluster:
        """Start all daemons and wait for the nodes; on a port that somebody else took meanwhile it begins again elsewhere."""
        if self.has_cgroup_oom:
            # cgroups go by the names of the nodes, which all clusters share: one such cluster at a time on this machine
            self._cgroup_lock = os.open(_CGROUPS, os.O_RDONLY)
            fcntl.flock(self._cgroup_lock, fcntl.LOCK_EX)
        for attempt in range(1, _ATTEMPTS + 1):
            # short, for the names of sockets are limited to some 100 bytes
            self.folder = Path(tempfile.mkdtemp(prefix="pwl-", dir="/tmp"))
            self.folder.chmod(0o755)
            try:
                self.config = ClusterConfig(self.folder, settings=self.settings, cgroup=self.has_cgroup_oom)
                self._start_all()
                return self
            except BaseException as error:
                self._end()
                if attempt == _ATTEMPTS or not isinstance(error, DaemonError) or "Address already in use" not in str(error):
                    self.close()
                    raise
        raise AssertionError("not reached")

    def _start_all(self) -> None:
        self.config.write()
        self._environment = {name: value for name, value in os.environ.items() if not name.startswith(_PREFIXES)} | self.environment
        if uses_munge():
            self._start_munged()
        self._before_slurmctld()
        self._add("slurmctld", "slurmctld", "-D").start()
        for node in NODES:
            # slurmstepd inherits the mark; the job itself has SLURMD_NODENAME
            self._add(f"slurmd.{node}", "slurmd", "-D", "-N", node, environment={_NODE_MARK: node}).start()
        self.wait_up()

    def _before_slurmctld(self) -> None:
        """What else must run first."""

    def _add(self, name: str, *argv: str, environment: dict[str, str] | None = None) -> Daemon:
        program = shutil.which(argv[0]) or argv[0]
        daemon = Daemon(name, [program, *argv[1:]], self._environment | (environment or {}), [self.folder / f"{name}.log"])
        self.daemons[name] = daemon
        return daemon

    def _start_munged(self) -> None:
        socket_path = self.config.munge_socket
        folder = socket_path.parent
        folder.mkdir(mode=0o755)
        key = folder / "key"
        key.touch(0o600)
        key.write_bytes(os.urandom(128))
        files = {
            "socket": socket_path,
            "key-file": key,
            "pid-file": folder / "pid",
            "seed-file": folder / "seed",
            "log-file": folder / "log",
        }
        daemon = self._add("munged", "munged", "--foreground", *(f"--{name}={path}" for name, path in files.items()))
        daemon.start()
        if not wait_for(lambda: socket_path.exists() or not daemon.running, _START_S) or not daemon.running:
            raise daemon.error("made no socket")

    def close(self) -> None:
        """Stop every daemon and end every job; nothing is left, the folder neither."""
        try:
            self._end()
        finally:
            if self._cgroup_lock >= 0:
                os.close(self._cgroup_lock)
                self._cgroup_lock = -1

    def _end(self) -> None:
        if not self.folder.name:
            return
        self.kill_jobs()
        # the last one first: the database, for one, is used by those that were started after it
        for daemon in reversed(self.daemons.values()):
            daemon.stop()
        self.kill_jobs()
        self.daemons.clear()
        shutil.rmtree(self.folder, ignore_errors=True)
        self.folder = Path()
        if self.has_cgroup_oom and not wait_for(_remove_cgroups, 5.0):
            raise DaemonError(f"cgroups of slurmd stay behind in {_CGROUPS}")

    # ------------------------------------------------------------------ how to use it

    @property
    def environment(self) -> dict[str, str]:
        """What makes Slurm's commands talk to this cluster."""
        return {"SLURM_CONF": str(self.config.path)}

    def install(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Make this the cluster of the test's own process and of what it starts."""
        for name in list(os.environ):
            if name.startswith(_PREFIXES):
                monkeypatch.delenv(name)
        for name, value in self.environment.items():
            monkeypatch.setenv(name, value)

    def run(self, *argv: str | Path, cwd: Path | None = None, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run one of Slurm's commands."""
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=cwd,
            env=self._environment | {"LC_ALL": "C"},
            capture_output=True,
            text=True,
            errors="surrogateescape",
            timeout=_COMMAND_S,
            stdin=subprocess.DEVNULL,
        )
        if check and done.returncode:
            raise DaemonError(f"{' '.join(done.args)} ended with {done.returncode}: {done.stderr}{done.stdout}")
        return done

    def scontrol(self, *arguments: str) -> str:
        return self.run("scontrol", *arguments).stdout

    def squeue(self, *arguments: str, columns: str = "%i|%T|%r|%j") -> list[list[str]]:
        """Columns of the jobs that have not ended; with ``-t all`` of all that it remembers."""
        done = self.run("squeue", "-h", "-a", "-r", *arguments, "-o", columns)
        return [line.split("|") for line in done.stdout.splitlines()]

    def sbatch(self, *arguments: str | Path, script: str = "", cwd: Path | None = None) -> str:
        """Submit and give the id; the script's commands may be given as text."""
        wrapped = ["--wrap", script] if script else []
        return self.run("sbatch", "--parsable", *arguments, *wrapped, cwd=cwd or self.folder).stdout.split(";")[0].strip()

    def job(self, number: str) -> dict[str, str]:
        """What ``scontrol show job`` says, by name."""
        return dict(word.split("=", 1) for word in self.scontrol("show", "job", "-o", number).split() if "=" in word)

    def state(self, number: str) -> str:
        return self.job(number)["JobState"]

    def wait_state(self, number: str, *states: str, timeout_s: float = 30.0) -> str:
        """Wait until the job has one of these states."""
        if not wait_for(lambda: self.state(number) in states, timeout_s):
            raise DaemonError(f"job {number} is still {self.job(number)} and not {states}")
        return self.state(number)

    def node_states(self) -> dict[str, str]:
        lines = self.run("sinfo", "-h", "-N", "-o", "%N|%T", check=False).stdout.splitlines()
        return dict(line.split("|", 1) for line in lines if "|" in line)

    def reconfigure(self, **settings: str | int) -> None:
        """Change lines of slurm.conf while the cluster runs."""
        self.config.settings = {**self.settings, **settings}
        self.config.write()
        self.scontrol("reconfigure")

    # ------------------------------------------------------------------ waiting

    def wait_up(self, timeout_s: float = _START_S) -> None:
        """Wait until the controller answers and sees all nodes."""
        self._wait_nodes({"idle", "mixed", "allocated", "completing"}, timeout_s)

    def wait_idle(self, timeout_s: float = _START_S) -> None:
        """Wait until all nodes are there and no job is."""
        self._wait_nodes({"idle"}, timeout_s)
        if not wait_for(lambda: not self.run("squeue", "-h", "-a").stdout, timeout_s):
            raise DaemonError(f"jobs are left: {self.squeue()}")

    def _wait_nodes(self, wanted: set[str], timeout_s: float) -> None:
        def ready() -> bool:
            for daemon in self.daemons.values():
                if not daemon.running:
                    raise daemon.error("is not there")
            states = self.node_states()
            return set(states) == set(NODES) and set(states.values()) <= wanted

        if not wait_for(ready, timeout_s):
            raise self.daemons["slurmctld"].error(f"does not see all nodes {' or '.join(sorted(wanted))}: {self.node_states()}")

    # ------------------------------------------------------------------ daemons

    def slurmctld_kill(self, saved: bool = True) -> None:
        """The controller is away.

        Parameters
        ----------
        saved
            All that it knows is on its disk, as it is some six seconds after the last change (SIGTERM, which makes it
            write at once: no test has to wait that long). Otherwise SIGKILL, and its last seconds may be lost to it: of a
            job that was submitted in them it knows nothing, and gives the id out anew; one that was started in them it
            takes for pending, kills it when its node registers, and runs it again.
        """
        if saved:
            self.daemons["slurmctld"].stop()
        self.daemons["slurmctld"].kill()

    def slurmctld_stop(self) -> None:
        """The controller ends in order."""
        self.slurmctld_kill(saved=True)

    def slurmctld_start(self, forget: bool = False, hurry: bool = True) -> None:
        """Start it again and wait until it answers.

        Parameters
        ----------
        forget
            It begins without any job, and gives out ids from the beginning.
        hurry
            The nodes register at once; left alone they do so about four seconds later, and no job starts until then.
        """
        daemon = self.daemons["slurmctld"]
        if forget and not daemon.running:
            shutil.rmtree(self.folder / "state")
            self.config.write()
        daemon.start()
        if not wait_for(lambda: self.run("scontrol", "ping", check=False).returncode == 0, _START_S):
            raise daemon.error("does not answer")
        if hurry:
            self.scontrol("reconfigure")

    def slurmd_kill(self, node: str, with_jobs: bool = False) -> None:
        """SIGKILL one node's slurmd.

        Parameters
        ----------
        with_jobs
            Its jobs and those that watch over them (slurmstepd), too, as if the node had lost its power; otherwise they run on.
        """
        self.daemons[f"slurmd.{node}"].kill()
        if with_jobs:
            self.kill_jobs(node)

    def slurmd_start(self, node: str, wait: bool = True) -> None:
        """Start it again."""
        self.daemons[f"slurmd.{node}"].start()
        if wait:
            ready = {"idle", "mixed", "allocated", "completing"}
            if not wait_for(lambda: self.node_states().get(node) in ready, _START_S):
                raise self.daemons[f"slurmd.{node}"].error(f"is not seen by slurmctld: {self.node_states()}")

    # ------------------------------------------------------------------ jobs

    def processes(self, node: str = "") -> list[int]:
        """Processes of jobs, and the slurmstepd of each."""
        daemons = {daemon.pid for daemon in self.daemons.values()}
        found = []
        for pid, variables in processes_with(SLURM_CONF=str(self.config.path)):
            on = variables.get("SLURMD_NODENAME") or variables.get(_NODE_MARK)
            # without a node: slurmctld's own helper, and commands that a test runs
            if on and node in ("", on) and pid not in daemons:
                found.append(pid)
        return found

    def kill_jobs(self, node: str = "") -> None:
        """SIGKILL the processes of all jobs (of a node), until none is left, be it one that was born meanwhile."""
        if not wait_for(lambda: not [_kill(pid) for pid in self.processes(node)], 10.0, 0.01):
            raise DaemonError(f"processes of jobs outlive SIGKILL: {self.processes(node)}")

    def cancel_all(self) -> None:
        """Cancel every job and wait for its end."""
        self.run("scancel", "--user", self.config.user)
        self.wait_idle()

    def repair(self) -> None:
        """Back to how it was after `start`, but for what it remembers of ended jobs."""
        for daemon in self.daemons.values():
            daemon.start()
        self.config.settings = self.settings
        self.config.write()
        # makes nodes register, too, and takes changed partitions back
        self.slurmctld_start(hurry=True)
        for node, state in self.node_states().items():
            if state.rstrip("*") in ("drained", "draining", "down"):
                # refused for one that comes back by itself in this moment
                self.run("scontrol", "update", f"NodeName={node}", "State=RESUME", check=False)
        self.cancel_all()


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _remove_cgroups() -> bool:
    """Remove those that slurmd leaves; they are busy as long as the last process is not quite gone."""
    folders = [Path(found) for node in NODES for top in _CGROUPS.glob(f"*/slurm_{node}") for found, _, _ in os.walk(top, topdown=False)]
    for folder in folders:
        with suppress(OSError):
            folder.rmdir()
    return not any(folder.exists() for folder in folders)

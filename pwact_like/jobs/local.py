"""Jobs on this machine, behind the same interface as a cluster's scheduler.

Everything is on disk, in the job's folder ``jobs/NAME/``:

===========  ===========================================================================================
job.sh       the script, as for any scheduler
queued       JSON, made by ``submit``: cores, gpus, place in the queue
process      written by the job's own first action: pid, start time, boot id, host, folder; linked in, so once only
cancelled    written before a job is ended on request
claim, exit  written by the script
===========  ===========================================================================================

A job runs in a session of its own and survives the master's end by any signal. A job that waits for cores stays
queued until a master looks at the queue again. The script's exit marker outranks everything else.
"""

from __future__ import annotations

import json
import logging
import os
import re
import subprocess
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from signal import SIGKILL, SIGTERM
from typing import TYPE_CHECKING

from pwact_like import fsio
from pwact_like.crashpoints import KILL_AT_VARIABLE
from pwact_like.errors import DataError
from pwact_like.jobs.process import ProcessId, boot_id, host_name, is_alive, is_elsewhere, job_members, send_signal
from pwact_like.jobs.script import TEMPLATES, read_needs
from pwact_like.jobs.types import Answer, EndCause, JobRequest, JobView, NoAnswer, Pace, Refused, Submitted, SubmitUnknown

if TYPE_CHECKING:
    from pwact_like.config.resource import ResourceSection

log = logging.getLogger(__name__)

# inherited by every process of a job; a path, so that it is one folder's only
FOLDER_VARIABLE = "PWACT_LIKE_JOB_FOLDER"
TERM_GRACE_S = 3.0
_STARTER_LOST_S = 1.0  # a starter that left no record by then died before it could


@dataclass(frozen=True)
class LocalProcess(ProcessId):
    """The process of a local job, and the job folder it was started for."""

    folder: str


@dataclass(frozen=True)
class QueueEntry:
    """A submitted job: what it takes of the machine (already clipped) and its place in the queue."""

    name: str
    place: int
    cores: int
    gpus: int
    note: str = ""


class LocalScheduler:
    """Runs jobs under bash on this machine, first come first served, on a limited number of cores.

    Parameters
    ----------
    folder
        The folder of job folders; every script lies in ``folder/NAME/job.sh``.
    cores
        Cores to share out; the cores this process may use when None. A job that asks for more gets all of them.
    gpus
        Ids of the GPUs to share out; from CUDA_VISIBLE_DEVICES or /dev when None.
    """

    name = "local"
    pace = Pace()

    def __init__(self, folder: Path, cores: int | None = None, gpus: Iterable[str] | None = None) -> None:
        self.folder = folder
        self.cores = cores or len(os.sched_getaffinity(0))
        self.gpus = tuple(machine_gpus() if gpus is None else gpus)
        self._children: dict[str, subprocess.Popen[bytes]] = {}
        self._starting: dict[str, float] = {}
        self._waiting: dict[str, QueueEntry] = {}
        self._running: dict[str, QueueEntry] = {}
        self._look_at_disk()

    def header(self, request: JobRequest) -> tuple[str, ...]:
        """Bash needs none."""
        return ()

    def submit(self, script: Path, name: str) -> Submitted | Refused | SubmitUnknown:
        """Put a job into the queue, and start it if there is room. The id is the name."""
        if script != self.folder / name / "job.sh":
            return Refused(f"{script}: the local scheduler runs {self.folder / name / 'job.sh'} only", wait=False)
        if self._is_submitted(name):
            return Refused(f"{name}: a job of this name was submitted before", wait=False)
        wanted = read_needs(script)
        note = ""
        if wanted.cores > self.cores:
            note = f"asked for {wanted.cores} cores, this machine gives {self.cores}"
        if wanted.gpus > len(self.gpus):
            note = f"{note}; " * bool(note) + f"asked for {wanted.gpus} GPUs, this machine has {len(self.gpus)}"
        entry = QueueEntry(name, time.time_ns(), min(wanted.cores, self.cores), min(wanted.gpus, len(self.gpus)), note)
        text = json.dumps({"place": entry.place, "cores": entry.cores, "gpus": entry.gpus, "note": entry.note})
        # renamed in whole; not flushed, a flush of the disk for each of thousands of jobs takes minutes
        temporary = self.folder / name / f".queued.{os.getpid()}"
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(self.folder / name / "queued")
        self._waiting[name] = entry
        if note:
            log.info("job %s %s", name, note)
        self._start_what_fits()
        return Submitted(name)

    def longest_s(self, section: ResourceSection) -> int | None:
        """None: jobs here have no time limit."""
        return None

    def memory_mb(self, number: str) -> int | None:
        """None: jobs here share the machine's memory."""
        return None

    def query(self, ids: Iterable[str]) -> Answer | NoAnswer:
        """Look at jobs; ids that were never submitted are absent."""
        self._start_what_fits()
        views = (self._view(name) for name in ids)
        return Answer({view.id: view for view in views if view is not None})

    def find(self, *names: str) -> Answer | NoAnswer:
        """Look for jobs by their names, ended ones too."""
        return self.query(names)

    def look_back(self, jobs: Mapping[str, str]) -> Answer | NoAnswer:
        """Nothing: what the folders do not tell, nobody knows."""
        return Answer({})

    def cancel(self, jobs: Iterable[str]) -> None:
        """End jobs (ids are names here) with all their processes: SIGTERM, then SIGKILL. Queued ones never start."""
        doomed = [name for name in jobs if self._is_submitted(name) and not self._has_exit(name)]
        for name in doomed:
            fsio.write_text(self.folder / name / "cancelled", f"{time.time():.3f}\n")
            self._forbid_start(name)
        for signum in (SIGTERM, SIGKILL):
            deadline = time.monotonic() + TERM_GRACE_S
            told: set[ProcessId] = set()
            while members := self._members(doomed):
                if time.monotonic() > deadline:
                    break
                # children may be forked until the last parent is gone: who is new is told, too
                for process in members:
                    if process not in told:
                        send_signal(process, signum)
                told |= set(members)
                time.sleep(0.02)
                self._refresh()
        for name in doomed:
            self._forget(name)

    def live(self) -> list[str]:
        """Names of the jobs that are queued or running, oldest first."""
        self._refresh()
        return [*self._running, *self._waiting]

    # ------------------------------------------------------------------ the queue

    def _look_at_disk(self) -> None:
        """Find the jobs that an earlier master left queued or running."""
        if not self.folder.is_dir():
            return
        found = []
        for entry in os.scandir(self.folder):
            folder = Path(entry.path)
            try:
                stored = json.loads((folder / "queued").read_text(encoding="utf-8"))
            except FileNotFoundError:
                continue
            except ValueError:
                # empty after a power cut: then the job did not start either, and the dispatcher will miss it
                (folder / "queued").unlink()
                continue
            if not (folder / "exit").exists():
                found.append(QueueEntry(entry.name, **stored))
        for item in sorted(found, key=lambda item: item.place):
            (self._running if (self.folder / item.name / "process").exists() else self._waiting)[item.name] = item

    def _refresh(self) -> None:
        """Forget the jobs that have ended, and collect the status of this master's own children."""
        for name, child in list(self._children.items()):
            if child.poll() is not None:
                del self._children[name]
        for name in list(self._running):
            if not self._is_starting(name) and not self._look(name).alive:
                self._forget(name)

    def _forget(self, name: str) -> None:
        for table in (self._waiting, self._running, self._starting):
            table.pop(name, None)

    def _is_starting(self, name: str) -> bool:
        """Whether a starter is on its way and has not recorded itself yet."""
        since = self._starting.get(name)
        if since is None:
            return False
        if (self.folder / name / "process").exists():
            del self._starting[name]
            return False
        if name in self._children or time.monotonic() - since < _STARTER_LOST_S:
            return True
        # it died before it could (killed, disk full): the job goes back to the head of the queue
        entry = self._running.pop(name)
        self._waiting = {name: entry, **self._waiting}
        del self._starting[name]
        return True

    def _start_what_fits(self) -> None:
        """Start queued jobs in their order as long as the next one fits (nobody overtakes: nobody starves)."""
        self._refresh()
        if not self._waiting:
            return
        free_cores = self.cores - sum(entry.cores for entry in self._running.values())
        taken = {gpu for name in self._running for gpu in self._gpus_of(name)}
        free_gpus = [gpu for gpu in self.gpus if gpu not in taken]
        for entry in list(self._waiting.values()):
            if entry.cores > free_cores or entry.gpus > len(free_gpus):
                break
            try:
                self._start(entry, free_gpus[: entry.gpus])
            except (BlockingIOError, MemoryError) as error:
                log.warning("job %s cannot be started now (%s); it stays queued", entry.name, error)
                break
            free_cores, free_gpus = free_cores - entry.cores, free_gpus[entry.gpus :]
            self._running[entry.name] = self._waiting.pop(entry.name)

    def _start(self, entry: QueueEntry, gpus: list[str]) -> None:
        folder = self.folder / entry.name
        environment = {key: value for key, value in os.environ.items() if key != KILL_AT_VARIABLE}
        environment |= {FOLDER_VARIABLE: str(folder), "PWACT_LIKE_CORES": str(entry.cores)}
        environment |= {"SLURM_NPROCS": str(entry.cores), "SLURM_NTASKS": str(entry.cores)}
        # jobs side by side on one machine would all be bound to the same first cores
        for variable, value in (
            ("OMPI_MCA_hwloc_base_binding_policy", "none"),
            ("PRTE_MCA_hwloc_default_binding_policy", "none"),
            ("I_MPI_PIN", "off"),
        ):
            environment.setdefault(variable, value)
        if gpus:
            environment["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)
            fsio.write_json(folder / "gpus", gpus)
        self._starting[entry.name] = time.monotonic()
        self._children[entry.name] = subprocess.Popen(
            ["bash", str(TEMPLATES / "local_start.sh"), str(folder), host_name()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env=environment,
            start_new_session=True,
        )

    def _gpus_of(self, name: str) -> list[str]:
        path = self.folder / name / "gpus"
        return [str(gpu) for gpu in fsio.read_json(path)] if path.exists() else []

    # ------------------------------------------------------------------ one job

    def _is_submitted(self, name: str) -> bool:
        return (self.folder / name / "queued").exists()

    def _has_exit(self, name: str) -> bool:
        return (self.folder / name / "exit").exists()

    def _view(self, name: str) -> JobView | None:
        if name in self._waiting:
            return JobView(name, name, alive=True, reason="waits for cores", node=host_name())
        if not self._is_submitted(name):
            return None
        if self._is_starting(name):
            return JobView(name, name, alive=True, reason="starts", node=host_name())
        return self._look(name)

    def _look(self, name: str) -> JobView:
        """Look at a job that was given to a starter: marker first, then process."""
        process = self._process(name)
        view = self._view_by_marker(name)
        if view is not None:
            return view
        if process is None:  # queued by an earlier master and not yet seen by this one
            return JobView(name, name, alive=True, reason="waits for cores", node=host_name())
        if process.pid == 0:
            return JobView(name, name, alive=False, cause=EndCause.CANCELLED, reason="cancelled before it started", node=process.host)
        if is_elsewhere(process):
            reason = f"runs on {process.host}: whether it still lives cannot be told from {host_name()}"
            return JobView(name, name, alive=True, running=True, reason=reason, node=process.host)
        if not self._is_ours(name, process):
            return JobView(name, name, alive=False, cause=EndCause.LOST, reason=f"it ran in {process.folder}, of which this is a copy")
        if is_alive(process):
            return JobView(name, name, alive=True, running=True, node=process.host)
        if job_members(process, FOLDER_VARIABLE, process.folder) and not (self.folder / name / "cancelled").exists():
            return JobView(name, name, alive=True, running=True, reason="its shell is gone, its tasks still run", node=process.host)
        # the marker may have been written between the first look and the process's end
        return self._view_by_marker(name) or self._gone(name, process)

    def _view_by_marker(self, name: str) -> JobView | None:
        try:
            status = (self.folder / name / "exit").read_text().strip()
        except FileNotFoundError:
            return None
        cause = EndCause.COMPLETED if status == "0" else EndCause.FAILED
        return JobView(name, name, alive=False, cause=cause, reason=f"exit status {status}", node=host_name())

    def _gone(self, name: str, process: ProcessId) -> JobView:
        if (self.folder / name / "cancelled").exists():
            cause, reason = EndCause.CANCELLED, "cancelled"
        elif process.boot != boot_id():
            cause, reason = EndCause.NODE_FAIL, "the machine was started anew"
        else:
            cause, reason = EndCause.LOST, f"its process {process.pid} is gone and left no exit marker"
        return JobView(name, name, alive=False, cause=cause, reason=reason, node=process.host)

    def _process(self, name: str) -> LocalProcess | None:
        path = self.folder / name / "process"
        try:
            pid, start, boot, host, folder = path.read_text(encoding="utf-8", errors="surrogateescape").removesuffix("\n").split("\n", 4)
            return LocalProcess(host=host, pid=int(pid), start=int(start), boot=boot, folder=folder)
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise DataError(f"{path}: not a record of a local job ({error}); delete the job's folder if the job does not run") from error

    def _is_ours(self, name: str, process: LocalProcess) -> bool:
        """Whether a record is of this folder, and not copied along with the folder of a campaign that goes on elsewhere."""
        folder, recorded = self.folder / name, Path(process.folder)
        return folder == recorded or (recorded.exists() and folder.samefile(recorded))

    def _forbid_start(self, name: str) -> None:
        """Take the place of the process record, so that no starter gets past it (pid 0: never started)."""
        folder = self.folder / name
        temporary = folder / f".process.cancel.{os.getpid()}"
        temporary.write_bytes(f"0\n0\n{boot_id()}\n{host_name()}\n{folder}\n".encode("utf-8", "surrogateescape"))
        try:
            os.link(temporary, folder / "process")
        except FileExistsError:
            pass  # it has started: its processes are ended instead
        finally:
            temporary.unlink()

    def _members(self, names: Iterable[str]) -> list[ProcessId]:
        found: list[ProcessId] = []
        for name in names:
            process = self._process(name)
            if process is not None and process.pid and not is_elsewhere(process) and self._is_ours(name, process):
                found += job_members(process, FOLDER_VARIABLE, process.folder)
        return found


def machine_gpus() -> list[str]:
    """Ids of the GPUs that this process may use."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return [gpu for gpu in visible.split(",") if gpu.strip() not in ("", "-1")]
    numbers = [int(found[1]) for path in Path("/dev").glob("nvidia*") if (found := re.fullmatch(r"nvidia(\d+)", path.name))]
    return [str(number) for number in sorted(numbers)]

"""What the dispatcher costs on a real Slurm: submission beside raw sbatch, a poll tick beside one squeue a job, planning, waiting.

    python benchmarks/slurm_speed.py [--jobs 1000] [--rounds 3] [--wait 180] [--tasks 10000]

Uses the Slurm of SLURM_CONF if that is set, else starts a private one of the tests' (slurmctld, slurmd and munge must be
installed). All jobs are submitted with `--begin=now+1day`, so that they stay pending, and are cancelled at the end.
"""

import argparse
import contextlib
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "slurm")]

from pwact_like.config.resource import Resource, ResourceSection  # noqa: E402
from pwact_like.jobs import group  # noqa: E402
from pwact_like.jobs.dispatcher import Dispatcher  # noqa: E402
from pwact_like.jobs.journal import Journal  # noqa: E402
from pwact_like.jobs.lock import MasterLock  # noqa: E402
from pwact_like.jobs.script import Work  # noqa: E402
from pwact_like.jobs.slurm import SUBMISSIONS, SlurmScheduler  # noqa: E402
from pwact_like.jobs.types import JobRequest, Task  # noqa: E402
from pwact_like.outcome import Ok, TaskFiles  # noqa: E402
from pwact_like.workflows import active_learning, session  # noqa: E402

IN_MEMORY = (active_learning, session)  # what a master has loaded, so that the waiting one weighs the same
SECTION = ResourceSection(custom_flags=("--begin=now+1day",), time="30")


class CountingScheduler(SlurmScheduler):
    """Counts the processes that it starts."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        run = self.commands.run

        def counted(program: str, *arguments: str, **options: object) -> object:
            self.calls.append(program)
            return run(program, *arguments, **options)  # type: ignore[arg-type]

        self.commands.run = counted  # type: ignore[method-assign, assignment]


def make_tasks(folder: Path, count: int, name: str) -> list[Task]:
    """Tasks that would write a file."""
    files = TaskFiles(outputs=("out",))
    tasks = []
    for number in range(count):
        place = folder / name / f"t{number:05d}"
        place.mkdir(parents=True)
        tasks.append(Task(f"{name} {number}", f"{name}/t{number:05d}", place, "train", ("touch out",), files))
    return tasks


@contextlib.contextmanager
def dispatcher(folder: Path, scheduler: SlurmScheduler, **options: object) -> Iterator[Dispatcher]:
    """A dispatcher in a folder of its own."""
    state = folder / ".pwact_like" / "run"
    with MasterLock(state) as lock, Journal(state / "journal.sqlite", lock) as journal:
        yield Dispatcher(state, folder, journal, scheduler, Resource(scheduler="slurm", train=SECTION), "bench", **options)  # type: ignore[arg-type]


def ok(task: Task, folder: Path) -> Ok:
    """Judge nothing."""
    return Ok()


def cancel_all() -> None:
    """End every job of this user on the cluster."""
    subprocess.run(["scancel", "-u", str(os.getuid())], check=False)
    deadline = time.monotonic() + 30
    # until the controller has forgotten them, where it soon does
    while time.monotonic() < deadline and subprocess.run(["squeue", "-h", "-a", "-t", "all"], capture_output=True, check=True).stdout:
        time.sleep(0.5)


def raw_rate(folder: Path, count: int, scheduler: SlurmScheduler) -> float:
    """Jobs a second of sbatch alone: scripts are written before, as many threads."""
    scripts = []
    for number, task in enumerate(make_tasks(folder, count, "raw")):
        work = [Work(task, 1)]
        place = folder / "jobs" / f"raw-{number}"
        resource = Resource(scheduler="slurm", train=SECTION)
        header = scheduler.header(JobRequest(f"raw-{number}", SECTION))
        assert header
        group.write_script(place / "job.sh", group.script_content(f"raw-{number}", place, work, resource, scheduler))
        scripts.append(place / "job.sh")

    def submit(script: Path) -> None:
        subprocess.run(["sbatch", "--parsable", script.name], cwd=script.parent, capture_output=True, check=True)

    begin = time.perf_counter()
    with ThreadPoolExecutor(SUBMISSIONS) as pool:
        list(pool.map(submit, scripts))
    return count / (time.perf_counter() - begin)


def our_rate(folder: Path, count: int, scheduler: CountingScheduler, poll: bool) -> tuple[float, dict[str, float]]:
    """Jobs a second of the dispatcher, journal and scripts included; and, with ``poll``, what a tick of live jobs costs."""
    tasks = make_tasks(folder, count, "ours")
    with dispatcher(folder, scheduler) as ours:
        ours.begin(tasks, ok)
        begin = time.perf_counter()
        ours.tick()
        rate = count / (time.perf_counter() - begin)
        return rate, poll_cost(ours, scheduler) if poll else {}


def poll_cost(ours: Dispatcher, scheduler: CountingScheduler) -> dict[str, float]:
    """Milliseconds of a tick in which nothing changes, its processes, and one squeue a job beside it."""
    ours.tick()  # what changed since the submission
    scheduler.calls.clear()
    times = []
    for _ in range(20):
        begin = time.perf_counter()
        ours.tick()
        times.append(time.perf_counter() - begin)
    ids = [row.id for row in ours.job_rows() if row.id is not None]
    begin = time.perf_counter()
    for number in ids:
        subprocess.run(["squeue", "-h", "-j", number, "-o", "%T"], capture_output=True, check=True)
    one_by_one = time.perf_counter() - begin
    bare = []
    for _ in range(20):
        begin = time.perf_counter()
        scheduler.query(ids[:1])
        bare.append(time.perf_counter() - begin)
    return {
        "tick ms (median)": 1e3 * statistics.median(times),
        "tick ms (worst)": 1e3 * max(times),
        "processes a tick": len(scheduler.calls[:-20]) / 20,
        "of it squeue and reading it, ms": 1e3 * statistics.median(bare),
        "one squeue a job, ms": 1e3 * one_by_one,
    }


def planning(folder: Path, count: int, scheduler: SlurmScheduler) -> tuple[float, float]:
    """Seconds to plan tasks (journal included), and to write a script for each."""
    tasks = make_tasks(folder, count, "many")
    with dispatcher(folder, scheduler) as ours:
        begin = time.perf_counter()
        ours.begin(tasks, ok)
        planned = time.perf_counter() - begin
        begin = time.perf_counter()
        ours.dry_run(tasks)
        return planned, time.perf_counter() - begin


def waiting(folder: Path, count: int, seconds: float) -> dict[str, float]:
    """Memory and processor time of a master that waits, children included, at its normal pace."""
    script = f"import sys; sys.path.insert(0, {str(ROOT / 'benchmarks')!r}); import slurm_speed; slurm_speed.wait_as_master(*sys.argv[1:])"
    master = subprocess.Popen([sys.executable, "-c", script, str(folder), str(count)])
    try:
        ready = folder / "ready"
        while not ready.exists():
            if master.poll() is not None:
                raise SystemExit("the waiting master ended")
            time.sleep(0.2)
        before, begin = cpu_seconds(master.pid), time.perf_counter()
        time.sleep(seconds)
        used = (cpu_seconds(master.pid) - before) / (time.perf_counter() - begin)
        lines = Path(f"/proc/{master.pid}/status").read_text().splitlines()
        memory = {line.split(":")[0]: float(line.split()[1]) / 1024 for line in lines if line.startswith(("VmRSS", "VmHWM"))}
        return {"CPU % of a core": 100 * used, "memory MB": memory["VmRSS"], "peak MB": memory["VmHWM"]}
    finally:
        master.kill()
        master.wait()


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and of its children that have ended."""
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return sum(int(value) for value in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def wait_as_master(folder: str, count: str) -> None:
    """Submit jobs and wait for them for ever."""
    place = Path(folder)
    tasks = make_tasks(place, int(count), "wait")
    ticks = threading.Event()

    def ticked() -> None:
        if not ticks.is_set():
            ticks.set()
            (place / "ready").touch()

    with dispatcher(place, SlurmScheduler(), on_tick=ticked) as ours:
        ours.run(tasks, ok)


@contextlib.contextmanager
def slurm() -> Iterator[Callable[[], None]]:
    """The user's Slurm, or a private one; gives a function that makes it remember ended jobs as long as usual.

    Until then the private one forgets them at once, so that each round of submissions begins with an empty list.
    """
    if os.environ.get("SLURM_CONF"):
        yield lambda: None
        return
    from cluster import Cluster

    with Cluster(MinJobAge=2, MaxJobCount=30000) as private:
        os.environ.update(private.environment)
        yield lambda: private.reconfigure(MinJobAge=300)


def main() -> None:
    """Run everything and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--wait", type=float, default=180.0, help="seconds that a waiting master is watched")
    parser.add_argument("--tasks", type=int, default=10000)
    args = parser.parse_args()
    with slurm() as remember, tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(args.rounds):
            raw = raw_rate(folder / f"raw{number}", args.jobs, SlurmScheduler())
            cancel_all()
            last = number == args.rounds - 1
            rate, cost = our_rate(folder / f"ours{number}", args.jobs, CountingScheduler(), poll=last)
            cancel_all()
            print(f"submission, round {number + 1}: {rate:.0f} jobs/s, raw sbatch {raw:.0f} jobs/s, ratio {rate / raw:.2f}", flush=True)
        for what, value in cost.items():
            print(f"poll of {args.jobs} live jobs: {what}: {value:.1f}")
        planned, rendered = planning(folder / "many", args.tasks, SlurmScheduler())
        print(f"{args.tasks} tasks: planned in {planned:.1f} s, a script each in {rendered:.1f} s", flush=True)
        remember()
        for what, value in waiting(folder / "wait", args.jobs, args.wait).items():
            print(f"waiting for {args.jobs} jobs: {what}: {value:.2f}")
        cancel_all()


if __name__ == "__main__":
    main()

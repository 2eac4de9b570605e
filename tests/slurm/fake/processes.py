"""Processes of jobs: each run has a shepherd that starts the script, waits for it, ends what it left, and notes how it ended.

The shepherd is forked by whichever command found room for the job, so that no daemon is needed. It waits for a word that
comes only after the state with its pid is written: a command that is killed in between leaves no process that nobody knows.
"""

from __future__ import annotations

import os
import signal
import time

from fake.store import JOB_VARIABLE, Folder

LAUNCH_FAILED = 53  # what the controller shows as exit code 0:53


def start_time(pid: int) -> int:
    """Start time of a process in clock ticks since boot; 0 when there is none, or only a zombie."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as stream:  # noqa: PTH123
            fields = stream.read().rpartition(b")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0 if not fields or fields[0] in {b"Z", b"X"} else int(fields[19])


def send(pid: int, started: int, number: int) -> bool:
    """Signal this very process; False when it is gone."""
    if not started or start_time(pid) != started:
        return False
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def members(token: str, session: int, spare: set[int]) -> dict[int, int]:
    """Start time by pid of every process of a run: marked in its environment, or in the session of its script."""
    mark = f"{JOB_VARIABLE}={token}".encode(errors="surrogateescape")
    found = {}
    for entry in os.listdir("/proc"):  # noqa: PTH208
        if not entry.isdigit() or int(entry) in spare or int(entry) == os.getpid():
            continue
        try:
            with open(f"/proc/{entry}/stat", "rb") as stream:  # noqa: PTH123
                fields = stream.read().rpartition(b")")[2].split()
            if not fields or fields[0] in {b"Z", b"X"}:
                continue
            if int(fields[3]) != session:
                with open(f"/proc/{entry}/environ", "rb") as stream:  # noqa: PTH123
                    if mark not in stream.read().split(b"\0"):
                        continue
        except OSError:
            continue
        found[int(entry)] = int(fields[19])
    return found


def read_begun(run_folder: str, wait_s: float = 0.0) -> tuple[int, int]:
    """Pid and start time of the script of a run; zeros when it has not begun."""
    deadline = time.monotonic() + wait_s
    while True:
        try:
            with open(f"{run_folder}/begun", encoding="ascii") as stream:  # noqa: PTH123
                pid, started = stream.read().split()
            return int(pid), int(started)
        except FileNotFoundError:
            if time.monotonic() >= deadline:
                return 0, 0
            time.sleep(0.002)


def read_end(run_folder: str) -> tuple[int, float] | None:
    """Wait status of the script and the (real) time of its end; the status is `LAUNCH_FAILED` when it was never begun."""
    try:
        with open(f"{run_folder}/end", encoding="ascii") as stream:  # noqa: PTH123
            status, moment = stream.read().split()
    except FileNotFoundError:
        return None
    return int(status), float(moment)


def signal_run(folder: Folder, number: int, run: int, signal_number: int, spare: set[int], batch_only: bool = False) -> int:
    """Signal every process of a run, or the batch shell alone; gives how many there were."""
    pid, started = read_begun(folder.run_folder(number, run), wait_s=0.5)
    if not pid:
        return 0
    if batch_only:
        return int(send(pid, started, signal_number))
    session = pid if start_time(pid) in {started, 0} else -1
    return sum(send(pid, began, signal_number) for pid, began in members(folder.token(number, run), session, spare).items())


def end_run(folder: Folder, number: int, run: int, spare: set[int], begins: bool = True) -> None:
    """Kill every process of a run and wait until they are gone; ``begins``: it may be about to begin."""
    pid, started = read_begun(folder.run_folder(number, run), wait_s=0.5 if begins else 0.0)
    session = pid if pid and start_time(pid) in {started, 0} else -1  # a session outlives its leader
    deadline = time.monotonic() + 5.0
    while found := members(folder.token(number, run), session, spare):
        for member, began in found.items():
            send(member, began, signal.SIGKILL)
        if time.monotonic() > deadline:
            return
        time.sleep(0.002)


def start(
    folder: Folder, number: int, run: int, argv: list[str], environment: dict[str, str], workdir: str, files: tuple[str, str, bool]
) -> tuple[int, int, int]:
    """Fork a shepherd; gives its pid, its start time and the gate where it waits for one byte."""
    run_folder = folder.run_folder(number, run)
    os.makedirs(run_folder, exist_ok=True)  # noqa: PTH103
    read_end_, write_end = os.pipe()
    pid = os.fork()
    if pid:
        os.close(read_end_)
        return pid, start_time(pid), write_end
    try:
        os.setsid()
        null = os.open("/dev/null", os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(null, descriptor)
        os.dup2(read_end_, 3)
        os.closerange(4, 1024)  # the lock and other shepherds' gates among them
        for number_ in range(1, 32):
            if number_ not in {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
                signal.signal(number_, signal.SIG_DFL)
        signal.pthread_sigmask(signal.SIG_SETMASK, [])
        if os.read(3, 1):
            os.close(3)
            _shepherd(folder, number, run, argv, environment, workdir, files)
    finally:
        os._exit(0)


def _write(path: str, text: str) -> None:
    with open(f"{path}.new", "w", encoding="ascii") as stream:  # noqa: PTH123
        stream.write(text)
    os.rename(f"{path}.new", path)  # noqa: PTH104


def _shepherd(
    folder: Folder, number: int, run: int, argv: list[str], environment: dict[str, str], workdir: str, files: tuple[str, str, bool]
) -> None:
    run_folder = folder.run_folder(number, run)
    try:
        os.chdir(workdir)
        complaint = ""
    except OSError as error:
        complaint = f"slurmstepd: error: couldn't chdir to `{workdir}': {error.strerror}: going to /tmp instead\n"
        os.chdir("/tmp")
    output, error_file, append = files
    flags = os.O_WRONLY | os.O_CREAT | (os.O_APPEND if append else os.O_TRUNC)
    try:
        out = os.open(output, flags, 0o666)
        err = os.dup(out) if error_file == output else os.open(error_file, flags, 0o666)
    except OSError:
        _write(f"{run_folder}/begun", "0 0")
        _write(f"{run_folder}/end", f"{LAUNCH_FAILED} {time.time()}")
        return
    os.write(err, complaint.encode(errors="surrogateescape"))
    gate, begin = os.pipe()
    pid = os.fork()
    if not pid:
        try:
            os.setsid()
            os.close(begin)
            if not os.read(gate, 1):
                os._exit(1)
            os.dup2(out, 1)
            os.dup2(err, 2)
            os.closerange(3, 64)
            environment["SLURM_TASK_PID"] = str(os.getpid())
            os.execve(argv[0], argv, environment)
        except OSError as error:
            os.write(2, f"slurmstepd: error: execve(): {argv[0]}: {error.strerror}\n".encode(errors="surrogateescape"))
        finally:
            os._exit(127)
    os.close(gate)
    _write(f"{run_folder}/begun", f"{pid} {start_time(pid)}")
    os.write(begin, b"g")
    os.close(begin)
    _, status = os.waitpid(pid, 0)
    try:
        spare = {shepherd for _, _, shepherd, _ in folder.peek().runs}
    except FileNotFoundError:
        spare = set()
    end_run(folder, number, run, spare)
    _write(f"{run_folder}/end", f"{status} {time.time()}")


def own_start_time() -> int:
    """Start time of this process."""
    return start_time(os.getpid())

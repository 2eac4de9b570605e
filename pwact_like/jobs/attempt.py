"""The folder of one attempt: how it ended, what it left, and its acceptance by rename."""

from __future__ import annotations

import errno
import filecmp
import os
from collections.abc import Sequence
from pathlib import Path

from pwact_like import fsio
from pwact_like.crashpoints import reach
from pwact_like.errors import DataError
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.types import Task
from pwact_like.outcome import CUT_OFF_FILE

# what stays of an accepted attempt: who ran it, how it ended, what it said
KEPT = frozenset({"claim", "exit", "stdout", "stderr"})
FULL_DISK_BYTES = 4 << 20
_DIAGNOSIS_BYTES = 16384
_DIAGNOSIS_LENGTH = 300


def exit_status(task: Task, number: int) -> int | None:
    """Exit status from the attempt's marker; None as long as there is none."""
    path = attempt_folder(task, number) / "exit"
    try:
        text = path.read_text()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        return int(text.split(maxsplit=1)[0])
    except (ValueError, IndexError):
        return -1  # never by our script, whose marker is renamed in whole: counts as a failure


def was_warned(task: Task, number: int) -> bool:
    """Whether the attempt failed after the scheduler's warning that the time limit is near (its script says so in the marker)."""
    try:
        return "time limit" in (attempt_folder(task, number) / "exit").read_text()
    except OSError:
        return False


def has_progressed(task: Task, number: int) -> bool:
    """Whether the attempt left a checkpoint (one of ``files.checkpoints``) that no attempt before it had left.

    The last one before it is not enough: attempts that cannot use their checkpoint and begin anew would come to other places in turn.
    """
    for name in task.files.checkpoints:
        path = attempt_folder(task, number) / name
        if not path.is_file():
            continue
        before = [old for n in range(number - 1, 0, -1) if (old := attempt_folder(task, n) / name).is_file()]
        if not any(filecmp.cmp(path, old, shallow=False) for old in before):
            return True
    return False


def was_claimed(task: Task, number: int) -> bool:
    """Whether a job has begun this attempt."""
    return (attempt_folder(task, number) / "claim").exists()


def has_claim(job_folder: Path) -> bool:
    """Whether the script of a job has begun; the folder is listed, so that a network file system looks at it again."""
    try:
        return any(entry.name == "claim" for entry in os.scandir(job_folder))
    except OSError:
        return False


def claimed_by(job_folder: Path) -> str:
    """The scheduler's id of the job that began this job's script; "" as long as nobody has, or where jobs have none."""
    try:
        words = (job_folder / "claim").read_text().split()
    except OSError:
        return ""
    return words[2] if len(words) > 2 else ""


def began_later_s(task: Task, number: int, job_folder: Path) -> float:
    """Seconds from the beginning of a job to that of an attempt in it; 0 when not known."""
    try:
        return (attempt_folder(task, number) / "claim").stat().st_mtime - (job_folder / "claim").stat().st_mtime
    except OSError:
        return 0.0


def last_attempt_on_disk(task: Task) -> int:
    """Highest number of an attempt whose folder is there (0: none); such a number is never used again."""
    try:
        return max((int(entry.name) for entry in os.scandir(task.folder / ".attempt") if entry.name.isdigit()), default=0)
    except (FileNotFoundError, NotADirectoryError):
        return 0


def refresh(task: Task, number: int) -> None:
    """List the attempt's folder, so that a network file system looks at it again."""
    for folder in (task.folder, task.folder / ".attempt", attempt_folder(task, number)):
        try:
            for _ in os.scandir(folder):
                pass
        except OSError:
            return


def missing_outputs(task: Task, number: int) -> list[str]:
    """Declared outputs that the attempt did not leave."""
    folder = attempt_folder(task, number)
    return [name for name in task.files.outputs if not (folder / name).exists()]


def missing_results(task: Task) -> list[str]:
    """Declared outputs that are not in the task's folder, where an accepted task has them."""
    return [name for name in task.files.outputs if not (task.folder / name).exists()]


def is_untouched(task: Task) -> bool:
    """Whether nothing was ever run in the task's folder: no attempts, no outputs."""
    return last_attempt_on_disk(task) == 0 and not any((task.folder / name).exists() for name in task.files.outputs)


def diagnosis(path: Path) -> str:
    """Last non-empty line of a text file, shortened; "" when there is none."""
    try:
        with path.open("rb") as stream:
            stream.seek(0, os.SEEK_END)
            stream.seek(max(0, stream.tell() - _DIAGNOSIS_BYTES))
            lines = stream.read().decode("utf-8", "replace").splitlines()
    except OSError:
        return ""
    for line in reversed(lines):
        text = "".join(character if character.isprintable() else " " for character in line).strip()
        if text:
            return text if len(text) <= _DIAGNOSIS_LENGTH else text[: _DIAGNOSIS_LENGTH - 1] + "…"
    return ""


def failure_reason(task: Task, number: int, status: int) -> str:
    """One line: exit status, the last thing the attempt said, and where to read on."""
    folder = attempt_folder(task, number)
    for name in ("stderr", "stdout"):
        said = diagnosis(folder / name)
        if said:
            return f"exit status {status}: {said} ({folder / name})"
    return f"exit status {status}, and it said nothing ({folder})"


def names_to_accept(task: Task, number: int) -> list[str]:
    """Names that go into the task's folder: every output, and the optional ones that are there."""
    folder = attempt_folder(task, number)
    names = list(task.files.outputs)
    for pattern in task.files.optional_outputs:
        names += sorted(fsio.relative_path(path, folder) for path in folder.glob(pattern) if path.name not in KEPT)
    secret = set(task.files.secret)
    return [name for name in dict.fromkeys(names) if name not in secret]


def refuse_full_disk(task: Task) -> None:
    """Raise when the disk that holds a failed task is as good as full: then that, and not the task, is what failed.

    Raises
    ------
    OSError
        ENOSPC.
    """
    try:
        free = os.statvfs(task.folder)
    except OSError:
        return
    if free.f_bavail * free.f_frsize < FULL_DISK_BYTES:
        raise OSError(errno.ENOSPC, "No space left on device (a task failed, which is not held against it)", str(task.folder))


def accept(task: Task, number: int, names: Sequence[str]) -> None:
    """Rename an attempt's outputs into the task's folder, and tidy up; done again after a kill it completes what is left.

    Raises
    ------
    DataError
        When a name is neither in the attempt's nor in the task's folder.
    """
    folder = attempt_folder(task, number)
    if task.files.counts_cut_off and CUT_OFF_FILE not in names:
        # what an earlier acceptance left, should its outputs have been removed and nothing else
        (task.folder / CUT_OFF_FILE).unlink(missing_ok=True)
    for name in names:
        source, target = fsio.safe_join(folder, name), fsio.safe_join(task.folder, name)
        if not os.path.lexists(source):
            if os.path.lexists(target):
                continue  # renamed before an interruption
            raise DataError(
                f"{source}: the output was there when the attempt was judged and is gone now; it is not in {task.folder} either"
            )
        _sync(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        if target.is_dir() and not target.is_symlink():
            # a folder cannot be renamed over another one: what lies there is older and is kept in the attempt
            target.rename(folder / f"replaced.{target.name}")
        # no flush of the folder: the journal's own, right after this, brings earlier renames of its file system along
        source.replace(target)
        reach("accepting")
    remove_secrets(task)
    _tidy(task, folder)


def remove_secrets(task: Task) -> None:
    """Remove licensed files from the task's folder and from every attempt."""
    attempts = task.folder / ".attempt"
    folders = [task.folder]
    if attempts.is_dir():
        folders += [Path(entry.path) for entry in os.scandir(attempts) if entry.is_dir()]
    for name in task.files.secret:
        for folder in folders:
            fsio.safe_join(folder, name).unlink(missing_ok=True)


def remove_attempt_secrets(task: Task, number: int) -> None:
    """Remove licensed files from one ended attempt; the task's folder keeps them for the next one."""
    for name in task.files.secret:
        fsio.safe_join(attempt_folder(task, number), name).unlink(missing_ok=True)


def _tidy(task: Task, folder: Path) -> None:
    """Leave only the logs of an accepted attempt; copies of inputs go silently, all else through the ledger."""
    copies = {name for name in task.files.inputs if "/" not in name} | {name for name, _ in task.files.links if "/" not in name}
    rest = []
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if entry.name in KEPT or entry.name.startswith("replaced."):
            continue
        if entry.name in copies and (entry.is_symlink() or entry.is_file()):
            path.unlink()
        else:
            rest.append(path)
    fsio.delete_with_ledger(folder.parent, sorted(rest), "left over in an accepted attempt")


def _sync(path: Path) -> None:
    """Bring a file's content (or a folder's files) to the disk before its name is changed."""
    files = [path] if not path.is_dir() else [Path(root) / name for root, _, names in os.walk(path) for name in names]
    for file in files:
        try:
            handle = os.open(file, os.O_RDONLY)
        except OSError:
            continue  # a link to nowhere, a socket: nothing to bring
        try:
            os.fsync(handle)
        except OSError:
            pass  # not every file system can
        finally:
            os.close(handle)

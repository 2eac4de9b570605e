"""The work folder's file system: room, kind, and whether it does what a campaign needs: locks, links, renames, a clock."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from pwact_like.report.doctor.findings import Finding, amount, bad, ok, one_line, warn
from pwact_like.report.doctor.slurm_findings import clock_finding

TOPIC = "disk"
FREE_WARN, FREE_BAD = 10e9, 100e6
FILES_WARN, FILES_BAD = 100_000, 1000
SLOW_FLUSH_S = 1.0
_QUOTA_TIMEOUT_S = 10.0
_SHARED = {
    "nfs",
    "nfs4",
    "lustre",
    "gpfs",
    "beegfs",
    "ceph",
    "panfs",
    "pvfs2",
    "orangefs",
    "cifs",
    "smb3",
    "9p",
    "afs",
    "wekafs",
    "quobyte",
}


@dataclass(frozen=True)
class Mount:
    """A line of /proc/mounts."""

    where: str
    kind: str
    options: tuple[str, ...]
    source: str

    @property
    def shared(self) -> bool:
        """Whether other machines may see it, as far as its kind tells."""
        return self.kind in _SHARED or self.kind.startswith("fuse.")


def mount_of(mounts: str, path: Path) -> Mount | None:
    """The mount that holds a path: the longest mount point above it, of several on one point the last."""
    best: Mount | None = None
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 4:
            continue
        source, where = (re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), text) for text in fields[:2])
        if path.is_relative_to(where) and (best is None or len(where) >= len(best.where)):
            best = Mount(where, fields[2], tuple(fields[3].split(",")), source)
    return best


def mount_findings(mount: Mount, slurm: bool) -> Iterator[Finding]:
    """What a kind of file system means for a campaign."""
    kind, text = mount.kind, f"{mount.kind}, mounted on {mount.where}"
    if kind in ("tmpfs", "ramfs"):
        yield warn(TOPIC, f"{text}: it lives in memory and is gone after a reboot", "take a folder on a disk as work_dir")
    elif kind in ("overlay", "aufs"):
        yield warn(
            TOPIC, f"{text}: a container's own layer, gone with the container", "take a folder that is mounted from outside as work_dir"
        )
    elif kind in ("vfat", "exfat", "msdos", "ntfs", "fuseblk"):
        yield warn(TOPIC, f"{text}: no links and loose names", "take a folder on a Unix file system as work_dir")
    elif kind.startswith("nfs"):
        yield from _nfs_findings(mount, text)
    elif kind == "lustre":
        yield ok(TOPIC, f"{text}: many small files are slow there; keep reserve_work false")
        if "localflock" in mount.options:
            yield warn(
                TOPIC, "mounted with localflock: a lock holds on this machine only", "start masters of one work folder on one machine only"
            )
    elif kind in ("fuse.sshfs", "cifs", "smb3"):
        yield warn(
            TOPIC, f"{text}: locks and renames are not to be trusted there", "take a folder of the cluster's own file system as work_dir"
        )
    else:
        yield ok(TOPIC, text)
        if slurm and not mount.shared:
            yield warn(
                TOPIC,
                f"{kind} is a disk of this machine: compute nodes see it only if it is exported to them under the same path",
                "--submit tells; otherwise take a folder of the shared file system as work_dir",
            )
    if "ro" in mount.options:
        yield bad(TOPIC, f"{mount.where} is mounted read-only", "take another work_dir")


def _nfs_findings(mount: Mount, text: str) -> Iterator[Finding]:
    if "nolock" in mount.options or "local_lock=all" in mount.options or "local_lock=posix" in mount.options:
        yield warn(
            TOPIC,
            f"{text} without network locks: a lock holds on this machine only",
            "start masters of one work folder on one machine only",
        )
    options = dict(option.partition("=")[::2] for option in mount.options)
    late = max((int(value) for key in ("acregmax", "acdirmax") if (value := options.get(key, "")).isdigit()), default=60)
    if "noac" in mount.options or late == 0:
        late = 0
    yield ok(
        TOPIC, f"{text}: files written elsewhere may show up to {late} s late; grace_s in resource.json (60 with Slurm) waits for them"
    )
    if "soft" in mount.options:
        yield warn(
            TOPIC,
            "mounted soft: when the server is slow, reading and writing fail instead of waiting",
            "ask the administrators for hard mounts",
        )
    if late > 60:
        yield warn(
            TOPIC, f"attributes are cached for {late} s, longer than the default grace_s", f'"grace_s": {late + 10} in resource.json'
        )


def room_findings(free_bytes: float, total_bytes: float, free_files: int, total_files: int, what: str) -> Iterator[Finding]:
    """Free space and free inodes (total 0: the file system has no fixed number)."""
    text = f"{amount(free_bytes)} of {amount(total_bytes)} free in {what}"
    if free_bytes < FREE_BAD:
        yield bad(TOPIC, text, "make room, or take another work_dir: a campaign needs some GB")
    elif free_bytes < FREE_WARN:
        yield warn(TOPIC, text, "trajectories of a campaign take some GB; reserve_md_traj and reserve_work false keep it small")
    else:
        yield ok(TOPIC, text)
    if total_files:
        counted = f"{free_files} files can still be made"
        if free_files < FILES_WARN:
            cure = "remove what is not needed, or take another work_dir: a campaign makes some hundred thousand files"
            yield bad(TOPIC, counted, cure) if free_files < FILES_BAD else warn(TOPIC, counted, cure)


def quota_findings(text: str, status: int) -> Iterator[Finding]:
    """What ``quota -w`` says: a star stands behind what is over its limit (quota(1))."""
    rows = [line.split() for line in text.splitlines() if re.match(r"\s*\S+\s+\d+\*?\s+\d+\s+\d+", line)]
    over = [row[0] for row in rows if any(cell.endswith("*") for cell in row[1:])]
    if over:
        yield bad(TOPIC, f"over the quota on {', '.join(over)}", "make room: quota -s tells how much")
        return
    for row in rows:
        used, soft, hard = (int(cell) for cell in row[1:4])
        limit = hard or soft
        if limit:  # in blocks of 1 kB
            share = used / limit
            said = f"quota on {row[0]}: {amount(1024 * used)} of {amount(1024 * limit)} used"
            yield warn(TOPIC, said, "make room: quota -s tells how much") if share > 0.9 else ok(TOPIC, said)
    if not rows and status != 0 and text.strip():
        yield warn(TOPIC, f"quota says: {one_line(text)}")


def examine_folder(work_dir: Path, slurm: bool) -> Iterator[Finding]:
    """Look at the work folder; what is made there for it is removed again."""
    if not work_dir.is_dir():
        yield bad(TOPIC, f"{work_dir} is no folder", "make it, or give another one with --work-dir")
        return
    yield ok(TOPIC, f"work folder: {work_dir}")
    try:
        mount = mount_of(Path("/proc/mounts").read_text(encoding="utf-8", errors="replace"), work_dir.resolve())
    except OSError:
        mount = None
    if mount is not None:
        yield from mount_findings(mount, slurm)
    room = os.statvfs(work_dir)
    yield from room_findings(room.f_bavail * room.f_frsize, room.f_blocks * room.f_frsize, room.f_favail, room.f_files, str(work_dir))
    yield from _quota()
    try:
        folder = Path(tempfile.mkdtemp(prefix=".pwact_like_doctor_", dir=work_dir))
    except OSError as error:
        yield bad(TOPIC, f"nothing can be written in {work_dir}: {error.strerror}", "correct its permissions, or give another --work-dir")
        return
    try:
        yield from ability_findings(folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def ability_findings(folder: Path) -> Iterator[Finding]:
    """Try for real, in an empty folder, what a campaign does with files."""
    tries: tuple[tuple[str, Callable[[Path], None], str], ...] = (
        ("exclusive creation (O_EXCL)", _exclusive, "two jobs could do the same work"),
        ("hard links", _hard_link, "the master's lock cannot be taken"),
        ("symbolic links", _symbolic_link, "tasks cannot link their data"),
        ("renaming over a file", _rename, "files cannot be replaced whole"),
        ("locks (fcntl)", _lock, "the journal (SQLite) cannot be kept"),
        ("an SQLite file", _database, "the journal cannot be kept"),
    )
    good = []
    for name, attempt, consequence in tries:
        place = folder / re.sub(r"\W+", "_", name)
        place.mkdir()
        try:
            attempt(place)
            good.append(name)
        except (OSError, sqlite3.Error) as error:
            text = f"{name}: {getattr(error, 'strerror', None) or error}: {consequence}"
            yield bad(TOPIC, text, "take a work_dir on a file system that can (the cluster's scratch or project space, say)")
    if good:
        yield ok(TOPIC, f"these work: {', '.join(good)}")
    flush_s, skew_s = _flush(folder), file_clock_skew_s(folder)
    if flush_s > SLOW_FLUSH_S:
        yield warn(
            TOPIC,
            f"bringing one file to the disk takes {flush_s:.1f} s: every step of the journal waits for that",
            "take a faster work_dir",
        )
    yield clock_finding(TOPIC, "the file system's clock", skew_s)


def file_clock_skew_s(folder: Path) -> float:
    """Seconds by which the file system's clock is ahead of this machine's: a new file's time stamp against the time around it."""
    path = folder / "clock"
    before = time.time()
    path.write_bytes(b"x")
    after = time.time()
    stamp = path.stat().st_mtime
    # time stamps are coarse (a clock tick, or a second): within the bounds there is no skew
    return min(0.0, stamp - before + 1.0) if stamp < before else max(0.0, stamp - after)


def _exclusive(folder: Path) -> None:
    path = folder / "one"
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    try:
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))
    except FileExistsError:
        return
    raise OSError(0, "a file was created twice")


def _hard_link(folder: Path) -> None:
    (folder / "one").write_bytes(b"x")
    os.link(folder / "one", folder / "two")
    try:
        os.link(folder / "one", folder / "two")
    except FileExistsError:
        return
    raise OSError(0, "a link was made twice")


def _symbolic_link(folder: Path) -> None:
    (folder / "one").write_bytes(b"x")
    (folder / "two").symlink_to("one")
    if (folder / "two").read_bytes() != b"x":
        raise OSError(0, "a link does not lead to its file")


def _rename(folder: Path) -> None:
    (folder / "one").write_bytes(b"x")
    (folder / "two").write_bytes(b"y")
    (folder / "one").replace(folder / "two")
    if (folder / "two").read_bytes() != b"x":
        raise OSError(0, "the old file is still there")


def _lock(folder: Path) -> None:
    with (folder / "one").open("wb") as stream:
        fcntl.lockf(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(stream, fcntl.LOCK_UN)


def _database(folder: Path) -> None:
    connection = sqlite3.connect(folder / "one.sqlite", timeout=10.0)
    try:
        with connection:
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("CREATE TABLE t (x)")
            connection.execute("INSERT INTO t VALUES (1)")
    finally:
        connection.close()


def _flush(folder: Path) -> float:
    begun = time.monotonic()
    with (folder / "flush").open("wb") as stream:
        stream.write(b"x" * 4096)
        stream.flush()
        os.fsync(stream.fileno())
    return time.monotonic() - begun


def _quota() -> Iterator[Finding]:
    program = shutil.which("quota")
    if program is None:
        return
    try:
        result = subprocess.run(
            [program, "-w"],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=_QUOTA_TIMEOUT_S,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except (OSError, subprocess.TimeoutExpired):
        return  # optional, and often no answer is to be had
    yield from quota_findings(result.stdout, result.returncode)

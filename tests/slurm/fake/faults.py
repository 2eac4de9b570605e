"""The plan of faults, and what each of them does to a call."""

from __future__ import annotations

import marshal
import os
import signal
import time

from fake import admission
from fake.options import Reply
from fake.scancel import by_ids_alone, ids_of
from fake.scontrol import ping
from fake.store import Folder, Locked

UNREACHABLE = "Unable to contact slurm controller (connect failure)"
_SOCKET = "Socket timed out on send/recv operation"
_MUNGE = "Protocol authentication error"
# exit status of scancel: the error's number, of which the shell sees eight bits
_SCANCEL_STATUS = {UNREACHABLE: 8, _SOCKET: 140, _MUNGE: 239}

BEFORE = ("hang", "die", "error", "unreachable", "socket_timeout", "munge", "empty", "submit_limit", "temporarily_unable", "bad_partition")
BEFORE += ("bad_account", "slow", "until", "node_configuration")
AFTER = ("accept_then_hang", "accept_then_die", "accept_then_error", "partial", "garbage", "stderr", "status")
KINDS = (*BEFORE, *AFTER)


def plan(folder: Folder, faults: list[dict]) -> None:
    """Replace the plan."""
    with Locked(folder):
        folder.write("faults", marshal.dumps(faults))


def read(folder: Folder) -> list[dict]:
    """The plan as it is."""
    try:
        with open(f"{folder.path}/faults", "rb") as stream:  # noqa: PTH123
            return marshal.load(stream)
    except FileNotFoundError:
        return []


def take(folder: Folder, command: str, text: str) -> str:
    """Kind of the fault for this call, "" for none; ``text`` is what its pattern is looked for in."""
    if not read(folder):
        return ""
    with Locked(folder):
        faults, kind = read(folder), ""
        for fault in faults:
            if fault["command"] not in {command, "*"} or not fault["times"] or not _matches(fault["match"], text):
                continue
            if fault["after"]:
                fault["after"] -= 1
                continue
            if fault["times"] > 0:
                fault["times"] -= 1
            kind = fault["kind"]
            break
        folder.write("faults", marshal.dumps(faults))
    return kind


def _matches(pattern: str, text: str) -> bool:
    if not pattern:
        return True
    import re  # milliseconds: only for those who ask

    return re.search(pattern, text) is not None


def wait_for_the_end() -> None:
    """Do nothing until killed."""
    while True:
        signal.pause()


def die() -> None:
    """End as if somebody had sent SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)
    wait_for_the_end()


def before(kind: str, command: str, argv: list[str]) -> Reply | None:
    """Instead of the call, or None: let it go on."""
    word, _, detail = kind.partition(":")
    if word == "hang":
        wait_for_the_end()
    elif word == "die":
        die()
    elif word == "error":
        return Reply(1, err=f"{detail}\n")
    elif word == "unreachable":
        return no_contact(command, argv, UNREACHABLE)
    elif word == "socket_timeout":
        return no_contact(command, argv, _SOCKET)
    elif word == "munge":
        return no_contact(command, argv, _MUNGE)
    elif word == "empty":
        return Reply(0)
    elif word == "submit_limit":
        return admission.submit_limit()
    elif word == "bad_partition":
        return admission.bad_partition(detail or "cpu")
    elif word == "bad_account":
        return admission.bad_account()
    elif word == "temporarily_unable":
        os.write(2, admission.UNABLE.encode())
        wait_for_the_end()
    elif word == "slow":
        time.sleep(float(detail))
    elif word == "until":
        while not os.path.exists(detail):  # noqa: PTH110
            time.sleep(0.02)
    return None


def after(kind: str, command: str, argv: list[str], reply: Reply) -> tuple[int, bytes, bytes]:
    """Status and output of a call that was carried out."""
    word, _, detail = kind.partition(":")
    out, err = (text.encode(errors="surrogateescape") for text in (reply.out, reply.err))
    if reply.status:
        return reply.status, out, err
    if word == "accept_then_hang":
        wait_for_the_end()
    elif word == "accept_then_die":
        die()
    elif word == "accept_then_error":
        failed = no_contact(command, argv, _SOCKET)
        return failed.status, failed.out.encode(), failed.err.encode()
    elif word == "partial":
        lines = out.splitlines(keepends=True)
        half = len(lines) // 2
        out = b"".join(lines[:half])
        if detail != "lines" and half < len(lines):
            out += lines[half][: len(lines[half]) // 2]
    elif word == "garbage":
        noise = b"\xff\xfe\x80 \xc3\x28|\xf0\x9f|RUNNING\x00|\n"
        out = noise + out + "⟨∂E∕∂ε⟩ ünïcödé\n".encode() + noise.rstrip(b"\n")
    elif word == "stderr":
        err += f"{detail}\n".encode(errors="surrogateescape")
    elif word == "status":
        return int(detail), out, err
    return reply.status, out, err


def no_contact(command: str, argv: list[str], reason: str) -> Reply:
    """What each command says when it gets no answer (recorded with the real ones)."""
    head = ""
    request = {
        "sbatch": "REQUEST_SUBMIT_BATCH_JOB",
        "squeue": "REQUEST_JOB_INFO",
        "scancel": "REQUEST_KILL_JOB",
        "sinfo": "REQUEST_PARTITION_INFO",
    }.get(command, "REQUEST_PING")
    if reason == _MUNGE:
        socket = 'Failed to access "/run/munge/munge.socket.2": No such file or directory (Did you start munged?)'
        lines = ("If munged is up, restart with --num-threads=10", f"Munge encode failed: {socket}")
        lines += (f"slurm_send_node_msg: auth_g_create: {request} has authentication error",)
        head = "".join(f"{command}: error: {line}\n" for line in lines)
    if command == "sbatch":
        return Reply(1, err=f"{head}sbatch: error: Batch job submission failed: {reason}\n")
    if command == "scancel" and by_ids_alone(argv):
        lines = [f"scancel: error: Kill job error on job id {number}: {reason}\n" for number in ids_of(argv)]
        return Reply(_SCANCEL_STATUS[reason], err=head + "".join(lines))
    if command == "sinfo":
        return Reply(1, err=f"{head}slurm_load_partitions: {reason}\n")
    if command == "sacct":
        refused = "Connection refused"
        lines = (f"slurm_persist_conn_open_without_init: failed to open persistent connection to host:localhost:6819: {refused}",)
        lines += (f"Sending PersistInit msg: {refused}", f"Problem talking to the database: {refused}")
        return Reply(1, err="".join(f"sacct: error: {line}\n" for line in lines))
    if command == "scontrol":
        words = [word for word in argv if not word.startswith("-")]
        if words[:1] == ["ping"]:
            failed = ping(False)
            failed.err = head
            return failed
        if words[:1] == ["requeue"]:
            return Reply(1, err="".join(f"{head}Unexpected message received for job {number}\n" for number in words[1:]))
        table = {"config": "ctl_conf", "partition": "partitions", "partitions": "partitions", "node": "node", "nodes": "node"}
        return Reply(1, err=f"{head}slurm_load_{table.get(words[1] if len(words) > 1 else '', 'jobs')} error: {reason}\n")
    return Reply(1, err=f"{head}slurm_load_jobs error: {reason}\n")

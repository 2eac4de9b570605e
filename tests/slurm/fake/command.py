"""Entry of every command, and of what the tests' side lets a fresh process do (it forks, which a test's process must not)."""

from __future__ import annotations

import gc
import marshal
import os
import signal
import sys
import time

from fake import actions, admission, faults, processes
from fake.controller import tick
from fake.options import Reply
from fake.store import FOLDER_VARIABLE, Folder, Locked

gc.disable()  # it lives for some milliseconds


def main(command: str, home: str) -> None:
    """Run a command of the fake whose folder is in the environment, or else ``home``."""
    # surrogateescape is what makes any byte in an argument or a file survive, and LC_ALL=C of the caller must not matter
    argv = [os.fsencode(word).decode("utf-8", "surrogateescape") for word in sys.argv[1:]]
    folder = Folder(os.environ.get(FOLDER_VARIABLE, home))
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # end as a C program does
    if command == "control":
        control(folder)
        os._exit(0)
    folder.log_call(command, argv, processes.own_start_time())
    try:
        status, out, err = run(folder, command, argv)
    except Reply as reply:
        status, out, err = reply.status, reply.out.encode(errors="surrogateescape"), reply.err.encode(errors="surrogateescape")
    _write(1, out)
    _write(2, err)
    os._exit(status)


def _write(descriptor: int, content: bytes) -> None:
    while content:
        try:
            content = content[os.write(descriptor, content) :]
        except BrokenPipeError:
            return


def run(folder: Folder, command: str, argv: list[str]) -> tuple[int, bytes, bytes]:
    """Status and output of a call."""
    if {"-V", "--version"} & set(argv):
        return 0, f"slurm-wlm {folder.peek().config['version']}\n".encode(), b""
    submission = None
    text = " ".join(argv)
    if command == "sbatch":
        from fake.sbatch import Submission

        submission = Submission(argv)
        text += "\n" + submission.options.get("job-name", submission.name)
    kind = faults.take(folder, command, text)
    reply = faults.before(kind, command, argv) or act(folder, command, argv, submission, kind)
    return faults.after(kind, command, argv, reply)


def act(folder: Folder, command: str, argv: list[str], submission: object, kind: str) -> Reply:
    """Carry a call out."""
    told = False
    while True:
        try:
            with Locked(folder) as locked:
                up, delay_s = locked.state.controller_up or command == "sacct", locked.state.controller_delay_s
                if up:
                    tick(folder, locked)
                    return _answer(folder, locked, command, argv, submission, kind)
        except admission.Full:
            if not told:
                _write(2, admission.UNABLE.encode())
            told = True
            admission.wait_for_room()
        if not up:
            time.sleep(delay_s)
            return faults.no_contact(command, argv, faults.UNREACHABLE)


def _answer(folder: Folder, locked: Locked, command: str, argv: list[str], submission: object, kind: str) -> Reply:
    # imported here: no command pays for the others
    state = locked.state
    if command == "sbatch":
        from fake.sbatch import submit

        return submit(folder, locked, submission, admission.node_configuration() if kind == "node_configuration" else None)
    if command == "squeue":
        from fake.squeue import squeue

        return squeue(state, argv)
    if command == "scancel":
        from fake.scancel import scancel

        reply = scancel(folder, state, argv)
        tick(folder, locked)
        return reply
    if command == "scontrol":
        from fake.scontrol import scontrol

        reply = scontrol(folder, state, argv)
        tick(folder, locked)
        return reply
    from fake.tables import sacct, sinfo

    return (sinfo if command == "sinfo" else sacct)(state, argv)


def control(folder: Folder) -> None:
    """Do what the tests' side asks for on stdin."""
    what, arguments = marshal.load(sys.stdin.buffer)
    result = None
    if what == "advance":
        actions.advance(folder, *arguments)
    elif what == "apply":
        result = actions.apply(folder, *arguments)
    else:
        with Locked(folder) as locked:
            tick(folder, locked)
    _write(1, marshal.dumps(result))

"""Runs dp in forks of a process that has loaded TensorFlow already, which takes longer than the small trainings of the tests.

DEEPMD_PYTHON deepmd_server.py SOCKET                        serves until its standard input ends
PYTHON deepmd_server.py SOCKET dp ARGUMENTS...               as `dp ARGUMENTS...`, in this folder, with this environment
PYTHON deepmd_server.py SOCKET SCRIPT.py ARGUMENTS...        a script by DeePMD-kit's Python
"""

import json
import os
import socket
import sys
import threading
from pathlib import Path


def call(path, words):
    """Ask the server; its child writes to our own stdout and stderr."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(path)
        text = json.dumps([words, str(Path.cwd()), dict(os.environ)]).encode()
        socket.send_fds(connection, [len(text).to_bytes(8, "big")], [1, 2])
        connection.sendall(text)
        answer = connection.recv(4)
    return int.from_bytes(answer, "big") if answer else 1


def received(connection):
    """Words, folder, environment, and the caller's stdout and stderr."""
    size, fds, _, _ = socket.recv_fds(connection, 8, 2)
    text = b""
    while len(text) < int.from_bytes(size, "big"):
        text += connection.recv(1 << 16)
    return (*json.loads(text), fds)


def run(words, folder, environment, fds):
    """In the child: become dp."""
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    for target, fd in enumerate(fds, start=1):
        os.dup2(fd, target)
    program, *arguments = words
    sys.argv = words
    if program == "dp":
        from deepmd.main import main

        main(arguments)
    else:
        import runpy

        runpy.run_path(program, run_name="__main__")


def serve(path):
    """Serve until standard input ends."""
    # what all commands import; no session is made here: a fork would not have its threads
    import ase.calculators.calculator  # noqa: F401
    import deepmd.calculator
    import deepmd.entrypoints.convert_backend
    import deepmd.tf.entrypoints.main
    import deepmd.tf.infer.deep_eval  # noqa: F401

    threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(path)
        listening.listen(8)
        while True:
            connection, _ = listening.accept()
            words, folder, environment, fds = received(connection)
            child = os.fork()
            if child == 0:
                status = 1
                try:
                    run(words, folder, environment, fds)
                    status = 0
                except SystemExit as end:
                    status = end.code if isinstance(end.code, int) else int(end.code is not None)
                except BaseException:
                    import traceback

                    traceback.print_exc()
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(status)
            for fd in fds:
                os.close(fd)
            threading.Thread(target=_answer, args=(connection, child), daemon=True).start()


def _answer(connection, child):
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    connection.sendall((status % 256).to_bytes(4, "big"))
    connection.close()


if __name__ == "__main__":
    if len(sys.argv) == 2:
        serve(sys.argv[1])
    else:
        sys.exit(call(sys.argv[1], sys.argv[2:]))

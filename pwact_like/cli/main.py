"""The launcher: finds the command, imports its module only, and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import difflib
import errno
import importlib
import os
import shutil
import sys
import traceback
from collections.abc import Sequence

from pwact_like import __version__
from pwact_like.errors import PwactLikeError

# command → (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "init_bulk": ("pwact_like.cli.init_bulk", "make labelled starting data from crystal structures"),
    "run": ("pwact_like.cli.run", "train, explore, select, label, repeat (starts or continues)"),
    "check": ("pwact_like.cli.check", "check param.json and resource.json, all problems at once"),
    "doctor": ("pwact_like.cli.doctor", "look at this machine and Slurm, and say what will not work"),
    "status": ("pwact_like.cli.status", "show where a campaign stands"),
    "explain": ("pwact_like.cli.explain", "say what happened to a task, attempt by attempt"),
    "kill": ("pwact_like.cli.kill", "end a campaign's jobs and its master"),
    "retry": ("pwact_like.cli.retry", "let failed tasks begin anew at the next start"),
    "rewind": ("pwact_like.cli.rewind", "go back to an earlier stage; its results are moved aside, not deleted"),
    "filter": ("pwact_like.cli.filter", "apply other trust levels to an exploration"),
    "to_pwdata": ("pwact_like.cli.to_pwdata", "convert labelled data between formats"),
    "gather_pwdata": ("pwact_like.cli.gather_pwdata", "collect every iteration's labelled data"),
    "train": ("pwact_like.cli.train", "train an embedded potential"),
    "eval": ("pwact_like.cli.eval", "errors of a model on labelled data"),
    "export": ("pwact_like.cli.export", "write embedded potentials for DeePMD-kit and its LAMMPS"),
    "kpu": ("pwact_like.cli.kpu", "uncertainty of a model along trajectories, in PWact's format"),
    "md": ("pwact_like.cli.md", "molecular dynamics with a model or a committee"),
    "lammps": ("pwact_like.cli.lammps", "the steps of a LAMMPS task of a campaign"),
    "label": ("pwact_like.cli.label", "label a structure with an embedded labelling engine"),
    "choose": ("pwact_like.cli.choose", "choose frames that differ from each other out of trajectories"),
}

# package that only an extra brings → the extra; every other missing module is a broken installation
EXTRAS = {
    **dict.fromkeys(("torch", "vesin", "vesin_torch"), "torch"),
    **{"tblite": "xtb", "chgnet": "chgnet", "sevenn": "sevennet", "matplotlib": "report", "h5py": "export", "lammps": "lammps"},
}


def build_parser() -> argparse.ArgumentParser:
    """Parser of the launcher itself; a command's own options are added once it is known."""
    lines = "\n".join(f"  {name:<14} {text}" for name, (_, text) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="pwact-like",
        description="Active learning of interatomic potentials.",
        epilog=f"commands:\n{lines}\n\nCOMMAND -h tells more about one of them.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"pwact-like {__version__}")
    parser.add_argument("command", metavar="COMMAND", help="one of the commands below, in any case")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="its arguments")
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the launcher; returns the exit status (0; 1 a fault of ours; 2 bad input; others: see ``errors``)."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not arguments:
        parser.print_help(sys.stderr)
        return 2
    namespace = parser.parse_args(arguments[:1])
    name = namespace.command.lower().replace("-", "_")
    if name not in COMMANDS:
        near = difflib.get_close_matches(name, COMMANDS, n=1)
        hint = f"did you mean {near[0]}?" if near else f"commands: {', '.join(COMMANDS)}"
        parser.error(f"unknown command {namespace.command!r}; {hint}")
    try:
        return _run_command(name, arguments[1:])
    except PwactLikeError as error:
        return _say(name, str(error), error.exit_status)
    except KeyboardInterrupt:
        return _say(name, "interrupted", 130)
    except BrokenPipeError:
        # the reader (head, less) has gone; without this Python complains once more when it flushes at its end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ModuleNotFoundError as error:
        extra = EXTRAS.get((error.name or "").split(".")[0])
        if extra is None:
            return _say_fault(name)
        return _say(name, f"this needs the package {error.name}, which is not installed: pip install 'pwact-like[{extra}]'", 2)
    except OSError as error:
        return _say_os_error(name, error, arguments[1:])
    except Exception:
        return _say_fault(name)


def build_command_parser(name: str) -> argparse.ArgumentParser:
    """Parser of one command; imports its module."""
    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    parser = argparse.ArgumentParser(
        prog=f"pwact-like {name}", description=module.__doc__ or text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.configure(parser)
    parser.set_defaults(run_command=module.run)
    return parser


def _run_command(name: str, arguments: Sequence[str]) -> int:
    namespace = build_command_parser(name).parse_args(arguments)
    return int(namespace.run_command(namespace))


def _say(name: str, text: str, status: int) -> int:
    print(f"pwact-like {name}: {text}", file=sys.stderr)
    return status


def _say_fault(name: str) -> int:
    traceback.print_exc()
    return _say(name, f"this is a fault of pwact_like {__version__} itself; please report it with the lines above", 1)


def _full_place(arguments: Sequence[str]) -> str:
    """The folder among those of a command whose disk has no room left, "" when none is seen to be full."""
    for text in (*arguments, os.curdir, os.environ.get("TMPDIR", "/tmp")):  # noqa: S108 - only looked at
        place = os.path.abspath(text)  # noqa: PTH100 - links stay as the user knows them
        while not os.path.lexists(place) and os.path.dirname(place) != place:  # noqa: PTH120 - what is not there yet would be made
            place = os.path.dirname(place)  # noqa: PTH120
        try:
            if os.access(place, os.W_OK) and shutil.disk_usage(place).free < 1 << 16:
                return place
        except (OSError, ValueError):
            continue  # no path
    return ""


def _say_os_error(name: str, error: OSError, arguments: Sequence[str] = ()) -> int:
    """A full disk or a folder without permission is no fault of ours: name the place and the cure."""
    full = error.errno in (errno.ENOSPC, errno.EDQUOT)
    where = error.filename or (_full_place(arguments) if full else "")
    place = f"{where}: " if where else ""
    if full:
        return _say(name, f"{place}the disk or its quota is full; make room and give the same command again: what is finished is kept", 1)
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS, errno.EISDIR, errno.ENOTDIR, errno.EEXIST, errno.ENAMETOOLONG):
        return _say(name, f"{place}{error.strerror}; check the path and its permissions", 2)
    return _say_fault(name)

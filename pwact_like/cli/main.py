"""The launcher: finds the command, imports its module only, and turns errors into messages and exit statuses."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

from pwact_like import __version__
from pwact_like.errors import PwactLikeError

# command → (module, one line of help)
COMMANDS: dict[str, tuple[str, str]] = {
    "init_bulk": ("pwact_like.cli.init_bulk", "make labelled starting data from crystal structures"),
    "run": ("pwact_like.cli.run", "train, explore, select, label, repeat (starts or continues)"),
    "check": ("pwact_like.cli.check", "check param.json and resource.json, all problems at once"),
    "status": ("pwact_like.cli.status", "show where a campaign stands"),
    "kill": ("pwact_like.cli.kill", "end a campaign's jobs and its master"),
    "filter": ("pwact_like.cli.filter", "apply other trust levels to an exploration"),
    "to_pwdata": ("pwact_like.cli.to_pwdata", "convert labelled data between formats"),
    "gather_pwdata": ("pwact_like.cli.gather_pwdata", "collect every iteration's labelled data"),
    "train": ("pwact_like.cli.train", "train an embedded potential"),
    "eval": ("pwact_like.cli.eval", "errors of a model on labelled data"),
    "md": ("pwact_like.cli.md", "molecular dynamics with a model or a committee"),
    "label": ("pwact_like.cli.label", "label a structure with an embedded labelling engine"),
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
    """Run the launcher; returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    parser = build_parser()
    if not arguments:
        parser.print_help()
        return 2
    namespace = parser.parse_args(arguments[:1])
    name = namespace.command.lower().replace("-", "_")
    if name not in COMMANDS:
        parser.error(f"unknown command {namespace.command!r}; commands: {', '.join(COMMANDS)}")
    module_name, text = COMMANDS[name]
    module = importlib.import_module(module_name)
    command_parser = argparse.ArgumentParser(
        prog=f"pwact-like {name}", description=module.__doc__ or text, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    module.configure(command_parser)
    try:
        return int(module.run(command_parser.parse_args(arguments[1:])))
    except PwactLikeError as error:
        print(f"pwact-like {name}: {error}", file=sys.stderr)
        return error.exit_status
    except BrokenPipeError:
        return 0

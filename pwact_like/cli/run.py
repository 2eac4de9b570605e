"""Start an active-learning campaign, or go on with it: train, explore, select, label, repeat.

The same command starts and continues; killing it at any moment loses nothing, and jobs that run stay. Ctrl-C ends the
master cleanly.
"""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("param", type=Path, help="param.json")
    parser.add_argument("resource", type=Path, nargs="?", help="resource.json (default: this machine, one core a task)")
    parser.add_argument("--work-dir", type=Path, help="folder of the campaign; overrides work_dir of param.json")
    parser.add_argument("--lenient", action="store_true", help="unknown keys are warnings instead of errors")
    parser.add_argument("--dry-run", action="store_true", help="write the first stage that would submit, and submit nothing")
    parser.add_argument(
        "--once", action="store_true", help="do what can be done now and end, without waiting for jobs (for cron: the same command again)"
    )
    parser.add_argument("--take-over", action="store_true", help="take the lock of a master on another machine that is gone")


def run(args: argparse.Namespace) -> int:
    """Run the campaign; 0 when it converged or finished."""
    from dataclasses import replace
    from functools import partial

    from pwact_like.cli.check import probes
    from pwact_like.config.engines_known import unavailable
    from pwact_like.config.load import load_run
    from pwact_like.errors import InProgress, StopRequested
    from pwact_like.fsio import is_finished
    from pwact_like.workflows.active_learning import run_campaign
    from pwact_like.workflows.driver import DryRunDone
    from pwact_like.workflows.edits import Sources
    from pwact_like.workflows.session import open_session, refuse_unavailable
    from pwact_like.workflows.start import look_into, no_data, refuse_foreign

    loaded = load_run(args.param, args.resource, work_dir=args.work_dir, lenient=args.lenient)
    refuse_unavailable(unavailable(loaded))
    refuse_foreign(loaded.param.work_dir)
    # before days of work: every structure, the data, and the inputs of the last stage too
    looks = probes()
    if is_finished(loaded.param.work_dir / "dataset"):
        looks = replace(looks, data=no_data)
    loaded = look_into(args.param, args.resource, args.work_dir, args.lenient, looks)
    for note in loaded.notes:
        print(f"note: {note}")
    sources = Sources(args.param, args.resource, partial(load_run, work_dir=args.work_dir, lenient=args.lenient))
    try:
        with open_session("run", loaded, sources=sources, dry_run=args.dry_run, once=args.once, take_over=args.take_over) as session:
            end = run_campaign(session, loaded)
    except DryRunDone as done:
        print(done)
        for task in done.tasks:
            print(f"  {task.folder}")
        print(f"job scripts: {loaded.param.work_dir / '.pwact_like' / 'run' / 'dry-run'}")
        return 0
    except InProgress as waiting:
        print(waiting)
        return 0
    except StopRequested as request:
        print(f"stopped; running jobs stay. To go on: {shlex.join(sys.argv)}\nTo end them: pwact-like kill run", file=sys.stderr)
        return request.exit_status
    print(f"{end.state}: {end.reason}")
    _print_results(loaded.param.work_dir, [str(path) for path in end.models])
    return 0


def _print_results(work_dir: Path, models: list[str]) -> None:
    from pwact_like.report.status import iteration_table, read_status

    print("\n".join(iteration_table(read_status(work_dir, "run")["iterations"])))
    print("\nfinal models:")
    for path in models:
        print(f"  {path}")
    print("\nto use them with ASE:")
    print("  from pwact_like.potentials import load_committee, PotentialCalculator")
    print(f"  atoms.calc = PotentialCalculator(load_committee({models!r}))")
    print(f"or: pwact-like md {shlex.quote(models[0])} -s STRUCTURE --temp 300 --nsteps 1000")
    print("collect the data: pwact-like gather_pwdata -i " + shlex.quote(str(work_dir)))

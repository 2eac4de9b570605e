"""Make labelled starting data from crystal structures: relax, supercell, scale, perturb, then MD or single points.

Every step of the chain is optional, structure by structure (sys_configs of init_param.json):

  relax        the labelling program relaxes atoms and cell (relax_input)
  super_cell   [a, b, c], nine integers or a 3×3 matrix
  scale        factors of the lattice vectors; each gives one structure
  perturb      so many copies of each structure, strained by up to cell_pert_fraction (six random components)
               and displaced by up to atom_pert_distance Å
  aimd         MD of each structure with the labelling program (aimd_input); every interval-th frame is a label
  bigmodel     in place of aimd: MD with a big model (bigmodel_input), by a script or a model's name
  direct       a choice among the big model's frames (direct_input: a script; without one the embedded DIRECT)
  scf          single points (scf_input): of the MD's frames, at most scf_max_num of them, drawn at random;
               without MD of the structures themselves. Where there are single points, they alone are collected.

All that is random follows from "seed". The result lies in collection/: the structures and, for each system, train.xyz or
PWdata/ (data_format), with what was left out and why in rejected.csv; collection/datapath.txt lists the data. A failed
relaxation or MD run gives up its branch; more than half of a stage's tasks failing ends the command with status 3.
The work folder temp_init_bulk_work is removed at the end (except failed tasks) unless reserve_work is true.

The same command starts and continues; killing it at any moment loses nothing, and jobs that run stay.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.workflows.init_bulk import BulkEnd


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    parser.add_argument("param", type=Path, help="init_param.json")
    parser.add_argument("resource", type=Path, nargs="?", help="resource.json (default: this machine, one core a task)")
    parser.add_argument("--work-dir", type=Path, help="folder to work in; overrides work_dir of init_param.json")
    parser.add_argument("--lenient", action="store_true", help="unknown keys are warnings instead of errors")
    parser.add_argument("--dry-run", action="store_true", help="write the first stage that would submit, and submit nothing")
    parser.add_argument(
        "--once", action="store_true", help="do what can be done now and end, without waiting for jobs (for cron: the same command again)"
    )
    parser.add_argument("--take-over", action="store_true", help="take the lock of a master on another machine that is gone")


def run(args: argparse.Namespace) -> int:
    """Make the data; 0 when the collection is finished."""
    from functools import partial

    from pwact_like.config.engines_known import unavailable
    from pwact_like.config.load import load_init_bulk
    from pwact_like.errors import InProgress, StopRequested
    from pwact_like.workflows.driver import DryRunDone
    from pwact_like.workflows.edits import Sources
    from pwact_like.workflows.init_bulk import check_start, run_init_bulk
    from pwact_like.workflows.session import open_session, refuse_unavailable

    loaded = load_init_bulk(args.param, args.resource, work_dir=args.work_dir, lenient=args.lenient)
    for note in loaded.notes:
        print(f"note: {note}")
    refuse_unavailable(unavailable(loaded))
    check_start(loaded)
    sources = Sources(args.param, args.resource, partial(load_init_bulk, work_dir=args.work_dir, lenient=args.lenient), takes_param=False)
    try:
        with open_session("init_bulk", loaded, sources=sources, dry_run=args.dry_run, once=args.once, take_over=args.take_over) as session:
            end = run_init_bulk(session, loaded)
    except DryRunDone as done:
        print(done)
        for task in done.tasks:
            print(f"  {task.folder}")
        print(f"job scripts: {loaded.param.work_dir / '.pwact_like' / 'init_bulk' / 'dry-run'}")
        return 0
    except InProgress as waiting:
        print(waiting)
        return 0
    except StopRequested as request:
        print(f"stopped; running jobs stay. To go on: {' '.join(sys.argv)}\nTo end them: pwact-like kill init_bulk", file=sys.stderr)
        return request.exit_status
    _print_end(end)
    return 0


def _print_end(end: BulkEnd) -> None:
    print(f"\ncollected in {end.collection}:")
    for row in end.systems:
        lost = f", {row.rejected} left out (see {row.system}/rejected.csv)" if row.rejected else ""
        what = f"{row.frames} labelled frames" if row.data else "structures only"
        print(f"  {row.system} ({Path(row.structure).name}): {what}{lost}")
    if end.kept_failures:
        print("failed tasks, kept to look at:")
        for path in end.kept_failures:
            print(f"  {path}")
    paths = [str(row.data) for row in end.systems if row.data]
    if paths:
        print(f"\n{end.frames} labelled frames in all; to start from them, put this line into param.json:")
        print(f'  "init_data": {json.dumps(paths, ensure_ascii=False)},')

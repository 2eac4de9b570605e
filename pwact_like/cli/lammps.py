"""Steps of a LAMMPS task, in the task's folder (the current one). Campaigns call it; nobody else needs to.

pwact-like lammps run
    LAMMPS, as a library, with the embedded potential through fix external; then `end`.

pwact-like lammps convert
    make DeePMD-kit's files of the embedded models, for pair_style deepmd, or take those that another run has made (--shared);
    those that are there already are left alone.

pwact-like lammps begin
    make the folder ready to go on from a restart file of an interrupted attempt.

pwact-like lammps trim
    cut off a frame that was only begun, before LAMMPS reads its trajectory again.

pwact-like lammps end
    judge how LAMMPS ended (its exit status stands in lmp.exit), and leave model_devi.out and one trajectory with each
    step once. Fails when the run was cut off and can be tried again.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.engines.explorers.lammps_task import LmpTask


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.add_argument("step", choices=("run", "convert", "begin", "trim", "end"), help="see above")
    parser.add_argument("--lmp", default="", metavar="PATH", help="convert: LAMMPS, in whose folder dp is looked for before PATH")
    parser.add_argument("--shared", type=Path, metavar="DIR", help="convert: folder of converted models that the runs share")


def run(args: argparse.Namespace) -> int:
    """Run it."""
    from pwact_like.engines.explorers.lammps_finish import trim
    from pwact_like.engines.explorers.lammps_restart import begin
    from pwact_like.engines.explorers.lammps_task import LmpTask

    folder = Path.cwd()
    task = LmpTask.read(folder)
    if args.step == "trim":
        trim(folder)
    elif args.step == "convert":
        from pwact_like.engines.explorers.lammps_convert import convert

        made = convert(folder, task, args.lmp, args.shared)
        print(f"{folder}: made {', '.join(made)}" if made else f"{folder}: the models were converted before")
    elif args.step == "end":
        _end(folder, task, _status(folder), "")
    else:
        step = begin(folder, task)
        if step is not None:
            print(f"{folder}: goes on from step {step} of {task.nsteps}")
        if args.step == "run":
            from pwact_like.engines.explorers.lammps_driver import drive

            _end(folder, task, 0, drive(folder, task))
    return 0


def _status(folder: Path) -> int:
    """Exit status of LAMMPS."""
    from pwact_like.engines.explorers.lammps_task import EXIT
    from pwact_like.errors import DataError

    try:
        return int((folder / EXIT).read_text().split()[0])
    except (OSError, ValueError, IndexError) as error:
        raise DataError(f"{folder / EXIT}: LAMMPS's exit status should stand here; was LAMMPS run?") from error


def _end(folder: Path, task: LmpTask, status: int, ended: str) -> None:
    from pwact_like.engines.explorers.lammps_finish import finish, how_it_ended

    ended = ended or how_it_ended(folder, task, status)
    if task.deviations == "replay":
        from pwact_like.engines.explorers.lammps_replay import replay

        ended = replay(folder, task) or ended
    note = ""
    if task.exported:
        from pwact_like.engines.explorers.lammps_replay import slots_note

        note = slots_note(folder, task)
    result = finish(folder, task, ended, note)
    print(f"{folder}: {result.frames} of {result.frames_planned} frames, last step {result.step} of {task.nsteps}")
    if result.ended:
        print(f"ended early, {result.ended}")
    if result.note:
        print(result.note)

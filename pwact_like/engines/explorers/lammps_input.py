"""LAMMPS inputs: the blocks that every input has of ours, the input by keywords, and that of the runs over a trajectory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pwact_like.engines.explorers.lammps_cell import mass_lines
from pwact_like.engines.explorers.lammps_pair import PairStyle
from pwact_like.engines.explorers.lammps_task import (
    BEGIN,
    DATA,
    PLUMED,
    PLUMED_LOG,
    RESTART_STEPS,
    RESTARTS,
    STEP,
    STOP_LINK,
    TRAJECTORY,
    LmpTask,
    forces_name,
)
from pwact_like.engines.protocols import MdSettings

LOOK_EVERY_STEPS = 20  # for the end of the job's time: one look at a file
_COLUMNS = "id type element xu yu zu fx fy fz"


@dataclass(frozen=True)
class Blocks:
    """Our lines: before anything else; the structure with the potential; what is written; what follows the last run."""

    top: tuple[str, ...]
    structure: tuple[str, ...]
    output: tuple[str, ...]
    end: tuple[str, ...]


def blocks(task: LmpTask, style: PairStyle, *, plumed: bool, dump_options: Sequence[str] = ()) -> Blocks:
    """The blocks of a run. ``dump_options`` are the user's words for dump_modify; a run with PLUMED cannot be continued."""
    early, late = style.lines(task.pair_models, task.elements, task.trj_freq)
    edge = "p p p" if task.boundary else "f f f"
    top = [f"include {BEGIN}", "units metal", f"boundary {edge}", "atom_style atomic", *early]
    structure = [*(["box tilt large"] if task.boundary else []), _read_line(), *mass_lines(task.elements), *late]
    output = [
        f"dump pwl_dump all custom {task.trj_freq} {TRAJECTORY} {_COLUMNS}",
        *([" ".join(["dump_modify pwl_dump", *dump_options])] if dump_options else []),
        _dump_form("pwl_dump", task.elements),
        'if "${pwl_resumed} > 0" then "dump_modify pwl_dump append yes"',
    ]
    if plumed:
        output.append(f"fix pwl_plumed all plumed plumedfile {PLUMED} outfile {PLUMED_LOG}")
    else:
        output += [
            f"restart {RESTART_STEPS} {RESTARTS[0]} {RESTARTS[1]}",
            f"variable pwl_stop equal is_file({STOP_LINK})",
            f"fix pwl_stop all halt {LOOK_EVERY_STEPS} v_pwl_stop > 0.5 error soft message no",
        ]
    end = [f'print "$(step)" file {STEP} screen no']
    if not plumed:
        end.append(f'if "$(step) < {task.nsteps}" then "write_restart {RESTARTS[2]}"')
    return Blocks(tuple(top), tuple(structure), tuple(output), tuple(end))


def _read_line() -> str:
    return f'if "${{pwl_resumed}} > 0" then "read_restart ${{pwl_restart}}" else "read_data {DATA}"'


def _dump_form(name: str, elements: Sequence[str]) -> str:
    return f"dump_modify {name} sort id element {' '.join(elements)} format float %.16g"


def keyword_input(task: LmpTask, style: PairStyle, md: MdSettings, seed: int, *, plumed: bool = False) -> str:
    """in.lammps from PWact's keywords."""
    own = blocks(task, style, plumed=plumed)
    lines = [
        "# written by pwact-like from md_jobs",
        *own.top,
        "",
        "neighbor 1.0 bin",
        f"neigh_modify delay {md.neigh_modify}",
        "",
        *own.structure,
        "",
        "thermo_style custom step temp pe ke etotal press vol lx ly lz xy xz yz",
        "thermo_modify flush yes",
        f"thermo {task.trj_freq}",
        "",
        f'if "${{pwl_resumed}} == 0" then "velocity all create {md.temp_k!r} {seed} mom yes rot no dist gaussian"',
        _integrator(md),
        f"timestep {md.md_dt_ps!r}",
        *own.output,
        f"run {task.nsteps} upto",
        *own.end,
    ]
    return "\n".join(lines) + "\n"


def _integrator(md: MdSettings) -> str:
    if md.ensemble == "nve":
        return "fix md all nve"
    bath = f"temp {md.temp_k!r} {md.temp_k!r} {md.taut_ps!r}"
    if md.ensemble == "nvt":
        return f"fix md all nvt {bath}"
    shape = md.ensemble.removeprefix("npt-")
    # the cell grows from its origin, and a flipped cell would be another choice of its vectors between two frames
    more = " flip no" if shape == "tri" else ""
    return f"fix md all npt {bath} {shape} {md.press_bar!r} {md.press_bar!r} {md.taup_ps!r} fixedpoint 0.0 0.0 0.0{more}"


def rerun_input(task: LmpTask, style: PairStyle, index: int) -> str:
    """rerun.NNN.lammps: one model's forces along the finished trajectory."""
    early, late = style.lines((task.models[index],), task.elements, task.trj_freq)
    lines = [
        "# written by pwact-like: the forces of one model along the trajectory",
        "units metal",
        f"boundary {'p p p' if task.boundary else 'f f f'}",
        "atom_style atomic",
        *early,
        "neighbor 1.0 bin",
        *(["box tilt large"] if task.boundary else []),
        f"read_data {DATA}",
        *mass_lines(task.elements),
        *late,
        f"dump pwl_dump all custom 1 {forces_name(index)} {_COLUMNS}",
        _dump_form("pwl_dump", task.elements),
        f"rerun {TRAJECTORY} dump x y z box yes wrapped no",
    ]
    return "\n".join(lines) + "\n"

"""Writes docs/commands/*.md: one page a command, from its own help, with the example given here.

    python docs/make_command_pages.py

`tests/unit/test_docs.py` fails when a command or an option has no place in its page.
"""

from __future__ import annotations

import os
from pathlib import Path

from pwact_like.cli.main import COMMANDS, build_command_parser

FOLDER = Path(__file__).resolve().parent / "commands"

# command → (example, what it leaves and what is worth knowing)
EXAMPLES: dict[str, tuple[str, str]] = {
    "init_bulk": (
        "pwact-like init_bulk init_param.json resource.json",
        "See [examples/si_xtb/init_param.json](../../examples/si_xtb/init_param.json) for tight binding and "
        "[examples/cu_emt/init_param.json](../../examples/cu_emt/init_param.json) for the whole chain with ASE's EMT. "
        "A collection that is finished is never rewritten: other settings want another folder.",
    ),
    "run": (
        "pwact-like run param.json resource.json --dry-run   # look at what would be submitted\n"
        "pwact-like run param.json resource.json\n"
        "pwact-like status                                   # from another terminal",
        "Ctrl-C, a reboot or SIGKILL lose nothing: the same command reconciles the journal with folders and scheduler, and goes on. "
        "The log is `run.log`. See [examples/si_xtb/param.json](../../examples/si_xtb/param.json).",
    ),
    "check": (
        "pwact-like check param.json resource.json\npwact-like check init_param.json resource.json --work-dir /scratch/me/campaign",
        "Keys count in any case; a key that begins with `_` is a comment. Data that `init_bulk` has yet to make counts as missing: "
        "check `param.json` after it.",
    ),
    "doctor": (
        "pwact-like doctor                                       # this machine\n"
        "pwact-like doctor resource.json                         # and each section: modules, programs, partitions\n"
        "pwact-like doctor resource.json param.json --submit     # and one tiny job for each section",
        "Nothing is left behind, but for the files of `--submit` when something was wrong (or with `--keep`): "
        "`WORK_DIR/.pwact_like/doctor/`. The jobs of `--submit` ask for what real ones ask for, with at most ten minutes of time; they are "
        "ended on Ctrl-C and after `--timeout`. Programs that are missing on a login node may be there on the compute nodes: with "
        "`--submit` the nodes' word counts. `--json` prints `ok` and `findings` (`topic`, `level`, `text`, `cure`).",
    ),
    "status": (
        "pwact-like status\npwact-like status run --work-dir /scratch/me/campaign --json",
        "It reads a snapshot that the master renames in, never the journal, so it may be called at any time, from any machine "
        "that sees the folder. States: running, converged, finished, stopped, failed, interrupted. The keys of `--json`: `workflow`, "
        "`state`, `reason`, `stage`, `heartbeat`, `iterations` (`index`, `entry`, `stage`, `trajectories`, `frames_planned`, `frames`, "
        "`accurate`, `candidate`, `failed`, `selected`, `labelled`, `rejected`, `energy_rmse_ev_per_atom`, `force_rmse_ev_per_ang`), "
        "`jobs` (tasks: `planned`, `queued`, `running`, `ended`, `failed`), `jobs_in_flight` (`id`, `name`, `section`, `state`, `said`, "
        "`reason`, `node`, `since`, `tasks`, `stuck`), `scheduler`, `scheduler_silent`, `dataset` (`frames`, `sha256`), `models`, `notes`.",
    ),
    "explain": (
        "pwact-like explain iter.0000/02.label/scf/md.000.sys.000/md.000.sys.000.t.000/4-scf\n"
        "pwact-like explain 4-scf\n"
        "pwact-like explain iter.0002/00.train/train.001/.attempt/2 --json",
        "It reads a copy of the journal, so it may be called at any time. A task is set aside when its attempts are used up "
        "(`retry` in resource.json), when its engine rejects it, or when more memory or time cannot be had; node failures, "
        "preemption and cancelled jobs do not count against it.",
    ),
    "kill": ("pwact-like kill run --work-dir /scratch/me/campaign", "Ctrl-C on the master ends the master alone and leaves its jobs."),
    "retry": (
        "pwact-like retry                                    # every failed task of the stage under way\n"
        "pwact-like retry 14-scf iter.0001/02.label/scf/md.000.sys.000/md.000.sys.000.t.000/20-scf",
        "Mend the cause first. Tasks that ran out of attempts when their stage stopped the workflow are tried again at the next start "
        "without this command; it is for those that the engine rejected, and for failures within the budget while the stage is under way.",
    ),
    "rewind": (
        "pwact-like rewind --to 2:explore                    # shows what will be moved, and asks\n"
        "pwact-like rewind --to 2 --yes --work-dir /scratch/me/campaign",
        "Edit `param.json` between the rewind and the next `run` to do the stage with other settings; with the same settings and seed the "
        "campaign comes to the same data set. `al.record` and `iter_select.txt` are written anew, their old texts lie with what was moved. "
        "Remove `rewound/TIME` yourself when you no longer want it. A selection cannot be made anew once its trajectories were cut down to "
        "the selected frames (`reserve_md_traj` is false): go back to `explore`. Stages of `init_bulk` are made anew by moving their "
        "folders away by hand.",
    ),
    "filter": (
        "pwact-like filter -i iter.0002/01.explore -l 0.1 -u 0.3 -s\npwact-like filter -i iter.0002/01.explore --suggest --tolerance 0.2",
        "Levels are compared with the table of deviations that the exploration left; nothing is computed again (but for --suggest).",
    ),
    "to_pwdata": (
        "pwact-like to_pwdata -i AIMD/MOVEMENT -f pwmat/movement -s PWdata -o 0.9\n"
        "pwact-like to_pwdata -i run1/OUTCAR run2/OUTCAR --out-format extxyz -m",
        "",
    ),
    "gather_pwdata": ("pwact-like gather_pwdata -i . --merge --out-format extxyz", ""),
    "train": ("pwact-like train train.json -o trained", ""),
    "eval": (
        "pwact-like eval iter.0003/00.train/train.000/model.pt test.xyz --json\n"
        "pwact-like eval iter.0003/00.train/train.000/model.pt hot.xyz --uncertainty hot",
        "See [Which uncertainty should I use](../uncertainty.md) for what the figures of --uncertainty mean.",
    ),
    "export": (
        "pwact-like export iter.0003/00.train -o potentials",
        "See [DeePMD-kit](../engines/deepmd.md) for what agrees, and what such a model cannot do.",
    ),
    "kpu": (
        "pwact-like kpu -m iter.0003/00.train/train.000/model.pt -c traj.xyz -s kpu_model_devi.out",
        "See [Which uncertainty should I use](../uncertainty.md).",
    ),
    "md": ("pwact-like md iter.0003/00.train/train.*/model.pt -s POSCAR --temp 600 --nsteps 5000 -o run600", ""),
    "lammps": (
        "cd iter.0000/01.explore/md/md.000.sys.000/md.000.sys.000.t.000/.attempt/1 && pwact-like lammps end",
        "A campaign's job scripts call it; [LAMMPS](../engines/lammps.md) tells what is run, and what param.json says about it.",
    ),
    "label": ("pwact-like label POSCAR --engine xtb -o label.xyz", ""),
    "choose": (
        "pwact-like choose md.xyz more.xyz -n 50 --method fps --known train.xyz -o select.xyz",
        "Within a campaign: `strategy.choice`. What each method does, and what it was found to be good for: [choice](../choice.md).",
    ),
}


def page(command: str) -> str:
    """Text of a command's page."""
    example, more = EXAMPLES[command]
    parser = build_command_parser(command)
    lines = [
        f"# pwact-like {command}",
        "",
        f"{COMMANDS[command][1][0].upper()}{COMMANDS[command][1][1:]}.",
        "",
        "```",
        example,
        "```",
        "",
        *([more, ""] if more else []),
        "## Help",
        "",
        "```text",
        *(line.rstrip() for line in parser.format_help().rstrip().splitlines()),
        "```",
        "",
        "[All commands](../index.md)",
        "",
    ]
    return "\n".join(lines)


def main() -> None:
    """Write every page."""
    os.environ["COLUMNS"] = "118"  # argparse folds its help there
    FOLDER.mkdir(exist_ok=True)
    for command in COMMANDS:
        (FOLDER / f"{command}.md").write_text(page(command), encoding="utf-8")


if __name__ == "__main__":
    main()

"""The exploration stage: every md dict × structure × temperature × pressure is one trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.engines.protocols import Explorer, ExploreRequest, ExploreUncertainty, MdSettings
from pwact_like.fsio import delete_with_ledger, is_finished, read_manifest, relative_path, write_manifest
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.outcome import Outcome
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place, Stage, TaskMaker, check_budget, failures

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import SysConfig
    from pwact_like.config.run import MdJob

ReadStructure = Callable[[Path, str | None], "Atoms"]

SHARED_FOLDER = "shared"  # beside the runs; no product, it goes when they are done
DEFAULT_QUOTA = 100  # PWact's, when neither select_sys nor max_select is set


@dataclass(frozen=True)
class Run:
    """One planned trajectory.

    ``group`` counts the explored structures (md dict × structure file): the unit that quotas belong to.
    """

    system: str  # md.AAA.sys.BBB
    leaf: str  # md.AAA.sys.BBB.t.TTT[.p.PPP]
    structure: Path
    format: str | None
    md: MdSettings
    lmps_in: Path | None
    group: int
    quota: int


def plan_runs(entry: Sequence[MdJob], sys_configs: Sequence[SysConfig], max_select: int | None, lmps_in: Sequence[Path] = ()) -> list[Run]:
    """Every trajectory of one entry of md_jobs, in PWact's order and with PWact's names.

    ``sys.BBB`` counts the structure files of all sys_configs, globs expanded; with one file an entry it is sys_idx.
    """
    first_file = [0]
    for config in sys_configs:
        first_file.append(first_file[-1] + len(config.files))
    runs = []
    group = 0
    for md_index, job in enumerate(entry):
        for place, sys_index in enumerate(job.sys_idx):
            config = sys_configs[sys_index]
            quota = _at(job.select_sys, place) if job.select_sys else max_select
            for offset, structure in enumerate(config.files):
                system = f"md.{md_index:03d}.sys.{first_file[sys_index] + offset:03d}"
                own_input = lmps_in[_at(job.lmps_in_idx, place)] if job.lmps_in_idx else None
                conditions = _conditions(job)
                # an own input holds its temperatures itself: one run of it, whatever stands beside it
                for suffix, md in conditions[:1] if own_input is not None else conditions:
                    runs.append(
                        Run(
                            system=system,
                            leaf=system + suffix,
                            structure=structure,
                            format=config.format,
                            md=md,
                            lmps_in=own_input,
                            group=group,
                            quota=DEFAULT_QUOTA if quota is None else quota,
                        )
                    )
                group += 1
    return runs


def _at(values: Sequence[int], place: int) -> int:
    """One value for all, or one for each."""
    return values[0] if len(values) == 1 else values[place]


def _conditions(job: MdJob) -> list[tuple[str, MdSettings]]:
    """Name suffix and settings of every temperature × pressure; a user's own LAMMPS input may leave both open."""
    under_pressure = job.ensemble.startswith("npt")
    temps: Sequence[float] = job.temps or (0.0,)
    pressures: Sequence[float | None] = job.press if under_pressure else (None,)
    conditions = []
    for t_index, temp_k in enumerate(temps):
        for p_index, press_bar in enumerate(pressures or (None,)):
            suffix = f".t.{t_index:03d}" + (f".p.{p_index:03d}" if press_bar is not None else "")
            md = MdSettings(
                ensemble=job.ensemble,
                nsteps=job.nsteps or 0,
                trj_freq=job.trj_freq,
                md_dt_ps=job.md_dt,
                temp_k=temp_k,
                press_bar=press_bar,
                taut_ps=job.taut,
                taup_ps=job.taup,
                neigh_modify=job.neigh_modify,
                boundary=job.boundary,
            )
            conditions.append((suffix, md))
    return conditions


@dataclass
class ExplorationStage(Stage):
    """Run MD with the iteration's models; leaves one trajectory and one deviation table a run.

    ``entry``, the number of the entry of md_jobs, is recorded: what was explored stays what it was when the rules of
    convergence are edited later. ``models`` and ``uncertainty`` are as in ExploreRequest; ``levels`` (see
    `selection.levels_facts`) are recorded too, for the frames' uncertainty is of this kind whatever is edited later.
    """

    place: Place
    explorer: Explorer
    command: str
    models: tuple[Path, ...]
    runs: Sequence[Run]
    upper_level: float | None
    read_structure: ReadStructure
    failure_budget: float = 0.5
    entry: int | None = None
    uncertainty: ExploreUncertainty | None = None
    levels: Mapping[str, Any] = field(default_factory=dict)
    name: str = "explore"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = exploration_folder(self.place)
        self._shared = self.folder.with_name(SHARED_FOLDER)

    def run_folder(self, run: Run) -> Path:
        """Task folder of a trajectory."""
        return self.folder / run.system / run.leaf

    def plan(self) -> list[Task]:
        """One task a trajectory."""
        make_task = TaskMaker(self.place, "explore")
        structures: dict[Path, Atoms] = {}
        tasks = []
        for index, run in enumerate(self.runs):
            if run.structure not in structures:
                structures[run.structure] = self.read_structure(run.structure, run.format)
            request = ExploreRequest(
                atoms=structures[run.structure],
                models=self.models,
                md=run.md,
                seed=derive_seed(self.place.root_seed, self.place.iteration, "explore", index),
                upper_level=self.upper_level,
                lmps_in=run.lmps_in,
                uncertainty=self.uncertainty,
                shared=self._shared,
            )
            folder = self.run_folder(run)
            files = self.explorer.write(folder, request)
            tasks.append(
                make_task(self.explorer.name, folder, "explore", self.explorer.commands(self.command, request), files, request.seed)
            )
        return tasks

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The explorer's word."""
        return self.explorer.outcome(attempt)

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """List every trajectory with what was planned; a lost one stays in the list, its frames count as failed.

        Raises
        ------
        BudgetExceededError
            When more runs were lost than the budget allows (a program that does not start, most often).
        """
        lost = failures(results)
        reasons = "; ".join(f"{result.task.name}: {result.reason}" for result in lost[:3])
        check_budget(len(lost), len(results), self.failure_budget, "exploration", f"{self.place.work_dir / 'run.log'} ({reasons})")
        trajectories: list[dict[str, Any]] = []
        for run in self.runs:
            folder = self.run_folder(run)
            result = results[relative_path(folder, self.place.work_dir)]
            row: dict[str, Any] = {
                "system": run.system,
                "leaf": run.leaf,
                "group": run.group,
                "quota": run.quota,
                "structure": relative_path(run.structure, self.place.work_dir),
                "temp_k": run.md.temp_k,
                "press_bar": run.md.press_bar,
                "frames_planned": self.explorer.frames_planned(folder, run.md),
                "trajectory": None,
                "table": None,
                "ended": result.reason,
            }
            if result.state is TaskState.ACCEPTED:
                left = self.explorer.read(folder)
                row["trajectory"] = relative_path(left.path, self.place.work_dir)
                row["table"] = relative_path(left.table, self.place.work_dir)
                row["ended"] = left.ended
            trajectories.append(row)
        delete_with_ledger(self.folder.parent, [self._shared], "all runs of the exploration are done")
        write_manifest(
            self.folder,
            "trajectories",
            inputs={result.task.name: result.task.key for result in results.values()},
            facts={
                "entry": self.entry,
                "uncertainty": explored_with(self.uncertainty),
                "levels": dict(self.levels),
                "engine": self.explorer.name,
                "engine_version": self.explorer.version(),
                "frames_planned": sum(row["frames_planned"] for row in trajectories),
                "lost": sum(row["table"] is None for row in trajectories),
                "trajectories": trajectories,
            },
        )


def explored_with(uncertainty: ExploreUncertainty | None) -> dict[str, str]:
    """What the deviation tables of an exploration hold: ``kind`` and ``scale``."""
    if uncertainty is None:
        return {"kind": "committee", "scale": "calibrated"}
    return {"kind": uncertainty.kind, "scale": uncertainty.scale}


def exploration_folder(place: Place) -> Path:
    """The product folder of an iteration's exploration."""
    return place.iteration_folder() / "01.explore" / "md"


def entry_explored(place: Place) -> int | None:
    """The entry of md_jobs that an iteration has explored; None when its exploration is not finished."""
    folder = exploration_folder(place)
    entry: int | None = read_manifest(folder)["facts"].get("entry") if is_finished(folder) else None
    return entry


def trajectories_of(folder: Path) -> list[dict[str, Any]]:
    """The trajectory rows of a finished exploration."""
    rows: list[dict[str, Any]] = read_manifest(folder)["facts"]["trajectories"]
    return rows

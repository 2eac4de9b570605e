"""The exploration stage: every md dict × structure × temperature × pressure is one trajectory."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.config.engines_known import ENGINES, engine_of_command
from pwact_like.config.run import DEFAULT_QUOTA
from pwact_like.engines.explorers.batch_files import BatchExplorer
from pwact_like.engines.protocols import Explorer, ExploreRequest, ExploreUncertainty, MdSettings
from pwact_like.errors import InputError, Problem
from pwact_like.fsio import delete_with_ledger, is_finished, read_manifest, relative_path, write_manifest
from pwact_like.jobs.types import Task, TaskResult, TaskState
from pwact_like.outcome import Outcome, Reject
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place, Stage, TaskMaker, check_budget
from pwact_like.stages.md_batches import MdBatch, batches, link_to

if TYPE_CHECKING:
    from ase import Atoms

    from pwact_like.config.common import SysConfig
    from pwact_like.config.run import MdJob

ReadStructure = Callable[[Path, str | None], "Atoms"]

SHARED_FOLDER = "shared"  # beside the runs; no product, it goes when they are done


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
    `selection.levels_facts`) are recorded too, for the frames' uncertainty is of this kind whatever is edited later. ``md_batch``: so many
    runs at most share a task, where the explorer can do that.
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
    md_batch: int = 1
    name: str = "explore"
    folder: Path = field(init=False)

    def __post_init__(self) -> None:
        """Name the folder."""
        self.folder = exploration_folder(self.place)
        self._shared = self.folder.with_name(SHARED_FOLDER)

    def run_folder(self, run: Run) -> Path:
        """A trajectory's folder under its usual name: its task's own, or a link into that of its batch."""
        return self.folder / run.system / run.leaf

    def _batches(self) -> list[MdBatch]:
        """How runs share tasks; empty when each has its own."""
        if self.md_batch == 1 or not isinstance(self.explorer, BatchExplorer):
            return []
        return batches(self.folder, self.runs, self.md_batch)

    def _requests(self) -> dict[str, ExploreRequest]:
        """What every run wants, by its leaf."""
        structures: dict[Path, Atoms] = {}
        requests = {}
        for index, run in enumerate(self.runs):
            if run.structure not in structures:
                structures[run.structure] = self.read_structure(run.structure, run.format)
            requests[run.leaf] = ExploreRequest(
                atoms=structures[run.structure],
                models=self.models,
                md=run.md,
                seed=derive_seed(self.place.root_seed, self.place.iteration, "explore", index),
                upper_level=self.upper_level,
                lmps_in=run.lmps_in,
                uncertainty=self.uncertainty,
                shared=self._shared,
            )
        return requests

    def _refuse_other_places(self) -> None:
        """Refuse to run anew what was begun elsewhere: md_batch was edited between two starts."""
        wanted = {run.leaf: batch.run_folder(run) for batch in self._batches() for run in batch.runs}
        shared = sorted(path.parent for path in self.folder.glob("batch.*/.attempt"))
        begun = []
        for run in self.runs:
            usual = self.run_folder(run)
            places = [usual] if (usual / ".attempt").is_dir() and not usual.is_symlink() else []
            places += [batch / run.leaf for batch in shared if self._has_begun(batch, run)]
            begun += [place for place in places if place != wanted.get(run.leaf, usual)]
        if begun:
            what = f"{len(begun)} runs of this exploration were begun as they were shared out before, the first in {begun[0]}"
            cure = f"set md_batch back until it is done, or explore anew: pwact-like rewind --to {self.place.iteration}:explore"
            raise InputError(Problem("param.json: explore.md_batch", what, cure))

    def _refuse_other_program(self) -> None:
        """Refuse a command that runs another engine: resource.json was edited, and param.json's edit waits for the next training."""
        named = {engine_of_command("explore", word) for word in self.command.split()} - {""}
        if self.explorer.name in ENGINES["explore"] and named and self.explorer.name not in named:
            what = (
                f"{self.command!r} runs {', '.join(sorted(named))}, and this iteration, which has begun, explores with {self.explorer.name}"
            )
            cure = "put the command (and its environment) back until this iteration has explored, and change it then"
            raise InputError(Problem("resource.json: explore.command", what, cure))

    def _has_begun(self, batch: Path, run: Run) -> bool:
        """Whether a batch holds a run, by its attempts or what they have left; inputs alone may be of a plan that was given up."""
        return any((batch / ".attempt").glob(f"*/{run.leaf}")) or not isinstance(self.explorer.outcome(batch / run.leaf), Reject)

    def plan(self) -> list[Task]:
        """One task a trajectory, or a batch of them.

        Raises
        ------
        InputError
            When runs were begun that are shared out otherwise now, or the command runs another engine; for what the explorer refuses, too.
        """
        self._refuse_other_program()
        self._refuse_other_places()
        make_task = TaskMaker(self.place, "explore")
        requests = self._requests()
        tasks = []
        explorer = self.explorer
        for batch in self._batches():
            assert isinstance(explorer, BatchExplorer)
            own = {run.leaf: requests.pop(run.leaf) for run in batch.runs}
            seed = derive_seed(self.place.root_seed, self.place.iteration, "explore batch", batch.number)
            files = explorer.write_batch(batch.folder, own)
            tasks.append(make_task(explorer.name, batch.folder, "explore", explorer.batch_commands(self.command, own), files, seed))
        for run in self.runs:
            if run.leaf in requests:
                request = requests[run.leaf]
                folder = self.run_folder(run)
                files = explorer.write(folder, request)
                tasks.append(make_task(explorer.name, folder, "explore", explorer.commands(self.command, request), files, request.seed))
        return tasks

    def judge(self, task: Task, attempt: Path) -> Outcome:
        """The explorer's word."""
        for batch in self._batches():
            if batch.folder == task.folder:
                assert isinstance(self.explorer, BatchExplorer)
                return self.explorer.batch_outcome(attempt, [run.leaf for run in batch.runs])
        return self.explorer.outcome(attempt)

    def _left(self, results: Mapping[str, TaskResult]) -> dict[str, tuple[Path, str | None]]:
        """Folder of every run, by its leaf, and why it was lost; None for one that has left frames."""
        found: dict[str, tuple[Path, str | None]] = {}
        for batch in self._batches():
            result = results[relative_path(batch.folder, self.place.work_dir)]
            for run in batch.runs:
                folder = batch.run_folder(run)
                outcome = self.explorer.outcome(folder) if result.state is TaskState.ACCEPTED else Reject(result.reason)
                found[run.leaf] = folder, outcome.reason if isinstance(outcome, Reject) else None
        for run in self.runs:
            if run.leaf not in found:
                folder = self.run_folder(run)
                result = results[relative_path(folder, self.place.work_dir)]
                found[run.leaf] = folder, None if result.state is TaskState.ACCEPTED else result.reason
        return found

    def collect(self, results: Mapping[str, TaskResult]) -> None:
        """List every trajectory with what was planned; a lost one stays in the list, its frames count as failed.

        Raises
        ------
        BudgetExceededError
            When more runs were lost than the budget allows (a program that does not start, most often).
        """
        left = self._left(results)
        lost = sorted((leaf, reason) for leaf, (_, reason) in left.items() if reason is not None)
        reasons = "; ".join(f"{leaf}: {reason}" for leaf, reason in lost[:3])
        check_budget(len(lost), len(left), self.failure_budget, "exploration", f"{self.place.work_dir / 'run.log'} ({reasons})")
        trajectories: list[dict[str, Any]] = []
        for run in self.runs:
            folder, reason = left[run.leaf]
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
                "ended": reason or "",
            }
            if folder != self.run_folder(run):
                link_to(self.run_folder(run), folder)
            if reason is None:
                found = self.explorer.read(folder)
                row["trajectory"] = relative_path(found.path, self.place.work_dir)
                row["table"] = relative_path(found.table, self.place.work_dir)
                row["ended"] = found.ended
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

"""run: train → explore → select → label, again and again until the entries of md_jobs are done or converged.

What comes next is a function of the finished products alone; there is no other state. So a start after a kill walks
over the finished stages and goes on where the last one ended.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pwact_like.config.common import DataPath
from pwact_like.crashpoints import reach
from pwact_like.engines.protocols import Explorer, Labeler, Trainer
from pwact_like.errors import InputError, JobError, Problem
from pwact_like.fsio import is_finished, read_manifest
from pwact_like.seeds import derive_seed
from pwact_like.stages.base import Place
from pwact_like.stages.choosing import ChoiceStage, choice_settings, refuse_begun_choice
from pwact_like.stages.exploration import ExplorationStage, entry_explored, exploration_folder, plan_runs
from pwact_like.stages.initial_data import DATASET_FOLDER, InitialDataRequest, InitialDataStage
from pwact_like.stages.labelling import LabelGates, LabelStage, label_folder
from pwact_like.stages.selection import SelectionStage, levels_facts, selection_request
from pwact_like.stages.thinning import is_thinned, thin_trajectories
from pwact_like.stages.training import TrainingStage, compression, refuse_no_kpu, training_folder
from pwact_like.workflows.convergence import IterationFacts, Next, next_entry
from pwact_like.workflows.errors_known import (
    explored_by,
    goes_on_with,
    labelled_before,
    levels_in_force,
    levels_to_select,
    suits,
    tell,
    trainings_facts,
    without_what_waits,
)
from pwact_like.workflows.history import dataset_facts, iteration_folders, iteration_row, write_records
from pwact_like.workflows.session import Session
from pwact_like.workflows.start import claim, refuse_foreign

if TYPE_CHECKING:
    from pwact_like.config.run import RunParam
    from pwact_like.config.train import UncertaintySettings

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class CampaignEnd:
    """How a campaign ended: ``converged`` or ``finished``, why, and the final models."""

    state: str
    reason: str
    models: tuple[Path, ...]


@dataclass
class Campaign:
    """One campaign in one folder."""

    session: Session
    param: RunParam
    trainer: Trainer
    explorer: Explorer
    labeler: Labeler
    _history: list[IterationFacts] = field(default_factory=list)
    _entries: list[int | None] = field(default_factory=list)
    _waiting: RunParam | None = None  # an edit that counts from the next training on

    def run(self) -> CampaignEnd:
        """Run, or go on, to the end."""
        self._publish()  # what lies there shows from the first moment, also when this start fails at once
        initial = self._initial_data()
        if initial.finished:
            initial.refuse_new_sources()
        self.session.drive(initial)
        models: tuple[Path, ...] = ()
        upcoming = next_entry(self._history, len(self.param.explore.md_jobs), self.param.strategy.convergence)
        while True:
            iteration = len(self._entries)
            # what was explored outranks what the rules, edited since, would have explored
            explored = entry_explored(self._place(iteration))
            entry = upcoming.entry if explored is None else explored
            if entry is None and models and not self._is_new_data(iteration):
                return self._end(upcoming, models)
            self._entries.append(entry)
            self._take_edits()
            self._publish(models)
            training = self._training(iteration, models)
            self._drive(training)
            models = training.models
            self._publish(models)
            if entry is None:
                return self._end(upcoming, models)
            self._history.append(self._iterate(iteration, entry, training))
            self._publish(models)
            reach("iteration-done")
            upcoming = next_entry(self._history, len(self.param.explore.md_jobs), self.param.strategy.convergence)
            log.info("iteration %d done; %s", iteration, upcoming.reason)

    # ---- one iteration -------------------------------------------------------------------------------------------

    def _iterate(self, iteration: int, entry: int, training: TrainingStage) -> IterationFacts:
        """Explore, select and label with the iteration's models.

        What is finished is taken as its manifest has it: the uncertainty and the levels of an iteration that has explored stay what they
        were, whatever the strategy was edited to since.
        """
        self._take_edits(within=iteration)
        if not self._labelling(iteration).finished:
            self._refuse_mixed_theory(iteration)
        exploration = self._exploration(iteration, entry, training)
        self._drive(exploration)
        self._take_edits(within=iteration)
        selection = self._selection(iteration, exploration)
        settings = choice_settings(self.param.strategy, self._train_data(iteration), training.models[0])
        if not selection.finished and settings is None:
            refuse_begun_choice(selection.request)
        elif not selection.finished and settings is not None:
            choice = ChoiceStage(selection.request, settings, self.session.command("direct"), self.session.fork)
            self._drive(choice)
            selection = SelectionStage(replace(selection.request, choice=choice.folder), self.session.fork)
        self._drive(selection)
        self._warn_if_all_failed(selection.facts)
        self._take_edits(within=iteration)
        labelling = self._labelling(iteration)
        if not labelling.finished:
            self._refuse_mixed_theory(iteration)
        self._drive(labelling)
        if not self.param.reserve_md_traj and not is_thinned(exploration.folder):
            self.session.fork(thin_trajectories, selection.request.explorer, exploration.folder, selection.folder, self.param.work_dir)
        chosen = selection.facts
        return IterationFacts(
            entry=entry,
            frames_planned=chosen["frames_planned"],
            accurate=chosen["accurate"],
            labelled=labelling.facts["train_frames"],
            force_rmse=training.facts["force_rmse_ev_per_ang"],
        )

    def _take_edits(self, *, within: int | None = None) -> None:
        """Go on with the param.json that the user has edited meanwhile; stages that have begun keep to the old one.

        ``within`` is the iteration whose models are trained: by the trainer and for the uncertainty of then; others wait for the next.
        """
        edited = self.session.edits.param
        if edited is self.param or (within is not None and edited is self._waiting):
            return
        if within is not None and (kept := without_what_waits(self.param, edited, within)) is not edited:
            self._waiting, edited = edited, kept
        from pwact_like.engines.registry import explorer_for, labeler_for, trainer_for

        self.trainer, self.explorer, self.labeler = (
            trainer_for(edited.train),
            explorer_for(edited.explore),
            labeler_for(edited.dft.labelling),
        )
        self.param = edited

    def _drive(self, stage: Any) -> None:
        self.session.drive(stage)
        write_records(self.param.work_dir, len(self._known_entries()))
        self._publish()
        reach("record-written")

    def _warn_if_all_failed(self, facts: dict[str, Any]) -> None:
        if facts["failed"] < facts["frames_planned"]:
            return
        text = "every planned frame failed: this is not convergence; shorten or cool the MD of this entry, or raise the upper level"
        if facts["rescued"]:
            text += f"; the {facts['rescued']} least bad sane frames are labelled meanwhile"
        log.warning("%s", text)
        if text not in self.session.board.notes:
            self.session.board.notes.append(text)

    # ---- the stages ----------------------------------------------------------------------------------------------

    def _place(self, iteration: int) -> Place:
        return Place(self.param.work_dir, self.param.seed, iteration)

    def _places(self, before: int) -> list[Place]:
        return [self._place(iteration) for iteration in range(before)]

    def _initial_data(self) -> InitialDataStage:
        param = self.param
        if not param.init_data and not param.init_model_list:
            raise InputError(Problem("param.json: init_data", "neither init_data nor init_model_list is given", "give one of them"))
        request = InitialDataRequest(
            folder=param.work_dir / DATASET_FOLDER,
            init_data=param.init_data,
            valid_data=param.valid_data,
            test_data=param.test_data,
            test_share=param.strategy.test_share,
            valid_share=param.strategy.valid_share if param.strategy.learned is not None else 0.0,
            seed=derive_seed(param.seed, "test set"),
            allow_mixed_theory=param.strategy.allow_mixed_theory,
            label_theory=self.labeler.level_of_theory(param.dft.entry),
            elements=tuple(param.train.atom_type),
        )
        return InitialDataStage(self._place(0), request, self.session.fork)

    def _training(self, iteration: int, previous: tuple[Path, ...]) -> TrainingStage:
        param = self.param
        init_models, why_skipped = (), ""
        goes_on = iteration > 0 and goes_on_with(self._place(iteration - 1), self.trainer)
        if iteration == 0 and param.init_model_list:
            init_models, why_skipped = param.init_model_list, "init_model_list"
        elif goes_on and not self._is_new_data(iteration) and self._suits(iteration - 1):
            init_models, why_skipped = previous, "no new labels since these models were trained"
        elif goes_on and param.use_pre_model:
            init_models = previous
        train_data = self._train_data(iteration)
        if not why_skipped and not train_data:
            raise JobError(
                f"{param.work_dir}: there is no training data for iteration {iteration}: no init_data, and no label was accepted"
            )
        return TrainingStage(
            place=self._place(iteration),
            trainer=self.trainer,
            settings=param.train,
            command=self.session.command("train"),
            n_members=param.strategy.trained_models,
            train_data=train_data,
            valid_data=self._of_dataset("valid"),
            test_data=self._test_data(iteration),
            init_models=init_models,
            skip_training=bool(why_skipped),
            why_skipped=why_skipped,
            uncertainty=self._learned(iteration),
            compress=compression(param.strategy),
        )

    def _suits(self, iteration: int) -> bool:
        """Whether the models of an iteration can tell their errors as strategy.uncertainty, edited since perhaps, now wants it."""
        return suits(read_manifest(training_folder(self._place(iteration)))["facts"], self.param.strategy.uncertainty)

    def _learned(self, iteration: int) -> UncertaintySettings | None:
        """What a training is to learn of its model's errors."""
        learned = self.param.strategy.learned
        if learned is None:
            return None
        return learned.model_copy(update={"labelled": labelled_before(self._places(iteration))})

    def _exploration(self, iteration: int, entry: int, training: TrainingStage) -> ExplorationStage:
        from pwact_like.data.formats import read_structure

        strategy, explore = self.param.strategy, self.param.explore
        if is_finished(exploration_folder(self._place(iteration))):
            # md_jobs may have been shortened, the uncertainty been edited since
            return ExplorationStage(self._place(iteration), self.explorer, "", training.models, (), None, read_structure, entry=entry)
        jobs = explore.md_jobs[entry] if entry < len(explore.md_jobs) else ()
        uncertainty, levels = explored_by(training, strategy), levels_in_force(strategy, trainings_facts(self._places(iteration + 1)))
        if uncertainty is not None:
            refuse_no_kpu(self.explorer)
            tell(iteration, levels, training.facts["uncertainty"])
        members = training.members if uncertainty is not None and uncertainty.kind == "kpu-committee" else ()
        return ExplorationStage(
            place=self._place(iteration),
            explorer=self.explorer,
            command=self.session.command("explore"),
            models=(*training.models, *members),
            uncertainty=uncertainty,
            runs=plan_runs(jobs, explore.sys_configs, strategy.max_select, explore.lmps_in),
            upper_level=levels.upper,
            read_structure=read_structure,
            failure_budget=strategy.failure_budget,
            entry=entry,
            levels=levels_facts(levels.levels, levels.source),
            md_batch=explore.md_batch,
        )

    def _selection(self, iteration: int, exploration: ExplorationStage) -> SelectionStage:
        from pwact_like.engines.registry import explorer_that_ran

        levels = levels_to_select(self._places(iteration + 1), self.param.strategy)
        request = selection_request(
            self._place(iteration),
            explorer_that_ran(self.explorer, self.param.explore, exploration.facts.get("engine", "")),
            exploration.folder,
            self.param.strategy,
            levels.levels,
            levels.source,
            self._test_data(iteration),
        )
        return SelectionStage(request, self.session.fork)

    def _labelling(self, iteration: int) -> LabelStage:
        strategy = self.param.strategy
        return LabelStage(
            place=self._place(iteration),
            labeler=self.labeler,
            entry=self.param.dft.entry,
            command=self.session.command("dft"),
            gates=LabelGates(strategy.net_force_tolerance, strategy.min_distance_ang, strategy.max_force),
            failure_budget=strategy.failure_budget,
            data_format=self.param.data_format,
            fork=self.session.fork,
            test_share=0.0 if self._test_data(iteration) else strategy.test_share,
            keep_files=self.param.reserve_scf_files,
        )

    # ---- the data ------------------------------------------------------------------------------------------------

    def _of_dataset(self, kind: str) -> tuple[DataPath, ...]:
        path = self.param.work_dir / DATASET_FOLDER / f"{kind}.xyz"
        return (DataPath(path=path, format="extxyz"),) if path.is_file() else ()

    def _labels(self, before: int) -> list[tuple[Path, dict[str, Any]]]:
        """Folder and facts of the labels of every earlier iteration."""
        folders = [label_folder(place) for place in self._places(before)]
        return [(folder, read_manifest(folder)["facts"]) for folder in folders]

    def _train_data(self, iteration: int) -> tuple[DataPath, ...]:
        """The initial data and the labels of every earlier iteration."""
        paths = list(self._of_dataset("train"))
        for folder, facts in self._labels(iteration):
            if facts["train_frames"]:
                paths.append(DataPath(path=folder / facts["data"], format=facts["data_format"]))
        return tuple(paths)

    def _test_data(self, iteration: int) -> tuple[DataPath, ...]:
        """The fixed test set: of the initial data, else of the first labels that there were."""
        paths = self._of_dataset("test")
        if paths:
            return paths
        for folder, facts in self._labels(iteration):
            if facts["test_frames"]:
                return (DataPath(path=folder / facts["test_data"], format="extxyz"),)
        return ()

    def _is_new_data(self, iteration: int) -> bool:
        """Whether labels were added after the last training before this iteration."""
        return iteration > 0 and bool(self._labels(iteration)[-1][1]["train_frames"])

    def _refuse_mixed_theory(self, iteration: int) -> None:
        """Refuse labels by other settings than those that there are: the DFT section was edited since.

        Raises
        ------
        InputError
            Naming the levels of theory.
        """
        if self.param.strategy.allow_mixed_theory:
            return
        known = {str(level) for level in read_manifest(self.param.work_dir / DATASET_FOLDER)["facts"]["levels_of_theory"]}
        known |= {str(facts["level_of_theory"]) for _, facts in self._labels(iteration) if facts["labelled"]}
        now = self.labeler.level_of_theory(self.param.dft.entry)
        strange = ", ".join(sorted(known - {"", now}))
        if strange:
            raise InputError(
                Problem(
                    "param.json: DFT",
                    f"the labels would be of another level of theory ({now}) than those that there are ({strange}); "
                    "energies of different programs or settings do not belong together",
                    "undo the change, or begin in another folder, or set strategy.allow_mixed_theory to true if you know better",
                )
            )

    # ---- what the user sees --------------------------------------------------------------------------------------

    def _known_entries(self) -> list[int | None]:
        """The entry of every iteration that lies there: also of those that this start has not come to yet, or never will."""
        behind = range(len(self._entries), len(iteration_folders(self.param.work_dir)))
        return [*self._entries, *(entry_explored(self._place(iteration)) for iteration in behind)]

    def _publish(self, models: tuple[Path, ...] = (), *, ended: bool = False) -> None:
        board, work_dir = self.session.board, self.param.work_dir
        entries = self._entries if ended else self._known_entries()
        board.iterations = [iteration_row(index, work_dir / f"iter.{index:04d}", entry) for index, entry in enumerate(entries)]
        board.dataset = dataset_facts(work_dir, len(entries))
        if models:
            board.models = [str(path) for path in models]
        board.publish()

    def _end(self, upcoming: Next, models: tuple[Path, ...]) -> CampaignEnd:
        self._publish(models, ended=True)
        board = self.session.board
        board.state, board.reason, board.stage = upcoming.state, upcoming.reason, ""
        board.publish()
        log.info("%s: %s", upcoming.state, upcoming.reason)
        return CampaignEnd(upcoming.state, upcoming.reason, models)


def run_campaign(session: Session, loaded: Any) -> CampaignEnd:
    """Run, or go on with, the campaign of a loaded param.json."""
    from pwact_like.engines.registry import explorer_for, labeler_for, trainer_for

    param = session.edits.param
    refuse_foreign(param.work_dir)  # once more, under the lock
    claim(param.work_dir)
    return Campaign(
        session=session,
        param=param,
        trainer=trainer_for(param.train),
        explorer=explorer_for(param.explore),
        labeler=labeler_for(param.dft.labelling),
    ).run()

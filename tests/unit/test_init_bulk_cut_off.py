"""An ab-initio MD of init_bulk from the scheduler's word that its time was over to the collection, with VASP's stand-in."""

from __future__ import annotations

import csv
import shutil

import pytest
import stand_in_vasp
import vasp_files
from ase.build import bulk
from jobs_bench import scripted_bench

from pwact_like.config.common import StageInput
from pwact_like.config.init_bulk import BulkSystem, InitBulkParam
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.resource import ResourceSection
from pwact_like.data.formats import read_frames, write_frames
from pwact_like.data.frames import Frame
from pwact_like.engines.labelers.vasp import VaspLabeler
from pwact_like.jobs.script import attempt_folder
from pwact_like.jobs.types import EndCause, JobView, TaskState
from pwact_like.stages.aimd import AimdStage
from pwact_like.stages.base import Place
from pwact_like.stages.bulk import Bulk
from pwact_like.stages.collection import CollectionStage
from pwact_like.stages.structures import StructuresStage


@pytest.fixture
def plan(tmp_path) -> Bulk:
    """Nine steps of eight copper atoms."""
    write_frames(tmp_path / "cu.xyz", [Frame(bulk("Cu", a=3.7, cubic=True))])
    vasp_files.write_potcars(tmp_path, Cu=295.0)
    (tmp_path / "INCAR").write_text(vasp_files.aimd(9))
    labelling = LabelSettings(dft_style="vasp", pseudo=(tmp_path / "POTCAR_Cu",), source=tmp_path / "param.json")
    param = InitBulkParam(
        work_dir=tmp_path,
        sys_configs=(BulkSystem(config="cu.xyz", file=tmp_path / "cu.xyz", aimd=True),),
        aimd_input=(StageInput(input=tmp_path / "INCAR", kspacing=0.5),),
        labelling=labelling,
        data_format="extxyz",
    )
    return Bulk(Place(tmp_path, param.seed), param, VaspLabeler(labelling), "", lambda function, *arguments: function(*arguments))


def test_whole_frames_of_a_run_out_of_time_are_gathered_and_the_rest_is_told(plan, tmp_path):
    """Of nine steps seven are there, the fourth of which did not converge, and half of the eighth."""
    StructuresStage(plan).collect({})
    stage = AimdStage(plan)
    tasks = stage.plan()
    (task,) = tasks
    with scripted_bench(tmp_path) as bench:
        bench.scheduler.longest = 3600
        dispatcher = bench(tasks, stage.judge, dft=ResourceSection(time="1:00:00"))
        dispatcher.tick()
        name = bench.scheduler.submissions[0]
        bench.scheduler.jobs["1"] = JobView("1", name, alive=True, running=True)
        dispatcher.tick()
        attempt = attempt_folder(task, 1)
        attempt.mkdir(parents=True)
        for file in task.files.inputs:
            shutil.copy(task.folder / file, attempt / file)
        (attempt / "claim").touch()
        assert stand_in_vasp.main(attempt) == 0
        outcar, vasprun = (attempt / "OUTCAR").read_text(), (attempt / "vasprun.xml").read_text()
        fourth, eighth = outcar.index("Iteration      4(   2)"), outcar.index("TOTAL-FORCE", outcar.index("Iteration      8("))
        unconverged = outcar[fourth:eighth].replace("EDIFF is reached", "NELM", 1)
        (attempt / "OUTCAR").write_text(outcar[:fourth] + unconverged + outcar[eighth : eighth + 90])
        (attempt / "vasprun.xml").write_text("</calculation>".join(vasprun.split("</calculation>")[:8]))
        bench.scheduler.end(cause=EndCause.TIMEOUT)
        dispatcher.tick()
        bench.clock.now += 31
        dispatcher.tick()
        results = dispatcher.results()
    result = results[task.name]
    note = "cut off by its time limit: 6 of 9 frames; 1 more were dropped (4): ionic step 4: SCF not converged in 2 electronic steps"
    assert result.state is TaskState.ACCEPTED and result.note.startswith(note)
    assert not list(tmp_path.rglob("POTCAR"))
    stage.collect(results)
    CollectionStage(plan).collect({})
    (data,) = (tmp_path / "collection" / "init_config_0").rglob("*.xyz")
    assert [frame.origin.step for frame in read_frames(data)] == [1, 2, 3, 5, 6, 7]
    with (tmp_path / "collection" / "init_config_0" / "rejected.csv").open(newline="") as stream:
        rows = [(row["step"], row["reason"]) for row in csv.DictReader(stream)]
    assert rows[0][0] == "" and rows[0][1].startswith(f"note: {note}")
    assert rows[1:] == [("3", "the program left no converged label of this frame")]

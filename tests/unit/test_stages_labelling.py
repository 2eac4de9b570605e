"""A plan of labelling tasks that fails takes back the licensed files that it has written, and those only."""

from __future__ import annotations

import pytest
import vasp_files
from ase.build import bulk

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import write_frames
from pwact_like.data.frames import Frame
from pwact_like.engines.labelers.vasp import VaspLabeler
from pwact_like.errors import InputError
from pwact_like.fsio import write_json
from pwact_like.stages.base import Place
from pwact_like.stages.bulk import Asked, Bulk, LabellingStage
from pwact_like.stages.labelling import LabelGates, LabelStage, no_fork
from pwact_like.stages.selection import FRAMES_FILE, SELECTION_FILE


@pytest.fixture
def vasp(tmp_path):
    """VASP with a POTCAR of silicon only, and the entry of its INCAR."""
    vasp_files.write_potcars(tmp_path, Si=245.3)
    (tmp_path / "INCAR").write_text(vasp_files.INCAR)
    return VaspLabeler(LabelSettings(dft_style="vasp", pseudo=(tmp_path / "POTCAR_Si",))), StageInput(
        input=tmp_path / "INCAR", kspacing=0.4
    )


def of_a_campaign(folder, labeler, entry, structures):
    place = Place(folder, 1)
    select = place.iteration_folder() / "01.explore" / "select"
    select.mkdir(parents=True, exist_ok=True)
    rows = [{"system": "md.000.sys.000", "leaf": "leaf", "step": step, "reject": None} for step in range(len(structures))]
    write_json(select / SELECTION_FILE, rows)
    write_frames(select / FRAMES_FILE, [Frame(atoms) for atoms in structures], "extxyz")
    return LabelStage(place, labeler, entry, "vasp_std", LabelGates(0.1, 0.5), 0.5, "extxyz", no_fork)


def of_init_bulk(folder, labeler, entry, structures):
    class Stage(LabellingStage):
        kind = "scf"
        recipe, sources = "", ()

        def entry(self, system):
            return entry

        def structures(self):
            yield from ((Asked(number, f"t{number}", 1), atoms) for number, atoms in enumerate(structures))

    return Stage(Bulk(Place(folder, 1), None, labeler, "vasp_std", no_fork))


@pytest.mark.parametrize("make", [of_a_campaign, of_init_bulk])
def test_a_plan_that_fails_leaves_no_potcar_behind(tmp_path, vasp, make):
    silicon, germanium = bulk("Si"), bulk("Ge")
    with pytest.raises(InputError, match="no POTCAR for Ge"):
        make(tmp_path, *vasp, [silicon, germanium, silicon]).plan()
    assert list(tmp_path.rglob("POTCAR")) == [] and list(tmp_path.rglob("POSCAR")) != []
    tasks = make(tmp_path, *vasp, [silicon, silicon]).plan()
    assert len(list(tmp_path.rglob("POTCAR"))) == len(tasks) == 2
    # one that fails later takes nothing from jobs that wait
    with pytest.raises(InputError, match="no POTCAR for Ge"):
        make(tmp_path, *vasp, [silicon, silicon, silicon, germanium]).plan()
    assert {path.parent for path in tmp_path.rglob("POTCAR")} == {task.folder for task in tasks}


def test_a_disk_that_is_full_behind_the_potcar_leaves_none_behind(tmp_path, vasp, monkeypatch):
    """The labeler had not yet said which of its files are licensed when it failed."""
    from pwact_like.engines.labelers import vasp as module

    def full(folder, asked):
        assert (folder / "POTCAR").is_file()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(module, "write_asked", full)
    with pytest.raises(OSError, match="No space"):
        of_a_campaign(tmp_path, *vasp, [bulk("Si")]).plan()
    assert list(tmp_path.rglob("POTCAR")) == []

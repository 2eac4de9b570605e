"""`run` with labels by a script in PWact's way: one call for all chosen structures, and one that fails takes no other with it."""

from __future__ import annotations

import csv
import json
import sys

import micro
import pytest

SCRIPT = """\
from ase.calculators.emt import EMT
from ase.io import read, write
frames = read("select.xyz", index=":")
for atoms in frames[1:]:  # the first one stays without a label
    atoms.calc = EMT()
    atoms.get_potential_energy(), atoms.get_forces(), atoms.get_stress()
write("train.xyz", frames)
with open("calls.txt", "a") as stream:
    print(len(frames), file=stream)
"""


def test_a_script_labels_all_structures_in_one_call(tmp_path):
    micro.write_campaign(tmp_path, DFT={"dft_style": "bigmodel", "bigmodel_script": "label.py"})
    micro.edit(tmp_path / "resource.json", lambda content: content["DFT"].update(command=f"{sys.executable} label.py"))
    (tmp_path / "label.py").write_text(SCRIPT)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    row = micro.status(tmp_path)["iterations"][0]
    assert row["selected"] == 4 and row["labelled"] == 3 and row["rejected"] == 1
    labelling = tmp_path / "iter.0000/02.label"
    with (labelling / "result/rejected.csv").open(newline="") as stream:
        (rejected,) = csv.DictReader(stream)
    assert rejected["folder"] == "iter.0000/02.label/bigmodel/000" and "no energy" in rejected["reason"]
    facts = json.loads((labelling / "result/manifest.json").read_text())["facts"]
    assert facts["engine"] == "bigmodel" and facts["level_of_theory"].startswith("bigmodel-label-")
    # the labels against EMT itself, in ASE's stress
    from ase.calculators.emt import EMT
    from ase.io import read

    for atoms in read(labelling / "result/train.xyz", index=":"):
        given = atoms.calc.results
        forces, virial = given["forces"], atoms.info["virial"]
        atoms.calc = EMT()
        assert forces == pytest.approx(atoms.get_forces(), abs=1e-6)
        assert virial == pytest.approx(-atoms.get_volume() * atoms.get_stress(voigt=False), abs=1e-5)

"""`run` with a choice among the candidates: a job of its own, whose frames are those that are labelled."""

from __future__ import annotations

import json

import micro
import numpy as np
import pytest
from ase.io import read

SCRIPT = """\
from ase.io import read, write
frames = read("candidate.xyz", index=":")
with open("select_idx.dat", "w") as stream:
    stream.write("2\\n0\\n")
write("select.xyz", [frames[2], frames[0]])
"""


def labelled_for_their_deviation(folder) -> list[int]:
    """MD steps of the candidates that were labelled."""
    rows = json.loads((folder / "iter.0000/01.explore/select/selection.json").read_text())
    return [row["step"] for row in rows if row["why"] == "candidate"]


def test_a_script_of_the_user_chooses(tmp_path):
    """PWact's direct and direct_script; there the choice was ignored for DFT labels."""
    micro.write_campaign(tmp_path, strategy={"direct": True, "direct_script": "my direct.py", "max_select": 5})
    (tmp_path / "my direct.py").write_text(SCRIPT)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    choice = tmp_path / "iter.0000/01.explore/choice"
    offered = read(choice / "task/candidate.xyz", index=":")
    assert len(offered) == 5  # what max_select leaves
    assert labelled_for_their_deviation(tmp_path) == sorted(int(offered[index].info["step"]) for index in (0, 2))
    facts = json.loads((choice / "manifest.json").read_text())["facts"]
    assert facts == {"engine": "script", "candidates": facts["candidates"], "looked_at": 5, "chosen": 2}
    assert micro.executions(tmp_path)["iter.0000/01.explore/choice/task"] == 1


@pytest.mark.slow
def test_entropy_on_the_models_own_descriptors(tmp_path):
    strategy = {"choice": "entropy", "choice_descriptor": "model", "choice_num": 2, "max_select": 5}
    micro.write_campaign(tmp_path, strategy=strategy)
    done = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    task = tmp_path / "iter.0000/01.explore/choice/task"
    offered = read(task / "candidate.xyz", index=":")
    assert len(offered) > 5  # all candidates, the quotas hold for the choice
    chosen = [int(line) for line in (task / "select_idx.dat").read_text().split()]
    assert len(chosen) == 2
    assert labelled_for_their_deviation(tmp_path) == sorted(int(offered[index].info["step"]) for index in chosen)
    # the labelled structures are those of select.xyz
    labelled = {int(atoms.info["step"]): atoms for atoms in read(tmp_path / "iter.0000/02.label/result/train.xyz", index=":")}
    for atoms in read(task / "select.xyz", index=":"):
        np.testing.assert_allclose(labelled[int(atoms.info["step"])].positions, atoms.positions, atol=1e-9)
    assert json.loads((task / "choose.json").read_text())["model"] == "model.pt"

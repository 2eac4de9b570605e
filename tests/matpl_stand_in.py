"""Plays MatPL in tests: takes its commands and inputs, and leaves files of its names and shapes.

What it trains is our embedded Deep Potential, and the "torch script" is that model, so that `eval` can say what it is worth.
Nothing of this says how good MatPL is, or that it takes our inputs: it shows that the train stage works with what MatPL leaves.
"""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np

OUR = [sys.executable, "-m", "pwact_like"]
NETWORKS = {"descriptor": {"Rmax": 4.0, "Rmin": 1.0, "M2": 3, "network_size": [4, 8]}, "fitting_net": {"network_size": [8, 8, 1]}}


def train(name: str) -> None:
    """``MatPL train train.json``."""
    content = json.loads(Path(name).read_text())
    assert content["format"] == "extxyz"
    Path("std_input.json").write_text(json.dumps(content))
    ours = {key: content[key] for key in ("atom_type", "seed", "train_data", "valid_data") if key in content}
    ours |= {"model": NETWORKS, "optimizer": {"optimizer": "ADAM", "epochs": content["optimizer"]["epochs"], "print_freq": 1}}
    Path("ours.json").write_text(json.dumps(ours))
    start = ["--init-model", content["model_load_file"]] if content.get("recover_train") and "model_load_file" in content else []
    subprocess.run([*OUR, "train", "ours.json", "-o", "work", "-q", *start], check=True)
    record = Path("model_record")
    record.mkdir()
    shutil.copy("work/model.pt", record / "dp_model.ckpt")
    with Path("work/lcurve.csv").open(newline="") as stream:
        rows = {int(row["epoch"]): row for row in csv.DictReader(stream)}
    head = "# epoch              loss   RMSE_Etot(eV/atom)         RMSE_F(eV/Å)            real_lr        time(s)\n"
    lines = [
        f"{epoch:5d}    {1.0:.10e}     {float(row['energy_rmse_ev_per_atom']):.10e}     {float(row['force_rmse_ev_per_ang']):.10e}"
        f"    {float(row['lr']):.10e}    1.0\n"
        for epoch, row in rows.items()
    ]
    (record / "epoch_train.dat").write_text(head + "".join(lines))


def test(name: str) -> None:
    """``MatPL test matpl_test.json``."""
    content = json.loads(Path(name).read_text())
    shutil.copy(content["model_load_file"], "judged.pt")
    subprocess.run([*OUR, "eval", "judged.pt", *content["test_data"], "--save", "said.npz"], check=True)
    said = np.load("said.npz")
    result = Path("test_result")
    result.mkdir()
    np.savetxt(result / "image_atom_nums.txt", said["n_atoms"], fmt="%d")
    for who, prefix in (("inference", ""), ("dft", "label_")):
        arrays = [said[f"{prefix}{what}"] for what in ("energies_ev", "forces_ev_per_ang", "virials_ev")]
        if not prefix:
            arrays = [array[0] for array in arrays]
        np.savetxt(result / f"{who}_total_energy.txt", arrays[0], fmt="%.15f")
        np.savetxt(result / f"{who}_force.txt", arrays[1], fmt="%.15f")
        np.savetxt(result / f"{who}_virial.txt", arrays[2].reshape(-1, 9), fmt="%.15f")
    (result / "inference_summary.txt").write_text(f"For {len(said['n_atoms'])} images:\n")


def main(words: list[str]) -> None:
    """One command."""
    sys.stdout.write(f"MatPL {' '.join(words)}\n")
    sys.stdout.flush()
    match words:
        case ["train", name]:
            train(name)
        case ["test", name]:
            test(name)
        case ["compress", model, "-d", dx, "-o", order, "-s", name]:
            assert float(dx) > 0 and order in ("3", "5")
            shutil.copy(model, f"{name}.ckpt")
        case ["script", model, _]:
            shutil.copy(model, "jit_dp.pt")  # as the newer versions, which name the file themselves
        case _:
            sys.exit(f"no such command: {words}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""DeePMD-kit's Kalman training (3.x, PyTorch) of the same frames with the same network; no benchmark by itself."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from data_sets import Network, one_thread

if TYPE_CHECKING:
    from pwact_like.data.frames import Frame

BLOCK = 5120


class DeepmdLkf:
    """One training in a folder of its own.

    Parameters
    ----------
    dp
        DeePMD-kit's command.
    folder
        Is made.
    train, elements, network
        What to train.
    """

    def __init__(self, dp: str, folder: Path, train: list[Frame], elements: tuple[str, ...], network: Network) -> None:
        from pwact_like.data.formats import write_frames

        self._dp, self._folder, self._elements, self._network = dp, folder, elements, network
        folder.mkdir(parents=True)
        write_frames(folder / "train", train, "deepmd/npy")
        self._per_epoch = len(train)

    def train(self, steps: int, seed: int, save_every: int | None = None) -> float:
        """Train; gives seconds a step, DeePMD-kit's own figure (its first third of the steps, or its first epoch, excluded)."""
        network = self._network
        descriptor = {"type": "se_e2_a", "rcut": 6.0, "rcut_smth": 0.5, "sel": "auto", "neuron": list(network.embedding)}
        descriptor |= {"axis_neuron": network.m2, "type_one_side": False, "resnet_dt": False, "seed": seed}
        fitting = {"neuron": list(network.fitting), "resnet_dt": False, "seed": seed}
        # the filter takes its errors from energies and forces; the loss is only shown, the learning rate is not used
        loss = {"type": "ener", "start_pref_e": 1, "limit_pref_e": 1, "start_pref_f": 1, "limit_pref_f": 1}
        settings = {
            "model": {"type_map": list(self._elements), "descriptor": descriptor, "fitting_net": fitting},
            "learning_rate": {"type": "exp", "start_lr": 1e-3, "stop_lr": 3.5e-6, "decay_steps": max(1, steps // 200)},
            "loss": loss | {"start_pref_v": 0, "limit_pref_v": 0},
            "training": {
                # here in 3.0 and 3.1; 3.2 has a section "optimizer" and still reads this
                "opt_type": "LKF",
                "kf_blocksize": BLOCK,
                "training_data": {"systems": [str(path) for path in self._systems("train")], "batch_size": 1},
                "numb_steps": steps,
                "seed": seed,
                "disp_freq": min(self._per_epoch, max(1, steps // 3)),
                "save_freq": save_every or steps,
                "max_ckpt_keep": 1000,
            },
        }
        (self._folder / "input.json").write_text(json.dumps(settings))
        printed = self._run("train", "input.json")
        found = re.search(r"average training time: ([\d.]+) s/batch", printed)
        if found is None:
            raise SystemExit(f"DeePMD-kit told no training time:\n{printed[-2000:]}")
        return float(found.group(1))

    def errors(self, step: int, name: str, frames: list[Frame]) -> tuple[float, float]:
        """RMSEs of the checkpoint of a step on frames: meV/atom, eV/Å."""
        from pwact_like.data.formats import write_frames

        if not (self._folder / name).is_dir():
            write_frames(self._folder / name, frames, "deepmd/npy")
        printed = self._run("test", "-m", f"model.ckpt-{step}.pt", "-s", name, "-n", str(len(frames)))
        energy = re.findall(r"Energy RMSE/Natoms\s*:\s*([-+.\deE]+)", printed)
        force = re.findall(r"Force\s+RMSE\s*:\s*([-+.\deE]+)", printed)
        if not energy or not force:
            raise SystemExit(f"DeePMD-kit told no errors:\n{printed[-2000:]}")
        return 1e3 * float(energy[-1]), float(force[-1])  # of several systems the last lines are the averages

    def _systems(self, name: str) -> list[Path]:
        return sorted(path.parent for path in (self._folder / name).rglob("type.raw"))

    def _run(self, *arguments: str) -> str:
        done = subprocess.run([self._dp, "--pt", *arguments], cwd=self._folder, env=one_thread(), capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{self._dp} {arguments[0]} failed:\n{(done.stdout + done.stderr)[-3000:]}")
        return done.stdout + done.stderr

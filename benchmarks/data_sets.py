"""Data sets, splits and networks that several benchmarks share; no benchmark by itself."""

from __future__ import annotations

import argparse
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from pwact_like.config.train import Optimizer, TrainSettings
    from pwact_like.data.frames import Frame

ROOT = Path(__file__).resolve().parents[1]
FOLDER = ROOT.parent / "shared" / "data"


@dataclass(frozen=True)
class DataSet:
    """A labelled file, its elements, and the sign that its virial needs."""

    file: str
    elements: tuple[str, ...]
    virial_sign: int = 1


SETS = {
    "si64": DataSet("Si64_aimd_pwmat.xyz", ("Si",), virial_sign=-1),
    "cu": DataSet("Cu72_300K.MOVEMENT", ("Cu",)),
    "cu-hot": DataSet("Cu72_500K.MOVEMENT", ("Cu",)),
    "lisi": DataSet("LiSi_50.MOVEMENT", ("Li", "Si")),
}


@dataclass(frozen=True)
class Network:
    """Widths of a Deep Potential; Rmax 6 Å, Rmin 0.5 Å."""

    embedding: tuple[int, ...]
    m2: int
    fitting: tuple[int, ...]

    def __str__(self) -> str:
        return f"{'-'.join(map(str, self.embedding))} / {self.m2} / {'-'.join(map(str, self.fitting))}"


NETWORKS = {"small": Network((8, 16), 4, (32, 32)), "large": Network((25, 25, 25), 16, (50, 50, 50))}


def add_folder(parser: argparse.ArgumentParser) -> None:
    """Give a benchmark the option that says where the data lie."""
    parser.add_argument("--data-folder", type=Path, default=FOLDER, metavar="DIR", help="where the data files lie (default: %(default)s)")


def read(name: str, folder: Path) -> list[Frame]:
    """Labelled frames of a set; ends the program where they are missing."""
    from pwact_like.data.formats import read_labelled

    source = folder / SETS[name].file
    if not source.is_file():
        raise SystemExit(f"error: {source} is missing: give the folder that holds it with --data-folder")
    return read_labelled(source, virial_sign=SETS[name].virial_sign).frames


def shares(frames: list[Frame], *parts: float) -> list[list[Frame]]:
    """Cut frames by `numpy.random.default_rng(0).permutation` into parts of these shares, each in the file's order.

    For Si64 (210 frames) the shares 0.8 and 0.2 are the 168 and 42 frames of the project's other figures.
    """
    order = np.random.default_rng(0).permutation(len(frames))
    cuts = [round(len(frames) * share) for share in np.cumsum(parts)[:-1]]
    return [[frames[index] for index in sorted(part)] for part in np.split(order, cuts)]


def train_json(elements: tuple[str, ...], network: Network, optimizer: dict[str, Any], seed: int) -> dict[str, Any]:
    """TRAIN.json without data."""
    descriptor = {"Rmax": 6.0, "Rmin": 0.5, "M2": network.m2, "network_size": list(network.embedding)}
    model = {"descriptor": descriptor, "fitting_net": {"network_size": [*network.fitting, 1]}}
    return {"atom_type": list(elements), "model": model, "optimizer": optimizer, "seed": seed}


def train_settings(elements: tuple[str, ...], network: Network, optimizer: dict[str, Any], seed: int) -> TrainSettings:
    """The same for the library."""
    from pwact_like.config.train import Descriptor, Fitting, Optimizer, TrainSettings

    return TrainSettings(
        atom_type=elements,
        descriptor=Descriptor(rmax=6.0, rmin=0.5, m2=network.m2, network_size=network.embedding),
        fitting=Fitting(network_size=(*network.fitting, 1)),
        optimizer=Optimizer(**optimizer),
        seed=seed,
    )


def shown(optimizer: Optimizer) -> str:
    """Settings that the optimizer uses, in one line."""
    adam = ("epochs", "batch_size", "learning_rate", "stop_lr", "weight_decay")
    kalman = ("epochs", "batch_size", "pre_fac_etot", "pre_fac_force", "block_size", "kalman_lambda", "kalman_nue", "p0_weight")
    names = adam if optimizer.name == "ADAM" else (*kalman, "p_ceiling", "p_float32", "nselect", "groupsize")
    return f"{optimizer.name}: " + ", ".join(f"{name} {getattr(optimizer, name)}" for name in names)


def one_thread() -> dict[str, str]:
    """Environment in which our programs and DeePMD-kit keep to one core."""
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "DP_INTRA_OP_PARALLELISM_THREADS", "DP_INTER_OP_PARALLELISM_THREADS")
    return {**os.environ, **dict.fromkeys(names, "1")}


def machine() -> str:
    """What a printed result must say of the machine: processor, torch, load."""
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    processor = next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown processor")
    return f"{os.cpu_count()} cores ({processor}), torch {torch.__version__}, one thread, load {os.getloadavg()[0]:.1f}"

"""Gates between a labelling program and the training data, and warnings about data sets as they are found in the wild."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from pwact_like.data.frames import Frame
from pwact_like.errors import Problem

if TYPE_CHECKING:
    from ase import Atoms

# A DFT program's forces carry noise below this: in an unperturbed crystal, where all forces vanish by symmetry, they
# are nothing else, and their ratio says nothing about the label.
_FORCE_NOISE_EV_PER_ANG = 2.0e-2
_WRONG_SIGN_CORRELATION = 0.5
_LEAST_VOLUME_SPREAD = 1.0e-3


def net_force_ratio(forces_ev_per_ang: NDArray[np.float64]) -> float:
    """|ΣF| / (√N·F_rms): 0 for balanced forces, about 1 for N independent random ones.

    F_rms is the root mean square of the forces' length, √(Σ|F|²/N), taken as 20 meV/Å where it is smaller.
    """
    forces = np.asarray(forces_ev_per_ang, dtype=np.float64)
    scale = float(np.sqrt((forces**2).sum()))  # √N·F_rms
    return float(np.linalg.norm(forces.sum(axis=0)) / max(scale, _FORCE_NOISE_EV_PER_ANG * np.sqrt(len(forces))))


def minimum_distance_ang(atoms: Atoms, cutoff_ang: float) -> float:
    """The shortest distance between two atoms, or an atom and its own image, if it is below ``cutoff_ang``, else inf."""
    from ase.neighborlist import primitive_neighbor_list

    neighbours: Callable[..., NDArray[np.float64]] = primitive_neighbor_list
    distances = neighbours("d", atoms.pbc, atoms.cell.array, atoms.positions, cutoff_ang)
    return float(distances.min()) if len(distances) else float("inf")


def not_finite(frame: Frame) -> str | None:
    """Which number of a label or its structure is not finite or missing, None when all is well."""
    label = frame.label
    if label is None:
        return "there is no label"
    if not np.isfinite(label.energy_ev):
        return f"the energy is not finite ({label.energy_ev})"
    if label.forces_ev_per_ang.shape != (len(frame.atoms), 3):
        return f"{len(frame.atoms)} atoms, but forces of shape {label.forces_ev_per_ang.shape}"
    if not np.isfinite(label.forces_ev_per_ang).all():
        atom = int(np.flatnonzero(~np.isfinite(label.forces_ev_per_ang).all(axis=1))[0])
        return f"the force on atom {atom} (from 0) is not finite"
    if label.virial_ev is not None and not np.isfinite(label.virial_ev).all():
        return "the virial is not finite"
    if not np.isfinite(frame.atoms.positions).all() or not np.isfinite(frame.atoms.cell.array).all():
        return "the structure is not finite"
    return None


def same_structure(found: Atoms, asked: Atoms, tolerance_ang: float = 1.0e-3) -> str | None:
    """None when both are the same structure atom by atom, else what differs.

    Positions are compared modulo lattice vectors of the periodic directions. Programs that sort atoms by element must
    have their permutation undone before: forces belong to atoms by their place.
    """
    if len(found) != len(asked):
        return f"{len(found)} atoms, {len(asked)} were asked"
    if (found.numbers != asked.numbers).any():
        place = int(np.flatnonzero(found.numbers != asked.numbers)[0])
        symbols = found.symbols[place], asked.symbols[place]
        return f"atom {place} (from 0) is {symbols[0]}, {symbols[1]} was asked (is the order of the atoms restored?)"
    if asked.pbc.any():
        difference = float(np.abs(found.cell.array - asked.cell.array).max())
        if not difference <= tolerance_ang:
            return f"the cell differs by {difference:.4g} Å from what was asked"
    shift = found.positions - asked.positions
    if asked.pbc.any():
        cell = asked.cell.complete().array
        scaled = np.linalg.solve(cell.T, shift.T).T
        scaled[:, asked.pbc] -= np.round(scaled[:, asked.pbc])
        shift = scaled @ cell
    distances = np.linalg.norm(shift, axis=1)
    place = int(np.argmax(distances))
    if not distances[place] <= tolerance_ang:
        return f"atom {place} (from 0) is {distances[place]:.4g} Å from where it was asked"
    return None


def check_label(frame: Frame, asked: Atoms | None = None, *, net_force_tolerance: float = 0.1, min_distance_ang: float = 0.5) -> str | None:
    """Why a label must not be trained on, or None when it may.

    Parameters
    ----------
    frame
        The labelled frame.
    asked
        The structure that was sent to the labelling program, atoms in the same order; None skips the comparison.
    net_force_tolerance
        Largest |ΣF| / (√N·F_rms).
    min_distance_ang
        Smallest distance between atoms, periodic images counted, in Å.
    """
    reason = not_finite(frame)
    if reason is not None or frame.label is None:
        return reason
    ratio = net_force_ratio(frame.label.forces_ev_per_ang)
    if ratio > net_force_tolerance:
        return f"the net force is {ratio:.3g} of what random forces would give (at most {net_force_tolerance:g}: net_force_tolerance)"
    distance = minimum_distance_ang(frame.atoms, min_distance_ang)
    if distance < min_distance_ang:
        return f"two atoms are {distance:.3f} Å apart (at least {min_distance_ang:g} Å: min_distance_ang)"
    if asked is not None and (difference := same_structure(frame.atoms, asked)) is not None:
        return f"not the structure that was asked: {difference}"
    return None


def force_above(frame: Frame, max_force: float | None) -> str | None:
    """Why a sound label is left out for its largest force (eV/Å; None: never): a few exploded structures spoil a fit."""
    if max_force is None or frame.label is None:
        return None
    largest = float(np.linalg.norm(frame.label.forces_ev_per_ang, axis=1).max(initial=0.0))
    return f"the largest force is {largest:.4g} eV/Å (at most {max_force:g}: max_force)" if largest > max_force else None


def virial_sign_warning(frames: Sequence[Frame]) -> str | None:
    """A warning where tr W rises with the volume: the data set then has the opposite sign of ours.

    Our virial W = −V·σ falls as the cell is expanded. The correlation is taken within groups of the same composition;
    None when there are too few frames, or the volumes differ by less than a part in a thousand.
    """
    groups: dict[tuple[int, ...], list[tuple[float, float]]] = {}
    for frame in frames:
        if frame.label is not None and frame.label.virial_ev is not None and frame.atoms.cell.rank == 3:
            volume = abs(float(np.linalg.det(frame.atoms.cell.array)))
            key = tuple(sorted(frame.atoms.numbers.tolist()))
            groups.setdefault(key, []).append((volume / len(frame.atoms), float(np.trace(frame.label.virial_ev)) / len(frame.atoms)))
    for pairs in sorted(groups.values(), key=len, reverse=True):
        volumes, traces = np.array(pairs).T
        if len(pairs) < 5 or volumes.std() < _LEAST_VOLUME_SPREAD * volumes.mean() or traces.std() == 0.0:
            continue
        correlation = float(np.corrcoef(volumes, traces)[0, 1])
        if correlation > _WRONG_SIGN_CORRELATION:
            return (
                f"the virial's trace rises with the volume (correlation {correlation:+.2f} over {len(pairs)} frames): "
                'its sign looks opposite to W = −V·σ; set "virial_sign": -1 beside the path to flip it on reading'
            )
        return None  # the largest group that can tell has told
    return None


def level_of_theory_conflict(groups: Mapping[str, Sequence[Frame]]) -> Problem | None:
    """A problem when frames of different levels of theory would be trained on together.

    Parameters
    ----------
    groups
        Name of a group for the message (a path, "labels of iteration 3") → its frames. Frames of unknown level ("") say
        nothing and conflict with nothing.
    """
    first: dict[str, str] = {}
    for name, frames in groups.items():
        for level in dict.fromkeys(frame.level_of_theory for frame in frames):
            if level:
                first.setdefault(level, name)
    if len(first) < 2:
        return None
    listed = "; ".join(f"{level} ({name})" for level, name in first.items())
    return Problem(
        where=next(iter(groups)),
        what=f"data of different levels of theory must not be mixed: {listed}",
        cure="label all of it anew at one level, or set strategy.allow_mixed_theory to true if you know that they agree",
    )

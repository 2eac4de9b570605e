"""What a Kalman filter is told of a batch: scalars, their errors, and their gradients by the weights.

The reductions are those of RLEKF (Hu et al., AAAI 2023): with s the signs of the errors, the observation is a sum with
these signs, so its error is a sum of absolute errors. For N atoms, a batch of B frames and a prefactor α:

    energy   e = mean_b(α |ΔE_b|/N_b),                    H = (α/N_b) s_b ∂E_b/∂θ, mean over b;
    forces   e = mean_b(mean over the group(α |ΔF|)/N_b),  the same with a group of atoms of every frame, drawn without
             replacement;
    virial   as forces, with the six independent components of W;
    atomic   as forces, with the energies of the same groups of atoms, where the data have them (PWmat's partition; the
             elements' reference energies, which a partition shares out in its own way, are left out of it).

RLEKF's H is the *sum* over the frames of a batch, and its e is √B times the mean. With R = 1 that is not the same as the means
here: `steppers` makes it of them where the noise is fixed. A measured noise does not mind.
All observations of a batch come from one evaluation; see `kalman` for how they are taken one after the other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from pwact_like.potentials.deep_potential import Evaluation
from pwact_like.potentials.training_set import Batch
from pwact_like.seeds import derive_seed

if TYPE_CHECKING:
    from pwact_like.config.train import Optimizer

LABEL_NOISE = {"energy": 1e-4, "force": 1e-3, "virial": 1e-3, "atomic": 1e-3}
"""What labels are good for at best: eV/atom, eV/Å, eV/atom, eV. SCF cycles are converged to about this.

No observation counts as more certain, however well a model fits it: a handful of frames are fitted to the last bit, and a noise
taken from that would make P as small as one likes. Fits to real data stay above it (Cu, large network: 0.2 meV/atom, 5 meV/Å).
"""

_VOIGT = (0, 4, 8, 1, 2, 5)  # xx yy zz xy xz yz of a flattened 3 × 3 tensor


@dataclass(frozen=True, eq=False)
class Observation:
    """One scalar.

    Attributes
    ----------
    kind
        energy, force, virial or atomic.
    value
        Differentiable by the weights.
    error
        Label − prediction of that scalar.
    least
        What the error would be if all labels were off by `LABEL_NOISE`, with the predictions' signs.
    n_frames
        Frames of the batch that had such labels.
    """

    kind: str
    value: Tensor
    error: float
    least: float
    n_frames: int


def draw_groups(seed: int, step: int, n_atoms: Tensor, n_select: int, group_size: int) -> list[Tensor]:
    """Groups of atoms of a batch, without replacement; each group holds the same number of atoms of every frame.

    Parameters
    ----------
    seed, step
        Place of the draw: it does not depend on what was drawn before.
    n_atoms
        (n_frames,) atoms of each frame; the frames' atoms follow one another.
    n_select, group_size
        Atoms of a frame in all groups together, and in one group. Smaller frames give fewer.
    """
    counts = [int(count) for count in n_atoms]
    first = np.cumsum([0, *counts[:-1]])
    generator = np.random.default_rng([derive_seed(seed, "groups"), step])
    drawn = [start + generator.permutation(count)[:n_select] for start, count in zip(first, counts, strict=True)]
    n_groups = -(-max(len(atoms) for atoms in drawn) // group_size)
    groups = [np.concatenate([atoms[g * group_size : (g + 1) * group_size] for atoms in drawn]) for g in range(n_groups)]
    return [torch.from_numpy(group) for group in groups]


def observe(result: Evaluation, batch: Batch, settings: Optimizer, seed: int, step: int) -> list[Observation]:
    """The observations of a batch, in the order in which the filter takes them: energy, virial, atomic energies, forces.

    Those on which no weight has an influence are left out.
    """
    n_atoms = batch.n_atoms.cpu()
    found = []
    every_frame = torch.arange(batch.n_frames)
    if settings.train_energy and settings.pre_fac_etot > 0.0:
        d_energy = batch.energies - result.energies[0]
        found.append(_reduced("energy", result.energies[0], d_energy, every_frame, batch, settings.pre_fac_etot))
    if settings.train_virial and settings.pre_fac_virial > 0.0 and result.virials is not None and bool(batch.has_virial.any()):
        there = torch.nonzero(batch.has_virial > 0).squeeze(1)
        frames = there.repeat_interleave(6)
        values = result.virials[0].flatten(1)[there][:, _VOIGT].reshape(-1)
        labels = batch.virials.flatten(1)[there][:, _VOIGT].reshape(-1)
        found.append(_reduced("virial", values, labels - values, frames, batch, settings.pre_fac_virial))
    trains_forces = settings.train_force and settings.pre_fac_force > 0.0
    trains_atomic = settings.train_ei and settings.pre_fac_ei > 0.0
    wants_groups = trains_forces or trains_atomic
    groups = draw_groups(seed, step, n_atoms, settings.nselect, settings.groupsize) if wants_groups else []
    groups = [group.to(batch.atom_frame.device) for group in groups]
    if trains_atomic:
        for group in groups:
            known = group[torch.isfinite(batch.atomic_energies[group])]
            if len(known):
                values = result.atomic_energies[0][known]
                errors = batch.atomic_energies[known] - values
                found.append(_reduced("atomic", values, errors, batch.atom_frame[known], batch, settings.pre_fac_ei))
    if trains_forces:
        assert result.forces is not None
        for group in groups:
            values = result.forces[0][group].reshape(-1)
            errors = batch.forces[group].reshape(-1) - values
            found.append(_reduced("force", values, errors, batch.atom_frame[group].repeat_interleave(3), batch, settings.pre_fac_force))
    # forces and virials of atoms without any neighbour are zero whatever the weights are
    return [observation for observation in found if observation.value.requires_grad]


def _reduced(kind: str, values: Tensor, errors: Tensor, frame: Tensor, batch: Batch, prefactor: float) -> Observation:
    """Σ_c w_c s_c h_c, w the mean over a frame's components, over N, over the frames, times the prefactor."""
    errors = errors.detach()
    per_frame = torch.bincount(frame.cpu(), minlength=batch.n_frames).to(values)
    n_frames = int((per_frame > 0).sum())
    share = 1.0 / (per_frame.clamp_min(1.0) * batch.n_atoms.to(values) * n_frames)
    sizes = prefactor * share[frame.to(share.device)]
    weights = torch.sign(errors) * sizes
    # the noise of an energy and of a virial is an atom's
    atoms = batch.n_atoms.to(values)[frame.to(sizes.device)] if kind in ("energy", "virial") else 1.0
    least = float((sizes * atoms).sum()) * LABEL_NOISE[kind]
    return Observation(kind, (weights * values).sum(), float((weights * errors).sum()), least, n_frames)


def gradients_of(observations: list[Observation], gradient: Tensor) -> Tensor:
    """∂(value)/∂θ of each, (m, n_weights), by as many backward passes through the one graph.

    Parameters
    ----------
    gradient
        `FlatParameters.gradient`, into which the passes write; left at zero.
    """
    rows = gradient.new_empty((len(observations), len(gradient)))
    for number, observation in enumerate(observations):
        observation.value.backward(retain_graph=number + 1 < len(observations))
        rows[number] = gradient
        gradient.zero_()
    return rows

"""The loss of a training with Adam, and the errors that are reported."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import torch
from torch import Tensor

from pwact_like.config.train import Optimizer
from pwact_like.potentials.deep_potential import Evaluation
from pwact_like.potentials.training_set import Batch


@dataclass(frozen=True)
class Prefactors:
    """Weights of the squared errors of energy, forces and virial at one step."""

    energy: float
    force: float
    virial: float


def learning_rate(settings: Optimizer, step: int, n_steps: int) -> float:
    """lr₀·(lr_stop/lr₀)^(step/n_steps): exponential decay over the whole training, ``step`` from 0."""
    return settings.learning_rate * (settings.stop_lr / settings.learning_rate) ** (step / n_steps)


def prefactors(settings: Optimizer, rate: float) -> Prefactors:
    """Prefactors go from start to end as the learning rate decays: p = end + (start − end)·lr/lr₀ (DeePMD-kit's rule)."""
    share = rate / settings.learning_rate

    def at(start: float, end: float, wanted: bool) -> float:
        return end + (start - end) * share if wanted else 0.0

    return Prefactors(
        at(settings.start_pre_fac_etot, settings.end_pre_fac_etot, settings.train_energy),
        at(settings.start_pre_fac_force, settings.end_pre_fac_force, settings.train_force),
        at(settings.start_pre_fac_virial, settings.end_pre_fac_virial, settings.train_virial),
    )


@dataclass(frozen=True)
class SquaredErrors:
    """Sums over frames, for RMSEs over any number of them.

    ``energy`` Σ (ΔE/N)², ``force`` Σ ΔF² over components, ``virial`` Σ (ΔW/N)² over the nine components, and the
    counts of what was summed.
    """

    energy: float = 0.0
    force: float = 0.0
    virial: float = 0.0
    n_energies: int = 0
    n_forces: int = 0
    n_virials: int = 0

    def __add__(self, other: SquaredErrors) -> SquaredErrors:
        return SquaredErrors(*(getattr(self, field.name) + getattr(other, field.name) for field in fields(self)))

    def rmse(self) -> tuple[float | None, float | None, float | None]:
        """RMSE of the energy an atom (eV), of the force components (eV/Å), of the virial's components an atom (eV)."""
        return _root(self.energy, self.n_energies), _root(self.force, self.n_forces), _root(self.virial, self.n_virials)

    def report(self, n_frames: int) -> dict[str, Any]:
        """RMSEs under the names of ``pwact-like eval --json``; None where nothing had such a label."""
        energy, force, virial = self.rmse()
        return {
            "n_frames": n_frames,
            "energy_rmse_ev_per_atom": energy,
            "force_rmse_ev_per_ang": force,
            "virial_rmse_ev_per_atom": virial,
        }


def _root(total: float, count: int) -> float | None:
    return (total / count) ** 0.5 if count else None


def loss_and_errors(result: Evaluation, batch: Batch, weights: Prefactors) -> tuple[Tensor, SquaredErrors]:
    """Loss of a batch, and its squared errors.

    Mean over the frames of  p_E·ΔE²/N + p_F·mean(ΔF²) + p_V·mean(ΔW²)/N  with the mean over 3N force and nine virial
    components: DeePMD-kit's loss (loss "ener", mse), frame by frame. Frames without a virial add nothing to the last term.
    """
    d_energy = result.energies[0] - batch.energies
    energy = d_energy.square()
    assert result.forces is not None
    d_force = (result.forces[0] - batch.forces).square()
    if batch.n_frames == 1:
        force = d_force.sum().view(1)
    else:
        force = torch.zeros_like(energy).index_add(0, batch.atom_frame, d_force.sum(dim=1))
    per_frame = weights.energy * energy / batch.n_atoms + weights.force / 3.0 * force / batch.n_atoms
    virial = None
    if result.virials is not None:
        virial = (result.virials[0] - batch.virials).square().sum(dim=(1, 2)) * batch.has_virial
        per_frame = per_frame + weights.virial / 9.0 * virial / batch.n_atoms
    loss = per_frame.mean()
    with torch.no_grad():
        n_virials = 0 if virial is None else int(batch.has_virial.sum())
        parts = torch.stack(
            [
                (energy / batch.n_atoms.square()).sum(),
                force.sum(),
                energy.new_zeros(()) if virial is None else (virial / batch.n_atoms.square()).sum(),
            ]
        ).tolist()
    return loss, SquaredErrors(*parts, batch.n_frames, batch.forces.numel(), 9 * n_virials)

"""Derivatives of energies, forces and virials by the weights, for one structure: what Kalman filters and KPU are made of.

All are exact first derivatives, worked out by hand for the Deep Potential (checked against torch's autograd and finite
differences). Weights are flat in the order of ``named_parameters``, as in `FlatParameters`. With N atoms and n weights:

=====================  ==============================================================  ===================================
`energy_gradient`      ∂E/∂θ, (n,), eV                                                 one backward pass
`force_jacobian`       ∂F/∂θ, (3·N, n), atom by atom, x, y, z                          all atoms at once, see `atom_rows`
`force_vjp`            Jᵀv for vectors v, (m, N, 3) → (m, n)                            m small
`virial_jacobian`      ∂W/∂θ for xx, yy, zz, xy, xz, yz, (6, n), eV
`force_jvp`            J δ for directions δ, (S, n) → energies (S,), forces (S, N, 3)   S evaluations' worth
`output_jacobian`      the columns of the output layers alone
=====================  ==============================================================  ===================================

`Linearization` shares the common part between several of these.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from pwact_like.potentials.atom_rows import AtomRows
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.linear_embedding import BlockState, Place, places_of
from pwact_like.potentials.linear_fitting import CenterState, FitTangents, center_states

CHUNK = 1 << 21
"""Numbers in the largest array of a pass: more directions are taken in turns, which is also faster (they stay in the cache)."""

COMPONENTS = ((0, 0), (1, 1), (2, 2), (0, 1), (0, 2), (1, 2))  # of a symmetric tensor


class Linearization:
    """A model at one structure, to first order in its weights.

    Parameters
    ----------
    model
        Its parameters are read now; later changes are not seen.
    geometry
        Of one frame.
    """

    @torch.no_grad()
    def __init__(self, model: DeepPotential, geometry: Geometry) -> None:
        if geometry.layout.n_frames != 1:
            raise ValueError(f"one frame at a time, and this geometry holds {geometry.layout.n_frames}")
        self.geometry, self.layout = geometry, geometry.layout
        self.places = places_of(model)
        self.centers = center_states(model, geometry, self.places)

    @property
    def n_weights(self) -> int:
        """Number of weights."""
        return self.places.n

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return self.layout.n_atoms

    def _zeros(self, count: int) -> Tensor:
        return self.places.flat.new_zeros((count, self.places.n))

    def _chunks(self, count: int, directions: int = 1) -> Iterator[slice]:
        widest = max(max(center.gradient.numel(), *(state.row_value.numel() for state in center.blocks)) for center in self.centers)
        size = max(1, CHUNK // (widest * directions))
        for first in range(0, count, size):
            yield slice(first, min(first + size, count))

    @torch.no_grad()
    def energy_gradient(self) -> Tensor:
        """∂E/∂θ of the cell's energy, (n,), eV."""
        out = self._zeros(1)
        for center in self.centers:
            for layer in center.layers:
                layer.place.weight(out)[0] = layer.x.t() @ layer.b
                layer.place.bias(out)[0] = layer.b.sum(dim=0)
                if layer.idt is not None:
                    layer.place.idt(out)[0] = (layer.g * layer.t).sum(dim=0)
            center.output.weight(out)[0, :, 0] = center.features.sum(dim=0)
            center.output.bias(out)[0] = center.n_i
            for state in center.blocks:
                _write_embedding(state, state.row_gradient.unsqueeze(1), None, out)
        return out[0]

    @torch.no_grad()
    def force_vjp(self, vectors: Tensor) -> Tensor:
        """Jᵀv of each vector, (m, n), from (m, N, 3) in the atoms' own order."""
        i, j = self.layout.ends
        out = self._zeros(len(vectors))
        for part in self._chunks(len(vectors)):
            # F·v is the derivative of E when every atom moves by −v
            moved = vectors[part].to(self.places.flat).index_select(1, self.layout.order).permute(1, 2, 0)
            self._pair_vjp(moved.index_select(0, i) - moved.index_select(0, j), out[part])
        return out

    @torch.no_grad()
    def virial_jacobian(self) -> Tensor:
        """∂W/∂θ for W's components xx, yy, zz, xy, xz, yz, (6, n), eV."""
        vectors, out = self.geometry.vectors, self._zeros(6)
        for part in self._chunks(6):
            strains = vectors.new_zeros((len(vectors), 3, 6))  # W_ab = −Σ ∂E/∂r_a r_b: E along dr_a = −r_b
            for column, (a, b) in enumerate(COMPONENTS):
                strains[:, a, column] = -vectors[:, b]
            self._pair_vjp(strains[..., part], out[part])
        return out

    def _pair_vjp(self, moved: Tensor, out: Tensor) -> None:
        """Derivatives by the weights of E's derivative along displacements (n_pairs, 3, V) of the pairs' vectors, into (V, n)."""
        raw = torch.bmm(self.geometry.jacobian, moved)
        for center in self.centers:
            env_dots = [state.pair_tangents(raw) for state in center.blocks]
            matrix_dot = _matrix_dot(center, _xi_dot(center, env_dots), out)
            flat = matrix_dot.reshape(center.n_i, 4, -1)
            for state, (env_dot, sigma_dot) in zip(center.blocks, env_dots, strict=True):
                alpha = torch.bmm(state.env, flat)
                turned = env_dot.transpose(2, 3).reshape(center.n_i, -1, 4)
                alpha.view(center.n_i, -1, center.width).baddbmm_(turned, center.by_matrix)
                rows = state.to_rows(alpha.view(*state.env.shape[:2], len(out), center.width))
                _write_embedding(state, rows, sigma_dot, out)

    @cached_property
    def _atom_rows(self) -> list[list[AtomRows]]:
        jacobian, layout = self.geometry.jacobian, self.layout
        return [[AtomRows(state, center.by_matrix, layout, jacobian) for state in center.blocks] for center in self.centers]

    @torch.no_grad()
    def force_jacobian(self, atoms: Tensor | None = None) -> Tensor:
        """∂F/∂θ, (3·n_sel, n), eV/Å.

        Parameters
        ----------
        atoms
            (n_sel,) atoms wanted, in their own order; None: all.
        """
        wanted = self.layout.inverse if atoms is None else self.layout.inverse[atoms.to(self.layout.inverse.device)]
        out = self.places.flat.new_zeros((3 * len(wanted), self.places.n))
        for part in self._chunks(len(wanted), 3):
            chosen, rows = wanted[part], out[3 * part.start : 3 * part.stop]
            for center, tables in zip(self.centers, self._atom_rows, strict=True):
                xi_dot = out.new_zeros((center.n_i, len(chosen), 4, 3, center.width))
                for table in tables:
                    table.add_matrix_tangents(chosen, xi_dot)
                matrix_dot = _matrix_dot(center, xi_dot.transpose(1, 2).flatten(2, 3), rows)
                for table in tables:
                    table.write(matrix_dot, chosen, rows)
        return out

    @torch.no_grad()
    def jvp(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        """Derivatives of energy (S,) and forces (S, N, 3) along directions (S, n) of the weights."""
        energies, forces = [], []
        for part in self._chunks(len(directions)):
            energy, force = self._jvp(directions[part].to(self.places.flat))
            energies.append(energy)
            forces.append(force)
        return torch.cat(energies), torch.cat(forces)

    def _jvp(self, directions: Tensor) -> tuple[Tensor, Tensor]:
        n_s = len(directions)
        energy = directions.new_zeros(n_s)
        by_pair = directions.new_zeros((self.layout.ends.shape[1], 4, n_s))
        for center in self.centers:
            moved = [state.weight_tangents(directions) for state in center.blocks]
            values = [state.to_slots(value) for state, (value, _) in zip(center.blocks, moved, strict=True)]
            parts = [torch.bmm(state.env.transpose(1, 2), value.flatten(2)) for state, value in zip(center.blocks, values, strict=True)]
            xi_dot = torch.stack(parts).sum(dim=0).view(center.n_i, 4, n_s, center.width)
            tangents = center.fit_tangents(center.descriptor_tangents(xi_dot), directions)
            energy += tangents.energy.sum(dim=0)
            matrix_dot = center.matrix_tangents(tangents.gradient, xi_dot)
            for state, value, (_, slope) in zip(center.blocks, values, moved, strict=True):
                by_env = torch.bmm(value.reshape(center.n_i, -1, center.width), center.by_matrix.transpose(1, 2))
                by_env = by_env.view(*state.env.shape[:2], n_s, 4).transpose(2, 3)
                by_sigma = (slope * state.row_gradient.unsqueeze(1)).sum(dim=2)
                _add_to_pairs(state, matrix_dot, by_env, by_sigma, by_pair)
        return energy, self._forces(by_pair)

    @torch.no_grad()
    def output_jacobian(self) -> tuple[Tensor, Tensor]:
        """Columns of the output layers (weight and bias of each type's): ∂E/∂· (k,) eV and ∂F/∂· (3·N, k) eV/Å.

        E and F are linear in these weights: column q is what the model says when feature q alone is put out, so the
        backward pass of the fitting network is made for all features at once, and everything else is shared.
        """
        energy, forces, _ = self._outputs(virials=False)
        return energy, forces

    def output_virials(self) -> Tensor:
        """The same columns of ∂W/∂·, (6, k) eV, for W's components xx, yy, zz, xy, xz, yz."""
        virials = self._outputs(virials=True)[2]
        assert virials is not None
        return virials

    @torch.no_grad()
    def _outputs(self, *, virials: bool) -> tuple[Tensor, Tensor, Tensor | None]:
        n_features = self.centers[0].features.shape[1]
        n_types, first = len(self.places.output), self.places.output[0].first
        energy = self.places.flat.new_zeros(n_types * (n_features + 1))
        forces = energy.new_zeros((3 * self.n_atoms, len(energy)))
        virial = energy.new_zeros((6, len(energy))) if virials else None
        for center in self.centers:
            columns = slice(center.output.first - first, center.output.first - first + n_features)
            energy[columns] = center.features.sum(dim=0)
            energy[columns.stop] = center.n_i
            by_pair = energy.new_zeros((self.layout.ends.shape[1], 4, n_features))
            matrix_dot = center.matrix_tangents(center.feature_gradients(), None)
            for state in center.blocks:
                _add_to_pairs(state, matrix_dot, None, None, by_pair)
            forces[:, columns] = self._forces(by_pair).flatten(1).t()
            if virial is not None:
                by_vector = torch.bmm(self.geometry.jacobian.transpose(1, 2), by_pair)
                for row, (a, b) in enumerate(COMPONENTS):  # W_ab = −Σ ∂E/∂r_a r_b
                    virial[row, columns] = -(self.geometry.vectors[:, b] @ by_vector[:, a])
        return energy, forces, virial

    def _forces(self, by_pair: Tensor) -> Tensor:
        """Forces (S, N, 3) in the atoms' own order, from the derivatives (n_pairs, 4, S) by the pairs' (s, s·r/|r|)."""
        by_vector = torch.bmm(self.geometry.jacobian.transpose(1, 2), by_pair)
        forces = by_vector.new_zeros((self.n_atoms, *by_vector.shape[1:]))
        forces.index_add_(0, self.layout.ends[0], by_vector).index_add_(0, self.layout.ends[1], by_vector, alpha=-1.0)
        return forces.index_select(0, self.layout.inverse).permute(2, 0, 1)


def _xi_dot(center: CenterState, env_dots: list[tuple[Tensor, Tensor]]) -> Tensor:
    """Ξ̇ (n_i, 4, V, M) from `BlockState.pair_tangents` of each block."""
    n_v = env_dots[0][0].shape[3]
    xi_dot = center.xi.new_zeros((center.n_i, 4 * n_v, center.width))
    for state, (env_dot, sigma_dot) in zip(center.blocks, env_dots, strict=True):
        xi_dot.baddbmm_(env_dot.flatten(2).transpose(1, 2), state.value)
        through = state.env.unsqueeze(3) * state.to_slots(sigma_dot).unsqueeze(2)
        xi_dot.baddbmm_(through.flatten(2).transpose(1, 2), state.slope)
    return xi_dot.view(center.n_i, 4, n_v, center.width)


def _matrix_dot(center: CenterState, xi_dot: Tensor, out: Tensor) -> Tensor:
    """Ȧ along Ξ̇; writes the fitting network's derivatives into (V, n)."""
    tangents = center.fit_tangents(center.descriptor_tangents(xi_dot))
    _write_fitting(center, tangents, out)
    return center.matrix_tangents(tangents.gradient, xi_dot)


def _write_fitting(center: CenterState, tangents: FitTangents, out: Tensor) -> None:
    """Σ_i ẋ bᵀ + x ḃᵀ of each layer."""
    n_v = len(out)
    for number, layer in enumerate(center.layers):
        x, b, g = tangents.x[number], tangents.b[number], tangents.g[number]
        first = torch.mm(x.flatten(1).t(), layer.b).view(n_v, *layer.weight.shape)
        second = torch.mm(layer.x.t(), b.flatten(1)).view(layer.place.n_in, n_v, layer.place.n_out)
        torch.add(first, second.transpose(0, 1), out=layer.place.weight(out))
        layer.place.bias(out).copy_(b.sum(dim=0))
        if layer.idt is not None:
            t_dot = torch.matmul(x, layer.weight) * layer.d.unsqueeze(1)
            layer.place.idt(out).copy_((g * layer.t.unsqueeze(1) + t_dot * layer.g.unsqueeze(1)).sum(dim=0))
    center.output.weight(out).squeeze(-1).copy_(tangents.x[-1].sum(dim=0))


def _write_embedding(state: BlockState, alpha: Tensor, sigma_dot: Tensor | None, out: Tensor) -> None:
    """Σ_rows x z̄ᵀ + x' z̄'ᵀ of each layer, see `BlockState.cotangents`."""
    n_v = len(out)
    for layer, value, slope in state.cotangents(alpha, sigma_dot):
        place: Place = layer.place
        weight = torch.mm(layer.x.t(), value.flatten(1))
        if slope is not None:
            weight.addmm_(layer.xs.t(), slope.flatten(1))
        place.weight(out).copy_(weight.view(place.n_in, n_v, place.n_out).transpose(0, 1))
        place.bias(out).copy_(value.sum(dim=0))


def _add_to_pairs(state: BlockState, matrix_dot: Tensor, by_env: Tensor | None, by_sigma: Tensor | None, into: Tensor) -> None:
    """Add a block's share of ∂E/∂(pair), (n_pairs, 4, S), from Ȧ (n_i, 4, S, M) and what G's own tangents gave (slots and rows)."""
    n_i, _, n_s, width = matrix_dot.shape
    flat = matrix_dot.reshape(n_i, -1, width).transpose(1, 2)
    through_value = torch.bmm(state.value, flat).view(*state.env.shape[:2], 4, n_s)
    through_slope = torch.bmm(state.slope, flat).view(*state.env.shape[:2], 4, n_s)
    sigma = state.to_rows((through_slope * state.env.unsqueeze(3)).sum(dim=2))
    state.pair_cotangents(
        through_value if by_env is None else through_value + by_env,
        sigma if by_sigma is None else sigma + by_sigma,
        into,
    )


def energy_gradient(model: DeepPotential, geometry: Geometry) -> Tensor:
    """See `Linearization.energy_gradient`."""
    return Linearization(model, geometry).energy_gradient()


def force_jacobian(model: DeepPotential, geometry: Geometry, atoms: Tensor | None = None) -> Tensor:
    """See `Linearization.force_jacobian`."""
    return Linearization(model, geometry).force_jacobian(atoms)


def force_vjp(model: DeepPotential, geometry: Geometry, vectors: Tensor) -> Tensor:
    """See `Linearization.force_vjp`."""
    return Linearization(model, geometry).force_vjp(vectors)


def force_jvp(model: DeepPotential, geometry: Geometry, directions: Tensor) -> tuple[Tensor, Tensor]:
    """See `Linearization.jvp`."""
    return Linearization(model, geometry).jvp(directions)

"""What labelled frames say of the weights at the end of a training: the Gauss–Newton (Laplace) posterior.

With h = ∂o/∂θ at the final weights for every observation o (energy an atom, force components, virial an atom) and its
noise σ_o, the log posterior's curvature is

    Λ = Σ_o h hᵀ/σ_o² + τ·1,   P = Λ⁻¹,

taken within the blocks of a layout, in the coordinates φ of a training (θ = T φ) where there are such. Unlike a filter's
own P it knows no forgetting, no wind-up, and does not shrink with the number of passes over the data.
(MacKay, Neural Computation 4, 448 (1992); for forces: Bigi & Ceriotti 2024, where Λ is that of the last layer.)
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from pwact_like.errors import DataError
from pwact_like.potentials.block_matrix import BlockMatrix, Factors, normal_columns
from pwact_like.potentials.covariance import BlockLayout
from pwact_like.potentials.deep_potential import DeepPotential
from pwact_like.potentials.evaluation import errors_of
from pwact_like.potentials.geometry import Geometry
from pwact_like.potentials.jacobian import Linearization
from pwact_like.potentials.kpu import Variances, WeightCoordinates, random_signs
from pwact_like.potentials.observations import LABEL_NOISE
from pwact_like.potentials.training_set import Batch, TrainingSet, content_hash
from pwact_like.seeds import derive_seed

TAU = 1e-6
"""Default prior precision, in mean eigenvalues of Σ h hᵀ/σ².

The mean is that of few large ones (the energies' direction alone is thousands of times the mean), so a prior of 1e-4 hides
most of what the forces tell: Cu72 at 500 K, structures ranked by their largest σ: Spearman 0.89, 0.90, 0.96, 0.98 for 1e-2,
1e-4, 1e-6, 1e-8, while the mean of z² after calibration at 300 K goes 1.2, 1.0, 0.85, 0.57.
"""

EXACT_PRODUCTS = 5e12
"""All force components are summed exactly while that takes no more multiplications.

About ten minutes on one core: 400 frames of 64 atoms for 26,551 weights in blocks of 5,120.
"""

_ROWS_PER_WEIGHT = 4  # with probes: so many rows for each weight of the largest block, else Λ lacks rank and P is the prior
_LEAST_PROBES = 8
_ROWS_TOGETHER = 1 << 23  # numbers of gradients that are summed by one product


@dataclass(frozen=True)
class Noise:
    """Standard deviations of the observations; None leaves a kind out.

    ``energy`` eV/atom, ``force`` eV/Å (a component), ``virial`` eV/atom (a component).
    """

    energy: float | None
    force: float | None
    virial: float | None = None


def residual_noise(model: DeepPotential, data: TrainingSet, virial: bool = False, *, energy: bool = True, force: bool = True) -> Noise:
    """What a model leaves unexplained of its training frames, taken as the noise: RMSEs of those that are asked for.

    At least `observations.LABEL_NOISE`: a perfect fit is not a perfect label.
    """
    floors = (LABEL_NOISE["energy"], LABEL_NOISE["force"], LABEL_NOISE["virial"])
    found = [None if value is None else max(value, floor) for value, floor in zip(errors_of(model, data).rmse(), floors, strict=True)]
    return Noise(found[0] if energy else None, found[1] if force else None, found[2] if virial else None)


def choose_probes(data: TrainingSet, layout: BlockLayout) -> int:
    """How many probes a frame sum up its force components; 0: all components exactly.

    Exactly as long as `EXACT_PRODUCTS` allows. Else as many ±1 probes as give four rows for each weight of the largest
    block over all frames (fewer would leave directions to the prior that the data hold), and at least eight.
    """
    n_rows = 3 * sum(frame.n_atoms for frame in data.frames)
    if 0.5 * n_rows * sum(size**2 for size in layout.sizes) <= EXACT_PRODUCTS:
        return 0
    wanted = max(_LEAST_PROBES, -(-_ROWS_PER_WEIGHT * max(layout.sizes) // max(len(data), 1)))
    return 0 if wanted * len(data) >= n_rows else wanted


def information(
    model: DeepPotential,
    data: TrainingSet,
    layout: BlockLayout,
    noise: Noise,
    *,
    probes: int = 0,
    seed: int = 0,
    coordinates: WeightCoordinates | None = None,
) -> BlockMatrix:
    """The sum Σ h hᵀ/σ² over the frames, without a prior.

    Parameters
    ----------
    probes
        0: all 3N force components of a frame. Else so many vectors v of ±1 stand for them, Σ Jᵀv vᵀJ/probes, which
        is JᵀJ in the mean. They are drawn from the seed and the frame's content: the order of frames does not matter.
    """
    total = BlockMatrix.zeros(layout, next(model.parameters()).detach().to(torch.float64))
    waiting: list[Tensor] = []
    for index in range(len(data)):
        for rows in _gradients(model, data, index, noise, probes, seed):
            rows = rows if coordinates is None else coordinates.gradient(rows)
            if not bool(torch.isfinite(rows).all()):
                raise DataError(f"training frame {index}: its gradient by the weights is not finite")
            waiting.append(rows)
        if sum(rows.numel() for rows in waiting) >= _ROWS_TOGETHER:
            total.add_squares(torch.cat(waiting))
            waiting = []
    if waiting:
        total.add_squares(torch.cat(waiting))
    return total


def _gradients(model: DeepPotential, data: TrainingSet, index: int, noise: Noise, probes: int, seed: int) -> Iterator[Tensor]:
    """Gradients of one frame's observations over their σ."""
    batch = data.batch([index])
    linear = Linearization(model, batch.geometry)
    if noise.energy is not None:
        yield linear.energy_gradient().unsqueeze(0) / (linear.n_atoms * noise.energy)
    if noise.force is not None and not probes:
        yield linear.force_jacobian() / noise.force
    elif noise.force is not None:
        own = derive_seed(seed, "posterior", content_hash([data.frames[index]]))
        yield linear.force_vjp(random_signs(probes, linear.n_atoms, own)) / (noise.force * probes**0.5)
    if noise.virial is not None and _has_virial(batch):
        yield linear.virial_jacobian() * _virial_weights(linear, noise.virial)


def _virial_weights(linear: Linearization, sigma: float) -> Tensor:
    """(6, 1): of an atom's share of nine components, three of which are met twice, over their noise."""
    return linear.places.flat.new_tensor([1.0, 1.0, 1.0, 2.0, 2.0, 2.0]).sqrt().unsqueeze(1) / (linear.n_atoms * sigma)


def _has_virial(batch: Batch) -> bool:
    return bool(batch.has_virial[0])


class Posterior:
    """P = Λ⁻¹, held as Λ's Cholesky factors; `kpu.ExactKpu` takes it for P.

    Attributes
    ----------
    layout
        Its blocks.
    tau
        Prior precision as it was added, in the units of Λ.
    coordinates
        Of P; None: the weights themselves.
    """

    def __init__(self, precision: BlockMatrix, tau: float, coordinates: WeightCoordinates | None = None) -> None:
        """Take Σ h hᵀ/σ² (it is used up) and the relative prior: see `laplace_posterior`."""
        scale = precision.mean_diagonal
        if not math.isfinite(scale):
            raise DataError("the posterior of the weights: a gradient of a training frame is not finite; is the model itself?")
        if not scale > 0.0:
            raise DataError("no frame tells anything of the weights: a posterior needs labelled frames with energies or forces")
        if not tau > 0.0:
            raise DataError(f"tau = {tau}: the prior must be positive, since frames never hold all directions of the weights")
        self.layout, self.tau, self.coordinates = precision.layout, tau * scale, coordinates
        precision.add_diagonal(self.tau)
        self._factors: Factors = precision.factorize("the posterior of the weights")

    def product(self, x: Tensor) -> Tensor:
        """P x for the columns of x, (n, m), in the coordinates of P."""
        return self._factors.solve(x)

    def quadratic(self, rows: Tensor) -> Tensor:
        """Quadratic form hᵀ P h of each row, (m, n) → (m,), in the coordinates of P."""
        return self._factors.inverse_quadratic(rows)

    def covariance(self) -> BlockMatrix:
        """P itself, in the coordinates of P."""
        return BlockMatrix(self.layout, [torch.cholesky_inverse(factor) for factor in self._factors.factors])

    def sample(self, count: int, seed: int) -> Tensor:
        """Draws δ ~ N(0, P) as changes of the weights θ, (count, n); the same for the same seed."""
        normal = normal_columns(self.layout, count, derive_seed(seed, "posterior samples"), self._factors.factors[0])
        draws = self._factors.solve_transposed(normal).t()
        return draws if self.coordinates is None else self.coordinates.step(draws)


def laplace_posterior(
    model: DeepPotential,
    data: TrainingSet,
    layout: BlockLayout,
    noise: Noise | None = None,
    *,
    tau: float = TAU,
    probes: int | None = None,
    seed: int = 0,
    coordinates: WeightCoordinates | None = None,
) -> Posterior:
    """Posterior of the weights at a trained model.

    Parameters
    ----------
    data
        The frames it was trained on.
    layout
        Blocks of weights, as a filter has them.
    noise
        None: `residual_noise`.
    tau
        Prior precision over the mean eigenvalue (trace/n) of the data's part.
    probes, seed
        See `information`; None: `choose_probes` decides.

    Raises
    ------
    DataError
        When there is nothing to learn from, gradients are not finite, or Λ is not positive definite.
    """
    noise = residual_noise(model, data) if noise is None else noise
    probes = choose_probes(data, layout) if probes is None else probes
    total = information(model, data, layout, noise, probes=probes, seed=seed, coordinates=coordinates)
    return Posterior(total, tau, coordinates)


class LastLayer:
    """Uncertainty from the output layers alone: u² = α² fᵀ(FᵀF + ς·1)⁻¹ f (LLPR, Bigi & Ceriotti 2024).

    f are the derivatives of an energy or a force by the weights and biases of the output layers, and the rows of F those
    of the training frames' observations over their σ. The model is linear in these weights, so f does not depend on them.

    Parameters
    ----------
    noise
        See `Noise`; with α = 1 the variances then are in (eV/Å)² and (eV/atom)². ``Noise(1.0, None)`` takes energies
        only, unweighted, as the paper does.
    tau
        ς over the mean eigenvalue (trace over number) of FᵀF.
    alpha
        Factor of all standard deviations, from a calibration.
    """

    def __init__(
        self, model: DeepPotential, data: TrainingSet, noise: Noise | None = None, *, tau: float = TAU, alpha: float = 1.0
    ) -> None:
        self.model, self.alpha = model, alpha
        noise = residual_noise(model, data) if noise is None else noise
        total: Tensor | None = None
        for index in range(len(data)):
            batch = data.batch([index])
            linear = Linearization(model, batch.geometry)
            energy, forces = linear.output_jacobian()
            rows = []
            if noise.energy is not None:
                rows.append(energy.unsqueeze(0) / (linear.n_atoms * noise.energy))
            if noise.force is not None:
                rows.append(forces / noise.force)
            if noise.virial is not None and _has_virial(batch):
                rows.append(linear.output_virials() * _virial_weights(linear, noise.virial))
            if not rows:
                continue
            found = torch.cat(rows)
            total = found.t() @ found if total is None else total.addmm_(found.t(), found)
        if total is None:
            raise DataError("no frames, or no noise for any observation: the uncertainty of the last layer needs training frames")
        self._posterior = Posterior(BlockMatrix(BlockLayout((0, len(total))), [total]), tau)

    def sample(self, count: int, seed: int) -> Tensor:
        """Draws of the output layers' weights, (count, k), in the order of their parameters."""
        return self._posterior.sample(count, seed) * self.alpha

    def variances(self, geometry: Geometry) -> Variances:
        """See `kpu.Uncertainty`."""
        linear = Linearization(self.model, geometry)
        energy, forces = linear.output_jacobian()
        found = self._posterior.quadratic(torch.cat([forces, energy.unsqueeze(0) / linear.n_atoms])) * self.alpha**2
        return Variances(found[:-1].view(-1, 3).sum(dim=1).cpu().numpy(), float(found[-1]))

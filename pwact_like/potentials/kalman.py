"""The extended Kalman filter for the weights of a potential: scalar observations in, steps of the weights out.

The recursion is the reorganised layer-wise filter of Hu et al., AAAI 2023 (RLEKF). For one scalar observation with the
gradient H and the error e, with L blocks, the memory factor λ and the gain A shared by all blocks,

    A = 1/(L λ R + Σ_i H_iᵀ P_i H_i),   θ_i += A e P_i H_i,   P_i ← (P_i − A P_i H_i H_iᵀ P_i)/λ,   λ ← ν λ + 1 − ν.

The noise R of an observation may be given; by default the whole L λ R is *measured* (`InnovationNoise`): the running
mean square of the errors of its kind. With the field's R = 1 the filter sits on its start value until forgetting has
wound P up by orders of magnitude, how far depending on the number of atoms and the unit, and then is so sure of its
weights' freedom that one odd frame throws it off (MgO, hot frames among cold ones: the energy's error rose from 0.03 to
0.6 eV/atom in 12 epochs). With the measured noise the first steps are as long as they should be, P needs no winding
up, and early observations, linearised at bad weights, count little beside later ones.

Three more things are done in another way than elsewhere, and the first two change no number of an exact arithmetic:

- the observations of one step are linearised at the same weights and go through the filter together: the error of each
  is corrected by what those before it have changed, so the result is that of the sequence, and P is read once a step;
- P is kept as lower tiles and a few columns (see `covariance`);
- forgetting (the division by λ) never raises the variance of a weight above a ceiling. Without one, P grows in the
  directions that the data never excite by 1/Πλ, which is 5·10⁶ with the field's λ₀ = 0.98, ν = 0.9987. P ← F P F with
  a diagonal F keeps it symmetric and positive.

A prior may pull the weights back to where they began; it matters only where the data say nothing.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from pwact_like.potentials.covariance import MERGE_RANK, BlockLayout, Covariance

_RECENT, _FIRST = 50, 25  # observations whose median says what to expect, and from how many on it is known
_UNEXPECTED, _BEYOND_P = 100.0, 25.0  # times the median of e², and times the variance that P predicts
_GAP, _MOST_BROKEN = 9.0, 5  # between the e² of broken labels and the largest of the others; of the first 25

_SHORT = 0.2  # of the way back to the prior's mean, of a weight at the ceiling: so far one step along P is as good as the solution
_CLOSE = 1e-6  # residual of that solution, relative
_MOST_PRODUCTS = 50  # with P, for it


@dataclass(frozen=True)
class Memory:
    """How fast the filter forgets.

    Attributes
    ----------
    factor
        λ₀ in (0, 1].
    rate
        ν in [0, 1]: λ goes to 1 as 1 − (1 − λ₀)νᵗ over the observations t.
    ceiling
        No weight's variance grows above it by forgetting; infinity: no bound.
    """

    factor: float = 0.98
    rate: float = 0.9987
    ceiling: float = float("inf")


class InnovationNoise:
    """R of an observation from the errors that were seen: share · max(running mean of e², e²), kind by kind.

    An error far above the mean gets a noise of its own, as under a heavy-tailed likelihood: the observation moves by at most
    half the standard deviation that P predicts for it (for a share of 1), which keeps the steps in the linear range.

    One broken energy among many good ones would still make the mean, and with it the noise of all, as large as it likes. So of
    the kinds that are ``gated`` an error beyond all expectation, e² > 100·(median of the last 50 e²) + 25·(variance that P predicts),
    does not enter the mean. The first 25, which nothing precedes and which fall as the model is learnt, are looked at once all are
    there: up to five of them (never the first, an untrained model's) are taken out if they are beyond ten times the median and three
    times every other. Forces need no gate, being many; and those of perfect crystals, zero by symmetry, would make the median zero.

    Parameters
    ----------
    shares
        Share of each kind of observation; smaller ones are followed more closely.
    window
        Observations of a kind over which the mean runs.
    gated
        Kinds of which errors beyond all expectation are kept out of the mean.
    """

    def __init__(self, shares: Mapping[str, float], window: float = 200.0, gated: Sequence[str] = ("energy",)) -> None:
        self._shares, self._window, self._gated = dict(shares), window, tuple(gated)
        self._kinds = sorted(self._shares)
        self._seen = torch.zeros((len(self._kinds), 2), dtype=torch.float64)  # count and mean of e²
        self._recent = torch.zeros((len(self._kinds), _RECENT), dtype=torch.float64)  # e², in turns
        self._met = torch.zeros(len(self._kinds), dtype=torch.float64)  # those that were kept out too

    def __call__(self, kind: str, error: float, spread: float = 0.0, least: float = 0.0) -> float:
        """R of the next observation of a kind; its error then belongs to the mean.

        Parameters
        ----------
        error
            Its error.
        spread
            The variance hᵀPh that P predicts for it.
        least
            A standard deviation below which the noise does not go.
        """
        place, square = self._kinds.index(kind), error * error
        seen = self._seen[place]
        if kind not in self._gated or self._is_expected(place, square, spread):
            count = float(seen[0]) + 1.0
            seen[0], seen[1] = count, float(seen[1]) + (square - float(seen[1])) / min(count, self._window)
        if kind in self._gated and int(self._met[place]) == _FIRST:
            n_broken, total = self._broken(self._recent[place, :_FIRST])
            if n_broken:
                seen[0], seen[1] = float(_FIRST - n_broken), (float(seen[1]) * _FIRST - total) / (_FIRST - n_broken)
        return self._shares[kind] * max(float(seen[1]), square, least * least)

    def _is_expected(self, place: int, square: float, spread: float) -> bool:
        met = int(self._met[place])
        known = self._recent[place, : min(met, _RECENT)]
        expected = met < _FIRST or square <= _UNEXPECTED * float(known.median()) + _BEYOND_P * spread
        self._recent[place, met % _RECENT] = square
        self._met[place] += 1.0
        return expected

    @staticmethod
    def _broken(squares: Tensor) -> tuple[int, float]:
        """How many of the first observations are those of broken labels, and the sum of their e²."""
        falling = squares[1:].sort(descending=True).values
        for count in range(_MOST_BROKEN, 0, -1):
            least, next_one = float(falling[count - 1]), float(falling[count])
            if least > max(_UNEXPECTED * float(squares.median()), _GAP * next_one):
                return count, float(falling[:count].sum())
        return 0, 0.0

    def state(self) -> dict[str, Tensor]:
        """Everything, to the bit."""
        return {"noise": self._seen, "noise_recent": self._recent, "noise_met": self._met}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Take a `state` back."""
        for name, tensor in self.state().items():
            tensor.copy_(arrays[name])


class KalmanFilter:
    """State of the filter: P, λ and the number of observations.

    It knows nothing of potentials: any model whose observations are scalars with a gradient by its weights can use it.

    Parameters
    ----------
    layout
        Blocks of weights.
    variance
        (n_weights,) P at the start, a diagonal; its dtype and device are the filter's.
    memory
        Forgetting.
    """

    def __init__(self, layout: BlockLayout, variance: Tensor, memory: Memory) -> None:
        self.covariance = Covariance(layout, variance)
        self.memory = memory
        self.factor = memory.factor
        self.n_observations = 0

    @property
    def layout(self) -> BlockLayout:
        """Blocks of weights."""
        return self.covariance.layout

    @torch.no_grad()
    def update(
        self,
        gradients: Tensor,
        errors: Sequence[float],
        noise: Sequence[float] | None = None,
        gains: Sequence[float] | None = None,
        measure: Callable[[int, float, float], float] | None = None,
        pull: tuple[Tensor, float] | None = None,
    ) -> Tensor:
        """Take observations that were linearised at the present weights, in their order.

        Parameters
        ----------
        gradients
            (m, n_weights) ∂h/∂θ of each.
        errors
            (m,) y − h.
        noise
            (m,) R of each observation, relative to the convention R = L λ; None: 1.
        gains
            (m,) factors of the errors once corrected (RLEKF's √batch size); None: 1.
        measure
            Gives L λ R from an observation's place, its corrected error, and its variance hᵀPh; then ``noise`` is not used.
        pull
            Way (n_weights,) from the prior's mean to the weights, and the prior's precision as far as it counts in this
            step: the step also goes back, by the share of the way that an observation of the weights with this precision would
            take, (1 + τP)⁻¹τP; where that is short (τ times the ceiling up to 0.2), τP. (What the prior adds to P⁻¹ is left
            out: it matters where no data do, and there the ceiling bounds P.)

        Returns
        -------
        Tensor, (n_weights,)
            What to add to the weights.
        """
        step = torch.zeros(self.layout.n_weights, dtype=gradients.dtype, device=gradients.device)
        for first in range(0, len(errors), MERGE_RANK):
            part = slice(first, min(first + MERGE_RANK, len(errors)))
            count = part.stop - part.start
            step += self._update(
                gradients[part],
                [float(error) for error in errors[part]],
                list(noise[part]) if noise is not None else [1.0] * count,
                list(gains[part]) if gains is not None else [1.0] * count,
                step if first else None,
                None if measure is None else functools.partial(_shifted, measure, first),
                None if first else pull,
            )
        return step

    def _update(
        self,
        gradients: Tensor,
        errors: list[float],
        noise: list[float],
        gains: list[float],
        before: Tensor | None,
        measure: Callable[[int, float, float], float] | None,
        pull: tuple[Tensor, float] | None,
    ) -> Tensor:
        covariance, n_blocks = self.covariance, self.layout.n_blocks
        count = len(errors)
        if not covariance.has_room(count):
            covariance.merge()
        rows = gradients if pull is None else torch.cat([gradients, pull[0].unsqueeze(0)])
        directions = covariance.scaled(rows.contiguous().t().to(covariance.dtype))  # columns together in memory
        columns = covariance.base_product(directions)
        back = None if pull is None else columns[:, -1:] * pull[1]
        directions, columns = directions[:, :count], columns[:, :count]
        # products[i, a, b] = H_aᵀ P_i H_b: all that the recursion over the m observations needs of the n weights
        products = covariance.by_block(directions, columns).cpu().double().numpy()
        mixing = np.repeat(np.eye(count)[None], n_blocks, axis=0)  # column j of block i is columns @ mixing[i, :, j]
        weights = np.zeros((n_blocks, count))
        left = np.asarray(errors, dtype=np.float64)
        if before is not None:
            left = left - (gradients @ before).cpu().double().numpy()
        forgotten = 1.0
        for j in range(count):
            # P between the observations of a group is that of the products, over the λ of those before
            along = products[:, j, :].copy()
            spread = max(along[:, j].sum() / forgotten, 0.0)
            variance = n_blocks * self.factor * noise[j] if measure is None else measure(j, float(left[j]), spread)
            if variance + spread == 0.0:
                variance = 1.0  # nothing is known of it and nothing is wrong: its gradient and its error are zero
            gain = 1.0 / (variance + spread) / forgotten
            strength = gain * left[j] * gains[j]
            weights += strength * mixing[:, :, j]
            # what this observation changes of those that follow: their errors, and their columns P H
            left[j + 1 :] -= strength * along[:, j + 1 :].sum(axis=0)
            mixing[:, :, j + 1 :] -= gain * mixing[:, :, j : j + 1] * along[:, None, j + 1 :]
            products[:, j + 1 :, j + 1 :] -= gain * along[:, j + 1 :, None] * along[:, None, j + 1 :]
            mixing[:, :, j] *= gain**0.5
            forgotten *= self.factor
            self.factor = self.memory.rate * self.factor + 1.0 - self.memory.rate
            self.n_observations += 1
        kept = columns.new_empty(columns.shape[::-1]).t()
        step = torch.empty(self.layout.n_weights, dtype=covariance.dtype, device=columns.device)
        for number, part in enumerate(self.layout.slices()):
            kept[part] = columns[part] @ torch.from_numpy(mixing[number]).to(columns)
            step[part] = columns[part] @ torch.from_numpy(weights[number]).to(columns)
        if pull is None or back is None or pull[1] * self.memory.ceiling <= _SHORT:
            step = covariance.scaled(step.unsqueeze(1) if back is None else step.unsqueeze(1) - back).squeeze(1)
        else:
            step = covariance.scaled(step.unsqueeze(1)).squeeze(1) - self._way_back(covariance.scaled(back).squeeze(1), pull[1])
        covariance.push(kept)
        self._forget(forgotten)
        return step.to(gradients.dtype)

    def _way_back(self, straight: Tensor, precision: float) -> Tensor:
        """(1 + τP)⁻¹ b for b = τP times the way, by conjugate gradients."""
        x = torch.zeros_like(straight)
        residual = straight.clone()
        direction = straight.clone()
        square = first = float(residual @ residual)
        for _ in range(_MOST_PRODUCTS):
            if square <= _CLOSE**2 * first:
                break
            product = direction + precision * self.covariance.product(direction.unsqueeze(1)).squeeze(1)
            length = square / float(direction @ product)
            x += length * direction
            residual -= length * product
            before, square = square, float(residual @ residual)
            direction = residual + (square / before) * direction
        return x

    def _forget(self, factor: float) -> None:
        """P ← P/λ, but for the ceiling."""
        if factor == 1.0:
            return
        if self.memory.ceiling == float("inf"):
            self.covariance.rescale(factor**-0.5)
            return
        diagonal = self.covariance.diagonal().clamp_min(1e-300)
        # a weight that is above the ceiling (a start from elsewhere) stays where it is
        growth = (self.memory.ceiling / diagonal).clamp(1.0, 1.0 / factor)
        self.covariance.rescale(growth.sqrt())

    def state(self) -> dict[str, Tensor]:
        """Everything, to the bit."""
        numbers = torch.tensor([self.factor, float(self.n_observations)], dtype=torch.float64)
        return {**self.covariance.state(), "filter": numbers}

    def restore(self, arrays: Mapping[str, Tensor]) -> None:
        """Take a `state` back."""
        self.covariance.restore(arrays)
        self.factor, self.n_observations = float(arrays["filter"][0]), int(arrays["filter"][1])


def _shifted(measure: Callable[[int, float, float], float], first: int, place: int, error: float, spread: float) -> float:
    return measure(first + place, error, spread)

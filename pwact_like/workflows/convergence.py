"""When an entry of md_jobs is done, and when the campaign has converged. A function of the finished iterations alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pwact_like.config.run import Convergence


@dataclass(frozen=True)
class IterationFacts:
    """What the decision needs of a finished iteration.

    ``force_rmse`` is that of the models which explored, on the fixed test set, eV/Å; None without a test set.
    """

    entry: int
    frames_planned: int
    accurate: int
    labelled: int
    force_rmse: float | None

    @property
    def accurate_fraction(self) -> float:
        """Of the planned frames: a trajectory that dies early counts its missing frames as failed."""
        return self.accurate / self.frames_planned if self.frames_planned else 0.0


@dataclass(frozen=True)
class Next:
    """What comes next.

    ``entry`` is the entry of md_jobs to explore next, None when exploring is over; then ``state`` is ``converged`` or
    ``finished``. ``reason`` tells why the last entry was repeated or left.
    """

    entry: int | None
    reason: str
    state: str = "running"


def next_entry(history: Sequence[IterationFacts], n_entries: int, convergence: Convergence | None) -> Next:
    """Decide from all finished iterations; with no history the first entry."""
    if not history:
        return Next(0, "start")
    last = history[-1]
    is_last_entry = last.entry + 1 >= n_entries
    if convergence is None:
        reason = f"entry {last.entry} explored once (no strategy.convergence)"
        return (
            Next(None, f"every entry of md_jobs was explored once; {reason}", "finished") if is_last_entry else Next(last.entry + 1, reason)
        )
    satisfied, why = _satisfied(history, convergence)
    repeats = sum(facts.entry == last.entry for facts in history)
    if satisfied:
        if is_last_entry:
            return Next(None, f"entry {last.entry}: {why}", "converged")
        return Next(last.entry + 1, f"entry {last.entry}: {why}")
    if repeats >= convergence.max_repeats:
        reason = f"entry {last.entry}: not converged after {repeats} iterations (max_repeats {convergence.max_repeats}): {why}"
        return Next(None, reason, "finished") if is_last_entry else Next(last.entry + 1, reason)
    return Next(last.entry, f"entry {last.entry} again: {why}")


def _satisfied(history: Sequence[IterationFacts], convergence: Convergence) -> tuple[bool, str]:
    """Accurate fraction reached, and the test set's force RMSE at its target or at a plateau."""
    last = history[-1]
    fraction = last.accurate_fraction
    text = f"accurate fraction {fraction:.3f} of the planned frames"
    if fraction < convergence.accurate_fraction:
        return False, f"{text}, below {convergence.accurate_fraction}"
    text += f" ≥ {convergence.accurate_fraction}"
    if last.force_rmse is None:
        return True, f"{text} (no test set, so its force RMSE was not asked)"
    target = convergence.force_rmse_target
    if target is not None and last.force_rmse <= target:
        return True, f"{text}, test force RMSE {last.force_rmse:.4f} ≤ {target} eV/Å"
    if last.labelled == 0:
        return True, f"{text}, and no new labels, so the test force RMSE {last.force_rmse:.4f} eV/Å cannot change"
    before = history[-2].force_rmse if len(history) > 1 else None
    if before is None:
        return False, f"{text}, but there is no earlier model to see a plateau of the test force RMSE"
    change = (before - last.force_rmse) / before if before else 0.0
    if change < -convergence.plateau:
        return False, f"{text}, but the test force RMSE has risen ({before:.4f} → {last.force_rmse:.4f} eV/Å)"
    if change <= convergence.plateau:
        return True, f"{text}, test force RMSE at a plateau ({before:.4f} → {last.force_rmse:.4f} eV/Å)"
    return False, f"{text}, but the test force RMSE still falls ({before:.4f} → {last.force_rmse:.4f} eV/Å)"

"""What is said of an MD of which only the frames before its time limit count."""

from __future__ import annotations

from collections.abc import Mapping


def cut_off_note(whole: int, dropped: Mapping[int, str], planned: int | None) -> str:
    """E.g. "900 of 1001 frames".

    Parameters
    ----------
    whole
        Frames that count.
    dropped
        Place in the run → reason of others, the electrons of which did not converge, say.
    planned
        Frames that the whole run would have had; None when it is not known.
    """
    note = f"{whole} of {planned} frames" if planned is not None else f"{whole} frames"
    if not dropped:
        return note
    places = ", ".join(str(place) for place in sorted(dropped)[:10])
    return f"{note}; {len(dropped)} more were dropped ({places}): {dropped[min(dropped)]}"

"""Slurm's ways to write times, memory and lists of nodes."""

from __future__ import annotations

import os
import time

UNLIMITED = -1
_UNITS_MB = {"K": 1 / 1024, "M": 1.0, "G": 1024.0, "T": 1024.0 * 1024.0}


def minutes(text: str) -> int | None:
    """Minutes of a time limit, rounded up; UNLIMITED for no limit, None for what is none (sbatch(1), ``--time``)."""
    if text.upper() in {"-1", "INFINITE", "UNLIMITED"}:
        return UNLIMITED
    days, dash, rest = text.partition("-")
    if not dash:
        days, rest = "0", text
    parts = rest.split(":")
    if not days.isdigit() or not 1 <= len(parts) <= 3 or not all(part.isdigit() for part in parts):
        return None
    numbers = [int(part) for part in parts]
    if dash:  # D-H, D-H:M, D-H:M:S
        hours, mins, secs = (*numbers, 0, 0)[:3]
    elif len(numbers) == 1:  # minutes
        hours, mins, secs = 0, numbers[0], 0
    else:  # M:S, H:M:S
        hours, mins, secs = (0, *numbers)[-3:]
    total = ((int(days) * 24 + hours) * 60 + mins) * 60 + secs
    return -(-total // 60)


def megabytes(text: str) -> int | None:
    """MB of ``2000``, ``2G``, ``512K`` (rounded up); None for what is none."""
    word = text.upper().removesuffix("B")
    unit = word[-1:] if word[-1:] in _UNITS_MB else ""
    number = word[: len(word) - len(unit)]
    if not number.isdigit():
        return None
    return -int(-int(number) * _UNITS_MB[unit or "M"] // 1)


def memory(mb: int) -> str:
    """``1500M``, ``2G``, ``2.50G``: Slurm goes to the next unit when half of it divides the number."""
    value, unit = float(mb), "MGTP"
    index = 0
    while value >= 1024 and int(value) % 512 == 0 and index < 3:
        value /= 1024
        index += 1
        if value != int(value):
            break
    return f"{int(value)}{unit[index]}" if value == int(value) else f"{value:.2f}{unit[index]}"


def clock(seconds: float | None) -> str:
    """A moment as squeue, scontrol and sacct print it; SLURM_TIME_FORMAT as strftime's pattern."""
    if seconds is None:
        return "N/A"
    pattern = os.environ.get("SLURM_TIME_FORMAT", "standard")
    if pattern in {"standard", ""}:
        pattern = "%Y-%m-%dT%H:%M:%S"
    if pattern == "%s":  # strftime would go through the time zone
        return str(int(seconds))
    return time.strftime(pattern, time.localtime(int(seconds)))


def span(seconds: float, full: bool = False) -> str:
    """``1-02:03:04``, ``2:03:04``, ``3:04`` (squeue, sinfo), or always with hours in two digits (scontrol)."""
    total = max(0, int(seconds))
    days, rest = divmod(total, 86400)
    hours, rest = divmod(rest, 3600)
    mins, secs = divmod(rest, 60)
    if days:
        return f"{days}-{hours:02}:{mins:02}:{secs:02}"
    if full:
        return f"{hours:02}:{mins:02}:{secs:02}"
    return f"{hours}:{mins:02}:{secs:02}" if hours else f"{mins}:{secs:02}"


def limit(mins: int, full: bool = False) -> str:
    """A time limit in minutes as text."""
    return "UNLIMITED" if mins == UNLIMITED else span(mins * 60, full)


def compress(nodes: list[str]) -> str:
    """``n[1-3,5]`` of n1, n2, n3, n5."""
    groups: dict[tuple[str, int], list[int]] = {}
    plain = []
    for node in nodes:
        stem = node.rstrip("0123456789")
        digits = node[len(stem) :]
        if digits:
            groups.setdefault((stem, len(digits) if digits[0] == "0" else 0), []).append(int(digits))
        else:
            plain.append(node)
    words = []
    for (stem, width), numbers in groups.items():
        ranges: list[list[int]] = []
        for number in sorted(numbers):
            if ranges and ranges[-1][1] == number - 1:
                ranges[-1][1] = number
            else:
                ranges.append([number, number])
        texts = [f"{low:0{width}}" if low == high else f"{low:0{width}}-{high:0{width}}" for low, high in ranges]
        words.append(f"{stem}{texts[0]}" if len(numbers) == 1 else f"{stem}[{','.join(texts)}]")
    return ",".join([*words, *plain])


def expand(text: str) -> list[str]:
    """n1, n2, n3, n5 of ``n[1-3,5]``."""
    words, depth, word = [], 0, ""
    for letter in text + ",":
        depth += (letter == "[") - (letter == "]")
        if letter == "," and depth == 0:
            if word:
                words.append(word)
            word = ""
        else:
            word += letter
    nodes = []
    for word in words:
        stem, bracket, rest = word.partition("[")
        if not bracket:
            nodes.append(word)
            continue
        for part in rest.rstrip("]").split(","):
            low, _, high = part.partition("-")
            nodes.extend(f"{stem}{number:0{len(low)}}" for number in range(int(low), int(high or low) + 1))
    return nodes

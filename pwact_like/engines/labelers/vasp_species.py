"""INCAR settings that follow the composition: MAGMOM (one value an atom) and LDAUL, LDAUU, LDAUJ (one value an element).

Written for an element, ``MAGMOM = Fe:5 O:0.6`` or ``LDAUU = Fe:4``, they are expanded for every structure in the order of its
POSCAR. Plain lists stay as they are where they can mean one thing only; a wrong length, or an order that is not the
structure's own, is refused: VASP would give the moments of one element to another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence

from pwact_like.engines.labelers.atom_order import Asked, species_of
from pwact_like.engines.labelers.vasp_incar import Incar
from pwact_like.errors import Problem

# what an element gets that is not named; MAGMOM has no harmless value
_UNNAMED: Mapping[str, str | None] = {"MAGMOM": None, "LDAUL": "-1", "LDAUU": "0.0", "LDAUJ": "0.0"}
_BY_ELEMENT = re.compile(r"([A-Z][a-z]?):(\S+)")
_TIMES = re.compile(r"(\d+)\*(\S+)")


def follow_composition(incar: Incar, asked: Asked, campaign: Collection[str]) -> tuple[dict[str, str], list[Problem]]:
    """Values of these settings for a structure.

    Parameters
    ----------
    incar
        The user's.
    asked
        The structure and the order of its atoms in the POSCAR.
    campaign
        Every element that there is a potential for.

    Returns
    -------
    tuple
        Settings to replace, and what is wrong.
    """
    changes: dict[str, str] = {}
    problems: list[Problem] = []
    vectors = incar.truth("LNONCOLLINEAR") or incar.truth("LSORBIT")
    spin = vectors or incar.integer("ISPIN", 1) == 2
    plus_u = incar.truth("LDAU")
    for key in _UNNAMED:
        text = incar.value(key)
        if not text:
            continue
        if ":" in text:
            value, wrong = _expanded(key, text, asked, vectors and key == "MAGMOM", campaign)
            if wrong is None:
                changes[key] = value
        elif key == "MAGMOM":
            wrong = _plain_moments(text, asked, vectors) if spin else None
        else:
            wrong = _plain_elements(key, text, asked, campaign) if plus_u else None
        if wrong is not None:
            problems.append(Problem(f"{incar.path}: {key}", *wrong))
    if plus_u and incar.integer("LDAUTYPE", 2) != 3:
        for key in ("LDAUL", "LDAUU", "LDAUJ"):
            if not incar.value(key):
                said = "2 (d states)" if key == "LDAUL" else "1 eV"
                cure = f"give it by element: {key} = Fe:{'2' if key == 'LDAUL' else '4.0' if key == 'LDAUU' else '0.0'}"
                problems.append(
                    Problem(f"{incar.path}: {key}", f"LDAU is on and {key} is missing: VASP would take {said} for every element", cure)
                )
    return changes, problems


def _expanded(key: str, text: str, asked: Asked, vectors: bool, campaign: Collection[str]) -> tuple[str, tuple[str, str] | None]:
    """The value in the POSCAR's order; (what is wrong, cure) where it cannot be made."""
    values: dict[str, str] = {}
    for word in text.replace(": ", ":").split():
        match = _BY_ELEMENT.fullmatch(word)
        if match is None:
            return "", (f"{word!r} is not ELEMENT:VALUE", f"write all of it by element: {key} = Fe:5 O:0")
        if match[1] not in campaign:  # a misspelt one would silently get nothing
            return "", (f"{match[1]} is named, and pseudo has no potential for it", f"mend the name, or take {word} out")
        numbers = match[2].split(",")
        if len(numbers) != (3 if vectors else 1) or not all(map(_is_number, numbers)):
            wanted = "three numbers with commas (non-collinear)" if vectors else "a number"
            return "", (f"{match[1]}: {wanted} wanted, not {match[2]!r}", f"{key} = {match[1]}:{'0,0,5' if vectors else '5'}")
        values[match[1]] = " ".join(numbers)
    symbols, counts = species_of(asked.sorted_atoms)
    unnamed = _UNNAMED[key]
    missing = [symbol for symbol in symbols if symbol not in values]
    if missing and unnamed is None:
        cure = f"add {' '.join(f'{symbol}:' + ('0,0,0' if vectors else '0') for symbol in missing)}"
        return "", (f"no value for {', '.join(missing)}", cure)
    chosen = [values.get(symbol, unnamed or "") for symbol in symbols]
    if key != "MAGMOM":
        return " ".join(chosen), None
    if vectors:
        return "  ".join(value for value, count in zip(chosen, counts, strict=True) for _ in range(count)), None
    return " ".join(f"{count}*{value}" for value, count in zip(chosen, counts, strict=True)), None


def _plain_moments(text: str, asked: Asked, vectors: bool) -> tuple[str, str] | None:
    """What is wrong with a plain MAGMOM."""
    values = _numbers(text)
    example = " ".join(f"{symbol}:{'0,0,1' if vectors else '1'}" for symbol in species_of(asked.sorted_atoms)[0])
    cure = f"give it by element, which follows every structure: MAGMOM = {example}"
    if values is None:
        return f"{text!r} is no list of numbers", cure
    wanted = (3 if vectors else 1) * len(asked.atoms)
    if len(values) != wanted:
        return f"{len(values)} values, and the structure of {len(asked.atoms)} atoms needs {wanted}", cure
    each = 3 if vectors else 1
    moments = [tuple(values[place : place + each]) for place in range(0, wanted, each)]
    if len(set(moments)) > 1 and list(asked.order) != sorted(asked.order):
        return "different moments in a plain list, and the POSCAR has the atoms in another order than the structure's file", cure
    return None


def _plain_elements(key: str, text: str, asked: Asked, campaign: Collection[str]) -> tuple[str, str] | None:
    """What is wrong with a plain LDAUL, LDAUU or LDAUJ."""
    symbols, _ = species_of(asked.sorted_atoms)
    values = _numbers(text)
    cure = f"give it by element, which follows every structure: {key} = {' '.join(f'{symbol}:{_UNNAMED[key]}' for symbol in symbols)}"
    if values is None:
        return f"{text!r} is no list of numbers", cure
    if len(values) != len(symbols):
        return f"{len(values)} values, and the structure has {len(symbols)} elements ({' '.join(symbols)})", cure
    own_order = tuple(dict.fromkeys(asked.atoms.get_chemical_symbols()))
    if len(set(values)) > 1 and own_order != symbols:
        files = f"{' '.join(own_order)} in the structure's file, {' '.join(symbols)} in the POSCAR"
        return f"different values in a plain list, and the elements' order is {files}", cure
    others = sorted(set(campaign) - set(symbols))
    if len(set(values)) > 1 and others:
        return f"a plain list cannot mean {' '.join(symbols)} here and something else with {' '.join(others)}, which pseudo has too", cure
    return None


def _numbers(text: str) -> Sequence[float] | None:
    """Numbers of a list in which ``3*0.5`` stands for three; None when it is none."""
    found: list[float] = []
    for word in text.replace(",", " ").split():
        match = _TIMES.fullmatch(word)
        count, value = (int(match[1]), match[2]) if match else (1, word)
        if not _is_number(value):
            return None
        found += [float(value)] * count
    return found


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True

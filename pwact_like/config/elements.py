"""Atomic numbers and symbols, without loading a library for it."""

from __future__ import annotations

from typing import Any

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb Mo Tc Ru "
    "Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au Hg Tl Pb Bi Po At "
    "Rn Fr Ra Ac Th Pa U Np Pu Am Cm Bk Cf Es Fm Md No Lr Rf Db Sg Bh Hs Mt Ds Rg Cn Nh Fl Mc Lv Ts Og "
)
SYMBOLS: tuple[str, ...] = tuple(_SYMBOLS.split())
_NUMBERS = {symbol.lower(): number for number, symbol in enumerate(SYMBOLS, start=1)}


def symbol(number: int) -> str:
    """Symbol of an atomic number."""
    return SYMBOLS[number - 1]


def atomic_number(value: Any) -> Any:
    """Atomic number of an element given as a number (14, "14") or a symbol ("Si").

    Raises
    ------
    ValueError
        When there is no such element.
    """
    text = str(value).strip()
    if isinstance(value, bool) or not (isinstance(value, int | str) or (isinstance(value, float) and value.is_integer())):
        raise ValueError(f"{value!r} is neither an atomic number nor an element symbol")
    if isinstance(value, float):
        text = str(int(value))
    if text.isdigit():
        number = int(text)
        if not 1 <= number <= len(SYMBOLS):
            raise ValueError(f"{number} is no atomic number (1 to {len(SYMBOLS)})")
        return number
    if text.lower() not in _NUMBERS:
        raise ValueError(f"{value!r} is neither an atomic number nor an element symbol")
    return _NUMBERS[text.lower()]

"""What a labelling program's own input files say that matters before a job is queued.

K-points and electronic thresholds, PWmat's etot.input, VASP's INCAR and POTCAR.
"""

from __future__ import annotations

import re
from pathlib import Path

from pwact_like.config.common import StageInput
from pwact_like.config.elements import SYMBOLS
from pwact_like.config.labelling import LabelSettings
from pwact_like.config.reader import Reader

_OWN_K_POINTS = {"qe": r"^[ \t]*(K_POINTS)\b", "dftb": r"^[ \t]*(KPointsAndWeights)\b"}
# engine → the threshold's key and unit, where it stands, and the loosest value with which labels are free of visible noise
_THRESHOLDS = {
    "qe": ("conv_thr", " Ry", r"^[^!#\n]*?(?<![\w])conv_thr[ \t]*=[ \t]*([\d.+\-deDE]+)", 1e-6),
    "cp2k": ("EPS_SCF", "", r"^[ \t]*EPS_SCF[ \t:=]+([\d.+\-deDE]+)", 1e-5),
}
_LOOSEST_EDIFF_EV = 1e-4  # VASP's default
_BLOECHL = ("-5", "-15")
_FALSE = ("f", ".false.", "false", ".f.")


def settings_of(path: Path) -> dict[str, str]:
    """``KEY = value`` lines of an etot.input or INCAR: upper-case key → value.

    Comments (# and !) and several settings in a line (;) are understood.

    Raises
    ------
    OSError, UnicodeDecodeError
        When the file cannot be read as text.
    """
    found: dict[str, str] = {}
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        for piece in re.split(r"[#!]", line, maxsplit=1)[0].split(";"):
            key, equals, value = piece.partition("=")
            if equals and key.strip():
                found.setdefault(key.strip().upper(), value.strip())
    return found


def check_stage_input(reader: Reader, path: str, engine: str, stage: str, entry: StageInput, labelling: LabelSettings | None) -> None:
    """Problems and notes of one input file.

    Parameters
    ----------
    reader
        Where problems and notes go.
    path
        JSON path of the entry.
    engine
        The labelling engine.
    stage
        relax, aimd or scf.
    entry, labelling
        The input, and what else the program gets (None when that could not be read).
    """
    if entry.input is None or not entry.input.is_file():
        return
    if engine in _OWN_K_POINTS and entry.kspacing is not None:
        _note_own_k_points(reader, path, engine, entry.input, entry.kspacing)
    if engine in _THRESHOLDS:
        _note_threshold(reader, path, engine, entry.input)
    if engine not in ("pwmat", "vasp"):
        return
    try:
        settings = settings_of(entry.input)
    except OSError as error:
        reader.problem(path, f"cannot read {entry.input}: {error.strerror}")
        return
    if engine == "pwmat":
        _check_etot(reader, path, stage, entry, settings, labelling)
    else:
        _check_incar(reader, path, stage, entry, settings)


def _note_own_k_points(reader: Reader, path: str, engine: str, file: Path, kspacing_per_ang: float) -> None:
    try:
        found = re.search(_OWN_K_POINTS[engine], file.read_text(encoding="utf-8", errors="replace"), re.IGNORECASE | re.MULTILINE)
    except OSError:
        return  # the engine says so when it reads it
    if found is not None:
        reader.note(path, f"{file.name} has {found[1]}, which has no effect: the kspacing {kspacing_per_ang:g} holds")


def _note_threshold(reader: Reader, path: str, engine: str, file: Path) -> None:
    """Tell of an electronic threshold that leaves noise in forces and stresses."""
    key, unit, pattern, loosest = _THRESHOLDS[engine]
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return  # the engine says so when it reads it
    found = [number for word in re.findall(pattern, text, re.IGNORECASE | re.MULTILINE) if (number := _fortran(word)) is not None]
    if found and min(found) > loosest:  # an outer loop of CP2K goes on to its own, tighter one
        reader.note(path, _loose(file.name, key, min(found), unit, f"set {key} = {loosest / 100:.0e} or less"))


def _loose(name: str, key: str, value: float, unit: str, cure: str) -> str:
    return f"{name} has {key} = {value:g}{unit}: an SCF counts as converged so early that forces and stresses carry its noise; {cure}"


def _fortran(word: str) -> float | None:
    """A number, which Fortran may write as 1.0d-6; None when it is none."""
    try:
        return float(re.sub("[dD]", "e", word))
    except ValueError:
        return None


def uses_dftb(entry: StageInput) -> bool:
    """Whether an etot.input switches DFTB on (then there are no pseudopotentials)."""
    if entry.input is None or not entry.input.is_file():
        return False
    return settings_of(entry.input).get("USE_DFTB", "").lower() in ("t", "true", ".true.")


def _check_etot(
    reader: Reader, path: str, stage: str, entry: StageInput, settings: dict[str, str], labelling: LabelSettings | None
) -> None:
    name = entry.input.name if entry.input else ""
    on = {key for key in ("OUT.STRESS", "USE_GAUSSIAN") if settings.get(key, "").lower().lstrip(".").startswith("t")}
    if stage in ("scf", "aimd") and not on:  # PWmat with Gaussians has no stress
        reader.note(path, f"{name} has no OUT.STRESS = T: the labels have no virial")
    if "MP_N123" in settings and entry.kspacing is not None:
        reader.problem(
            path, f"kspacing is given and {name} has MP_N123: the k-points are set twice", f"remove MP_N123 from {name}, or kspacing"
        )
    if uses_dftb(entry) and labelling is not None and labelling.in_skf is None:
        # DFTB_DETAIL 3 is the charge-only model without Slater–Koster files
        if re.split(r"[\s,]+", settings.get("DFTB_DETAIL", ""))[0] != "3":
            reader.problem(path, f"{name} has USE_DFTB = T, and in_skf (folder of the Slater–Koster files) is missing", "give in_skf")


def _check_incar(reader: Reader, path: str, stage: str, entry: StageInput, settings: dict[str, str]) -> None:
    """Notes only: what cannot be is refused by the engine when it writes its inputs (engines/labelers/vasp_stage.py)."""
    name = entry.input.name if entry.input else ""
    if stage == "scf":
        moving = [f"{key} = {settings[key]}" for key, still in (("NSW", "0"), ("IBRION", "-1")) if settings.get(key, still) != still]
        if moving:
            reader.note(path, f"{name} has {' and '.join(moving)}: a single point must not move the atoms (NSW = 0, IBRION = -1)")
    if stage == "aimd" and "ISIF" not in settings:
        reader.note(path, f"{name} has no ISIF: VASP computes no stress in MD then, and the labels have no virial; set ISIF = 2 to have it")
    ediff = _fortran((settings.get("EDIFF", "").split() or [""])[0])
    if "EDIFF" not in settings:
        reader.note(path, f"{name} has no EDIFF: VASP's default of 1e-4 eV holds, which leaves noise in the forces; set EDIFF = 1E-6")
    elif ediff is not None and ediff > _LOOSEST_EDIFF_EV * (1 + 1e-9):
        reader.note(path, _loose(name, "EDIFF", ediff, " eV", "set EDIFF = 1E-6"))
    if (settings.get("ISMEAR", "").split() or [""])[0] in _BLOECHL:
        reader.note(
            path,
            f"{name} has ISMEAR = {settings['ISMEAR']}: with Blöchl's tetrahedra the forces of a metal are wrong by some per cent "
            "(those of an insulator are right); set ISMEAR = 1 with SIGMA = 0.2 for a metal, 0 with a small SIGMA where it may be either",
        )
    full = [key for key in ("LWAVE", "LCHARG") if settings.get(key, "T").lower() not in _FALSE]
    if full:
        reader.note(path, f"{' and '.join(full)} not .FALSE. in {name}: every job leaves WAVECAR or CHGCAR, which fills the disk")
    ordered = [key for key in ("MAGMOM", "LDAUL", "LDAUU", "LDAUJ") if key in settings and ":" not in settings[key]]
    if ordered:
        reader.note(
            path,
            f"{name} has plain lists in {', '.join(ordered)}: these follow the elements' order, which is alphabetical here in every "
            f"structure; written by element ({ordered[0]} = Fe:5 O:0) they follow every structure",
        )
    if settings.get("ISPIN", "1").split()[:1] == ["2"] and "MAGMOM" not in settings:
        reader.note(
            path,
            f"{name} has ISPIN = 2 and no MAGMOM: VASP starts every atom with 1 μB; MAGMOM by element (Fe:5 O:0) says which state is meant",
        )
    if "KSPACING" in settings and entry.kspacing is not None:
        reader.note(path, f"{name} has KSPACING = {settings['KSPACING']}, which holds: the kspacing {entry.kspacing:g} has no effect")
    if "KSPACING" not in settings and entry.kspacing is None:
        reader.note(path, f"neither kspacing nor KSPACING in {name}: 0.5 1/Å is taken, VASP's own default, too coarse for many metals")


def pseudo_elements(reader: Reader, path: str, labelling: LabelSettings) -> dict[str, Path]:
    """Element symbol → pseudopotential file, by PWact's rules; a file that names no element is a problem."""
    found: dict[str, Path] = {}
    for file in labelling.pseudo:
        if labelling.engine == "vasp":
            symbol = _potcar_element(file)
            rule = "the second word of its first line, cut at _"
        else:
            symbol = file.name.partition(".")[0]
            rule = "the file name before its first dot"
        if symbol not in SYMBOLS:
            reader.problem(path, f"{file.name} names no element: {rule} is {symbol!r}", "give the pseudopotential file of one element")
        elif symbol in found:
            reader.problem(path, f"two pseudopotentials for {symbol}: {found[symbol].name} and {file.name}", "keep one of them")
        else:
            found[symbol] = file
    return found


def _potcar_element(file: Path) -> str:
    try:
        with file.open(encoding="utf-8", errors="replace") as stream:
            words = stream.readline().split()
    except OSError:
        return ""
    return words[1].partition("_")[0] if len(words) > 1 else ""

"""A small pair of settings files that tests bend in one place each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

POSCAR_SI = """Si8
5.43
1 0 0
0 1 0
0 0 1
Si
8
Direct
0.00 0.00 0.00
0.00 0.50 0.50
0.50 0.00 0.50
0.50 0.50 0.00
0.25 0.25 0.25
0.25 0.75 0.75
0.75 0.25 0.75
0.75 0.75 0.25
"""
XYZ_SI = """8
Lattice="5.43 0 0 0 5.43 0 0 0 5.43" Properties=species:S:1:pos:R:3:forces:R:3 energy=-40.0 pbc="T T T"
Si 0.00 0.00 0.00 0 0 0
Si 0.00 2.72 2.72 0 0 0
Si 2.72 0.00 2.72 0 0 0
Si 2.72 2.72 0.00 0 0 0
Si 1.36 1.36 1.36 0 0 0
Si 1.36 4.07 4.07 0 0 0
Si 4.07 1.36 4.07 0 0 0
Si 4.07 4.07 1.36 0 0 0
"""


def run_files(folder: Path) -> dict[str, Any]:
    """Write the files that the settings name; return settings of run that are good."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Si.poscar").write_text(POSCAR_SI)
    (folder / "init.xyz").write_text(XYZ_SI)
    return {
        "init_data": ["init.xyz"],
        "train": {"model_type": "DP", "atom_type": [14]},
        "strategy": {"lower_model_deiv_f": 0.1, "upper_model_deiv_f": 0.3},
        "explore": {
            "sys_configs": [{"config": "Si.poscar", "format": "vasp/poscar"}],
            "md_jobs": [{"sys_idx": [0], "nsteps": 100, "temps": [300], "ensemble": "nvt"}],
        },
        "DFT": {"dft_style": "xtb"},
    }


def bulk_files(folder: Path) -> dict[str, Any]:
    """The same for init_bulk."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "Si.poscar").write_text(POSCAR_SI)
    return {
        "sys_configs": [{"config": "Si.poscar", "format": "vasp/poscar", "perturb": 2, "aimd": True}],
        "dft_style": "xtb",
        "aimd_input": {"temperature_k": 600, "nsteps": 10},
    }


def write(folder: Path, name: str, content: Any) -> Path:
    """Write settings as JSON (or text as it is)."""
    path = folder / name
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1))
    return path


def changed(settings: dict[str, Any], path: str, value: Any = ...) -> dict[str, Any]:
    """Settings with the value at ``a.b.0.c`` replaced (or removed)."""
    copy = json.loads(json.dumps(settings))
    *above, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = copy
    for part in above:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return copy

"""Levels of theory read each file once, however many frames ask, and see when it becomes another one."""

from __future__ import annotations

import os

import pytest
import vasp_files

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.engines.labelers import fingerprints
from pwact_like.engines.registry import labeler_for

QE = "&system\n ecutwfc = 30\n/\nATOMIC_SPECIES\n Si 28.1 Si.UPF\n"
CP2K = "&FORCE_EVAL\n &DFT\n  BASIS_SET_FILE_NAME big\n  POTENTIAL_FILE_NAME big\n &END\n&END\n"
DFTB = 'Hamiltonian = DFTB { MaxAngularMomentum { Si = "p" } }\nParserOptions { ParserVersion = 12 }\n'


@pytest.mark.parametrize(
    ("style", "text", "file", "settings"),
    [
        ("qe", QE, "Si.UPF", {"pseudo": ["Si.UPF"]}),
        ("cp2k", CP2K, "big", {}),
        ("dftb", DFTB, "Si-Si.skf", {"in_skf": "."}),
        ("pwmat", vasp_files.ETOT, "Si.UPF", {"pseudo": ["Si.UPF"]}),
        ("vasp", vasp_files.INCAR, "POTCAR_Si", {"pseudo": ["POTCAR_Si"]}),
        ("ase", "", "big", {"options": {"calculator": "my.Model", "calculator_args": {"path": "big"}}}),
        ("bigmodel", "", "big", {"options": {"model": "my.Model", "calculator_args": {"path": "big"}}}),
        ("bigmodel", "", "big", {"bigmodel_script": "big"}),
    ],
)
def test_a_file_is_read_once_until_it_changes(tmp_path, monkeypatch, style, text, file, settings):
    vasp_files.write_potcars(tmp_path, Si=245.3)
    for name in ("Si.UPF", "Si-Si.skf", "big"):
        (tmp_path / name).write_text(f'<PP_HEADER element="Si" functional="PBE"/> {tmp_path}')
    (tmp_path / "label.input").write_text(text)
    for key, value in settings.items():
        if key != "options":
            settings = settings | {key: tuple(tmp_path / name for name in value) if key == "pseudo" else tmp_path / value}
    entry = StageInput(input=tmp_path / "label.input" if text else None)
    read = []
    real = fingerprints.sha256_file
    monkeypatch.setattr(fingerprints, "sha256_file", lambda path: read.append(path.name) or real(path))
    labeler = labeler_for(LabelSettings(dft_style=style, source=tmp_path / "param.json", **settings))
    first = {labeler.level_of_theory(entry) for _ in range(5)}
    assert len(first) == 1
    assert read.count(file) == (style != "vasp")  # a POTCAR is read, and hashed, as the settings are
    path = tmp_path / file
    path.write_bytes(path.read_bytes().replace(b"Si", b"Si "))
    os.utime(path, ns=(1, 1))
    again = labeler_for(LabelSettings(dft_style=style, source=tmp_path / "param.json", **settings))
    assert again.level_of_theory(entry) not in first

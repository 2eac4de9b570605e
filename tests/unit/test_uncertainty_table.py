"""Deviation tables: the four forms from stated raw lines, restarts, torn ends, and the writer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pwact_like.errors import DataError
from pwact_like.uncertainty.table import COMMITTEE, KPU, DeviationTable, TableWriter, read_table

# as LAMMPS's pair_style deepmd and DeePMD-kit's Python route write it (numpy.savetxt with %12d and %19.6e)
DEEPMD = """\
#       step         max_devi_v         min_devi_v         avg_devi_v         max_devi_f         min_devi_f         avg_devi_f
           0       7.103412e-03       1.010000e-05       2.206573e-03       3.194331e-02       2.137400e-03       1.337521e-02
          10       6.000000e-03       1.000000e-05       2.000000e-03       4.500000e-02       3.000000e-03       2.000000e-02
          20       6.500000e-03       2.000000e-05       2.100000e-03       1.500000e-01       4.000000e-03       3.000000e-02
"""
DEEPMD_WITH_ENERGY = """\
# set.000
# step      max_devi_v      min_devi_v      avg_devi_v      max_devi_f      min_devi_f      avg_devi_f      devi_e
           0    7.103412e-03    1.010000e-05    2.206573e-03    3.194331e-02    2.137400e-03    1.337521e-02    4.000000e-04
"""
MATPL = """\
#       step         avg_devi_f         min_devi_f         max_devi_f         avg_devi_e         min_devi_e         max_devi_e
           0       4.210000e-02       1.000000e-03       6.300000e-02       2.000000e-03       1.000000e-03       3.000000e-03
         100       5.000000e-02       1.100000e-03       7.500000e-02       2.000000e-03       1.000000e-03       3.000000e-03
"""
KPU_FILE = """\
# step etot_kpu f_kpu_mean f_kpu_max f_kpu_min
0 1.250000e-03 2.500000e-01 7.500000e-01 1.000000e-02
5 1.300000e-03 2.600000e-01 1.500000e+00 1.100000e-02
"""


def table_of(folder: Path, text: str) -> DeviationTable:
    path = folder / "model_devi.out"
    path.write_bytes(text.encode())
    return read_table(path)


def test_deepmd_form(tmp_path):
    table = table_of(tmp_path, DEEPMD)
    assert table.steps.dtype == np.int64
    assert table.steps.tolist() == [0, 10, 20]
    assert table.value.tolist() == [3.194331e-02, 4.5e-02, 1.5e-01]
    assert table.minimum.tolist() == [2.1374e-03, 3e-03, 4e-03]
    assert table.mean.tolist() == [1.337521e-02, 2e-02, 3e-02]
    assert (table.kind, table.unit, table.note) == (COMMITTEE, "eV/Ang", "")


def test_deepmd_form_with_energy_and_one_row(tmp_path):
    table = table_of(tmp_path, DEEPMD_WITH_ENERGY)
    assert (table.steps.tolist(), table.value.tolist(), table.mean.tolist()) == ([0], [3.194331e-02], [1.337521e-02])


def test_deepmd_form_with_atomic_columns(tmp_path):
    header, *rows = DEEPMD.splitlines()
    text = "\n".join([header, *(row + "       1.000000e-02       2.000000e-02" for row in rows)]) + "\n"
    assert table_of(tmp_path, text).value.tolist() == [3.194331e-02, 4.5e-02, 1.5e-01]


def test_matpl_form_takes_the_greatest_deviation_of_an_atom_not_of_a_model(tmp_path):
    table = table_of(tmp_path, MATPL)
    assert table.steps.tolist() == [0, 100]
    assert table.value.tolist() == [4.21e-02, 5.0e-02]
    assert np.isnan(table.minimum).all() and np.isnan(table.mean).all()
    assert table.unit == "eV/Ang"


def test_kpu_form(tmp_path):
    table = table_of(tmp_path, KPU_FILE)
    assert (table.kind, table.unit) == (KPU, "1")
    assert table.steps.tolist() == [0, 5]
    assert table.value.tolist() == [0.75, 1.5]
    assert table.minimum.tolist() == [0.01, 0.011]
    assert table.mean.tolist() == [0.25, 0.26]


@pytest.mark.parametrize("text", [DEEPMD, MATPL, KPU_FILE])
def test_one_row_file(tmp_path, text):
    header, row = text.splitlines()[:2]
    assert len(table_of(tmp_path, f"{header}\n{row}\n")) == 1
    assert table_of(tmp_path, f"{header}\n{row}").note == ""  # whole, only without the last newline


def test_header_only_is_an_empty_table(tmp_path):
    table = table_of(tmp_path, DEEPMD.splitlines()[0] + "\n")
    assert len(table) == 0 and table.value.shape == (0,)


@pytest.mark.parametrize("text", [DEEPMD, MATPL, KPU_FILE])
def test_a_cut_off_last_line_is_dropped_and_told_wherever_it_was_cut(tmp_path, text):
    whole = table_of(tmp_path, text)
    last = text.splitlines()[-1]
    for cut in range(2, len(last)):
        table = table_of(tmp_path, text[:-cut])
        assert table.steps.tolist() == whole.steps.tolist()[:-1], cut
        if last[: len(last) + 1 - cut].strip():
            assert "cut off" in table.note


def test_nan_and_infinity_are_kept(tmp_path):
    text = DEEPMD.replace("       4.500000e-02", "                nan").replace("       1.500000e-01", "                inf")
    table = table_of(tmp_path, text)
    assert table.value[0] == 3.194331e-02 and np.isnan(table.value[1]) and table.value[2] == np.inf
    assert np.isnan(table_of(tmp_path, KPU_FILE.replace("7.500000e-01", "-nan")).value[0])


def test_numbers_of_any_exponent_are_those_that_float_reads(tmp_path):
    texts = [
        "9.999999e+99",
        "1.234567e-45",
        "1.000001e-16",
        "-7.654321e-09",
        "9.876543e+16",
        "1.000000e+28",
        "0.000000e+00",
        "1.23457e-101",
    ]
    rows = "".join(f"{step:12d}" + f"{text:>19s}" * 6 + "\n" for step, text in enumerate(texts))
    table = table_of(tmp_path, DEEPMD.splitlines()[0] + "\n" + rows)
    assert table.value.tolist() == [float(text) for text in texts]


def test_fast_and_plain_reading_agree_with_numpy(tmp_path):
    rng = np.random.default_rng(7)
    data = rng.normal(size=(500, 6)) * 10.0 ** rng.integers(-30, 30, size=(500, 6))
    data[rng.integers(0, 500, 5), 3] = np.nan
    path = tmp_path / "model_devi.out"
    with TableWriter(path) as writer:
        for step, row in enumerate(data):
            writer.append(10 * step, row[3:], row[:3])
    table = read_table(path)
    reference = np.loadtxt(path)
    np.testing.assert_array_equal(table.steps, reference[:, 0])
    np.testing.assert_array_equal(np.stack([table.value, table.minimum, table.mean], axis=1), reference[:, 4:])


def test_restart_the_later_row_of_a_step_wins(tmp_path):
    lines = DEEPMD.splitlines()
    again = [lines[0], lines[2].replace("4.500000e-02", "9.900000e-02"), lines[3]]
    table = table_of(tmp_path, "\n".join([*lines[:3], *again]) + "\n")
    assert table.steps.tolist() == [0, 10, 20]
    assert table.value.tolist() == [3.194331e-02, 9.9e-02, 1.5e-01]
    assert "restart" in table.note


def test_a_line_torn_by_a_restart_is_dropped_and_named(tmp_path):
    lines = DEEPMD.splitlines()
    table = table_of(tmp_path, "\n".join([*lines[:2], lines[2][:70] + lines[2], lines[3]]) + "\n")
    assert table.steps.tolist() == [0, 20]
    assert "line 3" in table.note
    # a row that runs into the repeated header
    table = table_of(tmp_path, "\n".join([*lines[:2], lines[2][:40] + lines[0], *lines[2:]]) + "\n")
    assert table.steps.tolist() == [0, 10, 20] and "line 3" in table.note


def test_windows_line_ends(tmp_path):
    assert table_of(tmp_path, DEEPMD.replace("\n", "\r\n")).value.tolist() == [3.194331e-02, 4.5e-02, 1.5e-01]


def test_blocks_join_without_a_seam(tmp_path, monkeypatch):
    for size in (7, 100, 131, 300):
        monkeypatch.setattr("pwact_like.uncertainty.table._BLOCK_BYTES", size)
        table = table_of(tmp_path, DEEPMD + "          30 torn\n" + DEEPMD.splitlines()[3].replace(" 20 ", " 40 ") + "\n")
        assert table.steps.tolist() == [0, 10, 20, 40]
        assert "line 5" in table.note


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "empty"),
        ("0 1 2 3 4 5 6\n", "header"),
        ("# time force\n0 1\n", "header"),
        (DEEPMD.splitlines()[0] + "\n" + "a b c d e f g\n" * 9, "line 2"),
    ],
)
def test_what_is_no_table_is_refused_with_file_and_place(tmp_path, text, words):
    with pytest.raises(DataError, match=words) as caught:
        table_of(tmp_path, text)
    assert str(tmp_path / "model_devi.out") in str(caught.value)


def test_missing_file(tmp_path):
    with pytest.raises(DataError, match="missing"):
        read_table(tmp_path / "model_devi.out")


def test_writer_flushes_each_row_and_goes_on(tmp_path):
    path = tmp_path / "model_devi.out"
    writer = TableWriter(path, KPU, "1")
    writer.append(0, (3.0, 1.0, 2.0))
    assert read_table(path).value.tolist() == [3.0]  # not closed yet
    writer.close()
    with TableWriter(path, KPU, "1", extend=True) as writer:
        writer.append(10, (6.0, 4.0, 5.0))
    table = read_table(path)
    assert (table.kind, table.unit) == (KPU, "1")
    assert table.steps.tolist() == [0, 10]
    assert np.stack([table.value, table.minimum, table.mean]).tolist() == [[3, 6], [1, 4], [2, 5]]
    # DeePMD users read column 4 of numpy.loadtxt
    assert np.loadtxt(path)[:, 4].tolist() == [3.0, 6.0]


def test_reading_a_table_loads_no_heavy_package():
    code = "import sys, pwact_like.uncertainty.table; sys.exit(any(name in sys.modules for name in ('pandas', 'torch', 'ase', 'scipy')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

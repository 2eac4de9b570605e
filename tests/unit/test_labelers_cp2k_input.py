"""CP2K's input files as a tree: what is not ours comes back as it was."""

from __future__ import annotations

import pytest

from pwact_like.engines.labelers.cp2k_input import parse, read_input_file
from pwact_like.errors import InputError

TEXT = """\
! a comment &GLOBAL is no section
@SET Basis /Data/My_Basis
&Global
   Project   Si_Bulk      # mine
   run_type  md
&end
&force_eval
  &dft
    Basis_Set_File_Name ${Basis}
    basis_set_file_name "second ! file"
    &XC
      &XC_FUNCTIONAL PBE  ! functional
      &end xc_functional
    &END
    &SCF ! here
      MAX_SCF=20
      LONG 1 2 \\
        &3
    &END SCF
  &end DFT
@INCLUDE 'more.inc'
&END FORCE_EVAL
"""


def test_an_unchanged_file_is_the_same_to_the_last_character():
    assert parse(TEXT, "x.inp").text() + "\n" == TEXT


def test_names_have_no_case_and_values_keep_theirs():
    root = parse(TEXT, "x.inp")
    dft = root.find("FORCE_EVAL", "DFT")
    assert dft.value("BASIS_SET_FILE_NAME") == '"second ! file"'
    assert root.find("GLOBAL").value("RUN_TYPE") == "md"
    assert dft.find("XC", "XC_FUNCTIONAL").parameter == "PBE"
    assert dft.find("SCF").parameter == ""
    assert dft.find("SCF").value("MAX_SCF") == "20"  # CP2K 2023.1 takes =, : and , as separators (tried)


def test_setting_a_keyword_leaves_one_line_and_the_rest_alone():
    root = parse(TEXT, "x.inp")
    root.find("FORCE_EVAL", "DFT").set("BASIS_SET_FILE_NAME", "NEW")
    root.find("GLOBAL").set("RUN_TYPE", "ENERGY_FORCE")
    text = root.text()
    assert text.upper().count("BASIS_SET_FILE_NAME") == 1
    assert "   Project   Si_Bulk      # mine" in text
    assert "@SET Basis /Data/My_Basis" in text and "@INCLUDE 'more.inc'" in text
    expected = TEXT.replace("    Basis_Set_File_Name ${Basis}\n", "    BASIS_SET_FILE_NAME NEW\n").replace(
        '    basis_set_file_name "second ! file"\n', ""
    )
    assert text + "\n" == expected.replace("   run_type  md\n", "  RUN_TYPE ENERGY_FORCE\n")


def test_sections_are_made_where_they_are_missing():
    root = parse(TEXT, "x.inp")
    root.ensure("FORCE_EVAL", "SUBSYS", "CELL").set("A", "1 0 0")
    again = parse(root.text(), "y.inp")
    assert again.find("FORCE_EVAL", "SUBSYS", "CELL").value("A") == "1 0 0"
    assert again.find("FORCE_EVAL", "DFT", "XC") is not None


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("&A\n&B\n&END B\n", "line 1", "&A is never closed"),
        ("&A\n&END A\n&END A\n", "line 3", "closes nothing"),
        ("&A\n&B\n&END A\n", "line 3", "closes &B of line 2"),
        ("&A\n& \n&END A\n", "line 2", "is no section"),
    ],
)
def test_a_wrong_section_is_named_with_file_and_line(tmp_path, text, place, what):
    path = tmp_path / "bad.inp"
    path.write_text(text)
    with pytest.raises(InputError, match=what) as caught:
        read_input_file(path)
    assert f"{path}: {place}" in str(caught.value)


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_input_file(tmp_path / "none.inp")
    (tmp_path / "latin.inp").write_bytes(b"! caf\xe9\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_input_file(tmp_path / "latin.inp")

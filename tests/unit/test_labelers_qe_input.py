"""pw.x's input files as namelists and cards: what is not ours comes back as it was."""

from __future__ import annotations

import pytest

from pwact_like.engines.labelers.qe_input import parse, read_input_file
from pwact_like.errors import InputError

TEXT = """\
! a comment, and /no/end &system
&control calculation = 'scf', Prefix='Mine/x',
   pseudo_dir = '/Data/It''s PP' ! here / there
/
! between

 &System
   ibrav=0, nat=2
   starting_magnetization( 1 ) = 0.5, starting_magnetization(2)=-0.5
   ecutwfc = 30,
   celldm(1) =
     10.2
   title = "a / in = it"  degauss=0.02 /
&ELECTRONS
&end

ATOMIC_SPECIES
 Fe 55.8 Fe.UPF ! iron
# comment
K_POINTS {automatic}
 2 2 2 0 0 0
"""


def test_an_unchanged_file_is_the_same_to_the_last_character():
    assert parse(TEXT, "x.in").text() == TEXT


def test_names_have_no_case_and_values_keep_theirs():
    root = parse(TEXT, "x.in")
    assert root.value("CONTROL", "prefix") == "Mine/x"
    assert root.namelists["CONTROL"].get("pseudo_dir").value == "'/Data/It''s PP'"
    system = root.namelists["SYSTEM"]
    assert [(item.name, item.index, item.value, item.number) for item in system.assignments] == [
        ("ibrav", "", "0", 8),
        ("nat", "", "2", 8),
        ("starting_magnetization", "1", "0.5", 9),
        ("starting_magnetization", "2", "-0.5", 9),
        ("ecutwfc", "", "30", 10),
        ("celldm", "1", "10.2", 11),
        ("title", "", '"a / in = it"', 13),
        ("degauss", "", "0.02", 13),
    ]
    assert root.card("ATOMIC_SPECIES").rows == ["Fe 55.8 Fe.UPF"]
    assert (root.card("K_POINTS").option, root.card("K_POINTS").rows) == ("automatic", ["2 2 2 0 0 0"])


def test_changes_leave_the_rest_alone():
    root = parse(TEXT, "x.in")
    system = root.namelists["SYSTEM"]
    system.remove("nat", "celldm", "degauss")
    system.set("nat", "8")
    system.set("ecutwfc", "40")
    for item in system.assignments:
        if item.name == "starting_magnetization":
            system.drop(item)
    root.namelists["CONTROL"].set("outdir", "'./out'")
    root.namelist("IONS").set("tempw", "300")
    again = parse(root.text(), "y.in")
    assert [(item.name, item.value) for item in again.namelists["SYSTEM"].assignments] == [
        ("nat", "8"),
        ("ibrav", "0"),
        ("ecutwfc", "40"),
        ("title", '"a / in = it"'),
    ]
    assert [item.name for item in again.namelists["CONTROL"].assignments] == ["outdir", "calculation", "prefix", "pseudo_dir"]
    assert again.value("IONS", "tempw") == "300"
    assert "pseudo_dir = '/Data/It''s PP' ! here / there\n" in root.text() and "# comment\n" in root.text()
    assert root.text().index("&ELECTRONS") < root.text().index("&IONS") < root.text().index("ATOMIC_SPECIES")


def test_the_last_assignment_counts_and_setting_leaves_one():
    root = parse("&SYSTEM\n ecutwfc = 20\n ecutwfc = 30\n/\n", "x.in")
    assert root.value("SYSTEM", "ecutwfc") == "30"
    root.namelists["SYSTEM"].set("ecutwfc", "40")
    assert root.text().split() == ["&SYSTEM", "ecutwfc", "=", "40", "/"]


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ("&CONTROL\n a = 1\n", "line 1", "&CONTROL is never closed"),
        ("&CONTROL\n a = 1\n oops\n b = 2\n/\n", "line 2", ""),
        ("&CONTROL\n 'x'\n/\n", "line 2", "is no `name = value`"),
        ("&CONTROL\n/\n&CONTROL\n/\n", "line 3", "is there twice"),
        ("&PHONON\n/\n", "line 1", "pw.x has no namelist &PHONON"),
        ("&CONTROL\n/\nwhat is this\n", "line 3", "belongs to no namelist and no card"),
        ("&CONTROL\n/\nK_POINTS gamma\nK_POINTS gamma\n", "line 4", "is there twice"),
        ("K_POINTS gamma\n", "", "there is no namelist"),
    ],
)
def test_what_is_wrong_is_named_with_file_and_line(tmp_path, text, place, what):
    path = tmp_path / "bad.in"
    path.write_text(text)
    if not what:  # a stray word is a further value of the one before it, for Fortran too
        assert read_input_file(path).namelists["CONTROL"].get("a").value == "1\n oops"
        return
    with pytest.raises(InputError, match=what) as caught:
        read_input_file(path)
    assert f"{path}: {place}" in str(caught.value) or not place


def test_a_missing_file_is_an_input_error(tmp_path):
    with pytest.raises(InputError, match="cannot be read"):
        read_input_file(tmp_path / "none.in")
    (tmp_path / "latin.in").write_bytes(b"! caf\xe9\n")
    with pytest.raises(InputError, match="UTF-8"):
        read_input_file(tmp_path / "latin.in")

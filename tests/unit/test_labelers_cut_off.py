"""MD runs cut off at any byte of any of their files: what counts is a part from the whole run's beginning, to the last bit."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import stand_in_pwmat
import stand_in_vasp
import vasp_files
from ase import Atoms
from ase.build import bulk
from support import ROOT, require_shared

from pwact_like.config.common import StageInput
from pwact_like.config.labelling import LabelSettings
from pwact_like.data.formats import read_labelled
from pwact_like.engines.labelers.atom_order import Asked, asked_of, write_asked
from pwact_like.engines.labelers.cp2k import Cp2kLabeler
from pwact_like.engines.labelers.pwmat import PwmatLabeler
from pwact_like.engines.labelers.qe import QeLabeler
from pwact_like.engines.labelers.vasp import VaspLabeler
from pwact_like.engines.protocols import Labeler, LabelRequest
from pwact_like.errors import DataError
from pwact_like.outcome import CUT_OFF_FILE, Ok, Reject, Retry, TaskFiles

DATA = ROOT / "tests" / "data"
OUTCAR_STEP = r"free  energy   TOTEN  = .* eV\n"
CALCULATION = r"</calculation>"
MOVEMENT_FRAME = r"\n *-{10,}.*\n"
ENDING = r"ending_scf_reason = .*\n"
CP2K_STRESS = r"Analytical stress tensor \[GPa\]\n(?:.*\n){3}.* z .*\n"
QE_STRESS = r"total   stress .*\n(?:.*\n){3}"


def same(one, other) -> bool:
    """Whether two frames are equal to the last bit."""
    virials = (one.label.virial_ev, other.label.virial_ev)
    return (
        one.origin.step == other.origin.step
        and one.label.energy_ev == other.label.energy_ev
        and np.array_equal(one.label.forces_ev_per_ang, other.label.forces_ev_per_ang)
        and (np.array_equal(*virials) if virials[0] is not None and virials[1] is not None else virials[0] is virials[1])
        and np.array_equal(one.atoms.positions, other.atoms.positions)
        and np.array_equal(one.atoms.cell.array, other.atoms.cell.array)
        and np.array_equal(one.atoms.numbers, other.atoms.numbers)
        and np.array_equal(one.atoms.pbc, other.atoms.pbc)
    )


class Run:
    """A whole MD run whose files can be cut.

    ``planned`` is how many frames its input asks for; ``count`` is how many evaluations of the run have been found whole.
    """

    def __init__(self, labeler: Labeler, folder: Path, planned: int) -> None:
        assert isinstance(labeler.outcome(folder, "aimd"), Ok)
        self.labeler, self.folder, self.planned = labeler, folder, planned
        self.whole = labeler.read(folder, "aimd")
        self.contents = {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}
        (folder / CUT_OFF_FILE).write_text("its time limit came\n")

    def ends(self, name: str, pattern: str) -> list[int]:
        """Where the frames of a file end."""
        return [match.end() for match in re.finditer(pattern.encode(), self.contents[name])]

    def places(self, name: str, pattern: str, count: int = 60, around: int = 24) -> list[int]:
        """Places at which a file is cut: at even distances, each one near the ends of frames, and in the first lines of the next."""
        size = len(self.contents[name])
        near = {end + shift for end in self.ends(name, pattern) for shift in (*range(-around, 3), *range(3, 120, 9))}
        return sorted({place for place in {*range(0, size, max(1, size // count)), *near, size} if 0 <= place <= size})

    def cut(self, **places: int) -> None:
        """Cut these files there, all others are whole."""
        for name, content in self.contents.items():
            (self.folder / name).write_bytes(content[: places.get(name, len(content))])

    def judged(self, expected: list | None = None) -> int:
        """Insist that what counts is the beginning of the whole run, and say how many frames it has."""
        expected = self.whole if expected is None else expected
        outcome = self.labeler.outcome(self.folder, "aimd")
        if not isinstance(outcome, Ok):
            assert isinstance(outcome, Reject | Retry) and outcome.reason
            with pytest.raises(DataError):
                self.labeler.read(self.folder, "aimd")
            return 0
        frames = self.labeler.read(self.folder, "aimd")
        assert 0 < len(frames) <= len(expected)
        assert all(map(same, frames, expected))
        assert outcome.note.startswith(f"{len(frames)} of {self.planned} frames"), outcome.note
        return len(frames)

    def check(self, name: str, pattern: str, steps: Callable[[list], list[int]] = lambda whole: list(range(len(whole)))) -> None:
        """Cut one file at every place; as many frames count as ended before it."""
        ends = self.ends(name, pattern)
        assert len(ends) >= len(self.whole)
        numbers = steps(self.whole)
        for place in self.places(name, pattern):
            self.cut(**{name: place})
            here = sum(end <= place for end in ends)
            assert self.judged() == sum(number < here for number in numbers), (name, place)
        self.cut()
        assert self.judged() == len(self.whole)

    def check_together(self, patterns: dict[str, str], step: int = 997) -> None:
        """Cut all files somewhere, each one elsewhere, as buffers would have it."""
        sizes = {name: len(self.contents[name]) for name in patterns}
        for turn in range(40):
            # the files' shares differ by up to a third of the run
            shares = [min(1.0, turn / 40 + ((turn + 1) * (number + 1) * step % 1000) / 3000) for number in range(len(sizes))]
            places = {name: int(share * size) for (name, size), share in zip(sizes.items(), shares, strict=True)}
            self.cut(**places)
            most = min(sum(end <= places[name] for end in self.ends(name, pattern)) for name, pattern in patterns.items())
            assert self.judged() <= most, places
        self.cut()


# ---------------------------------------------------------------------- VASP


def metal() -> Atoms:
    """What EMT knows: copper and aluminium in turn."""
    a = 3.9
    atoms = Atoms("CuAlCuAl", [[0, 0, 0], [0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]], cell=[a, a, a], pbc=True)
    atoms.rattle(0.05, seed=2)
    return atoms


def vasp_run(tmp_path: Path) -> Run:
    """Five of nine planned steps by the stand-in, the third of them not converged."""
    vasp_files.write_potcars(tmp_path, Al=240.0, Cu=295.0)
    (tmp_path / "INCAR").write_text(vasp_files.aimd(5))
    labeler = VaspLabeler(LabelSettings(dft_style="vasp", pseudo=sorted(tmp_path.glob("POTCAR_*")), source=tmp_path / "param.json"))
    task = tmp_path / "task"
    files = labeler.write(task, LabelRequest("aimd", metal(), StageInput(input=tmp_path / "INCAR"), 7))
    assert files.counts_cut_off
    assert stand_in_vasp.main(task) == 0
    text = (task / "OUTCAR").read_text()
    third = text.index("Iteration      3(   2)")
    (task / "OUTCAR").write_text(text[:third] + text[third:].replace("EDIFF is reached", "NELM", 1))
    (task / "INCAR").write_text((task / "INCAR").read_text().replace("NSW = 5", "NSW = 9"))
    return Run(labeler, task, 9)


def steps_of(whole: list) -> list[int]:
    """Places of VASP's ionic steps, which count from 1."""
    return [frame.origin.step - 1 for frame in whole]


def test_an_outcar_cut_off_anywhere(tmp_path):
    run = vasp_run(tmp_path)
    assert [frame.origin.step for frame in run.whole] == [1, 2, 4, 5]
    run.check("OUTCAR", OUTCAR_STEP, steps_of)
    assert "1 more were dropped (3): ionic step 3: SCF not converged" in run.labeler.outcome(run.folder, "aimd").note


def test_a_vasprun_that_lags_behind(tmp_path):
    """By one step it is waited for; by more it is no measure, and the OUTCAR stands alone."""
    run = vasp_run(tmp_path)
    (run.folder / "vasprun.xml").unlink()
    alone = run.labeler.read(run.folder, "aimd")
    ends = run.ends("vasprun.xml", CALCULATION)
    assert len(ends) == 5
    for place in run.places("vasprun.xml", CALCULATION):
        run.cut(**{"vasprun.xml": place})
        here = sum(end <= place for end in ends)
        if here < 4:
            assert run.judged(alone) == 4
            assert f"vasprun.xml has {here} whole steps only" in run.labeler.outcome(run.folder, "aimd").note
        else:
            assert run.judged() == here - 1


def test_outcar_and_vasprun_of_a_killed_run(tmp_path):
    run = vasp_run(tmp_path)
    outcar, vasprun = run.ends("OUTCAR", OUTCAR_STEP), run.ends("vasprun.xml", CALCULATION)
    for step in range(1, 5):
        for place in (outcar[step - 1], outcar[step - 1] + 300, outcar[step] - 1):
            for other in (vasprun[step - 1] - 1, vasprun[step - 1], vasprun[step] - 2, vasprun[step]):
                run.cut(OUTCAR=place, **{"vasprun.xml": other})
                here = step - (other < vasprun[step - 1])
                assert run.judged() == sum(number < here for number in steps_of(run.whole)), (place, other)


def test_the_real_outcar_cut_off_anywhere(tmp_path):
    shutil.copy(require_shared("Si_OUTCAR"), tmp_path / "OUTCAR")
    (tmp_path / "INCAR").write_text(vasp_files.aimd(6))
    write_asked(tmp_path, asked_of(bulk("Si", cubic=True).repeat((4, 4, 1)), "symbol"))
    run = Run(VaspLabeler(LabelSettings(dft_style="vasp", pseudo=(), source=tmp_path / "param.json")), tmp_path, 6)
    ends = run.ends("OUTCAR", OUTCAR_STEP)
    assert len(ends) == len(run.whole) == 6
    places = {*range(0, len(run.contents["OUTCAR"]), 24_000), *(end + shift for end in ends[1:3] for shift in (-30, -14, -7, -4, -1, 0, 1))}
    table = run.contents["OUTCAR"].index(b"TOTAL-FORCE", ends[0])
    for place in sorted({*places, *range(table + 2000, table + 2200, 23)}):
        run.cut(OUTCAR=place)
        assert run.judged() == sum(end <= place for end in ends), place


# ---------------------------------------------------------------------- PWmat


def pwmat_run(tmp_path: Path) -> Run:
    """Five of nine planned frames by the stand-in, the third of them not converged."""
    for element in ("Al", "Cu"):
        (tmp_path / f"{element}.SG15.PBE.UPF").write_text(f"<UPF> {element}\n")
    (tmp_path / "etot.input").write_text(vasp_files.etot_aimd(5))
    labeler = PwmatLabeler(LabelSettings(dft_style="pwmat", pseudo=sorted(tmp_path.glob("*.UPF")), source=tmp_path / "param.json"))
    task = tmp_path / "task"
    files = labeler.write(task, LabelRequest("aimd", metal(), StageInput(input=tmp_path / "etot.input"), 7))
    assert files.counts_cut_off
    for name, target in files.links:
        (task / name).symlink_to(target)
    assert stand_in_pwmat.main(task) == 0
    endings = [vasp_files.CONVERGED] * 5
    endings[2] = vasp_files.UNCONVERGED
    (task / "REPORT").write_text("".join(f" ending_scf_reason = {text}\n" for text in endings))
    etot = (task / "etot.input").read_text()
    shorter = re.sub(r"(MD_DETAIL\s*=\s*\S+?[,\s]+)5\b", r"\g<1>9", etot, flags=re.IGNORECASE)
    assert shorter != etot
    (task / "etot.input").write_text(shorter)
    return Run(labeler, task, 9)


def indices(whole: list) -> list[int]:
    return [frame.origin.step for frame in whole]


def test_a_movement_cut_off_anywhere(tmp_path):
    run = pwmat_run(tmp_path)
    assert indices(run.whole) == [0, 1, 3, 4]
    # the report of a killed run is ahead of its frames by one loop at most; here its later lines say nothing bad
    report = run.contents["REPORT"].split(b"\n")
    ends = run.ends("MOVEMENT", MOVEMENT_FRAME)
    for place in run.places("MOVEMENT", MOVEMENT_FRAME):
        here = sum(end <= place for end in ends)
        for ahead in (0, 1):
            run.contents["REPORT"] = b"\n".join(report[: here + ahead]) + b"\n"
            run.cut(MOVEMENT=place)
            assert run.judged() == sum(index < here for index in indices(run.whole)), (place, ahead)


def test_a_report_that_lags_behind(tmp_path):
    run = pwmat_run(tmp_path)
    run.check("REPORT", ENDING, indices)
    assert "1 more were dropped (2): SCF not converged" in run.labeler.outcome(run.folder, "aimd").note


def test_unconverged_loops_that_can_be_of_any_frame_count_for_nothing(tmp_path):
    run = pwmat_run(tmp_path)
    run.cut(MOVEMENT=run.ends("MOVEMENT", MOVEMENT_FRAME)[1])
    outcome = run.labeler.outcome(run.folder, "aimd")
    assert isinstance(outcome, Reject) and "whose they are cannot be told" in outcome.reason


def test_the_real_movement_cut_off_anywhere(tmp_path):
    text = require_shared("LiSi_50.MOVEMENT").read_text()
    end = [match.end() for match in re.finditer(MOVEMENT_FRAME, text)][3]
    (tmp_path / "MOVEMENT").write_text(text[:end])
    first = read_labelled(tmp_path / "MOVEMENT", "pwmat/movement").frames[0].atoms
    write_asked(tmp_path, Asked(first, np.arange(len(first))))
    (tmp_path / "etot.input").write_text(vasp_files.etot_aimd(4))
    (tmp_path / "REPORT").write_text(f" ending_scf_reason = {vasp_files.CONVERGED}\n" * 5)
    run = Run(PwmatLabeler(LabelSettings(dft_style="pwmat", pseudo=(), source=tmp_path / "param.json")), tmp_path, 4)
    assert len(run.whole) == 4
    run.check("MOVEMENT", MOVEMENT_FRAME)


# ---------------------------------------------------------------------- CP2K


def cp2k_run(tmp_path: Path, source: Path, planned: int) -> Run:
    shutil.copytree(source, tmp_path / "task")
    return Run(Cp2kLabeler(LabelSettings(dft_style="cp2k")), tmp_path / "task", planned)


@pytest.mark.parametrize("source", ["data/cp2k_md", "labelers/cp2k_md_half_converged"])
def test_cp2k_files_cut_off_anywhere(tmp_path, source):
    """At constant pressure, and where some SCFs did not converge; each trajectory file may lag behind or be ahead."""
    run = cp2k_run(tmp_path, DATA / source, 4)
    project = next(name for name in run.contents if name.endswith("-pos-1.xyz")).removesuffix("-pos-1.xyz")
    patterns = {
        "cp2k.out": CP2K_STRESS,
        f"{project}-pos-1.xyz": r" +\d+\n i = .*\n(?:.*\n){2}",
        f"{project}-1.cell": r" +\d+ .*\n",
    }
    for name, pattern in patterns.items():
        run.check(name, pattern, indices)
    run.check_together(patterns)


def test_cp2ks_output_cut_off_inside_an_energy(tmp_path):
    run = cp2k_run(tmp_path, DATA / "data" / "cp2k_md", 4)
    third = list(re.finditer(rb" ENERGY\|.*\n", run.contents["cp2k.out"]))[2]
    for place in range(third.end() - 24, third.end() + 1):
        run.cut(**{"cp2k.out": place})
        assert run.judged() == 2, place


def test_cp2k_frames_are_found_by_their_energy_and_not_by_their_place(tmp_path):
    """The trajectory of another run gives no frame, even where it has as many as the output."""
    run = cp2k_run(tmp_path, DATA / "data" / "cp2k_md", 4)
    name = next(name for name in run.contents if name.endswith("-pos-1.xyz"))
    run.cut()
    text = run.contents[name].decode()
    (run.folder / name).write_text(re.sub(r"(E = +-7\.)87", r"\g<1>99", text))
    assert run.judged() == 1


def test_forces_of_cp2k_from_their_own_file_cut_off_anywhere(tmp_path):
    shutil.copytree(DATA / "data" / "cp2k_md", tmp_path / "source")
    path = tmp_path / "source" / "cp2k.out"
    path.write_text(re.sub(r" ATOMIC FORCES in(?:.|\n)*?SUM OF ATOMIC FORCES[^\n]*\n", "", path.read_text()))
    run = cp2k_run(tmp_path, tmp_path / "source", 4)
    run.check("md-frc-1.xyz", r" +\d+\n i = .*\n(?:.*\n){2}", indices)


# ---------------------------------------------------------------------- Quantum ESPRESSO


def qe_run(tmp_path: Path) -> Run:
    shutil.copytree(DATA / "labelers" / "qe_md_stopped", tmp_path / "task")
    return Run(QeLabeler(LabelSettings(dft_style="qe")), tmp_path / "task", 6)


def test_files_of_pw_cut_off_anywhere(tmp_path):
    run = qe_run(tmp_path)
    patterns = {"pw.out": QE_STRESS, "pw.xml": r"</step>"}
    for name, pattern in patterns.items():
        run.check(name, pattern)
    run.check_together(patterns)


def test_the_xml_file_is_found_where_pw_had_it(tmp_path):
    run = qe_run(tmp_path)
    kept = run.folder / "out" / "label.save" / "data-file-schema.xml"
    kept.parent.mkdir(parents=True)
    shutil.move(run.folder / "pw.xml", kept)
    assert run.judged() == 3


def test_an_xml_file_of_another_run_of_pw_counts_for_nothing(tmp_path):
    run = qe_run(tmp_path)
    text = run.contents["pw.xml"].decode()
    for change in (("-7.803408257520636e0", "-7.803409257520636e0"), ('n_step="2"', 'n_step="3"')):
        assert text.count(change[0]) >= 1
        (run.folder / "pw.xml").write_text(text.replace(*change, 1))
        outcome = run.labeler.outcome(run.folder, "aimd")
        assert isinstance(outcome, Retry) and "not of one run" in outcome.reason


# ---------------------------------------------------------------------- all


def test_only_an_md_counts_cut_off(tmp_path):
    vasp_files.write_potcars(tmp_path, Al=240.0, Cu=295.0)
    labeler = VaspLabeler(LabelSettings(dft_style="vasp", pseudo=sorted(tmp_path.glob("POTCAR_*")), source=tmp_path / "param.json"))
    for kind, text in (("scf", vasp_files.INCAR), ("relax", vasp_files.RELAX)):
        (tmp_path / "INCAR").write_text(text)
        assert not labeler.write(tmp_path / kind, LabelRequest(kind, metal(), StageInput(input=tmp_path / "INCAR"), 7)).counts_cut_off
    assert not TaskFiles().counts_cut_off


def test_the_mark_changes_nothing_but_for_an_md(tmp_path):
    """Should a folder of another kind have it, its files must be whole as ever."""
    shutil.copytree(DATA / "data" / "cp2k_scf", tmp_path / "scf")
    (tmp_path / "scf" / CUT_OFF_FILE).write_text("x\n")
    labeler = Cp2kLabeler(LabelSettings(dft_style="cp2k"))
    assert isinstance(labeler.outcome(tmp_path / "scf", "scf"), Ok)
    path = tmp_path / "scf" / "cp2k.out"
    path.write_text(path.read_text().split("PROGRAM ENDED AT")[0])
    assert isinstance(labeler.outcome(tmp_path / "scf", "scf"), Retry)


def test_without_the_mark_a_cut_off_run_is_tried_again(tmp_path):
    run = cp2k_run(tmp_path, DATA / "data" / "cp2k_md", 4)
    run.cut(**{"cp2k.out": run.ends("cp2k.out", CP2K_STRESS)[2]})
    assert run.judged() == 3
    (run.folder / CUT_OFF_FILE).unlink()
    assert isinstance(run.labeler.outcome(run.folder, "aimd"), Retry)
    with pytest.raises(DataError):
        run.labeler.read(run.folder, "aimd")

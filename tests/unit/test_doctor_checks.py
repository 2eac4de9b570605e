"""The doctor's checks: programs of a command, a section's shell, Python, the disk, limits, what a job tells."""

from __future__ import annotations

import json
import os
import time
import tomllib
from dataclasses import replace
from importlib import metadata
from pathlib import Path

import pytest
from doctor_support import examined, levels, one
from jobs_support import NASTY
from support import ROOT

from pwact_like import __version__
from pwact_like.config.resource import ResourceSection
from pwact_like.errors import InputError, Problem
from pwact_like.jobs.lock import MasterLock
from pwact_like.report.doctor import disk, installation, machine, programs, shell, trial_report
from pwact_like.report.doctor.findings import Finding, Level, guarded
from pwact_like.report.doctor.words import can_be_looked_up, programs_of

# ---------------------------------------------------------------------- programs of a command


@pytest.mark.parametrize(
    ("command", "words", "untold"),
    [
        ("OMP_NUM_THREADS=1 mpirun -np 4 cp2k.psmp -i in.inp | tee log", "mpirun cp2k.psmp tee", 0),
        ("srun -n4 --mpi=pmix -c 2 vasp_std > out 2>&1", "srun vasp_std", 0),
        ("ulimit -s unlimited; mpirun -np $SLURM_NTASKS --mca btl ^openib vasp_std", "ulimit mpirun vasp_std", 0),
        ("env -u B A=1 lmp -in x && dp train", "env lmp dp", 0),
        ("bash -c 'module load x && mpirun -n 4 lmp'", "bash module mpirun lmp", 0),
        ("timeout -k 5 3600 nice -n 5 lmp", "timeout nice lmp", 0),
        ("if true; then lmp; fi", "true lmp", 0),
        ("for i in 1 2; do lmp $i; done", "lmp", 0),
        ("# a note\nlmp # another\ndp train", "lmp dp", 0),
        ("mpirun \\\n -np 4 lmp", "mpirun lmp", 0),
        ("(cd x && lmp)", "cd lmp", 0),
        ("echo ';' && 'my prog' a", "echo 'my prog'", 0),
        ("$VASP/bin/vasp_std", "$VASP/bin/vasp_std", 0),
        ("MatPL", "MatPL", 0),
        ("mpirun --weird 4 lmp", "mpirun", 1),
        ("singularity exec x.sif lmp", "singularity", 1),
        ("$(which lmp) -in x", "", 1),
        ("`which lmp`", "", 1),
        ("lmp 'unclosed", "", 1),
        ("", "", 0),
    ],
)
def test_programs_of_a_command(command, words, untold):
    found = programs_of(command)
    assert " ".join(found.words) == words
    assert len(found.untold) == untold


@pytest.mark.parametrize("word", ["$(id)", "`id`", "a$(id)b", "${A:=$(id)}", '"$(id)"', "$((1))", "<(id)", "${A:-x}"])
def test_what_would_run_something_is_never_looked_up(word):
    assert not can_be_looked_up(word)
    assert all(can_be_looked_up(found) for found in programs_of(f"mpirun -np 2 {word} x").words)


# ---------------------------------------------------------------------- a section's shell


def test_programs_are_looked_up_in_the_environment_that_the_lines_make(tmp_path):
    tool = tmp_path / "my tools" / "solver"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\n")
    tool.chmod(0o755)
    (tmp_path / "set it.sh").write_text(f"export PATH={str(tool.parent)!r}:$PATH\n")
    source = f"'{tmp_path}/set it.sh'"
    assert one(examined(command="mpirun_of_nobody -n 2 solver", source_list=[source]), "mpirun_of_nobody is not found").level is Level.BAD
    assert str(tool) in one(examined(command="env A=1 solver", source_list=[source]), "found").text
    assert str(tool) in one(examined(command='"$TOOLS"/solver', env_list=[f"export TOOLS='{tool.parent}'"]), "found").text


@pytest.mark.parametrize("place", [NASTY[2], NASTY[3], NASTY[6]])
def test_programs_in_folders_of_any_name(tmp_path, place, monkeypatch):
    folder = tmp_path / place
    folder.mkdir()
    (folder / "solver").write_text("#!/bin/sh\n")
    (folder / "solver").chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    assert str(folder) in one(examined(command="solver"), "found").text


def test_modules_that_end_with_0_whatever_happened_are_known_by_their_words():
    """Tcl's modules, version 3."""
    said = "ModuleCmd_Load.c(213):ERROR:105: Unable to locate a modulefile for 'cp2k'"
    looked = shell.Shell((("module load cp2k", 0),), True, False, said, (), {}, {})
    assert one(programs.lines_findings("t", looked), "Unable to locate").level is Level.BAD
    assert levels(programs.lines_findings("t", replace(looked, stderr="Loading cp2k/2024.1"))) == {"OK"}


def test_a_module_command_that_is_not_there_is_bad():
    found = one(examined(command="ls", module_list=["cp2k/2024"]), "module load cp2k/2024")
    assert found.level is Level.BAD and "127" in found.text and "pwact_like_doctor_" not in found.text


def test_a_line_that_fails_harmlessly_is_a_warning():
    assert one(examined(command="ls", env_list=["[ -e /nowhere ] && export A=1"]), "status 1").level is Level.WARN


@pytest.mark.parametrize("line", ["exit 3", "set -e; false", "if true; then"])
def test_lines_that_end_the_shell_are_bad(line):
    found = examined(command="ls", env_list=[line])
    assert one(found, "a job would end there").level is Level.BAD


def test_lines_that_belong_together_are_no_error():
    found = examined(command="ls", env_list=["if true; then", "export A=1", "fi"])
    assert levels(found) == {"OK"}


def test_lines_that_hang_are_ended_with_all_that_they_started(tmp_path):
    begun = time.monotonic()
    section = ResourceSection(
        command="ls", env_list=[f"(while sleep 0.05; do echo x >>{tmp_path}/ticks; done) &", "read answer </dev/zero"]
    )
    looked = shell.look_up(section, ["ls"], os.environ, timeout_s=1.0)
    assert looked.timed_out and time.monotonic() - begun < 20
    assert one(programs.lines_findings("t", looked), "did not end in time").level is Level.BAD
    time.sleep(0.3)
    size = (tmp_path / "ticks").stat().st_size
    time.sleep(0.3)
    assert (tmp_path / "ticks").stat().st_size == size


def test_pwact_like_is_run_under_the_section_s_lines():
    assert one(examined(command="pwact-like"), f"pwact-like {__version__} runs").level is Level.OK
    assert one(examined(), f"pwact-like {__version__} runs").level is Level.OK
    broken = examined(env_list=["export PYTHONHOME=/nowhere"])
    assert one(broken, "fails with this section's lines").level is Level.BAD


def test_a_relative_program_and_an_untold_one_are_warnings():
    assert one(examined(command="./solve.sh"), "relative path").level is Level.WARN
    assert one(examined(command="singularity exec a.sif lmp"), "cannot be told").level is Level.WARN


# ---------------------------------------------------------------------- Python


def test_the_packages_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    split = lambda lines: dict(line.split(">=") for line in lines)  # noqa: E731
    assert split(project["dependencies"]) == installation.CORE
    extras = project["optional-dependencies"]
    assert {name: split(extras[name]) for name in extras if name != "dev"} == installation.EXTRAS


def test_missing_and_old_packages():
    versions = {**installation.CORE, "numpy": "1.25.9", "ase": None, "torch": "2.4", "vesin": None, "vesin-torch": "0.3"}
    found = list(installation.package_findings(versions.get))
    assert one(found, "missing: ase").level is Level.BAD
    assert one(found, "numpy 1.25.9 is older than 1.26").level is Level.WARN
    assert "[torch]" in one(found, "(vesin)").cure and one(found, "(vesin)").level is Level.WARN
    assert (
        installation.is_older("1.9", "1.10")
        and not installation.is_older("2.13.0+cpu", "2.4")
        and not installation.is_older("2024.8", "2024.8.0")
    )


def test_this_installation_is_well():
    assert levels([installation.python_finding(), *installation.launcher_findings(), *installation.engine_findings()]) <= {"OK", "WARN"}
    assert metadata.version("numpy") in one(installation.package_findings(), "packages:").text


def test_another_pwact_like_on_path_is_told(tmp_path, monkeypatch):
    (tmp_path / "pwact-like").write_text("#!/bin/sh\necho pwact-like 0.0.1\n")
    (tmp_path / "pwact-like").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert one(installation.launcher_findings(), "0.0.1").level is Level.WARN
    assert one(examined(command="pwact-like"), "another version").level is Level.WARN
    (tmp_path / "pwact-like").write_text("#!/bin/sh\necho broken >&2; exit 1\n")
    assert one(installation.launcher_findings(), "broken").level is Level.BAD


# ---------------------------------------------------------------------- disk, limits, master


MOUNTS = """/dev/vda / ext4 rw,relatime 0 0
server:/home /home nfs4 rw,vers=4.2,soft,acregmax=300 0 0
server:/h2 /home/two\\040words nfs rw,nolock 0 0
mds@tcp:/s /scratch lustre rw,localflock 0 0
tmpfs /dev/shm tmpfs rw 0 0
overlay /box overlay ro 0 0
"""


@pytest.mark.parametrize(
    ("path", "kind"), [("/work", "ext4"), ("/home/me", "nfs4"), ("/homes", "ext4"), ("/home/two words/x", "nfs"), ("/scratch", "lustre")]
)
def test_the_mount_of_a_path(path, kind):
    mount = disk.mount_of(MOUNTS, Path(path))
    assert mount is not None and mount.kind == kind


@pytest.mark.parametrize(
    ("path", "words", "level"),
    [
        ("/home/x", "300 s late", Level.OK),
        ("/home/x", "mounted soft", Level.WARN),
        ("/home/x", '"grace_s": 310', Level.WARN),
        ("/home/two words", "without network locks", Level.WARN),
        ("/scratch/x", "localflock", Level.WARN),
        ("/dev/shm/x", "reboot", Level.WARN),
        ("/box", "container", Level.WARN),
        ("/box", "read-only", Level.BAD),
        ("/work", "compute nodes see it only if", Level.WARN),
    ],
)
def test_what_a_kind_of_file_system_means(path, words, level):
    mount = disk.mount_of(MOUNTS, Path(path))
    assert one(disk.mount_findings(mount, slurm=True), words).level is level


def test_room():
    assert levels(disk.room_findings(5e7, 1e12, 10**6, 10**7, "/w")) == {"BAD"}
    assert levels(disk.room_findings(5e9, 1e12, 10**6, 10**7, "/w")) == {"WARN"}
    assert levels(disk.room_findings(5e11, 1e12, 0, 0, "/w")) == {"OK"}
    assert levels(disk.room_findings(5e11, 1e12, 500, 10**7, "/w")) == {"OK", "BAD"}


def test_quota():
    head = "Disk quotas for user me (uid 1): \n     Filesystem  blocks   quota   limit   grace   files   quota   limit   grace\n"
    assert one(disk.quota_findings(head + "  /dev/a  950000* 900000 1000000 6days  10  0  0\n", 1), "over the quota").level is Level.BAD
    assert one(disk.quota_findings(head + "  /dev/a  950000 0 1000000   10  0  0\n", 0), "quota on /dev/a").level is Level.WARN
    assert one(disk.quota_findings(head + "  /dev/a  1000 0 1000000   10  0  0\n", 0), "quota on /dev/a").level is Level.OK
    assert not list(disk.quota_findings("Disk quotas for user me (uid 1): none\n", 0))


def test_a_work_folder_is_tried_and_left_as_it_was(tmp_path):
    folder = tmp_path / NASTY[3]
    folder.mkdir()
    found = list(disk.examine_folder(folder, slurm=False))
    assert "SQLite" in one(found, "these work").text
    assert abs(disk.file_clock_skew_s(tmp_path)) < 5
    assert not list(folder.iterdir())
    assert one(disk.examine_folder(tmp_path / "none", slurm=False), "no folder").level is Level.BAD


def test_a_file_system_that_cannot_link_is_bad(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    assert one(disk.ability_findings(tmp_path), "hard links").level is Level.BAD


def test_limits_that_end_a_daemon():
    free = float("inf")
    assert levels(machine.limit_findings(1024, free, free, free, free)) == {"OK"}
    assert one(machine.limit_findings(64, free, free, free, free), "64 open files").level is Level.WARN
    assert one(machine.limit_findings(1024, free, free, 3600, free), "3600 s of CPU time").level is Level.WARN
    assert one(machine.limit_findings(1024, free, 1e9, free, free), "1 GB of memory").level is Level.WARN
    assert one(machine.logout_findings(["[Login]\n#KillUserProcesses=no\nKillUserProcesses=yes\n"]), "logging out").level is Level.WARN
    assert not list(machine.logout_findings(["[Login]\n#KillUserProcesses=yes\n"]))


def test_a_master_is_named(tmp_path):
    assert one(machine.master_findings(tmp_path), "no master").level is Level.OK
    with MasterLock(tmp_path / ".pwact_like" / "run"):
        assert f"pid {os.getpid()}" in one(machine.master_findings(tmp_path), "and it runs").text
    lock = tmp_path / ".pwact_like" / "run" / "lock"
    record = {"process": {"host": "elsewhere", "pid": 1, "start": 1, "boot": "other"}, "epoch": 1, "since": time.time()}
    lock.write_text(json.dumps(record))
    assert one(machine.master_findings(tmp_path), "elsewhere").level is Level.WARN
    lock.write_text("nonsense")
    assert one(machine.master_findings(tmp_path), "not a lock").level is Level.BAD


# ---------------------------------------------------------------------- what a job tells


def test_what_a_job_tells_of_its_node():
    section = ResourceSection(command="mpirun lmp", gpu_per_node=1, cpu_per_node=8)
    text = "noise\npwl-doctor\thost\tn7\npwl-doctor\tcores\t4\npwl-doctor\tfree\t1000000\npwl-doctor\tgpus\t\npwl-doctor\tbegin\t1000.5\n"
    report = trial_report.read_report(text, "program\t0\tfile\t/opt/mpirun\nprogram\t1\t\t\n", trial_report.words_of(section))
    found = list(trial_report.node_findings("t", section, report, "slurm_script: line 9: module: command not found", local=False))
    assert one(found, "n7 has /opt/mpirun").level is Level.OK
    assert one(found, "lmp is not found on n7").level is Level.BAD
    assert one(found, "module: command not found").level is Level.BAD
    assert one(found, "8 cores are asked for and 4 are given").level is Level.WARN
    assert one(found, "nvidia-smi shows none").level is Level.WARN
    clock = lambda **changes: next(  # noqa: E731
        trial_report.clock_findings("t", report, **{"stamp": 1000.0, "submitted": 999.0, "seen": 1010.0, "here_skew_s": 0.0, **changes})
    )
    assert clock().level is Level.OK
    assert "900 s ahead" in clock(stamp=100.5).text
    assert "1000 s behind" in clock(submitted=2000.0, seen=2010.0).text  # it cannot have begun before it was submitted


# ---------------------------------------------------------------------- a check that fails itself


def test_a_check_that_raises_is_a_finding():
    def broken():
        yield Finding("t", Level.OK, "first")
        raise ZeroDivisionError("by zero")

    def wrong():
        raise InputError([Problem("a", "b", "c"), Problem("d", "e")])

    found = list(guarded("t", broken))
    assert [item.level for item in found] == [Level.OK, Level.BAD] and "ZeroDivisionError" in found[1].text
    assert [item.text for item in guarded("t", wrong)] == ["a: b", "d: e"]

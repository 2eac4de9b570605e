"""The doctor, run for real on this machine: its own checks, jobs of every section, faults of all kinds."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from doctor_support import levels, one
from jobs_support import wait_until
from support import ROOT, clean_environment, run_cli

from pwact_like import __version__
from pwact_like.errors import StopRequested
from pwact_like.report.doctor import examine
from pwact_like.report.doctor.findings import Finding, Level
from pwact_like.report.doctor.settings import read_given

# ---------------------------------------------------------------------- the command


@pytest.fixture
def place(tmp_path) -> Path:
    folder = tmp_path / "two words"
    folder.mkdir()
    return folder


def write(folder: Path, **sections) -> Path:
    path = folder / "resource.json"
    path.write_text(json.dumps({"scheduler": "local", **sections}))
    return path


def doctor(folder: Path, *arguments: str | Path) -> tuple[int, list[Finding], str]:
    ran = run_cli("doctor", *arguments, "--json", cwd=folder)
    assert "Traceback" not in ran.stderr, ran.stderr
    answer = json.loads(ran.stdout)
    assert answer["ok"] == (ran.returncode == 0)
    return ran.returncode, [Finding(row["topic"], Level(row["level"]), row["text"], row["cure"]) for row in answer["findings"]], ran.stderr


def test_the_command_without_settings(place):
    status, found, _ = doctor(place)
    assert status == 0 and "BAD" not in levels(found)
    assert str(place) in one(found, "work folder").text
    assert not list(place.iterdir())


def test_the_command_for_people(place):
    ran = run_cli("doctor", write(place, train={"command": "no_such_program_1"}), cwd=place)
    assert ran.returncode == 2
    assert "resource.json: train\n  BAD   no_such_program_1 is not found" in ran.stdout and "\n        cure: load the module" in ran.stdout
    assert ran.stdout.splitlines()[-1].endswith("1 BAD")


def test_jobs_of_every_section_run_and_leave_nothing(place):
    resource = write(place, train={"command": "pwact-like"}, DFT={"command": "ls", "env_list": ["export A=1"]})
    status, found, progress = doctor(place, resource, "--submit")
    assert status == 0, found
    for section in ("train", "DFT"):
        mine = [item for item in found if item.topic == f"resource.json: {section}, as a job"]
        assert one(mine, "a job ran on").level is Level.OK and one(mine, "files were seen here").level is Level.OK
    assert one([item for item in found if item.topic.endswith("as a job")], f"pwact-like {__version__} runs").level is Level.OK
    assert "submitted" in progress
    assert [path.name for path in place.iterdir()] == ["resource.json"]


def test_kept_files_and_a_job_without_resource_json(place):
    status, found, progress = doctor(place, "--submit", "--keep")
    assert status == 0 and one(found, "a job ran on").topic == "a job"
    kept = next((place / ".pwact_like" / "doctor").iterdir())
    assert str(kept) in progress and list((kept / "jobs").glob("*/job.sh"))


def test_a_job_whose_lines_are_wrong_there_is_told(place):
    line = '[ -z "$PWACT_LIKE_CORES" ] || { echo "ERROR: no such module" >&2; export PATH=/usr/bin:/bin; }'
    tool = place / "bin"
    tool.mkdir()
    (tool / "solver").write_text("#!/bin/sh\n")
    (tool / "solver").chmod(0o755)
    resource = write(place, DFT={"command": "solver", "env_list": [f"export PATH='{tool}':$PATH", line]})
    status, found, _ = doctor(place, resource, "--submit")
    mine = [item for item in found if item.topic.endswith("as a job")]
    assert status == 2 and one(mine, "solver is not found on").level is Level.BAD and one(mine, "no such module").level is Level.BAD
    assert (place / ".pwact_like" / "doctor").is_dir()  # kept, since something was wrong


def test_a_job_that_hangs_is_given_up_and_ended(place):
    resource = write(
        place, DFT={"command": "ls", "env_list": [f'[ -z "$PWACT_LIKE_CORES" ] || {{ touch {str(place / "began")!r}; sleep 300; }}']}
    )
    status, found, _ = doctor(place, resource, "--submit", "--timeout", "2")
    assert status == 2 and one(found, "has not ended after").level is Level.BAD
    assert (place / "began").exists() and not sleepers(place)


def sleepers(place: Path) -> list[str]:
    """Command lines of what the trial's jobs in this folder may have left."""
    found, mark = [], os.fsencode(place / ".pwact_like" / "doctor")
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and mark in (entry / "environ").read_bytes() and b"sleep" in (entry / "cmdline").read_bytes():
                found.append((entry / "cmdline").read_text())
        except OSError:
            continue
    return found


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_jobs_and_tidies_up(place, signum):
    line = f'[ -z "$PWACT_LIKE_CORES" ] || {{ touch {str(place / "began")!r}; sleep 300; }}'
    resource = write(place, DFT={"command": "ls", "env_list": [line]})
    command = [sys.executable, "-P", "-m", "pwact_like", "doctor", str(resource), "--submit"]
    with subprocess.Popen(
        command, cwd=place, env=clean_environment(), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    ) as process:
        wait_until((place / "began").exists, 60)
        process.send_signal(signum)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 128 + signum and "Traceback" not in err
    assert not (place / ".pwact_like").exists() and not sleepers(place)


def test_settings_that_are_wrong_are_all_told_and_the_rest_goes_on(place):
    resource = write(place, train={"command": "ls", "group_sizes": 3}, DFT={"cpu_per_node": "many"})
    status, found, _ = doctor(place, resource, "--submit")
    assert status == 2 and one(found, "group_sizes").topic == "settings" and one(found, "cpu_per_node")
    assert one(found, "these work") and one(found, "nothing was submitted").level is Level.BAD
    (place / "broken.json").write_text("{")
    assert doctor(place, place / "broken.json")[0] == 2 and doctor(place, place / "none.json")[0] == 2


def test_a_param_file_tells_the_engines_and_the_folder(place):
    example = ROOT / "examples" / "cu_emt"
    files = [next(example.glob("resource*.json")), example / "init_param.json"]
    for order in (files, files[::-1]):
        given = read_given(*order, work_dir=example)
        assert one(given.findings, "they load").level is Level.OK
        assert one(given.findings, "labeler").level is Level.OK
        assert given.work_dir == example and given.sections
    (place / "p.json").write_text(json.dumps({"train": {}, "strategy": {"nonsense": 1}, "work_dir": str(place)}))
    given = read_given(write(place, train={}), place / "p.json", None)
    assert "BAD" in levels(given.findings) and given.work_dir == place and "train" in given.sections
    assert one(read_given(place / "p.json", None, None).findings, "looks like a param file").level is Level.WARN


def test_a_refused_timeout():
    for text in ("0", "-1", "nan", "inf", "x"):
        assert run_cli("doctor", "--timeout", text).returncode == 2


def test_sbatch_without_an_answer_is_bad_only_when_slurm_is_meant(place, tmp_path, monkeypatch):
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("sbatch", "squeue", "scancel", "scontrol", "sacct", "sinfo"):
        (tools / name).write_text(f"#!/bin/sh\necho '{name}: error: Unable to contact slurm controller' >&2; exit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    status, found, _ = doctor(place)
    assert status == 0 and one(found, "the controller does not answer").level is Level.WARN
    for scheduler, level in (("slurm", Level.BAD), ("auto", Level.BAD)):
        status, found, _ = doctor(place, write(place, scheduler=scheduler, train={"command": "ls"}), "--submit")
        assert status == 2 and one([item for item in found if item.topic == "slurm"], "the controller does not answer").level is level
        assert one(found, "nothing was submitted").level is Level.BAD
    status, found, _ = doctor(place, write(place, train={"command": "ls"}))
    assert status == 0 and not [item for item in found if item.topic == "slurm"]


def test_no_slurm_where_slurm_is_demanded(place, monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    found = list(item for item in examine.examine(examine.Wanted(write(place, scheduler="slurm"))) if isinstance(item, Finding))
    assert one(found, "sbatch is not on PATH").level is Level.BAD


def test_stopping_is_not_swallowed(place, monkeypatch):
    def stop(self):
        raise StopRequested(2)

    monkeypatch.setattr(examine.Trials, "run", stop)
    with pytest.raises(StopRequested):
        list(examine.examine(examine.Wanted(write(place), submit=True, work_dir=place)))

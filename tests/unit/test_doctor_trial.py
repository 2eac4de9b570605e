"""The doctor's trial jobs with a scheduler that does what the test says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from doctor_support import one

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.errors import SchedulerError
from pwact_like.jobs.signals import StopFlag
from pwact_like.jobs.types import Answer, EndCause, JobView, NoAnswer, Pace, Refused, Submitted, SubmitUnknown
from pwact_like.report.doctor import trial
from pwact_like.report.doctor.findings import Finding, Level


class Played:
    """Answers as it is told; remembers what was cancelled."""

    name = "slurm"
    pace = Pace(poll_s=(0.01, 0.02), grace_s=0.0)

    def __init__(self, submit, *views) -> None:
        self.reply, self.views, self.cancelled, self.names, self.cannot_cancel = submit, list(views), {}, [], False

    def header(self, request):
        return ()

    def submit(self, script, name):
        self.names.append(name)
        return self.reply

    def query(self, ids):
        view = self.views.pop(0) if len(self.views) > 1 else self.views[0]
        return view if isinstance(view, NoAnswer) else Answer({number: view for number in ids if view is not None})

    def find(self, name):
        return Answer({"7": JobView("7", name, alive=True)})

    def cancel(self, jobs):
        if self.cannot_cancel:
            raise SchedulerError("no answer")
        self.cancelled |= dict(jobs)


WAITS = JobView("7", "n", alive=True, said="PENDING", reason="Priority")
RUNS = JobView("7", "n", alive=True, running=True, said="RUNNING", node="n1")
FAILED = JobView("7", "n", alive=False, cause=EndCause.FAILED, said="FAILED", reason="FAILED, NonZeroExitCode", node="n1")


@pytest.fixture
def play(tmp_path, monkeypatch):
    """Run a trial of one section with a scheduler that is played: (findings, progress, scheduler)."""
    monkeypatch.setattr(trial, "_POLL_S", {"slurm": (0.01, 0.05)})

    def run(scheduler: Played, timeout_s: float = 0.3) -> tuple[list[Finding], list[str]]:
        monkeypatch.setattr(trial, "open_scheduler", lambda *_: scheduler)
        sections = {"t": ("train", ResourceSection(command="ls"))}
        stop = StopFlag()
        items = list(trial.Trials(tmp_path, Resource(), "slurm", sections, timeout_s, False, stop).run())
        stop.close()
        return [item for item in items if isinstance(item, Finding)], [item for item in items if isinstance(item, str)]

    return run


def kept(folder: Path) -> bool:
    return (folder / ".pwact_like" / "doctor").exists()


def test_a_job_of_which_no_file_is_seen(play, tmp_path):
    """Its node does not share the work folder."""
    scheduler = Played(Submitted("7"), WAITS, RUNS, FAILED)
    found, progress = play(scheduler, timeout_s=10.0)
    told = one(found, "without its exit marker: failed")
    assert told.level is Level.BAD and "nothing of it was seen" in told.text and "on n1" in told.text and "share" in told.cure
    assert [line.split(" (")[0] for line in progress[:3]] == ["t: submitted, job 7", "t: PENDING", "t: RUNNING on n1"]
    assert not scheduler.cancelled and kept(tmp_path)


def test_a_job_that_only_waits_teaches_nothing(play):
    scheduler = Played(Submitted("7"), WAITS)
    found, _ = play(scheduler)
    told = one(found, "still waits")
    assert told.level is Level.WARN and "(Priority)" in told.text and list(scheduler.cancelled) == ["7"]


def test_a_job_that_is_stuck_is_given_up_soon(play, monkeypatch):
    monkeypatch.setattr(trial, "STUCK_S", 0.1)
    scheduler = Played(Submitted("7"), replace(WAITS, reason="PartitionTimeLimit", stuck=True))
    found, _ = play(scheduler, timeout_s=60.0)
    assert one(found, "will not come by itself: PartitionTimeLimit").level is Level.BAD and list(scheduler.cancelled) == ["7"]


def test_a_node_that_has_just_come_back_is_waited_for(play, monkeypatch):
    """Slurm 22.05 says ReqNodeNotAvail of it for some seconds: the doctor took that for the end."""
    monkeypatch.setattr(trial, "STUCK_S", 0.0)
    scheduler = Played(Submitted("7"), replace(WAITS, reason="ReqNodeNotAvail, UnavailableNodes:n3", stuck=True))
    found, _ = play(scheduler)
    assert one(found, "still waits").level is Level.WARN


def test_silence_is_told_and_is_no_end(play):
    scheduler = Played(Submitted("7"), NoAnswer("Unable to contact slurm controller"), RUNS)
    found, progress = play(scheduler)
    assert any("does not answer: Unable to contact" in line for line in progress)
    assert one(found, "has not ended").level is Level.BAD and list(scheduler.cancelled) == ["7"]


def test_an_unclear_submission_is_looked_for_by_name_and_ended(play):
    scheduler = Played(SubmitUnknown("sbatch did not answer in time"), RUNS)
    play(scheduler)
    assert scheduler.cancelled == {"7": scheduler.names[0]}


@pytest.mark.parametrize(("wait", "level"), [(True, Level.WARN), (False, Level.BAD)])
def test_a_refusal_is_told(play, wait, level):
    scheduler = Played(Refused("AssocMaxSubmitJobLimit", wait=wait), WAITS)
    found, _ = play(scheduler)
    assert one(found, "AssocMaxSubmitJobLimit").level is level and not scheduler.cancelled


def test_jobs_that_cannot_be_ended_are_named(play, tmp_path):
    scheduler = Played(Submitted("7"), RUNS)
    scheduler.cannot_cancel = True
    found, _ = play(scheduler)
    assert one(found, "scancel 7").level is Level.BAD and kept(tmp_path)


def test_lines_that_bash_cannot_parse_are_never_submitted(tmp_path, monkeypatch):
    scheduler = Played(Submitted("7"), WAITS)
    monkeypatch.setattr(trial, "open_scheduler", lambda *_: scheduler)
    sections = {"t": ("train", ResourceSection(command="ls", env_list=("if true",)))}
    items = list(trial.Trials(tmp_path, Resource(), "slurm", sections, 1.0, False, StopFlag()).run())
    assert one([item for item in items if isinstance(item, Finding)], "cannot parse").level is Level.BAD and not scheduler.names


def test_short_jobs_start_sooner():
    for settings, time_s in (({}, 600), ({"time": "5"}, 300), ({"time": "1-0"}, 600), ({"custom_flags": ["-t 0:02:00"]}, 120)):
        assert trial._asks(ResourceSection(**settings)).time_s == time_s

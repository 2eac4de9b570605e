"""The local scheduler: its queue, what survives, and what is never doubled."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from jobs_support import NASTY, executions, exit_of, make_task, wait_until

from pwact_like.config.resource import ResourceSection
from pwact_like.crashpoints import KILL_AT_VARIABLE
from pwact_like.jobs import group
from pwact_like.jobs.local import LocalScheduler, machine_gpus
from pwact_like.jobs.process import all_processes
from pwact_like.jobs.script import TEMPLATES, Work, attempt_folder, render_job
from pwact_like.jobs.types import Answer, EndCause, Refused, Submitted

WAIT = "while [ ! -e ../../../go ]; do sleep 0.02; done; touch out"


@pytest.fixture
def jobs(tmp_path):
    return tmp_path / "jobs"


@pytest.fixture
def start(jobs):
    """Make schedulers that leave nothing behind."""
    made = []

    def build(cores=2, gpus=()):
        made.append(LocalScheduler(jobs, cores=cores, gpus=gpus))
        return made[-1]

    yield build
    if made:
        last = LocalScheduler(jobs, cores=1, gpus=())
        last.cancel(last.live())


def submit(scheduler, jobs, task, name="", **section):
    name = name or f"pwl-local-{task.folder.name}-1"
    text = render_job(name, jobs / name, [Work(task, 1)], ResourceSection(**section))
    group.write_script(jobs / name / "job.sh", text)
    return scheduler.submit(jobs / name / "job.sh", name)


def view(scheduler, name):
    answer = scheduler.query([name])
    assert isinstance(answer, Answer)
    return answer.jobs[name]


def states(scheduler, names):
    return [("running" if view(scheduler, name).running else "queued") if view(scheduler, name).alive else "ended" for name in names]


def session_of(jobs, name) -> int:
    wait_until((jobs / name / "process").exists)
    return int((jobs / name / "process").read_text().split()[0])


def test_jobs_wait_for_cores_in_their_order(tmp_path, jobs, start):
    scheduler = start(cores=2)
    names = []
    for index, cores in enumerate((1, 2, 1)):
        reply = submit(scheduler, jobs, make_task(tmp_path / f"t{index}", WAIT), cpu_per_node=cores)
        assert isinstance(reply, Submitted)
        names.append(reply.id)
    wait_until(lambda: states(scheduler, names)[0] == "running")
    time.sleep(0.1)
    assert states(scheduler, names) == ["running", "queued", "queued"], "the third would fit, but does not overtake"
    (tmp_path / "go").touch()
    wait_until(lambda: states(scheduler, names) == ["ended"] * 3)
    assert [view(scheduler, name).cause for name in names] == [EndCause.COMPLETED] * 3


def test_more_cores_than_there_are_is_clipped_with_a_note(tmp_path, jobs, start, caplog):
    caplog.set_level("INFO")
    scheduler = start(cores=2)
    task = make_task(tmp_path / "t", "echo $SLURM_NPROCS $SLURM_NTASKS $OMP_NUM_THREADS > out", "true pwact-like")
    os.environ.pop("OMP_NUM_THREADS", None)
    submit(scheduler, jobs, task, cpu_per_node=64, gpu_per_node=1)
    wait_until(lambda: states(scheduler, ["pwl-local-t-1"]) == ["ended"])
    assert (attempt_folder(task, 1) / "out").read_text() == "2 2 2\n"
    assert "asked for 64 cores, this machine gives 2; asked for 1 GPUs, this machine has 0" in caplog.text


def test_gpus_are_shared_out_among_jobs(tmp_path, jobs, start):
    scheduler = start(cores=8, gpus=("0", "3"))
    tasks = [make_task(tmp_path / f"t{index}", "echo $CUDA_VISIBLE_DEVICES > out", WAIT) for index in range(3)]
    names = [submit(scheduler, jobs, task, gpu_per_node=1).id for task in tasks]
    wait_until(lambda: states(scheduler, names) == ["running", "running", "queued"])
    wait_until(lambda: all((attempt_folder(task, 1) / "out").exists() for task in tasks[:2]))
    second = LocalScheduler(jobs, cores=8, gpus=("0", "3"))
    assert states(second, names) == ["running", "running", "queued"], "a new master knows which are taken"
    (tmp_path / "go").touch()
    wait_until(lambda: states(second, names) == ["ended"] * 3)
    seen = [(attempt_folder(task, 1) / "out").read_text().strip() for task in tasks]
    assert set(seen[:2]) == {"0", "3"} and seen[2] in {"0", "3"}


def test_gpus_of_the_machine(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1,GPU-5e,")
    assert machine_gpus() == ["1", "GPU-5e"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert machine_gpus() == []


@pytest.mark.parametrize("name", [NASTY[2], NASTY[4], NASTY[5]])
def test_a_campaigns_folder_of_any_kind(tmp_path, name):
    jobs = tmp_path / name / "jobs"
    scheduler = LocalScheduler(jobs, cores=1, gpus=())
    task = make_task(tmp_path / name / "t", "touch out")
    assert isinstance(submit(scheduler, jobs, task), Submitted)
    wait_until(lambda: states(scheduler, ["pwl-local-t-1"]) == ["ended"])
    assert exit_of(task) == "0"


def test_a_second_submission_under_one_name_is_refused(tmp_path, jobs, start):
    scheduler = start()
    task = make_task(tmp_path / "t", "touch out")
    submit(scheduler, jobs, task)
    assert isinstance(submit(scheduler, jobs, task), Refused)
    assert isinstance(scheduler.submit(tmp_path / "elsewhere.sh", "x"), Refused)


def test_two_starters_of_one_job_run_it_once(tmp_path, jobs):
    """A master killed between starting a job and seeing its record: the next one starts it again."""
    task = make_task(tmp_path / "t", "sleep 0.1; touch out")
    name = "pwl-local-t-1"
    group.write_script(jobs / name / "job.sh", render_job(name, jobs / name, [Work(task, 1)], ResourceSection()))
    starters = [subprocess.Popen(["bash", TEMPLATES / "local_start.sh", jobs / name, "host"], start_new_session=True) for _ in range(6)]
    assert sorted(starter.wait(30) for starter in starters) == [0] * 6
    assert len(executions(task)) == 1 and exit_of(task) == "0"
    pids = {str(starter.pid) for starter in starters}
    assert (jobs / name / "process").read_text().split()[0] in pids
    assert not list((jobs / name).glob(".process*"))


def test_the_record_names_the_job_itself(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    pid = session_of(jobs, "pwl-local-t-1")
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    recorded = (jobs / "pwl-local-t-1" / "process").read_text().splitlines()
    assert recorded[1] == fields[19] and recorded[2] == Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert int(fields[3]) == pid, "a session of its own"
    # the recorded process becomes the job
    wait_until(lambda: b"job.sh" in Path(f"/proc/{pid}/cmdline").read_bytes())


MASTER = """
import os, sys, time
from pathlib import Path
from pwact_like.jobs.local import LocalScheduler
scheduler = LocalScheduler(Path(sys.argv[1]), cores=1, gpus=())
for script in sys.argv[2:]:
    scheduler.submit(Path(script), Path(script).parent.name)
print("submitted", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("signum", [signal.SIGKILL, signal.SIGINT, signal.SIGHUP])
def test_jobs_survive_the_master_and_the_queue_waits_for_the_next(tmp_path, jobs, start, signum):
    tasks = [make_task(tmp_path / name, WAIT) for name in ("a", "b")]
    scripts = []
    for task in tasks:
        name = f"pwl-local-{task.folder.name}-1"
        text = render_job(name, jobs / name, [Work(task, 1)], ResourceSection())
        group.write_script(jobs / name / "job.sh", text)
        scripts.append(str(jobs / name / "job.sh"))
    # in a group of its own, as a terminal's foreground job: the signal goes to the group, like Ctrl-C
    master = subprocess.Popen([sys.executable, "-c", MASTER, str(jobs), *scripts], stdout=subprocess.PIPE, text=True, process_group=0)
    assert master.stdout is not None and master.stdout.readline() == "submitted\n"
    session_of(jobs, "pwl-local-a-1")
    os.killpg(master.pid, signum)
    assert master.wait(10) != 0
    names = ["pwl-local-a-1", "pwl-local-b-1"]
    scheduler = start(cores=1)
    assert states(scheduler, names) == ["running", "queued"]
    time.sleep(0.1)
    assert not (jobs / names[1] / "process").exists()
    answer = scheduler.find(names[0])
    assert isinstance(answer, Answer) and answer.jobs[names[0]].running
    (tmp_path / "go").touch()
    wait_until(lambda: states(scheduler, names) == ["ended", "ended"])
    assert [len(executions(task)) for task in tasks] == [1, 1]


def test_the_marker_outranks_the_process(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    session_of(jobs, "pwl-local-t-1")
    (jobs / "pwl-local-t-1" / "exit").write_text("0\n")
    assert view(scheduler, "pwl-local-t-1").cause is EndCause.COMPLETED
    (jobs / "pwl-local-t-1" / "exit").unlink()
    (tmp_path / "go").touch()


def test_a_job_killed_without_a_word_is_lost(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    pid = session_of(jobs, "pwl-local-t-1")
    wait_until(lambda: view(scheduler, "pwl-local-t-1").running)
    os.killpg(pid, signal.SIGKILL)
    wait_until(lambda: not view(scheduler, "pwl-local-t-1").alive)
    seen = view(scheduler, "pwl-local-t-1")
    assert seen.cause is EndCause.LOST and str(pid) in seen.reason


def test_a_job_whose_shell_alone_was_killed_lives_as_long_as_its_tasks(tmp_path, jobs, start):
    scheduler = start()
    task = make_task(tmp_path / "t", WAIT)
    submit(scheduler, jobs, task)
    pid = session_of(jobs, "pwl-local-t-1")
    wait_until(lambda: (attempt_folder(task, 1) / "claim").exists())
    os.kill(pid, signal.SIGKILL)
    time.sleep(0.1)
    seen = view(scheduler, "pwl-local-t-1")
    assert seen.alive and "shell is gone" in seen.reason
    (tmp_path / "go").touch()
    wait_until(lambda: not view(scheduler, "pwl-local-t-1").alive)
    assert exit_of(task) == "0"


@pytest.mark.parametrize(("line", "text", "cause"), [(1, "1", EndCause.LOST), (2, "another boot", EndCause.NODE_FAIL)])
def test_a_recycled_pid_is_not_the_job(tmp_path, jobs, start, line, text, cause):
    scheduler = start()
    with subprocess.Popen(["sleep", "60"]) as stranger:
        submit(scheduler, jobs, make_task(tmp_path / "t", "sleep 60"))
        pid = session_of(jobs, "pwl-local-t-1")
        scheduler.cancel(["pwl-local-t-1"])
        (jobs / "pwl-local-t-1" / "cancelled").unlink()
        record = (jobs / "pwl-local-t-1" / "process").read_text().splitlines()
        record[0] = str(stranger.pid)
        record[line] = text
        (jobs / "pwl-local-t-1" / "process").write_text("\n".join(record) + "\n")
        seen = view(scheduler, "pwl-local-t-1")
        assert not seen.alive and seen.cause is cause
        scheduler.cancel(["pwl-local-t-1"])
        assert stranger.poll() is None, "the stranger was not touched"
        assert not any(stat.session == pid for stat in all_processes())
        stranger.kill()


def test_a_job_of_another_machine_is_left_alone(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    pid = session_of(jobs, "pwl-local-t-1")
    record = jobs / "pwl-local-t-1" / "process"
    truth = record.read_text()
    record.write_text("\n".join([*truth.splitlines()[:2], "its boot", "node-7", *truth.splitlines()[4:]]) + "\n")
    seen = view(scheduler, "pwl-local-t-1")
    assert seen.alive and "node-7" in seen.reason
    scheduler.cancel(["pwl-local-t-1"])
    assert Path(f"/proc/{pid}").exists()
    record.write_text(truth)


def test_cancelling_a_queued_job_keeps_it_from_ever_starting(tmp_path, jobs, start):
    scheduler = start(cores=1)
    tasks = [make_task(tmp_path / name, WAIT) for name in ("a", "b")]
    names = [submit(scheduler, jobs, task).id for task in tasks]
    scheduler.cancel([names[1]])
    assert view(scheduler, names[1]).cause is EndCause.CANCELLED
    (tmp_path / "go").touch()
    wait_until(lambda: states(scheduler, names) == ["ended", "ended"])
    time.sleep(0.1)
    assert executions(tasks[1]) == [] and states(start(), names) == ["ended", "ended"]


def test_cancelling_ends_processes_that_ignore_sigterm_or_left_the_session(tmp_path, jobs, start):
    scheduler = start()
    ignore = "trap '' TERM; while true; do sleep 0.1; done"
    (tmp_path / "away.sh").write_text(f"echo $$ > ../../away; {ignore}")
    stubborn = f"setsid bash ../../../away.sh & {ignore}"
    task = make_task(tmp_path / "t", stubborn)
    submit(scheduler, jobs, task)
    away = task.folder / "away"
    wait_until(lambda: away.exists() and away.read_text().strip() != "")
    pid = session_of(jobs, "pwl-local-t-1")
    import pwact_like.jobs.local as local

    before, local.TERM_GRACE_S = local.TERM_GRACE_S, 0.3
    try:
        scheduler.cancel(["pwl-local-t-1"])
    finally:
        local.TERM_GRACE_S = before
    gone = [int(away.read_text()), pid]
    wait_until(lambda: not any(stat.pid in gone or stat.session == pid for stat in all_processes()))
    assert view(scheduler, "pwl-local-t-1").cause is EndCause.CANCELLED


def test_a_starter_that_died_is_started_again(tmp_path, jobs, start, monkeypatch):
    scheduler = start()
    monkeypatch.setattr("pwact_like.jobs.local._STARTER_LOST_S", 0.1)
    task = make_task(tmp_path / "t", "touch out")
    real = subprocess.Popen
    calls = []

    def first_dies(command, **options):
        calls.append(command)
        return real(["false"] if len(calls) == 1 else command, **options)

    monkeypatch.setattr("pwact_like.jobs.local.subprocess.Popen", first_dies)
    submit(scheduler, jobs, task)
    wait_until(lambda: states(scheduler, ["pwl-local-t-1"]) == ["ended"])
    assert len(calls) == 2 and exit_of(task) == "0"


def test_the_kill_points_of_the_master_do_not_reach_its_jobs(tmp_path, jobs, start, monkeypatch):
    monkeypatch.setenv(KILL_AT_VARIABLE, "cleaning")
    scheduler = start()
    task = make_task(tmp_path / "t", f"echo ${{{KILL_AT_VARIABLE}-none}} $PWACT_LIKE_JOB > out")
    submit(scheduler, jobs, task)
    wait_until(lambda: states(scheduler, ["pwl-local-t-1"]) == ["ended"])
    assert (attempt_folder(task, 1) / "out").read_text() == "none pwl-local-t-1\n"


def test_many_queued_jobs_cost_little_to_ask_for(tmp_path, jobs, start):
    """Asking must not look at the folder of every job that waits."""
    scheduler = start(cores=1)
    names = [submit(scheduler, jobs, make_task(tmp_path / "first", WAIT)).id]
    text = (jobs / names[0] / "job.sh").read_text()
    for index in range(50):
        name = f"pwl-many-{index}-1"
        group.write_script(jobs / name / "job.sh", text)
        scheduler.submit(jobs / name / "job.sh", name)
        names.append(name)
    calls = []
    original = LocalScheduler._look
    try:
        LocalScheduler._look = lambda self, name: (calls.append(name), original(self, name))[1]
        scheduler.query(names)
    finally:
        LocalScheduler._look = original
    assert set(calls) == {names[0]}


def test_a_queue_entry_that_a_power_cut_left_empty_is_no_job(tmp_path, jobs, start):
    scheduler = start(cores=1)
    names = [submit(scheduler, jobs, make_task(tmp_path / name, WAIT)).id for name in ("a", "b")]
    (jobs / names[1] / "queued").write_text("")
    answer = start(cores=1).query(names)
    assert isinstance(answer, Answer) and list(answer.jobs) == names[:1]


def test_a_copied_folder_does_not_touch_the_jobs_of_the_original(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    pid = session_of(jobs, "pwl-local-t-1")
    shutil.copytree(jobs, tmp_path / "copy")
    copy = LocalScheduler(tmp_path / "copy", cores=1, gpus=())
    seen = view(copy, "pwl-local-t-1")
    assert (seen.alive, seen.cause) == (False, EndCause.LOST) and "copy" in seen.reason
    copy.cancel(["pwl-local-t-1"])
    assert Path(f"/proc/{pid}").exists() and view(scheduler, "pwl-local-t-1").running


def test_the_same_folder_by_another_path_is_the_same(tmp_path, jobs, start):
    scheduler = start()
    submit(scheduler, jobs, make_task(tmp_path / "t", WAIT))
    session_of(jobs, "pwl-local-t-1")
    (tmp_path / "alias").symlink_to(jobs)
    other = LocalScheduler(tmp_path / "alias", cores=1, gpus=())
    assert view(other, "pwl-local-t-1").running
    other.cancel(["pwl-local-t-1"])
    assert view(scheduler, "pwl-local-t-1").cause is EndCause.CANCELLED

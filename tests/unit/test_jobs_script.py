"""Rendered scripts, run by a real bash and read by a real shellcheck."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from jobs_support import NASTY, executions, exit_of, make_task, run_script, wait_until
from support import require_program

from pwact_like.config.resource import Resource, ResourceSection
from pwact_like.errors import InputError
from pwact_like.jobs import group, slurm_header
from pwact_like.jobs.script import Work, attempt_folder, check_shell, read_needs, render_job, shell_lines
from pwact_like.jobs.types import JobRequest
from pwact_like.outcome import TaskFiles


def write_job(folder: Path, work, section=None, name="pwl-test-job-1", header=()) -> Path:
    script = folder / name / "job.sh"
    group.write_script(script, render_job(name, script.parent, work, section or ResourceSection(), header))
    return script


@pytest.fixture(autouse=True)
def _no_threads_from_outside(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)


@pytest.mark.parametrize("name", NASTY)
def test_folders_and_names_of_any_kind(tmp_path, name):
    folder = tmp_path / name / ("tâsk " + name)
    target = tmp_path / ("shared " + name)
    target.mkdir(parents=True)
    (target / "big").write_text("linked")
    task = make_task(
        folder,
        "cat < INPUT > out; cat link/big >> out",
        files=TaskFiles(inputs=("INPUT", f"sub/{name}"), links=(("link", str(target)),), outputs=("out",)),
    )
    (folder / "INPUT").write_text("copied ")
    (folder / "sub").mkdir()
    (folder / "sub" / name).write_text("deep")
    script = write_job(tmp_path / name / "jobs", [Work(task, 1, {"TOLD": f"by {name}"})])
    result = run_script(script)
    attempt = attempt_folder(task, 1)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
    assert (attempt / "out").read_text() == "copied linked"
    assert (attempt / "sub" / name).read_text() == "deep"
    assert exit_of(task) == "0" and (script.parent / "exit").read_text() == "0\n"
    assert [line[0] for line in executions(task)] == ["1"]


def test_a_name_that_is_not_utf8(tmp_path):
    folder = Path(os.fsdecode(bytes(tmp_path) + b"/bad\xffname"))
    task = make_task(folder, "echo yes > out", name="t")
    run_script(write_job(tmp_path / "jobs", [Work(task, 1)]))
    assert (attempt_folder(task, 1) / "out").read_text() == "yes\n"


def test_the_first_command_that_fails_ends_the_attempt(tmp_path):
    task = make_task(tmp_path / "t", "echo one", "echo broken >&2; (exit 7)", "echo never")
    result = run_script(write_job(tmp_path, [Work(task, 1)]))
    attempt = attempt_folder(task, 1)
    assert exit_of(task) == "7" and result.returncode == 1
    assert ((attempt / "stdout").read_text(), (attempt / "stderr").read_text()) == ("one\n", "broken\n")
    assert (tmp_path / "pwl-test-job-1" / "exit").read_text() == "1\n"


def test_exit_in_a_command_ends_its_task_only(tmp_path):
    tasks = [make_task(tmp_path / "a", "exit 5", "touch out"), make_task(tmp_path / "b", "touch out")]
    run_script(write_job(tmp_path, [Work(task, 1) for task in tasks]))
    assert [exit_of(task) for task in tasks] == ["5", "0"]


def test_what_is_ended_with_its_job_leaves_no_marker_whichever_process_ends_first(tmp_path):
    """A signal to a job reaches its processes one after the other: here the command some time before its shell."""
    task = make_task(tmp_path / "t", "touch here; kill -TERM $BASHPID; sleep 60")
    job = subprocess.Popen(["bash", str(write_job(tmp_path / "jobs", [Work(task, 1)]))], start_new_session=True)
    attempt = attempt_folder(task, 1)
    wait_until((attempt / "here").exists, 30)
    time.sleep(0.2)
    os.killpg(job.pid, signal.SIGTERM)
    assert job.wait(30) == -signal.SIGTERM
    time.sleep(1.2)
    assert not (attempt / "exit").exists()


def test_a_command_that_was_ended_alone_has_its_marker(tmp_path):
    task = make_task(tmp_path / "t", "kill -TERM $BASHPID; sleep 60")
    assert run_script(write_job(tmp_path / "jobs", [Work(task, 1)])).returncode == 1
    assert exit_of(task) == "143"


def test_a_missing_input_is_a_failure_with_words(tmp_path):
    task = make_task(tmp_path / "t", "touch out", files=TaskFiles(inputs=("INCAR",), outputs=("out",)))
    run_script(write_job(tmp_path, [Work(task, 1)]))
    assert exit_of(task) == "1"
    assert "INCAR" in (attempt_folder(task, 1) / "stderr").read_text()
    assert not (attempt_folder(task, 1) / "out").exists()


def test_commands_read_nothing_from_the_job(tmp_path):
    task = make_task(tmp_path / "t", "cat > out")
    run_script(write_job(tmp_path, [Work(task, 1)]))
    assert (attempt_folder(task, 1) / "out").read_text() == ""


def test_a_duplicate_start_of_the_job_ends_quietly(tmp_path):
    task = make_task(tmp_path / "t", "sleep 0.3; echo once >> ../../ran")
    script = write_job(tmp_path, [Work(task, 1)])
    results = []
    threads = [threading.Thread(target=lambda: results.append(run_script(script))) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [(result.returncode, result.stdout, result.stderr) for result in results] == [(0, "", "")] * 8
    assert (task.folder / "ran").read_text() == "once\n" and len(executions(task)) == 1


def test_the_same_attempt_in_two_jobs_runs_once(tmp_path):
    tasks = [make_task(tmp_path / f"t{i}", "sleep 0.05; touch out") for i in range(6)]
    work = [Work(task, 1) for task in tasks]
    section = ResourceSection(parallel_num=3)
    scripts = [write_job(tmp_path, work, section, "one"), write_job(tmp_path, work, section, "two")]
    children = [subprocess.Popen(["bash", script]) for script in scripts]
    for child in children:
        child.wait(60)
    assert [len(executions(task)) for task in tasks] == [1] * 6
    assert [exit_of(task) for task in tasks] == ["0"] * 6


def test_slots_are_not_waves(tmp_path):
    """Two slots, one long task first: while it runs, the other slot does all the rest."""
    long = make_task(tmp_path / "long", "while [ ! -e ../../../last/.attempt/1/exit ]; do sleep 0.02; done; touch out")
    short = [make_task(tmp_path / f"s{i}", "touch out") for i in range(4)]
    last = make_task(tmp_path / "last", "touch out")
    tasks = [long, *short, last]
    script = write_job(tmp_path, [Work(task, 1) for task in tasks], ResourceSection(parallel_num=2))
    subprocess.run(["bash", script], check=True, timeout=20)
    assert [exit_of(task) for task in tasks] == ["0"] * 6


def test_never_more_than_parallel_num_at_a_time(tmp_path):
    tasks = [
        make_task(tmp_path / f"t{i}", "mkdir ../../../live.$$; ls -d ../../../live.* | wc -l > out; sleep 0.05; rmdir ../../../live.*$$")
        for i in range(9)
    ]
    for task in tasks:
        # $$ is the job's pid in every slot: a name of its own for each task
        object.__setattr__(task, "commands", (task.commands[0].replace("$$", task.name),))
    run_script(write_job(tmp_path, [Work(task, 1) for task in tasks], ResourceSection(parallel_num=3)))
    seen = [int((attempt_folder(task, 1) / "out").read_text()) for task in tasks]
    assert max(seen) <= 3 and max(seen) >= 2


def test_inputs_that_were_changed_after_the_submission_are_not_run(tmp_path):
    """An input was edited, and a start refused it, but had written it: the job that waited would have run it under the old one's key."""
    files = TaskFiles(inputs=("INPUT", "sub/it's $HOME"), outputs=("out",))
    task = make_task(tmp_path / "t", "cat INPUT sub/* > out", files=files)
    (task.folder / "sub").mkdir()
    for name, text in zip(files.inputs, ("300 K", " and so on"), strict=True):
        (task.folder / name).write_text(text)
    first, second = (write_job(tmp_path / f"job {number}", [Work(task, number)]) for number in (1, 2))
    (task.folder / files.inputs[1]).write_text(" and more")
    run_script(first)
    assert (attempt_folder(task, 1) / "exit").read_text() == "65\n" and not (attempt_folder(task, 1) / "out").exists()
    assert "inputs were changed after it had been submitted" in (attempt_folder(task, 1) / "stderr").read_text()
    (task.folder / files.inputs[1]).write_text(" and so on")
    run_script(second)
    assert (attempt_folder(task, 2) / "out").read_text() == "300 K and so on"


def test_a_checkpoint_is_taken_over_from_the_newest_attempt_that_has_it(tmp_path):
    task = make_task(tmp_path / "t", "cat a b > out", files=TaskFiles(outputs=("out",), carry=("a", "b", "never")))
    for number, names in ((1, {"a": "old a ", "b": "b of 1"}), (2, {"a": "a of 2, "}), (3, {})):
        attempt_folder(task, number).mkdir(parents=True)
        for name, text in names.items():
            (attempt_folder(task, number) / name).write_text(text)
    run_script(write_job(tmp_path, [Work(task, 4)]))
    assert (attempt_folder(task, 4) / "out").read_text() == "a of 2, b of 1"
    assert (attempt_folder(task, 2) / "a").read_text() == "a of 2, ", "it stays where it was"


def test_variables_of_a_retry(tmp_path):
    task = make_task(tmp_path / "t", 'printf "%s|" "$MIXING" "$NOTE" > out')
    other = make_task(tmp_path / "u", 'printf "%s|" "${MIXING-none}" > out')
    run_script(write_job(tmp_path, [Work(task, 1, {"MIXING": "0.1", "NOTE": "it's $HOME\n`x`"}), Work(other, 1)]))
    assert (attempt_folder(task, 1) / "out").read_text() == "0.1|it's $HOME\n`x`|"
    assert (attempt_folder(other, 1) / "out").read_text() == "none|"
    with pytest.raises(InputError, match="not the name"):
        render_job("x", tmp_path, [Work(task, 1, {"A;rm": "1"})], ResourceSection())


@pytest.mark.parametrize(
    ("section", "environment", "command", "threads"),
    [
        ({"cpu_per_node": 8}, {}, "mpirun -np 8 vasp_std", "1"),
        ({"cpu_per_node": 8, "parallel_num": 2}, {}, "pwact-like train train.json", "4"),
        ({"cpu_per_node": 2, "parallel_num": 4}, {}, "pwact-like train train.json", "1"),
        ({"cpu_per_node": 8}, {"PWACT_LIKE_CORES": "3"}, "/opt/bin/pwact-like md", "3"),
        ({"cpu_per_node": 8}, {"SLURM_CPUS_ON_NODE": "6"}, "python -m pwact_like train", "6"),
        ({"cpu_per_node": 8}, {}, "./my-pwact-like-tool", "1"),
        ({"cpu_per_node": 8}, {"OMP_NUM_THREADS": "5"}, "pwact-like train", "5"),
        ({"cpu_per_node": 8, "env_list": ["export OMP_NUM_THREADS=7"]}, {"OMP_NUM_THREADS": "5"}, "mpirun vasp", "7"),
    ],
)
def test_threads(tmp_path, monkeypatch, section, environment, command, threads):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    task = make_task(tmp_path / "t", "echo $OMP_NUM_THREADS > out", f"true {command}")
    run_script(write_job(tmp_path, [Work(task, 1)], ResourceSection(**section)))
    assert (attempt_folder(task, 1) / "out").read_text().strip() == threads


@pytest.mark.parametrize(
    ("gpus", "slots", "visible", "dealt"),
    [
        (4, 2, None, {"0,1", "2,3"}),
        (2, 2, "5,7", {"5", "7"}),
        (2, 4, None, {"0", "1"}),
        (2, 1, "3,4", {"3,4"}),
        (2, 1, None, {""}),
        (2, 2, "", {""}),
        (0, 2, "1,2", {"1,2"}),
    ],
)
def test_gpus_are_dealt_to_slots(tmp_path, monkeypatch, gpus, slots, visible, dealt):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    tasks = [
        make_task(
            tmp_path / f"t{i}",
            f"echo $CUDA_VISIBLE_DEVICES > out; touch ../../../begun.{i}",
            f"while [ $(ls -d ../../../begun.* | wc -l) -lt {slots} ]; do sleep 0.01; done",
        )
        for i in range(slots)
    ]
    run_script(write_job(tmp_path, [Work(task, 1) for task in tasks], ResourceSection(gpu_per_node=gpus, parallel_num=slots)))
    assert {(attempt_folder(task, 1) / "out").read_text().strip() for task in tasks} == dealt


def test_source_module_env_in_this_order_and_verbatim(tmp_path):
    (tmp_path / "env one.sh").write_text('export A=source\nmodule() { echo "$1 $2 after $A" >> "$LOG"; }\n')
    section = ResourceSection(
        source_list=[f"'{tmp_path}/env one.sh'"],
        module_list=["intel/2020", "module load vasp"],
        env_list=['export B="$A:x"', f"LOG={tmp_path}/none"],
    )
    assert shell_lines(section)[0].startswith("source ") and shell_lines(section)[1:3] == ["module load intel/2020", "module load vasp"]
    task = make_task(tmp_path / "t", 'echo "$B" > out')
    script = write_job(tmp_path, [Work(task, 1)], section)
    subprocess.run(["bash", script], env={**os.environ, "LOG": str(tmp_path / "log")}, check=True)
    assert (tmp_path / "log").read_text() == "load intel/2020 after source\nload vasp after source\n"
    assert (attempt_folder(task, 1) / "out").read_text() == "source:x\n"


def test_shell_options_of_the_users_lines_do_not_end_the_job(tmp_path):
    section = ResourceSection(parallel_num=2, env_list=["set -eu", "set -o noclobber"])
    tasks = [make_task(tmp_path / f"t{i}", "false" if i == 0 else "touch out") for i in range(3)]
    run_script(write_job(tmp_path, [Work(task, 1) for task in tasks], section))
    assert [exit_of(task) for task in tasks] == ["1", "0", "0"]


def test_our_own_program_is_found_behind_the_users(tmp_path):
    mine = tmp_path / "bin"
    mine.mkdir()
    (mine / "python").write_text("#!/bin/sh\necho mine\n")
    (mine / "python").chmod(0o755)
    task = make_task(tmp_path / "t", "python > out", "command -v pwact-like >> out || true")
    section = ResourceSection(env_list=[f'export PATH="{mine}:$PATH"'])
    run_script(write_job(tmp_path, [Work(task, 1)], section))
    lines = (attempt_folder(task, 1) / "out").read_text().splitlines()
    assert lines[0] == "mine"
    if (Path(sys.executable).parent / "pwact-like").exists():
        assert len(lines) == 2


def test_lines_that_bash_cannot_parse_are_refused_all_at_once(tmp_path):
    task = make_task(tmp_path / "t", "echo 'open")
    with pytest.raises(InputError, match=r"(?s)echo 'open.*source_list"):
        check_shell([Work(task, 1)], ResourceSection(env_list=["if true; then"]))
    with pytest.raises(InputError, match="cannot parse"):
        check_shell([Work(make_task(tmp_path / "u", "echo \\"), 1)], ResourceSection())
    check_shell([Work(make_task(tmp_path / "v", "mpirun -np $SLURM_NPROCS x # a comment"), 1)], ResourceSection())


def test_what_a_job_needs_stands_in_its_script(tmp_path):
    task = make_task(tmp_path / "t", "true")
    script = write_job(tmp_path, [Work(task, 1)], ResourceSection(number_node=2, cpu_per_node=8, gpu_per_node=1))
    assert (read_needs(script).cores, read_needs(script).gpus) == (16, 1)
    (tmp_path / "by-hand.sh").write_text("#!/bin/bash\n")
    assert (read_needs(tmp_path / "by-hand.sh").cores, read_needs(tmp_path / "by-hand.sh").gpus) == (1, 0)


def test_a_header_stands_right_after_the_first_line(tmp_path):
    task = make_task(tmp_path / "t", "true")
    text = write_job(tmp_path, [Work(task, 1)], header=("#SBATCH --no-requeue", "#SBATCH -N 1")).read_text()
    assert text.splitlines()[:3] == ["#!/bin/bash", "#SBATCH --no-requeue", "#SBATCH -N 1"]


def test_groups_and_names(tmp_path):
    tasks = [make_task(tmp_path / f"t{i}", "true", section="train" if i < 5 else "DFT") for i in range(8)]
    work = [Work(task, 1) for task in tasks]
    resource = Resource(train=ResourceSection(group_size=2), dft=ResourceSection(group_size=-1))
    shared = group.groups(work, resource)
    assert [[item.task.name for item in items] for items in shared] == [["t0", "t1"], ["t2", "t3"], ["t4"], ["t5", "t6", "t7"]]
    names = [group.job_name("Ünder score/2", items) for items in shared]
    assert len(set(names)) == 4 and all(re.fullmatch(r"pwl-[A-Za-z0-9._-]+-[0-9a-f]{12}-1", name) for name in names)
    assert group.job_name("c", [Work(tasks[0], 3)]) != group.job_name("c", [Work(tasks[0], 2)])
    assert len(group.groups(work, Resource())) == 8, "sections that are left out run with one core, a task a job"


def test_every_kind_of_script_is_clean(tmp_path):
    shellcheck = require_program("shellcheck", "apt-get install shellcheck")
    scripts = []
    for number, (slots, gpus, attempt) in enumerate(((1, 0, 1), (4, 0, 2), (4, 2, 1), (1, 2, 3))):
        section = ResourceSection(
            parallel_num=slots, gpu_per_node=gpus, cpu_per_node=4, source_list=["/opt/intel/setvars.sh"] * (number % 2),
            module_list=["cuda"] * (number // 2), env_list=["export PATH=/opt/vasp/bin:$PATH", "cd $HOME; a=`ls`"] * (number > 0),
        )  # fmt: skip
        for kind, files in enumerate(
            (TaskFiles(), TaskFiles(inputs=("a b", "c/d"), links=(("x", "/y z"),), carry=("ck",)), TaskFiles(carry=("it's", "ck")))
        ):
            tasks = [
                make_task(tmp_path / f"{number}{kind}" / name, command, files=files, name=f"{number} {kind} {name}")
                for name, command in zip(
                    NASTY,
                    ["mpirun -np $SLURM_NPROCS vasp_std", "pwact-like train train.json", "for i in $(ls); do echo $i; done"] * 4,
                    strict=False,
                )
            ]
            work = [Work(task, attempt, {"A": "it's"} if attempt > 1 else {}) for task in tasks]
            name = f"job '{number}' {kind}"
            header = slurm_header.header(JobRequest("pwl-a-1", section)) if number % 2 else ()
            scripts.append(write_job(tmp_path / "jobs", work[: kind * 4 + 1], section, name, header=header))
    result = subprocess.run([shellcheck, "--severity=style", *scripts], capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout
    start = Path(group.__file__).parents[1] / "templates" / "local_start.sh"
    assert subprocess.run([shellcheck, start]).returncode == 0

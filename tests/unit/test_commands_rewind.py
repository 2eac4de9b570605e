"""`rewind`: back to an earlier stage, its results moved aside, the journal without them, and the same end afterwards."""

from __future__ import annotations

import io
import json
import shutil
import sys

import micro
import pytest
from jobs_support import always_ok, campaign, make_task, wait_until

from pwact_like.cli.main import main
from pwact_like.errors import InputError, SchedulerError
from pwact_like.fsio import write_json, write_manifest, write_text
from pwact_like.jobs.journal import Journal
from pwact_like.jobs.local import LocalScheduler
from pwact_like.jobs.lock import MasterLock
from pwact_like.jobs.types import Answer, JobView, NoAnswer, Pace
from pwact_like.workflows import jobs_at_rest, rewind
from pwact_like.workflows.rewind import read_target
from pwact_like.workflows.rewind_plan import PLAN_NAME, refuse_half_rewound
from pwact_like.workflows.session import ANOTHER_ROUND

TRAIN = {"models": ["train.000/model.pt"], "energy_rmse_ev_per_atom": 0.1, "force_rmse_ev_per_ang": 0.2}
COUNTS = {"frames_planned": 11, "frames": 11, "accurate": 7, "candidate": 3, "failed": 1, "selected": 3}
TASKS = {"train": "00.train/train.000", "explore": "01.explore/md/m/l", "label": "02.label/scf/m/l/4-scf"}


def task_of(folder, iteration, stage, *commands):
    name = f"iter.{iteration:04d}/{TASKS[stage]}"
    return make_task(folder / name, *(commands or ("touch out",)), name=name)


def finish(folder, iteration, stages=("train", "explore", "select", "label")):
    """Products of an iteration, without a program that made them."""
    here = folder / f"iter.{iteration:04d}"
    if "train" in stages:
        write_manifest(here / "00.train", "models", facts=TRAIN)
    if "explore" in stages:
        write_manifest(here / "01.explore/md", "trajectories", facts={"entry": iteration, "trajectories": [{}], "frames_planned": 11})
    if "select" in stages:
        write_manifest(here / "01.explore/select", "selection", facts=COUNTS)
    if "label" in stages:
        write_text(here / "02.label/result/frame_hashes.txt", f"{iteration + 1:064x}\n")
        write_manifest(here / "02.label/result", "labels", facts={"labelled": 3, "rejected": 0})


@pytest.fixture
def begun(tmp_path):
    """A campaign in its second iteration: exploration finished, labels not yet; nothing was cut down."""
    write_text(tmp_path / "dataset/frame_hashes.txt", f"{99:064x}\n")
    write_manifest(tmp_path / "dataset", "dataset")
    tasks = [task_of(tmp_path, iteration, stage) for iteration in (0, 1) for stage in TASKS]
    with campaign(tmp_path) as started:
        started.dispatcher.run(tasks[:-1], always_ok)
        with started.journal.transaction() as writer:
            writer.set_meta("scheduler", "local")
            writer.set_meta(ANOTHER_ROUND, json.dumps([tasks[1].name, tasks[4].name]))
        started.dispatcher.begin(tasks[-1:], always_ok)  # planned, and never submitted
    finish(tmp_path, 0)
    finish(tmp_path, 1, ("train", "explore", "select"))
    write_text(tmp_path / "al.record", "0 0\n0 1\n0 2\n1 0\n1 1\n")
    write_text(tmp_path / "iter_select.txt", "iter.0000  old\niter.0001  old\n")
    write_json(tmp_path / ".pwact_like/run/status.json", {"campaign": "cu", "notes": ["a note"], "state": "finished", "heartbeat": 1.0})
    return tmp_path


def back(folder, to, *options):
    return main(["rewind", "--to", to, "--work-dir", str(folder), *options])


def everything(folder, below=""):
    return {str(path.relative_to(folder / below)) for path in (folder / below).rglob("*") if path.is_file()}


def journal_of(folder):
    state_dir = folder / ".pwact_like" / "run"
    lock = MasterLock(state_dir)
    lock.acquire()
    with Journal(state_dir / "journal.sqlite", lock) as journal:
        found = sorted(journal.tasks()), journal.jobs(live_only=True), journal.meta("generation"), json.loads(journal.meta(ANOTHER_ROUND))
    lock.release()
    return found


@pytest.mark.parametrize(
    ("to", "kept_tasks", "record", "moved"),
    [
        ("1:label", 5, "0 0\n0 1\n0 2\n1 0\n1 1\n", {"iter.0001/02.label"}),
        ("1:select", 5, "0 0\n0 1\n0 2\n1 0\n", {"iter.0001/02.label", "iter.0001/01.explore/select"}),
        ("1:explore", 4, "0 0\n0 1\n0 2\n1 0\n", {"iter.0001/02.label", "iter.0001/01.explore"}),
        ("1", 3, "0 0\n0 1\n0 2\n", {"iter.0001"}),
        ("0:label", 2, "0 0\n0 1\n", {"iter.0001", "iter.0000/02.label"}),
        ("0:train", 0, "", {"iter.0001", "iter.0000"}),
    ],
)
def test_what_is_moved_and_what_stays(to, kept_tasks, record, moved, begun, capsys):
    write_text(begun / "iter.0000.old/notes", "the user's own")
    before = everything(begun)
    assert back(begun, to, "--yes") == 0
    printed = capsys.readouterr().out
    (aside,) = (begun / "rewound").iterdir()
    assert all(f"  {path} " in printed for path in moved) and str(aside) in printed
    # nothing is deleted: each file is where it was, or at the same path aside
    went = {path for path in before if any(path.startswith(f"{one}/") for one in moved)}
    assert everything(aside.parent, aside.name) == went | {"al.record", "iter_select.txt"}
    assert everything(begun) >= before - went and not everything(begun) & went
    assert (begun / "al.record").read_text() == record and (aside / "al.record").read_text().endswith("1 1\n")
    assert (begun / "iter_select.txt").read_text().count("\n") == record.count(" 1\n")
    names, live, generation, promised = journal_of(begun)
    assert len(names) == kept_tasks and not live and int(generation) >= 1
    assert promised == [name for name in promised if name in names] and len(promised) == (kept_tasks > 1) + (kept_tasks > 4)
    assert not (begun / ".pwact_like/run" / PLAN_NAME).exists()


def test_status_shows_what_is_left(begun, capsys):
    assert back(begun, "0:label", "--yes") == 0
    capsys.readouterr()
    assert main(["status", "--json", "--work-dir", str(begun)]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["state"] == "stopped" and "rewound to 0:label" in shown["reason"] and shown["notes"] == ["a note"]
    assert [(row["index"], row["stage"], row["labelled"]) for row in shown["iterations"]] == [(0, "label", None)]
    assert shown["dataset"]["frames"] == 1 and shown["models"] == [str(begun / "iter.0000/00.train/train.000/model.pt")]


# ---- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("to", "words"),
    [
        ("2:train", "not begun yet"),
        ("2:train", "has come to 1:label"),
        ("1:lable", "did you mean 1:label"),
        ("1:", "no stage"),
        ("first", "not the number of an iteration"),
        ("-1:train", "not the number of an iteration"),
        ("scf", "temp_init_bulk_work"),
        ("0:relax", "rewind is for run"),
    ],
)
def test_a_wrong_target_moves_nothing(to, words, begun, capsys):
    before = everything(begun)
    assert main(["rewind", f"--to={to}", "--work-dir", str(begun), "--yes"]) == 2
    assert words in capsys.readouterr().err
    assert everything(begun) >= before and not (begun / "rewound").exists()


def test_a_target_in_other_words():
    assert str(read_target("2")) == "2:train" and str(read_target(" 0010:Explore ")) == "10:explore"
    assert str(read_target("iter.0003:label")) == "3:label"


def test_a_selection_is_not_made_anew_from_what_is_left_of_the_trajectories(begun, capsys):
    write_json(begun / "iter.0001/01.explore/md/thinned.json", {})
    assert back(begun, "1:select", "--yes") == 2
    assert "give --to 1:explore" in capsys.readouterr().err
    assert back(begun, "1:label", "--yes") == 0


def test_init_bulk_has_no_rewind(tmp_path, capsys):
    (tmp_path / ".pwact_like/init_bulk").mkdir(parents=True)
    assert back(tmp_path, "0:train", "--yes") == 2
    assert "rewind is for run" in (said := capsys.readouterr().err) and "temp_init_bulk_work/STAGE" in said
    assert back(tmp_path / "elsewhere", "0:train", "--yes") == 2
    assert "no run was ever started here" in capsys.readouterr().err


def test_pwacts_iterations_are_not_moved(begun, capsys):
    shutil.rmtree(begun / "dataset")
    assert back(begun, "0:label", "--yes") == 2
    assert "another campaign" in capsys.readouterr().err and (begun / "iter.0000/02.label").is_dir()


def test_a_running_master_is_ended_first(begun, capsys):
    with MasterLock(begun / ".pwact_like" / "run"):
        assert back(begun, "0:label", "--yes") == 4
    assert "Ctrl-C or SIGTERM" in capsys.readouterr().err and (begun / "iter.0000/02.label").is_dir()


def test_without_a_terminal_it_needs_yes(begun, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))
    assert back(begun, "0:label") == 2
    said = capsys.readouterr()
    assert "give --yes" in said.err and "iter.0000/02.label" in said.out and (begun / "iter.0000/02.label").is_dir()


@pytest.mark.parametrize(("answer", "moves"), [("y", True), ("", False), ("no", False), (EOFError(), False)])
def test_on_a_terminal_it_asks(answer, moves, begun, monkeypatch):
    def answering(prompt):
        if isinstance(answer, Exception):
            raise answer
        return answer

    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr("builtins.input", answering)
    assert back(begun, "0:label") == 0
    assert (begun / "iter.0000/02.label").is_dir() is not moves


# ---- jobs in flight ---------------------------------------------------------------------------------------------------


def test_jobs_in_flight_are_ended_with_their_processes(begun, capsys):
    task = task_of(begun, 2, "train", "sleep 300")
    with campaign(begun) as started:
        started.dispatcher.begin([task], always_ok)
        started.dispatcher.tick()
        wait_until((task.folder / ".attempt/1/claim").exists)
        (name,) = started.journal.jobs(live_only=True)
    assert back(begun, "2:train", "--yes") == 0
    assert name in capsys.readouterr().out and LocalScheduler(begun / ".pwact_like/run/jobs", gpus=()).live() == []
    assert journal_of(begun)[1] == {}
    task.folder.mkdir(parents=True)
    with campaign(begun) as started:  # the same task, and a job of another name
        started.dispatcher.begin([task_of(begun, 2, "train")], always_ok)
        started.dispatcher.tick()
        (again,) = started.journal.jobs(live_only=True)
        assert again != name
        wait_until(lambda: (started.dispatcher.tick(), started.dispatcher.done)[1])


class Cluster:
    """A scheduler that knows one job, whose id was never recorded, and that answers or not."""

    name, pace = "slurm", Pace()

    def __init__(self, name, *, silent=(), deaf=False):
        self.job, self.silent, self.deaf, self.alive, self.calls = name, silent, deaf, True, []

    def _answer(self, call):
        self.calls.append(call)
        view = JobView("7", self.job, alive=self.alive, reason="on node 3")
        return NoAnswer("connection timed out") if call in self.silent else Answer({"7": view})

    def query(self, ids):
        return self._answer("query")

    def find(self, name):
        return self._answer("find")

    def cancel(self, jobs):
        if "cancel" in self.silent:
            raise SchedulerError("no job was cancelled: connection timed out")
        if jobs == {"7": self.job} and not self.deaf:
            self.alive = False


@pytest.fixture
def intended(begun):
    """The name of a job whose intent is in the journal, and no id."""
    with campaign(begun) as started, started.journal.transaction() as writer:
        writer.intend_job("pwl-x-1", "DFT", "", [(f"iter.0001/{TASKS['label']}", 1)])
    return "pwl-x-1"


def test_a_job_whose_id_was_never_recorded_is_looked_for_by_name(begun, intended, monkeypatch):
    cluster = Cluster(intended)
    monkeypatch.setattr(jobs_at_rest, "open_scheduler", lambda *arguments: cluster)
    assert back(begun, "1:label", "--yes") == 0
    assert not cluster.alive and cluster.calls.count("query") == 2 and journal_of(begun)[1] == {}


@pytest.mark.parametrize("silent", [("cancel",), ("find",), ("query",), ()])
def test_nothing_is_moved_while_the_scheduler_does_not_answer_or_a_job_lives(silent, begun, intended, monkeypatch, capsys):
    cluster = Cluster(intended, silent=silent, deaf=not silent)
    monkeypatch.setattr(jobs_at_rest, "open_scheduler", lambda *arguments: cluster)
    monkeypatch.setattr(jobs_at_rest.end_jobs, "__defaults__", (0.3,))
    assert back(begun, "0:label", "--yes") == 1
    assert "nothing more is moved" in (said := capsys.readouterr().err) and ("timed out" in said or "on node 3" in said)
    assert (begun / "iter.0000/02.label").is_dir() and (begun / "iter.0001").is_dir() and not (begun / "rewound").exists()
    assert len(journal_of(begun)[0]) == 6 and intended in journal_of(begun)[1]
    refuse_half_rewound(begun / ".pwact_like" / "run")


# ---- interrupted ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["_keep_records", "_move", "_forget", "write_records", "_publish", "drop_plan"])
def test_an_interrupted_rewind_is_completed_by_the_same_command(where, begun, capsys, monkeypatch):
    real, calls = getattr(rewind, where), []

    def breaking(*arguments):
        calls.append(arguments)
        if len(calls) == (2 if where == "_move" else 1):
            raise RuntimeError("the power failed")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(rewind, where, breaking)
        assert back(begun, "0:explore", "--yes") == 1
    state_dir = begun / ".pwact_like" / "run"
    with pytest.raises(InputError, match="rewind --to 0:explore"):
        refuse_half_rewound(state_dir)
    assert back(begun, "0:label", "--yes") == 2
    assert "give --to 0:explore first" in capsys.readouterr().err
    assert back(begun, "0:explore") == 0  # not asked again
    (aside,) = (begun / "rewound").iterdir()
    assert sorted(path.name for path in aside.iterdir()) == ["al.record", "iter.0000", "iter.0001", "iter_select.txt"]
    assert (aside / "al.record").read_text().endswith("1 1\n") and (begun / "al.record").read_text() == "0 0\n"
    assert [path.name for path in (begun / "iter.0000").iterdir()] == ["00.train"] and len(journal_of(begun)[0]) == 1
    refuse_half_rewound(state_dir)


def test_what_lies_again_where_results_were_moved_from_is_not_overwritten(begun, capsys, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(rewind, "_forget", lambda *arguments: 1 / 0)
        assert back(begun, "1:label", "--yes") == 1
    capsys.readouterr()
    write_text(begun / "iter.0001/02.label/mine", "work")
    assert back(begun, "1:label") == 2
    assert "lies there again" in capsys.readouterr().err and (begun / "iter.0001/02.label/mine").read_text() == "work"


# ---- real campaigns ---------------------------------------------------------------------------------------------------


def run_to_the_end(folder):
    """`run`, and what there is at its end: the data set, and how often each task was begun."""
    done = micro.pwact_like(folder, "run", "param.json", "resource.json")
    assert done.returncode == 0, done.stdout + done.stderr
    status = micro.status(folder)
    assert status["state"] == "finished"
    return status["dataset"], {name: count for name, count in micro.executions(folder).items() if not name.startswith("rewound")}


def check_records(folder):
    """The records are those of before the rewind again."""
    (aside,) = (folder / "rewound").iterdir()
    for name in ("al.record", "iter_select.txt"):
        assert (folder / name).read_text() == (aside / name).read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)  # two campaigns: 200 to 340 s on a machine with nine jobs a core
def test_a_campaign_rewound_to_its_labels_comes_to_the_same_data_set(tmp_path, monkeypatch):
    micro.write_campaign(tmp_path)
    before = run_to_the_end(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(rewind, "_forget", lambda *arguments: 1 / 0)
        assert back(tmp_path, "0:label", "--yes") == 1
    refused = micro.pwact_like(tmp_path, "run", "param.json", "resource.json")
    assert refused.returncode == 2 and "rewind --to 0:label" in refused.stderr
    assert back(tmp_path, "0:label") == 0
    assert micro.status(tmp_path)["dataset"]["frames"] == 18
    assert run_to_the_end(tmp_path) == before and set(before[1].values()) == {1}
    check_records(tmp_path)


@pytest.mark.slow
def test_a_campaign_rewound_to_other_stages_comes_to_the_same_data_set(tmp_path):
    micro.write_campaign(tmp_path, entries=2)
    before = run_to_the_end(tmp_path)
    for to, frames in (("1:train", 22), ("0:explore", 18)):
        assert back(tmp_path, to, "--yes") == 0
        assert micro.status(tmp_path)["dataset"]["frames"] == frames
        assert run_to_the_end(tmp_path) == before
        check_records(tmp_path)
        shutil.rmtree(tmp_path / "rewound")

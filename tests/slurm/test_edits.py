"""param.json and resource.json edited while a campaign runs: shown, applied to what is submitted afterwards, or refused."""

from __future__ import annotations

import json
import shlex
import signal

import campaigns
import micro
import pytest
from fake.fake_slurm import FakeSlurm

pytestmark = pytest.mark.slurm

# the files are looked at every five seconds
LOOK_S = 30.0


@pytest.fixture
def fake(tmp_path, monkeypatch):
    partitions = {"cpu": {"max_time": "1:00:00"}, "fast": {"max_time": "30"}}
    with FakeSlurm(tmp_path / "slurm", partitions=partitions) as slurm:
        slurm.install(monkeypatch)
        yield slurm


def scripts(folder, pattern):
    """Name and ``#SBATCH`` options of the job that ran each task, by the task's own file."""
    found = {}
    for path in sorted(folder.glob(f"{pattern}/.attempt/executions.log")):
        (line,) = path.read_text().splitlines()
        name = line.split("\t")[4]
        script = (folder / ".pwact_like" / "run" / "jobs" / name / "job.sh").read_text()
        found[name] = {row.removeprefix("#SBATCH ") for row in script.splitlines() if row.startswith("#SBATCH ")}
    assert found, pattern
    return found


def test_settings_are_edited_while_the_trainings_run(fake, tmp_path):
    folder = tmp_path / "it's a campaign"
    hold = folder / "hold"
    line = f"while [ -e {shlex.quote(str(hold))} ]; do sleep 0.05; done"
    master = campaigns.campaign(folder, **micro.on_slurm(env_list=[line]))
    param, resource = folder / "param.json", folder / "resource.json"
    hold.touch()
    master.start()
    master.until(lambda: "train: 3 tasks" in master.log and len(campaigns.Slurm(fake).alive()) == 3)

    # an editor has saved half of it
    whole = resource.read_text()
    resource.write_text(whole[: len(whole) // 2])
    master.until(lambda: "resource.json edited, and not applied" in master.log, LOOK_S)

    # another seed would be another campaign
    resource.write_text(whole)
    micro.edit(param, lambda content: content.update(seed=2))
    master.until(lambda: "seed cannot change while the campaign runs" in master.log, LOOK_S)
    assert master.log.count("resource.json edited, and not applied") == 1

    micro.edit(param, lambda content: content.update(seed=1, work_dir="elsewhere"))
    (folder / "elsewhere").mkdir()
    for path in folder.glob("*.xyz"):
        (folder / "elsewhere" / path.name).symlink_to(path)
    master.until(lambda: "work_dir" in master.new_log, LOOK_S)
    assert "work_dir" in master.log.rpartition("edited, and not applied:")[2]

    # what may be edited
    def other_strategy(content):
        del content["work_dir"]
        content["strategy"]["max_select"] = 1
        content["explore"]["md_jobs"][0]["nsteps"] = 10

    def other_sections(content):
        content["train"].update(time="25")
        content["explore"].update(queue_name="fast", time="7", custom_flags=["#SBATCH --nice=11"])
        content["DFT"].update(queue_name="fast", time="8", custom_flags="--nice=12", group_size=-1)

    micro.edit(param, other_strategy)
    micro.edit(resource, other_sections)
    master.until(lambda: "edited; it counts for what has not begun" in master.log, LOOK_S)
    master.until(lambda: "DFT.time" in master.log, LOOK_S)
    for words in (
        "param.json: strategy.max_select: 2 → 1",
        "param.json: explore.md_jobs[0].nsteps: 20 → 10",
        'resource.json: train.time: "20" → "25"',
        'resource.json: explore.queue_name: "fast" is new',
        'resource.json: explore.custom_flags: ["#SBATCH --nice=11"] is new',
        'resource.json: DFT.time: "20" → "8"',
        "resource.json: DFT.group_size: 2 → -1",
    ):
        assert words in master.log, words

    # the same master goes on with them
    hold.unlink()
    master.until(master.begun("iter.0000/02.label/scf/*/*/*"))

    # between two starts
    master.process.send_signal(signal.SIGTERM)
    assert master.wait() == 128 + signal.SIGTERM
    micro.edit(resource, lambda content: content["train"].update(time="26"))
    master.finish()
    assert 'edited since the last start:\n  resource.json: train.time: "25" → "26"' in master.new_log
    assert "seed" not in master.new_log and "elsewhere" not in master.new_log

    first = scripts(folder, "iter.0000/00.train/*")
    explore = scripts(folder, "iter.0000/01.explore/md/*/*")
    labels = scripts(folder, "iter.0000/02.label/scf/*/*/*")
    second = scripts(folder, "iter.0001/00.train/*")
    assert (len(first), len(explore), len(labels), len(second)) == (3, 1, 1, 3)
    # what had begun kept the old ones
    assert all("--time=20" in options for options in first.values())
    assert all("--time=26" in options for options in second.values())
    assert all({"--partition=fast", "--time=7", "--nice=11"} <= options for options in explore.values())
    assert all({"--partition=fast", "--time=8", "--nice=12"} <= options for options in labels.values())
    facts = {job.name: (job.partition, job.limit_min) for job in fake.jobs(forgotten=True)}
    expected = {name: limits for names, limits in ((first, ("cpu", 20)), (explore, ("fast", 7)), (labels, ("fast", 8))) for name in names}
    assert facts == expected | dict.fromkeys(second, ("cpu", 26))
    trajectory = json.loads(next(folder.glob("iter.0000/01.explore/md/*/*/md.json")).read_text())
    assert trajectory["nsteps"] == 10
    chosen = json.loads(next(folder.glob("iter.0000/01.explore/**/selection.json")).read_text())
    assert [row["why"] for row in chosen].count("candidate") == 1

"""Memory of the master: its peak through a whole micro-campaign, and while it waits for jobs.

    python benchmarks/master_memory.py

Runs the micro-campaign of the tests (copper, EMT) with a labelling command that sleeps first, and reads VmRSS and VmHWM
of the master from /proc. There is no peer figure: PWact's and DP-GEN's masters read whole trajectories themselves.
"""

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

import micro  # noqa: E402


def memory_mb(pid: int) -> dict[str, float]:
    """VmRSS and VmHWM of a process in MB; empty when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return {}
    return {name: float(rest.split()[0]) / 1024 for name, rest in (line.split(":", 1) for line in lines) if name in ("VmRSS", "VmHWM")}


def main() -> None:
    """Run and print."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, resource = micro.write_campaign(folder, strategy={"max_select": 40}, explore_steps=400)
        sections = json.loads(resource.read_text())
        sections["DFT"]["command"] = "sleep 5; pwact-like"
        resource.write_text(json.dumps(sections))
        master = subprocess.Popen(
            [sys.executable, "-m", "pwact_like", "run", "param.json", "resource.json"],
            cwd=folder,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        peak, waiting = 0.0, 0.0
        while master.poll() is None:
            now = memory_mb(master.pid)
            peak = max(peak, now.get("VmHWM", 0.0))
            if list(folder.glob("iter.0000/02.label/scf/*/*/*/.attempt")):
                waiting = max(waiting, now.get("VmRSS", 0.0))
            time.sleep(0.2)
        print(f"exit status {master.returncode}; waiting for labels {waiting:.0f} MB, peak of the whole run {peak:.0f} MB")


if __name__ == "__main__":
    main()

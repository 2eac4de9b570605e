"""A Slurm with accounting: slurmdbd, and a MariaDB of its own, in the cluster's folder and for its socket only."""

from __future__ import annotations

import shutil
import subprocess

from cluster import Cluster
from cluster_config import uses_munge
from cluster_daemon import DaemonError, wait_for

PROGRAMS = ("slurmdbd", "mariadbd", "mariadb-install-db")
INSTALL = "apt-get install --no-install-recommends slurmdbd slurm-wlm-mysql-plugin mariadb-server"
ACCOUNT = "tests"
_ATTEMPTS = 3
_START_S = 60.0
# a database for minutes: small, and nothing need survive a power failure
_DATABASE_OPTIONS = (
    "--skip-networking",
    "--skip-grant-tables",  # whoever reaches the socket, in a folder of this user alone, may do everything
    "--skip-log-bin",
    "--performance-schema=OFF",
    "--innodb-flush-log-at-trx-commit=0",
    "--innodb-doublewrite=0",
    "--innodb-buffer-pool-size=32M",
    "--innodb-log-file-size=16M",
    "--innodb-lock-wait-timeout=900",
)


class AccountingCluster(Cluster):
    """As its base; users need an account (`ACCOUNT` is the default of this one), limits hold, and sacct remembers."""

    def _start_all(self) -> None:
        self._limited: set[str] = set()
        self.settings = {
            "AccountingStorageType": "accounting_storage/slurmdbd",
            "AccountingStorageHost": "localhost",
            "AccountingStoragePort": self.config.ports[-1],
            "AccountingStorageEnforce": "associations,limits,qos",
            "AccountingStoreFlags": "job_comment",
            **self.given_settings,
        }
        if uses_munge():
            # what tells slurmdbd's clients where munge is; AuthInfo is not for them
            self.settings["AccountingStoragePass"] = str(self.config.munge_socket)
        self.config.settings = self.settings
        super()._start_all()

    def _before_slurmctld(self) -> None:
        self._start_database()
        self._start_slurmdbd()

    def _start_database(self) -> None:
        folder = self.folder / "db"
        folder.mkdir(mode=0o700)
        options = ["--no-defaults", f"--datadir={folder}/data", f"--user={self.config.user}"]
        install = ["mariadb-install-db", *options, "--auth-root-authentication-method=normal", "--skip-test-db", "--skip-name-resolve"]
        for _ in range(_ATTEMPTS):
            done = subprocess.run(install, cwd=folder, capture_output=True, text=True, timeout=2 * _START_S, stdin=subprocess.DEVNULL)
            if not done.returncode:
                break
            shutil.rmtree(folder / "data", ignore_errors=True)  # on a busy machine it has been seen to give up
        else:
            raise DaemonError(f"{' '.join(install)} ended with {done.returncode}:\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
        socket_path = folder / "s"
        files = (f"--socket={socket_path}", f"--pid-file={folder}/pid", f"--log-error={self.folder}/mariadbd.log")
        daemon = self._add("mariadbd", "mariadbd", *options, *files, *_DATABASE_OPTIONS)
        daemon.start()
        if not wait_for(lambda: socket_path.exists() or not daemon.running, _START_S) or not daemon.running:
            raise daemon.error("made no socket")

    def _start_slurmdbd(self) -> None:
        lines = {
            **self.config.auth(),
            "DbdHost": "localhost",
            "DbdAddr": "127.0.0.1",
            "DbdPort": self.config.ports[-1],
            "SlurmUser": self.config.user,
            "StorageType": "accounting_storage/mysql",
            "StorageHost": "localhost",
            "StorageUser": "root",
            "StorageLoc": "slurm",
            "LogFile": self.folder / "slurmdbd.log",
            "PidFile": self.folder / "slurmdbd.pid",
        }
        path = self.folder / "slurmdbd.conf"
        path.touch(0o600)  # slurmdbd insists
        path.write_text("".join(f"{name}={value}\n" for name, value in lines.items()))
        self._add("slurmdbd", "slurmdbd", "-D", environment={"MYSQL_UNIX_PORT": str(self.folder / "db" / "s")})
        self.slurmdbd_start()
        # before slurmctld starts, which would register itself, and wait for its associations
        self.sacctmgr("add", "cluster", self.config.name)
        self.sacctmgr("add", "account", ACCOUNT, f"cluster={self.config.name}")
        self.sacctmgr("add", "user", self.config.user, f"account={ACCOUNT}", f"defaultaccount={ACCOUNT}", f"cluster={self.config.name}")

    def slurmdbd_kill(self) -> None:
        """SIGKILL; sacct fails, and slurmctld keeps for later what it has to report."""
        self.daemons["slurmdbd"].kill()

    def slurmdbd_start(self) -> None:
        """Start it again and wait until it answers."""
        daemon = self.daemons["slurmdbd"]
        daemon.start()
        # a command that asks slurmdbd alone; at first it makes its tables
        asked = ["sacctmgr", "-n", "show", "cluster"]
        if not wait_for(lambda: self.run(*asked, check=False).returncode == 0 or not daemon.running, _START_S, 0.2) or not daemon.running:
            raise daemon.error("does not answer")

    def sacctmgr(self, *arguments: str) -> str:
        """Change the accounting; it never asks back."""
        return self.run("sacctmgr", "-i", *arguments).stdout

    def set_limits(self, **limits: int | str) -> None:
        """Limits of this user's association, e.g. ``MaxSubmitJobs=2``; -1 takes one away."""
        self._limited |= set(limits)
        where = ("where", f"user={self.config.user}", f"account={ACCOUNT}", f"cluster={self.config.name}")
        self.sacctmgr("modify", "user", *where, "set", *(f"{name}={value}" for name, value in limits.items()))

    def repair(self) -> None:
        """As the base's; limits are taken away, too."""
        self.daemons["mariadbd"].start()
        self.slurmdbd_start()
        super().repair()
        if self._limited:
            self.set_limits(**dict.fromkeys(self._limited, -1))
            self._limited.clear()

    def sacct(self, *arguments: str, columns: str = "JobID,JobName,State,ExitCode,NodeList") -> list[list[str]]:
        """Columns of all jobs, without their steps."""
        done = self.run("sacct", "-n", "-P", "-X", "-S", "2000-01-01", *arguments, "-o", columns)
        return [line.split("|") for line in done.stdout.splitlines()]

    def wait_recorded(self, number: str, *states: str, timeout_s: float = 30.0) -> list[str]:
        """Wait until the accounting knows the job in one of these states; gives its row of `sacct`.

        It is up to five seconds behind, and until then shows the job as one with the name ``allocation``.
        """
        name = self.job(number)["JobName"]

        def row() -> list[str]:
            return next((row for row in self.sacct("-j", number) if row[1] == name), ["", "", ""])

        if not wait_for(lambda: row()[2].split(" ")[0] in states, timeout_s, 0.2):
            raise DaemonError(f"sacct has job {number} as {row()}, not {states}")
        return row()

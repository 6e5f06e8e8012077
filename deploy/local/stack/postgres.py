"""Postgres 15 or later: a cluster of our own, with durable defaults and little memory."""

import os
import re
import secrets
import shutil
import signal
import subprocess
import time
from pathlib import Path

from folder import Failure, as_account, say, unprivileged_account
from process import POLL_S

ROLE = DATABASE = "atelier"
OLDEST = 15
# A killed postmaster's children notice within a second or so; longer than this they are stuck.
ORPHANS_WITHIN_S = 15


def bin_dir():
    """`POSTGRES_BIN_DIR`, or the packaged version 15, or the newest packaged one."""
    named = os.environ.get("POSTGRES_BIN_DIR")
    if named:
        if not (Path(named) / "initdb").is_file():
            raise Failure(f"POSTGRES_BIN_DIR is {named}, but there is no initdb in it")
        return Path(named)
    packaged = {}
    for initdb in Path("/usr/lib/postgresql").glob("*/bin/initdb"):
        if initdb.parts[4].isdigit():
            packaged[int(initdb.parts[4])] = initdb.parent
    if OLDEST in packaged:
        return packaged[OLDEST]
    if not packaged or max(packaged) < OLDEST:
        raise Failure(f"no Postgres {OLDEST} or later in /usr/lib/postgresql; set POSTGRES_BIN_DIR to where its initdb is")
    return packaged[max(packaged)]


class Postgres:
    name = "postgres"
    stop_signal = signal.SIGINT  # "fast": ends sessions; SIGTERM would wait for the clients to leave

    def __init__(self, folder):
        self.folder = folder
        self.record = folder.of(self.name)
        self.data = folder.path / "postgres"
        self.log = folder.path / "postgres.log"
        self.account = unprivileged_account()
        self.bin = None

    def prepare(self):
        self.bin = bin_dir()
        self.record.setdefault("password", secrets.token_hex(16))
        if (self.data / "PG_VERSION").exists():
            self._check_version()
            self._clear_after_a_kill()
        else:
            self._initialise()

    def _check_version(self):
        made = (self.data / "PG_VERSION").read_text().strip()
        shown = subprocess.run([self.bin / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
        have = re.search(r"\d+", shown).group()
        if made != have:
            raise Failure(f"{self.data} was made by Postgres {made}, but {self.bin} is {have}; `wipe` it or set POSTGRES_BIN_DIR")

    def _clear_after_a_kill(self):
        """Removes the lock file of a killed postmaster, once no process of that cluster is left.

        Postgres would do so itself, unless the pid in it has been given to another process since.
        """
        deadline = time.monotonic() + ORPHANS_WITHIN_S
        while orphans := processes_in(self.data):
            if time.monotonic() > deadline:
                raise Failure(f"processes of a killed Postgres still use {self.data}: {orphans}")
            time.sleep(POLL_S)
        (self.data / "postmaster.pid").unlink(missing_ok=True)

    def _initialise(self):
        say("making a Postgres cluster")
        fresh = self.data.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        if self.account:
            os.chown(fresh, self.account.pw_uid, self.account.pw_gid)
        # The password goes through a pipe, so that neither a file nor the process list shows it.
        reader, writer = os.pipe()
        os.write(writer, self.record["password"].encode() + b"\n")
        os.close(writer)
        if self.account:
            os.fchown(reader, self.account.pw_uid, self.account.pw_gid)
        made = subprocess.run(
            [self.bin / "initdb", "--pgdata", fresh, "--username", ROLE, f"--pwfile=/proc/self/fd/{reader}", "--auth=scram-sha-256",
             "--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--no-instructions"],
            cwd="/", capture_output=True, text=True, pass_fds=[reader], stdin=subprocess.DEVNULL, **as_account(self.account),
        )  # fmt: skip
        os.close(reader)
        if made.returncode != 0:
            raise Failure(f"initdb failed:\n{made.stdout}{made.stderr}")
        fresh.rename(self.data)
        self.record.pop("database", None)
        self.folder.save()

    def command(self):
        settings = {
            "port": self.folder.port_for(self.name),
            "listen_addresses": "127.0.0.1",
            "unix_socket_directories": "",
            "max_connections": 200,
            "shared_buffers": "32MB",
            "max_wal_size": "256MB",
            "jit": "off",
            # A killed server loses nothing by it, only a machine without power would. Tests make and drop databases all the
            # time, and each drop would make everybody wait for the disk.
            "fsync": "off",
            "log_min_messages": "warning",
        }
        options = [text for name, value in settings.items() for text in ("-c", f"{name}={value}")]
        return [str(self.bin / "postgres"), "-D", str(self.data), *options]

    def ready(self):
        """The postmaster writes its state into line 8 of its pid file."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return False
        if len(lines) < 8 or int(lines[0]) != self.record["pid"] or lines[7].strip() != "ready":
            return False
        self._create_database()
        return True

    def _create_database(self):
        if self.record.get("database"):
            return
        made = subprocess.run(
            [self.bin / "createdb", "--host=127.0.0.1", f"--port={self.record['port']}", f"--username={ROLE}", "--no-password",
             "--maintenance-db=postgres", DATABASE],
            env={**os.environ, "PGPASSWORD": self.record["password"]}, capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if made.returncode != 0 and "already exists" not in made.stderr:
            raise Failure(f"the database could not be made: {made.stderr.strip()}")
        self.record["database"] = DATABASE
        self.folder.save()

    def environment(self):
        record = self.record
        found = {"DATABASE_URL": f"postgres://{ROLE}:{record['password']}@127.0.0.1:{record['port']}/{DATABASE}"}
        found["POSTGRES_BIN_DIR"] = str(bin_dir())
        if self.account:
            found["POSTGRES_RUN_AS"] = self.account.pw_name
        return found


def processes_in(folder):
    """Pids of processes that work in a folder, as every process of a Postgres cluster does in its data folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == str(folder):
                    found.append(int(entry.name))
            except OSError:
                continue  # gone meanwhile, or another account's
    return found

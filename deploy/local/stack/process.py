"""Starting, recognising and ending the servers: by a pid that is proven to be ours, never by name."""

import os
import signal
import subprocess
import time
from pathlib import Path

from folder import Failure, as_account, say

READY_WITHIN_S = 60
STOP_WITHIN_S = 20
POLL_S = 0.02
# Nobody reads further back than this in a server's log; it starts over when longer.
LOG_BYTES = 8 * 1024 * 1024


def boot_id():
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_time(pid):
    """When a live process started, in clock ticks since boot; None when it is gone or only waits to be reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    fields = text[text.rindex(")") + 2 :].split()
    return None if fields[0] in "ZX" else int(fields[19])


def is_running(record):
    """Whether the recorded process still is the one we started: a pid alone may have been given to another since."""
    return (
        "pid" in record
        and record.get("boot_id") == boot_id()
        and start_time(record["pid"]) == record.get("started")
    )


def spawn(service):
    """Starts a server detached from this terminal, output to its log, and remembers it at once."""
    log = service.log
    log.touch(mode=0o600)
    if log.stat().st_size > LOG_BYTES:
        os.truncate(log, 0)
    with open(log, "ab") as output:
        child = subprocess.Popen(
            service.command(),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            start_new_session=True,
            **as_account(service.account),
        )
    service.record.update(pid=child.pid, started=start_time(child.pid), boot_id=boot_id())
    service.folder.save()
    # It outlives us on purpose, so its end is none of Popen's business.
    child.returncode = 0


def await_ready(service):
    """Waits until the server answers; a server that died or never answers is a Failure with the end of its log."""
    deadline = time.monotonic() + READY_WITHIN_S
    while not service.ready():
        if not is_running(service.record):
            raise Died(f"{service.name} ended while starting; the end of {service.log}:\n{tail(service.log)}")
        if time.monotonic() > deadline:
            raise Failure(f"{service.name} was not ready in {READY_WITHIN_S} s; the end of {service.log}:\n{tail(service.log)}")
        time.sleep(POLL_S)


class Died(Failure):
    """A server ended while it was starting, perhaps because another took its port meanwhile."""


def tail(path, lines=15):
    return "\n".join(path.read_text(errors="replace").splitlines()[-lines:])


def stop(service, how):
    """Ends the recorded process if it is ours and waits until it is gone; after a while, not gently."""
    record = service.record
    if not is_running(record):
        return False
    os.kill(record["pid"], how)
    deadline = time.monotonic() + STOP_WITHIN_S
    while is_running(record):
        if time.monotonic() > deadline:
            say(f"{service.name} (pid {record['pid']}) did not stop in {STOP_WITHIN_S} s; killing it")
            os.kill(record["pid"], signal.SIGKILL)
            deadline = time.monotonic() + STOP_WITHIN_S
        time.sleep(POLL_S)
    return True

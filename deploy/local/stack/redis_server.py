"""Redis 7: append-only file on, never evicting, a password of its own."""

import os
import re
import secrets
import shutil
import signal
import socket
import subprocess

from folder import Failure

OLDEST = 7  # sharded pub/sub


def binary():
    named = os.environ.get("REDIS_SERVER_BIN")
    found = shutil.which(named or "redis-server")
    if not found:
        raise Failure(f"REDIS_SERVER_BIN is {named}, which is no program" if named else "no redis-server in PATH; set REDIS_SERVER_BIN")
    return found


class Redis:
    name = "redis"
    stop_signal = signal.SIGTERM
    account = None

    def __init__(self, folder):
        self.folder = folder
        self.record = folder.of(self.name)
        self.data = folder.path / "redis"
        self.log = folder.path / "redis.log"

    def prepare(self):
        shown = subprocess.run([binary(), "--version"], capture_output=True, text=True, check=True).stdout
        version = re.search(r"v=(\d+)", shown)
        if not version or int(version.group(1)) < OLDEST:
            raise Failure(f"{binary()} is too old, {OLDEST} is needed: {shown.strip()}")
        self.data.mkdir(mode=0o700, exist_ok=True)
        self.record.setdefault("password", secrets.token_hex(16))
        self.folder.save()

    def command(self):
        # A file rather than arguments, which every account of the machine could read.
        conf = self.data / "redis.conf"
        settings = {
            "bind": "127.0.0.1",
            "port": self.folder.port_for(self.name),
            "requirepass": self.record["password"],
            "dir": self.data,
            "daemonize": "no",
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory": "512mb",
            "maxmemory-policy": "noeviction",
            "databases": 16,
        }
        with os.fdopen(os.open(conf, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
            file.writelines(f"{name} {value}\n" for name, value in settings.items())
        return [binary(), str(conf)]

    def ready(self):
        """Loaded, and the process we started rather than another on the same port."""
        try:
            with socket.create_connection(("127.0.0.1", self.record["port"]), timeout=2) as link:
                link.sendall(f"AUTH {self.record['password']}\r\nINFO server\r\nPING\r\nQUIT\r\n".encode())
                answer = b"".join(iter(lambda: link.recv(65536), b""))
        except OSError:
            return False
        return b"+PONG" in answer and f"process_id:{self.record['pid']}\r\n".encode() in answer

    def environment(self):
        record = self.record
        return {
            "REDIS_URL": f"redis://default:{record['password']}@127.0.0.1:{record['port']}",
            "REDIS_SERVER_BIN": binary(),
        }

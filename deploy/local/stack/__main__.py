"""Real Postgres, Redis and MongoDB on private loopback ports.

  deploy/local/services up     [NAME…]   install what is missing, start what is not running, print the environment
  deploy/local/services env    [NAME…]   print the environment again: export $(deploy/local/services env)
  deploy/local/services status           what runs, where; fails unless all of it does
  deploy/local/services down   [NAME…]   stop; data and ports are kept
  deploy/local/services kill   [NAME…]   stop without warning (SIGKILL), for trying what a crash does
  deploy/local/services wipe             stop all and delete the data

NAME is postgres, redis or mongo; none means all three. Data, logs and passwords live in ATELIER_SERVICES_DIR
(default: .local/services), a set of servers per folder. POSTGRES_BIN_DIR, REDIS_SERVER_BIN and MONGOD_BIN name other builds.
"""

import signal
import sys
import time

import signing_key
from folder import Failure, Folder, locate, say
from mongo import Mongo
from postgres import Postgres
from process import Died, await_ready, is_running, spawn, stop
from redis_server import Redis

KINDS = {kind.name: kind for kind in (Postgres, Redis, Mongo)}
# Another program can take a port between our looking and the server's binding it.
PORT_ATTEMPTS = 3


def up(folder, names):
    began = time.monotonic()
    with folder.locked():
        services = [KINDS[name](folder) for name in names]
        missing = [service for service in services if not is_running(service.record)]
        for service in missing:
            service.prepare()
            spawn(service)
        for service in services:
            start_until_ready(service)
        if set(names) == set(KINDS):
            (folder.path / "files").mkdir(exist_ok=True)
            signing_key.ensure(key_file(folder))
        if missing:
            say(f"{', '.join(s.name for s in missing)} started in {time.monotonic() - began:.1f} s, data in {folder.path}")
        else:
            say(f"already running, data in {folder.path}")
        print_environment(folder, services)


def start_until_ready(service):
    for attempt in range(1, PORT_ATTEMPTS + 1):
        try:
            return await_ready(service)
        except Died:
            old = service.record["port"]
            if attempt == PORT_ATTEMPTS or service.folder.port_for(service.name) == old:
                raise
            say(f"port {old} was taken meanwhile; {service.name} moves to {service.record['port']}")
            service.prepare()
            spawn(service)


def env(folder, names):
    services = [KINDS[name](folder.load()) for name in names]
    idle = [service.name for service in services if not is_running(service.record)]
    if idle:
        raise Failure(f"not running: {', '.join(idle)}; start with: deploy/local/services up")
    print_environment(folder, services)


def print_environment(folder, services):
    lines = {}
    for service in services:
        lines.update(service.environment())
    if len(services) == len(KINDS):
        lines["FILES_URL"] = (folder.path / "files").as_uri()
        lines["JWT_PRIVATE_KEY"] = key_file(folder)
    for name, value in lines.items():
        print(f"{name}={value}")


def key_file(folder):
    return folder.path / "signing-key.pem"


def status(folder, _names):
    whole = True
    for kind in KINDS.values():
        service = kind(folder.load())
        running = is_running(service.record)
        whole &= running
        detail = f"pid {service.record['pid']}, 127.0.0.1:{service.record['port']}" if running else f"log {service.log}"
        print(f"{service.name:<9} {'running' if running else 'stopped'}  {detail}")
    return 0 if whole else 1


def down(folder, names, how=None):
    if not folder.path.exists():
        return
    with folder.locked():
        stopped = end(folder, names, how)
    if stopped:
        say(f"stopped {', '.join(stopped)}")


def end(folder, names, how=None):
    """Stops the named servers; the names of those that were running."""
    services = [KINDS[name](folder) for name in names]
    return [service.name for service in services if stop(service, how or service.stop_signal)]


def kill(folder, names):
    down(folder, names, signal.SIGKILL)


def wipe(folder, _names):
    if not folder.path.exists():
        return
    with folder.locked():
        end(folder, KINDS)
        folder.wipe()
    say(f"stopped, and {folder.path} emptied")


COMMANDS = {"up": up, "env": env, "status": status, "down": down, "kill": kill, "wipe": wipe}


def main(arguments):
    command, *names = arguments or ["help"]
    if command not in COMMANDS or (names and command in ("status", "wipe")):
        print(__doc__.strip(), file=sys.stderr)
        return 0 if command in ("help", "-h", "--help") else 2
    if unknown := [name for name in names if name not in KINDS]:
        raise Failure(f"unknown service: {', '.join(unknown)}; there are {', '.join(KINDS)}")
    return COMMANDS[command](Folder(locate()), list(dict.fromkeys(names)) or list(KINDS))


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except Failure as failure:
        say(failure)
        sys.exit(1)
    except KeyboardInterrupt:
        say("interrupted; `down` stops what was started")
        sys.exit(130)

"""MongoDB 6: a replica set of one, since transactions and change streams want one."""

import signal

import mongod_wheel
from mongo_wire import CommandError, command

REPLICA_SET = "rs0"
NOT_YET_INITIALIZED = 94


class Mongo:
    name = "mongo"
    stop_signal = signal.SIGTERM
    account = None

    def __init__(self, folder):
        self.folder = folder
        self.record = folder.of(self.name)
        self.data = folder.path / "mongo"
        self.log = folder.path / "mongo.log"
        self.binary = None

    def prepare(self):
        self.binary = mongod_wheel.binary()
        self.data.mkdir(mode=0o700, exist_ok=True)

    def command(self):
        # A program that is killed leaves its transaction open: others wait for it a while, not the default minute.
        parameters = (
            "transactionLifetimeLimitSeconds=15",
            "ttlMonitorSleepSecs=1",
            "diagnosticDataCollectionEnabled=false",
            "shutdownTimeoutMillisForSignaledShutdown=100",
        )
        return [
            self.binary,
            *("--dbpath", str(self.data)),
            *("--port", str(self.folder.port_for(self.name))),
            *("--bind_ip", "127.0.0.1"),
            *("--replSet", REPLICA_SET),
            "--nounixsocket",
            *("--wiredTigerCacheSizeGB", "0.25"),
            *("--oplogSize", "64"),
            *(text for parameter in parameters for text in ("--setParameter", parameter)),
        ]

    def ready(self):
        """Primary of its set, under the port it has now, and ours rather than another on the same port."""
        port = self.record["port"]
        try:
            hello = command(port, {"hello": 1})
            if hello.get("isWritablePrimary"):
                started_with = command(port, {"getCmdLineOpts": 1})["parsed"]
                return started_with["storage"]["dbPath"] == str(self.data)
            self._configure(port)
        except (OSError, CommandError):
            pass  # still starting, or between two states; the caller's deadline ends a state that lasts
        return False

    def _configure(self, port):
        """Makes the set on the first start, and renames its member when it had to move to another port."""
        address = f"127.0.0.1:{port}"
        try:
            config = command(port, {"replSetGetConfig": 1})["config"]
        except CommandError as refused:
            if refused.code != NOT_YET_INITIALIZED:
                raise
            first = {"_id": REPLICA_SET, "members": [{"_id": 0, "host": address}]}
            command(port, {"replSetInitiate": first})
            return
        if config["members"][0]["host"] != address:
            config["members"][0]["host"] = address
            config["version"] += 1
            config.pop("term", None)
            command(port, {"replSetReconfig": config, "force": True})

    def environment(self):
        return {
            "MONGO_URL": f"mongodb://127.0.0.1:{self.record['port']}/?replicaSet={REPLICA_SET}",
            "MONGOD_BIN": mongod_wheel.binary(),
        }


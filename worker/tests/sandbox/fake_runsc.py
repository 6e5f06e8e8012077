#!/usr/bin/python3
"""Stands in for runsc where there is none: the same calls, a process of the host's in place of a container.

It shows that the driver calls runsc as its documentation says and ends what it began. It keeps nothing apart.
Every call is appended to `calls` in the folder of the state folder's parent, one JSON array a line.
"""
import json, os, signal, subprocess, sys, time

VALUED = ("--root", "--bundle", "--network")


def main():
    words, flags, rest = sys.argv[1:], {}, []
    while words:
        word = words.pop(0)
        if word == "--version":
            print("runsc version fake-1\nspec: 1.0.2")
            return 0
        name, _, value = word.partition("=")
        if name in VALUED:
            flags[name] = value or words.pop(0)
        elif word.startswith("--"):
            flags[word] = True
        else:
            rest.append(word)
    state = flags["--root"]
    with open(os.environ.get("FAKE_CALLS", os.path.join(os.path.dirname(os.path.dirname(os.path.dirname(state))), "calls")), "a") as calls:
        calls.write(json.dumps(sys.argv[1:]) + "\n")
    command, identity = rest[0], rest[1]
    pid_file = os.path.join(state, identity)
    if command == "run":
        return run(flags["--bundle"], pid_file)
    try:
        pid = int(when_there(pid_file, 2 if command == "kill" else 0))
    except (OSError, ValueError):
        print("loading container: file does not exist", file=sys.stderr)
        return 0 if flags.get("--force") else 128
    if command == "kill":
        assert rest[2] == "KILL"
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
    elif command == "delete":
        try:
            os.killpg(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        os.unlink(pid_file)
    elif command == "events":
        cpu = memory = count = 0
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                fields = open(f"/proc/{entry}/stat").read().rsplit(") ", 1)[1].split()
                if int(fields[2]) == pid:
                    cpu += (int(fields[11]) + int(fields[12])) * 10_000_000
                    memory += int(fields[21]) * 4096
                    count += 1
            except (OSError, IndexError):
                pass
        print(json.dumps({"type": "stats", "id": identity, "data": {
            "cpu": {"usage": {"total": cpu, "kernel": 0, "user": 0}},
            "memory": {"usage": {"usage": memory}}, "pids": {"current": count}}}))
    return 0


def when_there(path, patience):
    """Its text; a container that is only just being started is waited for."""
    until = time.monotonic() + patience
    while True:
        try:
            text = open(path).read()
            if text or time.monotonic() > until:
                return text
        except OSError:
            if time.monotonic() > until:
                raise
        time.sleep(0.01)


def run(bundle, pid_file):
    config = json.load(open(os.path.join(bundle, "config.json")))
    process = config["process"]
    if process["args"] == ["/bin/cat", "/proc/version"]:
        print("Linux version 4.4.0 #1 SMP Sun Jan 10 15:06:54 PST 2016")
        return 0
    work = next(mount["source"] for mount in config["mounts"] if mount["destination"] == "/box")
    environment = dict(pair.split("=", 1) for pair in process["env"])
    child = subprocess.Popen(process["args"], cwd=work, env=environment, process_group=0)
    with open(pid_file, "w") as file:
        file.write(str(child.pid))
    code = child.wait()
    return 128 - code if code < 0 else code


sys.exit(main())

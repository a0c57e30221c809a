#!/usr/bin/env python3
"""What replication costs: the time of a full sync, and the writes that replicas take from a primary.

usage: replication.py [--commands FILE] [--keys N] [--requests N] [--rounds N] sync|writes name=command ...

A command has {port} and {dir} in it. `sync` fills the primary (with a file of commands as RESP, if one
is given), and times the full sync of an empty replica from REPLICAOF until it is up and has every key:
once without a save before, and once after BGSAVE. `writes` runs redis-benchmark's SET at -P 16 on a primary with zero and with two
replicas, in turn, and shows requests per second and the processor time of a write.
"""
import argparse
import os
import re
import shutil
import socket
import statistics
import subprocess
import tempfile
import time

TICKS = os.sysconf("SC_CLK_TCK")


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A server in a folder of its own."""

    def __init__(self, command, folder):
        self.port = free_port()
        os.makedirs(folder)
        line = "exec " + command.format(port=self.port, dir=folder)
        with open(os.path.join(folder, "out"), "w") as out:
            self.process = subprocess.Popen(line, shell=True, stdout=out, stderr=out)
        while not self.answers():
            if self.process.poll() is not None:
                raise SystemExit(f"{line}: ended; see {folder}/out")
            time.sleep(0.02)

    def answers(self):
        try:
            return self.call("PING") == "+PONG"
        except OSError:
            return False

    def call(self, *words):
        """A command's reply: a line, or the text of a bulk string."""
        with socket.create_connection(("127.0.0.1", self.port), 120) as s, s.makefile("rb") as file:
            args = [str(word).encode() for word in words]
            s.sendall(b"*%d\r\n" % len(args) + b"".join(b"$%d\r\n%s\r\n" % (len(a), a) for a in args))
            line = file.readline().decode().strip()
            if not line:
                raise OSError("closed")
            return file.read(int(line[1:])).decode() if line[0] == "$" else line

    def info(self, field):
        found = re.search(rf"^{field}:(.*?)\r?$", self.call("INFO"), re.M)
        return found.group(1) if found else ""

    def cpu(self):
        """Seconds of processor time, with those of children that have ended."""
        with open(f"/proc/{self.process.pid}/stat") as file:
            fields = file.read().rsplit(")", 1)[1].split()
        return sum(map(int, fields[11:15])) / TICKS

    def stop(self):
        self.process.kill()
        self.process.wait()


def wait(condition):
    while not condition():
        time.sleep(0.005)


def follow(replica, primary):
    """Seconds until the replica has what the primary has."""
    keys = primary.call("DBSIZE")
    start = time.monotonic()
    replica.call("REPLICAOF", "127.0.0.1", primary.port)
    wait(lambda: replica.info("master_link_status") == "up" and replica.call("DBSIZE") == keys)
    return time.monotonic() - start


def time_sync(command, folder, options, save_before):
    servers = []
    try:
        primary = Server(command, f"{folder}/primary")
        servers.append(primary)
        if options.commands:
            with open(options.commands, "rb") as file:
                subprocess.run(["redis-cli", "-p", str(primary.port), "--pipe"], stdin=file,
                               stdout=subprocess.DEVNULL, check=True)
        else:
            benchmark(primary, options.keys * 3, options.keys)
        if save_before:
            primary.call("BGSAVE")
            wait(lambda: primary.info("rdb_bgsave_in_progress") == "0")
        replica = Server(command, f"{folder}/replica")
        servers.append(replica)
        cpu = primary.cpu()
        seconds = follow(replica, primary)
        return seconds, primary.cpu() - cpu, replica.cpu()
    finally:
        for server in servers:
            server.stop()


def benchmark(server, requests, keys):
    """Requests a second of SET at -P 16."""
    out = subprocess.run(
        ["redis-benchmark", "-p", str(server.port), "-t", "set", "-n", str(requests), "-r", str(keys),
         "-d", "64", "-c", "50", "-P", "16", "--csv"],
        check=True, capture_output=True, text=True).stdout
    return float(re.search(r'"SET","([0-9.]+)"', out).group(1))


def time_writes(command, folder, options, replicas):
    keys, requests = options.keys, options.requests
    servers = []
    try:
        for n in range(1 + replicas):
            servers.append(Server(command, f"{folder}/{n}"))
        primary = servers[0]
        benchmark(primary, keys, keys)
        for replica in servers[1:]:
            follow(replica, primary)
        before = [server.cpu() for server in servers]
        rate = benchmark(primary, requests, keys)
        end = primary.info("master_repl_offset")
        wait(lambda: all(s.info("master_repl_offset") == end for s in servers[1:]))
        spent = [(s.cpu() - b) / requests * 1e6 for s, b in zip(servers, before)]
        return rate, spent[0], sum(spent)
    finally:
        for server in servers:
            server.stop()


def medians(rows):
    return [statistics.median(column) for column in zip(*rows)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--commands")
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("what", choices=["sync", "writes"])
    parser.add_argument("servers", nargs="+", metavar="name=command")
    options = parser.parse_args()
    servers = [server.split("=", 1) for server in options.servers]
    cases = {"sync": [("no save before", False), ("after BGSAVE", True)],
             "writes": [("no replica", 0), ("two replicas", 2)]}[options.what]
    rows = {}
    for n in range(options.rounds):
        for name, command in servers:
            for case, argument in cases:
                folder = tempfile.mkdtemp(prefix="varve-replication-")
                try:
                    if options.what == "sync":
                        row = time_sync(command, folder, options, argument)
                    else:
                        row = time_writes(command, folder, options, argument)
                finally:
                    shutil.rmtree(folder, ignore_errors=True)
                rows.setdefault((name, case), []).append(row)
    for (name, case), measured in rows.items():
        if options.what == "sync":
            seconds, primary, replica = medians(measured)
            text = f"{seconds:.2f} s, processor: primary {primary:.2f} s, replica {replica:.2f} s"
        else:
            rate, primary, total = medians(measured)
            text = f"{rate / 1000:.0f}k/s, processor: primary {primary:.2f} us, all {total:.2f} us a write"
        print(f"{name:10} {case:15} {text}", flush=True)


if __name__ == "__main__":
    main()

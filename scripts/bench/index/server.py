"""The server's side: connections, vectors in binary, and what a backend costs.

Owns the wire form of rows and the meters. Processor time is the kernel's clock of the backend process with all its threads
(clock_gettime on its process id: nanoseconds), memory is RssAnon of /proc and the segments it shares with its parallel workers: what
it holds for itself, without shared buffers.
"""

import glob
import os
import struct
import threading
import time

import numpy as np
import psycopg

BINARY = 1


def cpu_ms(pid):
    """Processor time of another process, alive or just running, all threads."""
    return time.clock_gettime_ns((~pid << 3) | 2) / 1e6


class Connection:
    """One autocommit session, with its statements prepared and its parameters in binary."""

    def __init__(self, url):
        self.conn = psycopg.connect(url, autocommit=True)
        self.pid = self.conn.info.backend_pid

    def close(self):
        self.conn.close()

    def sql(self, text, *parameters):
        """Runs a statement; rows as tuples."""
        cursor = self.conn.execute(text, parameters or None)
        return cursor.fetchall() if cursor.description else []

    def one(self, text, *parameters):
        return self.sql(text, *parameters)[0][0]

    def prepare(self, name, text, types):
        oids = [self.one("SELECT %s::regtype::oid::int8", type) for type in types]
        self._check(self.conn.pgconn.prepare(name.encode(), text.encode(), oids))

    def call(self, name, *parameters):
        """The result of a prepared statement, in binary."""
        result = self.conn.pgconn.exec_prepared(name.encode(), parameters, [BINARY] * len(parameters), BINARY)
        self._check(result)
        return result

    def ids(self, name, *parameters):
        result = self.call(name, *parameters)
        return [int.from_bytes(result.get_value(row, 0), "big") for row in range(result.ntuples)]

    def _check(self, result):
        if result.status not in (psycopg.pq.ExecStatus.COMMAND_OK, psycopg.pq.ExecStatus.TUPLES_OK):
            raise psycopg.DatabaseError(result.error_message.decode())

    def copy(self, table, ids, columns, vectors):
        """Rows (id, int4 columns, vector) by binary COPY, in blocks."""
        parts = [("fields", ">i2")]
        for name in ["id", *(f"column{i}" for i in range(len(columns)))]:
            parts += [(f"{name}_bytes", ">i4"), (name, ">i4")]
        dimensions = vectors.shape[1]
        parts += [("vector_bytes", ">i4"), ("dimensions", ">i2"), ("unused", ">i2"), ("vector", ">f4", dimensions)]
        with self.conn.cursor().copy(f"COPY {table} FROM STDIN (FORMAT binary)") as copy:
            copy.write(b"PGCOPY\n\xff\r\n\0" + struct.pack(">ii", 0, 0))
            for start in range(0, len(ids), 4096):
                at = slice(start, start + 4096)
                block = np.zeros(len(ids[at]), np.dtype(parts))
                block["fields"] = 2 + len(columns)
                block["id"], block["id_bytes"] = ids[at], 4
                for i, column in enumerate(columns):
                    block[f"column{i}"], block[f"column{i}_bytes"] = column[at], 4
                block["vector_bytes"], block["dimensions"] = 4 + 4 * dimensions, dimensions
                block["vector"] = vectors[at]
                copy.write(block.tobytes())
            copy.write(struct.pack(">h", -1))


def wire(vectors):
    """Each vector as the binary parameter of a statement: both types have the same form."""
    head = struct.pack(">hh", vectors.shape[1], 0)
    return [head + row.tobytes() for row in vectors.astype(">f4")]


class Meter:
    """Wall, processor time and peak of own memory of a statement, with the parallel workers of its backend.

    Sampled every 20 ms; a worker counts as last seen."""

    def __init__(self, pid):
        self.pid = pid

    def __enter__(self):
        self.done = threading.Event()
        self.peak_kib = 0
        self.workers = {}
        self.segments_kib = self.segments_before_kib = segments_kib(self.pid)
        self.started, self.cpu_before = time.perf_counter(), cpu_ms(self.pid)
        self.thread = threading.Thread(target=self._watch, daemon=True)
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.done.set()
        self.thread.join()
        self.wall_s = time.perf_counter() - self.started
        self.cpu_s = (cpu_ms(self.pid) - self.cpu_before + sum(self.workers.values())) / 1e3

    def _watch(self):
        ticks = 0
        while not self.done.wait(0.02):
            if ticks % 10 == 0:
                for worker in self._find_workers():
                    self.workers.setdefault(worker, 0.0)
                self.segments_kib = segments_kib(self.pid)
            ticks += 1
            anonymous = own_memory_kib(self.pid) + self.segments_kib - self.segments_before_kib
            for worker in self.workers:
                try:
                    self.workers[worker] = cpu_ms(worker)
                    anonymous += own_memory_kib(worker)
                except OSError:
                    pass
            self.peak_kib = max(self.peak_kib, anonymous)

    def _find_workers(self):
        wanted = f"parallel worker for PID {self.pid}".encode()
        for path in glob.glob("/proc/[0-9]*/cmdline"):
            try:
                with open(path, "rb") as file:
                    if wanted in file.read():
                        yield int(path.split("/")[2])
            except OSError:
                pass

    def report(self):
        return {"wall_s": self.wall_s, "cpu_s": self.cpu_s, "peak_mb": self.peak_kib / 1024, "workers": len(self.workers)}


def segments_kib(pid):
    """Dynamic shared memory that a backend has mapped."""
    names = set()
    try:
        with open(f"/proc/{pid}/maps", encoding="utf-8", errors="replace") as file:
            names = {line.split()[-1] for line in file if "/dev/shm/PostgreSQL." in line}
        return sum(os.stat(name).st_blocks // 2 for name in names)
    except OSError:
        return 0


def own_memory_kib(pid):
    with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith("RssAnon"):
                return int(line.split()[1])
    return 0


def summary(wall_ms, cpu):
    """Median and p99 of both clocks."""
    return {
        "wall_ms": float(np.median(wall_ms)),
        "wall_p99_ms": float(np.percentile(wall_ms, 99)),
        "cpu_ms": float(np.median(cpu)),
        "cpu_p99_ms": float(np.percentile(cpu, 99)),
        "cpu_mean_ms": float(np.mean(cpu)),
        "queries": len(cpu),
    }


class Calls:
    """What calls of a prepared statement found and cost, in their order."""

    def __init__(self):
        self.found, self.wall_ms, self.cpu_ms = [], [], []

    def add(self, connection, name, parameters):
        """Calls it once for each parameter."""
        for parameter in parameters:
            cpu_before, started = cpu_ms(connection.pid), time.perf_counter()
            ids = connection.ids(name, parameter)
            self.wall_ms.append((time.perf_counter() - started) * 1e3)
            self.cpu_ms.append(cpu_ms(connection.pid) - cpu_before)
            self.found.append(ids)

    def summary(self):
        return summary(self.wall_ms, self.cpu_ms)


def timed_calls(connection, name, parameters):
    """The ids that a prepared statement finds for each parameter, and the summary of what that costs."""
    for parameter in parameters[:200]:
        connection.ids(name, parameter)
    calls = Calls()
    calls.add(connection, name, parameters)
    return calls.found, calls.summary()

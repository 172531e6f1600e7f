"""What is measured: one method for each part of the benchmark, on one set, for the engines asked for.

Owns the steps and the promises checked on the way (`broken`); figures go to `results[engine][part]`. Every part makes what it
needs (table, index) when it is missing, so that parts can be run alone. A part that changes rows drops the table behind it
(insert) or uses one of its own (delete, grow).
"""

import os
import subprocess
import tempfile
import time
from functools import cached_property
from itertools import islice

import faiss_floor
import numpy as np
from datasets import NEIGHBOURS, SHARES
from engines import FILTERED, SEARCH
from server import Calls, Connection, Meter, cpu_ms, summary, timed_calls, wire

PARTS = ("load", "build", "search", "filter", "faiss", "insert", "delete", "grow", "likeness")
# Recalls at which costs are compared.
GOALS = (0.90, 0.95, 0.98, 0.99)
SETTINGS = (0.90, 0.95, 0.98, 0.99)
TOLERANCE = 0.01


# Parts of the queries between which engines take turns.
ROUNDS = 5


class Turn:
    """One index at all its settings, in one session."""

    def __init__(self, bench, contender, queries):
        self.bench, self.queries = bench, queries
        self.engine, table, index, settings, self.enough = contender
        self.connection = bench.searcher(self.engine, table, index)
        # A backend maps the server's memory page by page at first touch: that is no cost of the first setting.
        self.use(settings[0])
        for query in queries:
            self.connection.ids("search", query)
        self.calls = {setting: Calls() for setting in settings}
        self.reach = bench.reach(len(queries))

    def use(self, setting):
        self.connection.sql(f"SET {self.engine.setting} = {setting}")

    def run(self, part):
        # The processor's caches are full of what the others did.
        for at in part[:200]:
            self.connection.ids("search", self.queries[at])
        for number, (setting, calls) in enumerate(self.calls.items(), 1):
            self.use(setting)
            calls.add(self.connection, "search", [self.queries[at] for at in part])
            if self.enough and part[0] == 0 and self.recall(calls) >= self.enough:
                # The settings beyond are not tried, in the next rounds either.
                self.calls = dict(islice(self.calls.items(), number))
                break

    def recall(self, calls):
        return self.bench.data.recall(calls.found, self.reach[: len(calls.found)])

    def end(self):
        self.connection.close()
        out = []
        for setting, calls in self.calls.items():
            out.append({"setting": setting, "recall": self.recall(calls), **calls.summary()})
            full = min(map(len, calls.found)) == NEIGHBOURS
            self.bench.promise(full, f"{self.engine.name} {self.engine.setting} = {setting}: fewer than {NEIGHBOURS} rows")
        return out


class Bench:
    def __init__(self, url, pgbench, dataset, engines, smoke):
        self.url, self.pgbench, self.data, self.engines, self.smoke = url, pgbench, dataset, engines, smoke
        self.results = {engine.name: {} for engine in engines}
        self.results["rows"], self.results["dimensions"] = dataset.rows.shape
        self.broken = []

    # Shared steps

    @cached_property
    def queries(self):
        return wire(self.data.queries)

    def connect(self, *settings):
        connection = Connection(self.url)
        for setting in ("max_parallel_workers_per_gather = 0", *settings):
            connection.sql(f"SET {setting}")
        return connection

    def promise(self, holds, text):
        if not holds:
            self.broken.append(text)

    def make_table(self, connection, engine, dataset, rows=None):
        """The table `item` of an engine in a schema named by `dataset`, filled with the first `rows` rows."""
        table, data = engine.table(dataset), self.data
        connection.sql(f"DROP SCHEMA IF EXISTS {table.split('.')[0]} CASCADE")
        connection.sql(f"CREATE SCHEMA {table.split('.')[0]}")
        connection.sql(f"CREATE TABLE {table} (id int4 PRIMARY KEY, category int4, other int4, embedding {engine.type}({data.dimensions}))")
        connection.sql(f"ALTER TABLE {table} ALTER COLUMN embedding SET STORAGE PLAIN")
        rows = len(data.rows) if rows is None else rows
        if rows:
            connection.copy(table, np.arange(rows), [data.category[:rows], data.other[:rows]], data.rows[:rows])
            connection.sql(f"VACUUM ANALYZE {table}")

    def has(self, connection, name):
        return connection.one("SELECT to_regclass(%s) IS NOT NULL", name)

    def make_index(self, engine, dataset, filters=False, extra=()):
        """Builds the index; wall, processor time with workers, peak of own memory, bytes."""
        connection = self.connect(f"maintenance_work_mem = '{engine.memory}'", *extra)
        with Meter(connection.pid) as meter:
            connection.sql(engine.create_index(dataset, len(self.data.rows), filters))
        report = meter.report()
        report["index_bytes"] = connection.one(f"SELECT pg_relation_size('{engine.index(dataset)}')")
        report["table_bytes"] = connection.one(f"SELECT pg_table_size('{engine.table(dataset)}')")
        report["maintenance_work_mem"] = engine.memory
        if engine.name == "lookbook":
            report["info"] = connection.one(f"SELECT lookbook_index_info('{engine.index(dataset)}')")
            self.check(connection, engine.index(dataset), len(self.data.rows))
        connection.close()
        return report

    def check(self, connection, index, rows):
        found = connection.one(f"SELECT lookbook_index_check('{index}')")
        self.promise(found == rows, f"lookbook_index_check of {index}: {found} rows of {rows}")

    def ensure(self, engine, index=True):
        connection = self.connect()
        if not self.has(connection, engine.table(self.data.name)):
            self.make_table(connection, engine, self.data.name)
        if index and not self.has(connection, engine.index(self.data.name)):
            self.results[engine.name]["build"] = self.make_index(engine, self.data.name)
        connection.close()

    def searcher(self, engine, table, index, *settings):
        """A connection whose prepared `search` uses the index."""
        connection = self.connect(*settings)
        text = SEARCH.format(table=table)
        connection.prepare("search", text, [engine.type])
        literal = "[" + ",".join(f"{x:g}" for x in self.data.queries[0]) + "]"
        plan = "\n".join(row[0] for row in connection.sql("EXPLAIN " + text.replace("$1", f"'{literal}'")))
        if index.split(".")[-1] not in plan:
            raise AssertionError(f"the planner does not use {index}:\n{plan}")
        return connection

    def reach(self, count, allowed=None):
        return self.data.reach(count, allowed)

    def points(self, contenders, count):
        """Recall and cost at each setting of each contender (engine, table, index, settings, recall that is enough), a list for each.

        They take turns, each with all its settings on a part of the queries: what changes on the machine meanwhile meets all alike."""
        turns = [Turn(self, contender, self.queries[:count]) for contender in contenders]
        for part in np.array_split(np.arange(count), ROUNDS):
            for turn in turns:
                turn.run(part)
        return [turn.end() for turn in turns]

    # Parts

    def load(self):
        """Tables without an index, and what no index costs: COPY, and ten rows by primary key."""
        for engine in self.engines:
            connection = self.connect()
            if not (os.environ.get("KEEP") and self.has(connection, engine.table(self.data.name))):
                with Meter(connection.pid) as meter:
                    self.make_table(connection, engine, self.data.name)
                self.results[engine.name]["load"] = meter.report()
            connection.close()
        self.floor()

    def floor(self):
        engine = self.engines[0]
        connection = self.connect()
        connection.prepare("search", f"SELECT id FROM {engine.table(self.data.name)} WHERE id = ANY($1)", ["int4[]"])
        rng = np.random.default_rng(3)
        head = np.array([1, 0, 23, NEIGHBOURS, 1], ">i4").tobytes()
        wanted = np.zeros((1000, NEIGHBOURS), [("bytes", ">i4"), ("id", ">i4")])
        wanted["bytes"], wanted["id"] = 4, rng.integers(0, len(self.data.rows), wanted.shape)
        found, cost = timed_calls(connection, "search", [head + row.tobytes() for row in wanted])
        self.results["floor"] = {"ten_by_key": cost}
        connection.prepare("one", "SELECT $1::int4", ["int4"])
        _, self.results["floor"]["one"] = timed_calls(connection, "one", [b"\0\0\0\1"] * 1000)
        connection.close()

    def build(self):
        for engine in self.engines:
            self.ensure(engine, index=False)
            connection = self.connect()
            kept = os.environ.get("KEEP") and engine.name != "lookbook" and self.has(connection, engine.index(self.data.name))
            if not kept:
                connection.sql(f"DROP INDEX IF EXISTS {engine.index(self.data.name)}")
                self.results[engine.name]["build"] = self.make_index(engine, self.data.name)
                if engine.name == "lookbook":
                    connection.sql(f"DROP INDEX {engine.index(self.data.name)}")
                    alone = ("max_parallel_maintenance_workers = 0",)
                    self.results[engine.name]["build_alone"] = self.make_index(engine, self.data.name, extra=alone)
            connection.close()

    def search(self):
        for engine in self.engines:
            self.ensure(engine)
        # The cost of IVFFlat at a high recall is such that fewer queries have to do.
        few = [engine for engine in self.engines if engine.name == "ivfflat"]
        many = [engine for engine in self.engines if engine not in few]
        for engines, count in ((many, len(self.queries)), (few, min(300, len(self.queries)))):
            found = self.points([self.contender(engine) for engine in engines], count)
            for engine, points in zip(engines, found, strict=True):
                self.results[engine.name]["search"] = points
                for point in points if engine.name == "lookbook" else ():
                    reached = point["recall"] >= point["setting"] - TOLERANCE
                    self.promise(reached, f"lookbook.recall = {point['setting']}: measured {point['recall']:.4f}")
                self.results[engine.name]["throughput"] = self.throughput(engine, points)

    def contender(self, engine):
        enough = None if engine.name == "lookbook" else 0.994
        return engine, engine.table(self.data.name), engine.index(self.data.name), engine.sweep, enough

    def throughput(self, engine, points):
        """Queries per second on one and two connections, by pgbench, at the first setting that reaches 0.95."""
        point = next((point for point in points if point["recall"] >= 0.95), points[-1])
        connection = self.connect()
        schema = f"query_{engine.type}_{self.data.name}"
        connection.sql(f"DROP SCHEMA IF EXISTS {schema} CASCADE")
        connection.sql(f"CREATE SCHEMA {schema}")
        connection.sql(f"CREATE TABLE {schema}.query (id int4 PRIMARY KEY, embedding {engine.type}({self.data.dimensions}))")
        connection.sql(f"ALTER TABLE {schema}.query ALTER COLUMN embedding SET STORAGE PLAIN")
        count = min(1000, len(self.queries))
        connection.copy(f"{schema}.query", np.arange(count), [], self.data.queries[:count])
        connection.sql(f"VACUUM ANALYZE {schema}.query")
        search = SEARCH.format(table=engine.table(self.data.name)).replace("$1", f"(SELECT embedding FROM {schema}.query WHERE id = :i)")
        out = {"setting": point["setting"], "recall": point["recall"]}
        for clients in (1, 2):
            rate = self.bench_rate(f"\\set i random(0, {count - 1})\n{search};\n", clients, f"{engine.setting}={point['setting']}")
            out[f"per_second_{clients}"] = rate
        connection.close()
        return out

    def bench_rate(self, script, clients, setting):
        host = dict(pair.split("=") for pair in self.url.split())
        with tempfile.NamedTemporaryFile("w", suffix=".sql") as file:
            file.write(script)
            file.flush()
            seconds = 1 if self.smoke else 8
            command = [self.pgbench, "-h", host["host"], "-U", host["user"], "-n", "-M", "prepared", "-c", str(clients)]
            command += ["-j", "1", "-T", str(seconds), "-f", file.name, host["dbname"]]
            options = {"PGOPTIONS": f"-c max_parallel_workers_per_gather=0 -c {setting}"}
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **options})
        return next(float(line.split()[2]) for line in done.stdout.splitlines() if line.startswith("tps"))

    def filter(self):
        """Rows, recall and cost under `category = …` (in our index) and `other = …` (in none)."""
        count = min(len(self.queries), 60 if self.smoke else 200)
        for engine in self.engines:
            self.ensure(engine)
            dataset = self.data.name
            if engine.name == "lookbook":
                connection = self.connect()
                connection.sql(f"DROP INDEX {engine.index(dataset)}")
                connection.close()
                self.results[engine.name]["build_with_category"] = self.make_index(engine, dataset, filters=True)
            out = []
            for value, share in SHARES.items():
                for column in ("category", "other") if engine.name == "lookbook" else ("other",):
                    for how, settings in engine.filtering:
                        cost = self.filtered(engine, settings, column, value, count)
                        out.append({"column": column, "share": share, "how": how, **cost})
            self.results[engine.name]["filter"] = out

    def filtered(self, engine, settings, column, value, count):
        allowed = getattr(self.data, column) == value
        connection = self.searcher(engine, engine.table(self.data.name), engine.index(self.data.name), *settings)
        # No other index serves the filter; a scan of the table is not what is measured.
        connection.sql("SET enable_seqscan = off")
        text = FILTERED.format(table=engine.table(self.data.name), column=column, value=value)
        connection.prepare("filtered", text, [engine.type])
        found, cost = timed_calls(connection, "filtered", self.queries[:count])
        connection.close()
        recall = self.data.recall(found, self.reach(count, allowed), allowed)
        rows = float(np.mean([len(ids) for ids in found]))
        if engine.name == "lookbook":
            least, wanted = min(map(len, found)), min(NEIGHBOURS, int(allowed.sum()))
            self.promise(least == wanted, f"{column} of {value}: {least} rows of {wanted}")
            self.promise(recall >= 0.98, f"{column} of {value}: recall {recall:.4f}")
        return {"rows": rows, "recall": recall, **cost}

    def faiss(self):
        """faiss in this process, one thread: the practical limit."""
        self.results["faiss"] = {"search": faiss_floor.measure(self.data, self.smoke)}

    def insert(self):
        """Rows into the index of the whole set: one by one, each a transaction, and by COPY."""
        for engine in self.engines:
            self.ensure(engine)
            slow = engine.name == "hnsw"
            count = 200 if self.smoke else 2_000
            copied = count if slow else 10 * count
            fresh = self.data.fresh(count + copied)
            table, first = engine.table(self.data.name), len(self.data.rows)
            connection = self.connect()
            connection.prepare("insert", f"INSERT INTO {table} VALUES ($1, 3, 3, $2)", ["int4", engine.type])
            wall, cpu = [], []
            for at, vector in enumerate(wire(fresh[:count])):
                cpu_before, started = cpu_ms(connection.pid), time.perf_counter()
                connection.call("insert", (first + at).to_bytes(4, "big"), vector)
                wall.append((time.perf_counter() - started) * 1e3)
                cpu.append(cpu_ms(connection.pid) - cpu_before)
            out = {"single": {**summary(wall, cpu), "per_second": count / (sum(wall) / 1e3), "per_cpu_second": count / (sum(cpu) / 1e3)}}
            three = np.full(copied, 3)
            with Meter(connection.pid) as meter:
                connection.copy(table, np.arange(first + count, first + count + copied), [three, three], fresh[count:])
            out["copy"] = {"rows": copied, "per_second": copied / meter.wall_s, "per_cpu_second": copied / meter.cpu_s}
            if engine.name == "lookbook":
                self.check(connection, engine.index(self.data.name), first + count + copied)
            connection.sql(f"DROP SCHEMA {table.split('.')[0]} CASCADE")
            connection.close()
            self.results[engine.name]["insert"] = out

    def delete(self):
        """A fifth deleted and vacuumed away, in a copy of the set: time of the vacuum, recall and cost after it."""
        data = self.data
        for engine in self.engines:
            if engine.name == "hnsw" and len(data.rows) > 100_000:
                self.results[engine.name]["delete"] = {"skipped": "VACUUM of HNSW takes most of an hour at this size"}
                continue
            dataset = f"{data.name}_deleted"
            connection = self.connect(f"maintenance_work_mem = '{engine.memory}'")
            self.make_table(connection, engine, dataset)
            self.make_index(engine, dataset)
            table, index = engine.table(dataset), engine.index(dataset)
            size = connection.one(f"SELECT pg_relation_size('{index}')")
            connection.sql(f"DELETE FROM {table} WHERE id % 5 = 0")
            with Meter(connection.pid) as meter:
                connection.sql(f"VACUUM {table}")
            after = {"bytes_before": size, "bytes_after": connection.one(f"SELECT pg_relation_size('{index}')")}
            live = np.arange(len(data.rows)) % 5 != 0
            if engine.name == "lookbook":
                self.check(connection, index, int(live.sum()))
            count = min(len(self.queries), 500)
            reach = self.reach(count, live)
            searcher = self.searcher(engine, table, index)
            points = []
            for setting in self.after_settings(engine):
                searcher.sql(f"SET {engine.setting} = {setting}")
                found, cost = timed_calls(searcher, "search", self.queries[:count])
                recall = data.recall(found, reach, live)
                points.append({"setting": setting, "recall": recall, **cost})
                if engine.name == "lookbook":
                    self.promise(recall >= setting - TOLERANCE, f"after vacuum, lookbook.recall = {setting}: measured {recall:.4f}")
            searcher.close()
            connection.sql(f"DROP SCHEMA {table.split('.')[0]} CASCADE")
            connection.close()
            self.results[engine.name]["delete"] = {"vacuum": meter.report(), "search": points, **after}

    def after_settings(self, engine):
        """Where to look again: our settings, or the peer's settings that reached the goals before."""
        if engine.name == "lookbook":
            return (0.95, 0.99)
        points = self.results[engine.name].get("search", [])
        chosen = [next((point["setting"] for point in points if point["recall"] >= goal), None) for goal in (0.95, 0.99)]
        return [setting for setting in chosen if setting] or engine.sweep[2:4]

    def grow(self):
        """An index made on an empty table and filled by rows, beside the same index rebuilt."""
        for engine in self.engines:
            if engine.name != "lookbook":
                continue
            dataset = f"{self.data.name}_grown"
            connection = self.connect(f"maintenance_work_mem = '{engine.memory}'")
            self.make_table(connection, engine, dataset, rows=0)
            connection.sql(engine.create_index(dataset, 0))
            table, data, rows = engine.table(dataset), self.data, len(self.data.rows)
            with Meter(connection.pid) as meter:
                connection.copy(table, np.arange(rows), [data.category, data.other], data.rows)
            out = {"fill": {**meter.report(), "per_second": rows / meter.wall_s}}
            with Meter(connection.pid) as meter:
                connection.sql(f"VACUUM ANALYZE {table}")
            out["vacuum"] = meter.report()
            # The same rows in a table of its own, with an index built at once.
            rebuilt = f"{self.data.name}_rebuilt"
            self.make_table(connection, engine, rebuilt)
            self.make_index(engine, rebuilt)
            names = {"grown": dataset, "rebuilt": rebuilt}
            contenders = [(engine, engine.table(name), engine.index(name), SETTINGS, None) for name in names.values()]
            points = self.points(contenders, min(len(self.queries), 2000))
            for (state, name), found in zip(names.items(), points, strict=True):
                index = engine.index(name)
                self.check(connection, index, rows)
                out[state] = {
                    "search": found,
                    "info": connection.one(f"SELECT lookbook_index_info('{index}')"),
                    "index_bytes": connection.one(f"SELECT pg_relation_size('{index}')"),
                }
            for point in out["grown"]["search"]:
                reached = point["recall"] >= point["setting"] - TOLERANCE
                self.promise(reached, f"grown, lookbook.recall = {point['setting']}: measured {point['recall']:.4f}")
            for name in names.values():
                connection.sql(f"DROP SCHEMA {engine.table(name).split('.')[0]} CASCADE")
            connection.close()
            self.results[engine.name]["grow"] = out

    def likeness(self):
        """Whether the drawn vectors look like those of photos: see likeness.py."""
        import likeness

        connection = self.connect()
        self.results["likeness"] = likeness.compare(self.data, connection)
        connection.close()

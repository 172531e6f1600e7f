#!/usr/bin/env python3
"""Runs the parts of the benchmark of the index and writes what they measured; `run` starts it with a server.

Owns which parts run on which set and in which order; what a part does stands in parts.py, how it reads in report.py.
"""

import argparse
import datetime
import json
import os
import platform
import subprocess
import sys
from pathlib import Path

import parts
import report
from datasets import SETS
from engines import ENGINES
from server import Connection

# Rows and queries of each set: the whole, and for the smoke run.
SIZES = {"fm784": ((60_000, 10_000), (10_000, 200)), "emb256": ((1_000_000, 2_000), (50_000, 300))}


def chosen(variable, known, default=None):
    names = [name for name in os.environ.get(variable, "").split(",") if name] or list(default or known)
    unknown = set(names) - set(known)
    if unknown:
        raise SystemExit(f"lookbook: {variable} names {', '.join(sorted(unknown))}; known are {', '.join(known)}")
    return names


def git(*arguments):
    return subprocess.run(["git", *arguments], capture_output=True, text=True, check=False).stdout.strip()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--pgbench", required=True)
    parser.add_argument("--smoke", action="store_true")
    arguments = parser.parse_args()
    sets = chosen("SETS", SETS, ["fm784"] if arguments.smoke else None)
    names = chosen("PARTS", parts.PARTS, [part for part in parts.PARTS if part != "likeness"] if arguments.smoke else None)
    engines = [ENGINES[name] for name in chosen("ENGINES", ENGINES)]

    started = datetime.datetime.now(datetime.timezone.utc)
    connection = Connection(arguments.url)
    connection.sql("CREATE EXTENSION IF NOT EXISTS lookbook")
    connection.sql("CREATE EXTENSION IF NOT EXISTS vector")
    results = {
        "started": started.isoformat(timespec="seconds"),
        "commit": git("rev-parse", "--short", "HEAD") + (" and changes" if git("status", "--porcelain", "-uno") else ""),
        "server": connection.one("SHOW server_version"),
        "pgvector": connection.one("SELECT extversion FROM pg_extension WHERE extname = 'vector'"),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "parts": names,
        "smoke": arguments.smoke,
        "sets": {},
    }
    connection.close()
    file = arguments.results / f"{started:%Y%m%d-%H%M%S}.json"
    broken = []
    for name in sets:
        rows, queries = SIZES[name][arguments.smoke]
        folder = arguments.data / "smoke" if arguments.smoke else arguments.data
        bench = parts.Bench(arguments.url, arguments.pgbench, SETS[name](folder, rows, queries), engines, arguments.smoke)
        results["sets"][name] = bench.results
        for part in names:
            print(f"{datetime.datetime.now():%H:%M:%S} {name}: {part}", file=sys.stderr, flush=True)
            getattr(bench, part)()
            file.write_text(json.dumps(results, indent=1))
        broken += [f"{name}: {promise}" for promise in bench.broken]
    results["broken"] = broken
    file.write_text(json.dumps(results, indent=1))
    text = report.markdown(results)
    file.with_suffix(".md").write_text(text)
    print(text)
    for promise in broken:
        print(f"lookbook: broken promise: {promise}", file=sys.stderr)
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""The three indexes that are compared: how each is made, turned, and told about filters.

Knows SQL, measures nothing. Every engine has a schema of its own with one table `item`, so that no index is in the way of
another and each can be changed freely. Vectors are stored in the row (STORAGE PLAIN) for all alike, as our loader does it.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Engine:
    name: str
    type: str
    setting: str  # what turns recall
    sweep: tuple
    memory: str  # maintenance_work_mem for the build
    filtering: tuple  # for searches with a filter: (name, settings)

    def table(self, dataset):
        return f"{self.name}_{dataset}.item"

    def index(self, dataset):
        return f"{self.name}_{dataset}.item_index"

    def create_index(self, dataset, rows, filters=False):
        table = self.table(dataset)
        if self.name == "lookbook":
            return f"CREATE INDEX item_index ON {table} USING lookbook (embedding{', category' if filters else ''})"
        if self.name == "hnsw":
            return f"CREATE INDEX item_index ON {table} USING hnsw (embedding vector_l2_ops) WITH (m = 16, ef_construction = 64)"
        # pgvector's README: rows / 1000 up to a million rows.
        return f"CREATE INDEX item_index ON {table} USING ivfflat (embedding vector_l2_ops) WITH (lists = {max(50, rows // 1000)})"


HNSW_RELAXED = ("hnsw.iterative_scan = relaxed_order", "hnsw.ef_search = 40")
ENGINES = {
    engine.name: engine
    for engine in (
        Engine("lookbook", "embedding", "lookbook.recall", (0.8, 0.9, 0.95, 0.98, 0.99, 0.995), "256MB", (("recall 0.99", ("lookbook.recall = 0.99",)),)),
        Engine(
            "hnsw",
            "vector",
            "hnsw.ef_search",
            (10, 16, 24, 32, 48, 64, 90, 120, 160, 220, 300, 400, 550, 750, 1000),
            "3GB",
            (
                ("relaxed order", HNSW_RELAXED),
                ("relaxed order, limits raised", (*HNSW_RELAXED, "hnsw.max_scan_tuples = 200000", "hnsw.scan_mem_multiplier = 8")),
            ),
        ),
        Engine(
            "ivfflat",
            "vector",
            "ivfflat.probes",
            (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384),
            "3GB",
            (("relaxed order", ("ivfflat.iterative_scan = relaxed_order", "ivfflat.probes = 10")),),
        ),
    )
}
SEARCH = "SELECT id FROM {table} ORDER BY embedding <-> $1 LIMIT 10"
FILTERED = "SELECT id FROM {table} WHERE {column} = {value} ORDER BY embedding <-> $1 LIMIT 10"

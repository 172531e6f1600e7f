-- Arithmetic, comparison, btree.

SELECT '[1,2,3]'::embedding + '[4,5,6]';
SELECT '[3e38]'::embedding + '[3e38]';
SELECT '[1,2]'::embedding + '[3]';
SELECT '[1,2,3]'::embedding - '[4,5,6]';
SELECT '[-3e38]'::embedding - '[3e38]';
SELECT '[1,2]'::embedding - '[3]';
SELECT '[1,2,3]'::embedding * '[4,5,6]';
SELECT '[1e37]'::embedding * '[1e37]';
SELECT '[1e-37]'::embedding * '[1e-37]';
SELECT '[1,2]'::embedding * '[3]';
SELECT '[1,2,3]'::embedding || '[4,5]';
SELECT array_fill(0, ARRAY[16000])::embedding || '[1]';

-- weights
SELECT '[1,2,3]'::embedding * 0.5;
SELECT 2 * '[1,2,3]'::embedding;
SELECT '[1,0]'::embedding * 0.75 + 0.25 * '[0,1]'::embedding;
SELECT '[1,2]'::embedding * 0;
SELECT '[1,2]'::embedding * -1;
SELECT '[1,2]'::embedding * 1e39::float8;
SELECT '[1e-30]'::embedding * 1e-30;
SELECT '[1]'::embedding * 'NaN'::float8;
SELECT '[1]'::embedding * 'Infinity'::float8;
SELECT '[1]'::embedding * NULL::float8;

-- comparison: element by element, then by length
SELECT a, b, a < b AS lt, a <= b AS le, a = b AS eq, a <> b AS ne, a >= b AS ge, a > b AS gt, embedding_cmp(a, b)
  FROM (VALUES ('[1,2,3]'::embedding, '[1,2,3]'::embedding), ('[1,2,3]', '[1,2]'), ('[1,2]', '[1,2,3]'), ('[1,2]', '[2,3,4]'),
    ('[2,3]', '[1,2,3]'), ('[0]', '[-0]'), ('[-1]', '[1]'), ('[1,2,3]', '[0,9,9]')) AS pairs (a, b);
SELECT '[1]'::embedding = NULL;
SELECT DISTINCT v FROM unnest('{"[2]","[1]","[2]","[1,1]"}'::embedding[]) v ORDER BY v;
SELECT max(v::text) FROM unnest('{"[2]","[1]"}'::embedding[]) v GROUP BY v ORDER BY 1;

-- btree
CREATE TABLE t (v embedding(3));
INSERT INTO t (v) VALUES ('[0,0,0]'), ('[1,2,3]'), ('[1,1,1]'), (NULL);
CREATE INDEX ON t (v);
SET enable_seqscan = off;
EXPLAIN (COSTS OFF) SELECT * FROM t WHERE v = '[1,2,3]';
SELECT * FROM t WHERE v = '[1,2,3]';
SELECT * FROM t WHERE v > '[0,5,0]' ORDER BY v DESC;
SELECT * FROM t ORDER BY v;
SELECT * FROM t ORDER BY v DESC NULLS LAST;
RESET enable_seqscan;
SET enable_hashjoin = off;
SET enable_nestloop = off;
SELECT a.v FROM t a JOIN t b USING (v) ORDER BY 1;
RESET enable_hashjoin;
RESET enable_nestloop;
DROP TABLE t;

CREATE TABLE t (v embedding UNIQUE);
INSERT INTO t VALUES ('[1,2]'), ('[1]'), (NULL), (NULL);
INSERT INTO t VALUES ('[1,2]');
INSERT INTO t VALUES ('[1,2]') ON CONFLICT DO NOTHING;
INSERT INTO t SELECT array_agg(i) FROM generate_series(1, 3000) i;
DROP TABLE t;

-- nearest first
CREATE TABLE t (id int, v embedding(2));
INSERT INTO t VALUES (1, '[0,0]'), (2, '[3,4]'), (3, '[1,0]'), (4, NULL), (5, '[-1,-2]');
SELECT id, v <-> '[1,1]' AS distance FROM t ORDER BY v <-> '[1,1]', id;
SELECT id FROM t ORDER BY v <#> '[1,1]', id LIMIT 2;
SELECT id FROM t WHERE v <=> '[2,0]' < 0.5 ORDER BY id;
SELECT id FROM t WHERE v <-> '[0,0,0]' < 1;
DROP TABLE t;

-- avg and sum.

SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::embedding, '[3,5,7]']) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY['[1,2,3]'::embedding, '[3,5,7]', NULL]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[NULL, NULL]::embedding[]) v;
SELECT avg(v), sum(v) FROM unnest(ARRAY[]::embedding[]) v;
SELECT avg(v) FROM unnest(ARRAY['[1,2]'::embedding, '[3]']) v;
SELECT sum(v) FROM unnest(ARRAY['[1,2]'::embedding, '[3]']) v;
SELECT avg(v) FROM unnest(ARRAY['[3e38]'::embedding, '[3e38]']) v;
SELECT sum(v) FROM unnest(ARRAY['[3e38]'::embedding, '[3e38]']) v;
-- sums are kept in double precision
SELECT sum(v) FROM unnest(ARRAY['[3e38,1e20]'::embedding, '[3e38,1]', '[-3e38,-1e20]', '[-3e38,0]']) v;
SELECT sum(v) FROM (SELECT '[16777216]'::embedding UNION ALL SELECT '[1]' FROM generate_series(1, 4)) AS s (v);

-- groups, windows, and a moving frame
SELECT k, avg(v), count(*) FROM (VALUES (1, '[1,2]'::embedding), (2, '[5,6]'), (1, '[3,4]')) AS t (k, v) GROUP BY k ORDER BY k;
SELECT k, avg(v) OVER (ORDER BY k), sum(v) OVER (ORDER BY k ROWS 1 PRECEDING)
  FROM (VALUES (1, '[1,2]'::embedding), (2, '[5,6]'), (3, '[3,4]')) AS t (k, v);

-- in parallel
CREATE TABLE t AS SELECT i % 3 AS k, ARRAY[i, -i, i % 7]::embedding(3) AS v FROM generate_series(1, 10000) i;
ANALYZE t;
SET parallel_setup_cost = 0;
SET parallel_tuple_cost = 0;
SET min_parallel_table_scan_size = 0;
SET max_parallel_workers_per_gather = 2;
EXPLAIN (COSTS OFF) SELECT avg(v), sum(v) FROM t;
SELECT avg(v), sum(v) FROM t;
SELECT avg(v), sum(v) FROM t WHERE k > 5;
SELECT k, avg(v), sum(v) FROM t GROUP BY k ORDER BY k;
SET max_parallel_workers_per_gather = 0;
SELECT avg(v), sum(v) FROM t;
DROP TABLE t;

-- the functions behind them, with anything that SQL can hand them
SELECT embedding_accum('{0}', '[1,2,3]');
SELECT embedding_accum('{1,1,2,3}', '[1,2,3]');
SELECT embedding_accum('{{0}}', '[1,2,3]');
SELECT embedding_accum('{NULL}', '[1,2,3]');
SELECT embedding_accum('{}', '[1,2,3]');
SELECT embedding_accum('{0,0}', '[1,2,3]');
SELECT embedding_accum('{1,1.7e308}', '[1]');
SELECT embedding_combine('{1,2}', '{3,4}');
SELECT embedding_combine('{0}', '{3,4}');
SELECT embedding_combine('{3,4}', '{0}');
SELECT embedding_combine('{0}', '{0}');
SELECT embedding_combine('{1,2}', '{3,4,5}');
SELECT embedding_combine('{{1,2}}', '{3,4}');
SELECT embedding_combine('{1,2}', '{3,NULL}');
SELECT embedding_combine('{}', '{0}');
SELECT embedding_combine('{1,1.7e308}', '{1,1.7e308}');
SELECT embedding_combine('{0}', (SELECT array_agg(n) FROM generate_series(1, 16002) n));
SELECT embedding_avg('{2,2,4,6}');
SELECT embedding_avg('{0}');
SELECT embedding_avg('{1}');
SELECT embedding_avg('{{2,2,4,6}}');
SELECT embedding_avg('{NULL,2,4,6}');
SELECT embedding_avg('{1,NaN}');
SELECT embedding_avg(array_agg(n)) FROM generate_series(1, 16002) n;
SELECT embedding_sum('{2,2,4,6}');
SELECT embedding_sum('{1,1e39}');

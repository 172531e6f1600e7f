-- What an index takes, and the words in which it refuses the rest.
CREATE TABLE look (id int, category text, v embedding(3), any_size embedding, place point);
INSERT INTO look SELECT n, 'category ' || n % 3, ARRAY[n, n % 7, 1]::real[]::embedding FROM generate_series(1, 100) AS n;

-- the column
CREATE INDEX ON look USING lookbook (any_size);
CREATE INDEX ON look USING lookbook (category);
CREATE INDEX ON look USING lookbook (category, v);
CREATE INDEX ON look USING lookbook (v, v);
CREATE INDEX ON look USING lookbook (v, place);
CREATE INDEX ON look USING lookbook ((v + v));
CREATE INDEX looks_of_length_1 ON look USING lookbook ((l2_normalize(v)::embedding(3)));
DROP INDEX looks_of_length_1;
CREATE INDEX ON look USING lookbook (v text_ops);
CREATE INDEX ON look USING lookbook (v embedding_l1_ops);

-- what other indexes have
CREATE UNIQUE INDEX ON look USING lookbook (v);
CREATE INDEX ON look USING lookbook (v) INCLUDE (category);
CREATE INDEX ON look USING lookbook (v DESC);
CREATE INDEX ON look USING lookbook (v NULLS FIRST);
ALTER TABLE look ADD EXCLUDE USING lookbook (category WITH =);
CREATE TABLE nine (v embedding(3), a int, b int, c int, d int, e int, f int, g int, h int, i int);
CREATE INDEX ON nine USING lookbook (v, a, b, c, d, e, f, g, h, i);

-- options
CREATE INDEX ON look USING lookbook (v) WITH (lists = -1);
CREATE INDEX ON look USING lookbook (v) WITH (lists = 1000001);
CREATE INDEX ON look USING lookbook (v) WITH (bits = 3);
CREATE INDEX ON look USING lookbook (v) WITH (bits = 9);
CREATE INDEX ON look USING lookbook (v) WITH (bits = many);
CREATE INDEX ON look USING lookbook (v) WITH (fillfactor = 90);
CREATE INDEX ON look USING lookbook (v) WITH (m = 16);
SELECT count(*) FROM pg_class WHERE relname LIKE 'look\_%idx%';

-- a sound one
CREATE INDEX looks ON look USING lookbook (v, category) WITH (lists = 2, bits = 6);
SELECT pg_get_indexdef('looks'::regclass);
SELECT amname, amtype FROM pg_am WHERE amname = 'lookbook';
SELECT lookbook_index_check('looks');
SELECT key, value FROM jsonb_each(lookbook_index_info('looks'))
  WHERE key IN ('rows', 'dead_rows', 'dimensions', 'bits', 'filter_columns') ORDER BY key;
SELECT jsonb_array_length(lookbook_index_info('looks') -> 'calibration');
CLUSTER look USING looks;
ALTER INDEX looks SET (bits = 3);
ALTER INDEX looks SET (bits = 8);
REINDEX INDEX looks;
SELECT lookbook_index_info('looks') -> 'bits' AS bits;

-- rows and queries
INSERT INTO look VALUES (101, 'x', '[1,2]');
INSERT INTO look VALUES (101, 'x', '[1,2,NaN]');
INSERT INTO look VALUES (101, 'x', '[1e38,1e38,1e38]'), (102, 'x', NULL), (103, NULL, '[0,0,0]');
INSERT INTO look (id, v) SELECT 200 + n, CASE WHEN n < 3 THEN '[9,9,9]' ELSE '[9,9]' END::embedding FROM generate_series(1, 3) n;
SELECT lookbook_index_check('looks'), count(*), max(id) FROM look;
SET enable_seqscan = off;
SET enable_sort = off;
SELECT id, v <-> '[3,3,1]' AS distance FROM look ORDER BY v <-> '[3,3,1]', id LIMIT 5;
SELECT id, category FROM look WHERE category = 'category 1' ORDER BY v <-> '[3,3,1]' LIMIT 3;
SELECT id, category FROM look WHERE category = 'nobody' ORDER BY v <-> '[3,3,1]' LIMIT 3;
SELECT count(*) FROM (SELECT FROM look ORDER BY v <-> '[3,3,1]') AS every_row;
SELECT id FROM look ORDER BY v <-> '[3,3]' LIMIT 1;
SELECT id FROM look ORDER BY v <-> NULL LIMIT 0;
EXPLAIN (COSTS OFF) SELECT id FROM look WHERE category IN ('a', 'b') ORDER BY v <-> '[3,3,1]' LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM look ORDER BY v <-> '[3,3,1]', id LIMIT 5;
EXPLAIN (COSTS OFF) SELECT id FROM look WHERE v <-> '[3,3,1]' < 2 ORDER BY v <-> '[3,3,1]' LIMIT 5;
SELECT id FROM look WHERE v <-> '[3,3,1]' < 2 ORDER BY v <-> '[3,3,1]', id;

-- the setting
SHOW lookbook.recall;
SET lookbook.recall = 0.99;
SET lookbook.recall = 0.4;
SET lookbook.recall = 1.1;
SHOW lookbook.recall;
RESET lookbook.recall;

-- looking inside
SELECT lookbook_index_check('look');
CREATE INDEX btree ON look (id);
SELECT lookbook_index_info('btree');
SELECT lookbook_index_check(NULL) IS NULL;
SELECT lookbook_index_check(0);

-- classes
SELECT opcname, opcdefault, amvalidate(c.oid) FROM pg_opclass c JOIN pg_am a ON a.oid = opcmethod
  WHERE amname = 'lookbook' ORDER BY opcname COLLATE "C";
DROP TABLE look, nine;

-- dimensions that were lost
CREATE TABLE lost (v embedding(3));
CREATE INDEX lost_v ON lost USING lookbook (v);
ALTER TABLE lost ALTER v TYPE embedding;
SELECT lookbook_index_check('lost_v');

-- Text in, text out, and the declared number of dimensions.

SELECT '[1,2,3]'::embedding;
SELECT '[-1,-2,+3]'::embedding;
SELECT '[1.,2.,.5]'::embedding;
SELECT ' [ 1,  2 ,    3  ] '::embedding;
SELECT E'\t[\n1\r,\x0B2\f]\n'::embedding;
SELECT '[1.23456]'::embedding;
SELECT '[1e3,1E-3,100000,1e6,0.0001,0.00001]'::embedding;
SELECT '[1.5e38,-1.5e+38,1.5e-38]'::embedding;
SELECT '[3.4028235e38,1e-45,-1e-45]'::embedding;
SELECT '[0,-0]'::embedding;
SELECT '[1e-46,-1e-46]'::embedding;

-- what is not a vector
SELECT '[hello,1]'::embedding;
SELECT ''::embedding;
SELECT ' '::embedding;
SELECT '['::embedding;
SELECT '[ '::embedding;
SELECT '[,'::embedding;
SELECT '[,]'::embedding;
SELECT '[1,2,3'::embedding;
SELECT '[1,]'::embedding;
SELECT '[1,,2]'::embedding;
SELECT '[1, ,2]'::embedding;
SELECT '[1a]'::embedding;
SELECT '[1 2]'::embedding;
SELECT '[0x10]'::embedding;
SELECT '[[1]]'::embedding;
SELECT '1,2,3'::embedding;
SELECT '{1,2,3}'::embedding;
SELECT '[1,2,3]9'::embedding;
SELECT '[1,2,3]]'::embedding;
SELECT '[1],[2]'::embedding;
SELECT '[é]'::embedding;

-- what is not finite
SELECT '[NaN,1]'::embedding;
SELECT '[Infinity,1]'::embedding;
SELECT '[-inf,1]'::embedding;
SELECT '[4e38,1]'::embedding;
SELECT '[1,-4e38]'::embedding;
SELECT '[1e999999999999]'::embedding;

-- dimensions
SELECT '[]'::embedding;
SELECT '[ ]'::embedding;
SELECT embedding_dims(('[' || repeat('0,', 15999) || '0]')::embedding);
SELECT ('[' || repeat('0,', 16000) || '0]')::embedding;

-- declared dimensions
SELECT '[1,2,3]'::embedding(3);
SELECT '[1,2,3]'::embedding(2);
SELECT '[1,2,3]'::embedding(3, 2);
SELECT '[1,2,3]'::embedding('a');
SELECT '[1,2,3]'::embedding(0);
SELECT '[1,2,3]'::embedding(-1);
SELECT '[1,2,3]'::embedding(16000);
SELECT '[1,2,3]'::embedding(16001);
SELECT '{"[1,2,3]"}'::embedding(2)[];
SELECT unnest('{"[1,2,3]","[4,5,6]"}'::embedding[]);

CREATE TABLE t (id int, v embedding(3));
INSERT INTO t VALUES (1, '[1,2,3]'), (2, NULL), (3, ARRAY[4,5,6]);
INSERT INTO t VALUES (4, '[1,2]');
INSERT INTO t SELECT 5, '[1,2]'::embedding;
UPDATE t SET v = v || '[4]';
SELECT * FROM t ORDER BY id;
SELECT format_type(atttypid, atttypmod), attstorage, attlen
  FROM pg_attribute WHERE attrelid = 't'::regclass AND attname = 'v';
ALTER TABLE t ALTER v TYPE embedding(2);
ALTER TABLE t ALTER v TYPE embedding;
INSERT INTO t VALUES (6, '[1]');
SELECT id, v, pg_column_size(v) FROM t ORDER BY id;
DROP TABLE t;

-- out of line, and compressed all the same when a table asks for it
CREATE TABLE t (id int, v embedding);
ALTER TABLE t ALTER v SET STORAGE main;
INSERT INTO t SELECT 1, array_agg(0) FROM generate_series(1, 4000);
ALTER TABLE t ALTER v SET STORAGE external;
INSERT INTO t SELECT 2, array_agg(i) FROM generate_series(1, 4000) i;
SELECT id, embedding_dims(v), embedding_norm(v) FROM t ORDER BY id;
SELECT abs((a.v <-> b.v) / embedding_norm(b.v) - 1) < 1e-6 AS near FROM t a, t b WHERE a.id = 1 AND b.id = 2;
DROP TABLE t;

-- the digits are those of real
SELECT count(*), bool_and(ARRAY[x]::embedding::text = '[' || x::text || ']')
  FROM (SELECT (m * 1.1 * 10.0 ^ e)::real FROM generate_series(-99, 99) m, generate_series(-38, 35) e) AS numbers (x);

-- the binary form
SELECT embedding_send('[1,-2]');
SELECT embedding_send('[1,-2]') = '\x0002'::bytea || '\x0000' || float4send(1) || float4send(-2);

-- what a program sees
\set VERBOSITY sqlstate
SELECT '[1'::embedding;
SELECT '[1]x'::embedding;
SELECT '[]'::embedding;
SELECT '[NaN]'::embedding;
SELECT '[4e38]'::embedding;
SELECT '[1,2,3]'::embedding(2);
SELECT '[1,2,3]'::embedding(0);
SELECT ('[' || repeat('0,', 16000) || '0]')::embedding;
SELECT '[1,2]'::embedding <-> '[1]';
SELECT '[3e38]'::embedding + '[3e38]';
SELECT ARRAY[NULL]::real[]::embedding;

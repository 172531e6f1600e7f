-- Distances, norms, parts.

SELECT l2_distance('[0,0]'::embedding, '[3,4]');
SELECT l2_distance('[0,0]'::embedding, '[0,1]');
SELECT l2_distance('[1,2]'::embedding, '[3]');
SELECT l2_distance('[3e38]'::embedding, '[-3e38]');
SELECT l2_distance('[1,1,1,1,1,1,1,1,1]'::embedding, '[1,1,1,1,1,1,1,4,5]');
SELECT l2_distance('[1]'::embedding, NULL);
SELECT '[0,0]'::embedding <-> '[3,4]';
SELECT l2_squared_distance('[0,0]'::embedding, '[3,4]');

SELECT inner_product('[1,2]'::embedding, '[3,4]');
SELECT inner_product('[1,2]'::embedding, '[3]');
SELECT inner_product('[3e38]'::embedding, '[3e38]');
SELECT inner_product('[1,1,1,1,1,1,1,1,1]'::embedding, '[1,2,3,4,5,6,7,8,9]');
SELECT negative_inner_product('[1,2]'::embedding, '[3,4]');
SELECT '[1,2]'::embedding <#> '[3,4]';
SELECT '[0]'::embedding <#> '[1]';

SELECT cosine_distance('[1,2]'::embedding, '[2,4]');
SELECT cosine_distance('[1,2]'::embedding, '[0,0]');
SELECT cosine_distance('[1,0]'::embedding, '[0,2]');
SELECT cosine_distance('[1,1]'::embedding, '[-1,-1]');
SELECT cosine_distance('[1,2]'::embedding, '[3]');
SELECT cosine_distance('[1,1]'::embedding, '[1.1,1.1]') < 1e-6;
SELECT cosine_distance('[3e38]'::embedding, '[3e38]');
SELECT cosine_distance('[1,2,3,4,5,6,7,8,9]'::embedding, '[-1,-2,-3,-4,-5,-6,-7,-8,-9]');
SELECT '[1,2]'::embedding <=> '[2,4]';

SELECT l1_distance('[0,0]'::embedding, '[3,-4]');
SELECT l1_distance('[1,2]'::embedding, '[3]');
SELECT l1_distance('[3e38]'::embedding, '[-3e38]');
SELECT '[0,0]'::embedding <+> '[3,4]';

SELECT embedding_dims('[1,2,3]');
SELECT embedding_norm('[3,4]');
SELECT round(embedding_norm('[1,1]')::numeric, 12);
SELECT embedding_norm('[3e37,4e37]')::real;
SELECT embedding_norm('[0,0]');

SELECT l2_normalize('[3,4]'::embedding);
SELECT l2_normalize('[0,0.1]'::embedding);
SELECT l2_normalize('[0,0]'::embedding);
SELECT l2_normalize('[3e38]'::embedding);
SELECT l2_normalize('[1e-45]'::embedding);

SELECT subvector('[1,2,3,4,5]'::embedding, 1, 3);
SELECT subvector('[1,2,3,4,5]'::embedding, 3, 2);
SELECT subvector('[1,2,3,4,5]'::embedding, -1, 3);
SELECT subvector('[1,2,3,4,5]'::embedding, 3, 9);
SELECT subvector('[1,2,3,4,5]'::embedding, 1, 0);
SELECT subvector('[1,2,3,4,5]'::embedding, 3, -1);
SELECT subvector('[1,2,3,4,5]'::embedding, -1, 2);
SELECT subvector('[1,2,3,4,5]'::embedding, 2147483647, 10);
SELECT subvector('[1,2,3,4,5]'::embedding, 3, 2147483647);
SELECT subvector('[1,2,3,4,5]'::embedding, -2147483644, 2147483647);

-- the kernels against plain SQL, at every number of dimensions around their blocks
CREATE FUNCTION pseudo_random(seed int, dimensions int) RETURNS embedding LANGUAGE sql IMMUTABLE AS
  $$ SELECT array_agg((hashint8(seed * 100000 + i) % 1000) / 8.0) FROM generate_series(1, dimensions) i $$;
CREATE TABLE pairs AS
  SELECT n, pseudo_random(1, n) AS a, pseudo_random(2, n) AS b FROM generate_series(1, 130) n;
SELECT count(*),
    count(*) FILTER (WHERE abs((a <-> b) / l2 - 1) < 1e-6) AS l2,
    count(*) FILTER (WHERE abs((a <+> b) / l1 - 1) < 1e-6) AS l1,
    count(*) FILTER (WHERE abs(inner_product(a, b) - ip) < 1e-6 * magnitude) AS inner_product,
    count(*) FILTER (WHERE abs((a <=> b) - (1 - ip / sqrt(aa * bb))) < 1e-6) AS cosine,
    count(*) FILTER (WHERE abs(embedding_norm(a) / sqrt(aa) - 1) < 1e-12) AS norm
  FROM pairs, LATERAL (
    SELECT sqrt(sum((x - y) ^ 2)) AS l2, sum(abs(x - y)) AS l1, sum(x * y) AS ip, sum(abs(x * y)) AS magnitude,
      sum(x * x) AS aa, sum(y * y) AS bb
    FROM unnest(a::float8[], b::float8[]) AS elements (x, y)) AS plain;
DROP TABLE pairs;

-- every function of the type can be planned, cached and run in parallel: none is listed
SELECT oid::regprocedure AS exception FROM pg_proc
 WHERE prosrc LIKE 'embedding\_%' AND NOT (provolatile = 'i' AND proisstrict AND proparallel = 's');
SELECT count(*) >= 40 AS many FROM pg_proc WHERE prosrc LIKE 'embedding\_%';

-- Casts between embedding and arrays.

SELECT ARRAY[1,2,3]::embedding;
SELECT ARRAY[1.5,2.25,3.0]::embedding;
SELECT ARRAY[1.5,2.25,3.0]::numeric[]::embedding;
SELECT ARRAY[1.5,2.25,3.0]::real[]::embedding;
SELECT ARRAY[1.5,2.25,3.0]::double precision[]::embedding;
SELECT '{1,2,3}'::real[]::embedding(3);
SELECT '{2147483647,-2147483648}'::integer[]::embedding;
SELECT '[2:4]={1,2,3}'::integer[]::embedding;

-- refused, whatever the element type
SELECT '{1,2,3}'::integer[]::embedding(2);
SELECT '{1,2,3}'::real[]::embedding(2);
SELECT '{1,2,3}'::double precision[]::embedding(2);
SELECT '{1,2,3}'::numeric[]::embedding(2);
SELECT '{1,NULL}'::integer[]::embedding;
SELECT '{1,NULL}'::real[]::embedding;
SELECT '{1,NULL}'::double precision[]::embedding;
SELECT '{1,NULL}'::numeric[]::embedding;
SELECT '{}'::integer[]::embedding;
SELECT '{}'::real[]::embedding;
SELECT '{}'::double precision[]::embedding;
SELECT '{}'::numeric[]::embedding;
SELECT '{{1,2},{3,4}}'::integer[]::embedding;
SELECT '{{1,2},{3,4}}'::real[]::embedding;
SELECT '{{1,2},{3,4}}'::double precision[]::embedding;
SELECT '{{1,2},{3,4}}'::numeric[]::embedding;
SELECT '{NaN}'::real[]::embedding;
SELECT '{NaN}'::double precision[]::embedding;
SELECT '{NaN}'::numeric[]::embedding;
SELECT '{Infinity}'::real[]::embedding;
SELECT '{-Infinity}'::double precision[]::embedding;
SELECT '{Infinity}'::numeric[]::embedding;
SELECT '{4e38,-4e38}'::double precision[]::embedding;
SELECT '{4e38}'::numeric[]::embedding;
SELECT array_agg(n)::embedding FROM generate_series(1, 16001) n;
SELECT array_to_embedding(array_agg(n), 16001, false) FROM generate_series(1, 16001) n;

-- rounding
SELECT '{1e-46,-1e-46}'::double precision[]::embedding;
SELECT '{0.1,16777217}'::double precision[]::embedding;

-- back
SELECT '[1,2.5,-3]'::embedding::real[];
SELECT '[1,2.5,-3]'::embedding::double precision[];
SELECT '[1,2.5,-3]'::embedding::numeric[];
SELECT '[1,2.5,3.5,-2.5,-0.4]'::embedding::integer[];
SELECT '[-2147483648]'::embedding::integer[];
SELECT '[2147483648]'::embedding::integer[];
SELECT '[0.1]'::embedding::double precision[];
SELECT '[0.1,1e-7,3e38]'::embedding::numeric[];
SELECT array_lower('[1,2,3]'::embedding::real[], 1);
SELECT unnest('[1,2,3]'::embedding::real[]);

-- assignment needs no cast
CREATE TABLE t (i integer[], r real[], d double precision[], n numeric[], v embedding);
INSERT INTO t SELECT v, v, v, v, ARRAY[1,2] FROM (SELECT '[3,4]'::embedding) AS s (v);
UPDATE t SET v = d;
SELECT * FROM t;
DROP TABLE t;

-- arrays in variables of a function are stored expanded
CREATE FUNCTION expanded(n integer) RETURNS embedding LANGUAGE plpgsql AS $$
DECLARE elements real[] := '{}';
BEGIN
  FOR i IN 1..n LOOP elements[i] := i; END LOOP;
  RETURN elements;
END $$;
SELECT expanded(3);

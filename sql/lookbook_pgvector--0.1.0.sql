-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION lookbook_pgvector" to load this file. \quit

-- The two types are stored alike to the byte, so a cast is free: nothing is copied or checked but
-- the dimensions that a column declares.

-- Implicit one way only: a vector is taken wherever an embedding is, and an expression of both has
-- one meaning.
CREATE CAST (vector AS embedding) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (embedding AS vector) WITHOUT FUNCTION AS ASSIGNMENT;

-- lookbook's index on vector columns: CREATE INDEX ON item USING lookbook (embedding vector_l2_ops).

CREATE FUNCTION lookbook_within_limit(vector, double precision) RETURNS boolean
	AS '$libdir/lookbook', 'lookbook_within_limit_wrapper'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_within_limit(vector, double precision) IS 'implementation of <<->> operator';

CREATE OPERATOR <<->> (
	LEFTARG = vector, RIGHTARG = double precision, FUNCTION = lookbook_within_limit
);
COMMENT ON OPERATOR <<->> (vector, double precision) IS
	'always true; the planner adds it to an ordered index scan with a distance limit, for the scan to end there';

CREATE OPERATOR CLASS vector_l2_ops
	DEFAULT FOR TYPE vector USING lookbook AS
	OPERATOR 1 <-> (vector, vector) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (vector, double precision),
	FUNCTION 2 lookbook_metric_l2();

CREATE OPERATOR CLASS vector_cosine_ops
	FOR TYPE vector USING lookbook AS
	OPERATOR 1 <=> (vector, vector) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (vector, double precision),
	FUNCTION 2 lookbook_metric_cosine();

CREATE OPERATOR CLASS vector_ip_ops
	FOR TYPE vector USING lookbook AS
	OPERATOR 1 <#> (vector, vector) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (vector, double precision),
	FUNCTION 2 lookbook_metric_inner_product();

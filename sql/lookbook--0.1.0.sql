-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION lookbook" to load this file. \quit

-- The type embedding. Names, semantics and errors follow pgvector's vector.

CREATE TYPE embedding;

CREATE FUNCTION embedding_in(cstring, oid, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_in_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_in(cstring, oid, integer) IS 'I/O';

CREATE FUNCTION embedding_out(embedding) RETURNS cstring
	AS 'MODULE_PATHNAME', 'embedding_out_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_out(embedding) IS 'I/O';

CREATE FUNCTION embedding_typmod_in(cstring[]) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_typmod_in_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_typmod_in(cstring[]) IS 'I/O typmod';

CREATE FUNCTION embedding_recv(internal, oid, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_recv_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_recv(internal, oid, integer) IS 'I/O';

CREATE FUNCTION embedding_send(embedding) RETURNS bytea
	AS 'MODULE_PATHNAME', 'embedding_send_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_send(embedding) IS 'I/O';

CREATE TYPE embedding (
	INPUT = embedding_in,
	OUTPUT = embedding_out,
	TYPMOD_IN = embedding_typmod_in,
	RECEIVE = embedding_recv,
	SEND = embedding_send,
	ALIGNMENT = int4,
	STORAGE = external
);
COMMENT ON TYPE embedding IS 'vector of single-precision numbers: 1 to 16000 dimensions, all finite';

-- casts

CREATE FUNCTION embedding(embedding, integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_check_typmod_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding(embedding, integer, boolean) IS 'check the dimensions of an embedding';

CREATE FUNCTION array_to_embedding(integer[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_from_integers_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_embedding(integer[], integer, boolean) IS 'convert integer array to embedding';

CREATE FUNCTION array_to_embedding(real[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_from_reals_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_embedding(real[], integer, boolean) IS 'convert real array to embedding';

CREATE FUNCTION array_to_embedding(double precision[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_from_doubles_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_embedding(double precision[], integer, boolean) IS 'convert double precision array to embedding';

CREATE FUNCTION array_to_embedding(numeric[], integer, boolean) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_from_numerics_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION array_to_embedding(numeric[], integer, boolean) IS 'convert numeric array to embedding';

CREATE FUNCTION embedding_to_real(embedding, integer, boolean) RETURNS real[]
	AS 'MODULE_PATHNAME', 'embedding_to_reals_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_to_real(embedding, integer, boolean) IS 'convert embedding to real array';

CREATE FUNCTION embedding_to_double(embedding, integer, boolean) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'embedding_to_doubles_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_to_double(embedding, integer, boolean) IS 'convert embedding to double precision array';

CREATE FUNCTION embedding_to_integer(embedding, integer, boolean) RETURNS integer[]
	AS 'MODULE_PATHNAME', 'embedding_to_integers_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_to_integer(embedding, integer, boolean) IS 'convert embedding to integer array, rounding';

CREATE FUNCTION embedding_to_numeric(embedding, integer, boolean) RETURNS numeric[]
	AS 'MODULE_PATHNAME', 'embedding_to_numerics_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_to_numeric(embedding, integer, boolean) IS 'convert embedding to numeric array';

CREATE CAST (embedding AS embedding)
	WITH FUNCTION embedding(embedding, integer, boolean) AS IMPLICIT;

CREATE CAST (integer[] AS embedding)
	WITH FUNCTION array_to_embedding(integer[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (real[] AS embedding)
	WITH FUNCTION array_to_embedding(real[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (double precision[] AS embedding)
	WITH FUNCTION array_to_embedding(double precision[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (numeric[] AS embedding)
	WITH FUNCTION array_to_embedding(numeric[], integer, boolean) AS ASSIGNMENT;
CREATE CAST (embedding AS real[])
	WITH FUNCTION embedding_to_real(embedding, integer, boolean) AS IMPLICIT;
CREATE CAST (embedding AS double precision[])
	WITH FUNCTION embedding_to_double(embedding, integer, boolean) AS ASSIGNMENT;
CREATE CAST (embedding AS integer[])
	WITH FUNCTION embedding_to_integer(embedding, integer, boolean) AS ASSIGNMENT;
CREATE CAST (embedding AS numeric[])
	WITH FUNCTION embedding_to_numeric(embedding, integer, boolean) AS ASSIGNMENT;

-- functions. A distance reads its whole argument, which is why it costs more than one unit.

CREATE FUNCTION l2_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_l2_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION l2_distance(embedding, embedding) IS 'Euclidean distance';

CREATE FUNCTION cosine_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_cosine_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION cosine_distance(embedding, embedding) IS 'cosine distance';

CREATE FUNCTION inner_product(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION inner_product(embedding, embedding) IS 'inner product';

CREATE FUNCTION negative_inner_product(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_negative_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION negative_inner_product(embedding, embedding) IS 'negative inner product';

CREATE FUNCTION l1_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_l1_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION l1_distance(embedding, embedding) IS 'taxicab distance';

CREATE FUNCTION l2_squared_distance(embedding, embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_l2_squared_distance_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE COST 10;
COMMENT ON FUNCTION l2_squared_distance(embedding, embedding) IS 'squared Euclidean distance';

CREATE FUNCTION embedding_dims(embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_dims_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_dims(embedding) IS 'number of dimensions';

CREATE FUNCTION embedding_norm(embedding) RETURNS double precision
	AS 'MODULE_PATHNAME', 'embedding_norm_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_norm(embedding) IS 'Euclidean norm';

CREATE FUNCTION l2_normalize(embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_l2_normalize_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION l2_normalize(embedding) IS 'normalize with Euclidean norm';

CREATE FUNCTION subvector(embedding, integer, integer) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_subvector_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION subvector(embedding, integer, integer) IS 'part of an embedding';

-- distance operators

CREATE OPERATOR <-> (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = l2_distance,
	COMMUTATOR = <->
);
COMMENT ON OPERATOR <-> (embedding, embedding) IS 'Euclidean distance';

CREATE OPERATOR <=> (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = cosine_distance,
	COMMUTATOR = <=>
);
COMMENT ON OPERATOR <=> (embedding, embedding) IS 'cosine distance';

CREATE OPERATOR <#> (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = negative_inner_product,
	COMMUTATOR = <#>
);
COMMENT ON OPERATOR <#> (embedding, embedding) IS 'negative inner product';

CREATE OPERATOR <+> (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = l1_distance,
	COMMUTATOR = <+>
);
COMMENT ON OPERATOR <+> (embedding, embedding) IS 'taxicab distance';

-- arithmetic

CREATE FUNCTION embedding_add(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_add_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_add(embedding, embedding) IS 'implementation of + operator';

CREATE FUNCTION embedding_sub(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_sub_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_sub(embedding, embedding) IS 'implementation of - operator';

CREATE FUNCTION embedding_mul(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_mul_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_mul(embedding, embedding) IS 'implementation of * operator';

CREATE FUNCTION embedding_concat(embedding, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_concat_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_concat(embedding, embedding) IS 'implementation of || operator';

CREATE FUNCTION embedding_scale(embedding, double precision) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_scale_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_scale(embedding, double precision) IS 'implementation of * operator';

CREATE FUNCTION embedding_scale(double precision, embedding) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_scale_by_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_scale(double precision, embedding) IS 'implementation of * operator';

CREATE OPERATOR + (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_add,
	COMMUTATOR = +
);
COMMENT ON OPERATOR + (embedding, embedding) IS 'add';

CREATE OPERATOR - (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_sub
);
COMMENT ON OPERATOR - (embedding, embedding) IS 'subtract';

CREATE OPERATOR * (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_mul,
	COMMUTATOR = *
);
COMMENT ON OPERATOR * (embedding, embedding) IS 'multiply element by element';

CREATE OPERATOR || (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_concat
);
COMMENT ON OPERATOR || (embedding, embedding) IS 'concatenate';

CREATE OPERATOR * (
	LEFTARG = embedding, RIGHTARG = double precision, FUNCTION = embedding_scale,
	COMMUTATOR = *
);
COMMENT ON OPERATOR * (embedding, double precision) IS 'multiply every element';

CREATE OPERATOR * (
	LEFTARG = double precision, RIGHTARG = embedding, FUNCTION = embedding_scale,
	COMMUTATOR = *
);
COMMENT ON OPERATOR * (double precision, embedding) IS 'multiply every element';

-- order

CREATE FUNCTION embedding_lt(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_lt_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_lt(embedding, embedding) IS 'implementation of < operator';

CREATE FUNCTION embedding_le(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_le_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_le(embedding, embedding) IS 'implementation of <= operator';

CREATE FUNCTION embedding_eq(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_eq_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_eq(embedding, embedding) IS 'implementation of = operator';

CREATE FUNCTION embedding_ne(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_ne_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_ne(embedding, embedding) IS 'implementation of <> operator';

CREATE FUNCTION embedding_ge(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_ge_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_ge(embedding, embedding) IS 'implementation of >= operator';

CREATE FUNCTION embedding_gt(embedding, embedding) RETURNS boolean
	AS 'MODULE_PATHNAME', 'embedding_gt_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_gt(embedding, embedding) IS 'implementation of > operator';

CREATE FUNCTION embedding_cmp(embedding, embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_cmp_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_cmp(embedding, embedding) IS 'less-equal-greater';

CREATE OPERATOR < (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_lt,
	COMMUTATOR = >, NEGATOR = >=,
	RESTRICT = scalarltsel, JOIN = scalarltjoinsel
);
COMMENT ON OPERATOR < (embedding, embedding) IS 'less than';

CREATE OPERATOR <= (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_le,
	COMMUTATOR = >=, NEGATOR = >,
	RESTRICT = scalarlesel, JOIN = scalarlejoinsel
);
COMMENT ON OPERATOR <= (embedding, embedding) IS 'less than or equal';

CREATE OPERATOR = (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_eq,
	COMMUTATOR = =, NEGATOR = <>,
	RESTRICT = eqsel, JOIN = eqjoinsel,
	HASHES, MERGES
);
COMMENT ON OPERATOR = (embedding, embedding) IS 'equal';

CREATE OPERATOR <> (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_ne,
	COMMUTATOR = <>, NEGATOR = =,
	RESTRICT = neqsel, JOIN = neqjoinsel
);
COMMENT ON OPERATOR <> (embedding, embedding) IS 'not equal';

CREATE OPERATOR >= (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_ge,
	COMMUTATOR = <=, NEGATOR = <,
	RESTRICT = scalargesel, JOIN = scalargejoinsel
);
COMMENT ON OPERATOR >= (embedding, embedding) IS 'greater than or equal';

CREATE OPERATOR > (
	LEFTARG = embedding, RIGHTARG = embedding, FUNCTION = embedding_gt,
	COMMUTATOR = <, NEGATOR = <=,
	RESTRICT = scalargtsel, JOIN = scalargtjoinsel
);
COMMENT ON OPERATOR > (embedding, embedding) IS 'greater than';

CREATE OPERATOR CLASS embedding_ops
	DEFAULT FOR TYPE embedding USING btree AS
	OPERATOR 1 <,
	OPERATOR 2 <=,
	OPERATOR 3 =,
	OPERATOR 4 >=,
	OPERATOR 5 >,
	FUNCTION 1 embedding_cmp(embedding, embedding);

CREATE FUNCTION embedding_hash(embedding) RETURNS integer
	AS 'MODULE_PATHNAME', 'embedding_hash_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_hash(embedding) IS 'hash';

CREATE FUNCTION embedding_hash_extended(embedding, bigint) RETURNS bigint
	AS 'MODULE_PATHNAME', 'embedding_hash_extended_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_hash_extended(embedding, bigint) IS 'hash';

CREATE OPERATOR CLASS embedding_ops
	DEFAULT FOR TYPE embedding USING hash AS
	OPERATOR 1 =,
	FUNCTION 1 embedding_hash(embedding),
	FUNCTION 2 embedding_hash_extended(embedding, bigint);

-- aggregates

CREATE FUNCTION embedding_accum(double precision[], embedding) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'embedding_accum_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_accum(double precision[], embedding) IS 'aggregate transition function';

CREATE FUNCTION embedding_combine(double precision[], double precision[]) RETURNS double precision[]
	AS 'MODULE_PATHNAME', 'embedding_combine_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_combine(double precision[], double precision[]) IS 'aggregate combine function';

CREATE FUNCTION embedding_avg(double precision[]) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_avg_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_avg(double precision[]) IS 'aggregate final function';

CREATE FUNCTION embedding_sum(double precision[]) RETURNS embedding
	AS 'MODULE_PATHNAME', 'embedding_sum_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION embedding_sum(double precision[]) IS 'aggregate final function';

CREATE AGGREGATE avg(embedding) (
	SFUNC = embedding_accum,
	STYPE = double precision[],
	FINALFUNC = embedding_avg,
	COMBINEFUNC = embedding_combine,
	INITCOND = '{0}',
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE avg(embedding) IS 'the average (arithmetic mean) of all embeddings, element by element';

CREATE AGGREGATE sum(embedding) (
	SFUNC = embedding_accum,
	STYPE = double precision[],
	FINALFUNC = embedding_sum,
	COMBINEFUNC = embedding_combine,
	INITCOND = '{0}',
	PARALLEL = SAFE
);
COMMENT ON AGGREGATE sum(embedding) IS 'the sum of all embeddings, element by element';

-- ---------------------------------------------------------------------------------------------
-- Models are rows
-- ---------------------------------------------------------------------------------------------
-- Rules, in one place: a role sees and uses the models it owns and those granted to it or to
-- public, and changes only its own (row-level security). What comes in is validated by a trigger,
-- so that COPY and pg_restore are covered. Shipped rows come from CREATE EXTENSION alone, nobody
-- changes them, and pg_dump leaves them out.

CREATE TABLE lookbook_model (
  name text PRIMARY KEY,
  kind text NOT NULL,
  sha256 text NOT NULL,
  manifest jsonb NOT NULL,
  onnx bytea NOT NULL,
  owner name NOT NULL DEFAULT current_user,
  grantees name[] NOT NULL DEFAULT '{}',
  shipped boolean NOT NULL DEFAULT false,
  created_at timestamptz NOT NULL DEFAULT now(),
  UNIQUE (name, kind)
);
-- Weights do not compress, and an uncompressed value is read in one pass.
ALTER TABLE lookbook_model ALTER COLUMN onnx SET STORAGE EXTERNAL;
COMMENT ON TABLE lookbook_model IS 'Vision models: one row per ONNX file and its manifest';
COMMENT ON COLUMN lookbook_model.sha256 IS 'Hex digest of onnx';
COMMENT ON COLUMN lookbook_model.grantees IS 'Roles that may use the model besides its owner; public means every role';
COMMENT ON COLUMN lookbook_model.shipped IS 'Came with the extension: read-only, and not dumped';

CREATE TABLE lookbook_default_model (
  kind text NOT NULL,
  shipped boolean NOT NULL DEFAULT false,
  name text NOT NULL,
  PRIMARY KEY (kind, shipped),
  FOREIGN KEY (name, kind) REFERENCES lookbook_model (name, kind) ON UPDATE CASCADE ON DELETE CASCADE
);
COMMENT ON TABLE lookbook_default_model IS 'The model of each kind that is used when none is named; the row with shipped = false wins';

CREATE TABLE lookbook_embedding_column (
  relation regclass NOT NULL,
  attribute name NOT NULL,
  model_name text NOT NULL,
  model_sha256 text NOT NULL CHECK (model_sha256 ~ '^[0-9a-f]{64}$'),
  PRIMARY KEY (relation, attribute)
);
COMMENT ON TABLE lookbook_embedding_column IS 'Which model filled a column: vectors of two models do not mix';

GRANT SELECT, INSERT, UPDATE, DELETE ON lookbook_model, lookbook_embedding_column TO PUBLIC;
GRANT SELECT ON lookbook_default_model TO PUBLIC;

-- Roles are kept by name: a dump restores where a role is missing, and a grant to it waits there.
CREATE FUNCTION lookbook_model_changeable(owner name) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN EXISTS (SELECT FROM pg_catalog.pg_roles AS r
               WHERE r.rolname = owner AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON FUNCTION lookbook_model_changeable(name) IS 'Whether the current role may change the models of an owner';

CREATE FUNCTION lookbook_model_usable(owner name, grantees name[]) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN 'public' = ANY (grantees)
    OR EXISTS (SELECT FROM pg_catalog.pg_roles AS r
               WHERE (r.rolname = owner OR r.rolname = ANY (grantees)) AND pg_catalog.pg_has_role(r.oid, 'USAGE'));
COMMENT ON FUNCTION lookbook_model_usable(name, name[]) IS 'Whether the current role may use a model of that owner and those grantees';

ALTER TABLE lookbook_model ENABLE ROW LEVEL SECURITY;
CREATE POLICY lookbook_model_use ON lookbook_model FOR SELECT USING (lookbook_model_usable(owner, grantees));
CREATE POLICY lookbook_model_add ON lookbook_model FOR INSERT WITH CHECK (lookbook_model_changeable(owner));
CREATE POLICY lookbook_model_change ON lookbook_model FOR UPDATE USING (lookbook_model_changeable(owner));
CREATE POLICY lookbook_model_remove ON lookbook_model FOR DELETE USING (lookbook_model_changeable(owner));

-- Whoever owns the table says which model filled its column; every role may read it.
CREATE FUNCTION lookbook_relation_changeable(relation regclass) RETURNS boolean
LANGUAGE sql STABLE PARALLEL SAFE
RETURN EXISTS (SELECT FROM pg_catalog.pg_class AS c
               WHERE c.oid = relation::oid AND pg_catalog.pg_has_role(c.relowner, 'USAGE'));
COMMENT ON FUNCTION lookbook_relation_changeable(regclass) IS 'Whether the current role may say which model filled the columns of a table';

ALTER TABLE lookbook_embedding_column ENABLE ROW LEVEL SECURITY;
CREATE POLICY lookbook_embedding_column_read ON lookbook_embedding_column FOR SELECT USING (true);
CREATE POLICY lookbook_embedding_column_write ON lookbook_embedding_column
  USING (lookbook_relation_changeable(relation));

-- True only while a script of this extension runs (CREATE or ALTER EXTENSION).
CREATE FUNCTION lookbook_extension_script() RETURNS boolean
AS 'MODULE_PATHNAME', 'lookbook_extension_script_wrapper' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION lookbook_extension_script() IS 'Whether a script of this extension runs';

-- Everything that can be wrong with a model: manifest, sha256, ONNX file, one run on a generated
-- image. Returns the sha256, raises the reason.
CREATE FUNCTION lookbook_model_check(name text, kind text, sha256 text, manifest jsonb, onnx bytea) RETURNS text
AS 'MODULE_PATHNAME', 'lookbook_model_check_wrapper' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION lookbook_model_check(text, text, text, jsonb, bytea) IS 'Checks a model as storing it does; its sha256, or an error with the reason';
-- It runs what it is given: that is for who may store a model, and the trigger asks then.
REVOKE EXECUTE ON FUNCTION lookbook_model_check(text, text, text, jsonb, bytea) FROM PUBLIC;

-- The files that `make install` put beside the extension, name and sha256 checked. Raises outside
-- of this extension's scripts: no SQL user reads a server file through us.
CREATE FUNCTION lookbook_shipped_models() RETURNS TABLE (name text, kind text, sha256 text, manifest jsonb, onnx bytea)
AS 'MODULE_PATHNAME', 'lookbook_shipped_models_wrapper' LANGUAGE c VOLATILE PARALLEL UNSAFE;
COMMENT ON FUNCTION lookbook_shipped_models() IS 'The models that were installed beside the extension, for its scripts';

-- Functions with a fixed search_path have pg_catalog in it and nothing else, and name the rest with its schema: where
-- others may create in the extension's schema, a function of theirs with fitting types would be taken before
-- PostgreSQL's own. Calls pass every argument in its declared type, so that no other function fits better.
CREATE FUNCTION lookbook_model_guard_shipped() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  IF NOT @extschema@.lookbook_extension_script() THEN
    IF TG_OP <> 'INSERT' AND OLD.shipped THEN
      RAISE EXCEPTION 'model "%" is shipped with lookbook and cannot be changed or dropped', OLD.name
        USING ERRCODE = 'insufficient_privilege',
              HINT = 'Import a model of your own under another name, and make it the default with lookbook_model_default().';
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.shipped THEN
      RAISE EXCEPTION 'model "%" cannot be marked as shipped', NEW.name
        USING ERRCODE = 'insufficient_privilege',
              DETAIL = 'Only CREATE EXTENSION and ALTER EXTENSION UPDATE register shipped models.';
    END IF;
  END IF;
  IF TG_OP = 'DELETE' THEN
    RETURN OLD;
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION lookbook_model_guard_shipped() IS 'Trigger: only the extension changes shipped models';

CREATE FUNCTION lookbook_model_validate() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  -- Shipped files are checked by lookbook_shipped_models(), without starting ONNX Runtime.
  IF NOT @extschema@.lookbook_extension_script() THEN
    NEW.sha256 := @extschema@.lookbook_model_check(NEW.name, NEW.kind, NEW.sha256, NEW.manifest, NEW.onnx);
  END IF;
  RETURN NEW;
END $$;
COMMENT ON FUNCTION lookbook_model_validate() IS 'Trigger: a model is checked before it is stored';

-- Nobody makes it the trigger of another table.
REVOKE EXECUTE ON FUNCTION lookbook_model_validate() FROM PUBLIC;

CREATE TRIGGER lookbook_model_1_guard_shipped BEFORE INSERT OR UPDATE OR DELETE ON lookbook_model
  FOR EACH ROW EXECUTE FUNCTION lookbook_model_guard_shipped();
CREATE TRIGGER lookbook_model_2_validate BEFORE INSERT OR UPDATE OF name, kind, sha256, manifest, onnx ON lookbook_model
  FOR EACH ROW EXECUTE FUNCTION lookbook_model_validate();

-- NULL if there is no such model. Sees every row: it lets errors tell "not yours" from "not there".
CREATE FUNCTION lookbook_model_owner(name text) RETURNS name
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = pg_catalog, pg_temp
RETURN (SELECT m.owner FROM @extschema@.lookbook_model AS m WHERE m.name = $1);
COMMENT ON FUNCTION lookbook_model_owner(text) IS 'The owner of a model, whoever may use it; NULL if there is none of that name';

-- Raises the reason why the current role may not use (or, if change, not change) a model.
CREATE FUNCTION lookbook_model_refuse(name text, change boolean) RETURNS void
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  owner name := @extschema@.lookbook_model_owner($1);
  usable text := (SELECT string_agg(quote_literal(m.name), ', ' ORDER BY m.name) FROM @extschema@.lookbook_model AS m
                  WHERE NOT change OR @extschema@.lookbook_model_changeable(m.owner) AND NOT m.shipped);
BEGIN
  IF owner IS NULL THEN
    RAISE EXCEPTION 'model "%" does not exist', $1
      USING ERRCODE = 'undefined_object',
            HINT = CASE WHEN usable IS NULL THEN 'Import one with lookbook_model_import().'
                        ELSE format('Models that role %I may %s: %s.', current_user,
                                    CASE WHEN change THEN 'change' ELSE 'use' END, usable) END;
  ELSIF change THEN
    RAISE EXCEPTION 'must be owner of model "%"', $1
      USING ERRCODE = 'insufficient_privilege', DETAIL = format('Its owner is %I.', owner);
  ELSE
    RAISE EXCEPTION 'permission denied for model "%"', $1
      USING ERRCODE = 'insufficient_privilege',
            HINT = format('Its owner, %I, may run: SELECT lookbook_model_grant(%L, %L);', owner, $1, current_user);
  END IF;
END $$;
COMMENT ON FUNCTION lookbook_model_refuse(text, boolean) IS 'Raises why the current role may not use or change a model';

CREATE FUNCTION lookbook_model_import(name text, manifest jsonb, onnx bytea) RETURNS text
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
  new_name text := coalesce($1, $2 ->> 'name');
  new_sha256 text := encode(sha256($3), 'hex');
  old record;
BEGIN
  IF $2 IS NULL OR $3 IS NULL THEN
    RAISE EXCEPTION 'a model needs a manifest and an ONNX file, and one of them is NULL'
      USING ERRCODE = 'null_value_not_allowed';
  END IF;
  SELECT m.sha256, m.manifest INTO old FROM @extschema@.lookbook_model AS m
    WHERE m.name = new_name AND @extschema@.lookbook_model_changeable(m.owner) AND NOT m.shipped;
  IF FOUND AND old.sha256 = new_sha256 AND old.manifest = $2 THEN
    RETURN new_sha256;  -- the same import once more
  ELSIF @extschema@.lookbook_model_owner(new_name) IS NOT NULL THEN
    RAISE EXCEPTION 'model "%" already exists', new_name
      USING ERRCODE = 'duplicate_object', DETAIL = format('Its owner is %I.', @extschema@.lookbook_model_owner(new_name)),
            HINT = 'Choose another name, or remove the old one with lookbook_model_drop().';
  END IF;
  INSERT INTO @extschema@.lookbook_model (name, kind, sha256, manifest, onnx)
    VALUES (new_name, $2 ->> 'kind', new_sha256, $2, $3);
  RETURN new_sha256;
END $$;
COMMENT ON FUNCTION lookbook_model_import(text, jsonb, bytea) IS 'Checks and stores a model; its sha256';

CREATE FUNCTION lookbook_model_export(name text) RETURNS bytea
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  found_onnx bytea := (SELECT m.onnx FROM @extschema@.lookbook_model AS m WHERE m.name = $1);
BEGIN
  IF found_onnx IS NULL THEN
    PERFORM @extschema@.lookbook_model_refuse($1, change => false);
  END IF;
  RETURN found_onnx;
END $$;
COMMENT ON FUNCTION lookbook_model_export(text) IS 'The ONNX file of a model';

CREATE FUNCTION lookbook_model_drop(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  DELETE FROM @extschema@.lookbook_model AS m WHERE m.name = $1;
  IF NOT FOUND THEN
    PERFORM @extschema@.lookbook_model_refuse($1, change => true);
  END IF;
END $$;
COMMENT ON FUNCTION lookbook_model_drop(text) IS 'Removes a model';

-- role: a role's name, or public.
CREATE FUNCTION lookbook_model_grant(name text, role name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  grantee name := CASE lower($2) WHEN 'public' THEN 'public' ELSE $2 END;
BEGIN
  IF grantee <> 'public' AND to_regrole(quote_ident(grantee)) IS NULL THEN
    RAISE EXCEPTION 'role "%" does not exist', grantee USING ERRCODE = 'undefined_object';
  END IF;
  UPDATE @extschema@.lookbook_model AS m SET grantees = array_append(array_remove(m.grantees, grantee), grantee) WHERE m.name = $1;
  IF NOT FOUND THEN
    PERFORM @extschema@.lookbook_model_refuse($1, change => true);
  END IF;
END $$;
COMMENT ON FUNCTION lookbook_model_grant(text, name) IS 'Lets a role, or public, use a model';

CREATE FUNCTION lookbook_model_revoke(name text, role name) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
  UPDATE @extschema@.lookbook_model AS m
    SET grantees = array_remove(m.grantees, CASE lower($2) WHEN 'public' THEN 'public' ELSE $2 END)
    WHERE m.name = $1;
  IF NOT FOUND THEN
    PERFORM @extschema@.lookbook_model_refuse($1, change => true);
  END IF;
END $$;
COMMENT ON FUNCTION lookbook_model_revoke(text, name) IS 'Takes back what lookbook_model_grant() gave';

-- The default holds for every role, so it takes the privileges of the table that keeps it.
CREATE FUNCTION lookbook_model_default(name text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
  model record;
  kept text;
BEGIN
  SELECT m.kind, m.grantees, m.sha256 INTO model FROM @extschema@.lookbook_model AS m WHERE m.name = $1;
  IF NOT FOUND THEN
    PERFORM @extschema@.lookbook_model_refuse($1, change => false);
  END IF;
  IF NOT (has_table_privilege('@extschema@.lookbook_default_model', 'INSERT')
          AND has_table_privilege('@extschema@.lookbook_default_model', 'UPDATE')
          AND has_table_privilege('@extschema@.lookbook_default_model', 'DELETE')) THEN
    -- Loads the library: only then may a role that is no superuser set its settings.
    PERFORM '[1]'::@extschema@.embedding;
    RAISE EXCEPTION 'permission denied to set the default % of every role', model.kind
      USING ERRCODE = 'insufficient_privilege',
            HINT = format('To set it for yourself alone: ALTER ROLE %I SET lookbook.%s_model = %L;', current_user,
                          CASE model.kind WHEN 'detector' THEN 'detect' WHEN 'embedder' THEN 'embed' ELSE model.kind END, $1);
  END IF;
  IF NOT 'public' = ANY (model.grantees) THEN
    RAISE NOTICE 'model "%" is not granted to public: roles that may not use it must name another model', $1;
  END IF;
  IF EXISTS (SELECT FROM @extschema@.lookbook_default_model AS d WHERE d.shipped AND d.name = $1) THEN
    DELETE FROM @extschema@.lookbook_default_model AS d WHERE d.kind = model.kind AND NOT d.shipped;
  ELSE
    INSERT INTO @extschema@.lookbook_default_model AS d (kind, name) VALUES (model.kind, $1)
      ON CONFLICT (kind, shipped) DO UPDATE SET name = excluded.name;
  END IF;
  IF model.kind = 'embedder' THEN
    SELECT string_agg(format('%s.%I', f.relation, f.attribute), ', ' ORDER BY f.relation::text, f.attribute) INTO kept
      FROM @extschema@.lookbook_embedding_column AS f
      WHERE f.model_sha256 <> model.sha256 AND EXISTS (SELECT FROM pg_class AS c WHERE c.oid = f.relation);
    IF kept IS NOT NULL THEN
      RAISE NOTICE 'vectors of another model than "%" stay in %', $1, kept
        USING HINT = 'What embed_image() gives cannot be compared with them: embed_query() takes the model of its column, and `lookbook reembed` gives the rows of a table the vectors of another.';
    END IF;
  END IF;
END $$;
COMMENT ON FUNCTION lookbook_model_default(text) IS 'Makes a model the default of its kind for the whole database';

INSERT INTO lookbook_model (name, kind, sha256, manifest, onnx, grantees, shipped)
  SELECT m.name, m.kind, m.sha256, m.manifest, m.onnx, '{public}', true FROM lookbook_shipped_models() AS m;
INSERT INTO lookbook_default_model (kind, shipped, name)
  SELECT m.kind, true, m.name FROM lookbook_model AS m
  WHERE m.name IN ('garment-detector', 'garment-embedder', 'full-front-pose');

SELECT pg_catalog.pg_extension_config_dump('lookbook_model', 'WHERE NOT shipped');
SELECT pg_catalog.pg_extension_config_dump('lookbook_default_model', 'WHERE NOT shipped');
-- A record of a dropped table is not worth restoring.
SELECT pg_catalog.pg_extension_config_dump('lookbook_embedding_column',
  'WHERE EXISTS (SELECT FROM pg_catalog.pg_class AS c WHERE c.oid = relation)');

-- ---------------------------------------------------------------------------------------------
-- Vision
-- ---------------------------------------------------------------------------------------------
-- A NULL image gives NULL (or no rows), a NULL model the default one: so these are not STRICT.
-- The support function tells the planner that a constant image is worked on once, not per row.

CREATE FUNCTION lookbook_vision_support(internal) RETURNS internal
AS 'MODULE_PATHNAME', 'lookbook_vision_support_wrapper' LANGUAGE c STRICT IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_vision_support(internal) IS 'Planner support of embed_image and its like';

CREATE FUNCTION embed_image(image bytea, model text DEFAULT NULL) RETURNS embedding
AS 'MODULE_PATHNAME', 'embed_image_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 100000 SUPPORT lookbook_vision_support;
COMMENT ON FUNCTION embed_image(bytea, text) IS 'Embedding of a whole image';

CREATE FUNCTION try_embed_image(image bytea, model text DEFAULT NULL) RETURNS embedding
AS 'MODULE_PATHNAME', 'try_embed_image_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 100000 SUPPORT lookbook_vision_support;
COMMENT ON FUNCTION try_embed_image(bytea, text) IS 'As embed_image, but NULL for bytes that are not a readable image';

CREATE FUNCTION detect_garments(image bytea, model text DEFAULT NULL)
RETURNS TABLE (category text, label text, score real, box box, embedding embedding)
AS 'MODULE_PATHNAME', 'detect_garments_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 200000 ROWS 3;
COMMENT ON FUNCTION detect_garments(bytea, text) IS
  'Garments in an image, boxes in pixels of the upright photo, each with the embedding of its crop; no rows when none is found';

CREATE FUNCTION try_detect_garments(image bytea, model text DEFAULT NULL)
RETURNS TABLE (category text, label text, score real, box box, embedding embedding)
AS 'MODULE_PATHNAME', 'try_detect_garments_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 200000 ROWS 3;
COMMENT ON FUNCTION try_detect_garments(bytea, text) IS 'As detect_garments, but no rows for bytes that are not a readable image';

-- The same, with vectors of the model that filled a column, named as in SQL ('public.garment.embedding'), where that is
-- recorded: what the vectors of a column are compared with has to be of the same model.
CREATE FUNCTION lookbook_embed_for(image bytea, filled text) RETURNS embedding
AS 'MODULE_PATHNAME', 'lookbook_embed_for_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 100000 SUPPORT lookbook_vision_support;
COMMENT ON FUNCTION lookbook_embed_for(bytea, text) IS 'As embed_image, by the model that filled a column';
CREATE FUNCTION lookbook_detect_for(image bytea, filled text)
RETURNS TABLE (category text, label text, score real, box box, embedding embedding)
AS 'MODULE_PATHNAME', 'lookbook_detect_for_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 200000 ROWS 3;
COMMENT ON FUNCTION lookbook_detect_for(bytea, text) IS 'As detect_garments, with embeddings by the model that filled a column';

CREATE FUNCTION garment_keypoints(image bytea, model text DEFAULT NULL)
RETURNS TABLE (name text, x real, y real, score real)
AS 'MODULE_PATHNAME', 'garment_keypoints_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 100000 ROWS 17;
COMMENT ON FUNCTION garment_keypoints(bytea, text) IS
  'The 17 key points (COCO) of the person in an image, in pixels of the upright photo, with the score of each';

CREATE FUNCTION is_full_front_pose(image bytea, model text DEFAULT NULL) RETURNS boolean
AS 'MODULE_PATHNAME', 'is_full_front_pose_wrapper' LANGUAGE c STABLE PARALLEL SAFE
COST 100000;
COMMENT ON FUNCTION is_full_front_pose(bytea, text) IS
  'Whether nose, an eye, a hip and an ankle of the person in an image are seen, each with a score above 0.5';

-- What this connection has loaded and computed so far; for tests and for watching.
CREATE FUNCTION lookbook_session_stats()
RETURNS TABLE (sessions int, session_loads bigint, inferences bigint, memo_hits bigint, memo_entries int, memo_bytes bigint)
AS 'MODULE_PATHNAME', 'lookbook_session_stats_wrapper' LANGUAGE c VOLATILE PARALLEL RESTRICTED ROWS 1;
COMMENT ON FUNCTION lookbook_session_stats() IS 'Models loaded and results remembered by this connection';

-- NULL while there is no worker; looking starts none. Names of models are for members of
-- pg_read_all_stats.
CREATE FUNCTION lookbook_worker_stats() RETURNS jsonb
AS 'MODULE_PATHNAME', 'lookbook_worker_stats_wrapper' LANGUAGE c VOLATILE PARALLEL RESTRICTED;
COMMENT ON FUNCTION lookbook_worker_stats() IS 'What the view lookbook_worker shows; NULL while there is no worker';

CREATE VIEW lookbook_worker AS
SELECT r.pid, r.supervisor_pid, pg_catalog.to_timestamp(r.started_s) AS started_at, r.restarts, r.memory_bytes, r.models, r.loads, r.requests,
       r.waiting, r.running, r.errors, r.refused, r.cancelled, r.batches, r.largest_batch,
       r.batched_requests / nullif(r.batches::float8, 0::float8) AS mean_batch,
       r.queue_ms / nullif(r.batched_requests, 0::float8) AS mean_queue_ms,
       r.longest_queue_ms,
       r.inference_ms / nullif(r.batched_requests, 0::float8) AS mean_inference_ms,
       r.loaded
FROM lookbook_worker_stats() AS s
CROSS JOIN LATERAL pg_catalog.jsonb_to_record(s) AS r(pid int, supervisor_pid int, started_s float8, restarts bigint, memory_bytes bigint,
  models int, loads bigint, requests bigint, waiting int, running int, errors bigint, refused bigint, cancelled bigint, batches bigint,
  largest_batch int, batched_requests float8, queue_ms float8, longest_queue_ms float8, inference_ms float8, loaded jsonb)
WHERE s IS NOT NULL;
COMMENT ON VIEW lookbook_worker IS 'The process that runs models for the whole server; no row while there is none';
GRANT SELECT ON lookbook_worker TO PUBLIC;

-- The index access method lookbook. An embedding first, filter columns behind it:
--   CREATE INDEX ON garment USING lookbook (embedding, category);

CREATE FUNCTION lookbook_handler(internal) RETURNS index_am_handler
	AS 'MODULE_PATHNAME', 'lookbook_handler_wrapper'
	LANGUAGE C;
COMMENT ON FUNCTION lookbook_handler(internal) IS 'lookbook index access method handler';

CREATE ACCESS METHOD lookbook TYPE INDEX HANDLER lookbook_handler;
COMMENT ON ACCESS METHOD lookbook IS 'nearest neighbours of embeddings: clustered lists of quantised codes';

CREATE FUNCTION lookbook_metric_l2() RETURNS integer
	AS 'MODULE_PATHNAME', 'lookbook_metric_l2_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_metric_l2() IS 'The metric of embedding_l2_ops';
CREATE FUNCTION lookbook_metric_cosine() RETURNS integer
	AS 'MODULE_PATHNAME', 'lookbook_metric_cosine_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_metric_cosine() IS 'The metric of embedding_cosine_ops';
CREATE FUNCTION lookbook_metric_inner_product() RETURNS integer
	AS 'MODULE_PATHNAME', 'lookbook_metric_inner_product_wrapper'
	LANGUAGE C IMMUTABLE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_metric_inner_product() IS 'The metric of embedding_ip_ops';

CREATE FUNCTION lookbook_within_limit(embedding, double precision) RETURNS boolean
	AS 'MODULE_PATHNAME', 'lookbook_within_limit_wrapper'
	LANGUAGE C IMMUTABLE PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_within_limit(embedding, double precision) IS 'implementation of <<->> operator';

CREATE OPERATOR <<->> (
	LEFTARG = embedding, RIGHTARG = double precision, FUNCTION = lookbook_within_limit
);
COMMENT ON OPERATOR <<->> (embedding, double precision) IS
	'always true; the planner adds it to an ordered index scan with a distance limit, for the scan to end there';

CREATE OPERATOR CLASS embedding_l2_ops
	DEFAULT FOR TYPE embedding USING lookbook AS
	OPERATOR 1 <-> (embedding, embedding) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (embedding, double precision),
	FUNCTION 2 lookbook_metric_l2();

CREATE OPERATOR CLASS embedding_cosine_ops
	FOR TYPE embedding USING lookbook AS
	OPERATOR 1 <=> (embedding, embedding) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (embedding, double precision),
	FUNCTION 2 lookbook_metric_cosine();

CREATE OPERATOR CLASS embedding_ip_ops
	FOR TYPE embedding USING lookbook AS
	OPERATOR 1 <#> (embedding, embedding) FOR ORDER BY float_ops,
	OPERATOR 2 <<->> (embedding, double precision),
	FUNCTION 2 lookbook_metric_inner_product();

-- Filter columns: the hash functions of PostgreSQL's own hash classes. Types of one family hash alike.

CREATE OPERATOR FAMILY integer_ops USING lookbook;

CREATE OPERATOR CLASS int2_ops
	DEFAULT FOR TYPE int2 USING lookbook FAMILY integer_ops AS
	OPERATOR 1 = (int2, int2),
	FUNCTION 1 hashint2(int2);
CREATE OPERATOR CLASS int4_ops
	DEFAULT FOR TYPE int4 USING lookbook FAMILY integer_ops AS
	OPERATOR 1 = (int4, int4),
	FUNCTION 1 hashint4(int4);
CREATE OPERATOR CLASS int8_ops
	DEFAULT FOR TYPE int8 USING lookbook FAMILY integer_ops AS
	OPERATOR 1 = (int8, int8),
	FUNCTION 1 hashint8(int8);
ALTER OPERATOR FAMILY integer_ops USING lookbook ADD
	OPERATOR 1 = (int2, int4), OPERATOR 1 = (int2, int8),
	OPERATOR 1 = (int4, int2), OPERATOR 1 = (int4, int8),
	OPERATOR 1 = (int8, int2), OPERATOR 1 = (int8, int4);

CREATE OPERATOR CLASS text_ops
	DEFAULT FOR TYPE text USING lookbook AS
	OPERATOR 1 = (text, text),
	FUNCTION 1 hashtext(text);
CREATE OPERATOR CLASS bpchar_ops
	DEFAULT FOR TYPE bpchar USING lookbook AS
	OPERATOR 1 = (bpchar, bpchar),
	FUNCTION 1 hashbpchar(bpchar);
CREATE OPERATOR CLASS uuid_ops
	DEFAULT FOR TYPE uuid USING lookbook AS
	OPERATOR 1 = (uuid, uuid),
	FUNCTION 1 uuid_hash(uuid);
CREATE OPERATOR CLASS bool_ops
	DEFAULT FOR TYPE bool USING lookbook AS
	OPERATOR 1 = (bool, bool),
	FUNCTION 1 hashchar("char");
CREATE OPERATOR CLASS enum_ops
	DEFAULT FOR TYPE anyenum USING lookbook AS
	OPERATOR 1 = (anyenum, anyenum),
	FUNCTION 1 hashenum(anyenum);
CREATE OPERATOR CLASS date_ops
	DEFAULT FOR TYPE date USING lookbook AS
	OPERATOR 1 = (date, date),
	FUNCTION 1 hashint4(int4);
CREATE OPERATOR CLASS timestamp_ops
	DEFAULT FOR TYPE timestamp USING lookbook AS
	OPERATOR 1 = (timestamp, timestamp),
	FUNCTION 1 timestamp_hash(timestamp);
CREATE OPERATOR CLASS timestamptz_ops
	DEFAULT FOR TYPE timestamptz USING lookbook AS
	OPERATOR 1 = (timestamptz, timestamptz),
	FUNCTION 1 timestamp_hash(timestamp);
CREATE OPERATOR CLASS numeric_ops
	DEFAULT FOR TYPE numeric USING lookbook AS
	OPERATOR 1 = (numeric, numeric),
	FUNCTION 1 hash_numeric(numeric);
CREATE OPERATOR CLASS bytea_ops
	DEFAULT FOR TYPE bytea USING lookbook AS
	OPERATOR 1 = (bytea, bytea),
	FUNCTION 1 hashvarlena(internal);
CREATE OPERATOR CLASS name_ops
	DEFAULT FOR TYPE name USING lookbook AS
	OPERATOR 1 = (name, name),
	FUNCTION 1 hashname(name);
CREATE OPERATOR CLASS char_ops
	DEFAULT FOR TYPE "char" USING lookbook AS
	OPERATOR 1 = ("char", "char"),
	FUNCTION 1 hashchar("char");
CREATE OPERATOR CLASS oid_ops
	DEFAULT FOR TYPE oid USING lookbook AS
	OPERATOR 1 = (oid, oid),
	FUNCTION 1 hashoid(oid);
CREATE OPERATOR CLASS time_ops
	DEFAULT FOR TYPE time USING lookbook AS
	OPERATOR 1 = (time, time),
	FUNCTION 1 time_hash(time);
CREATE OPERATOR CLASS timetz_ops
	DEFAULT FOR TYPE timetz USING lookbook AS
	OPERATOR 1 = (timetz, timetz),
	FUNCTION 1 timetz_hash(timetz);
CREATE OPERATOR CLASS interval_ops
	DEFAULT FOR TYPE interval USING lookbook AS
	OPERATOR 1 = (interval, interval),
	FUNCTION 1 interval_hash(interval);
CREATE OPERATOR CLASS inet_ops
	DEFAULT FOR TYPE inet USING lookbook AS
	OPERATOR 1 = (inet, inet),
	FUNCTION 1 hashinet(inet);
CREATE OPERATOR CLASS macaddr_ops
	DEFAULT FOR TYPE macaddr USING lookbook AS
	OPERATOR 1 = (macaddr, macaddr),
	FUNCTION 1 hashmacaddr(macaddr);
CREATE OPERATOR CLASS macaddr8_ops
	DEFAULT FOR TYPE macaddr8 USING lookbook AS
	OPERATOR 1 = (macaddr8, macaddr8),
	FUNCTION 1 hashmacaddr8(macaddr8);
CREATE OPERATOR CLASS jsonb_ops
	DEFAULT FOR TYPE jsonb USING lookbook AS
	OPERATOR 1 = (jsonb, jsonb),
	FUNCTION 1 jsonb_hash(jsonb);
CREATE OPERATOR CLASS array_ops
	DEFAULT FOR TYPE anyarray USING lookbook AS
	OPERATOR 1 = (anyarray, anyarray),
	FUNCTION 1 hash_array(anyarray);
CREATE OPERATOR CLASS range_ops
	DEFAULT FOR TYPE anyrange USING lookbook AS
	OPERATOR 1 = (anyrange, anyrange),
	FUNCTION 1 hash_range(anyrange);
CREATE OPERATOR CLASS multirange_ops
	DEFAULT FOR TYPE anymultirange USING lookbook AS
	OPERATOR 1 = (anymultirange, anymultirange),
	FUNCTION 1 hash_multirange(anymultirange);
CREATE OPERATOR CLASS record_ops
	DEFAULT FOR TYPE record USING lookbook AS
	OPERATOR 1 = (record, record),
	FUNCTION 1 hash_record(record);
CREATE OPERATOR CLASS pg_lsn_ops
	DEFAULT FOR TYPE pg_lsn USING lookbook AS
	OPERATOR 1 = (pg_lsn, pg_lsn),
	FUNCTION 1 pg_lsn_hash(pg_lsn);
CREATE OPERATOR CLASS tid_ops
	DEFAULT FOR TYPE tid USING lookbook AS
	OPERATOR 1 = (tid, tid),
	FUNCTION 1 hashtid(tid);
CREATE OPERATOR CLASS xid_ops
	DEFAULT FOR TYPE xid USING lookbook AS
	OPERATOR 1 = (xid, xid),
	FUNCTION 1 hashint4(int4);
CREATE OPERATOR CLASS xid8_ops
	DEFAULT FOR TYPE xid8 USING lookbook AS
	OPERATOR 1 = (xid8, xid8),
	FUNCTION 1 hashint8(int8);
CREATE OPERATOR CLASS cid_ops
	DEFAULT FOR TYPE cid USING lookbook AS
	OPERATOR 1 = (cid, cid),
	FUNCTION 1 hashint4(int4);
CREATE OPERATOR CLASS aclitem_ops
	DEFAULT FOR TYPE aclitem USING lookbook AS
	OPERATOR 1 = (aclitem, aclitem),
	FUNCTION 1 hash_aclitem(aclitem);
CREATE OPERATOR CLASS oidvector_ops
	DEFAULT FOR TYPE oidvector USING lookbook AS
	OPERATOR 1 = (oidvector, oidvector),
	FUNCTION 1 hashoidvector(oidvector);

CREATE OPERATOR FAMILY float_ops USING lookbook;

CREATE OPERATOR CLASS float4_ops
	DEFAULT FOR TYPE float4 USING lookbook FAMILY float_ops AS
	OPERATOR 1 = (float4, float4),
	FUNCTION 1 hashfloat4(float4);
CREATE OPERATOR CLASS float8_ops
	DEFAULT FOR TYPE float8 USING lookbook FAMILY float_ops AS
	OPERATOR 1 = (float8, float8),
	FUNCTION 1 hashfloat8(float8);
ALTER OPERATOR FAMILY float_ops USING lookbook ADD
	OPERATOR 1 = (float4, float8), OPERATOR 1 = (float8, float4);

CREATE FUNCTION lookbook_index_info(index regclass) RETURNS jsonb
	AS 'MODULE_PATHNAME', 'lookbook_index_info_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_index_info(regclass) IS 'rows, lists, sizes and calibration of a lookbook index';

CREATE FUNCTION lookbook_index_check(index regclass) RETURNS bigint
	AS 'MODULE_PATHNAME', 'lookbook_index_check_wrapper'
	LANGUAGE C VOLATILE STRICT PARALLEL SAFE;
COMMENT ON FUNCTION lookbook_index_check(regclass) IS 'verify every page of a lookbook index; the number of its rows';

-- ---------------------------------------------------------------------------------------------
-- Recommendations
-- ---------------------------------------------------------------------------------------------
-- All of them read lookbook_catalogue(): here the tables that the loader writes into this schema, and with
-- lookbook_map_catalogue() copies of these functions in another schema read any table. They are single
-- statements that the planner inlines, so that EXPLAIN shows their index scan and a LIMIT outside ends it:
-- LANGUAGE sql, STABLE, invoker's rights, no SET, and therefore every name in them is qualified.
-- Bodies are bound when they run: the tables need not exist yet, and may be replaced.
--
-- A category is an equality wherever it cannot be NULL, so that it becomes a condition inside of the index. And the
-- LIMIT of more rows than there can be: below an ORDER BY or a join the planner keeps a path that begins cheaply, as
-- an index scan does, only where a LIMIT says that not all rows may be wanted (RelOptInfo.consider_startup).

SET LOCAL check_function_bodies = off;
CREATE FUNCTION lookbook_catalogue()
RETURNS TABLE (garment_id bigint, photo_id bigint, product text, category text, label text, score real, box box, embedding embedding)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 100000 AS $$
  SELECT g.id, g.photo_id, g.sku, g.category, g.label, g.score, g.box, g.embedding FROM @extschema@.garment AS g
$$;
SET LOCAL check_function_bodies = on;
COMMENT ON FUNCTION lookbook_catalogue() IS 'The garments that recommendations are made from';

-- Which rows of an ordered scan are the first of their product, and no near-duplicate of one before. A window
-- aggregate, so that the scan goes no further than its reader.
CREATE FUNCTION lookbook_see(internal, text, embedding, double precision, double precision) RETURNS internal
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'lookbook_see_wrapper';
COMMENT ON FUNCTION lookbook_see(internal, text, embedding, double precision, double precision) IS 'aggregate transition function';

CREATE FUNCTION lookbook_seen_is_new(internal) RETURNS boolean
LANGUAGE c IMMUTABLE PARALLEL SAFE AS 'MODULE_PATHNAME', 'lookbook_seen_is_new_wrapper';
COMMENT ON FUNCTION lookbook_seen_is_new(internal) IS 'aggregate final function';

CREATE AGGREGATE lookbook_is_new(product text, look embedding, distance double precision, fold double precision) (
  SFUNC = lookbook_see, STYPE = internal, FINALFUNC = lookbook_seen_is_new
);
COMMENT ON AGGREGATE lookbook_is_new(text, embedding, double precision, double precision) IS
  'OVER (ORDER BY distance ROWS UNBOUNDED PRECEDING): whether the row brings a new product, not within fold of one before';

-- What the vectors of a column are compared with has to be of the model that filled it.
CREATE FUNCTION embed_query(image bytea) RETURNS embedding
LANGUAGE sql STABLE PARALLEL SAFE COST 100000 AS $$
  SELECT @extschema@.lookbook_embed_for(embed_query.image, '@extschema@.garment.embedding'::pg_catalog.text)
$$;
COMMENT ON FUNCTION embed_query(bytea) IS
  'Embedding of a whole image by the model that filled the catalogue: what nearest_products() and nearest_garments() search with';

CREATE FUNCTION detect_query(image bytea)
RETURNS TABLE (category text, label text, score real, box box, embedding embedding)
LANGUAGE sql STABLE PARALLEL SAFE COST 200000 ROWS 3 AS $$
  SELECT d.category, d.label, d.score, d.box, d.embedding
  FROM @extschema@.lookbook_detect_for(detect_query.image, '@extschema@.garment.embedding'::pg_catalog.text) AS d
$$;
COMMENT ON FUNCTION detect_query(bytea) IS
  'As detect_garments, with embeddings of the model that filled the catalogue';

CREATE FUNCTION lookbook_limit(k bigint) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF k OPERATOR(pg_catalog.<) 0 THEN
    RAISE EXCEPTION 'k must be 0 or more, and it is %', k USING ERRCODE = 'invalid_row_count_in_limit_clause';
  END IF;
  RETURN coalesce(k, 9223372036854775807);
END $$;
COMMENT ON FUNCTION lookbook_limit(bigint) IS 'The rows that k asks for, where NULL is all';

CREATE FUNCTION nearest_garments(query embedding, k bigint DEFAULT 5, category text DEFAULT NULL)
RETURNS TABLE (garment_id bigint, photo_id bigint, product text, category text, label text, score real, box box,
               distance double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  SELECT c.garment_id, c.photo_id, c.product, c.category, c.label, c.score, c.box,
         c.embedding OPERATOR(@extschema@.<->) nearest_garments.query
  FROM @extschema@.lookbook_catalogue() AS c
  WHERE nearest_garments.query IS NOT NULL AND c.embedding IS NOT NULL
    AND (nearest_garments.category IS NULL OR c.category OPERATOR(pg_catalog.=) nearest_garments.category)
  ORDER BY c.embedding OPERATOR(@extschema@.<->) nearest_garments.query
  LIMIT @extschema@.lookbook_limit(nearest_garments.k)
$$;
COMMENT ON FUNCTION nearest_garments(embedding, bigint, text) IS 'The k garments nearest to a vector; k NULL: all, nearest first';

CREATE FUNCTION similar_garments(image bytea, k bigint DEFAULT 5, category text DEFAULT NULL)
RETURNS TABLE (garment_id bigint, photo_id bigint, product text, category text, label text, score real, box box,
               distance double precision)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  SELECT n.* FROM @extschema@.nearest_garments(@extschema@.embed_query(similar_garments.image),
                                               similar_garments.k, similar_garments.category) AS n
$$;
COMMENT ON FUNCTION similar_garments(bytea, bigint, text) IS
  'The k garments that look most like a picture as a whole; k NULL: all, nearest first';

CREATE FUNCTION nearest_products(query embedding, k bigint DEFAULT 5, category text DEFAULT NULL, fold double precision DEFAULT 0.2)
RETURNS TABLE (product text, distance double precision, garment_id bigint, photo_id bigint, category text, label text, box box)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  SELECT n.product, n.distance, n.garment_id, n.photo_id, n.category, n.label, n.box
  FROM (
    SELECT c.product, c.embedding OPERATOR(@extschema@.<->) nearest_products.query AS distance,
           c.garment_id, c.photo_id, c.category, c.label, c.box,
           @extschema@.lookbook_is_new(c.product::pg_catalog.text, c.embedding,
               c.embedding OPERATOR(@extschema@.<->) nearest_products.query,
               CASE WHEN nearest_products.k IS NOT NULL THEN nearest_products.fold END)
             OVER (ORDER BY c.embedding OPERATOR(@extschema@.<->) nearest_products.query ROWS UNBOUNDED PRECEDING) AS is_new
    FROM @extschema@.lookbook_catalogue() AS c
    WHERE nearest_products.query IS NOT NULL AND c.embedding IS NOT NULL
      AND (nearest_products.category IS NULL OR c.category OPERATOR(pg_catalog.=) nearest_products.category)
    LIMIT 9223372036854775807) AS n
  WHERE n.is_new
  ORDER BY n.distance
  LIMIT @extschema@.lookbook_limit(nearest_products.k)
$$;
COMMENT ON FUNCTION nearest_products(embedding, bigint, text, double precision) IS
  'The k products nearest to a vector, each by its best photo; those within fold of a nearer one are left out; k NULL: all, these too';

-- nearest_products of one category and without one product, with the vectors: what the functions below share. A photo
-- in which no garment was found is of no category, so all are looked at.
CREATE FUNCTION lookbook_products_like(query embedding, category text, k bigint, other_than text, fold double precision)
RETURNS TABLE (product text, distance double precision, garment_id bigint, photo_id bigint, category text, label text, box box,
               embedding embedding)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  SELECT n.product, n.distance, n.garment_id, n.photo_id, n.category, n.label, n.box, n.embedding
  FROM (
    SELECT c.product, c.embedding OPERATOR(@extschema@.<->) lookbook_products_like.query AS distance,
           c.garment_id, c.photo_id, c.category, c.label, c.box, c.embedding,
           @extschema@.lookbook_is_new(c.product::pg_catalog.text, c.embedding,
               c.embedding OPERATOR(@extschema@.<->) lookbook_products_like.query,
               CASE WHEN lookbook_products_like.k IS NOT NULL THEN lookbook_products_like.fold END)
             OVER (ORDER BY c.embedding OPERATOR(@extschema@.<->) lookbook_products_like.query ROWS UNBOUNDED PRECEDING) AS is_new
    FROM @extschema@.lookbook_catalogue() AS c
    WHERE (lookbook_products_like.category OPERATOR(pg_catalog.=) 'photo' OR c.category OPERATOR(pg_catalog.=) lookbook_products_like.category)
      AND c.embedding IS NOT NULL
      AND (lookbook_products_like.other_than IS NULL
           OR c.product OPERATOR(pg_catalog.<>) lookbook_products_like.other_than)
    LIMIT 9223372036854775807) AS n
  WHERE n.is_new
  ORDER BY n.distance
  LIMIT @extschema@.lookbook_limit(lookbook_products_like.k)
$$;
COMMENT ON FUNCTION lookbook_products_like(embedding, text, bigint, text, double precision) IS 'nearest_products of one category without one product, with the vectors; what other functions share';

-- What a product looks like: its best garment of the category that most of its garments have, rather than a photo in
-- which none was found.
CREATE FUNCTION lookbook_look_of(product text)
RETURNS TABLE (embedding embedding, category text)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 1 AS $$
  SELECT o.embedding, o.category
  FROM (SELECT c.embedding, c.category, c.score, c.garment_id, pg_catalog.count(*) OVER (PARTITION BY c.category) AS garments
        FROM @extschema@.lookbook_catalogue() AS c
        WHERE c.product OPERATOR(pg_catalog.=) lookbook_look_of.product AND c.embedding IS NOT NULL AND c.category IS NOT NULL) AS o
  ORDER BY o.category OPERATOR(pg_catalog.=) 'photo', o.garments DESC, o.score DESC NULLS LAST, o.garment_id
  LIMIT 1
$$;
COMMENT ON FUNCTION lookbook_look_of(text) IS 'The vector and category that stand for a product';

CREATE FUNCTION similar_products(product text, k bigint DEFAULT 5)
RETURNS TABLE (product text, distance double precision, garment_id bigint, photo_id bigint, category text, label text, box box)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  WITH look AS MATERIALIZED (SELECT l.embedding, l.category FROM @extschema@.lookbook_look_of(similar_products.product) AS l)
  SELECT n.product, n.distance, n.garment_id, n.photo_id, n.category, n.label, n.box
  FROM (
    SELECT c.product, c.embedding OPERATOR(@extschema@.<->) (SELECT look.embedding FROM look) AS distance,
           c.garment_id, c.photo_id, c.category, c.label, c.box,
           @extschema@.lookbook_is_new(c.product::pg_catalog.text, c.embedding,
               c.embedding OPERATOR(@extschema@.<->) (SELECT look.embedding FROM look),
               CASE WHEN similar_products.k IS NOT NULL THEN 0.2::pg_catalog.float8 END)
             OVER (ORDER BY c.embedding OPERATOR(@extschema@.<->) (SELECT look.embedding FROM look) ROWS UNBOUNDED PRECEDING) AS is_new
    FROM @extschema@.lookbook_catalogue() AS c
    WHERE ((SELECT look.category FROM look) OPERATOR(pg_catalog.=) 'photo' OR c.category OPERATOR(pg_catalog.=) (SELECT look.category FROM look))
      AND (SELECT look.embedding FROM look) IS NOT NULL AND c.embedding IS NOT NULL
      AND c.product OPERATOR(pg_catalog.<>) similar_products.product
    LIMIT 9223372036854775807) AS n
  WHERE n.is_new
  ORDER BY n.distance
  LIMIT @extschema@.lookbook_limit(similar_products.k)
$$;
COMMENT ON FUNCTION similar_products(text, bigint) IS
  'The k other products of its category (of all, if no garment was found in its photo) that look most like a product, each by its best photo, near-duplicates of a nearer one left out; k NULL: all, these too';

-- The candidates that are weighed against each other for diversity: ten for each place.
CREATE FUNCTION lookbook_diversity_pool(k bigint, diversity double precision) RETURNS bigint
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
  IF k IS NULL OR diversity IS NULL THEN
    RAISE EXCEPTION 'diversity needs a number of products, and k or diversity is NULL'
      USING ERRCODE = 'null_value_not_allowed', HINT = 'similar_products(product, NULL) gives all, nearest first.';
  ELSIF NOT (diversity OPERATOR(pg_catalog.>=) 0 AND diversity OPERATOR(pg_catalog.<=) 1) THEN
    RAISE EXCEPTION 'diversity must be between 0 and 1, and it is %', diversity
      USING ERRCODE = 'invalid_parameter_value', HINT = '0 gives the nearest products, 1 those that differ most; 0.3 is a good start.';
  END IF;
  RETURN GREATEST(10 OPERATOR(pg_catalog.*) LEAST(@extschema@.lookbook_limit(k), 1000000000), 100);
END $$;
COMMENT ON FUNCTION lookbook_diversity_pool(bigint, double precision) IS 'How many products similar_products() weighs against each other for diversity';

-- Maximal marginal relevance (Carbonell and Goldstein 1998): the next one is near the product and far from
-- those already taken. For vectors of length 1 half of the squared distance is 1 - cosine similarity, theirs.
CREATE FUNCTION similar_products(product text, k bigint, diversity double precision, fold double precision DEFAULT 0.2)
RETURNS TABLE (product text, distance double precision, garment_id bigint, photo_id bigint, category text, label text, box box)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 5 AS $$
  WITH RECURSIVE pool AS MATERIALIZED (
    SELECT p.*, pg_catalog.row_number() OVER (ORDER BY p.distance) AS place
    FROM @extschema@.lookbook_look_of(similar_products.product) AS look
    CROSS JOIN LATERAL @extschema@.lookbook_products_like(look.embedding, look.category,
        @extschema@.lookbook_diversity_pool(similar_products.k, similar_products.diversity),
        similar_products.product, similar_products.fold) AS p),
  -- apart: by place the squared distance to the nearest one taken, and -1 for these themselves.
  taken AS (
    SELECT 1 AS turn, p.place, ARRAY(
        SELECT CASE WHEN q.place OPERATOR(pg_catalog.=) 1 THEN -1 ELSE @extschema@.l2_squared_distance(q.embedding, p.embedding) END
        FROM pool AS q ORDER BY q.place) AS apart
    FROM pool AS p WHERE p.place OPERATOR(pg_catalog.=) 1 AND @extschema@.lookbook_limit(similar_products.k) OPERATOR(pg_catalog.>) 0
    UNION ALL
    SELECT t.turn OPERATOR(pg_catalog.+) 1, next.place, ARRAY(
        SELECT CASE WHEN q.place OPERATOR(pg_catalog.=) next.place OR t.apart[q.place] OPERATOR(pg_catalog.<) 0 THEN -1
               ELSE LEAST(t.apart[q.place], @extschema@.l2_squared_distance(q.embedding, next.embedding)) END
        FROM pool AS q ORDER BY q.place)
    FROM taken AS t
    CROSS JOIN LATERAL (
      SELECT p.place, p.embedding
      FROM pool AS p
      WHERE t.apart[p.place] OPERATOR(pg_catalog.>=) 0
      ORDER BY ((1 OPERATOR(pg_catalog.-) similar_products.diversity) OPERATOR(pg_catalog.*) p.distance OPERATOR(pg_catalog.*) p.distance)
               OPERATOR(pg_catalog.-) (similar_products.diversity OPERATOR(pg_catalog.*) t.apart[p.place]), p.place
      LIMIT 1) AS next
    WHERE t.turn OPERATOR(pg_catalog.<) similar_products.k)
  SELECT p.product, p.distance, p.garment_id, p.photo_id, p.category, p.label, p.box
  FROM taken AS t JOIN pool AS p ON p.place OPERATOR(pg_catalog.=) t.place
  ORDER BY t.turn
$$;
COMMENT ON FUNCTION similar_products(text, bigint, double precision, double precision) IS
  'k products like a product that differ among each other: diversity 0 (nearest) to 1; those within fold of a nearer one are left out';

-- Materialized, the picture stands in it twice and no more: planning copies a constant wherever it stands, many times,
-- and this one may have megabytes.
CREATE FUNCTION shop_the_look(image bytea, k bigint DEFAULT 5)
RETURNS TABLE (garment integer, category text, label text, score real, box box,
               product text, distance double precision, garment_id bigint, photo_id bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 15 AS $$
  WITH seen AS MATERIALIZED (
    SELECT d.* FROM @extschema@.lookbook_detect_for(shop_the_look.image, '@extschema@.garment.embedding'::pg_catalog.text)
      WITH ORDINALITY AS d(category, label, score, box, embedding, garment)),
  whole AS MATERIALIZED (SELECT @extschema@.embed_query(shop_the_look.image) AS embedding WHERE NOT EXISTS (SELECT FROM seen))
  SELECT look.garment, look.category, look.label, look.score, look.box, look.product, look.distance, look.garment_id, look.photo_id
  FROM (
    SELECT g.garment::pg_catalog.int4 AS garment, g.category, g.label, g.score, g.box, n.product, n.distance, n.garment_id, n.photo_id
    FROM seen AS g
    LEFT JOIN LATERAL @extschema@.nearest_products(g.embedding, shop_the_look.k, g.category, 0.2::pg_catalog.float8) AS n ON true
    UNION ALL
    SELECT 1, 'photo', 'photo', NULL, NULL, n.product, n.distance, n.garment_id, n.photo_id
    FROM whole
    CROSS JOIN LATERAL @extschema@.nearest_products(whole.embedding, shop_the_look.k, NULL::pg_catalog.text, 0.2::pg_catalog.float8) AS n
  ) AS look
  ORDER BY look.garment, look.distance
$$;
COMMENT ON FUNCTION shop_the_look(bytea, bigint) IS
  'Every garment in a photo with its box, and for each the k nearest products of its category, NULL where there is none; the photo as a whole where no garment is found';

CREATE FUNCTION try_shop_the_look(image bytea, k bigint DEFAULT 5)
RETURNS TABLE (garment integer, category text, label text, score real, box box,
               product text, distance double precision, garment_id bigint, photo_id bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 15 AS $$
  SELECT s.* FROM (SELECT try_shop_the_look.image WHERE @extschema@.try_embed_image(try_shop_the_look.image, NULL::pg_catalog.text) IS NOT NULL) AS readable
  CROSS JOIN LATERAL @extschema@.shop_the_look(readable.image, try_shop_the_look.k) AS s
$$;
COMMENT ON FUNCTION try_shop_the_look(bytea, bigint) IS 'As shop_the_look, but no rows for bytes that are not a readable image';

CREATE FUNCTION complete_the_look(garment_id bigint, k bigint DEFAULT 5)
RETURNS TABLE (worn_with bigint, category text, label text, box box,
               product text, distance double precision, garment_id bigint, photo_id bigint)
LANGUAGE sql STABLE PARALLEL SAFE ROWS 15 AS $$
  SELECT w.garment_id, w.category, w.label, w.box, n.product, n.distance, n.garment_id, n.photo_id
  FROM @extschema@.lookbook_catalogue() AS c
  JOIN @extschema@.lookbook_catalogue() AS w
    ON w.photo_id OPERATOR(pg_catalog.=) c.photo_id AND w.garment_id OPERATOR(pg_catalog.<>) c.garment_id
  LEFT JOIN LATERAL @extschema@.lookbook_products_like(w.embedding, w.category, complete_the_look.k,
    CAST(c.product AS pg_catalog.text), 0.2::pg_catalog.float8) AS n ON true
  WHERE c.garment_id OPERATOR(pg_catalog.=) complete_the_look.garment_id
  ORDER BY w.garment_id, n.distance
$$;
COMMENT ON FUNCTION complete_the_look(bigint, bigint) IS
  'The other garments of a garment''s photo, and for each the k nearest products of its category, NULL where there is none';

-- The same functions for another table, in a schema of their own. They are the caller's objects: dumped, granted
-- and dropped like any function, and dropped with the extension.
CREATE FUNCTION lookbook_map_catalogue(schema name, relation regclass, product name DEFAULT 'sku', embedding name DEFAULT 'embedding',
  category name DEFAULT 'category', garment_id name DEFAULT 'id', photo_id name DEFAULT 'photo_id', label name DEFAULT 'label',
  score name DEFAULT 'score', box name DEFAULT 'box', fold double precision DEFAULT 0.2) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp SET check_function_bodies = off AS $$
DECLARE
  copied CONSTANT name[] := ARRAY['embed_query', 'detect_query', 'nearest_garments', 'similar_garments', 'nearest_products', 'lookbook_products_like',
    'lookbook_look_of', 'similar_products', 'shop_the_look', 'try_shop_the_look', 'complete_the_look'];
  made_here CONSTANT name[] := copied || ARRAY['lookbook_catalogue', 'lookbook_category']::name[];
  -- In the order of lookbook_catalogue(); what has a stand-in may be missing.
  fields text[] := ARRAY['garment_id', 'photo_id', 'product', 'category', 'label', 'score', 'box', 'embedding'];
  columns CONSTANT name[] := ARRAY[$6, $7, $3, $5, $8, $9, $10, $4];
  types CONSTANT text[] := ARRAY[NULL, NULL, NULL, 'text', 'text', 'real', 'box', '@extschema@.embedding'];
  stand_ins CONSTANT text[] := ARRAY[NULL, 'bigint', NULL, NULL, 'text', 'real', 'box', NULL];
  own_types text[] := '{}';
  types_here text[];
  filled text;
  source text[] := '{}';
  category_type regtype;
  target text := quote_ident($1);
  lookbook CONSTANT oid := (SELECT e.oid FROM pg_extension AS e WHERE e.extname = 'lookbook');
  entry record;
  made regprocedure;
  parts text[];
  body text;
  called name;
  read_before text;
  -- Within format(), where a per cent sign of a name is doubled.
  here CONSTANT text := replace('@extschema@', '%', '%%');
  folded CONSTANT text := coalesce($11::text, 'NULL');
  stays boolean;
  is_theirs boolean := false;
BEGIN
  IF $1 IS NULL OR $2 IS NULL THEN
    RAISE EXCEPTION 'a mapping needs a schema and a relation, and one of them is NULL' USING ERRCODE = 'null_value_not_allowed';
  ELSIF $1 IN ('pg_catalog', 'information_schema', 'pg_toast') THEN
    RAISE EXCEPTION 'schema "%" belongs to PostgreSQL', $1
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Name another schema for the functions that read your table; it is made if it is missing.';
  ELSIF to_regnamespace(target) = '@extschema@'::regnamespace THEN
    RAISE EXCEPTION 'schema "%" holds the functions of lookbook itself', $1
      USING ERRCODE = 'invalid_parameter_value', HINT = 'Name another schema for the functions that read your table; it is made if it is missing.';
  ELSIF $11 < 0 OR $11 IN ('NaN', 'Infinity') THEN
    RAISE EXCEPTION 'fold must be a distance of 0 or more, and it is %', $11
      USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL folds nothing.';
  ELSIF (SELECT c.relpersistence FROM pg_class AS c WHERE c.oid = $2) = 't' THEN
    RAISE EXCEPTION 'relation "%" is temporary, and functions that read it would outlive it', $2
      USING ERRCODE = 'wrong_object_type', HINT = 'Map a table or a view that stays.';
  END IF;
  FOR i IN 1 .. cardinality(fields) LOOP
    SELECT a.atttypid, t.typcategory, t.typtype INTO entry FROM pg_attribute AS a JOIN pg_type AS t ON t.oid = a.atttypid
      WHERE a.attrelid = $2 AND a.attname = columns[i] AND a.attnum > 0 AND NOT a.attisdropped;
    IF NOT FOUND AND (stand_ins[i] IS NULL OR columns[i] <> fields[i]) THEN
      RAISE EXCEPTION 'relation "%" has no column "%" to be the %', $2, columns[i], fields[i]
        USING ERRCODE = 'undefined_column', HINT = format('Name the column: lookbook_map_catalogue(%L, %L, %s => ...).', $1, $2, fields[i]);
    ELSIF FOUND AND fields[i] = 'embedding' AND entry.atttypid <> '@extschema@.embedding'::regtype THEN
      RAISE EXCEPTION 'column "%" of relation "%" is of type %, not embedding', columns[i], $2, format_type(entry.atttypid, NULL)
        USING ERRCODE = 'datatype_mismatch', HINT = 'Name a column that embed_image(), detect_garments() or the loader filled.';
    ELSIF FOUND AND (fields[i] = 'box' AND entry.atttypid <> 'box'::regtype OR fields[i] = 'score' AND entry.typcategory <> 'N') THEN
      RAISE EXCEPTION 'column "%" of relation "%" is of type %, not %', columns[i], $2, format_type(entry.atttypid, NULL),
        CASE fields[i] WHEN 'box' THEN 'box' ELSE 'a number' END
        USING ERRCODE = 'datatype_mismatch', HINT = format('Name the column: lookbook_map_catalogue(%L, %L, %s => ...).', $1, $2, fields[i]);
    END IF;
    -- A key keeps its type, so that its indexes and joins are of use; the rest becomes what the functions return.
    own_types[i] := coalesce(types[i], CASE WHEN NOT FOUND THEN stand_ins[i] WHEN entry.atttypid = 'bpchar'::regtype THEN 'pg_catalog.bpchar'
                                            WHEN entry.typcategory = 'S' THEN 'text'
                                            ELSE format_type(entry.atttypid, NULL) END);
    source[i] := CASE WHEN NOT FOUND THEN format('NULL::%s', own_types[i])
                      WHEN entry.atttypid = own_types[i]::regtype THEN format('t.%I', columns[i])
                      ELSE format('t.%I::%s', columns[i], own_types[i]) END;
    IF fields[i] IN ('garment_id', 'photo_id', 'product') THEN
      BEGIN
        EXECUTE format('SELECT NULL::%1$s OPERATOR(pg_catalog.=) NULL::%1$s, NULL::%1$s OPERATOR(pg_catalog.<>) NULL::%1$s', own_types[i]);
      EXCEPTION WHEN undefined_function THEN
        RAISE EXCEPTION 'column "%" of relation "%" is of type %, whose values cannot be compared', columns[i], $2, own_types[i]
          USING ERRCODE = 'datatype_mismatch', HINT = format('A %s is a number, a text or a uuid, say.', fields[i]);
      END;
    END IF;
    IF fields[i] = 'category' AND entry.typtype = 'e' THEN
      category_type := entry.atttypid;
    END IF;
  END LOOP;
  IF category_type IS NOT NULL THEN
    -- It is compared as what it is, for the index; the functions return it as text.
    fields := fields || text 'category_key';
    own_types := own_types || format_type(category_type, NULL);
    source := source || format('t.%I', $5);
  END IF;

  IF to_regnamespace(target) IS NULL THEN
    EXECUTE format('CREATE SCHEMA %s', target);
  END IF;
  read_before := (SELECT substring(p.prosrc FROM ' FROM (.*) AS t $') FROM pg_proc AS p WHERE p.oid = to_regprocedure(target || '.lookbook_catalogue()'));
  -- With the same types they are replaced where they are, so that views, owners and grants stay; else made anew.
  stays := EXISTS (SELECT FROM pg_proc AS p WHERE p.oid = to_regprocedure(target || '.lookbook_catalogue()')
    AND p.proallargtypes = (SELECT array_agg(o.type::regtype::oid ORDER BY o.place) FROM unnest(own_types) WITH ORDINALITY AS o(type, place)));
  FOR entry IN SELECT p.oid::regprocedure AS function, p.proname AS name,
      EXISTS (SELECT FROM pg_depend AS d WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'x'
              AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = lookbook) AS is_mapping
    FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace(target) AND p.proname = ANY (made_here) LOOP
    IF NOT entry.is_mapping AND stays AND entry.name = 'lookbook_catalogue' THEN
      -- CREATE OR REPLACE took the mark away: somebody wrote it.
      is_theirs := true;
      RAISE NOTICE 'function % stays as it is: lookbook_map_catalogue() did not write it', entry.function;
    ELSIF NOT entry.is_mapping THEN
      RAISE EXCEPTION 'function % exists, and lookbook_map_catalogue() did not make it', entry.function
        USING ERRCODE = 'duplicate_function', HINT = 'Map into another schema, or rename or drop the function.';
    ELSIF NOT stays THEN
      EXECUTE format('DROP FUNCTION %s', entry.function);
    END IF;
  END LOOP;

  IF NOT is_theirs THEN
    IF read_before <> $2::text THEN
      RAISE NOTICE 'the functions of schema "%" read relation "%" from now on, and "%" no more', $1, $2, read_before;
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION %s.lookbook_catalogue() RETURNS TABLE (%s) LANGUAGE sql STABLE PARALLEL SAFE ROWS 100000 AS %L',
      target, (SELECT string_agg(f.field || ' ' || f.type, ', ' ORDER BY f.place)
               FROM unnest(fields, own_types) WITH ORDINALITY AS f(field, type, place)),
      format(' SELECT %s FROM %s AS t ', array_to_string(source, ', '), $2));
  END IF;
  IF category_type IS NOT NULL THEN
    -- NULL for a category that the type does not have: nothing is of it.
    EXECUTE format('CREATE OR REPLACE FUNCTION %s.lookbook_category(category text) RETURNS %s LANGUAGE sql STABLE STRICT PARALLEL SAFE AS %L', target,
      category_type, format(' SELECT e.enumlabel::text::%s FROM pg_catalog.pg_enum AS e
        WHERE e.enumtypid OPERATOR(pg_catalog.=) %L::pg_catalog.regtype AND e.enumlabel OPERATOR(pg_catalog.=) $1 ',
        category_type, category_type::text));
  END IF;
  -- What filled a view's column is recorded for the table below it.
  WITH RECURSIVE below (relation, attribute, depth) AS (
    SELECT $2::oid, $4 COLLATE "C", 0
    UNION ALL
    SELECT d.refobjid, a.attname, b.depth + 1
    FROM below AS b JOIN pg_rewrite AS r ON r.ev_class = b.relation
    JOIN pg_depend AS d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid AND d.refclassid = 'pg_class'::regclass
    JOIN pg_attribute AS a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE a.atttypid = '@extschema@.embedding'::regtype AND d.refobjid <> b.relation AND b.depth < 32)
  SELECT format('%s.%I', f.relation::regclass, f.attribute) INTO filled
  FROM @extschema@.lookbook_embedding_column AS f JOIN below AS b ON b.relation = f.relation AND b.attribute = f.attribute
  ORDER BY b.depth, f.relation LIMIT 1;
  IF filled IS NULL THEN
    RAISE NOTICE 'nothing says which model filled column "%" of relation "%": pictures are embedded with the default model', $4, $2
      USING HINT = format('If another did, say so: INSERT INTO %s.lookbook_embedding_column SELECT %L, %L, name, sha256 FROM %1$s.lookbook_model WHERE name = ''...'';', '@extschema@', $2, $4);
  END IF;
  FOR entry IN SELECT p.proname, p.prosrc, p.procost, p.prorows, pg_get_function_arguments(p.oid) AS arguments, pg_get_function_result(p.oid) AS result
    FROM pg_proc AS p JOIN pg_depend AS d ON d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e'
      AND d.refclassid = 'pg_extension'::regclass AND d.refobjid = lookbook
    WHERE p.proname = ANY (copied) LOOP
    -- Names are put in by format() alone: what they contain is read by nobody.
    parts := ARRAY[replace(entry.arguments, '%', '%%'), replace(entry.result, '%', '%%')];
    FOR i IN 1 .. 2 LOOP
      parts[i] := regexp_replace(parts[i], '\m(garment_id|worn_with) bigint', '\1 %1$s', 'g');
      parts[i] := regexp_replace(parts[i], '\mphoto_id bigint', 'photo_id %2$s', 'g');
      parts[i] := regexp_replace(parts[i], '\m(product|other_than) text', '\1 %3$s', 'g');
      parts[i] := replace(parts[i], 'DEFAULT 0.2', 'DEFAULT %4$s');
      -- A number without a cast is no smallint, and many drivers send each as a bigint.
      types_here := CASE i WHEN 1 THEN array_replace(array_replace(own_types, 'smallint', 'bigint'), 'integer', 'bigint') ELSE own_types END;
      parts[i] := format(parts[i], types_here[1], types_here[2], types_here[3], folded);
    END LOOP;
    body := replace(entry.prosrc, '%', '%%');
    FOREACH called IN ARRAY made_here LOOP
      body := replace(body, here || '.' || called || '(', '%1$s.' || called || '(');
    END LOOP;
    body := replace(body, quote_literal(here || '.garment.embedding'), '%2$L');
    body := replace(body, 'CAST(c.product AS pg_catalog.text)', 'CAST(c.product AS %3$s)');
    body := replace(body, '0.2::pg_catalog.float8', '%4$s::pg_catalog.float8');
    IF category_type IS NOT NULL THEN
      body := regexp_replace(body, '\mc\.category OPERATOR\(pg_catalog\.=\) (\w+\.category|\(SELECT [^)]*\))',
        'c.category_key OPERATOR(pg_catalog.=) %1$s.lookbook_category(\1)', 'g');
    END IF;
    EXECUTE format('CREATE OR REPLACE FUNCTION %s.%I(%s) RETURNS %s LANGUAGE sql STABLE PARALLEL SAFE COST %s %s AS %L',
      target, entry.proname, parts[1], parts[2], entry.procost, CASE WHEN entry.prorows > 0 THEN format('ROWS %s', entry.prorows) END,
      format(body, target, coalesce(filled, format('%s.%I', $2, $4)),
             CASE own_types[3] WHEN 'smallint' THEN 'bigint' WHEN 'integer' THEN 'bigint' ELSE own_types[3] END, folded));
  END LOOP;
  FOR made IN SELECT p.oid FROM pg_proc AS p
    WHERE p.pronamespace = to_regnamespace(target) AND p.proname = ANY (made_here)
      AND NOT (is_theirs AND p.proname = 'lookbook_catalogue') LOOP
    EXECUTE format('ALTER FUNCTION %s DEPENDS ON EXTENSION lookbook', made);
  END LOOP;
END $$;
COMMENT ON FUNCTION lookbook_map_catalogue(name, regclass, name, name, name, name, name, name, name, name, double precision) IS
  'Makes shop_the_look() and the other recommendations for any table, as functions in a schema of their own';

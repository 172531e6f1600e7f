-- complain if script is sourced in psql, rather than via CREATE EXTENSION
\echo Use "CREATE EXTENSION lookbook_pgvector" to load this file. \quit

-- The two types are stored alike to the byte, so a cast is free: nothing is copied or checked but
-- the dimensions that a column declares.

-- Implicit one way only: a vector is taken wherever an embedding is, and an expression of both has
-- one meaning.
CREATE CAST (vector AS embedding) WITHOUT FUNCTION AS IMPLICIT;
CREATE CAST (embedding AS vector) WITHOUT FUNCTION AS ASSIGNMENT;

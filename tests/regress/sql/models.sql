-- Models as rows, and vision functions on a model so small that its bytes stand here: the mean of
-- each colour (tests/tests/sql_support/onnx.rs wrote it).
\set SHOW_CONTEXT never
\set onnx '''\\x080842040a00100d3a96010a220a05696d6167651206706f6f6c65642211476c6f62616c41766572616765506f6f6c0a290a06706f6f6c65641209656d62656464696e672207466c617474656e2a0b0a04617869731801a00102120567726170685a200a05696d61676512170a15080112110a0312016e0a0208030a0208100a020810621c0a09656d62656464696e67120f0a0d080112090a0312016e0a020803'''
\set input '"input": {"name": "image", "width": 16, "height": 16, "layout": "nchw", "dtype": "f32", "colour": "rgb", "resize": "stretch", "filter": "bilinear"}'
\set about '"format": 1, "version": "1.0.0", "kind": "embedder", "description": "mean colour", "licence": "Apache-2.0", "source": "by hand"'
\set sha256 '"sha256": "f7972307ddef6dd00978a862ba0a8913e8d968f42b2c6afe3918691bfbbf4fd3"'
\set output '"output": {"name": "embedding", "dimensions": 3, "pool": "none", "normalize": false}'
\set manifest '{"name": "mean", ' :about ', ' :sha256 ', ' :input ', ' :output '}'
-- Two pixels, red over blue, as a BMP.
\set bmp '''\\x424d3e0000000000000036000000280000000100000002000000010018000000000008000000130b0000130b00000000000000000000ff0000000000ff00'''

SELECT name, kind, owner = current_user AS mine, grantees, shipped FROM lookbook_model ORDER BY name;
SELECT kind, shipped, name FROM lookbook_default_model ORDER BY kind, shipped;

-- import, export
SELECT lookbook_model_import('mean', :'manifest', :onnx);
SELECT lookbook_model_import('mean', :'manifest', :onnx);
SELECT lookbook_model_export('mean') = :onnx AS same;
SELECT name, kind, sha256 = encode(sha256(onnx), 'hex') AS digest, manifest ->> 'description' AS description
  FROM lookbook_model WHERE NOT shipped;

-- use
SELECT ARRAY(SELECT round(element::numeric, 3) FROM unnest(embed_image(:bmp, 'mean')::real[]) AS element);
SELECT embed_image(:bmp, 'mean') = try_embed_image(:bmp, 'mean') AS same;
SELECT embed_image(NULL, 'mean') IS NULL AS null_image;
SELECT * FROM detect_garments(NULL);
SET lookbook.embed_model = 'mean';
SELECT embedding_dims(embed_image(:bmp));
RESET lookbook.embed_model;

-- bad images
SELECT embed_image('', 'mean');
SELECT embed_image('just text', 'mean');
SELECT try_embed_image('just text', 'mean') IS NULL AS undecodable;
SELECT try_embed_image('just text', 'nix');
SET lookbook.max_image_bytes = 10;
SELECT embed_image(:bmp, 'mean');
RESET lookbook.max_image_bytes;

-- bad models
SELECT lookbook_model_import('other', :'manifest', :onnx);
SELECT lookbook_model_import(NULL, NULL, :onnx);
SELECT lookbook_model_import('m', '{"name": "m"}', :onnx);
SELECT lookbook_model_import('m', jsonb_set(:'manifest', '{name}', '"m"') || '{"colour": "red"}', :onnx);
SELECT lookbook_model_import('m', jsonb_set(jsonb_set(:'manifest', '{name}', '"m"'), '{output,dimensions}', '4'), :onnx);
SELECT lookbook_model_import('m', jsonb_set(jsonb_set(:'manifest', '{name}', '"m"'), '{sha256}',
  to_jsonb(encode(sha256('not a model'), 'hex'))), 'not a model');

-- default
SELECT lookbook_model_default('mean');
SELECT kind, shipped, name FROM lookbook_default_model ORDER BY kind, shipped;
SELECT embedding_dims(embed_image(:bmp));
SELECT lookbook_model_default('nix');

-- grants
CREATE ROLE regress_lookbook_user;
SET ROLE regress_lookbook_user;
SELECT embed_image(:bmp, 'mean');
SELECT lookbook_model_drop('mean');
RESET ROLE;
SELECT lookbook_model_grant('mean', 'regress_lookbook_user');
SELECT lookbook_model_grant('mean', 'regress_lookbook_nobody');
SET ROLE regress_lookbook_user;
SELECT embedding_dims(embed_image(:bmp, 'mean'));
SELECT lookbook_model_revoke('mean', 'regress_lookbook_user');
RESET ROLE;
SELECT lookbook_model_revoke('mean', 'regress_lookbook_user');
SELECT grantees FROM lookbook_model WHERE name = 'mean';
DROP ROLE regress_lookbook_user;

-- what nobody may do
SELECT lookbook_model_drop('garment-embedder');
UPDATE lookbook_model SET grantees = '{}' WHERE shipped;
UPDATE lookbook_model SET shipped = true WHERE name = 'mean';
SELECT lookbook_shipped_models();

-- drop
SELECT lookbook_model_drop('mean');
SELECT lookbook_model_drop('mean');
SELECT kind, shipped, name FROM lookbook_default_model ORDER BY kind, shipped;

-- settings
SELECT name, setting, context FROM pg_settings WHERE name LIKE 'lookbook.%' ORDER BY name;
SET lookbook.device = 'gpu';

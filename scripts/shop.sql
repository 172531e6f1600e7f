-- The tables of a small shop, made once out of the loaded demo catalogue: what docs/getting-started.md and
-- docs/cookbook.md ask their questions of. For psql, from the root of the checkout.
SELECT to_regclass('product') IS NULL AS is_missing \gset
\if :is_missing
BEGIN;
CREATE TABLE product (
  sku text PRIMARY KEY, name text NOT NULL, brand text NOT NULL, price numeric NOT NULL,
  in_stock boolean NOT NULL DEFAULT true, added_on date NOT NULL DEFAULT current_date, category text, photo bytea);

CREATE TEMP TABLE file (path text, photo text) ON COMMIT DROP;
\copy file FROM PROGRAM 'cd tests/catalogue && for f in photos/*.jpg; do echo "$f,$(base64 -w0 "$f")"; done' CSV
INSERT INTO product
  SELECT DISTINCT ON (sku) sku, attributes ->> 'name', attributes ->> 'brand', (attributes ->> 'price')::numeric,
         id % 5 <> 0, date '2026-06-30' - (id % 60)::int, sells, decode(file.photo, 'base64')
  FROM photo JOIN file USING (path) ORDER BY sku, path;
INSERT INTO product VALUES ('TOP-900', 'Black rain jacket', 'Verano', 60, true, '2026-06-30', 'upper');  -- no photo yet

CREATE TABLE wish (customer int, sku text REFERENCES product);
INSERT INTO wish VALUES (7, 'TOP-001'), (7, 'TOP-010'), (8, 'SHO-107');

-- What others sell, already embedded.
CREATE TABLE rival_item (id bigint PRIMARY KEY, shop text, category text, price numeric, embedding embedding(256));
INSERT INTO rival_item SELECT id, 'rival', category, 30, embedding FROM garment WHERE id % 7 = 0;
COMMIT;
\endif

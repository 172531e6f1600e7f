-- What in the catalogue looks like the photo in the file $PHOTO?
\set photo `base64 --wrap=0 "$PHOTO"`

-- The photo as a whole: the five nearest garments.
SELECT sku, category, round((embedding <-> embed_image(decode(:'photo', 'base64')))::numeric, 3) AS distance
FROM garment
ORDER BY embedding <-> embed_image(decode(:'photo', 'base64'))
LIMIT 5;

-- Each garment in the photo: the three nearest of its category.
SELECT query.category, found.sku, round(found.distance::numeric, 3) AS distance
FROM detect_garments(decode(:'photo', 'base64')) AS query
CROSS JOIN LATERAL (
  SELECT sku, embedding <-> query.embedding AS distance
  FROM garment
  WHERE category = query.category
  ORDER BY embedding <-> query.embedding
  LIMIT 3
) AS found
ORDER BY query.score DESC, found.distance;

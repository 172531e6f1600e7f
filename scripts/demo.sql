-- What in the catalogue looks like the photo in the file $PHOTO?
\set photo `base64 --wrap=0 "$PHOTO"`

-- Each garment found in the photo: the three nearest of its category.
SELECT query.category, round(query.score::numeric, 2) AS score, near.*
FROM detect_garments(decode(:'photo', 'base64')) AS query
CROSS JOIN LATERAL (
  SELECT g.sku, p.path, round((g.embedding <-> query.embedding)::numeric, 3) AS distance
  FROM garment g JOIN photo p ON p.id = g.photo_id
  WHERE g.category = query.category
  ORDER BY g.embedding <-> query.embedding
  LIMIT 3
) AS near
ORDER BY query.score DESC, near.distance;

-- The photo as a whole, right where one garment fills it: the five nearest garments.
SELECT g.sku, p.path, g.category,
       round((g.embedding <-> embed_image(decode(:'photo', 'base64')))::numeric, 3) AS distance
FROM garment g JOIN photo p ON p.id = g.photo_id
ORDER BY g.embedding <-> embed_image(decode(:'photo', 'base64'))
LIMIT 5;

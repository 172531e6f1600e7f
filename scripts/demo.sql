-- What in the catalogue looks like the photo in the file $PHOTO?
\set photo `base64 --wrap=0 "$PHOTO"`

-- The photo as a whole: the five nearest garments.
SELECT g.sku, coalesce(p.attributes ->> 'name', p.path) AS name, g.category,
       round((g.embedding <-> embed_image(decode(:'photo', 'base64')))::numeric, 3) AS distance
FROM garment g JOIN photo p ON p.id = g.photo_id
ORDER BY g.embedding <-> embed_image(decode(:'photo', 'base64'))
LIMIT 5;

-- Each garment in the photo: the three nearest of its category.
SELECT query.category, found.*
FROM detect_garments(decode(:'photo', 'base64')) AS query
CROSS JOIN LATERAL (
  SELECT g.sku, coalesce(p.attributes ->> 'name', p.path) AS name,
         round((g.embedding <-> query.embedding)::numeric, 3) AS distance
  FROM garment g JOIN photo p ON p.id = g.photo_id
  WHERE g.category = query.category
  ORDER BY g.embedding <-> query.embedding
  LIMIT 3
) AS found
ORDER BY query.score DESC, found.distance;

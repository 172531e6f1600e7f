-- What in the catalogue looks like the photo in the file $PHOTO?
\set photo `base64 --wrap=0 "$PHOTO"`

-- Each garment found in the photo, and the three nearest products of its category.
SELECT garment, category, round(score::numeric, 2) AS score, product, round(distance::numeric, 3) AS distance
FROM shop_the_look(decode(:'photo', 'base64'), 3);

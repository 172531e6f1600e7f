"""Five products for a photo, with psycopg 3: python five.py URL PHOTO"""

import sys

import psycopg

url, photo = sys.argv[1:]
with psycopg.connect(url) as connection:
    image = open(photo, "rb").read()  # bytes are sent as bytea
    rows = connection.execute(
        "SELECT product, distance FROM nearest_products((SELECT embed_query(%s)), 5)", [image], binary=True
    )
    for product, distance in rows:
        print(product, f"{distance:.3f}")

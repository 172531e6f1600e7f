"""Five products for a photo, with SQLAlchemy 2 and psycopg 3: python five_sqlalchemy.py URL PHOTO"""

import sys

from sqlalchemy import create_engine, text

url, photo = sys.argv[1:]
engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
five = text("SELECT product, distance FROM nearest_products((SELECT embed_query(:image)), 5)")
with engine.connect() as connection:
    image = open(photo, "rb").read()
    for row in connection.execute(five, {"image": image}):
        print(row.product, f"{row.distance:.3f}")

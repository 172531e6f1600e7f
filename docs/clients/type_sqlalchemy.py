"""The five nearest photos, with vectors as lists of floats in Python: python type_sqlalchemy.py URL PHOTO"""

import json
import sys

from sqlalchemy import Column, Float, MetaData, String, Table, create_engine, func, select
from sqlalchemy.dialects import postgresql
from sqlalchemy.types import UserDefinedType


class Embedding(UserDefinedType):
    cache_ok = True

    def __init__(self, dimensions=None):
        self.dimensions = dimensions

    def get_col_spec(self, **options):
        return f"embedding({self.dimensions})" if self.dimensions else "embedding"

    def bind_processor(self, dialect):
        return lambda vector: None if vector is None else json.dumps(vector)

    def result_processor(self, dialect, coltype):
        return lambda text: None if text is None else json.loads(text)


# For reflection, and for Alembic's autogenerate.
postgresql.base.ischema_names["embedding"] = Embedding

# An index needs the dimensions of its column; they are those of the model.
garment = Table("garment", MetaData(), Column("sku", String), Column("embedding", Embedding(256)))

url, photo = sys.argv[1:]
engine = create_engine(url.replace("postgresql:", "postgresql+psycopg:", 1))
with engine.connect() as connection:
    image = open(photo, "rb").read()
    look = connection.scalar(select(func.embed_query(image, type_=Embedding)))
    distance = garment.c.embedding.op("<->", return_type=Float())(look)
    for row in connection.execute(select(garment.c.sku, distance).order_by(distance).limit(5)):
        print(row.sku, f"{row[1]:.3f}")

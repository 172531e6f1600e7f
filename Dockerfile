# db: PostgreSQL 17 with lookbook. loader: the lookbook command. See docker-compose.yml.
# scripts/prove-docker runs these steps, as they stand here, in a clean Debian root.

FROM rust:1.95-trixie AS build
WORKDIR /lookbook
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-server-dev-17
COPY Cargo.toml ./
COPY scripts scripts
RUN scripts/setup build
COPY . .
RUN DESTDIR=/out/db scripts/build /usr/lib/postgresql/17/bin/pg_config
RUN install -D target/release/lookbook /out/loader/usr/local/bin/lookbook
RUN install -D .lookbook/onnxruntime/libonnxruntime.so /out/loader/usr/local/lib/lookbook/libonnxruntime.so
RUN install -D -m644 -t /out/loader/usr/local/share/lookbook/models models/shipped/*.onnx models/shipped/*.json
RUN install -D -m644 -t /out/loader/usr/local/share/doc/lookbook LICENSE target/THIRD_PARTY_NOTICES.txt

FROM debian:trixie-slim AS loader
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/loader /
ENV LOOKBOOK_ONNXRUNTIME=/usr/local/lib/lookbook/libonnxruntime.so
WORKDIR /tmp
USER nobody
ENTRYPOINT ["lookbook"]

FROM debian:trixie-slim AS db
RUN mkdir -p /etc/postgresql-common/createcluster.d
RUN echo 'create_main_cluster = false' > /etc/postgresql-common/createcluster.d/lookbook.conf
RUN apt-get update && apt-get install -y --no-install-recommends postgresql-17 && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/db /
COPY scripts/docker/db /usr/local/bin/lookbook-db
ENV PGDATA=/var/lib/lookbook/data
RUN install -d -m 700 -o postgres -g postgres /var/lib/lookbook
USER postgres
VOLUME /var/lib/lookbook
EXPOSE 5432
# A fast shutdown: SIGTERM would wait for every connection.
STOPSIGNAL SIGINT
HEALTHCHECK --interval=5s --retries=20 CMD pg_isready --quiet --host=127.0.0.1
ENTRYPOINT ["lookbook-db"]

# syntax=docker/dockerfile:1
# Sandpost with the drivers of all services, and the plugins that ship. Built in one stage, run in another that has neither
# compiler nor source. `docker compose up --build` uses it; alone:
#
#   docker build -t sandpost .
#   docker run -v sandpost:/var/lib/sandpost -v ./sandpost.toml:/etc/sandpost.toml:ro -p 127.0.0.1:8080:8080 sandpost

FROM rust:1.95-slim-bookworm AS build
RUN rustup target add wasm32-wasip2
WORKDIR /source
COPY . .
# The caches are not part of the image; what is wanted is copied out of them.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/source/target \
    --mount=type=cache,target=/source/plugins/target \
    cargo build --release --locked --package sandpost --features services \
    && mkdir -p /out/plugins \
    && cp target/release/sandpost /out/sandpost \
    && strip /out/sandpost \
    && for plugin in plugins/*/plugin.toml; do /out/sandpost build "$(dirname "$plugin")" --out /out/plugins || exit 1; done

FROM debian:bookworm-slim
# The certificates of public services. Nothing else: the program brings its TLS and its SQLite.
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --uid 10001 --no-create-home --shell /usr/sbin/nologin sandpost \
    && install -d -o sandpost -g sandpost /var/lib/sandpost
COPY --from=build /out/sandpost /usr/local/bin/sandpost
COPY --from=build /out/plugins /usr/share/sandpost/plugins
USER 10001
WORKDIR /var/lib/sandpost
# Beyond loopback the host asks for tokens: it does not start without a configuration that has one.
ENV SANDPOST_CONFIG=/etc/sandpost.toml \
    SANDPOST_DATA_DIR=/var/lib/sandpost \
    SANDPOST_LISTEN=0.0.0.0:8080 \
    SANDPOST_PLUGINS=/usr/share/sandpost/plugins
VOLUME /var/lib/sandpost
EXPOSE 8080
# Alive, not ready: a host whose services are down is not to be restarted. Without curl, by what the image has.
HEALTHCHECK --interval=5s --timeout=5s --start-period=20s --retries=6 \
    CMD ["bash", "-c", "exec 3<>/dev/tcp/127.0.0.1/8080 && printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' >&3 && read -r _ status _ <&3 && [ $status = 200 ]"]
# It stops in order on SIGTERM; give it longer than its `shutdown_grace_ms` (30 s): `docker stop --time 40`.
STOPSIGNAL SIGTERM
ENTRYPOINT ["sandpost"]
CMD ["run"]

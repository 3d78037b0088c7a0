# syntax=docker/dockerfile:1

# One image for all roles; the command chooses: `coordinator run`, `worker run`, `p2p migrate`,
# `exchange-sim serve`.

FROM rust:1.95-bookworm AS build
WORKDIR /src
COPY . .
# Dependencies and what was compiled of them stay in the builder's cache across builds; the
# binaries are copied out because the cache is not part of the image.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target,sharing=locked \
    cargo build --release --locked --workspace --bins \
    && install -D -t /out target/release/coordinator target/release/worker target/release/p2p target/release/exchange-sim

FROM debian:bookworm-slim
# The TLS clients trust the certificates of the system. Not pinned: the newest is wanted, and old
# versions vanish from the mirrors.
# hadolint ignore=DL3008
RUN apt-get update \
    && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/*
COPY --from=build /out/ /usr/local/bin/
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
CMD ["p2p", "--help"]

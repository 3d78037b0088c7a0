# One image for all roles; the command chooses: `coordinator run`, `worker run`, `p2p migrate`,
# `exchange-sim serve`. `make image` builds and tries it. Plain instructions only: every builder
# understands them, and keeps the layers of what did not change.

# Where no registry is reached, others that are the same inside can stand in for these two.
ARG BUILD_IMAGE=docker.io/library/rust:1.95-bookworm
ARG RUNTIME_IMAGE=docker.io/library/debian:bookworm-slim

# hadolint ignore=DL3006
FROM ${BUILD_IMAGE} AS build
WORKDIR /src
# The dependencies alone, which change seldom and take longest: manifests, and programs that do nothing.
COPY .cargo .cargo
COPY Cargo.toml Cargo.lock ./
COPY shared/Cargo.toml shared/
COPY coordinator/Cargo.toml coordinator/
COPY worker/Cargo.toml worker/
COPY cli/Cargo.toml cli/
COPY load-tests/Cargo.toml load-tests/
RUN for crate in coordinator worker cli load-tests; do \
        for file in src/main.rs $(sed -n 's/^path = "\(src.*\)"$/\1/p' $crate/Cargo.toml); do \
            mkdir -p "$crate/${file%/*}" && echo 'fn main() {}' >"$crate/$file"; \
        done; \
        : >$crate/src/lib.rs; \
    done \
    && mkdir -p shared/src && : >shared/src/lib.rs \
    && cargo build --release --locked --bin coordinator --bin worker --bin p2p --bin exchange-sim
COPY . .
# What `--version` says of the source; git is not part of the context.
ARG P2P_COMMIT=
# Cargo goes by time of change, and the copied files may be older than what stood for them.
RUN find . -path ./target -prune -o -name '*.rs' -exec touch {} + \
    && cargo build --release --locked --bin coordinator --bin worker --bin p2p --bin exchange-sim \
    && install -D -t /out/bin target/release/coordinator target/release/worker target/release/p2p target/release/exchange-sim

# hadolint ignore=DL3006
FROM ${RUNTIME_IMAGE}
# The TLS clients trust the certificates of the system. Nothing is run in this stage, so an image
# without shell and package manager does as well.
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY LICENSE-APACHE LICENSE-MIT /usr/share/doc/p2p/
COPY --from=build /out/bin/ /usr/local/bin/
ARG P2P_VERSION=0.1.0
ARG P2P_COMMIT=
LABEL org.opencontainers.image.title="p2p-market-data" \
      org.opencontainers.image.description="Coordinator, worker, operator's tool and simulated exchange of the P2P market data pipeline" \
      org.opencontainers.image.licenses="MIT OR Apache-2.0" \
      org.opencontainers.image.version="${P2P_VERSION}" \
      org.opencontainers.image.revision="${P2P_COMMIT}"
# A number, so that Kubernetes can see that it is not root.
USER 10001:10001
# Metrics and health of coordinator and worker; the coordinator's status page.
EXPOSE 9090 8080
# Asks the coordinator or worker that runs beside it by the same settings. Kubernetes asks by itself.
HEALTHCHECK --interval=10s --timeout=5s --start-period=30s --retries=6 CMD ["p2p", "health"]
CMD ["p2p", "--help"]

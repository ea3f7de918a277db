# syntax=docker/dockerfile:1
# docker build -t jobtrack --build-arg REVISION="$(git rev-parse HEAD)" .
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer: a change of the source compiles the crate, not its dependencies.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release && cp target/release/jobtrack /jobtrack

FROM gcr.io/distroless/cc-debian12:nonroot
ARG VERSION=0.1.0
ARG REVISION=unknown
ARG SOURCE=unknown
LABEL org.opencontainers.image.title="jobtrack" \
      org.opencontainers.image.description="A job tracker over gRPC: any team can put it beside any queue" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="$VERSION" \
      org.opencontainers.image.revision="$REVISION" \
      org.opencontainers.image.source="$SOURCE"
COPY --from=build /jobtrack /usr/local/bin/jobtrack
# All interfaces of the container. There it starts with a certificate (JOBTRACK_TLS_CERT, JOBTRACK_TLS_KEY), or with
# JOBTRACK_INSECURE=true, which the image leaves to whoever runs it.
ENV JOBTRACK_LISTEN=0.0.0.0:50051 \
    JOBTRACK_HTTP_LISTEN=0.0.0.0:8080
EXPOSE 50051 8080
USER 65532:65532
STOPSIGNAL SIGTERM
# At the HTTP port, which answers without TLS and without a certificate of the client.
HEALTHCHECK --interval=10s --timeout=5s --start-period=5s CMD ["/usr/local/bin/jobtrack", "health", "--http"]
ENTRYPOINT ["/usr/local/bin/jobtrack"]

# syntax=docker/dockerfile:1
FROM rust:1.95-slim-bookworm AS build
WORKDIR /src
COPY . .
# The caches outlive the layer: a change of the source compiles the crate, not its dependencies.
RUN --mount=type=cache,target=/usr/local/cargo/registry \
    --mount=type=cache,target=/src/target \
    cargo build --locked --release && cp target/release/jobtrack /jobtrack

FROM gcr.io/distroless/cc-debian12:nonroot
LABEL org.opencontainers.image.title="jobtrack" \
      org.opencontainers.image.description="A job tracker over gRPC: any team can put it beside any queue" \
      org.opencontainers.image.licenses="Apache-2.0"
COPY --from=build /jobtrack /usr/local/bin/jobtrack
ENV JOBTRACK_LISTEN=0.0.0.0:50051
EXPOSE 50051
USER 65532:65532
STOPSIGNAL SIGTERM
HEALTHCHECK --interval=10s --timeout=3s --start-period=5s CMD ["/usr/local/bin/jobtrack", "health"]
ENTRYPOINT ["/usr/local/bin/jobtrack"]

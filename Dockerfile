# Build, then copy one binary. The same binary simulates.
FROM rust:1.95-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY . .
RUN cargo build --release --locked && cp target/release/mediagate /mediagate

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates \
    && rm -rf /var/lib/apt/lists/* \
    && useradd --system --uid 10001 mediagate \
    && install -d -o mediagate /data
COPY --from=build /mediagate /usr/local/bin/mediagate
USER mediagate
WORKDIR /data
VOLUME /data
ENV MEDIAGATE_DATA_DIR=/data
EXPOSE 4000
# Inside a container loopback is of no use: mount a file that listens on 0.0.0.0 and has keys.
#   docker run -p 4000:4000 -v ./mediagate.toml:/data/mediagate.toml -e FAL_KEY mediagate
ENTRYPOINT ["mediagate"]

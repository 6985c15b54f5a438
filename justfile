# The verbs. CI runs the same ones through scripts/test.

_default:
    @just --list

# Format the code
fmt:
    cargo fmt --all

# Lint with warnings as errors, with and without default features
lint:
    cargo clippy --workspace --all-targets -- -D warnings
    cargo clippy --workspace --all-targets --no-default-features -- -D warnings

# Unit tests, or those whose name contains the filter
test filter="":
    cargo test --workspace --lib {{filter}}

# Adapters against the fixtures
golden:
    cargo test -p mediagate-providers

# The real gateway over real sockets
e2e:
    cargo test --test it

# End the gateway at every ordered pair of the points where it may end: an hour
crash:
    cargo test --test it crash::points -- --include-ignored --nocapture

# Random load, kill -9 at random times, restart; prints what was lost or bought twice
kill rounds="1000" seed="1":
    MEDIAGATE_KILL_ROUNDS={{rounds}} MEDIAGATE_KILL_SEED={{seed}} cargo test --test it crash::kills -- --nocapture

# The official OpenAI SDKs against the real binary
sdk:
    scripts/test --without fmt --without lint --without rust --without deny

# Every provider simulated on one port
sim listen="127.0.0.1:4100":
    cargo run -- simulate --listen {{listen}}

# Serve
run *args:
    cargo run --release -- {{args}}

# Licences, bans, sources, advisories
deny:
    cargo deny --all-features check

# The API documentation of the code
docs:
    cargo doc --workspace --no-deps --open

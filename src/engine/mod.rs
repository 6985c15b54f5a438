//! The engine: everything that sends, waits and retries.

//! The gateway, as one binary.

fn main() {}

//! The gateway, as one binary.

use std::process::ExitCode;

fn main() -> ExitCode {
    mediagate::cli::main()
}

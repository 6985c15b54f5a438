//! The one integration binary: real sockets, real servers behind them.

#[cfg(test)]
mod s3;

//! The one integration binary: real sockets, real servers behind them.

#[cfg(test)]
mod admin;
#[cfg(test)]
mod bad_input;
#[cfg(test)]
mod books;
#[cfg(test)]
mod costs;
#[cfg(test)]
mod counts;
#[cfg(test)]
mod crash;
#[cfg(test)]
mod database;
#[cfg(test)]
mod edits;
#[cfg(test)]
mod failover;
#[cfg(test)]
mod formats;
#[cfg(test)]
mod gone;
#[cfg(test)]
mod idempotency;
#[cfg(test)]
mod keys;
#[cfg(test)]
mod moderation;
#[cfg(test)]
mod process;
#[cfg(test)]
mod queues;
#[cfg(test)]
mod refusals;
#[cfg(test)]
mod s3;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod signed;
#[cfg(test)]
mod sim;
#[cfg(test)]
mod stores;
#[cfg(test)]
mod support;
#[cfg(test)]
mod surface;
#[cfg(test)]
mod suspense;
#[cfg(test)]
mod tenants;
#[cfg(test)]
mod usage;
#[cfg(test)]
mod waiting;

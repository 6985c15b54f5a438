//! Mediagate: one OpenAI-compatible address in front of every maker of pictures.
//!
//! The modules, in reading order; who may know whom is in `ARCHITECTURE.md`.

pub mod cli;
pub mod config;
pub mod error;

pub mod api;
pub mod crash;
pub mod db;
pub mod engine;
pub mod jobs;
pub mod ledger;
pub mod limit;
pub mod media;
pub mod metrics;
pub mod seal;
pub mod store;
pub mod tenant;
pub mod usage;

pub mod serve;
pub mod sim;
pub mod telemetry;

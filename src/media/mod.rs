//! Pictures: what the bytes are, what must change, and changing it.
//!
//! [`plan`] decides on paper, [`convert`] does the pixel work, [`pool`] bounds it, [`fetch`]
//! is the only door to URLs that came out of a reply, and [`blob`] holds bytes that are too
//! many for memory. What callers send along passes [`strip`], and [`mask`] says what is edited.

pub mod blob;
pub mod convert;
pub mod fetch;
pub mod mask;
pub mod plan;
pub mod pool;
pub mod sniff;
pub mod strip;

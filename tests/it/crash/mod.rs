//! Nothing paid is lost or bought twice, however the gateway ends: the real binary against the
//! real simulator, which counts what it bills, and the books read with a client of the database's
//! own.
//!
//! [`points`] ends the process at every point the code names, [`kills`] at random times,
//! [`replicas`] one of two on PostgreSQL; [`outages`] makes every single call of the database fail.
//! What must hold afterwards is in [`books`].

mod books;
mod kills;
mod outages;
mod points;
mod replicas;
mod rig;

//! What every black-box test needs: a gateway, a provider that does as it is told, pictures.

pub(crate) mod gateway;
pub(crate) mod pictures;
pub(crate) mod upstream;
pub(crate) mod vendors;

pub(crate) use gateway::{Answer, Gateway, config};
pub(crate) use upstream::{Reply, Upstream};

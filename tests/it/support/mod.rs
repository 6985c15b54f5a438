//! What every black-box test needs: a gateway, a provider that does as it is told, pictures.

pub(crate) mod books;
pub(crate) mod gateway;
pub(crate) mod pictures;
pub(crate) mod upstream;
pub(crate) mod vendors;

/// Checks every case, all at once: most of a case's time is waiting.
pub(crate) async fn each<T, F: Future<Output = ()>>(
    cases: impl IntoIterator<Item = T>,
    check: impl Fn(T) -> F,
) {
    futures_util::future::join_all(cases.into_iter().map(check)).await;
}

pub(crate) use books::Books;
pub(crate) use gateway::{Answer, Gateway, config};
pub(crate) use upstream::{Reply, Upstream};

//! One list of tests for both engines, and a few for what only one of them has.

mod contract;
mod sqlite;

/// Makes two tests of each function that takes a [`super::Db`]: one per engine.
macro_rules! on_both_engines {
    ($($test:path as $name:ident),* $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $name() {
                use crate::db::testing;
                testing::on_sqlite(|url| async move { $test(testing::open(&url).await).await }).await;
            })*
        }
        mod on_postgres {
            $(#[tokio::test]
            async fn $name() {
                use crate::db::testing;
                testing::on_postgres(|url| async move { $test(testing::open(&url).await).await }).await;
            })*
        }
    };
}
use on_both_engines;

//! Statements on one connection.

use std::{collections::HashSet, pin::pin, time::Duration};

use deadpool_postgres::Object;
use futures_util::{
    TryStreamExt,
    future::{Either, select, try_join_all},
};
use tokio::time::timeout;
use tokio_postgres::{
    Error, Statement,
    types::{BorrowToSql, Type},
};

use super::{
    super::{DbError, Insert, Row, Rows, Value},
    PATIENCE,
    fault::{fault, is_healthy, is_lost, is_repeatable, silent},
    types::{self, Parameter},
};

/// How long an answer is waited for within a transaction; longer than the server's own limits.
const ANSWER_PATIENCE: Duration = Duration::from_secs(7);

/// The same for a read.
const READ_PATIENCE: Duration = Duration::from_secs(17);

/// Prepared statements kept per connection.
const STATEMENTS: usize = 512;

/// The statements of one transaction.
pub(in crate::db) struct Statements<'c> {
    client: &'c Object,
    /// All of it may be done again: a deadlock, or no order could be found.
    pub(super) again: bool,
    /// The connection is gone.
    pub(super) lost: bool,
    /// The connection may be used again.
    pub(super) healthy: bool,
}

impl std::fmt::Debug for Statements<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Statements").finish_non_exhaustive()
    }
}

impl<'c> Statements<'c> {
    pub(super) fn new(client: &'c Object) -> Self {
        Self { client, again: false, lost: false, healthy: true }
    }

    pub(in crate::db) async fn execute(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<u64, DbError> {
        let client = self.client;
        let done = answered(async {
            let statement = prepare(client, sql).await?;
            client.execute_raw(&statement, params).await
        })
        .await;
        self.noted(done)
    }

    pub(in crate::db) async fn query(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Vec<Row>, DbError> {
        let client = self.client;
        let done = answered(async {
            let statement = prepare(client, sql).await?;
            rows(client, &statement, params).await
        })
        .await;
        self.noted(done)
    }

    /// Reads outside of a transaction. An empty statement goes ahead, which a server that is alive
    /// answers at once, so that one that is gone is not waited for as long as one that is busy.
    /// A text that is not `lasting` will not come again, and is prepared for this once.
    pub(super) async fn read(
        &mut self,
        sql: &str,
        lasting: bool,
        params: &[Value],
    ) -> Result<Vec<Row>, DbError> {
        let client = self.client;
        let alive = pin!(timeout(PATIENCE, client.batch_execute("")));
        let reading = pin!(timeout(READ_PATIENCE, async {
            let statement =
                if lasting { prepare(client, sql).await? } else { client.prepare(sql).await? };
            rows(client, &statement, params).await
        }));
        let done = match select(alive, reading).await {
            Either::Left((Ok(Ok(())), reading)) => reading.await,
            Either::Left((Ok(Err(error)), _)) => Ok(Err(error)),
            Either::Left((Err(elapsed), _)) => Err(elapsed),
            Either::Right((done, _)) => done,
        };
        self.noted(done.map_err(|_| silent()))
    }

    pub(in crate::db) async fn lock(
        &mut self,
        select: &str,
        key: &str,
        keys: &[String],
    ) -> Result<Vec<Row>, DbError> {
        let client = self.client;
        let sql = format!("{select} WHERE {key} = ANY($1) ORDER BY {key} FOR UPDATE");
        let done = answered(async {
            let statement = prepare(client, &sql).await?;
            rows(client, &statement, [keys]).await
        })
        .await;
        self.noted(done)
    }

    /// All statements are sent before the first is answered. Rows of one shape go as one list a
    /// column: one statement, whatever their number, that the server need not plan each time.
    pub(in crate::db) async fn insert_all(&mut self, inserts: &[Rows<'_>]) -> Result<(), DbError> {
        let client = self.client;
        let done = answered(async {
            let mut statements = Vec::new();
            for (insert, rows) in inserts.iter().filter(|(_, rows)| !rows.is_empty()) {
                let one = prepare(client, &insert.sql()).await?;
                if rows.len() == 1 || repeats_itself(insert, rows) {
                    statements.extend(rows.iter().map(|row| {
                        (one.clone(), row.iter().map(Parameter::One).collect::<Vec<_>>())
                    }));
                    continue;
                }
                let many = prepare(client, &of_lists(insert, one.params())).await?;
                let list = |column: usize| rows.iter().map(|row| &row[column]).collect();
                let lists = (0..insert.columns).map(|column| Parameter::List(list(column)));
                statements.push((many, lists.collect()));
            }
            let sent = statements.into_iter().map(|(statement, values)| async move {
                client.execute_raw(&statement, values).await
            });
            try_join_all(sent).await.map(drop)
        })
        .await;
        self.noted(done)
    }

    fn noted<T>(&mut self, done: Result<Result<T, Error>, DbError>) -> Result<T, DbError> {
        match done {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(error)) => {
                self.again |= is_repeatable(&error);
                self.lost |= is_lost(&error);
                self.healthy &= is_healthy(&error);
                Err(fault(error))
            }
            Err(error) => {
                self.healthy = false;
                Err(error)
            }
        }
    }
}

/// Waits for an answer, but not for ever.
pub(super) async fn answered<T>(
    answer: impl Future<Output = Result<T, Error>>,
) -> Result<Result<T, Error>, DbError> {
    timeout(ANSWER_PATIENCE, answer).await.map_err(|_| silent())
}

async fn prepare(client: &Object, sql: &str) -> Result<Statement, Error> {
    if client.statement_cache.size() >= STATEMENTS {
        client.statement_cache.clear();
    }
    client.prepare_cached(sql).await
}

async fn rows<P, I>(client: &Object, statement: &Statement, params: I) -> Result<Vec<Row>, Error>
where
    P: BorrowToSql,
    I: IntoIterator<Item = P>,
    I::IntoIter: ExactSizeIterator,
{
    client
        .query_raw(statement, params)
        .await?
        .and_then(|row| async move { types::row(&row) })
        .try_collect()
        .await
}

/// The statement for many rows, each column a list.
fn of_lists(insert: &Insert, types: &[Type]) -> String {
    let lists = types.iter().zip(1..).map(|(ty, number)| format!("${number}::{}[]", ty.name()));
    let lists: Vec<String> = lists.collect();
    let (into, conflict) = (insert.into, insert.conflict);
    format!("INSERT INTO {into} SELECT * FROM unnest({}) {conflict}", lists.join(", "))
}

/// Whether two rows have the same key and the second is to change the first. PostgreSQL does not
/// do that within one statement.
fn repeats_itself(insert: &Insert, rows: &[Vec<Value>]) -> bool {
    let Some((key, _)) = insert.conflict.split_once(" DO UPDATE") else { return false };
    let names = |list: &'static str| {
        let inside = list.split_once('(').and_then(|(_, rest)| rest.split_once(')'));
        inside.map_or("", |(names, _)| names).split(',').map(str::trim)
    };
    let columns: Vec<&str> = names(insert.into).collect();
    let key: Option<Vec<usize>> =
        names(key).map(|name| columns.iter().position(|column| *column == name)).collect();
    let Some(key) = key else { return true };
    let mut seen = HashSet::with_capacity(rows.len());
    !rows.iter().all(|row| seen.insert(key.iter().map(|i| &row[*i]).collect::<Vec<_>>()))
}

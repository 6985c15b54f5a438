//! What stands in the SQLite database of a gateway, read beside it.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use rusqlite::{Connection, OpenFlags, types::ValueRef};

/// The database of a gateway.
pub(crate) struct Books(PathBuf);

impl Books {
    pub(crate) fn at(path: &Path) -> Self {
        Self(path.to_owned())
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }

    /// Every row, with its cells as text.
    pub(crate) fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let database =
            Connection::open_with_flags(&self.0, OpenFlags::SQLITE_OPEN_READ_ONLY).unwrap();
        database.busy_timeout(Duration::from_secs(5)).unwrap();
        let mut statement = database.prepare(sql).unwrap();
        let columns = statement.column_count();
        let mut rows = statement.query([]).unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().unwrap() {
            let cell = |i| match row.get_ref(i).unwrap() {
                ValueRef::Null => "-".to_owned(),
                ValueRef::Integer(n) => n.to_string(),
                ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                ValueRef::Blob(bytes) => hex::encode(bytes),
                ValueRef::Real(_) => panic!("a float in {sql}"),
            };
            all.push((0..columns).map(cell).collect());
        }
        all
    }

    /// The only cell.
    pub(crate) fn number(&self, sql: &str) -> i64 {
        self.rows(sql)[0][0].parse().unwrap()
    }

    /// What was moved for a job, in the order of the kinds: kind, debit, credit and amount.
    /// Accounts of the operator without the prefix that they share.
    pub(crate) fn moved(&self, job: &str) -> Vec<String> {
        let sql = format!(
            "SELECT kind, debit, credit, amount FROM transfer WHERE job = '{job}' \
             ORDER BY kind, id"
        );
        self.rows(&sql).into_iter().map(|row| row.join(" ").replace("system:", "")).collect()
    }

    /// Jobs that were charged.
    pub(crate) fn charges(&self) -> Vec<String> {
        let sql = "SELECT job FROM transfer WHERE kind = 'capture' AND debit LIKE 'credit:%'";
        self.rows(sql).into_iter().map(|row| row[0].clone()).collect()
    }

    /// Waits until every job is over and nothing is held any more.
    pub(crate) async fn settled(&self) {
        let open = "SELECT (SELECT COUNT(*) FROM job WHERE settled = 0), \
                    (SELECT COALESCE(SUM(pending), 0) FROM account)";
        for _ in 0..500 {
            if self.rows(open) == [["0", "0"]] {
                return;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let jobs = self.rows("SELECT id, state, settled FROM job WHERE settled = 0");
        panic!("open: {:?}, {jobs:?}", self.rows(open));
    }
}

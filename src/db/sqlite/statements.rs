//! Statements on one connection, and what SQLite's errors mean.

use rusqlite::{
    Connection, ErrorCode, Statement, ToSql, ffi,
    types::{ToSqlOutput, ValueRef},
};

use super::super::{DbError, Row, Rows, Value};

/// The statements of one transaction.
#[derive(Debug)]
pub(in crate::db) struct Statements<'c>(&'c mut Connection);

impl<'c> Statements<'c> {
    pub(super) fn new(connection: &'c mut Connection) -> Self {
        Self(connection)
    }

    pub(in crate::db) fn execute(&mut self, sql: &str, params: &[Value]) -> Result<u64, DbError> {
        let mut statement = self.0.prepare_cached(sql).map_err(fault)?;
        bind(&mut statement, params)?;
        if statement.column_count() > 0 {
            return Ok(collect(statement.raw_query())?.len() as u64);
        }
        let changed = statement.raw_execute().map_err(fault)?;
        Ok(changed as u64)
    }

    pub(in crate::db) fn query(
        &mut self,
        sql: &str,
        params: &[Value],
    ) -> Result<Vec<Row>, DbError> {
        rows(self.0, sql, params)
    }

    /// Row after row: the one writer needs no other lock.
    pub(in crate::db) fn lock(
        &mut self,
        select: &str,
        key: &str,
        keys: &[String],
    ) -> Result<Vec<Row>, DbError> {
        let sql = format!("{select} WHERE {key} = $1");
        let mut keys: Vec<&String> = keys.iter().collect();
        keys.sort_unstable();
        keys.dedup();
        let mut statement = self.0.prepare_cached(&sql).map_err(fault)?;
        let mut found = Vec::with_capacity(keys.len());
        for key in keys {
            statement.raw_bind_parameter(1, key).map_err(fault)?;
            found.append(&mut collect(statement.raw_query())?);
        }
        Ok(found)
    }

    pub(in crate::db) fn insert_all(&mut self, inserts: &[Rows<'_>]) -> Result<(), DbError> {
        for (insert, rows) in inserts.iter().filter(|(_, rows)| !rows.is_empty()) {
            let mut statement = self.0.prepare_cached(&insert.sql()).map_err(fault)?;
            for row in *rows {
                for (index, value) in row.iter().enumerate() {
                    statement.raw_bind_parameter(index + 1, value).map_err(fault)?;
                }
                statement.raw_execute().map_err(fault)?;
            }
        }
        Ok(())
    }
}

/// Runs a statement that is prepared once per connection, and reads all its rows.
pub(super) fn rows(
    connection: &Connection,
    sql: &str,
    params: &[Value],
) -> Result<Vec<Row>, DbError> {
    let mut statement = connection.prepare_cached(sql).map_err(fault)?;
    bind(&mut statement, params)?;
    collect(statement.raw_query())
}

/// As [`rows`], for a text that will not come again.
pub(super) fn rows_once(
    connection: &Connection,
    sql: &str,
    params: &[Value],
) -> Result<Vec<Row>, DbError> {
    let mut statement = connection.prepare(sql).map_err(fault)?;
    bind(&mut statement, params)?;
    collect(statement.raw_query())
}

/// Gives the placeholders their values. To SQLite `$2` is a name, not a position, so that it may
/// stand before `$1`.
fn bind(statement: &mut Statement<'_>, params: &[Value]) -> Result<(), DbError> {
    let mut used = 0;
    for index in 1..=statement.parameter_count() {
        let name = statement.parameter_name(index).unwrap_or_default();
        let number = name.strip_prefix('$').and_then(|n| n.parse::<usize>().ok()).unwrap_or(0);
        let value = number.checked_sub(1).and_then(|n| params.get(n)).ok_or_else(|| {
            let count = params.len();
            DbError::Corrupt(format!("the placeholder {name:?} has no value; there are {count}"))
        })?;
        used = used.max(number);
        statement.raw_bind_parameter(index, value).map_err(fault)?;
    }
    if used == params.len() {
        Ok(())
    } else {
        let count = params.len();
        Err(DbError::Corrupt(format!("{count} values were given for {used} placeholders")))
    }
}

fn collect(mut rows: rusqlite::Rows<'_>) -> Result<Vec<Row>, DbError> {
    let mut all = Vec::new();
    while let Some(row) = rows.next().map_err(fault)? {
        let columns = row.as_ref().column_count();
        let values = (0..columns).map(|column| {
            Ok(match row.get_ref(column).map_err(fault)? {
                ValueRef::Null => Value::Null,
                ValueRef::Integer(value) => Value::Int(value),
                ValueRef::Text(text) => {
                    let text = std::str::from_utf8(text).map_err(|_| {
                        DbError::Corrupt(format!("column {column} of an answer is not UTF-8"))
                    })?;
                    Value::Text(text.to_owned())
                }
                ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
                ValueRef::Real(_) => {
                    return Err(DbError::Corrupt(format!(
                        "column {column} of an answer holds a float; there are none here"
                    )));
                }
            })
        });
        all.push(Row(values.collect::<Result<_, DbError>>()?));
    }
    Ok(all)
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Int(value) => ValueRef::Integer(*value),
            Self::Text(text) => ValueRef::Text(text.as_bytes()),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// What an error of SQLite means to the caller.
pub(in crate::db) fn fault(error: rusqlite::Error) -> DbError {
    let advice = match error.sqlite_error_code() {
        Some(ErrorCode::ConstraintViolation) => return forbidden(&error),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => {
            "it is locked by another process; end that, or try again"
        }
        Some(ErrorCode::DiskFull) => "the disk is full; make room",
        Some(ErrorCode::ReadOnly | ErrorCode::PermissionDenied) => {
            "it may not be written; check owner and mode of the file and its directory"
        }
        Some(ErrorCode::CannotOpen) => {
            "the file cannot be opened; check that it is there, its owner and its mode"
        }
        Some(ErrorCode::SystemIoFailure | ErrorCode::FileLockingProtocolFailed) => {
            "the disk failed it; check that the disk is well and the file still there"
        }
        Some(ErrorCode::DatabaseCorrupt) => "the file is damaged; restore it from a backup",
        Some(ErrorCode::NotADatabase) => {
            "the file is not a SQLite database; name another one, or move it away"
        }
        Some(ErrorCode::OutOfMemory) => "there is no memory left; give the process more",
        _ => return DbError::Corrupt(format!("SQLite refuses a statement: {error}")),
    };
    DbError::outage(advice, error)
}

/// `UNIQUE constraint failed: org.id` is a conflict over `org.id`.
fn forbidden(error: &rusqlite::Error) -> DbError {
    let text = error.to_string();
    if error.sqlite_error().map(|e| e.extended_code) == Some(ffi::SQLITE_CONSTRAINT_DATATYPE) {
        return DbError::Corrupt(format!("SQLite refuses a value: {text}"));
    }
    let name = text.split_once(" constraint failed: ").map_or(text.as_str(), |(_, name)| name);
    DbError::Conflict(name.to_owned())
}

/// Whether the connection that said this had better be opened anew.
pub(super) fn is_broken(error: &rusqlite::Error) -> bool {
    !matches!(
        error.sqlite_error_code(),
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked | ErrorCode::DiskFull)
    )
}

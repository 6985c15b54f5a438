//! What PostgreSQL's errors mean to the caller.

use std::{error::Error as _, io};

use tokio_postgres::Error;

use super::super::DbError;

/// The error of a statement, by its SQLSTATE (PostgreSQL documentation, appendix A).
pub(in crate::db) fn fault(error: Error) -> DbError {
    let Some(db) = error.as_db_error() else {
        return if is_lost(&error) {
            DbError::outage("the connection broke; see whether the server runs", error)
        } else {
            let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
            DbError::Corrupt(format!("PostgreSQL does not take a statement: {error}{cause}"))
        };
    };
    let code = db.code().code();
    if code.starts_with("23") {
        let name = db.constraint().or(db.column()).unwrap_or(db.message());
        return DbError::Conflict(name.to_owned());
    }
    match advice(code) {
        Some(advice) => DbError::outage(advice, error),
        None => DbError::Corrupt(format!("PostgreSQL refuses a statement: {}", db.message())),
    }
}

/// The error of a connection that could not be made.
pub(super) fn unreachable(error: Error) -> DbError {
    let advice = error.code().and_then(|code| advice(code.code())).unwrap_or(
        "the server cannot be reached; see whether it runs, and whether the URL names host, port \
         and TLS as they are",
    );
    DbError::outage(advice, error)
}

/// No answer in time.
pub(in crate::db) fn silent() -> DbError {
    DbError::unavailable("the server does not answer; see whether it has too much to do")
}

fn advice(code: &str) -> Option<&'static str> {
    Some(match code {
        "25006" => "the server only reads; point the URL at the primary",
        "25P03" => "the transaction stood still for too long",
        "28000" | "28P01" => "the server refuses user or password; correct the URL",
        "3D000" => "there is no such database on the server; create it, or correct the URL",
        "40001" | "40P01" => "too many transactions stood in each other's way; try again",
        "42501" => "the user lacks a right; let it own the database",
        "53100" => "the server's disk is full; make room",
        "53300" => "the server has no connection left; raise its max_connections, or use fewer",
        "55P03" => "a row was locked for too long; try again",
        "57014" => "a statement took too long; see whether the server has too much to do",
        _ => match code.get(..2)? {
            "08" | "57" => "the server is stopping or starting; try again when it runs",
            "53" | "54" => "the server is short of memory, disk or another means; see its log",
            "58" => "the server's disk failed it; see its log",
            _ => return None,
        },
    })
}

/// Whether the transaction may go well when all of it is done again.
pub(super) fn is_repeatable(error: &Error) -> bool {
    error.code().is_some_and(|code| matches!(code.code(), "40001" | "40P01"))
}

/// Whether the connection is gone.
pub(super) fn is_lost(error: &Error) -> bool {
    match error.code() {
        Some(code) => {
            matches!(code.code(), "57P01" | "57P02" | "57P03" | "57P05" | "25P03")
                || code.code().starts_with("08")
        }
        None => {
            error.is_closed()
                || error.source().is_some_and(<dyn std::error::Error>::is::<io::Error>)
        }
    }
}

/// Whether the connection can be used again once rolled back.
pub(super) fn is_healthy(error: &Error) -> bool {
    error.code().is_some_and(|code| {
        let class = code.code().get(..2).unwrap_or_default();
        matches!(code.code(), "57014" | "55P03") || ["22", "23", "40", "42"].contains(&class)
    })
}

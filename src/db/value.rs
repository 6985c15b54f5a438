//! Values and rows, the same for both engines.

use super::DbError;

/// What a column holds, or a placeholder stands for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Value {
    /// Nothing.
    Null,
    /// Integers of any size; truth values are 0 and 1.
    Int(i64),
    /// Text, without NUL characters.
    Text(String),
    /// Bytes.
    Bytes(Vec<u8>),
}

impl Value {
    /// What it is called in an error; the content may be secret.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Int(_) => "an integer",
            Self::Text(_) => "text",
            Self::Bytes(_) => "bytes",
        }
    }
}

impl From<i64> for Value {
    fn from(value: i64) -> Self {
        Self::Int(value)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Int(value.into())
    }
}

impl From<&str> for Value {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

impl From<String> for Value {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&String> for Value {
    fn from(value: &String) -> Self {
        Self::Text(value.clone())
    }
}

impl From<Vec<u8>> for Value {
    fn from(value: Vec<u8>) -> Self {
        Self::Bytes(value)
    }
}

impl From<&[u8]> for Value {
    fn from(value: &[u8]) -> Self {
        Self::Bytes(value.to_vec())
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }
}

/// One row of an answer. Columns count from 0, in the order of the SELECT.
///
/// What has another type than was asked for, or is not there, is a [`DbError::Corrupt`] that names
/// the column but never the content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Row(pub(super) Vec<Value>);

impl Row {
    /// The integer in a column.
    pub fn int(&self, column: usize) -> Result<i64, DbError> {
        self.opt_int(column)?.ok_or_else(|| self.odd(column, "an integer"))
    }

    /// The integer in a column that may be null.
    pub fn opt_int(&self, column: usize) -> Result<Option<i64>, DbError> {
        match self.0.get(column) {
            Some(Value::Null) => Ok(None),
            Some(Value::Int(value)) => Ok(Some(*value)),
            _ => Err(self.odd(column, "an integer")),
        }
    }

    /// The text in a column.
    pub fn text(&self, column: usize) -> Result<String, DbError> {
        self.opt_text(column)?.ok_or_else(|| self.odd(column, "text"))
    }

    /// The text in a column that may be null.
    pub fn opt_text(&self, column: usize) -> Result<Option<String>, DbError> {
        match self.0.get(column) {
            Some(Value::Null) => Ok(None),
            Some(Value::Text(value)) => Ok(Some(value.clone())),
            _ => Err(self.odd(column, "text")),
        }
    }

    /// The bytes in a column.
    pub fn bytes(&self, column: usize) -> Result<Vec<u8>, DbError> {
        self.opt_bytes(column)?.ok_or_else(|| self.odd(column, "bytes"))
    }

    /// The bytes in a column that may be null.
    pub fn opt_bytes(&self, column: usize) -> Result<Option<Vec<u8>>, DbError> {
        match self.0.get(column) {
            Some(Value::Null) => Ok(None),
            Some(Value::Bytes(value)) => Ok(Some(value.clone())),
            _ => Err(self.odd(column, "bytes")),
        }
    }

    fn odd(&self, column: usize, wanted: &str) -> DbError {
        let found = self.0.get(column).map_or("nothing", Value::kind);
        DbError::Corrupt(format!("column {column} of an answer holds {found} in place of {wanted}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_gives_what_it_holds_and_nothing_else() {
        let row = Row(vec![Value::Null, 7.into(), "seven".into(), vec![7_u8].into()]);
        assert_eq!(row.int(1).unwrap(), 7);
        assert_eq!(row.text(2).unwrap(), "seven");
        assert_eq!(row.bytes(3).unwrap(), [7]);
        assert_eq!(row.opt_int(0).unwrap(), None);
        assert_eq!(row.opt_text(0).unwrap(), None);
        assert_eq!(row.opt_bytes(0).unwrap(), None);
        let text = |error: DbError| error.to_string();
        let check = |error: DbError, expected: &str| assert_eq!(text(error), expected);
        check(row.int(2).unwrap_err(), "column 2 of an answer holds text in place of an integer");
        check(row.int(0).unwrap_err(), "column 0 of an answer holds null in place of an integer");
        check(row.text(1).unwrap_err(), "column 1 of an answer holds an integer in place of text");
        check(row.bytes(4).unwrap_err(), "column 4 of an answer holds nothing in place of bytes");
        check(row.opt_bytes(2).unwrap_err(), "column 2 of an answer holds text in place of bytes");
    }

    #[test]
    fn options_and_truth_become_values() {
        assert_eq!(Value::from(None::<i64>), Value::Null);
        assert_eq!(Value::from(Some("x")), Value::Text("x".to_owned()));
        assert_eq!(Value::from(true), Value::Int(1));
    }
}

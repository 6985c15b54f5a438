//! A statement put together from fixed words, with everything else as parameters.

use crate::db::Value;

/// SQL and its parameters. Words are `'static`: what a caller sent can only be bound.
#[derive(Debug, Default)]
pub(super) struct Sql {
    text: String,
    params: Vec<Value>,
    conditions: usize,
}

impl Sql {
    /// Begins a statement.
    pub(super) fn new(words: &'static str) -> Self {
        let mut sql = Self::default();
        sql.push(words);
        sql
    }

    /// Adds words.
    pub(super) fn push(&mut self, words: &'static str) -> &mut Self {
        self.text.push_str(words);
        self
    }

    /// Begins another SELECT: the next condition is its first.
    pub(super) fn select(&mut self, words: &'static str) -> &mut Self {
        self.conditions = 0;
        self.push(words)
    }

    /// Adds names with commas between them.
    pub(super) fn list(&mut self, names: &[&'static str]) -> &mut Self {
        self.text.push_str(&names.join(", "));
        self
    }

    /// Adds a parameter.
    pub(super) fn bind(&mut self, value: impl Into<Value>) -> &mut Self {
        self.params.push(value.into());
        self.text.push_str(&format!("${}", self.params.len()));
        self
    }

    /// Adds a condition that compares with a parameter: `WHERE` before the first, `AND` before
    /// the others.
    pub(super) fn compare(&mut self, words: &'static str, value: impl Into<Value>) -> &mut Self {
        self.condition(words).bind(value)
    }

    /// [`compare`](Self::compare), where there is something to compare with.
    pub(super) fn maybe(&mut self, words: &'static str, value: Option<&String>) -> &mut Self {
        if let Some(value) = value {
            self.compare(words, value.as_str());
        }
        self
    }

    /// Adds a condition.
    pub(super) fn condition(&mut self, words: &'static str) -> &mut Self {
        self.text.push_str(if self.conditions == 0 { " WHERE " } else { " AND " });
        self.conditions += 1;
        self.push(words)
    }

    /// The statement and its parameters.
    pub(super) fn finish(self) -> (String, Vec<Value>) {
        (self.text, self.params)
    }
}

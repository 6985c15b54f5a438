//! What can go wrong with a database, by what it means for the caller.

use std::{borrow::Cow, error::Error, fmt};

/// Why the database did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum DbError {
    /// It cannot be used now: gone, locked, full, read-only. Nothing was changed, unless
    /// [`Outage::is_ambiguous`].
    #[error("the database cannot be used")]
    Unavailable(#[source] Outage),
    /// A constraint forbids it: the constraint's name, or its columns.
    #[error("a constraint of the database forbids it: {0}")]
    Conflict(String),
    /// What is stored, or a statement of ours, makes no sense.
    #[error("{0}")]
    Corrupt(String),
    /// The settings are wrong, or the database is not one this program can work with.
    #[error("{0}")]
    Settings(String),
}

impl DbError {
    /// It did not answer in time.
    pub fn late() -> Self {
        Self::unavailable("it does not answer in time; it may be overloaded or gone")
    }

    pub(super) fn unavailable(advice: impl Into<Cow<'static, str>>) -> Self {
        Self::Unavailable(Outage { advice: advice.into(), ambiguous: false, source: None })
    }

    pub(super) fn outage(
        advice: impl Into<Cow<'static, str>>,
        source: impl Error + Send + Sync + 'static,
    ) -> Self {
        Self::Unavailable(Outage {
            advice: advice.into(),
            ambiguous: false,
            source: Some(Box::new(source)),
        })
    }

    /// The same outage, where the transaction may have been committed.
    pub(super) fn ambiguous(self) -> Self {
        match self {
            Self::Unavailable(outage) => Self::Unavailable(Outage { ambiguous: true, ..outage }),
            other => other,
        }
    }
}

/// Why a database cannot be used, and what would help.
#[derive(Debug)]
pub struct Outage {
    advice: Cow<'static, str>,
    ambiguous: bool,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl Outage {
    /// Whether the transaction may have been committed all the same.
    pub fn is_ambiguous(&self) -> bool {
        self.ambiguous
    }
}

impl fmt::Display for Outage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.advice)
    }
}

impl Error for Outage {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|source| source as _)
    }
}

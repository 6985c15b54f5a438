//! What is wrong with a configuration: everything at once, each with its key and line.

use std::{fmt, path::PathBuf};

/// One thing that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The dotted key, such as `server.listen`; empty where it is about the whole file.
    pub key: String,
    /// The line of the file, counted from 1.
    pub line: Option<usize>,
    /// What is wrong and what would fix it. Never holds a secret.
    pub message: String,
}

/// A configuration that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigError {
    /// The file, if there is one.
    pub file: Option<PathBuf>,
    /// All that is wrong, in the order of the file.
    pub problems: Vec<Problem>,
}

impl ConfigError {
    /// The problems as they are shown, one line each: `mediagate.toml:3: ...`.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        self.problems.iter().map(|problem| {
            let file = self.file.as_ref().map(|f| f.display().to_string());
            let place = match (file, problem.line) {
                (Some(file), Some(line)) => format!("{file}:{line}: "),
                (Some(file), None) => format!("{file}: "),
                (None, _) => String::new(),
            };
            format!("{place}{}", problem.message)
        })
    }
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, line) in self.lines().enumerate() {
            if i > 0 {
                writeln!(f)?;
            }
            f.write_str(&line)?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigError {}

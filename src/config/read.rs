//! Reads a TOML file key by key: every key that is asked for is known, every other one is an
//! error, and all errors are collected.

use std::{cell::RefCell, collections::BTreeSet, fmt::Display};

use toml::de::{DeTable, DeValue};

use super::{
    env::{Lookup, expand},
    problem::Problem,
    section::Section,
    suggest,
};

/// The file being read, and what was found wrong so far.
pub(super) struct Reader<'a> {
    text: &'a str,
    table: DeTable<'a>,
    env: &'a Lookup<'a>,
    known: RefCell<BTreeSet<String>>,
    problems: RefCell<Vec<Problem>>,
}

impl<'a> Reader<'a> {
    /// Parses a file. What the parser says is told without the line it stands in: that line may
    /// hold a secret.
    pub(super) fn new(text: &'a str, env: &'a Lookup<'a>) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let reader = Self {
            text,
            table: table.into_inner(),
            env,
            known: RefCell::default(),
            problems: RefCell::default(),
        };
        for error in errors {
            let line = error.span().map(|span| reader.line(span.start));
            let message = format!("not valid TOML: {}", error.message().replace('\n', ", "));
            reader.problems.borrow_mut().push(Problem { key: String::new(), line, message });
        }
        reader
    }

    /// The top of the file.
    pub(super) fn top(&self) -> Section<'_> {
        Section::new(self, Some(&self.table), String::new())
    }

    /// Makes a key known.
    pub(super) fn know(&self, key: &str) {
        self.known.borrow_mut().insert(key.to_owned());
    }

    /// A text with its variables filled in.
    pub(super) fn expand(&self, raw: &str) -> Result<String, String> {
        expand(raw, self.env)
    }

    /// A variable of the environment.
    pub(super) fn env(&self, name: &str) -> Option<String> {
        (self.env)(name)
    }

    /// Notes something wrong with a key, which need not stand in the file.
    pub(super) fn problem(&self, key: &str, message: impl Display) {
        let problem = Problem {
            key: key.to_owned(),
            line: self.line_of(key),
            message: format!("{key}: {message}"),
        };
        self.problems.borrow_mut().push(problem);
    }

    /// All that is wrong, unknown keys included, in the order of the file.
    pub(super) fn finish(self) -> Vec<Problem> {
        // A file that could not be parsed is read only in part: more messages would mislead.
        if self.problems.borrow().iter().all(|p| !p.key.is_empty()) {
            self.find_unknown("", &self.table);
        }
        let mut problems = self.problems.into_inner();
        problems.sort_by_key(|p| p.line.unwrap_or(usize::MAX));
        problems
    }

    fn find_unknown(&self, path: &str, table: &DeTable<'_>) {
        for (key, value) in table {
            let full = join(path, key.get_ref());
            if !self.known.borrow().contains(&full) {
                self.unknown(&full, key.span().start);
                continue;
            }
            match value.get_ref() {
                DeValue::Table(inner) => self.find_unknown(&full, inner),
                DeValue::Array(list) => {
                    for (i, item) in list.iter().enumerate() {
                        if let DeValue::Table(inner) = item.get_ref() {
                            self.find_unknown(&format!("{full}[{i}]"), inner);
                        }
                    }
                }
                _ => {}
            }
        }
    }

    fn unknown(&self, key: &str, at: usize) {
        let known = self.known.borrow();
        let ending = match suggest::nearest_key(key, known.iter().map(String::as_str)) {
            Some(near) if suggest::is_likely(key, near) => format!("; did you mean {near:?}?"),
            Some(near) => format!("; the nearest known key is {near:?}"),
            None => String::new(),
        };
        self.problems.borrow_mut().push(Problem {
            key: key.to_owned(),
            line: Some(self.line(at)),
            message: format!("unknown key {key:?}{ending}"),
        });
    }

    fn line(&self, at: usize) -> usize {
        1 + self.text.bytes().take(at).filter(|b| *b == b'\n').count()
    }

    /// The line of a dotted key, or of the nearest table around it.
    fn line_of(&self, key: &str) -> Option<usize> {
        let mut line = None;
        let mut table = &self.table;
        for part in key.split('.') {
            let (name, index) = match part.strip_suffix(']').and_then(|p| p.split_once('[')) {
                Some((name, index)) => (name, index.parse::<usize>().ok()),
                None => (part, None),
            };
            let Some((found, value)) = table.get_key_value(name) else { break };
            line = Some(self.line(found.span().start));
            let mut value = value;
            if let (Some(i), DeValue::Array(list)) = (index, value.get_ref()) {
                let Some(item) = list.get(i) else { break };
                line = Some(self.line(item.span().start));
                value = item;
            }
            match value.get_ref() {
                DeValue::Table(inner) => table = inner,
                _ => break,
            }
        }
        line
    }
}

/// A key in its section.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() { key.to_owned() } else { format!("{path}.{key}") }
}

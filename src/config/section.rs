//! One table of the file and the kinds of value that stand in it.

use std::{collections::BTreeMap, fmt::Display, ops::RangeInclusive, time::Duration};

use toml::de::{DeTable, DeValue};

use super::{
    Secret,
    read::{Reader, join},
    suggest, units,
};

/// A table of the file, or the place where it could stand.
pub(super) struct Section<'r> {
    reader: &'r Reader<'r>,
    table: Option<&'r DeTable<'r>>,
    path: String,
}

impl<'r> Section<'r> {
    pub(super) fn new(
        reader: &'r Reader<'r>,
        table: Option<&'r DeTable<'r>>,
        path: String,
    ) -> Self {
        Self { reader, table, path }
    }

    /// The dotted name of one of its keys.
    pub(super) fn key(&self, key: &str) -> String {
        join(&self.path, key)
    }

    /// Notes something wrong with one of its keys.
    pub(super) fn problem(&self, key: &str, message: impl Display) {
        self.reader.problem(&self.key(key), message);
    }

    /// Whether the key stands in the file.
    pub(super) fn has(&self, key: &str) -> bool {
        self.table.is_some_and(|t| t.contains_key(key))
    }

    /// A table inside.
    pub(super) fn child(&self, key: &str) -> Section<'r> {
        let table = match self.find(key) {
            None => None,
            Some(DeValue::Table(table)) => Some(table),
            Some(other) => {
                self.mismatch(key, other, "a table");
                None
            }
        };
        Section::new(self.reader, table, self.key(key))
    }

    /// The tables inside, under names of the operator's choice.
    pub(super) fn children(&self) -> Vec<(String, Section<'r>)> {
        let names = self.table.into_iter().flatten().map(|(name, _)| name.get_ref());
        names.map(|name| (name.to_string(), self.child(name))).collect()
    }

    /// Whether a list is missing or has nothing in it.
    pub(super) fn is_empty_list(&self, key: &str) -> bool {
        match self.find(key) {
            None => true,
            Some(DeValue::Array(list)) => list.is_empty(),
            Some(_) => false,
        }
    }

    /// Makes everything inside known, so that nothing of it is reported.
    pub(super) fn know_all(&self) {
        for (name, value) in self.table.into_iter().flatten() {
            self.reader.know(&self.key(name.get_ref()));
            if matches!(value.get_ref(), DeValue::Table(_)) {
                self.child(name.get_ref()).know_all();
            }
        }
    }

    /// An array of tables.
    pub(super) fn tables(&self, key: &str) -> Vec<Section<'r>> {
        let mut tables = Vec::new();
        for (i, item) in self.array(key).into_iter().enumerate() {
            let at = format!("{key}[{i}]");
            match item {
                DeValue::Table(table) => {
                    tables.push(Section::new(self.reader, Some(table), self.key(&at)));
                }
                other => self.mismatch(&at, other, "a table"),
            }
        }
        tables
    }

    /// A text, its variables filled in.
    pub(super) fn text(&self, key: &str) -> Option<String> {
        self.parsed(key, |text| Ok::<_, String>(text.to_owned()))
    }

    /// A text of a form of its own. The message of an error follows the key and the text as the
    /// file has it.
    pub(super) fn parsed<T, E: Display>(
        &self,
        key: &str,
        parse: impl FnOnce(&str) -> Result<T, E>,
    ) -> Option<T> {
        match self.find(key)? {
            DeValue::String(raw) => self.expanded(key, raw).and_then(|text| {
                parse(&text).map_err(|e| self.problem(key, format!("{raw:?} {e}"))).ok()
            }),
            other => {
                self.mismatch(key, other, "a text in quotes");
                None
            }
        }
    }

    /// A secret text; messages never show it.
    pub(super) fn secret(&self, key: &str) -> Option<Secret> {
        match self.find(key)? {
            DeValue::String(raw) => {
                let text = self.expanded(key, raw)?;
                if text.trim().is_empty() {
                    self.problem(key, "is empty; leave the key out or give it a value");
                    return None;
                }
                Some(Secret::new(text.trim().to_owned()))
            }
            other => {
                self.mismatch(key, other, "a text in quotes");
                None
            }
        }
    }

    /// A whole number.
    pub(super) fn integer(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let value = self.find(key)?;
        let text = self.scalar(key, value, &wanted)?;
        match text.replace('_', "").parse::<u64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(key, format!("{} is not {wanted}", shown(value)));
                None
            }
        }
    }

    /// A number, whole or not.
    pub(super) fn number(&self, key: &str, range: RangeInclusive<f64>) -> Option<f64> {
        let wanted = format!("a number from {} to {}", range.start(), range.end());
        let value = self.find(key)?;
        let text = self.scalar(key, value, &wanted)?;
        match text.replace('_', "").parse::<f64>() {
            Ok(number) if range.contains(&number) => Some(number),
            _ => {
                self.problem(key, format!("{} is not {wanted}", shown(value)));
                None
            }
        }
    }

    /// `true` or `false`.
    pub(super) fn flag(&self, key: &str) -> Option<bool> {
        let value = self.find(key)?;
        let text = self.scalar(key, value, "true or false")?;
        match text.as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => {
                self.problem(key, format!("{} is not true or false", shown(value)));
                None
            }
        }
    }

    /// A whole number of seconds, or a text with its unit.
    pub(super) fn seconds(&self, key: &str, range: RangeInclusive<u64>) -> Option<Duration> {
        let with_unit = matches!(self.find(key)?, DeValue::String(raw) if !raw.contains("${"));
        if !with_unit {
            return self.integer(key, range).map(Duration::from_secs);
        }
        let time = self.parsed(key, units::duration)?;
        if range.contains(&time.as_secs()) {
            return Some(time);
        }
        self.problem(key, format!("must be {} to {} seconds", range.start(), range.end()));
        None
    }

    /// A text with its unit, such as `72h`.
    pub(super) fn duration(&self, key: &str) -> Option<Duration> {
        if let Some(value @ DeValue::Integer(_)) = self.find(key) {
            let fix = "has no unit; write for example \"90s\", \"10m\" or \"72h\"";
            self.problem(key, format!("{} {fix}", shown(value)));
            return None;
        }
        let time = self.parsed(key, units::duration)?;
        if time.is_zero() {
            self.problem(key, "must be longer than nothing");
            return None;
        }
        Some(time)
    }

    /// Bytes, or a text with its unit, such as `64MiB`.
    pub(super) fn bytes(&self, key: &str, range: RangeInclusive<u64>) -> Option<u64> {
        let value = self.find(key)?;
        let text = self.scalar(key, value, "bytes such as 67108864 or \"64MiB\"")?;
        match units::bytes(&text.replace('_', "")) {
            Ok(count) if range.contains(&count) => Some(count),
            Ok(_) => {
                let (least, most) = (range.start(), range.end());
                self.problem(key, format!("{} is not {least} to {most} bytes", shown(value)));
                None
            }
            Err(e) => {
                self.problem(key, format!("{} {e}", shown(value)));
                None
            }
        }
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(&self, key: &str, words: &[(&str, T)]) -> Option<T> {
        self.parsed(key, |text| {
            words.iter().find(|(word, _)| *word == text).map(|(_, value)| *value).ok_or_else(|| {
                let known: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                let guess = suggest::nearest(text, known.iter().copied())
                    .map(|near| format!("; did you mean {near:?}?"))
                    .unwrap_or_default();
                format!("is not one of {}{guess}", known.join(", "))
            })
        })
    }

    /// A list of texts, each checked by `check`.
    pub(super) fn texts(
        &self,
        key: &str,
        check: impl Fn(&str) -> Result<String, String>,
    ) -> Option<Vec<String>> {
        self.find(key)?;
        let mut texts = Vec::new();
        for (i, item) in self.array(key).into_iter().enumerate() {
            let at = format!("{key}[{i}]");
            let DeValue::String(raw) = item else {
                self.mismatch(&at, item, "a text in quotes");
                continue;
            };
            let Some(text) = self.expanded(&at, raw) else { continue };
            match check(&text) {
                Ok(text) => texts.push(text),
                Err(e) => self.problem(&at, format!("{raw:?} {e}")),
            }
        }
        Some(texts)
    }

    /// A table of texts under names of the operator's choice.
    pub(super) fn named_texts(&self, key: &str) -> BTreeMap<String, String> {
        let table = self.child(key);
        let names = table.table.into_iter().flatten().map(|(name, _)| name.get_ref());
        names.filter_map(|name| Some((name.to_string(), table.text(name)?))).collect()
    }

    fn find(&self, key: &str) -> Option<&'r DeValue<'r>> {
        self.reader.know(&self.key(key));
        self.table?.get(key).map(toml::Spanned::get_ref)
    }

    fn array(&self, key: &str) -> Vec<&'r DeValue<'r>> {
        match self.find(key) {
            None => Vec::new(),
            Some(DeValue::Array(list)) => list.iter().map(toml::Spanned::get_ref).collect(),
            Some(other) => {
                self.mismatch(key, other, "a list in brackets");
                Vec::new()
            }
        }
    }

    fn expanded(&self, key: &str, raw: &str) -> Option<String> {
        self.reader.expand(raw).map_err(|e| self.problem(key, e)).ok()
    }

    /// A number or a flag as text: as it is, or out of a variable.
    fn scalar(&self, key: &str, value: &DeValue<'_>, wanted: &str) -> Option<String> {
        match value {
            DeValue::Integer(number) if number.radix() == 10 => Some(number.as_str().to_owned()),
            DeValue::Float(number) => Some(number.as_str().to_owned()),
            DeValue::Boolean(flag) => Some(flag.to_string()),
            DeValue::String(raw) => self.expanded(key, raw),
            other => {
                self.mismatch(key, other, wanted);
                None
            }
        }
    }

    fn mismatch(&self, key: &str, value: &DeValue<'_>, wanted: &str) {
        let article =
            if matches!(value, DeValue::Integer(_) | DeValue::Array(_)) { "an" } else { "a" };
        self.problem(key, format!("is {article} {}; write {wanted}", value.type_str()));
    }
}

/// A value as the file has it: variables are not filled in.
fn shown(value: &DeValue<'_>) -> String {
    match value {
        DeValue::String(raw) => format!("{raw:?}"),
        DeValue::Integer(number) => number.to_string(),
        DeValue::Float(number) => number.to_string(),
        DeValue::Boolean(flag) => flag.to_string(),
        other => format!("the {}", other.type_str()),
    }
}

//! The names objects are kept under.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, de::Error as _};

use super::StoreError;

/// Longest key; S3 takes 1024 bytes, a signed URL should stay short.
const MAX_KEY: usize = 512;
/// Longest part between two slashes: file systems take 255 bytes, and a suffix is added.
const MAX_PART: usize = 200;
/// How the file beside an object ends that says what it is.
pub(super) const SIDECAR: &str = ".meta.json";

/// Fills a key template in.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// Whose job it was.
    pub project: &'a str,
    /// The day it was made: `2026-08-20`.
    pub date: &'a str,
    /// The job's id.
    pub job: &'a str,
    /// Which of the job's outputs, from 0.
    pub index: usize,
    /// File name extension, without the dot.
    pub ext: &'a str,
}

/// `{project}/{date}/{job}-{index}.{ext}`, or what the operator wants instead.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyTemplate(Vec<Piece>);

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Field(Field),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Field {
    Project,
    Date,
    Job,
    Index,
    Ext,
}

impl Field {
    const ALL: [Self; 5] = [Self::Project, Self::Date, Self::Job, Self::Index, Self::Ext];

    fn name(self) -> &'static str {
        match self {
            Self::Project => "project",
            Self::Date => "date",
            Self::Job => "job",
            Self::Index => "index",
            Self::Ext => "ext",
        }
    }
}

/// A key template that cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyTemplateError {
    /// A placeholder that does not exist.
    #[error("unknown placeholder {{{0}}}; known are project, date, job, index and ext")]
    Unknown(String),
    /// A brace without its partner.
    #[error("a brace is not closed, or not opened")]
    Brace,
    /// Two outputs would get one key.
    #[error("{{{0}}} is missing: without it two outputs would get the same key")]
    Missing(&'static str),
    /// What it makes is no key.
    #[error("it makes {0:?}, {1}")]
    Key(String, &'static str),
}

impl Default for KeyTemplate {
    fn default() -> Self {
        let literal = |text: &str| Piece::Literal(text.to_owned());
        Self(vec![
            Piece::Field(Field::Project),
            literal("/"),
            Piece::Field(Field::Date),
            literal("/"),
            Piece::Field(Field::Job),
            literal("-"),
            Piece::Field(Field::Index),
            literal("."),
            Piece::Field(Field::Ext),
        ])
    }
}

impl FromStr for KeyTemplate {
    type Err = KeyTemplateError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(open) = rest.find(['{', '}']) {
            let (literal, tail) = rest.split_at(open);
            if !literal.is_empty() {
                pieces.push(Piece::Literal(literal.to_owned()));
            }
            let tail = tail.strip_prefix('{').ok_or(KeyTemplateError::Brace)?;
            let (name, tail) = tail.split_once('}').ok_or(KeyTemplateError::Brace)?;
            let field = Field::ALL.into_iter().find(|field| field.name() == name);
            pieces.push(Piece::Field(field.ok_or_else(|| KeyTemplateError::Unknown(name.into()))?));
            rest = tail;
        }
        if !rest.is_empty() {
            pieces.push(Piece::Literal(rest.to_owned()));
        }
        let template = Self(pieces);
        for needed in [Field::Job, Field::Index] {
            if !template.0.contains(&Piece::Field(needed)) {
                return Err(KeyTemplateError::Missing(needed.name()));
            }
        }
        let sample =
            KeyParts { project: "p", date: "2026-01-01", job: "job_0", index: 0, ext: "png" };
        let key = template.key(&sample);
        match flaw(&key) {
            None => Ok(template),
            Some(flaw) => Err(KeyTemplateError::Key(key, flaw)),
        }
    }
}

impl fmt::Display for KeyTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|piece| match piece {
            Piece::Literal(text) => f.write_str(text),
            Piece::Field(field) => write!(f, "{{{}}}", field.name()),
        })
    }
}

impl<'de> Deserialize<'de> for KeyTemplate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

impl KeyTemplate {
    /// The key of one output. Whatever the parts hold, each stays one part of the path.
    pub fn key(&self, parts: &KeyParts<'_>) -> String {
        self.0.iter().fold(String::new(), |mut key, piece| {
            match piece {
                Piece::Literal(text) => key.push_str(text),
                Piece::Field(Field::Project) => key.push_str(&tame(parts.project)),
                Piece::Field(Field::Date) => key.push_str(&tame(parts.date)),
                Piece::Field(Field::Job) => key.push_str(&tame(parts.job)),
                Piece::Field(Field::Index) => key.push_str(&parts.index.to_string()),
                Piece::Field(Field::Ext) => key.push_str(&tame(parts.ext)),
            }
            key
        })
    }
}

/// A value without anything a path could stumble over; at most 64 bytes.
fn tame(value: &str) -> String {
    let safe = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_');
    let mut tamed: String = value.chars().take(64).map(|c| if safe(c) { c } else { '_' }).collect();
    if tamed.is_empty() {
        tamed.push('_');
    }
    tamed
}

/// Refuses what is no relative path of plain parts.
pub(super) fn check(key: &str) -> Result<(), StoreError> {
    flaw(key).map_or(Ok(()), |flaw| Err(StoreError::Key { key: key.to_owned(), flaw }))
}

fn flaw(key: &str) -> Option<&'static str> {
    if key.is_empty() || key.len() > MAX_KEY {
        return Some("which is empty or longer than 512 bytes");
    }
    if key.ends_with(SIDECAR) {
        return Some("which ends like the files that describe objects");
    }
    if key.contains('\\') || key.chars().any(char::is_control) {
        return Some("which holds a backslash or a control character");
    }
    key.split('/').find_map(|part| match part {
        "" => Some("which starts or ends with a slash or has two in a row"),
        _ if part.starts_with('.') => Some("in which a part starts with a dot"),
        _ if part.len() > MAX_PART => Some("in which a part is longer than 200 bytes"),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_template(template: &str, expected: Result<&str, &str>) {
        let parts = KeyParts {
            project: "team red/../blue",
            date: "2026-08-20",
            job: "job_1",
            index: 3,
            ext: "png",
        };
        match (template.parse::<KeyTemplate>(), expected) {
            (Ok(parsed), Ok(key)) => {
                assert_eq!(parsed.key(&parts), key);
                assert_eq!(parsed.to_string(), template);
                check(key).unwrap();
            }
            (Err(error), Err(part)) => {
                assert!(error.to_string().contains(part), "{template}: {error}");
            }
            (parsed, _) => panic!("{template}: {parsed:?}"),
        }
    }

    #[test]
    fn templates_are_checked_when_they_are_read() {
        check_template(
            "{project}/{date}/{job}-{index}.{ext}",
            Ok("team_red____blue/2026-08-20/job_1-3.png"),
        );
        check_template("media, kept/{job}/{index}", Ok("media, kept/job_1/3"));
        check_template("{date}{job}{index}", Ok("2026-08-20job_13"));
        check_template("{user}/{job}-{index}", Err("unknown placeholder {user}"));
        check_template("{job}-{index", Err("brace"));
        check_template("{job}-index}", Err("brace"));
        check_template("{index}.{ext}", Err("{job} is missing"));
        check_template("{job}.{ext}", Err("{index} is missing"));
        check_template("/{job}-{index}", Err("slash"));
        check_template("a//{job}-{index}", Err("slash"));
        check_template("{job}-{index}/", Err("slash"));
        check_template("../{job}-{index}", Err("dot"));
        check_template("a/../{job}-{index}", Err("dot"));
        check_template(".tmp/{job}-{index}", Err("dot"));
        check_template("a\\{job}-{index}", Err("backslash"));
        check_template("a\n{job}-{index}", Err("control"));
        check_template("{job}-{index}.meta.json", Err("describe"));
        check_template(&format!("{}{{job}}{{index}}", "a".repeat(201)), Err("200"));
        check_template("", Err("missing"));
    }

    #[test]
    fn the_default_is_what_the_documentation_says() {
        let written = "{project}/{date}/{job}-{index}.{ext}".parse().unwrap();
        assert_eq!(KeyTemplate::default(), written);
    }

    #[test]
    fn a_part_never_becomes_two() {
        for project in ["", ".", "..", "../..", "/", "a/b", ".hidden", "a\0b", "é", "x\\y"] {
            let parts = KeyParts { project, date: "..", job: "/", index: 0, ext: "../x" };
            let key = KeyTemplate::default().key(&parts);
            check(&key).unwrap();
            assert_eq!(key.split('/').count(), 3, "{key}");
        }
    }
}

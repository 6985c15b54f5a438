//! A small schema language in data, and the strict check of a request against it.
//!
//! A vendor's file in `data/` describes fields by type, values and bounds. What a request does
//! wrong comes out as [`Violation`]s, which each dialect words as its vendor does.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::picture::Flaw;

/// Fields by name.
pub(crate) type Fields = BTreeMap<String, Field>;

/// What a field may hold.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Field {
    /// Its type.
    #[serde(rename = "type")]
    pub kind: Kind,
    /// Whether it must be there.
    #[serde(default)]
    pub required: bool,
    /// Whether `null` is as good as leaving it out.
    #[serde(default)]
    pub nullable: bool,
    /// The only strings allowed.
    #[serde(default)]
    pub values: Vec<String>,
    /// Least number, or fewest characters or items.
    pub min: Option<f64>,
    /// Greatest number, or most characters or items.
    pub max: Option<f64>,
    /// What an array holds.
    pub items: Option<Box<Field>>,
    /// What an object holds.
    #[serde(default)]
    pub fields: Fields,
    /// Another type that will do.
    pub or: Option<Box<Field>>,
}

impl Field {
    /// A field of a type, and of no other rule.
    pub(crate) fn of(kind: Kind) -> Self {
        Self {
            kind,
            required: false,
            nullable: false,
            values: Vec::new(),
            min: None,
            max: None,
            items: None,
            fields: Fields::new(),
            or: None,
        }
    }
}

/// The types of JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    String,
    Integer,
    Number,
    Boolean,
    Array,
    Object,
}

impl Kind {
    /// The word for it in messages.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::String => "string",
            Self::Integer => "integer",
            Self::Number => "number",
            Self::Boolean => "boolean",
            Self::Array => "array",
            Self::Object => "object",
        }
    }

    fn holds(self, value: &Value) -> bool {
        match self {
            Self::String => value.is_string(),
            Self::Integer => value.is_i64() || value.is_u64(),
            Self::Number => value.is_number(),
            Self::Boolean => value.is_boolean(),
            Self::Array => value.is_array(),
            Self::Object => value.is_object(),
        }
    }
}

/// The word for a value's type in messages.
pub(crate) fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(n) if n.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// One thing a request does wrong.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Violation {
    /// Where, from the outside in.
    pub path: Vec<String>,
    /// What.
    pub wrong: Wrong,
    /// The value found there; null if there is none.
    pub given: Value,
}

/// What is wrong with a field.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Wrong {
    /// The vendor has no such field.
    Unknown,
    /// It must be there.
    Missing,
    /// It must be of this type.
    Type(Kind),
    /// It must be one of these.
    Value(Vec<String>),
    /// The number is less than this.
    Below(f64),
    /// The number is greater than this.
    Above(f64),
    /// The string or list is shorter than this.
    Short(usize),
    /// The string or list is longer than this.
    Long(usize),
    /// A picture is not what is taken.
    Picture(Flaw),
    /// Anything else, in words.
    Rule(String),
}

impl Violation {
    /// A rule broken by one top-level field.
    pub(crate) fn rule(field: &str, given: &Value, words: impl Into<String>) -> Self {
        let path = field.split('.').map(str::to_owned).collect();
        Self { path, wrong: Wrong::Rule(words.into()), given: given.clone() }
    }

    /// The field with its parents, joined by dots.
    pub(crate) fn dotted(&self) -> String {
        self.path.join(".")
    }

    /// The innermost name.
    pub(crate) fn field(&self) -> &str {
        self.path.last().map_or("", String::as_str)
    }

    /// Plain words, for vendors without words of their own.
    pub(crate) fn words(&self) -> String {
        match &self.wrong {
            Wrong::Unknown => "is not a known field".to_owned(),
            Wrong::Missing => "is required".to_owned(),
            Wrong::Type(kind) => format!("must be a {}", kind.name()),
            Wrong::Value(values) => format!("must be one of {}", values.join(", ")),
            Wrong::Below(least) => format!("must be at least {least}"),
            Wrong::Above(most) => format!("must be at most {most}"),
            Wrong::Short(least) => format!("must be at least {least} long"),
            Wrong::Long(most) => format!("must be at most {most} long"),
            Wrong::Picture(flaw) => flaw.words(),
            Wrong::Rule(words) => words.clone(),
        }
    }
}

/// Everything wrong with an object, in the order of its fields, what is missing last.
pub(crate) fn check(fields: &Fields, object: &Map<String, Value>) -> Vec<Violation> {
    let mut found = Vec::new();
    walk(fields, object, &mut Vec::new(), &mut found);
    found
}

fn walk(
    fields: &Fields,
    object: &Map<String, Value>,
    path: &mut Vec<String>,
    found: &mut Vec<Violation>,
) {
    for (name, value) in object {
        path.push(name.clone());
        match fields.get(name) {
            Some(field) => visit(field, value, path, found),
            None => found.push(wrong(path, Wrong::Unknown, value)),
        }
        path.pop();
    }
    for (name, field) in fields {
        let absent = object.get(name).is_none_or(|value| value.is_null() && field.nullable);
        if field.required && absent {
            path.push(name.clone());
            found.push(wrong(path, Wrong::Missing, &Value::Null));
            path.pop();
        }
    }
}

fn wrong(path: &[String], wrong: Wrong, given: &Value) -> Violation {
    Violation { path: path.to_vec(), wrong, given: given.clone() }
}

fn visit(field: &Field, value: &Value, path: &mut Vec<String>, found: &mut Vec<Violation>) {
    if value.is_null() && field.nullable {
        return;
    }
    if !field.kind.holds(value) {
        match &field.or {
            Some(other) => visit(other, value, path, found),
            None => found.push(wrong(path, Wrong::Type(field.kind), value)),
        }
        return;
    }
    let mut length = |count: usize| {
        if let Some(least) = field.min.filter(|least| (count as f64) < *least) {
            found.push(wrong(path, Wrong::Short(least as usize), value));
        }
        if let Some(most) = field.max.filter(|most| (count as f64) > *most) {
            found.push(wrong(path, Wrong::Long(most as usize), value));
        }
    };
    match value {
        Value::String(text) => {
            length(text.chars().count());
            if !field.values.is_empty() && !field.values.contains(text) {
                found.push(wrong(path, Wrong::Value(field.values.clone()), value));
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            if let Some(least) = field.min.filter(|least| number < *least) {
                found.push(wrong(path, Wrong::Below(least), value));
            }
            if let Some(most) = field.max.filter(|most| number > *most) {
                found.push(wrong(path, Wrong::Above(most), value));
            }
        }
        Value::Array(items) => {
            length(items.len());
            for (i, item) in items.iter().enumerate() {
                if let Some(inner) = &field.items {
                    path.push(i.to_string());
                    visit(inner, item, path, found);
                    path.pop();
                }
            }
        }
        Value::Object(object) => walk(&field.fields, object, path, found),
        Value::Null | Value::Bool(_) => {}
    }
}

/// Form fields are text: gives those of number and boolean fields their type. What does not
/// parse stays text and fails the check.
pub(crate) fn typed(fields: &Fields, texts: Vec<(String, String)>) -> Map<String, Value> {
    texts
        .into_iter()
        .map(|(name, text)| {
            let parsed = match fields.get(&name).map(|field| field.kind) {
                Some(Kind::Integer | Kind::Number | Kind::Boolean) => {
                    serde_json::from_str(&text).unwrap_or(Value::String(text))
                }
                _ => Value::String(text),
            };
            (name, parsed)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    const FIELDS: &str = r#"
        prompt = { type = "string", required = true, min = 1, max = 5 }
        n = { type = "integer", min = 1, max = 4, nullable = true }
        mode = { type = "string", values = ["a", "b"] }
        size = { type = "string", values = ["hd"], or = { type = "object", fields = { w = { type = "integer", required = true } } } }
        list = { type = "array", max = 2, items = { type = "number", max = 1 } }
    "#;

    #[test]
    fn each_rule_is_enforced() {
        let fields: Fields = toml::from_str(FIELDS).unwrap();
        let check = |extra: Value, expected: &[(&str, Wrong)]| {
            let mut object = json!({"prompt": "fox"});
            for (name, value) in extra.as_object().unwrap() {
                object[name] = value.clone();
            }
            let found: Vec<(String, Wrong)> = super::check(&fields, object.as_object().unwrap())
                .into_iter()
                .map(|v| (v.dotted(), v.wrong))
                .collect();
            let expected: Vec<(String, Wrong)> =
                expected.iter().map(|(path, wrong)| ((*path).to_owned(), wrong.clone())).collect();
            assert_eq!(found, expected, "{extra}");
        };
        let values = |list: &[&str]| Wrong::Value(list.iter().map(|&s| s.to_owned()).collect());
        check(json!({"n": 4, "mode": "b", "size": "hd", "list": [0, 0.5]}), &[]);
        check(json!({"n": null}), &[]);
        check(json!({"size": {"w": 3}}), &[]);
        check(json!({"nn": 1}), &[("nn", Wrong::Unknown)]);
        check(json!({"n": "two"}), &[("n", Wrong::Type(Kind::Integer))]);
        check(json!({"n": 1.5}), &[("n", Wrong::Type(Kind::Integer))]);
        check(json!({"n": 0}), &[("n", Wrong::Below(1.0))]);
        check(json!({"n": 5}), &[("n", Wrong::Above(4.0))]);
        check(json!({"mode": "c"}), &[("mode", values(&["a", "b"]))]);
        check(json!({"mode": null}), &[("mode", Wrong::Type(Kind::String))]);
        check(json!({"prompt": ""}), &[("prompt", Wrong::Short(1))]);
        check(json!({"prompt": "foxfox"}), &[("prompt", Wrong::Long(5))]);
        check(json!({"size": "sd"}), &[("size", values(&["hd"]))]);
        check(json!({"size": {}}), &[("size.w", Wrong::Missing)]);
        check(json!({"size": {"w": 1, "h": 1}}), &[("size.h", Wrong::Unknown)]);
        check(json!({"size": 3}), &[("size", Wrong::Type(Kind::Object))]);
        check(json!({"list": [0, 2]}), &[("list.1", Wrong::Above(1.0))]);
        check(json!({"list": [0, 0, 0]}), &[("list", Wrong::Long(2))]);
        let missing = super::check(&fields, &Map::new());
        assert_eq!(missing[0].wrong, Wrong::Missing);
    }

    #[test]
    fn form_texts_take_the_type_of_their_field() {
        let fields: Fields = toml::from_str(FIELDS).unwrap();
        let text = |name: &str, text: &str| (name.to_owned(), text.to_owned());
        let object = typed(&fields, vec![text("n", "3"), text("prompt", "3"), text("mode", "a")]);
        assert_eq!(Value::Object(object), json!({"n": 3, "prompt": "3", "mode": "a"}));
        assert_eq!(typed(&fields, vec![text("n", "three")])["n"], json!("three"));
    }
}

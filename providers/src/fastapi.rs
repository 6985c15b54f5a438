//! The error body of FastAPI, which several vendors serve as it is: `detail` is a text, or a
//! list of complaints that name the field.

use serde_json::Value;

/// What a `detail` says.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Detail {
    /// The complaints' texts, joined; empty where there are none.
    pub(crate) message: String,
    /// The type of the first complaint that has one.
    pub(crate) kind: Option<String>,
    /// The field the first complaint names.
    pub(crate) param: Option<String>,
}

impl Detail {
    /// Reads the `detail` of an error body; `None` where there is nothing to read.
    pub(crate) fn of(body: &Value) -> Option<Self> {
        match body.get("detail")? {
            Value::String(text) => Some(Self { message: text.clone(), ..Self::default() }),
            Value::Array(list) => Some(Self {
                message: list.iter().filter_map(complaint).collect::<Vec<_>>().join("; "),
                kind: list.iter().find_map(|c| c.get("type")?.as_str().map(str::to_owned)),
                param: list.iter().find_map(|c| field(c.get("loc")?)),
            }),
            one @ Value::Object(_) => Some(Self {
                message: complaint(one).unwrap_or_default().to_owned(),
                kind: one.get("type").and_then(Value::as_str).map(str::to_owned),
                param: one.get("loc").and_then(field),
            }),
            _ => None,
        }
    }
}

fn complaint(one: &Value) -> Option<&str> {
    ["msg", "message", "error"].iter().find_map(|name| one.get(name)).unwrap_or(one).as_str()
}

/// The last name of a `loc` such as `["body", "image_urls", 0]`; the place alone names nothing.
fn field(loc: &Value) -> Option<String> {
    let names = loc.as_array()?;
    let last = names.iter().skip(1).rev().find_map(Value::as_str)?;
    Some(last.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn every_shape_of_detail_is_read() {
        let check = |body: Value, expected: Option<(&str, Option<&str>, Option<&str>)>| {
            let got = Detail::of(&body);
            let seen = got.as_ref().map(|d| (&*d.message, d.kind.as_deref(), d.param.as_deref()));
            assert_eq!(seen, expected, "{body}");
        };
        check(json!({"detail": "no"}), Some(("no", None, None)));
        check(
            json!({"detail": [
                {"loc": ["body", "prompt"], "msg": "field required", "type": "missing"},
                {"loc": ["body", "seed"], "msg": "not a number", "type": "int_parsing"}]}),
            Some(("field required; not a number", Some("missing"), Some("prompt"))),
        );
        check(
            json!({"detail": [{"loc": ["body", "image_urls", 0], "msg": "gone", "type": null}]}),
            Some(("gone", None, Some("image_urls"))),
        );
        check(
            json!({"detail": [{"loc": ["body"], "msg": "not JSON"}]}),
            Some(("not JSON", None, None)),
        );
        check(json!({"detail": ["one", "two"]}), Some(("one; two", None, None)));
        check(json!({"detail": {"msg": "no", "type": "x"}}), Some(("no", Some("x"), None)));
        check(json!({"detail": {"error": "no"}}), Some(("no", None, None)));
        check(json!({"detail": []}), Some(("", None, None)));
        check(json!({"detail": null}), None);
        check(json!({"detail": 7}), None);
        check(json!({"message": "other"}), None);
        check(json!(["detail"]), None);
    }
}

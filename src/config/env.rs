//! `${NAME}` in the texts of the configuration.

/// Looks an environment variable up.
pub type Lookup<'a> = dyn Fn(&str) -> Option<String> + 'a;

/// Replaces every `${NAME}` by the variable; `$${` stands for a literal `${`. The message of an
/// error names the variable, never a value.
pub(super) fn expand(raw: &str, env: &Lookup<'_>) -> Result<String, String> {
    let mut out = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = rest.find("${") {
        let (before, tail) = (&rest[..at], &rest[at + 2..]);
        if let Some(literal) = before.strip_suffix('$') {
            out.push_str(literal);
            out.push_str("${");
            rest = tail;
            continue;
        }
        out.push_str(before);
        let Some((name, after)) = tail.split_once('}') else {
            return Err("\"${\" has no closing \"}\"; write $${ for a literal one".to_owned());
        };
        if name.is_empty() || !name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_') {
            return Err(format!(
                "\"${{{name}}}\" is no variable name: letters, digits and underscores"
            ));
        }
        let value = env(name).ok_or_else(|| {
            format!("the environment variable {name} is not set; set it or write the value here")
        })?;
        out.push_str(&value);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_taken_and_missing_ones_named() {
        let env = |name: &str| (name == "KEY_1").then(|| "a${b}".to_owned());
        for (raw, wanted) in [
            ("plain", Ok("plain")),
            ("${KEY_1}", Ok("a${b}")),
            ("x-${KEY_1}-${KEY_1}", Ok("x-a${b}-a${b}")),
            ("$${KEY_1}", Ok("${KEY_1}")),
            ("$5 {project}", Ok("$5 {project}")),
            ("${NOPE}", Err("NOPE is not set")),
            ("${KEY_1", Err("no closing")),
            ("${}", Err("no variable name")),
            ("${A B}", Err("no variable name")),
        ] {
            match (expand(raw, &env), wanted) {
                (Ok(got), Ok(want)) => assert_eq!(got, want, "{raw}"),
                (Err(got), Err(part)) => assert!(got.contains(part), "{raw}: {got}"),
                (got, want) => panic!("{raw}: {got:?}, wanted {want:?}"),
            }
        }
    }
}

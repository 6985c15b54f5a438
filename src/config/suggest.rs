//! "Did you mean": the nearest known name.

/// How alike two names must be for a guess to help.
const ALIKE: f64 = 0.7;

/// The known name most like the given one, if any is like it at all.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    ranked(name, known).filter(|(score, _)| *score >= ALIKE).map(|(_, known)| known)
}

/// A sentence's end that names the nearest known name, or all of them where they are few.
pub(super) fn hint(name: &str, known: &[&str]) -> String {
    if let Some(close) = nearest(name, known.iter().copied()) {
        return format!("; did you mean {close:?}?");
    }
    match known {
        [] => String::new(),
        few if few.len() <= 8 => format!("; known: {}", few.join(", ")),
        _ => String::new(),
    }
}

/// The nearest of the dotted keys. The same last part in another section comes first, then the
/// same section, then the likest.
pub(super) fn nearest_key<'a>(
    key: &str,
    known: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    let (section, leaf) = split(key);
    let score = |other: &str| {
        let (its_section, its_leaf) = split(other);
        let home = if section == its_section { 0.2 } else { 0.0 };
        let same = if leaf == its_leaf { 0.4 } else { 0.0 };
        strsim::jaro_winkler(leaf, its_leaf)
            + 0.3 * strsim::jaro_winkler(section, its_section)
            + home
            + same
    };
    known.into_iter().max_by(|a, b| score(a).total_cmp(&score(b)))
}

/// Whether a suggested key is likely what was meant, and not only the nearest there is.
pub(super) fn is_likely(key: &str, other: &str) -> bool {
    let (leaf, its_leaf) = (split(key).1, split(other).1);
    strsim::jaro_winkler(leaf, its_leaf) >= 0.8
}

fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('.').unwrap_or(("", key))
}

fn ranked<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<(f64, &'a str)> {
    known
        .into_iter()
        .map(|other| (strsim::jaro_winkler(name, other), other))
        .max_by(|a, b| a.0.total_cmp(&b.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_likest_name_wins() {
        let known = ["openai", "fal", "replicate", "together"];
        for (name, wanted) in
            [("opnai", Some("openai")), ("replcate", Some("replicate")), ("xyz", None)]
        {
            assert_eq!(nearest(name, known), wanted, "{name}");
        }
        assert_eq!(hint("tpgether", &known), "; did you mean \"together\"?");
        assert_eq!(hint("xyz", &["a", "b"]), "; known: a, b");
    }

    #[test]
    fn keys_are_matched_by_leaf_and_section() {
        let known = ["server", "server.listen", "server.wait_s", "store.path", "log.level"];
        for (key, wanted) in [
            ("server.lisen", "server.listen"),
            ("listen", "server.listen"),
            ("sever", "server"),
            ("store.listen", "server.listen"),
            ("store.paht", "store.path"),
        ] {
            assert_eq!(nearest_key(key, known), Some(wanted), "{key}");
        }
    }
}

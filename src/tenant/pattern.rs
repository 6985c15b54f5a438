//! Patterns of names and paths, in which `*` stands for any run of characters.

/// Whether a pattern covers a name. Linear in both but for the product of the last `*`'s tries:
/// a hostile name costs little.
pub fn covers(pattern: &str, name: &str) -> bool {
    let (pattern, name) = (pattern.as_bytes(), name.as_bytes());
    let (mut p, mut n) = (0, 0);
    // Where to go on after the last star took one character more.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        if pattern.get(p) == Some(&b'*') {
            star = Some((p + 1, n));
            p += 1;
        } else if pattern.get(p) == Some(&name[n]) {
            p += 1;
            n += 1;
        } else if let Some((after, from)) = star {
            star = Some((after, from + 1));
            p = after;
            n = from + 1;
        } else {
            return false;
        }
    }
    pattern[p..].iter().all(|b| *b == b'*')
}

/// Whether any of the patterns covers a name.
pub fn any_covers(patterns: &[String], name: &str) -> bool {
    patterns.iter().any(|pattern| covers(pattern, name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_cover_names() {
        for (pattern, name, yes) in [
            ("*", "anything/at-all", true),
            ("*", "", true),
            ("", "", true),
            ("", "x", false),
            ("flux-*", "flux-1-dev", true),
            ("flux-*", "flux-", true),
            ("flux-*", "fal/flux-1-dev", false),
            ("*/flux-*", "fal/flux-1-dev", true),
            ("gpt-image-2", "gpt-image-2", true),
            ("gpt-image-2", "gpt-image-2.5", false),
            ("*-pro", "flux-1.1-pro", true),
            ("*-pro", "flux-pro-pro-x", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("**", "x", true),
            ("é*", "été", true),
        ] {
            assert_eq!(covers(pattern, name), yes, "{pattern} {name}");
        }
    }

    #[test]
    fn a_hostile_name_costs_little() {
        let pattern = format!("{}b", "*a".repeat(40));
        let begun = std::time::Instant::now();
        assert!(!covers(&pattern, &"a".repeat(20_000)));
        assert!(begun.elapsed().as_secs() < 2);
    }
}

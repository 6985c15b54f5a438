//! The forms that texts of the configuration must have.

use std::net::{Ipv4Addr, SocketAddr};

use ::providers::money::Money;
use url::{Host, Url};

use crate::store::KeyTemplate;

/// An address to listen on: `127.0.0.1:4000`, `localhost:4000`, `[::1]:4000`.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
    let local = text.strip_prefix("localhost:").and_then(|port| port.parse().ok());
    if let Some(port) = local {
        return Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, port)));
    }
    text.parse().map_err(|_| "is no address; write one such as \"127.0.0.1:4000\"".to_owned())
}

/// An http(s) base URL: no trailing slash, query, fragment or user.
pub(super) fn base_url(text: &str) -> Result<String, String> {
    let example = "such as \"https://media.example.com/v1\"";
    let url = Url::parse(text).map_err(|e| format!("is no URL ({e}); write one {example}"))?;
    if !matches!(url.scheme(), "http" | "https") || url.host().is_none() {
        return Err(format!("must begin with http:// or https://; write one {example}"));
    }
    if text.ends_with('/') {
        return Err("ends with a slash; leave it out".to_owned());
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err("holds a user name or password; leave it out".to_owned());
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err("holds a query or a fragment; leave it out".to_owned());
    }
    Ok(text.to_owned())
}

/// Whether what is sent to this URL can be read on the way.
pub(super) fn is_clear_text(url: &str) -> bool {
    let Ok(url) = Url::parse(url) else { return false };
    let local = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback() || ip.is_private(),
        Some(Host::Ipv6(ip)) => ip.is_loopback() || ip.is_unique_local(),
        Some(Host::Domain(name)) => !name.contains('.'),
        None => false,
    };
    url.scheme() == "http" && !local
}

/// A web origin: `https://app.example.com`, or `*`.
pub(super) fn origin(text: &str) -> Result<String, String> {
    let fix = "is no origin; write one such as \"https://app.example.com\", or \"*\"";
    if text == "*" {
        return Ok(text.to_owned());
    }
    let url = Url::parse(text).map_err(|_| fix.to_owned())?;
    if url.origin().ascii_serialization() == text {
        Ok(text.to_owned())
    } else {
        Err(fix.to_owned())
    }
}

/// `host:port`.
pub(super) fn host_and_port(text: &str) -> Result<String, String> {
    let fix = "is no host and port; write one such as \"127.0.0.1:9900\"";
    // `https` leaves a port of 80 in place and drops one of 443, and the other way round.
    let parsed = |scheme: &str| Url::parse(&format!("{scheme}://{text}/")).ok();
    let port = parsed("http").and_then(|u| u.port()).or(parsed("https").and_then(|u| u.port()));
    let plain = !text.contains(['/', '@', '?', '#', ' ', '\\', '*']);
    match (parsed("http"), port) {
        (Some(url), Some(1..)) if plain && url.host().is_some() => Ok(text.to_ascii_lowercase()),
        _ => Err(fix.to_owned()),
    }
}

/// 64 hexadecimal digits.
pub(super) fn sha256(text: &str) -> Result<[u8; 32], String> {
    let mut hash = [0; 32];
    hex::decode_to_slice(text, &mut hash).map_err(|_| {
        "is no SHA-256: 64 hexadecimal digits, as `printf %s KEY | sha256sum` prints them"
            .to_owned()
    })?;
    Ok(hash)
}

/// A pattern of model names: `*` stands for anything.
pub(super) fn pattern(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(char::is_whitespace) {
        return Err("is no model name; write one such as \"flux-*\"".to_owned());
    }
    Ok(text.to_owned())
}

/// A pattern of paths: `*` stands for anything.
pub(super) fn endpoint(text: &str) -> Result<String, String> {
    if text.starts_with(['/', '*']) && text.bytes().all(|b| b.is_ascii_graphic()) {
        return Ok(text.to_owned());
    }
    Err("is no path; write one such as \"/v1/images/*\"".to_owned())
}

/// A name that logs, paths and answers can carry as it is.
pub(super) fn id(text: &str) -> Result<String, String> {
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
    if (1..=64).contains(&text.len()) && text.bytes().all(plain) && !text.starts_with('.') {
        return Ok(text.to_owned());
    }
    Err("is no name; write 1 to 64 letters, digits, dots, dashes and underscores".to_owned())
}

/// An amount of dollars, zero or more.
pub(super) fn amount(text: &str) -> Result<Money, String> {
    match text.parse::<Money>() {
        Ok(amount) if amount >= Money::ZERO => Ok(amount),
        Ok(_) => Err("is below zero".to_owned()),
        Err(_) => Err("is no amount; write dollars such as \"0.10\"".to_owned()),
    }
}

/// What may be spent.
pub(super) fn budget(text: &str) -> Result<Money, String> {
    if let Ok(amount) = text.parse::<Money>() {
        return if amount < Money::ZERO {
            Err("is below zero; write \"0\" to allow nothing, or leave it out to allow all"
                .to_owned())
        } else {
            Ok(amount)
        };
    }
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    Err(match text.split_once('.') {
        Some((whole, part)) if digits(whole) && digits(part) && part.len() > 9 => {
            "has more than nine decimals; write dollars such as \"5\" or \"0.000000001\""
        }
        split if digits(split.map_or(text, |(whole, _)| whole)) => {
            "is more than can be counted; write at most \"9000000000\", or leave it out to allow all"
        }
        _ => "is no amount; write dollars such as \"5\" or \"0.50\"",
    }
    .to_owned())
}

/// A percentage with at most two decimals, in hundredths of a percent.
pub(super) fn percent(text: &str) -> Result<u32, String> {
    let wrong = || {
        "is no percentage from 0 to 10000 with at most two decimals; write for example \"12.5\""
            .to_owned()
    };
    let (whole, part) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(part) || part.len() > 2 {
        return Err(wrong());
    }
    let whole: u32 = whole.parse().map_err(|_| wrong())?;
    let part: u32 = format!("{part:0<2}").parse().map_err(|_| wrong())?;
    whole
        .checked_mul(100)
        .and_then(|points| points.checked_add(part))
        .filter(|points| *points <= 1_000_000)
        .ok_or_else(wrong)
}

/// A name for kept pictures.
pub(super) fn key_template(text: &str) -> Result<String, String> {
    let example = "write for example \"{project}/{date}/{job}-{index}.{ext}\"";
    text.parse::<KeyTemplate>()
        .map(|template| template.to_string())
        .map_err(|e| format!("cannot be used: {e}; {example}"))
}

#[cfg(test)]
mod tests {
    use std::fmt::Debug;

    use super::*;

    fn check<T: Debug>(parse: fn(&str) -> Result<T, String>, good: &[&str], bad: &[&str]) {
        for text in good {
            assert!(parse(text).is_ok(), "{text}: {:?}", parse(text));
        }
        for text in bad {
            assert!(parse(text).is_err(), "{text}: {:?}", parse(text));
        }
    }

    #[test]
    fn forms_are_checked() {
        check(
            address,
            &["127.0.0.1:0", "localhost:4000", "[::1]:1"],
            &["", ":4000", "4000", "a:1"],
        );
        check(
            base_url,
            &["https://api.openai.com/v1", "http://127.0.0.1:9000", "http://host:1/a/b"],
            &["", "ftp://a", "https://a/", "https://u:p@a", "https://a?x=1", "a.example"],
        );
        check(
            origin,
            &["*", "https://a.example", "http://localhost:3000"],
            &[
                "",
                "a.example",
                "https://a.example/",
                "https://a.example/x",
                "https://a.example:443",
            ],
        );
        check(
            host_and_port,
            &["127.0.0.1:9900", "a.example:80", "a.example:443", "[::1]:9900"],
            &["", "127.0.0.1", "http://a:1", "a:0", "a:99999", "*:1", "u@a:1"],
        );
        let hash = "a".repeat(64);
        check(sha256, &[&hash], &["", "abc", &"g".repeat(64), &"a".repeat(65)]);
        check(pattern, &["*", "flux-*", "fal/x"], &["", "a b"]);
        check(
            endpoint,
            &["*", "/v1/images/*", "/v1/images/generations", "/*", "/v1/*/edits"],
            &["", "v1", "/a b", "images/*", "/é"],
        );
        let longest = "a".repeat(64);
        check(
            id,
            &["a", "web-1", "a.b_c", &longest],
            &["", "a b", "a/b", "..", "é", &"a".repeat(65)],
        );
        check(amount, &["0", "0.10", "12"], &["-1", "0,1", "", "1e3", "+1"]);
    }

    #[test]
    fn percentages_are_exact() {
        for (text, points) in
            [("0", 0), ("12.5", 1250), ("12.50", 1250), ("0.01", 1), ("10000", 1_000_000)]
        {
            assert_eq!(percent(text), Ok(points), "{text}");
        }
        for text in ["", "-1", "0.001", "10000.01", "1%", "1e2", ".5", "5.", "99999999999"] {
            assert!(percent(text).unwrap_err().contains("at most two decimals"), "{text}");
        }
    }

    #[test]
    fn clear_text_is_told_from_local_traffic() {
        for (url, clear) in [
            ("http://api.example.com", true),
            ("http://203.0.113.5", true),
            ("https://api.example.com", false),
            ("http://127.0.0.1:1", false),
            ("http://10.0.0.1", false),
            ("http://comfy:8188", false),
        ] {
            assert_eq!(is_clear_text(url), clear, "{url}");
        }
    }
}

//! What a guarded fetch may ask for, as far as the URL alone can tell.

use std::{
    fmt,
    net::{IpAddr, SocketAddr, UdpSocket},
    str::FromStr,
};

use serde::{Deserialize, Deserializer, de::Error as _};
use url::{Host, Url};

use super::{FetchError, address};

/// Longer URLs are refused.
const MAX_URL: usize = 2048;

/// One entry of `[fetch] allow`: a host, as a name or an address, and a port. It is excepted
/// from the https, port and public-address rules.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    host: Host,
    port: u16,
}

/// An entry that is not `host:port`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a host and a port, such as \"127.0.0.1:9900\" or \"[::1]:9900\"")]
pub struct ParseHostPortError(String);

impl FromStr for HostPort {
    type Err = ParseHostPortError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parse = || {
            let (host, port) = text.rsplit_once(':')?;
            let port = port.parse().ok().filter(|p| *p != 0)?;
            Some(Self { host: canonical(Host::parse(host).ok()?), port })
        };
        parse().ok_or_else(|| ParseHostPortError(text.to_owned()))
    }
}

impl From<SocketAddr> for HostPort {
    fn from(address: SocketAddr) -> Self {
        Self { host: host_of(address.ip().to_canonical()), port: address.port() }
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.host, self.port)
    }
}

impl<'de> Deserialize<'de> for HostPort {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

fn host_of(ip: IpAddr) -> Host {
    match ip {
        IpAddr::V4(v4) => Host::Ipv4(v4),
        IpAddr::V6(v6) => Host::Ipv6(v6),
    }
}

/// IPv4 written as IPv6 becomes IPv4, so that both notations compare equal.
fn canonical(host: Host) -> Host {
    match host {
        Host::Ipv6(v6) => host_of(IpAddr::V6(v6).to_canonical()),
        other => other,
    }
}

/// A URL that may be requested, if what its name resolves to may be dialled.
#[derive(Clone, Debug)]
pub(super) struct Target {
    pub(super) url: Url,
    /// Stands in the allow list: no address rule but that of our own listeners.
    pub(super) allowed: bool,
}

/// The rules that need no network.
#[derive(Debug)]
pub(super) struct Gate {
    pub(super) allow: Vec<HostPort>,
    pub(super) own_listeners: Vec<SocketAddr>,
    /// The one port outside the allow list.
    pub(super) port: u16,
}

impl Gate {
    /// Reads a URL, or refuses it.
    pub(super) fn admit(&self, text: &str) -> Result<Target, FetchError> {
        if text.len() > MAX_URL {
            return Err(FetchError::refused("the URL is longer than 2048 bytes"));
        }
        let url = Url::parse(text).map_err(|_| FetchError::refused("not an absolute URL"))?;
        self.admit_url(url)
    }

    /// Reads where a redirect leads, or refuses it.
    pub(super) fn admit_redirect(&self, from: &Url, to: &str) -> Result<Target, FetchError> {
        let next = from.join(to).map_err(|_| FetchError::refused("the redirect is not a URL"))?;
        if next.as_str().len() > MAX_URL {
            return Err(FetchError::refused("the redirect is longer than 2048 bytes"));
        }
        if from.scheme() == "https" && next.scheme() != "https" {
            return Err(FetchError::refused("a redirect from https to http"));
        }
        self.admit_url(next)
    }

    fn admit_url(&self, url: Url) -> Result<Target, FetchError> {
        if !matches!(url.scheme(), "https" | "http") {
            return Err(FetchError::refused("neither https nor http"));
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(FetchError::refused("the URL holds credentials"));
        }
        let (Some(host), Some(port)) = (url.host(), url.port_or_known_default()) else {
            return Err(FetchError::refused("the URL has no host"));
        };
        let host = canonical(host.to_owned());
        let allowed = self.allow.iter().any(|entry| entry.host == host && entry.port == port);
        let literal = match host {
            Host::Ipv4(v4) => Some(IpAddr::V4(v4)),
            Host::Ipv6(v6) => Some(IpAddr::V6(v6)),
            Host::Domain(_) => None,
        };
        if !allowed {
            if url.scheme() != "https" {
                return Err(FetchError::refused("not https"));
            }
            if port != self.port {
                return Err(FetchError::refused("not port 443"));
            }
        }
        if let Some(ip) = literal {
            self.admit_address(ip, port, allowed)?;
        }
        Ok(Target { url, allowed })
    }

    /// Passes an address that may be dialled.
    pub(super) fn admit_address(
        &self,
        ip: IpAddr,
        port: u16,
        allowed: bool,
    ) -> Result<(), FetchError> {
        if !allowed && !address::is_public(ip) {
            return Err(FetchError::refused("not a public address"));
        }
        if self.own_listeners.iter().any(|own| reaches(*own, ip, port)) {
            return Err(FetchError::refused("one of our own listeners"));
        }
        Ok(())
    }
}

/// Whether dialling `ip` and `port` reaches this listener.
fn reaches(listener: SocketAddr, ip: IpAddr, port: u16) -> bool {
    if listener.port() != port {
        return false;
    }
    let ip = ip.to_canonical();
    if !listener.ip().is_unspecified() {
        return listener.ip().to_canonical() == ip;
    }
    // It listens on every address of this machine; an address is one of them if it can be bound.
    ip.is_unspecified() || ip.is_loopback() || UdpSocket::bind((ip, 0)).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gate() -> Gate {
        Gate {
            allow: ["127.0.0.1:9900", "[::1]:9901", "images.internal:8443", "10.0.0.7:443"]
                .map(|text| text.parse().unwrap())
                .into(),
            own_listeners: vec!["127.0.0.1:4000".parse().unwrap(), "0.0.0.0:9902".parse().unwrap()],
            port: 443,
        }
    }

    fn check(admitted: bool, urls: &[&str]) {
        for url in urls {
            match gate().admit(url) {
                Ok(_) => assert!(admitted, "{url} passed"),
                Err(FetchError::Refused) => assert!(!admitted, "{url} was refused"),
                Err(other) => panic!("{url}: {other}"),
            }
        }
    }

    #[test]
    fn public_https_and_the_allowed_pairs_pass() {
        check(
            true,
            &[
                "https://example.com/a.png?b=c#d",
                "https://example.com:443/a.png",
                "https://8.8.8.8/a.png",
                "https://[2606:4700:4700::1111]/a.png",
                "HTTPS://EXAMPLE.com",
                "http://127.0.0.1:9900/a.png",
                "https://127.0.0.1:9900/a.png",
                "http://2130706433:9900/a.png",
                "http://[::ffff:127.0.0.1]:9900/a.png",
                "http://[::1]:9901/",
                "http://Images.Internal:8443/",
                "https://10.0.0.7/",
            ],
        );
    }

    #[test]
    fn schemes_ports_and_credentials_are_refused() {
        let long = format!("https://example.com/{}", "a".repeat(MAX_URL));
        check(
            false,
            &[
                "",
                "example.com/a.png",
                "//example.com/a.png",
                "/etc/passwd",
                "http://example.com/a.png",
                "http://example.com:443/a.png",
                "https://example.com:80/",
                "https://example.com:8443/",
                "https://example.com:22/",
                "https://user@example.com/",
                "https://user:secret@example.com/",
                "http://user@127.0.0.1:9900/",
                "ftp://example.com/a.png",
                "file:///etc/passwd",
                "gopher://example.com:443/",
                "data:image/png;base64,AAAA",
                "javascript:alert(1)",
                "https://",
                "https:///",
                "http://127.0.0.1:9901/",
                "http://localhost:9900/",
                "http://images.internal:8444/",
                "http://sub.images.internal:8443/",
                "http://10.0.0.7/",
                &long,
            ],
        );
    }

    #[test]
    fn literals_are_judged_in_every_notation() {
        check(
            false,
            &[
                "https://127.0.0.1/",
                "https://127.1/",
                "https://127.0.1/",
                "https://2130706433/",
                "https://0x7f000001/",
                "https://0x7f.0.0.1/",
                "https://0177.0.0.1/",
                "https://017700000001/",
                "https://127.0.0.1./",
                "https://0/",
                "https://0.0.0.0/",
                "https://169.254.169.254/latest/meta-data/",
                "https://2852039166/",
                "https://0xa9fea9fe/",
                "https://0xA9.0xFE.0xA9.0xFE/",
                "https://0251.0376.0251.0376/",
                "https://169.254.43518/",
                "https://１２７.０.０.１/",
                "https://①②⑦.⓪.⓪.①/",
                "https://%31%32%37.0.0.1/",
                "https://10.1.2.3/",
                "https://192.168.0.1/",
                "https://100.100.100.200/",
                "https://[::]/",
                "https://[::1]/",
                "https://[0:0:0:0:0:0:0:1]/",
                "https://[::ffff:7f00:1]/",
                "https://[::ffff:127.0.0.1]/",
                "https://[::127.0.0.1]/",
                "https://[64:ff9b::a9fe:a9fe]/",
                "https://[2002:7f00:1::]/",
                "https://[fd00:ec2::254]/",
                "https://[fe80::1]/",
                "https://[fe80::1%25eth0]/",
                "https://256.256.256.256/",
                "https://1.2.3.4.5/",
            ],
        );
    }

    #[test]
    fn redirects_are_judged_from_where_they_start() {
        let https: Url = "https://example.com/a/b".parse().unwrap();
        let http: Url = "http://127.0.0.1:9900/a".parse().unwrap();
        for (from, to, admitted) in [
            (&https, "/c", true),
            (&https, "c", true),
            (&https, "//example.org/c", true),
            (&https, "https://169.254.169.254/", false),
            (&https, "//169.254.169.254/", false),
            (&https, "http://127.0.0.1:9900/a", false),
            (&https, "http://example.com/", false),
            (&https, "file:///etc/passwd", false),
            (&http, "/c", true),
            (&http, "https://example.com/", true),
            (&http, "http://169.254.169.254/", false),
            (&http, "http://127.0.0.1:22/", false),
        ] {
            assert_eq!(gate().admit_redirect(from, to).is_ok(), admitted, "{from} -> {to}");
        }
    }

    #[test]
    fn our_own_listeners_are_refused_even_where_allowed() {
        let mut gate = gate();
        for (listener, url) in [
            ("127.0.0.1:9900", "http://127.0.0.1:9900/"),
            ("0.0.0.0:9900", "http://127.0.0.1:9900/"),
            ("[::]:9901", "http://[::1]:9901/"),
            ("10.0.0.7:443", "https://10.0.0.7/"),
            ("8.8.8.8:443", "https://8.8.8.8/"),
        ] {
            gate.own_listeners.clear();
            assert!(gate.admit(url).is_ok(), "{url}");
            gate.own_listeners.push(listener.parse().unwrap());
            assert!(gate.admit(url).is_err(), "{url} reaches {listener}");
        }
    }

    #[test]
    fn allow_entries_are_a_host_and_a_port() {
        for (text, shown) in [
            ("127.0.0.1:9900", Some("127.0.0.1:9900")),
            ("[::1]:80", Some("[::1]:80")),
            ("[::ffff:10.0.0.1]:80", Some("10.0.0.1:80")),
            ("Images.Internal:443", Some("images.internal:443")),
            ("images.internal", None),
            ("images.internal:", None),
            ("images.internal:0", None),
            ("images.internal:70000", None),
            (":80", None),
            ("::1:80", None),
            ("http://images.internal:80", None),
            ("images.internal/a:80", None),
        ] {
            let parsed = text.parse::<HostPort>().ok().map(|entry| entry.to_string());
            assert_eq!(parsed.as_deref(), shown, "{text}");
        }
    }
}

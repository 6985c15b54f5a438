//! Credentials that are more than a key: service accounts of Google's, and AWS keys.

use std::{fmt::Display, fs, path::PathBuf};

use ::providers::catalog::{AuthKind, Provider};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde::Deserialize;
use url::{Host, Url};

use super::{Secret, read::Reader, section::Section};

/// What a provider's requests are signed with.
#[derive(Clone, Debug)]
pub enum Credential {
    /// A service account of Google's.
    Google(ServiceAccount),
    /// Keys of an AWS account.
    Aws(AwsKeys),
}

/// A service account, as its key file describes it.
#[derive(Clone, Debug)]
pub struct ServiceAccount {
    /// The account's address.
    pub email: String,
    /// Which of its keys it is.
    pub key_id: String,
    /// The private key, PKCS #8 in DER.
    pub key: Secret<Vec<u8>>,
    /// Where tokens are given out.
    pub token_url: String,
    /// The project it belongs to, where the file says.
    pub project: Option<String>,
}

/// Keys of an AWS account.
#[derive(Clone, Debug)]
pub struct AwsKeys {
    /// The public one.
    pub access_key: String,
    /// The secret one.
    pub secret_key: Secret,
    /// Of keys that hold for a while.
    pub session_token: Option<Secret>,
}

/// The keys of a section that make a credential; `None` where none of them is given, or one is
/// wrong and was reported.
pub(super) fn read(
    reader: &Reader<'_>,
    provider: &Provider,
    section: &Section<'_>,
) -> Option<Credential> {
    match provider.auth.kind {
        AuthKind::Key | AuthKind::Optional => None,
        AuthKind::Google => service_account(reader, section).map(Credential::Google),
        AuthKind::Sigv4 => aws_keys(reader, section).map(Credential::Aws),
    }
}

/// What to write where a provider has neither key nor credential.
pub(super) fn missing(kind: AuthKind) -> Option<(&'static str, &'static str)> {
    match kind {
        AuthKind::Key | AuthKind::Optional => None,
        AuthKind::Google => Some((
            "credentials_file",
            "write the path of a service account's key file, or api_key for express mode",
        )),
        AuthKind::Sigv4 => {
            Some(("access_key", "write access_key and secret_key, a profile, or an api_key"))
        }
    }
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    #[serde(default)]
    private_key_id: String,
    #[serde(default = "googles")]
    token_uri: String,
    project_id: Option<String>,
}

fn googles() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

fn service_account(reader: &Reader<'_>, section: &Section<'_>) -> Option<ServiceAccount> {
    let token_url = section.parsed("token_url", token_url);
    let path = section.text("credentials_file").or_else(|| {
        (!section.has("api_key")).then(|| set(reader, "GOOGLE_APPLICATION_CREDENTIALS"))?
    })?;
    let wrong = |message: &dyn Display| {
        section.problem("credentials_file", format!("{path:?} {message}"));
        None::<ServiceAccount>
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => return wrong(&format!("cannot be read: {error}")),
    };
    // What serde says of it may quote the key.
    let Ok(file) = serde_json::from_str::<KeyFile>(&text) else {
        return wrong(&"is no key file of a service account; make one of type JSON");
    };
    let key = PrivatePkcs8KeyDer::from_pem_slice(file.private_key.as_bytes())
        .ok()
        .map(|key| key.secret_pkcs8_der().to_vec())
        .filter(|key| ring::rsa::KeyPair::from_pkcs8(key).is_ok());
    let Some(key) = key else { return wrong(&"holds no private key that can be used") };
    let token_url = match token_url {
        Some(given) => given,
        None => match self::token_url(&file.token_uri) {
            Ok(url) => url,
            Err(error) => return wrong(&format!("names a token_uri that {error}")),
        },
    };
    Some(ServiceAccount {
        email: file.client_email,
        key_id: file.private_key_id,
        key: Secret::new(key),
        token_url,
        project: file.project_id,
    })
}

/// The key is sent there in a signed form, and what comes back is a key: nobody may listen.
fn token_url(text: &str) -> Result<String, String> {
    let fix = "must begin with https://";
    let url = Url::parse(text).map_err(|_| fix.to_owned())?;
    let local = match url.host() {
        Some(Host::Ipv4(ip)) => ip.is_loopback(),
        Some(Host::Ipv6(ip)) => ip.is_loopback(),
        Some(Host::Domain(name)) => name == "localhost",
        None => false,
    };
    match url.scheme() {
        "https" => Ok(text.to_owned()),
        "http" if local => Ok(text.to_owned()),
        _ => Err(format!("{fix}; http:// is only for this very machine")),
    }
}

fn aws_keys(reader: &Reader<'_>, section: &Section<'_>) -> Option<AwsKeys> {
    let access_key = section.text("access_key").filter(|key| !key.is_empty());
    let secret_key = section.secret("secret_key");
    let session_token = section.secret("session_token");
    let profile = section.text("profile");
    if let Some(profile) = profile {
        if access_key.is_some() || secret_key.is_some() {
            section.problem("profile", "stands beside access_key; write one of them");
        }
        return from_profile(reader, section, &profile);
    }
    match (access_key, secret_key) {
        (Some(access_key), Some(secret_key)) => {
            Some(AwsKeys { access_key, secret_key, session_token })
        }
        (Some(_), None) if !section.has("secret_key") => {
            section.problem("secret_key", "is missing beside access_key");
            None
        }
        (None, Some(_)) => {
            section.problem("access_key", "is missing beside secret_key");
            None
        }
        _ if section.has("api_key") || section.has("access_key") => None,
        _ => Some(AwsKeys {
            access_key: set(reader, "AWS_ACCESS_KEY_ID")?,
            secret_key: Secret::new(set(reader, "AWS_SECRET_ACCESS_KEY")?),
            session_token: set(reader, "AWS_SESSION_TOKEN").map(Secret::new),
        }),
    }
}

/// A profile of the file that the AWS tools keep.
fn from_profile(reader: &Reader<'_>, section: &Section<'_>, name: &str) -> Option<AwsKeys> {
    let path = set(reader, "AWS_SHARED_CREDENTIALS_FILE")
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(set(reader, "HOME")?).join(".aws/credentials")));
    let Some(path) = path else {
        section.problem(
            "profile",
            "cannot be looked up: neither HOME nor AWS_SHARED_CREDENTIALS_FILE is set",
        );
        return None;
    };
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) => {
            section.problem("profile", format!("{} cannot be read: {error}", path.display()));
            return None;
        }
    };
    let value = |key: &str| profile_value(&text, name, key);
    let keys = value("aws_access_key_id").zip(value("aws_secret_access_key"));
    let Some((access_key, secret_key)) = keys else {
        let fix = "has no profile of that name with keys";
        section.problem("profile", format!("{name:?}: {} {fix}", path.display()));
        return None;
    };
    Some(AwsKeys {
        access_key,
        secret_key: Secret::new(secret_key),
        session_token: value("aws_session_token").map(Secret::new),
    })
}

/// A value of a section of an INI file.
fn profile_value(text: &str, profile: &str, key: &str) -> Option<String> {
    let head = |line: &&str| line.trim().strip_prefix('[').is_some();
    let name = |line: &str| {
        line.trim().strip_prefix('[')?.split(']').next().map(str::trim).map(str::to_owned)
    };
    let inside = text.lines().skip_while(|line| name(line).as_deref() != Some(profile)).skip(1);
    inside
        .take_while(|line| !head(line))
        .filter_map(|line| line.split_once('='))
        .find(|(found, _)| found.trim() == key)
        .map(|(_, value)| value.trim().to_owned())
        .filter(|value| !value.is_empty())
}

fn set(reader: &Reader<'_>, name: &str) -> Option<String> {
    reader.env(name).map(|value| value.trim().to_owned()).filter(|value| !value.is_empty())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Config, ConfigError, File};

    /// Made for tests; no account has its key.
    const FILE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/data/service-account.json");

    fn parse(text: &str, env: &[(&str, &str)]) -> Result<Config, ConfigError> {
        let file = File { path: Path::new("mediagate.toml"), text };
        let value = |name: &str| env.iter().find(|(n, _)| *n == name).map(|(_, v)| (*v).to_owned());
        Config::parse(Some(file), &value)
    }

    #[test]
    fn a_service_account_names_its_project_and_a_key_needs_none() {
        let global = "https://aiplatform.googleapis.com/v1/projects/example/locations/global";
        let of = |more: &str, env: &[(&str, &str)]| {
            let config = parse(&format!("[providers.vertex]\n{more}"), env).unwrap();
            let vertex = config.providers["vertex"].clone();
            (vertex.base_url, vertex.credential.is_some())
        };
        let file = format!("credentials_file = {FILE:?}\n");
        assert_eq!(of(&file, &[]), (global.to_owned(), true));
        let variable = [("GOOGLE_APPLICATION_CREDENTIALS", FILE)];
        assert_eq!(of("", &variable), (global.to_owned(), true));
        let there = of(&format!("{file}location = \"europe-west4\"\nproject = \"mine\""), &[]);
        let region = "https://europe-west4-aiplatform.googleapis.com/v1/projects/mine/locations/europe-west4";
        assert_eq!(there, (region.to_owned(), true));
        let express = "https://aiplatform.googleapis.com/v1".to_owned();
        assert_eq!(of("api_key = \"k\"", &variable), (express, false));
        let config = parse(&format!("[providers.vertex]\n{file}"), &[]).unwrap();
        assert!(!format!("{config:?}").contains("PRIVATE"));
    }

    #[test]
    fn aws_keys_are_read_from_the_section_the_environment_and_a_profile() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("credentials");
        fs::write(&file, "[ci]\naws_access_key_id=P\naws_secret_access_key=hidden\n").unwrap();
        let file = file.display().to_string();
        let env = [
            ("AWS_ACCESS_KEY_ID", "E"),
            ("AWS_SECRET_ACCESS_KEY", "hidden"),
            ("AWS_SHARED_CREDENTIALS_FILE", file.as_str()),
        ];
        for (more, want) in [
            ("access_key = \"S\"\nsecret_key = \"hidden\"", Some("S")),
            ("profile = \"ci\"", Some("P")),
            ("", Some("E")),
            ("api_key = \"k\"", None),
        ] {
            let config = parse(&format!("[providers.bedrock]\n{more}"), &env).unwrap();
            let bedrock = &config.providers["bedrock"];
            let found = match &bedrock.credential {
                Some(Credential::Aws(keys)) => Some(keys.access_key.as_str()),
                _ => None,
            };
            assert_eq!(found, want, "{more}");
            assert!(!format!("{config:?}").contains("hidden"));
        }
    }

    #[test]
    fn what_is_wrong_with_a_credential_is_told_without_it() {
        for (text, wanted) in [
            ("[providers.vertex]", "providers.vertex.credentials_file: is missing"),
            ("[providers.vertex]\ncredentials_file = \"/none\"", "cannot be read"),
            ("[providers.vertex]\ncredentials_file = \"Cargo.toml\"", "is no key file"),
            ("[providers.vertex]\napi_key = \"k\"\ncredential_file = \"x\"", "credentials_file"),
            (
                "[providers.vertex]\napi_key = \"k\"\ntoken_url = \"http://a.example\"",
                "only for this very machine",
            ),
            ("[providers.bedrock]", "providers.bedrock.access_key: is missing"),
            ("[providers.bedrock]\naccess_key = \"A\"", "secret_key: is missing beside"),
            ("[providers.bedrock]\nsecret_key = \"hidden\"", "access_key: is missing beside"),
            ("[providers.bedrock]\nprofile = \"p\"", "neither HOME nor"),
            ("[providers.bedrock]\napi_key = \"k\"\nacces_key = \"x\"", "access_key"),
        ] {
            let lines: Vec<String> = parse(text, &[]).unwrap_err().lines().collect();
            assert!(lines.iter().any(|line| line.contains(wanted)), "{text}\n{lines:?}");
            assert!(!lines.concat().contains("hidden"));
        }
    }

    #[test]
    fn profiles_are_read_as_the_tools_write_them() {
        let text = "# mine\n[default]\naws_access_key_id = A\naws_secret_access_key=B=\n\n\
                    [ci]\n aws_access_key_id= C\n[empty]\n";
        for (profile, key, want) in [
            ("default", "aws_access_key_id", Some("A")),
            ("default", "aws_secret_access_key", Some("B=")),
            ("ci", "aws_access_key_id", Some("C")),
            ("ci", "aws_secret_access_key", None),
            ("empty", "aws_access_key_id", None),
            ("none", "aws_access_key_id", None),
        ] {
            assert_eq!(profile_value(text, profile, key).as_deref(), want, "{profile} {key}");
        }
    }

    #[test]
    fn tokens_are_fetched_where_nobody_listens() {
        for (url, good) in [
            ("https://oauth2.googleapis.com/token", true),
            ("http://127.0.0.1:9000/token", true),
            ("http://[::1]:9000/token", true),
            ("http://localhost/token", true),
            ("http://oauth2.googleapis.com/token", false),
            ("http://10.0.0.1/token", false),
            ("ftp://127.0.0.1/token", false),
            ("token", false),
        ] {
            assert_eq!(token_url(url).is_ok(), good, "{url}");
        }
    }
}

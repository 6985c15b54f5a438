//! `[store]`: where finished pictures are kept.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::{S3Config, Secret, StoreConfig, StoreKind, check, read::Reader, section::Section};

/// Longest life of a link that Signature Version 4 allows.
const LONGEST_LINK: Duration = Duration::from_hours(7 * 24);

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Disk,
    S3,
    Memory,
}

pub(super) fn store(reader: &Reader<'_>, data_dir: &Path) -> StoreConfig {
    let section = reader.top().child("store");
    let words = [("disk", Kind::Disk), ("s3", Kind::S3), ("memory", Kind::Memory)];
    let kind = section.choice("kind", &words);
    let chosen = kind.unwrap_or(Kind::Disk);
    let path = section.text("path").map(PathBuf::from);
    let s3 = s3(&section, reader, chosen == Kind::S3);
    if kind.is_some() || !section.has("kind") {
        refuse_foreign_keys(&section, chosen);
    }
    if path.as_ref().is_some_and(|p| p.as_os_str().is_empty()) {
        section.problem("path", "is empty; write a directory such as \"data/media\"");
    }
    StoreConfig {
        kind: match chosen {
            Kind::Memory => StoreKind::Memory,
            Kind::Disk => StoreKind::Disk { path: path.unwrap_or_else(|| data_dir.join("media")) },
            Kind::S3 => StoreKind::S3(s3),
        },
        retention: section.duration("retention").unwrap_or(Duration::from_hours(72)),
        key_template: section
            .parsed("key_template", check::key_template)
            .unwrap_or_else(|| "{project}/{date}/{job}-{index}.{ext}".to_owned()),
    }
}

fn s3(section: &Section<'_>, reader: &Reader<'_>, chosen: bool) -> S3Config {
    let needed = |key: &str, variable: Option<&str>, found: Option<String>| {
        let usual = || variable.and_then(|name| reader.env(name)).filter(|v| !v.is_empty());
        found.or_else(usual).unwrap_or_else(|| {
            if chosen && !section.has(key) {
                let or = variable.map(|v| format!(" or set {v}")).unwrap_or_default();
                section.problem(key, format!("is missing; store.kind = \"s3\" needs it{or}"));
            }
            String::new()
        })
    };
    let secret = |key: &str| section.secret(key).map(|s| s.expose().clone());
    let presign_ttl = section.duration("presign_ttl").unwrap_or(Duration::from_hours(24));
    if presign_ttl > LONGEST_LINK {
        section.problem("presign_ttl", "is longer than S3 allows; write at most \"7d\"");
    }
    S3Config {
        bucket: needed("bucket", None, section.text("bucket").filter(|b| !b.is_empty())),
        region: needed("region", Some("AWS_REGION"), section.text("region")),
        endpoint: section.parsed("endpoint", check::base_url),
        path_style: section.flag("path_style").unwrap_or(false),
        access_key: Secret::new(needed(
            "access_key",
            Some("AWS_ACCESS_KEY_ID"),
            secret("access_key"),
        )),
        secret_key: Secret::new(needed(
            "secret_key",
            Some("AWS_SECRET_ACCESS_KEY"),
            secret("secret_key"),
        )),
        presign_ttl,
        public_base_url: section.parsed("public_base_url", check::base_url),
    }
}

/// A key of another kind of store would be silently without effect.
fn refuse_foreign_keys(section: &Section<'_>, chosen: Kind) {
    let s3_only = [
        "bucket",
        "region",
        "endpoint",
        "path_style",
        "access_key",
        "secret_key",
        "presign_ttl",
        "public_base_url",
    ];
    if chosen != Kind::S3 {
        for key in s3_only.into_iter().filter(|key| section.has(key)) {
            section.problem(key, "has no effect here; it needs store.kind = \"s3\"");
        }
    }
    if chosen != Kind::Disk && section.has("path") {
        section.problem("path", "has no effect here; it needs store.kind = \"disk\"");
    }
    if chosen == Kind::S3 && !cfg!(feature = "s3") {
        section.problem("kind", "\"s3\" is not in this build; build with the feature s3");
    }
}

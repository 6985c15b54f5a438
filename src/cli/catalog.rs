//! `mediagate catalog`: what is on sale, for people and for programs.

use std::{collections::BTreeSet, io::Write};

use providers::{
    catalog::{Catalog, Deployment, PriceLine, SizeRule},
    money::Money,
};
use serde_json::{Value, json};

use super::Failure;
use crate::config::nearest;

/// Prints the catalogue, or what one provider sells.
pub(super) fn run(
    catalog: &Catalog,
    provider: Option<&str>,
    as_json: bool,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if let Some(id) = provider.filter(|id| !catalog.providers.contains_key(*id)) {
        let known: Vec<&str> = catalog.providers.keys().map(String::as_str).collect();
        let guess = nearest(id, known.iter().copied())
            .map_or_else(|| known.join(", "), |near| format!("did you mean {near:?}?"));
        return Err(Failure::Usage(format!("there is no provider {id:?}; {guess}")));
    }
    let rows: Vec<&Deployment> =
        catalog.deployments().filter(|d| provider.is_none_or(|id| d.provider == id)).collect();
    if as_json {
        let data: Vec<Value> = rows.into_iter().map(row_json).collect();
        let list = json!({ "object": "list", "data": data });
        return Ok(writeln!(out, "{list:#}")?);
    }
    table(&rows, out)
}

fn row_json(row: &Deployment) -> Value {
    json!({
        "provider": row.provider,
        "model": row.model,
        "aliases": row.aliases,
        "slug": row.slug(),
        "upstream": row.upstream,
        "task": row.task,
        "size": row.size,
        "n": row.n,
        "formats": row.formats,
        "price": row.price,
        "estimate": row.estimate,
        "confidence": row.confidence,
        "source": row.source,
        "checked": row.checked,
        "retires": row.retires,
    })
}

const TITLES: [&str; 9] =
    ["PROVIDER", "MODEL", "UPSTREAM", "SIZES", "N", "FORMATS", "PRICE", "CONFIDENCE", "SOURCE"];

fn table(rows: &[&Deployment], out: &mut dyn Write) -> Result<(), Failure> {
    let mut lines: Vec<[String; 9]> = vec![TITLES.map(str::to_owned)];
    lines.extend(rows.iter().map(|row| {
        let formats: Vec<&str> = row.formats.iter().map(|f| f.name()).collect();
        [
            row.provider.clone(),
            row.model.clone(),
            row.upstream.clone(),
            sizes(&row.size),
            row.n.to_string(),
            formats.join(","),
            price(&row.price),
            format!("{:?}", row.confidence).to_lowercase(),
            row.source.clone(),
        ]
    }));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: [usize; 9] = std::array::from_fn(width);
    for line in &lines {
        let padded: Vec<String> =
            line.iter().zip(widths).map(|(cell, width)| format!("{cell:width$}")).collect();
        writeln!(out, "{}", padded.join("  ").trim_end())?;
    }
    let vendors: BTreeSet<&str> = rows.iter().map(|row| row.provider.as_str()).collect();
    let s = if vendors.len() == 1 { "" } else { "s" };
    Ok(writeln!(out, "\n{} deployments of {} provider{s}", rows.len(), vendors.len())?)
}

/// A size rule in a few words.
fn sizes(rule: &SizeRule) -> String {
    match rule {
        SizeRule::List { sizes } => match sizes.as_slice() {
            few if few.len() <= 3 => {
                few.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ")
            }
            many => format!("{} sizes", many.len()),
        },
        SizeRule::Ratios { ratios, range, tiers, .. } => {
            let ratios = match range {
                Some([least, most]) => format!("ratios {least} to {most}"),
                None => format!("{} ratios", ratios.len()),
            };
            if tiers.len() > 1 { format!("{ratios} at {}", tiers.join("/")) } else { ratios }
        }
        SizeRule::Grid { multiple_of, min, max, .. } => {
            format!("{min} to {max} by {multiple_of}")
        }
        SizeRule::Presets { presets } => format!("{} presets", presets.len()),
        SizeRule::Fixed { size } => format!("only {size}"),
        SizeRule::Input { .. } => "the input's".to_owned(),
    }
}

/// A price list in a few words: per unit, the range over all its conditions.
fn price(lines: &[PriceLine]) -> String {
    let mut parts: Vec<String> = Vec::new();
    let mut seen: Vec<(_, u64)> = Vec::new();
    for line in lines {
        let kind = (line.unit, line.per);
        if seen.contains(&kind) {
            continue;
        }
        seen.push(kind);
        let same = || lines.iter().filter(|l| (l.unit, l.per) == kind).map(|l| l.usd);
        let (least, most) = (same().min().unwrap_or(line.usd), same().max().unwrap_or(line.usd));
        let amount = if least == most {
            dollars(least)
        } else {
            format!("{} to {}", dollars(least), dollars(most))
        };
        let per = match line.per {
            1 => String::new(),
            1_000_000 => "1M ".to_owned(),
            per => format!("{per} "),
        };
        parts.push(format!("{amount} per {per}{}", line.unit.name().replace('_', " ")));
    }
    parts.join(", ")
}

/// Without needless zeros, but at least cents: `$0.04`, `$0.0025`.
fn dollars(amount: Money) -> String {
    let text = amount.to_string();
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    format!("${whole}.{:0<2}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(provider: Option<&str>, as_json: bool) -> String {
        let catalog = Catalog::embedded().unwrap();
        let mut out = Vec::new();
        run(&catalog, provider, as_json, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn the_table_has_a_line_for_every_deployment() {
        let count = Catalog::embedded().unwrap().deployments().count();
        let table = shown(None, false);
        // A title, an empty line and the sum stand around the rows.
        assert_eq!(table.lines().count(), count + 3);
        assert!(table.starts_with("PROVIDER"), "{table}");
        let bfl = shown(Some("bfl"), false);
        assert!(bfl.lines().skip(1).take_while(|l| !l.is_empty()).all(|l| l.starts_with("bfl ")));
    }

    #[test]
    fn the_json_has_everything() {
        let list: Value = serde_json::from_str(&shown(Some("openai"), true)).unwrap();
        let rows = list["data"].as_array().unwrap();
        assert!(!rows.is_empty());
        for row in rows {
            assert_eq!(row["provider"], "openai");
            assert!(row["price"][0]["usd"].is_string(), "{row:#}");
            assert!(row["size"]["kind"].is_string() && row["source"].is_string(), "{row:#}");
        }
    }

    /// The table of `README.md`.
    fn readme_table(catalog: &Catalog) -> String {
        let mut table = String::from(
            "| provider | id | deployments | dialect | key |\n|---|---|---|---|---|\n",
        );
        for provider in catalog.providers.values() {
            let row = format!(
                "| [{}]({}) | `{}` | {} | {} | `{}` |\n",
                provider.title,
                provider.docs,
                provider.id,
                provider.models.len(),
                provider.adapter,
                provider.auth.env.first().map_or("", String::as_str),
            );
            table.push_str(&row);
        }
        table
    }

    #[test]
    #[expect(clippy::disallowed_methods, reason = "a switch of the test, not of the gateway")]
    fn the_readme_names_every_provider() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/README.md");
        let page = std::fs::read_to_string(path).unwrap();
        let opening = page.find("<!-- providers:").unwrap();
        let start = opening + page[opening..].find("-->\n").unwrap() + 4;
        let end = page.find("<!-- end of providers -->").unwrap();
        let table = readme_table(&Catalog::embedded().unwrap());
        if std::env::var_os("UPDATE_DOCS").is_some() {
            let written = format!("{}{table}{}", &page[..start], &page[end..]);
            std::fs::write(path, written).unwrap();
            return;
        }
        assert_eq!(&page[start..end], table, "run with UPDATE_DOCS=1 to write it anew");
    }

    #[test]
    fn an_unknown_provider_is_told_the_nearest() {
        let failure = run(&Catalog::embedded().unwrap(), Some("opnai"), false, &mut Vec::new());
        assert!(matches!(failure, Err(Failure::Usage(text)) if text.contains("\"openai\"")));
    }

    #[test]
    fn money_is_short_but_exact() {
        for (amount, wanted) in
            [("0.04", "$0.04"), ("0.0025", "$0.0025"), ("30", "$30.00"), ("0.1", "$0.10")]
        {
            assert_eq!(dollars(amount.parse().unwrap()), wanted);
        }
    }
}

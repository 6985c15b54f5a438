//! Lists of the admin API as JSON, as CSV or as columns for a terminal.

use std::io::Write;

use clap::Args;
use serde_json::{Value, json};

use super::{Failure, operator::cell};
use crate::usage::csv::{Cell, Table};

/// How a list is printed.
#[derive(Clone, Copy, Debug, Default, Args)]
pub(super) struct CsvArgs {
    /// Print CSV
    #[arg(long, conflicts_with = "json")]
    csv: bool,
}

/// The rows of a list, page after page, until there are `most` of them.
pub(super) async fn pages<F: Future<Output = Result<Value, Failure>>>(
    query: &[(&str, Option<&str>)],
    most: usize,
    page: impl Fn(Vec<(String, String)>) -> F,
) -> Result<Vec<Value>, Failure> {
    let given = query.iter().filter_map(|(name, value)| Some((*name, (*value)?)));
    let given: Vec<(String, String)> =
        given.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
    let mut rows: Vec<Value> = Vec::new();
    let mut after: Option<String> = None;
    while rows.len() < most {
        let mut query = given.clone();
        query.push(("limit".to_owned(), (most - rows.len()).min(10_000).to_string()));
        query.extend(after.take().map(|cursor| ("after".to_owned(), cursor)));
        let list = page(query).await?;
        rows.extend(list["data"].as_array().into_iter().flatten().cloned());
        after = list["next"].as_str().map(str::to_owned);
        if after.is_none() {
            break;
        }
    }
    Ok(rows)
}

/// Prints rows as asked.
pub(super) fn print(
    rows: &[Value],
    json: bool,
    csv: CsvArgs,
    out: &mut dyn Write,
) -> Result<(), Failure> {
    if json {
        return Ok(writeln!(out, "{:#}", json!({ "object": "list", "data": rows }))?);
    }
    let table = table(rows);
    if csv.csv {
        return Ok(write!(out, "{}", table.to_csv())?);
    }
    let shown = |cell: &Cell| match cell {
        Cell::Text(text) | Cell::Number(text) => text.clone(),
        Cell::Empty => "-".to_owned(),
    };
    let mut lines: Vec<Vec<String>> =
        vec![table.titles.iter().map(|title| title.to_uppercase()).collect()];
    lines.extend(table.rows.iter().map(|row| row.iter().map(shown).collect()));
    let width = |column: usize| lines.iter().map(|l| l[column].chars().count()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..table.titles.len()).map(width).collect();
    for line in &lines {
        let cells = line.iter().zip(&widths).map(|(cell, width)| format!("{cell:width$}"));
        writeln!(out, "{}", cells.collect::<Vec<_>>().join("  ").trim_end())?;
    }
    Ok(())
}

/// A column for every field; the fields of an object within a row are columns of their own.
fn table(rows: &[Value]) -> Table {
    let flat: Vec<Vec<(String, Cell)>> = rows.iter().map(flat).collect();
    let mut titles: Vec<String> = Vec::new();
    for (title, _) in flat.iter().flatten() {
        if !titles.contains(title) {
            titles.push(title.clone());
        }
    }
    let rows = flat.into_iter().map(|row| {
        let find = |title: &String| {
            let found = row.iter().find(|(name, _)| name == title);
            found.map_or(Cell::Empty, |(_, cell)| cell.clone())
        };
        titles.iter().map(find).collect()
    });
    Table { rows: rows.collect(), titles: titles.clone() }
}

fn flat(row: &Value) -> Vec<(String, Cell)> {
    let mut cells = Vec::new();
    for (name, value) in row.as_object().into_iter().flatten() {
        match value {
            // Every row has the same.
            _ if name == "object" => {}
            Value::Object(inner) if name == "units" => {
                cells.extend(inner.iter().map(|(unit, value)| (unit.clone(), shown(value))));
            }
            Value::Object(inner) => {
                let cell =
                    |(field, value): (&String, &Value)| (format!("{name}_{field}"), shown(value));
                cells.extend(inner.iter().map(cell));
            }
            other => cells.push((name.clone(), shown(other))),
        }
    }
    cells
}

fn shown(value: &Value) -> Cell {
    let is_number = |text: &str| {
        let digits = text.strip_prefix('-').unwrap_or(text);
        digits.starts_with(|c: char| c.is_ascii_digit())
            && digits.bytes().all(|b| b.is_ascii_digit() || b == b'.')
    };
    match value {
        Value::Null => Cell::Empty,
        // Amounts come as texts, so that they stay exact.
        Value::String(text) if is_number(text) => Cell::number(text),
        Value::String(text) => Cell::text(text),
        other => Cell::number(cell(other)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_become_columns() {
        let rows = [
            json!({"day": "2026-09-01", "label": "=evil", "requests": 2, "units": {"image": "3"}, "usd": "0.12"}),
            json!({"day": "2026-09-02", "label": "a", "requests": 1, "units": {"second": "1.5"}, "usd": "-0.12"}),
            json!({"object": "account", "folded": {"posted": "1"}, "cap": null}),
        ];
        assert_eq!(
            table(&rows).to_csv(),
            "day,label,requests,image,usd,second,folded_posted,cap\r\n\
             2026-09-01,'=evil,2,3,0.12,,,\r\n\
             2026-09-02,a,1,,-0.12,1.5,,\r\n\
             ,,,,,,1,\r\n"
        );
        let mut out = Vec::new();
        print(&rows[..1], false, CsvArgs { csv: false }, &mut out).unwrap();
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "DAY         LABEL  REQUESTS  IMAGE  USD\n2026-09-01  =evil  2         3      0.12\n"
        );
    }

    #[tokio::test]
    async fn pages_are_followed_as_far_as_wanted() {
        let page = |query: Vec<(String, String)>| async move {
            let get = |name: &str| query.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
            let from: usize = get("after").map_or(0, |text| text.parse().unwrap());
            let limit = get("limit").unwrap().parse::<usize>().unwrap().min(3);
            let data: Vec<Value> = (from..(from + limit).min(7)).map(|n| json!({"n": n})).collect();
            let end = from + data.len();
            let next = (end < 7).then(|| end.to_string());
            Ok(json!({"data": data, "next": next}))
        };
        for (most, got) in [(100, 7), (7, 7), (4, 4), (1, 1)] {
            let rows = pages(&[("org", None), ("x", Some("y"))], most, page).await.unwrap();
            assert_eq!(rows.len(), got, "{most}");
            assert!(rows.iter().zip(0..).all(|(row, n)| row["n"] == n), "{rows:?}");
        }
    }
}

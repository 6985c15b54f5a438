//! Tables as CSV (RFC 4180), safe to open in a spreadsheet.

use std::fmt;

/// One cell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cell {
    /// Anybody's words. What a spreadsheet would take for a formula gets a leading apostrophe.
    Text(String),
    /// A number of ours, written as it is.
    Number(String),
    /// Nothing.
    Empty,
}

impl Cell {
    /// Anybody's words.
    pub fn text(text: impl Into<String>) -> Self {
        Self::Text(text.into())
    }

    /// A number of ours.
    pub fn number(number: impl fmt::Display) -> Self {
        Self::Number(format!("{number}"))
    }
}

/// A table: its titles and its rows, all of one length.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Table {
    /// The titles.
    pub titles: Vec<String>,
    /// The rows.
    pub rows: Vec<Vec<Cell>>,
}

impl Table {
    /// As CSV with a line of titles.
    pub fn to_csv(&self) -> String {
        let mut out = String::new();
        let titles: Vec<Cell> = self.titles.iter().map(Cell::text).collect();
        for row in std::iter::once(&titles).chain(&self.rows) {
            for (index, cell) in row.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                match cell {
                    Cell::Text(text) => quote(&guarded(text), &mut out),
                    Cell::Number(number) => out.push_str(number),
                    Cell::Empty => {}
                }
            }
            out.push_str("\r\n");
        }
        out
    }
}

/// Text that no spreadsheet takes for a formula.
fn guarded(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
        format!("'{text}")
    } else {
        text.to_owned()
    }
}

fn quote(text: &str, out: &mut String) {
    let plain = !text.contains([',', '"', '\r', '\n'])
        && !text.starts_with(char::is_whitespace)
        && !text.ends_with(char::is_whitespace);
    if plain {
        out.push_str(text);
        return;
    }
    out.push('"');
    out.push_str(&text.replace('"', "\"\""));
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_formulas_are_defused() {
        for (cell, written) in [
            (Cell::text("plain"), "plain"),
            (Cell::text(""), ""),
            (Cell::text("a,b"), "\"a,b\""),
            (Cell::text("say \"hi\""), "\"say \"\"hi\"\"\""),
            (Cell::text("two\nlines"), "\"two\nlines\""),
            (Cell::text(" led by a space"), "\" led by a space\""),
            (Cell::text("=1+1"), "'=1+1"),
            (Cell::text("=HYPERLINK(\"x\",\"y\")"), "\"'=HYPERLINK(\"\"x\"\",\"\"y\"\")\""),
            (Cell::text("+1"), "'+1"),
            (Cell::text("-1"), "'-1"),
            (Cell::text("@SUM(A1)"), "'@SUM(A1)"),
            (Cell::text("\t=1"), "'\t=1"),
            (Cell::text("a=1"), "a=1"),
            (Cell::text("grün ☃"), "grün ☃"),
            (Cell::number("-1.500000000"), "-1.500000000"),
            (Cell::Empty, ""),
        ] {
            let table = Table {
                titles: vec!["a".into(), "b".into()],
                rows: vec![vec![cell.clone(), Cell::number(7)]],
            };
            assert_eq!(table.to_csv(), format!("a,b\r\n{written},7\r\n"), "{cell:?}");
        }
    }
}

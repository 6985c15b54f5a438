//! Budgets: what a key, an end user, a project or an organisation may use in a period.

use providers::money::{Money, Unit};
use serde::{Deserialize as _, de::value::StrDeserializer};

use super::{
    Budget, Period, Scope,
    role::{Act, Actor},
    store::{Outcome, StoreError, found, name, new_id, permit},
};
use crate::db::{DbError, Row, Tx};

/// What budgets of money are counted in.
pub const USD: &str = "usd";

/// A budget to be made.
#[derive(Clone, Debug)]
pub struct NewBudget {
    /// What it is called in answers.
    pub name: String,
    /// Whose it is.
    pub scope: Scope,
    /// Their id; for users a name, or `*` for each of them.
    pub scope_id: String,
    /// `usd`, or a unit of the catalogue.
    pub unit: String,
    /// How long until it begins anew.
    pub period: Period,
    /// Nano-dollars, or millionths of the unit. 0 allows nothing.
    pub amount: i64,
    /// The share in percent at which a webhook is sent.
    pub alert_percent: Option<u8>,
}

/// `usd`, or the name of a unit of the catalogue. The message follows the field's name.
pub fn parse_unit(text: &str) -> Result<String, String> {
    if text == USD {
        return Ok(text.to_owned());
    }
    let unit = StrDeserializer::<serde::de::value::Error>::new(text);
    Unit::deserialize(unit).map(|unit| unit.name().to_owned()).map_err(|error| {
        let known = error.to_string();
        let known = known.split("expected one of ").nth(1).unwrap_or("the catalogue's units");
        format!("{text:?} is no unit; known: `usd`, {known}")
    })
}

/// `day`, `week`, `month` or `total`.
pub fn parse_period(text: &str) -> Result<Period, String> {
    const KNOWN: [Period; 4] = [Period::Day, Period::Week, Period::Month, Period::Total];
    KNOWN
        .into_iter()
        .find(|period| period_name(*period) == text)
        .ok_or_else(|| format!("{text:?} is no period; known: day, week, month, total"))
}

/// The name in the API and in the database.
pub const fn period_name(period: Period) -> &'static str {
    match period {
        Period::Day => "day",
        Period::Week => "week",
        Period::Month => "month",
        Period::Total => "total",
    }
}

/// `key`, `user`, `project` or `org`.
pub fn parse_scope(text: &str) -> Result<Scope, String> {
    const KNOWN: [Scope; 4] = [Scope::Key, Scope::User, Scope::Project, Scope::Org];
    KNOWN
        .into_iter()
        .find(|scope| scope_name(*scope) == text)
        .ok_or_else(|| format!("{text:?} is no scope; known: key, user, project, org"))
}

/// The name in the API and in the database.
pub const fn scope_name(scope: Scope) -> &'static str {
    match scope {
        Scope::Key => "key",
        Scope::User => "user",
        Scope::Project => "project",
        Scope::Org => "org",
    }
}

/// A decimal text as nano-dollars, or as millionths of a unit. Never a float, never rounded.
pub fn parse_amount(unit: &str, text: &str) -> Result<i64, String> {
    if text.starts_with('-') {
        return Err(format!("{text:?} is below zero; 0 allows nothing"));
    }
    if unit == USD {
        let amount = text.parse::<Money>().map_err(|_| {
            format!(
                "{text:?} is no amount; write dollars such as \"5\" or \"0.25\", at most nine \
                 decimals and 9.2 billion"
            )
        })?;
        return Ok(amount.nanos());
    }
    let wrong = || {
        format!(
            "{text:?} is no amount of {unit}; write a number such as \"1000\" or \"2.5\", at most \
             six decimals and 9.2 trillion"
        )
    };
    let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
    let plain = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    if !plain(whole) || !plain(fraction) || fraction.len() > 6 {
        return Err(wrong());
    }
    let whole: i64 = whole.parse().map_err(|_| wrong())?;
    let part: i64 = format!("{fraction:0<6}").parse().map_err(|_| wrong())?;
    whole.checked_mul(1_000_000).and_then(|n| n.checked_add(part)).ok_or_else(wrong)
}

/// An amount as its decimal text: nine decimals of a dollar, as few as needed of other units.
pub fn show_amount(unit: &str, amount: i64) -> String {
    if unit == USD {
        return Money::from_nanos(amount).to_string();
    }
    let (whole, part) = (amount / 1_000_000, amount.rem_euclid(1_000_000));
    if part == 0 {
        return whole.to_string();
    }
    format!("{whole}.{}", format!("{part:06}").trim_end_matches('0'))
}

/// A budget out of what was asked for, if this operator may make it.
pub fn check(actor: &Actor, org: &str, new: NewBudget) -> Outcome<Budget> {
    permit(actor, Act::Manage, org, "organisation", org)?;
    let budget = Budget {
        id: new_id("bud"),
        name: name("name", &new.name)?,
        scope: new.scope,
        scope_id: new.scope_id,
        unit: parse_unit(&new.unit).map_err(|e| StoreError::invalid("unit", e))?,
        period: new.period,
        amount: new.amount,
        alert_percent: new.alert_percent,
    };
    if budget.scope == Scope::User {
        name("scope_id", &budget.scope_id)?;
    }
    check_numbers(&budget)?;
    Ok(budget)
}

/// Refuses a limit or a share that cannot be.
pub fn check_numbers(budget: &Budget) -> Outcome<()> {
    if budget.amount < 0 {
        return Err(StoreError::invalid("amount", "is below zero; 0 allows nothing"));
    }
    if budget.alert_percent.is_some_and(|p| !(1..=100).contains(&p)) {
        return Err(StoreError::invalid("alert_percent", "must be 1 to 100"));
    }
    Ok(())
}

/// What the audit log says of a budget.
pub fn detail(budget: &Budget) -> serde_json::Value {
    serde_json::json!({
        "scope": scope_name(budget.scope),
        "scope_id": budget.scope_id,
        "unit": budget.unit,
        "period": period_name(budget.period),
        "amount": show_amount(&budget.unit, budget.amount),
    })
}

/// Whether whoever it is for is there.
pub async fn exists(tx: &mut Tx<'_>, org: &str, budget: &Budget) -> Result<bool, DbError> {
    let sql = match budget.scope {
        Scope::Key => "SELECT id FROM api_key WHERE org = $1 AND id = $2 AND revoked_at IS NULL",
        Scope::Project => {
            "SELECT id FROM project WHERE org = $1 AND id = $2 AND deleted_at IS NULL"
        }
        Scope::Org => "SELECT id FROM org WHERE id = $1 AND id = $2 AND deleted_at IS NULL",
        // Anyone may turn up as a user.
        Scope::User => "SELECT id FROM org WHERE id = $1 AND deleted_at IS NULL AND $2 <> ''",
    };
    found(tx, sql, &[org.into(), budget.scope_id.as_str().into()]).await
}

/// Writes the row.
pub async fn insert(
    tx: &mut Tx<'_>,
    rev: i64,
    org: &str,
    budget: &Budget,
    now: i64,
) -> Result<(), DbError> {
    let row = [
        budget.id.as_str().into(),
        org.into(),
        budget.name.as_str().into(),
        scope_name(budget.scope).into(),
        budget.scope_id.as_str().into(),
        budget.unit.as_str().into(),
        period_name(budget.period).into(),
        budget.amount.into(),
        budget.alert_percent.map(i64::from).into(),
        now.into(),
        rev.into(),
    ];
    tx.execute(
        "INSERT INTO budget (id, org, name, scope, scope_id, unit, period, amount, alert_percent, \
         created_at, rev) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)",
        &row,
    )
    .await?;
    Ok(())
}

/// The columns that [`read`] takes.
pub const COLUMNS: &str = "id, name, scope, scope_id, unit, period, amount, alert_percent";

/// A budget out of a row that begins with [`COLUMNS`].
pub fn read(row: &Row) -> Result<Budget, DbError> {
    Ok(Budget {
        id: row.text(0)?,
        name: row.text(1)?,
        scope: parse_scope(&row.text(2)?).map_err(DbError::Corrupt)?,
        scope_id: row.text(3)?,
        unit: row.text(4)?,
        period: parse_period(&row.text(5)?).map_err(DbError::Corrupt)?,
        amount: row.int(6)?,
        alert_percent: row.opt_int(7)?.map(|p| u8::try_from(p).unwrap_or(u8::MAX)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_are_exact_or_refused() {
        for (unit, text, wanted) in [
            ("usd", "5", Ok(5_000_000_000)),
            ("usd", "0", Ok(0)),
            ("usd", "0.000000001", Ok(1)),
            ("usd", "9223372036.854775807", Ok(i64::MAX)),
            ("usd", "9223372036.854775808", Err("9.2 billion")),
            ("usd", "0.0000000001", Err("nine decimals")),
            ("usd", "1000000000000000000000000000000", Err("9.2 billion")),
            ("usd", "1e30", Err("no amount")),
            ("usd", "-1", Err("below zero")),
            ("usd", "-0", Err("below zero")),
            ("usd", "NaN", Err("no amount")),
            ("usd", "$5", Err("no amount")),
            ("usd", "", Err("no amount")),
            ("usd", " 5", Err("no amount")),
            ("image", "1000", Ok(1_000_000_000)),
            ("image", "2.5", Ok(2_500_000)),
            ("image", "0.0000001", Err("six decimals")),
            ("image", "9223372036854.775807", Ok(i64::MAX)),
            ("image", "9223372036854.775808", Err("9.2 trillion")),
            ("image", "1000000000000000000000000000000", Err("9.2 trillion")),
            ("image", "-1", Err("below zero")),
            ("image", "+1", Err("no amount")),
        ] {
            match (parse_amount(unit, text), wanted) {
                (Ok(got), Ok(want)) => {
                    assert_eq!(got, want, "{unit} {text}");
                    assert_eq!(parse_amount(unit, &show_amount(unit, got)), Ok(got), "{text}");
                }
                (Err(got), Err(part)) => assert!(got.contains(part), "{text}: {got}"),
                (got, want) => panic!("{unit} {text}: {got:?}, wanted {want:?}"),
            }
        }
    }

    #[test]
    fn words_are_known_or_the_known_ones_named() {
        assert_eq!(parse_unit("usd").unwrap(), "usd");
        assert_eq!(parse_unit("megapixel").unwrap(), "megapixel");
        let error = parse_unit("images").unwrap_err();
        assert!(error.contains("`usd`") && error.contains("`image`"), "{error}");
        for word in ["day", "week", "month", "total"] {
            assert_eq!(period_name(parse_period(word).unwrap()), word);
        }
        assert!(parse_period("year").unwrap_err().contains("week"));
        for word in ["key", "user", "project", "org"] {
            assert_eq!(scope_name(parse_scope(word).unwrap()), word);
        }
        assert!(parse_scope("team").unwrap_err().contains("project"));
    }
}

//! What a job may come to, on every account it counts against, and what it did come to.

use std::collections::BTreeMap;

use providers::money::{Cost, Line, Money, Quantity, Rate, Unit};

use super::{Plan, job::Success, request::ImageRequest};
use crate::{
    jobs::act::Used,
    ledger::{AccountSpec, USD, book::Measured, credit},
    tenant::Grant,
    usage::window,
};

/// The unit of whole calls.
const REQUEST: &str = "request";
const MICROS: i64 = 1_000_000;

/// The most a plan may come to, by unit: the dearest of the deployments it may fail over to.
pub(super) fn most(plan: &Plan, request: &ImageRequest, markup_bp: u32) -> Option<Measured> {
    let mut most = counted(i64::from(request.n));
    for candidate in &plan.candidates {
        // What has no price is not charged; the operator allowed it.
        let Some(cost) = &candidate.cost else { continue };
        let mut cost = cost.clone();
        // An estimate of a picture says nothing of the words it is drawn from.
        let prices = &candidate.served.deployment.price;
        if let Some(words) = prices.iter().find(|line| line.unit == Unit::TextInputToken) {
            let tokens = Quantity::whole(most_tokens(&request.prompt) * u64::from(request.n));
            let rate = Rate { amount: words.usd, per: words.per };
            cost.lines.push(Line::new(words.unit, tokens, rate)?);
        }
        let cost = cost.with_markup(markup_bp)?;
        let mut one = Measured::new();
        add(&mut one, &cost)?;
        for (unit, amount) in one {
            let known = most.entry(unit).or_insert(0);
            *known = amount.max(*known);
        }
    }
    Some(most)
}

/// As many tokens as a prompt may come to: English has four letters in one, scripts without spaces
/// about one, and vendors add a few of their own.
fn most_tokens(prompt: &str) -> u64 {
    let (plain, other): (Vec<char>, Vec<char>) = prompt.chars().partition(char::is_ascii);
    (plain.len() / 2 + other.len() * 2 + 32) as u64
}

fn counted(pictures: i64) -> Measured {
    BTreeMap::from([
        (REQUEST.to_owned(), MICROS),
        (Unit::Image.name().to_owned(), pictures.saturating_mul(MICROS)),
    ])
}

/// Adds a cost: its money, and its quantities where they are not counted otherwise.
fn add(sum: &mut Measured, cost: &Cost) -> Option<()> {
    for line in &cost.lines {
        let money = sum.entry(USD.to_owned()).or_insert(0);
        *money = money.checked_add(line.amount.nanos())?;
        if line.unit != Unit::Image {
            let quantity = i64::try_from(line.quantity.as_micros()).ok()?;
            let known = sum.entry(line.unit.name().to_owned()).or_insert(0);
            *known = known.checked_add(quantity)?;
        }
    }
    Some(())
}

/// What is taken of the hold for a success, by unit.
pub(super) fn taken(success: &Success) -> Measured {
    let mut taken = counted(success.pictures.len() as i64);
    if let Some(cost) = &success.cost {
        // A sum beyond what can be counted was refused when it was made.
        let _ = add(&mut taken, cost);
    }
    taken
}

/// What a success adds to the sums of use.
pub(super) fn used(success: &Success) -> Vec<Used> {
    let mut used = Vec::new();
    for (index, share) in success.shares.iter().enumerate() {
        let line = |unit: &str, requests, quantity, amount| Used {
            provider: share.provider.clone(),
            unit: unit.to_owned(),
            requests,
            quantity,
            amount,
        };
        if index == 0 {
            used.push(line(REQUEST, 1, MICROS, 0));
        }
        let mut images = line(Unit::Image.name(), 0, i64::from(share.pictures) * MICROS, 0);
        for priced in share.cost.iter().flat_map(|cost| &cost.lines) {
            if priced.unit == Unit::Image {
                images.amount = images.amount.saturating_add(priced.amount.nanos());
                continue;
            }
            let quantity = i64::try_from(priced.quantity.as_micros()).unwrap_or(i64::MAX);
            used.push(line(priced.unit.name(), 0, quantity, priced.amount.nanos()));
        }
        used.push(images);
    }
    used
}

/// The accounts a job counts against, each with what is held of it. What pays comes first.
pub(super) fn chain(
    grant: &Grant,
    user: Option<&str>,
    most: &Measured,
    at: i64,
) -> Vec<(AccountSpec, i64)> {
    let pays = AccountSpec {
        id: credit(&grant.org),
        org: grant.org.clone(),
        unit: USD.to_owned(),
        cap: grant.prepaid.then_some(0),
        fixed: true,
    };
    let amount = |unit: &str| most.get(unit).copied().unwrap_or(0);
    let mut chain = vec![(pays, amount(USD))];
    for budget in &grant.budgets {
        let Some(id) = window::account(budget, user, at) else { continue };
        let spec = AccountSpec {
            id,
            org: grant.org.clone(),
            unit: budget.unit.clone(),
            cap: Some(budget.amount),
            fixed: true,
        };
        chain.push((spec, amount(&budget.unit)));
    }
    chain
}

/// A cost that is at most `held`: what a client was not told before, it does not pay. The
/// last lines are cut, so that the lines still add up to the total.
pub(super) fn capped(mut cost: Cost, held: Money) -> Cost {
    let mut left = held.nanos();
    for line in &mut cost.lines {
        let amount = line.amount.nanos().min(left).max(0);
        line.amount = Money::from_nanos(amount);
        left -= amount;
    }
    cost
}

//! The book against a naive model, over random operations.

use std::collections::BTreeMap;

use proptest::{prelude::*, strategy::ValueTree as _};

use super::{Account, AccountSpec, Book, Leg, Refusal, TransferKind, USD, book::Measured, credit};

fn spec(id: &str, unit: &str, cap: Option<i64>) -> AccountSpec {
    AccountSpec { id: id.to_owned(), org: "o".to_owned(), unit: unit.to_owned(), cap, fixed: false }
}

/// Credits, a dollar budget and a budget of pictures, as every key of the model has them.
fn specs() -> [AccountSpec; 3] {
    [
        spec(&credit("o"), USD, Some(0)),
        spec("budget:b", USD, Some(1_000)),
        spec("budget:i", "image", Some(50)),
    ]
}

fn fresh() -> Book {
    let mut book = Book::default();
    for spec in specs() {
        book.load(Book::fresh(&spec));
    }
    book
}

#[derive(Clone, Debug)]
enum Op {
    Fund(i64),
    Hold(i64, i64),
    Capture(usize, i64, i64),
    Release(usize),
    Refund(usize),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        (-5_i64..400).prop_map(Op::Fund),
        (-2_i64..120, 0_i64..8).prop_map(|(a, n)| Op::Hold(a, n)),
        (any::<usize>(), -2_i64..200, 0_i64..12).prop_map(|(i, a, n)| Op::Capture(i, a, n)),
        any::<usize>().prop_map(Op::Release),
        any::<usize>().prop_map(Op::Refund),
    ]
}

/// What the naive model knows of a job.
#[derive(Clone, Debug)]
struct Job {
    legs: Vec<Leg>,
    usd: i64,
    images: i64,
    state: &'static str,
    paid: (i64, i64),
}

#[derive(Debug, Default)]
struct Model {
    funded: i64,
    jobs: Vec<Job>,
}

impl Model {
    fn sum(&self, of: impl Fn(&Job) -> i64) -> i64 {
        self.jobs.iter().map(of).sum()
    }

    fn held(&self) -> (i64, i64) {
        let open = |job: &Job| job.state == "held";
        (
            self.sum(|j| if open(j) { j.usd } else { 0 }),
            self.sum(|j| if open(j) { j.images } else { 0 }),
        )
    }

    fn spent(&self) -> (i64, i64) {
        let paid = |job: &Job| job.state == "captured";
        (
            self.sum(|j| if paid(j) { j.paid.0 } else { 0 }),
            self.sum(|j| if paid(j) { j.paid.1 } else { 0 }),
        )
    }
}

/// Stored balances by the transfers alone.
fn fold(book: &Book) -> BTreeMap<String, (i64, i64)> {
    let mut sums: BTreeMap<String, (i64, i64)> = BTreeMap::new();
    for t in book.transfers() {
        match t.kind {
            TransferKind::Hold => sums.entry(t.debit.clone()).or_default().1 += t.amount,
            TransferKind::Capture => {
                let sum = sums.entry(t.debit.clone()).or_default();
                sum.0 += t.amount;
                sum.1 -= t.held.unwrap();
            }
            TransferKind::Release => {
                sums.entry(t.debit.clone()).or_default().1 -= t.held.unwrap();
            }
            TransferKind::Fund | TransferKind::Refund => {
                sums.entry(t.credit.clone()).or_default().0 -= t.amount;
            }
            _ => {}
        }
    }
    sums
}

fn apply(book: &mut Book, model: &mut Model, op: &Op, n: usize) {
    let id = |index: usize| format!("job{index}");
    match op {
        Op::Fund(amount) => {
            let done = book.fund(&credit("o"), &n.to_string(), *amount, "", 0);
            assert_eq!(done.is_ok(), *amount > 0);
            model.funded += if *amount > 0 { *amount } else { 0 };
        }
        Op::Hold(usd, images) => {
            let [credits, dollars, pictures] = specs();
            let chain = [(credits, *usd), (dollars, *usd), (pictures, *images)];
            let (held, spent) = (model.held(), model.spent());
            let fits = held.0 + spent.0 + usd <= model.funded
                && held.0 + spent.0 + usd <= 1_000
                && held.1 + spent.1 + images <= 50;
            let job = id(model.jobs.len());
            let done = book.authorise(&job, &chain, 0);
            assert_eq!(done.is_ok(), *usd >= 0 && fits, "{op:?} {held:?} {spent:?} {done:?}");
            if let Ok(legs) = done {
                let (usd, images) = (*usd, *images);
                model.jobs.push(Job { legs, usd, images, state: "held", paid: (0, 0) });
            }
        }
        Op::Capture(at, usd, images) if !model.jobs.is_empty() => {
            let at = at % model.jobs.len();
            let job = &mut model.jobs[at];
            if job.state != "held" {
                return;
            }
            let measured: Measured = [(USD.to_owned(), *usd), ("image".to_owned(), *images)].into();
            let done = book.capture(&id(at), &job.legs, &measured, 0);
            if *usd < 0 {
                assert_eq!(done, Err(Refusal::Amount));
                return;
            }
            // Never more than was held.
            job.paid = ((*usd).min(job.usd), (*images).min(job.images));
            assert_eq!(done, Ok(job.paid.0));
            job.state = "captured";
        }
        Op::Release(at) if !model.jobs.is_empty() => {
            let at = at % model.jobs.len();
            let job = &mut model.jobs[at];
            if job.state == "held" {
                book.release(&id(at), &job.legs, 0).unwrap();
                job.state = "released";
            }
        }
        Op::Refund(at) if !model.jobs.is_empty() => {
            let at = at % model.jobs.len();
            let job = &mut model.jobs[at];
            if job.state == "captured" {
                let paid = |leg: &Leg| if leg.unit == USD { job.paid.0 } else { job.paid.1 };
                let captured: Vec<Leg> =
                    job.legs.iter().map(|leg| Leg { amount: paid(leg), ..leg.clone() }).collect();
                book.refund(&id(at), &captured, "", 0).unwrap();
                job.state = "refunded";
            }
        }
        _ => {}
    }
}

fn check(book: &Book, model: &Model) {
    let (held, spent) = (model.held(), model.spent());
    let account = |id: &str| book.account(id).unwrap();
    let credits = account(&credit("o"));
    assert_eq!((credits.posted, credits.pending), (spent.0 - model.funded, held.0));
    let dollars = account("budget:b");
    assert_eq!((dollars.posted, dollars.pending), (spent.0, held.0));
    let pictures = account("budget:i");
    assert_eq!((pictures.posted, pictures.pending), (spent.1, held.1));
    for account in [credits, dollars, pictures] {
        assert!(account.available().unwrap() >= 0, "{account:?}");
        let folded = fold(book).get(&account.id).copied().unwrap_or_default();
        assert_eq!(folded, (account.posted, account.pending), "{}", account.id);
    }
    let mut ids: Vec<&str> = book.transfers().iter().map(|t| t.id.as_str()).collect();
    let count = ids.len();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), count, "an id was used twice");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn the_book_equals_the_model(ops in proptest::collection::vec(op(), 1..120)) {
        let (mut book, mut model) = (fresh(), Model::default());
        for (n, op) in ops.iter().enumerate() {
            apply(&mut book, &mut model, op, n);
            check(&book, &model);
        }
    }
}

#[test]
fn a_million_operations_leave_no_drift() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let strategy = op();
    let (mut book, mut model) = (fresh(), Model::default());
    let mut done = 0;
    while done < 1_000_000 {
        for n in 0..2_000 {
            let op = strategy.new_tree(&mut runner).unwrap().current();
            apply(&mut book, &mut model, &op, done + n);
        }
        done += 2_000;
        check(&book, &model);
        // A new day: the balances stay as they are, and what is done is forgotten.
        (book, model) = (fresh(), Model::default());
    }
}

#[test]
fn a_refused_hold_changes_nothing() {
    let mut book = fresh();
    book.fund(&credit("o"), "1", 100, "", 0).unwrap();
    let [credits, dollars, pictures] = specs();
    let before = book.account(&credit("o")).unwrap().clone();
    // The last account of the chain refuses.
    let chain = [(credits, 10), (dollars, 10), (pictures.clone(), 51)];
    let refused = book.authorise("j", &chain, 0);
    assert_eq!(
        refused,
        Err(Refusal::Exceeded {
            account: pictures.id,
            unit: "image".to_owned(),
            asked: 51,
            left: 50
        })
    );
    assert_eq!(book.account(&credit("o")), Some(&before));
    assert_eq!(book.transfers().len(), 1, "only the funding");
}

#[test]
fn a_frozen_account_is_closed_and_a_lowered_cap_takes_nothing_back() {
    let mut account: Account = Book::fresh(&spec("budget:b", USD, Some(100)));
    (account.posted, account.pending) = (40, 30);
    account.set_cap(Some(50));
    assert_eq!((account.cap, account.ceiling), (Some(50), Some(70)));
    assert_eq!(account.available(), Some(-20));
    account.set_cap(Some(80));
    assert_eq!((account.cap, account.ceiling), (Some(80), Some(80)));
    account.frozen = true;
    let mut book = Book::default();
    book.load(account);
    let chain = [(spec("budget:b", USD, Some(80)), 1)];
    let frozen = Refusal::Frozen { account: "budget:b".to_owned() };
    assert_eq!(book.authorise("j", &chain, 0), Err(frozen));
}

#[test]
fn amounts_beyond_counting_are_refused() {
    let mut book = Book::default();
    let unlimited = spec("credit:o", USD, None);
    book.load(Book::fresh(&unlimited));
    book.authorise("a", &[(unlimited.clone(), i64::MAX)], 0).unwrap();
    let more = book.authorise("b", &[(unlimited, 1)], 0);
    assert_eq!(more, Err(Refusal::Amount));
    assert_eq!(book.fund("credit:o", "x", i64::MIN, "", 0), Err(Refusal::Amount));
}

//! The first call of the database fails, then the second, and so on until a job needs no more of
//! them: before it happens, or after it happened and unheard of.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use mediagate::crash::Point;
use parking_lot::Mutex;

use super::{
    books::{Books, compare},
    rig::{Ask, Fate, Gate, Setup, Simulator},
};

/// Cases at once.
const AT_ONCE: usize = 6;
/// A job needs fewer calls, with those of the start and of the watch over keys.
const CALLS: u32 = 26;

const MODELS: &[(&str, &str)] = &[
    ("fal", "fal/flux-1-schnell"),
    ("replicate", "replicate/flux-1-schnell"),
    ("openai", "openai/gpt-image-1-mini"),
];

/// What the first process of a case leaves to the next.
#[derive(Clone, Copy, Debug)]
enum Before {
    Nothing,
    /// A job that a provider works on.
    Job,
}

async fn case(
    simulator: &Simulator,
    call: u32,
    late: bool,
    before: Before,
    (provider, model): (&str, &str),
) -> Vec<String> {
    let providers = [(provider, "")];
    let mut gate =
        Gate::new(simulator, Setup { providers: &providers, callbacks: false, more: "" });
    let number = format!("{call}{}", if late { ":late" } else { "" });
    let mut ask = Ask::new(model, "");
    ask.keyed = call.is_multiple_of(2);
    if matches!(before, Before::Job) {
        gate.start(Some(Point::AfterAccepted.name())).await;
    }
    let asking = gate.ask(&ask, &[]);
    let ending = async {
        if matches!(before, Before::Job) {
            gate.ends().await;
        }
        gate.start_with(&["--fail-database-at", &number]).await;
        if gate.ended().is_some() {
            // It says that it cannot start, and is started again.
            gate.start(None).await;
        }
    };
    let (fate, ()) = tokio::join!(asking, ending);
    let books = Books::sqlite(&gate.data);
    let mut wrong = books.at_rest(Duration::from_mins(1)).await;
    let fates = [(ask, fate)];
    wrong.extend(compare(&gate, &books, simulator, &fates, 1).await.violations);
    if gate.logs().contains("panicked") {
        wrong.push("a panic".to_owned());
    }
    let delivered = matches!(fates[0].1, Fate::Picture { .. });
    if matches!(before, Before::Job) && provider != "openai" && !delivered {
        wrong.push(format!("{:?}: the job was lost", fates[0].1));
    }
    gate.kill();
    wrong.extend(gate.leaks());
    if !wrong.is_empty() {
        let left = gate.leave();
        wrong.push(format!("left in {}", left.display()));
    }
    let case = format!("{model}, call {number}, before it {before:?}");
    wrong.into_iter().map(|wrong| format!("{case}: {wrong}")).collect()
}

async fn check(before: Before, models: &[(&str, &str)]) {
    let simulator = Simulator::start(1, &[]);
    let wrong = Mutex::new(Vec::new());
    let cases = (1..=CALLS).flat_map(|call| [(call, false), (call, true)]);
    let cases =
        cases.enumerate().map(|(at, (call, late))| (call, late, models[at / 2 % models.len()]));
    stream::iter(cases)
        .for_each_concurrent(AT_ONCE, |(call, late, model)| {
            let (simulator, wrong) = (&simulator, &wrong);
            async move {
                let found = case(simulator, call, late, before, model).await;
                wrong.lock().extend(found);
            }
        })
        .await;
    let wrong = wrong.into_inner();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_database_that_fails_loses_nothing() {
    check(Before::Nothing, MODELS).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_of_the_database_that_fails_after_a_crash_loses_nothing() {
    check(Before::Job, &MODELS[..2]).await;
}

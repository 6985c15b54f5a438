//! Random load, `kill -9` at random times, and a restart, again and again.
//!
//! `just kill 1000` runs a thousand rounds and prints their figures; CI runs few.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use tokio::time::sleep;

use super::{
    books::{Books, compare},
    rig::{Ask, Fate, Gate, Setup, Simulator},
};

/// Rounds in CI.
const ROUNDS: u64 = 20;
/// Gateways side by side.
const LANES: u64 = 3;
/// A gateway begins anew after so many rounds: what it remembers would slow it down.
const LIFE: u64 = 25;

const MODELS: &[&str] = &[
    "fal/flux-1-schnell",
    "bfl/flux-1-dev",
    "replicate/flux-1-schnell",
    "gemini/nano-banana",
    "openai/gpt-image-1-mini",
];

const PROVIDERS: &[(&str, &str)] =
    &[("fal", ""), ("bfl", ""), ("replicate", ""), ("gemini", ""), ("openai", "")];

/// What goes wrong at the providers in every second life.
const FAULTS: &[&str] = &[
    "drop=0.04",
    "accepted-500=0.04",
    "503=0.04",
    "500@poll*2=0.05",
    "503@result*2=0.05",
    "failed=0.04",
    "moderated=0.03",
    "truncated@file*1=0.05",
    "slow=1=0.04",
];

/// Numbers that a seed repeats: splitmix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What was seen of a provider.
#[derive(Clone, Copy, Debug, Default)]
struct Seen {
    asked: u64,
    pictures: u64,
    refused: u64,
    lost: u64,
    unrecorded: u64,
}

#[derive(Debug, Default)]
struct Summary {
    rounds: u64,
    violations: Vec<String>,
    resumed: Vec<Duration>,
    providers: BTreeMap<String, Seen>,
    codes: BTreeMap<String, u64>,
}

impl Summary {
    fn add(&mut self, other: Self) {
        self.rounds += other.rounds;
        self.violations.extend(other.violations);
        self.resumed.extend(other.resumed);
        for (provider, seen) in other.providers {
            let sum = self.providers.entry(provider).or_default();
            sum.asked += seen.asked;
            sum.pictures += seen.pictures;
            sum.refused += seen.refused;
            sum.lost += seen.lost;
            sum.unrecorded += seen.unrecorded;
        }
        for (code, n) in other.codes {
            *self.codes.entry(code).or_default() += n;
        }
    }

    fn print(&mut self, took: Duration) {
        self.resumed.sort();
        eprintln!(
            "{} rounds of kill -9 in {took:.0?}: {} violations; {} jobs taken up again, \
             p50 {:.0?}, max {:.0?} after the restart",
            self.rounds,
            self.violations.len(),
            self.resumed.len(),
            self.resumed.get(self.resumed.len() / 2).copied().unwrap_or_default(),
            self.resumed.last().copied().unwrap_or_default(),
        );
        eprintln!(
            "{:<12}{:>8}{:>10}{:>9}{:>22}{:>24}",
            "provider", "asked", "pictures", "refused", "billed and refused", "answered unrecorded"
        );
        for (provider, seen) in &self.providers {
            eprintln!(
                "{provider:<12}{:>8}{:>10}{:>9}{:>22}{:>24}",
                seen.asked, seen.pictures, seen.refused, seen.lost, seen.unrecorded
            );
        }
        eprintln!("refusals: {:?}", self.codes);
    }
}

/// The rounds of one gateway.
async fn life(seed: u64, rounds: u64) -> Summary {
    let mut random = Random(seed);
    let faulty = seed % 2 == 1;
    let simulator = Simulator::start(seed, if faulty { FAULTS } else { &[] });
    let setup = Setup {
        providers: PROVIDERS,
        callbacks: random.below(2) == 0,
        more: "jobs.ambiguous = \"strict\"",
    };
    let mut gate = Gate::new(&simulator, setup);
    let mut summary = Summary::default();
    gate.start(None).await;
    for round in 0..rounds {
        let asks: Vec<Ask> = (0..=random.below(5))
            .map(|_| {
                let mut ask = Ask::new(MODELS[random.below(MODELS.len() as u64) as usize], "");
                ask.keyed = random.below(2) == 0;
                ask.links = random.below(4) == 0;
                ask
            })
            .collect();
        // Half of them late enough for slow pictures to be there.
        let kills: Vec<Duration> = (0..=random.below(2))
            .map(|_| {
                let most = if random.below(2) == 0 { 1200 } else { 4000 };
                Duration::from_millis(random.below(most))
            })
            .collect();
        let asking = join_all(asks.iter().map(|ask| gate.ask(ask, &[])));
        let starts = gate.starts();
        let ending = async {
            for wait in &kills {
                sleep(*wait).await;
                gate.kill();
                gate.start(None).await;
            }
        };
        let (fates, ()) = tokio::join!(asking, ending);
        let fates: Vec<(Ask, Fate)> = asks.into_iter().zip(fates).collect();
        let books = Books::sqlite(&gate.data);
        let mut wrong = books.at_rest(Duration::from_secs(90)).await;
        let findings = compare(&gate, &books, &simulator, &fates, 1).await;
        wrong.extend(findings.violations.iter().cloned());
        for (ask, fate) in &fates {
            let provider = ask.model.split('/').next().unwrap();
            let seen = summary.providers.entry(provider.to_owned()).or_default();
            let of = |list: &[String]| list.iter().filter(|l| l.contains(&ask.id)).count() as u64;
            seen.asked += 1;
            seen.lost += of(&findings.lost);
            seen.unrecorded += of(&findings.unrecorded);
            match fate {
                Fate::Picture { .. } => seen.pictures += 1,
                Fate::Refused { code, .. } => {
                    seen.refused += 1;
                    *summary.codes.entry(code.clone()).or_default() += 1;
                }
                Fate::Never => {}
            }
        }
        // The job of a vendor that can be asked for it is found again, whatever happens here.
        for (ask, fate) in &fates {
            let found = ask.model.starts_with("replicate/")
                || (setup.callbacks && ask.model.starts_with("fal/"));
            let lost = findings.lost.iter().any(|lost| lost.contains(&ask.id));
            if !faulty && found && lost {
                let told = books.tell(ask).await;
                wrong.push(format!("lost: {} {fate:?}\n{told}", ask.prompt));
            }
            if !ask.model.starts_with("gemini/")
                && !ask.model.starts_with("openai/")
                && findings.unrecorded.iter().any(|line| line.contains(&ask.id))
            {
                wrong.push(format!("answered before it was written: {} {fate:?}", ask.prompt));
            }
        }
        let resumed = gate.resumed(starts);
        if let Some(late) = resumed.iter().find(|late| **late > Duration::from_secs(5)) {
            wrong.push(format!("taken up again only after {late:?}"));
        }
        summary.resumed.extend(resumed);
        summary.rounds += 1;
        for wrong in wrong {
            let left = gate.leave();
            let wrong = format!(
                "seed {seed}, round {round}, killed after {kills:?}, left in {}: {wrong}",
                left.display()
            );
            eprintln!("VIOLATION {wrong}");
            summary.violations.push(wrong);
        }
        if summary.violations.len() > 20 {
            break;
        }
    }
    gate.kill();
    summary.violations.extend(gate.leaks());
    summary
}

#[expect(clippy::disallowed_methods, reason = "a test has no configuration")]
fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().and_then(|text| text.parse().ok())
}

#[tokio::test(flavor = "multi_thread")]
async fn random_kills_lose_nothing_and_buy_nothing_twice() {
    let rounds = number("MEDIAGATE_KILL_ROUNDS").unwrap_or(ROUNDS);
    let seed = number("MEDIAGATE_KILL_SEED").unwrap_or(1);
    let begun = Instant::now();
    let each = LIFE.min(rounds.div_ceil(LANES));
    let lives = rounds.div_ceil(each);
    let mut summary = Summary::default();
    let lanes = (0..LANES).map(|lane| async move {
        let mut sum = Summary::default();
        for number in (lane..lives).step_by(LANES as usize) {
            sum.add(life(seed + number, each).await);
        }
        sum
    });
    for lane in join_all(lanes).await {
        summary.add(lane);
    }
    summary.print(begun.elapsed());
    assert!(summary.violations.is_empty(), "{}", summary.violations.join("\n"));
}

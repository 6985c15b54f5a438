//! The gateway ends at every point the code names, and at pairs of them: first at one, and after a
//! restart at another.
//!
//! CI goes through all single points and some pairs; `just crash` goes through all pairs.

use std::{
    collections::BTreeSet,
    time::{Duration, Instant},
};

use futures_util::{StreamExt as _, stream};
use mediagate::crash::Point;
use parking_lot::Mutex;
use tokio::time::sleep;

use super::{
    books::{Books, compare},
    rig::{Ask, Fate, Gate, Setup, Simulator},
};

/// Cases at once: most of a case's time is waiting.
const AT_ONCE: usize = 6;
/// Pairs that CI tries.
const PAIRS: usize = 24;
/// A job must be taken up again within this time of a restart (G7), with some of it for machines
/// that do ten things at once.
const RESUMED: Duration = Duration::from_secs(5);

/// A kind of job.
#[derive(Clone, Copy, Debug)]
struct Scene {
    name: &'static str,
    setup: Setup<'static>,
    model: &'static str,
    /// A fault for the prompt.
    words: &'static str,
    /// Whether the vendor has jobs that can be asked after.
    queue: bool,
    /// Whether a submit whose reply was lost can be found again.
    found: bool,
}

const PLAIN: Setup<'static> = Setup { providers: &[], callbacks: false, more: "" };

const SCENES: &[Scene] = &[
    Scene {
        name: "fal",
        setup: Setup { providers: &[("fal", "")], ..PLAIN },
        model: "fal/flux-1-schnell",
        words: "",
        queue: true,
        found: false,
    },
    Scene {
        name: "bfl",
        setup: Setup { providers: &[("bfl", "")], ..PLAIN },
        model: "bfl/flux-1-dev",
        words: "",
        queue: true,
        found: false,
    },
    Scene {
        name: "replicate",
        setup: Setup { providers: &[("replicate", "")], ..PLAIN },
        model: "replicate/flux-1-schnell",
        words: "",
        queue: true,
        found: true,
    },
    Scene {
        name: "fal with callbacks",
        setup: Setup { providers: &[("fal", "")], callbacks: true, ..PLAIN },
        model: "fal/flux-1-schnell",
        words: "",
        queue: true,
        found: true,
    },
    Scene {
        name: "gemini",
        setup: Setup { providers: &[("gemini", "")], ..PLAIN },
        model: "gemini/nano-banana",
        words: "",
        queue: false,
        found: false,
    },
    Scene {
        name: "openai, synced",
        setup: Setup {
            providers: &[("openai", "")],
            more: "database.durability = \"full\"",
            ..PLAIN
        },
        model: "openai/gpt-image-1-mini",
        words: "",
        queue: false,
        found: false,
    },
    Scene {
        name: "fal is down, replicate is next",
        setup: Setup {
            providers: &[("fal", "/x/503"), ("replicate", "")],
            more: "[routes.two]\ntargets = [\"fal/flux-1-schnell\", \"replicate/flux-1-schnell\"]",
            ..PLAIN
        },
        model: "two",
        words: "",
        queue: true,
        found: true,
    },
    Scene {
        name: "fal fails",
        setup: Setup { providers: &[("fal", "")], ..PLAIN },
        model: "fal/flux-1-schnell",
        words: "[[fault:failed]]",
        queue: true,
        found: false,
    },
];

/// Points that are only passed by a process that takes over, with what must have happened before.
const TAKING: &[(Point, Point)] = &[
    (Point::AfterAccepted, Point::BeforeTake),
    (Point::AfterAccepted, Point::AfterTake),
    (Point::AfterSubmitReply, Point::BeforeRecover),
    (Point::AfterSubmitReply, Point::AfterRecover),
];

/// A kind of job, and where the process ends, the first and then the next.
#[derive(Clone, Debug)]
struct Case {
    scene: &'static Scene,
    points: Vec<Point>,
    keyed: bool,
}

/// What all cases leave behind.
#[derive(Default)]
struct Tally {
    violations: Vec<String>,
    reached: BTreeSet<(usize, &'static str)>,
    resumed: Vec<Duration>,
    unrecorded: usize,
    refused: usize,
    cases: usize,
}

impl Case {
    fn name(&self) -> String {
        let points: Vec<_> = self.points.iter().map(|point| point.name()).collect();
        let key = if self.keyed { ", with a key" } else { "" };
        format!("{} at {}{key}", self.scene.name, points.join(" then "))
    }

    async fn run(&self, simulator: &Simulator, tally: &Mutex<Tally>) {
        let mut gate = Gate::new(simulator, self.scene.setup);
        let mut ask = Ask::new(self.scene.model, self.scene.words);
        ask.keyed = self.keyed;
        gate.start(Some(self.points[0].name())).await;
        let mut reached = Vec::new();
        let asking = gate.ask(&ask, &[]);
        let ending = async {
            for (index, point) in self.points.iter().enumerate() {
                if wait_for_end(&gate).await {
                    reached.push((index, point.name()));
                } else {
                    gate.kill();
                }
                gate.start(self.points.get(index + 1).map(|point| point.name())).await;
            }
        };
        let (fate, ()) = tokio::join!(asking, ending);
        let books = Books::sqlite(&gate.data);
        let mut wrong = books.at_rest(Duration::from_secs(90)).await;
        let fates = [(ask, fate)];
        let findings = compare(&gate, &books, simulator, &fates, 1).await;
        gate.kill();
        wrong.extend(gate.leaks());
        wrong.extend(findings.violations);
        let fate = &fates[0].1;
        let deliver = self.scene.words.is_empty() && self.must_deliver(&reached);
        if deliver && !matches!(fate, Fate::Picture { .. }) {
            wrong.push(format!("{fate:?}: the job was lost\n{}", books.tell(&fates[0].0).await));
        }
        if self.scene.queue && !findings.unrecorded.is_empty() {
            wrong.push(format!("answered before it was written: {:?}", findings.unrecorded));
        }
        let resumed = gate.resumed(1);
        let mut tally = tally.lock();
        tally.cases += 1;
        tally.reached.extend(reached);
        tally.unrecorded += findings.unrecorded.len();
        tally.refused += usize::from(!matches!(fate, Fate::Picture { .. }));
        if let Some(late) = resumed.iter().find(|late| **late > RESUMED) {
            wrong.push(format!("taken up again only after {late:?}"));
        }
        tally.resumed.extend(resumed);
        let mut name = self.name();
        if !wrong.is_empty() {
            name = format!("{name} (left in {})", gate.leave().display());
        }
        tally.violations.extend(wrong.into_iter().map(|wrong| format!("{name}: {wrong}")));
    }

    /// Whether the picture must come in spite of these ends: the provider's job was written down,
    /// or can be found, or nothing had been sent.
    fn must_deliver(&self, reached: &[(usize, &'static str)]) -> bool {
        use Point as P;
        let nothing_sent = [P::BeforeOpen].map(Point::name);
        let in_doubt =
            [P::AfterOpen, P::BeforeSubmit, P::BeforeIntend, P::AfterIntend].map(Point::name);
        let found = [P::AfterSubmitReply, P::BeforeRecover, P::AfterRecover].map(Point::name);
        reached.iter().all(|(_, point)| {
            if nothing_sent.contains(point) {
                true
            } else if in_doubt.contains(point) {
                false
            } else if found.contains(point) {
                self.scene.found
            } else {
                self.scene.queue
            }
        })
    }
}

/// Whether the process ended by itself; false where it has nothing more to do.
async fn wait_for_end(gate: &Gate) -> bool {
    use std::os::unix::process::ExitStatusExt as _;
    let begun = Instant::now();
    let books = Books::sqlite(&gate.data);
    let mut quiet = 0;
    loop {
        if let Some(status) = gate.ended() {
            assert_eq!(status.signal(), Some(6), "{status}: {}", gate.logs());
            return true;
        }
        // Over and written: what comes after an answer has a moment more.
        let over = books.rows("SELECT id FROM job WHERE finished_at IS NOT NULL").await;
        quiet = if over.is_empty() { 0 } else { quiet + 1 };
        if quiet > 12 || begun.elapsed() > Duration::from_secs(12) {
            return false;
        }
        sleep(Duration::from_millis(25)).await;
    }
}

async fn run(cases: Vec<Case>) -> Tally {
    let simulator = Simulator::start(1, &[]);
    let tally = Mutex::new(Tally::default());
    stream::iter(cases)
        .for_each_concurrent(AT_ONCE, |case| {
            let (simulator, tally) = (&simulator, &tally);
            async move { case.run(simulator, tally).await }
        })
        .await;
    let mut tally = tally.into_inner();
    tally.resumed.sort();
    eprintln!(
        "{} cases, {} without a picture, {} answers without a record, taken up again after \
         p50 {:?}, max {:?}, {} violations",
        tally.cases,
        tally.refused,
        tally.unrecorded,
        tally.resumed.get(tally.resumed.len() / 2),
        tally.resumed.last(),
        tally.violations.len(),
    );
    tally
}

/// Every point once for each kind of job that it may say something about.
fn singles(scenes: &[usize]) -> Vec<Case> {
    let mut cases = Vec::new();
    for (at, point) in Point::ALL.iter().enumerate() {
        let before = TAKING.iter().find(|(_, taking)| taking == point).map(|(before, _)| *before);
        let points: Vec<Point> = before.into_iter().chain([*point]).collect();
        for scene in scenes {
            let scene = &SCENES[*scene];
            cases.push(Case {
                scene,
                points: points.clone(),
                keyed: (at + scene.name.len()).is_multiple_of(2),
            });
        }
    }
    cases
}

fn assert_good(tally: &Tally) {
    assert!(tally.violations.is_empty(), "{}", tally.violations.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_ends_at_any_point_loses_nothing_and_buys_nothing_twice() {
    // Two kinds of job for each point, by turns.
    let mut cases: Vec<Case> = singles(&(0..SCENES.len()).collect::<Vec<_>>());
    let mut turn = 0;
    cases.retain(|_| {
        turn += 1;
        (turn / SCENES.len() + turn).is_multiple_of(4)
    });
    for (before, point) in TAKING {
        let points = vec![*before, *point];
        cases.push(Case { scene: &SCENES[2], points, keyed: false });
    }
    // Points that not every kind of job passes.
    for (scene, points) in [
        (1, [Point::AfterPoll, Point::AfterProduced]),
        (6, [Point::BeforeIntend, Point::AfterIntend]),
        (7, [Point::BeforeGiveUp, Point::AfterGiveUp]),
    ] {
        for point in points {
            cases.push(Case { scene: &SCENES[scene], points: vec![point], keyed: false });
        }
    }
    let pairs = all_pairs();
    let step = pairs.len() / PAIRS;
    cases.extend(pairs.into_iter().step_by(step.max(1)));
    let tally = run(cases).await;
    assert_good(&tally);
    let reached: BTreeSet<_> = tally.reached.iter().map(|(_, point)| *point).collect();
    let missed = Point::ALL.iter().filter(|point| !reached.contains(point.name()));
    assert_eq!(missed.collect::<Vec<_>>(), Vec::<&Point>::new(), "never reached");
}

fn all_pairs() -> Vec<Case> {
    let mut cases = Vec::new();
    for scene in SCENES {
        for first in Point::ALL.iter().filter(|p| !TAKING.iter().any(|(_, taking)| taking == *p)) {
            for (at, second) in Point::ALL.iter().enumerate() {
                let points = vec![*first, *second];
                cases.push(Case { scene, points, keyed: at % 2 == 0 });
            }
        }
    }
    cases
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "an hour: every ordered pair of points; just crash"]
async fn a_process_that_ends_twice_loses_nothing_and_buys_nothing_twice() {
    let mut cases = singles(&(0..SCENES.len()).collect::<Vec<_>>());
    cases.extend(all_pairs());
    assert_good(&run(cases).await);
}

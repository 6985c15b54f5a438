//! What must hold in the books, whatever happened.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use rusqlite::{Connection, OpenFlags, types::ValueRef};
use tokio::time::sleep;

use super::rig::{Ask, Count, Fate, Gate, Simulator};

/// Where the books are.
#[derive(Debug)]
pub(super) enum Books {
    Sqlite(Connection),
    Postgres(tokio_postgres::Client),
}

/// Each query lists what breaks its rule.
const RULES: &[(&str, &str)] = &[
    (
        "I1: a job that succeeded is captured once, and no other is",
        "SELECT job.id FROM job LEFT JOIN transfer t ON t.job = job.id AND t.kind = 'capture' \
         AND t.debit LIKE 'credit:%' GROUP BY job.id, job.state \
         HAVING COUNT(t.id) <> CASE WHEN job.state = 'succeeded' THEN 1 ELSE 0 END",
    ),
    (
        "I1: the charge of a job is what was captured",
        "SELECT job.id FROM job LEFT JOIN transfer t ON t.job = job.id AND t.kind = 'capture' \
         AND t.debit LIKE 'credit:%' WHERE job.state = 'succeeded' AND job.charge <> t.amount",
    ),
    (
        "I2: all accounts add up to nothing",
        "SELECT 'sum' WHERE (SELECT COALESCE(SUM(posted), 0) FROM account \
         WHERE id LIKE 'credit:%') + (SELECT COALESCE(SUM(CASE WHEN debit LIKE 'system:%' \
         THEN amount ELSE 0 END - CASE WHEN credit LIKE 'system:%' THEN amount ELSE 0 END), 0) \
         FROM transfer WHERE kind NOT IN ('hold', 'release', 'expire') \
         AND debit NOT LIKE 'budget:%' AND credit NOT LIKE 'budget:%') <> 0",
    ),
    (
        "I3: what an account has used is what its transfers say",
        "SELECT a.id FROM account a WHERE a.posted <> \
         (SELECT COALESCE(SUM(amount), 0) FROM transfer WHERE debit = a.id AND kind = 'capture') \
         - (SELECT COALESCE(SUM(amount), 0) FROM transfer \
            WHERE credit = a.id AND kind IN ('fund', 'refund', 'adjust'))",
    ),
    (
        "I3: what an account holds is what its transfers say",
        "SELECT a.id FROM account a WHERE a.pending <> \
         (SELECT COALESCE(SUM(amount), 0) FROM transfer WHERE debit = a.id AND kind = 'hold') \
         - (SELECT COALESCE(SUM(held), 0) FROM transfer WHERE debit = a.id AND hold IS NOT NULL)",
    ),
    (
        "I4: a job that is over holds nothing",
        "SELECT h.id FROM transfer h JOIN job ON job.id = h.job WHERE h.kind = 'hold' \
         AND job.finished_at IS NOT NULL \
         AND NOT EXISTS (SELECT 1 FROM transfer c WHERE c.hold = h.id)",
    ),
    (
        "I5: what providers are owed is paid or carried",
        "SELECT job.id FROM job WHERE job.finished_at IS NOT NULL AND \
         (SELECT COALESCE(SUM(amount), 0) FROM transfer \
          WHERE job = job.id AND kind = 'provider_cost') > \
         (SELECT COALESCE(SUM(amount), 0) FROM transfer WHERE job = job.id \
          AND (kind = 'absorb' OR (kind = 'capture' AND debit LIKE 'credit:%')))",
    ),
    ("I6: nothing is used beyond its limit", "SELECT id FROM account WHERE posted + pending > cap"),
    (
        "G4: no capture is more than was held",
        "SELECT id FROM transfer WHERE kind = 'capture' AND amount > held",
    ),
    (
        "a job that is over has no attempt under way",
        "SELECT a.id FROM attempt a JOIN job ON job.id = a.job WHERE job.finished_at IS NOT NULL \
         AND a.state IN ('intent', 'accepted', 'produced')",
    ),
    (
        "the sums of use are what was charged",
        "SELECT 'sum' WHERE (SELECT COALESCE(SUM(amount), 0) FROM usage_day WHERE label = '') <> \
         (SELECT COALESCE(SUM(charge), 0) FROM job WHERE state = 'succeeded')",
    ),
    (
        "the sums of cost are what was booked",
        "SELECT 'sum' WHERE (SELECT COALESCE(SUM(suspense), 0) FROM cost_day) <> \
         (SELECT COALESCE(SUM(CASE WHEN debit = 'system:suspense' THEN amount ELSE -amount END), 0) \
         FROM transfer WHERE 'system:suspense' IN (debit, credit))",
    ),
];

/// The rules about what is over, once everything is.
const AT_REST: &[(&str, &str)] = &[
    ("every job ends", "SELECT id FROM job WHERE finished_at IS NULL"),
    ("nothing stays held", "SELECT id FROM account WHERE pending <> 0"),
];

impl Books {
    /// The books of a SQLite file. Cannot write.
    pub(super) fn sqlite(data: &Path) -> Self {
        let flags = OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX;
        let connection = Connection::open_with_flags(data.join("mediagate.db"), flags).unwrap();
        connection.busy_timeout(Duration::from_secs(5)).unwrap();
        Self::Sqlite(connection)
    }

    /// Rows as text.
    pub(super) async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        match self {
            Self::Sqlite(connection) => {
                let mut statement = connection.prepare(sql).unwrap();
                let columns = statement.column_count();
                let text = |value: ValueRef<'_>| match value {
                    ValueRef::Null => String::new(),
                    ValueRef::Integer(number) => number.to_string(),
                    ValueRef::Text(text) => String::from_utf8_lossy(text).into_owned(),
                    other => panic!("{other:?}"),
                };
                let rows = statement.query_map([], |row| {
                    Ok((0..columns).map(|c| text(row.get_ref(c).unwrap())).collect())
                });
                rows.unwrap().map(Result::unwrap).collect()
            }
            Self::Postgres(client) => {
                let messages = client.simple_query(sql).await.unwrap();
                let rows = messages.iter().filter_map(|message| match message {
                    tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
                    _ => None,
                });
                rows.map(|row| {
                    (0..row.len()).map(|c| row.get(c).unwrap_or_default().to_owned()).collect()
                })
                .collect()
            }
        }
    }

    async fn breaches(&self, rules: &[(&str, &str)]) -> Vec<String> {
        let mut found = Vec::new();
        for (rule, sql) in rules {
            let rows = self.rows(sql).await;
            if !rows.is_empty() {
                found.push(format!("{rule}: {rows:?}"));
            }
        }
        found
    }

    /// Waits until every job is over, and checks every rule.
    pub(super) async fn at_rest(&self, patience: Duration) -> Vec<String> {
        let begun = Instant::now();
        loop {
            let mut found = self.breaches(AT_REST).await;
            if found.is_empty() || begun.elapsed() > patience {
                found.extend(self.breaches(RULES).await);
                return found;
            }
            sleep(Duration::from_millis(30)).await;
        }
    }

    /// What the books say of a request: jobs that succeeded, what is owed or may be, in entries.
    pub(super) async fn of(&self, ask: &Ask) -> Booked {
        let jobs = format!("(SELECT id FROM job WHERE request_id = '{}')", ask.id);
        let count = async |what: String| -> u64 { self.rows(&what).await[0][0].parse().unwrap() };
        Booked {
            succeeded: count(format!(
                "SELECT COUNT(*) FROM job WHERE id IN {jobs} AND state = 'succeeded'"
            ))
            .await,
            owed: count(format!(
                "SELECT COUNT(*) FROM transfer WHERE job IN {jobs} AND amount > 0 \
                 AND kind IN ('provider_cost', 'suspense')"
            ))
            .await,
        }
    }

    /// Everything about a request, for people.
    pub(super) async fn tell(&self, ask: &Ask) -> String {
        let jobs = format!("(SELECT id FROM job WHERE request_id = '{}')", ask.id);
        let mut text = String::new();
        for sql in [
            format!(
                "SELECT id, state, epoch, abandoned, settled, charge, error_code, created_at, \
                 finished_at FROM job WHERE id IN {jobs}"
            ),
            format!(
                "SELECT id, deployment, state, outcome, sent_at, ms, expected, billed \
                 FROM attempt WHERE job IN {jobs}"
            ),
            format!(
                "SELECT id, debit, credit, amount, at FROM transfer WHERE job IN {jobs} \
                 AND kind <> 'hold' AND debit NOT LIKE 'budget:%'"
            ),
        ] {
            for row in self.rows(&sql).await {
                text.push_str(&format!("    {}\n", row.join(" | ")));
            }
        }
        text
    }
}

/// What the books say of a request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Booked {
    pub(super) succeeded: u64,
    pub(super) owed: u64,
}

/// What a request came to, when all was over.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) violations: Vec<String>,
    /// Drawn and billed, and the client has no picture.
    pub(super) lost: Vec<String>,
    /// The client has the picture, and no record of it was left.
    pub(super) unrecorded: Vec<String>,
}

/// Compares what clients got, what the simulator bills and what the books say.
pub(super) async fn compare(
    gate: &Gate,
    books: &Books,
    simulator: &Simulator,
    fates: &[(Ask, Fate)],
    most_bills: u64,
) -> Findings {
    let mut findings = Findings::default();
    let counts = settled(simulator, fates).await;
    for (ask, fate) in fates {
        let count = counts.get(&ask.prompt).copied().unwrap_or_default();
        let booked = books.of(ask).await;
        let about = format!("{} {fate:?}\n  {count:?} {booked:?}", ask.prompt);
        let mut wrong = Vec::new();
        if count.billed > most_bills {
            wrong.push("bought twice".to_owned());
        }
        if booked.succeeded > 1 {
            wrong.push("charged twice".to_owned());
        }
        if count.billed > booked.owed {
            wrong.push("I5: billed and in no book".to_owned());
        }
        match fate {
            Fate::Never => wrong.push("asked in vain".to_owned()),
            Fate::Picture { job, sha256 } => {
                let result = gate.check_result(ask, job, sha256).await;
                if booked.succeeded == 0 {
                    findings.unrecorded.push(format!("{about}: {result:?}"));
                } else if let Some(result) = result {
                    wrong.push(format!("I7: {result}"));
                }
            }
            Fate::Refused { .. } => {
                if booked.succeeded > 0 {
                    wrong.push("charged and refused".to_owned());
                }
                if count.billed > 0 {
                    findings.lost.push(about.clone());
                }
            }
        }
        if !wrong.is_empty() {
            let told = books.tell(ask).await;
            findings.violations.push(format!("{}: {about}\n{told}", wrong.join("; ")));
        }
    }
    findings
}

/// The simulator's counts once none of these is under way there.
async fn settled(simulator: &Simulator, fates: &[(Ask, Fate)]) -> BTreeMap<String, Count> {
    loop {
        let counts = simulator.prompts().await;
        let open = |(ask, _): &(Ask, Fate)| counts.get(&ask.prompt).is_some_and(|c| c.open > 0);
        if !fates.iter().any(open) {
            return counts;
        }
        sleep(Duration::from_millis(30)).await;
    }
}

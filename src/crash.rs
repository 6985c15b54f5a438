//! Places where a test may end the process as if the power had gone: between any two steps that
//! must not be torn apart.
//!
//! In a debug build `mediagate serve --crash-at NAME` aborts at the point of that name, and
//! `NAME:3` the third time it is passed; `--fail-database-at 7` makes the seventh call of the
//! database fail, and `7:late` lets it happen and loses its answer. In a release build there is
//! nothing of either.

#[cfg(debug_assertions)]
use std::sync::{
    OnceLock,
    atomic::{AtomicU32, Ordering},
};

macro_rules! points {
    ($($(#[$doc:meta])* $point:ident $name:literal,)*) => {
        /// A place where the process may end.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Point {
            $($(#[$doc])* $point,)*
        }

        impl Point {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$point,)*];

            /// What the command line calls it.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$point => $name,)* }
            }
        }
    };
}

points! {
    /// A job is planned; nothing is written.
    BeforeOpen "before_open",
    /// Job, hold and submit are written down; nothing is sent.
    AfterOpen "after_open",
    /// A further submit is about to be written down.
    BeforeIntend "before_intend",
    /// A further submit is written down; nothing of it is sent.
    AfterIntend "after_intend",
    /// The submit is the next thing to happen.
    BeforeSubmit "before_submit",
    /// The provider has answered the submit; nobody but this process knows.
    AfterSubmitReply "after_submit_reply",
    /// The provider's job is written down.
    AfterAccepted "after_accepted",
    /// The provider was asked how far it is.
    AfterPoll "after_poll",
    /// Where the outputs are is written down.
    AfterProduced "after_produced",
    /// The outputs are in this process only.
    AfterDownload "after_download",
    /// The outputs are as they were asked for, and not in the store.
    BeforeKeep "before_keep",
    /// One output is in the store.
    MidKeep "mid_keep",
    /// Every output is in the store; no charge is written.
    BeforeFinish "before_finish",
    /// Success and charge are written; no caller knows.
    AfterFinish "after_finish",
    /// A failure is about to be written down.
    BeforeGiveUp "before_give_up",
    /// A failure is written down; no caller knows.
    AfterGiveUp "after_give_up",
    /// The caller is about to be answered.
    BeforeAnswer "before_answer",
    /// A part of the answer went out.
    MidAnswer "mid_answer",
    /// All of the answer went out.
    AfterAnswer "after_answer",
    /// An unfinished job was found.
    BeforeTake "before_take",
    /// It belongs to this process.
    AfterTake "after_take",
    /// A submit that may have been sent is looked for.
    BeforeRecover "before_recover",
    /// It was found at the provider; nothing of that is written.
    AfterRecover "after_recover",
}

#[cfg(debug_assertions)]
#[derive(Debug)]
struct Armed {
    point: Point,
    /// How often it is still passed alive.
    left: AtomicU32,
}

#[cfg(debug_assertions)]
static ARMED: OnceLock<Armed> = OnceLock::new();

/// Ends the process where that was asked for.
#[cfg(debug_assertions)]
pub fn point(point: Point) {
    let Some(armed) = ARMED.get().filter(|armed| armed.point == point) else { return };
    if armed.left.fetch_sub(1, Ordering::SeqCst) == 1 {
        std::process::abort();
    }
}

/// Nothing.
#[cfg(not(debug_assertions))]
#[inline(always)]
pub const fn point(_: Point) {}

/// Arms the point of `NAME` or `NAME:N`, once for the life of the process.
///
/// # Errors
///
/// A text for people where there is no such point.
#[cfg(debug_assertions)]
pub fn arm(text: &str) -> Result<(), String> {
    let (name, times) = text.split_once(':').unwrap_or((text, "1"));
    let point = Point::ALL.iter().copied().find(|point| point.name() == name);
    let times = times.parse().ok().filter(|times| *times > 0);
    let (Some(point), Some(times)) = (point, times) else {
        let names: Vec<_> = Point::ALL.iter().map(|point| point.name()).collect();
        return Err(format!("{text:?} is no NAME or NAME:N of {}", names.join(", ")));
    };
    let _ = ARMED.set(Armed { point, left: AtomicU32::new(times) });
    Ok(())
}

/// How a call of the database goes wrong.
#[cfg(debug_assertions)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outage {
    /// Nothing happens.
    Before,
    /// It happens, and its answer is lost.
    Late,
}

#[cfg(debug_assertions)]
static OUTAGE: OnceLock<(Outage, AtomicU32)> = OnceLock::new();

/// Whether this call of the database is the one that goes wrong.
#[cfg(debug_assertions)]
pub fn outage() -> Option<Outage> {
    let (outage, left) = OUTAGE.get()?;
    (left.fetch_sub(1, Ordering::SeqCst) == 1).then_some(*outage)
}

/// Makes the call of `N` or `N:late` go wrong, once.
///
/// # Errors
///
/// A text for people where it is neither.
#[cfg(debug_assertions)]
pub fn arm_outage(text: &str) -> Result<(), String> {
    let (number, outage) = match text.split_once(':') {
        None => (text, Some(Outage::Before)),
        Some((number, word)) => (number, (word == "late").then_some(Outage::Late)),
    };
    let number = number.parse().ok().filter(|number| *number > 0);
    let (Some(outage), Some(number)) = (outage, number) else {
        return Err(format!("{text:?} is no N or N:late"));
    };
    let _ = OUTAGE.set((outage, AtomicU32::new(number)));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_have_names_of_their_own_and_others_are_refused() {
        let names: std::collections::BTreeSet<_> = Point::ALL.iter().map(|p| p.name()).collect();
        assert_eq!(names.len(), Point::ALL.len());
        for wrong in ["", "nowhere", "before_open:0", "before_open:x", "before_open:"] {
            assert!(arm(wrong).unwrap_err().contains("before_open, after_open"), "{wrong}");
        }
        for wrong in ["", "0", "x", "1:", "1:soon", ":late"] {
            assert!(arm_outage(wrong).unwrap_err().contains("no N or N:late"), "{wrong}");
        }
    }
}

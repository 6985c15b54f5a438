//! The bad days, by switch.
//!
//! A switch reads `kind[@stage][=value][*times]`. It stands in the path (`/x/429=30/fal/...`),
//! in the prompt (`[[fault:moderated]]`) or in the settings, there with a rate.

use std::{fmt, str::FromStr};

use super::vendor::{Stage, Vendor};

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    RateLimited,
    Internal,
    Unavailable,
    BadKey,
    NoCredit,
    Invalid,
    Moderated,
    Failed,
    Hang,
    Slow,
    Html,
    Empty,
    Truncated,
    TruncatedImage,
    Bomb,
    Redirect,
    Expired,
    Drop,
    Lost,
    AcceptedHang,
    Accepted500,
    CallbackLost,
    CallbackLate,
    CallbackTwice,
    CallbackForged,
    CallbackEarly,
    Cost,
}

impl Kind {
    /// Every kind, with its switch and what it does.
    pub(crate) const ALL: [(Self, &'static str, &'static str); 27] = [
        (Self::RateLimited, "429", "refused for now; =SECONDS sets the hint"),
        (Self::Internal, "500", "the vendor's own fault"),
        (Self::Unavailable, "503", "the vendor is overloaded"),
        (Self::BadKey, "401", "the key is refused"),
        (Self::NoCredit, "402", "the account is empty"),
        (Self::Invalid, "422", "a field is refused"),
        (Self::Moderated, "moderated", "refused by the safety system; =output blocks the picture"),
        (Self::Failed, "failed", "the job fails"),
        (Self::Hang, "hang", "no reply ever comes"),
        (Self::Slow, "slow", "the work takes =SECONDS longer (10); bytes of a file trickle"),
        (Self::Html, "html", "200 with a page of HTML"),
        (Self::Empty, "empty", "200 without a body"),
        (Self::Truncated, "truncated", "the body breaks off in the middle"),
        (Self::TruncatedImage, "truncated-image", "the picture's bytes end too early"),
        (Self::Bomb, "bomb", "a picture of 20,000 x 20,000 in 49 kB"),
        (Self::Redirect, "redirect", "the picture's URL leads to 169.254.169.254"),
        (Self::Expired, "expired", "the picture's URL has run out"),
        (Self::Drop, "drop", "the connection is reset, the job goes on; =silent pushes nothing"),
        (Self::Lost, "lost", "the job is unknown when polled"),
        (Self::AcceptedHang, "accepted-hang", "the job is taken, no reply comes; =silent as above"),
        (
            Self::Accepted500,
            "accepted-500",
            "the job is taken, the reply is a 500; =silent as above",
        ),
        (Self::CallbackLost, "callback-lost", "nothing is pushed"),
        (Self::CallbackLate, "callback-late", "the push comes =SECONDS later (10)"),
        (Self::CallbackTwice, "callback-twice", "the push comes =TIMES (2)"),
        (Self::CallbackForged, "callback-forged", "signed with another key; =body, =stale"),
        (Self::CallbackEarly, "callback-early", "the push comes before the reply to the submit"),
        (Self::Cost, "cost", "the cost is =TEXT, such as NaN or -1; =x10 is ten times the price"),
    ];

    /// The word of its switch.
    pub(crate) fn name(self) -> &'static str {
        Self::ALL.iter().find(|(kind, ..)| *kind == self).map_or("", |(_, name, _)| name)
    }

    /// Whether it replaces a reply, at one stage, rather than being part of the work.
    pub(crate) fn is_of_transport(self) -> bool {
        matches!(
            self,
            Self::RateLimited
                | Self::Internal
                | Self::Unavailable
                | Self::BadKey
                | Self::NoCredit
                | Self::Invalid
                | Self::Hang
                | Self::Html
                | Self::Empty
                | Self::Truncated
                | Self::Drop
                | Self::AcceptedHang
                | Self::Accepted500
        )
    }

    /// Why a vendor cannot have it, if so.
    pub(crate) fn impossible(self, vendor: Vendor) -> Option<&'static str> {
        match self {
            Self::Lost if !vendor.has_jobs() => Some("has no jobs to lose"),
            Self::Redirect | Self::Expired if !vendor.has_files() => Some("hands out no URLs"),
            Self::CallbackLost
            | Self::CallbackLate
            | Self::CallbackTwice
            | Self::CallbackForged
            | Self::CallbackEarly
                if !vendor.pushes() =>
            {
                Some("pushes nothing")
            }
            Self::Cost if vendor != Vendor::Bfl => Some("says nothing of its cost"),
            _ => None,
        }
    }
}

/// One switch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Fault {
    /// What goes wrong.
    pub kind: Kind,
    /// At which request; only for faults of the transport.
    pub stage: Stage,
    /// A detail.
    pub value: Option<String>,
    /// How often; then all is well. Counted per job, and for submits per switch.
    pub times: Option<u32>,
}

impl Fault {
    /// The value as a number that is not negative.
    pub(crate) fn number(&self) -> Option<f64> {
        self.value.as_ref()?.parse().ok().filter(|n: &f64| n.is_finite() && *n >= 0.0)
    }

    /// Whether it replaces the reply to a request of that stage.
    pub(crate) fn hits(&self, stage: Stage) -> bool {
        self.stage == stage
            && (self.kind.is_of_transport() || (self.kind == Kind::Slow && stage != Stage::Submit))
    }
}

/// A switch that is none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "{given:?} is no fault of the simulator: write kind[@stage][=value][*times] with a kind of {kinds}, a stage of submit, poll, result, file"
)]
pub struct UnknownFault {
    given: String,
    kinds: String,
}

impl FromStr for Fault {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let unknown = || UnknownFault {
            given: text.to_owned(),
            kinds: Kind::ALL.map(|(_, name, _)| name).join(", "),
        };
        let (rest, times) = match text.rsplit_once('*') {
            Some((rest, times)) => (rest, Some(times.parse().map_err(|_| unknown())?)),
            None => (text, None),
        };
        let (rest, value) = match rest.split_once('=') {
            Some((rest, value)) => (rest, Some(value.to_owned())),
            None => (rest, None),
        };
        let (name, stage) = match rest.split_once('@') {
            Some((name, stage)) => (
                name,
                [Stage::Submit, Stage::Poll, Stage::Result, Stage::File]
                    .into_iter()
                    .find(|s| s.name() == stage)
                    .ok_or_else(unknown)?,
            ),
            None => (rest, Stage::default()),
        };
        let (kind, ..) =
            Kind::ALL.iter().find(|(_, known, _)| *known == name).ok_or_else(unknown)?;
        Ok(Self { kind: *kind, stage, value, times })
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.kind.name(), self.stage.name())?;
        if let Some(value) = &self.value {
            write!(f, "={value}")?;
        }
        self.times.map_or(Ok(()), |times| write!(f, "*{times}"))
    }
}

/// A fault that happens now and then: `kind[@stage][=value]=rate`, the rate from 0 to 1.
#[derive(Clone, Debug, PartialEq)]
pub struct FaultRate {
    pub(crate) fault: Fault,
    pub(crate) rate: f64,
}

impl FromStr for FaultRate {
    type Err = UnknownFault;

    fn from_str(text: &str) -> Result<Self, UnknownFault> {
        let (switch, rate) = text.rsplit_once('=').unwrap_or((text, ""));
        let fault = switch.parse()?;
        let rate = rate.parse().ok().filter(|rate| (0.0..=1.0).contains(rate));
        rate.map(|rate| Self { fault, rate }).ok_or_else(|| UnknownFault {
            given: text.to_owned(),
            kinds: "those known and a rate from 0 to 1 behind the last =".to_owned(),
        })
    }
}

/// The switch in a prompt, wherever it stands in the body.
pub(crate) fn magic_word(body: &[u8]) -> Option<Result<Fault, UnknownFault>> {
    let opening = b"[[fault:";
    let start = memchr::memmem::find(body, opening)? + opening.len();
    let rest = body.get(start..)?;
    let end = memchr::memmem::find(rest, b"]]")?;
    Some(String::from_utf8_lossy(rest.get(..end)?).parse())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn switches_are_read() {
        let check = |text: &str, expected: Option<(&str, Stage, Option<&str>, Option<u32>)>| {
            let found: Option<Fault> = text.parse().ok();
            let found =
                found.as_ref().map(|f| (f.kind.name(), f.stage, f.value.as_deref(), f.times));
            assert_eq!(found, expected, "{text}");
        };
        for (_, name, _) in Kind::ALL {
            check(name, Some((name, Stage::Submit, None, None)));
        }
        check("429=30", Some(("429", Stage::Submit, Some("30"), None)));
        check("500@poll*2", Some(("500", Stage::Poll, None, Some(2))));
        check("slow@file=3*1", Some(("slow", Stage::File, Some("3"), Some(1))));
        for bad in ["", "418", "500@night", "500*x", "Moderated"] {
            check(bad, None);
        }
    }

    #[test]
    fn an_unknown_switch_lists_the_kinds() {
        let message = "boom".parse::<Fault>().unwrap_err().to_string();
        assert!(Kind::ALL.iter().all(|(_, name, _)| message.contains(name)), "{message}");
    }

    #[test]
    fn rates_and_magic_words_are_read() {
        let rate: FaultRate = "429=30=0.1".parse().unwrap();
        assert_eq!((rate.fault.to_string().as_str(), rate.rate), ("429@submit=30", 0.1));
        assert!("429".parse::<FaultRate>().is_err() && "500=2".parse::<FaultRate>().is_err());
        let found = magic_word(br#"{"prompt":"a fox [[fault:500@poll]] runs"}"#);
        assert_eq!(found.unwrap().unwrap().to_string(), "500@poll");
        assert!(magic_word(b"[[fault:nonsense]]").unwrap().is_err());
        assert!(magic_word(b"a [[plain]] prompt").is_none());
    }
}

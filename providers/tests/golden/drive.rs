//! One case: find whom to call, then do what the engine would do.

use providers::{
    Adapter, Call, Recovery, RemoteJob, SendKind, Settled, Step, UpstreamError, adapter,
    catalog::{Catalog, Deployment, Provider, Task},
};
use serde_json::{Value, json};

use crate::{
    case::{Answer, Case, Check, Exchange, Push, Search, Send, Target},
    compare::{check_error, check_output, check_request, same, written},
};

pub(crate) struct Called {
    pub(crate) adapter: &'static dyn Adapter,
    pub(crate) deployment: Deployment,
    pub(crate) base_url: String,
    pub(crate) hosts: Vec<String>,
}

fn row<'a>(catalog: &'a Catalog, slug: &str, task: Task) -> Option<(&'a Provider, &'a Deployment)> {
    let provider = catalog.providers.get(slug.split_once('/')?.0)?;
    Some((provider, provider.models.iter().find(|d| d.slug() == slug && d.task == task)?))
}

pub(crate) fn called(catalog: &Catalog, case: &Case, folder: &str) -> Check<Called> {
    let find = |name: &str| adapter(name).ok_or_else(|| format!("no adapter named {name:?}"));
    match &case.meta.deployment {
        Target::Row(slug) => {
            let (provider, deployment) = row(catalog, slug, case.meta.task)
                .ok_or_else(|| format!("{slug:?} is not in the catalogue"))?;
            let settings = || case.meta.settings.iter().chain(&provider.settings);
            let fill = |text: &str| {
                settings().fold(text.to_owned(), |text, (name, value)| {
                    text.replace(&format!("{{{name}}}"), value)
                })
            };
            let mut deployment = deployment.clone();
            deployment.path = deployment.path.as_deref().map(fill);
            Ok(Called {
                adapter: find(&provider.adapter)?,
                deployment,
                base_url: fill(&provider.base_url),
                hosts: provider.hosts.clone(),
            })
        }
        Target::Inline(inline) => Ok(Called {
            adapter: find(&inline.adapter)?,
            deployment: Deployment {
                provider: folder.to_owned(),
                upstream: inline.upstream.clone(),
                task: case.meta.task,
                path: inline.path.clone(),
                n: 10,
                size: inline.size.clone().unwrap_or_default(),
                formats: inline.formats.clone(),
                wire: inline.wire.clone(),
                ..Deployment::default()
            },
            base_url: inline.base_url.clone(),
            hosts: inline.hosts.clone(),
        }),
    }
}

/// How far a case is.
#[expect(clippy::large_enum_variant, reason = "one at a time")]
enum At {
    /// The adapter said what comes next.
    Step(Result<Step, UpstreamError>),
    /// The reply to the submit was lost.
    Unknown,
}

struct Play<'a> {
    case: &'a Case,
    adapter: &'static dyn Adapter,
    call: &'a Call<'a>,
    /// Whether base64 is lifted out of replies.
    lift: bool,
    blobs: Vec<String>,
    job: Option<RemoteJob>,
}

impl Play<'_> {
    fn run(&mut self) -> Check {
        let (case, expect) = (self.case, self.case.meta.expect.as_str());
        let mut at = At::Step(self.adapter.begin(self.call));
        let mut exchanges = case.exchanges.iter().enumerate();
        loop {
            let left = exchanges.len();
            match &at {
                At::Step(Ok(Step::Done(output))) => {
                    return match (expect, left, &case.end) {
                        ("done", 0, Some(want)) => check_output(case, want, output, &self.blobs),
                        ("done", _, _) => Err(format!("done, but {left} exchanges are left")),
                        _ => Err(format!("done, want {expect}")),
                    };
                }
                At::Step(Err(error)) => {
                    return match (&case.end, left) {
                        (Some(want), 0) if expect != "done" => check_error(case, want, error),
                        _ => Err(format!("{error}; want {expect}, {left} exchanges are left")),
                    };
                }
                At::Step(Ok(Step::Wait { job, .. })) => {
                    self.waiting(job, &at)?;
                    self.job = Some(job.clone());
                    if left == 0 && expect == "wait" {
                        return Ok(());
                    }
                }
                At::Unknown if left == 0 && expect == "unknown" => return Ok(()),
                At::Step(Ok(Step::Send { .. })) | At::Unknown => {}
            }
            let Some((i, exchange)) = exchanges.next() else {
                return Err(format!("no exchange is left, want {expect}"));
            };
            at = match (exchange, at) {
                (Exchange::Send(want, answer), At::Step(Ok(step))) => {
                    self.send(&format!("{:02}-send", i + 1), want, answer, step)?
                }
                (Exchange::Send(want, answer), At::Unknown)
                    if self.adapter.recovery().contains(&Recovery::ClientId) =>
                {
                    let step = self.adapter.again(self.call).map_err(|e| e.to_string())?;
                    if let Step::Wait { job, .. } = &step {
                        self.job = Some(job.clone());
                    }
                    self.send(&format!("{:02}-send", i + 1), want, answer, step)?
                }
                (Exchange::Push(push), at) => self.push(&format!("{:02}-push", i + 1), push, at)?,
                (Exchange::Search(search, answer), At::Unknown) => {
                    match self.search(&format!("{:02}-search", i + 1), search, answer)? {
                        Settled::One(job) => At::Step(self.adapter.resume(self.call, &job)),
                        settled => return self.ended(&settled, exchanges.len()),
                    }
                }
                _ => return Err(format!("{:02} does not fit what came before", i + 1)),
            };
        }
    }

    /// A job that is waited for can be cancelled as written, and taken up again from the records.
    fn waiting(&self, job: &RemoteJob, at: &At) -> Check {
        if let Some(want) = &self.case.cancel {
            let request = self.adapter.cancel(self.call, job);
            same("cancel", want, &request.map_or(Ok(Value::Null), |r| written(self.case, &r))?)?;
        }
        let kept = serde_json::to_string(job).map_err(|e| e.to_string())?;
        let kept: RemoteJob = serde_json::from_str(&kept).map_err(|e| e.to_string())?;
        match (self.adapter.resume(self.call, &kept), at) {
            (Ok(resumed), At::Step(Ok(step))) if resumed == *step => Ok(()),
            (resumed, _) => Err(format!("resumed otherwise than it was: {resumed:?}")),
        }
    }

    fn send(&mut self, at: &str, want: &Send, answer: &Answer, step: Step) -> Check<At> {
        let (offered, listen) = match step {
            Step::Send { kind, request } => (vec![(kind, request)], None),
            Step::Wait { poll, listen, .. } => {
                let mut offered = vec![(SendKind::Poll, poll)];
                offered.extend(listen.clone().map(|request| (SendKind::Listen, request)));
                (offered, Some(listen))
            }
            Step::Done(_) => return Err(format!("{at}: the case is over")),
        };
        let Some((kind, request)) = offered.iter().find(|(kind, _)| *kind == want.kind) else {
            return Err(format!("{at}.kind: want {:?}, offered {offered:?}", want.kind));
        };
        check_request(at, self.case, want, request)?;
        if let (Some(want), Some(got)) = (&want.listen, &listen) {
            let got =
                got.as_ref().map_or(Ok(Value::Null), |request| written(self.case, request))?;
            same(&format!("{at}.listen"), want, &got)?;
        }
        if let Some(want) = &want.job {
            let got = serde_json::to_value(&self.job).map_err(|e| e.to_string())?;
            same(&format!("{at}.job"), want, &got)?;
        }
        if answer.lost {
            let lost = *kind == SendKind::Submit;
            return if lost { Ok(At::Unknown) } else { Err(format!("{at}: not a submit")) };
        }
        let reply = self.case.reply(answer, self.lift, &mut self.blobs)?;
        Ok(At::Step(self.adapter.advance(self.call, *kind, self.job.as_ref(), &reply)))
    }

    fn push(&mut self, at: &str, push: &Push, before: At) -> Check<At> {
        if !self.adapter.recovery().contains(&Recovery::Callback) {
            return Err(format!("{at}: the adapter does not declare callbacks"));
        }
        let reply = self.case.reply(&push.answer(), self.lift, &mut self.blobs)?;
        match self.adapter.callback(self.call, self.job.as_ref(), &reply) {
            None if push.ignored => Ok(before),
            Some(pushed) if !push.ignored => {
                if let Some(want) = &push.job {
                    let got = serde_json::to_value(&pushed.job).map_err(|e| e.to_string())?;
                    same(&format!("{at}.job"), want, &got)?;
                }
                self.job = Some(pushed.job);
                Ok(At::Step(pushed.step))
            }
            other => Err(format!("{at}: ignored is {}, got {other:?}", push.ignored)),
        }
    }

    fn search(&mut self, at: &str, want: &Search, answer: &Answer) -> Check<Settled> {
        if !self.adapter.recovery().contains(&Recovery::Search) {
            return Err(format!("{at}: the adapter does not declare a search"));
        }
        let request = self.adapter.search(self.call, want.sent_at).ok_or("no search")?;
        let written = written(self.case, &request)?;
        same(at, &json!({"method": "GET", "url": want.url, "headers": {}}), &written)?;
        let reply = self.case.reply(answer, self.lift, &mut self.blobs)?;
        let found = self.adapter.found(self.call, want.sent_at, &reply);
        let found = found.map_err(|e| format!("{at}: {e}"))?;
        let ids: Vec<&str> = found.jobs.iter().map(|job| job.id.as_str()).collect();
        same(&format!("{at}.found"), &json!(want.found), &json!(ids))?;
        Ok(found.settle(|id| want.taken.iter().any(|taken| taken == id)))
    }

    fn ended(&self, settled: &Settled, left: usize) -> Check {
        let word = if *settled == Settled::Absent { "absent" } else { "unclear" };
        if word == self.case.meta.expect && left == 0 {
            return Ok(());
        }
        Err(format!("{word}, want {}, {left} exchanges are left", self.case.meta.expect))
    }
}

fn drive(case: &Case, called: &Called, lift: bool) -> Check {
    let image = case.meta.call.image();
    let callback = case.meta.callback.as_ref();
    let call = Call {
        deployment: &called.deployment,
        base_url: &called.base_url,
        hosts: &called.hosts,
        upstream: &called.deployment.upstream,
        image: &image,
        client_ref: case.meta.client_ref.as_deref(),
        callback_url: callback.map(|callback| callback.url.as_str()),
        callback_secret: callback.and_then(|callback| callback.secret.as_deref()),
    };
    let (blobs, job) = (Vec::new(), None);
    Play { case, adapter: called.adapter, call: &call, lift, blobs, job }.run()
}

pub(crate) fn check(catalog: &Catalog, folder: &str, case: &Case) -> Check {
    if case.meta.source.trim().len() < 10 {
        return Err("source: say which page and date it was transcribed from".to_owned());
    }
    let called = called(catalog, case, folder)?;
    if case.exchanges.is_empty() {
        return Err("there is no 01-send.json".to_owned());
    }
    drive(case, &called, false)?;
    drive(case, &called, true).map_err(|e| format!("with base64 lifted: {e}"))
}

//! One attempt: submit, wait, fetch, until the pictures are here or the attempt has failed.

use std::time::Duration;

use providers::{
    Call, Fault, ImageCall, Output, Recovery, RemoteJob, RemoteState, Reply, ReplyBody, SendKind,
    Settled, Source, Step, UpstreamError, WireRequest,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, sleep_until, timeout_at},
};

use super::{
    Engine,
    failure::{Class, Failure},
    job::Push,
    listen::Listener,
    log::Log,
    outgoing::Inputs,
    picture,
    poll::Prior,
    registry::Served,
    transport::{Transport, TransportError},
};
use crate::{
    crash::{Point, point},
    media::{
        blob::{Blob, BlobWriter, Encoding},
        fetch::{FetchError, Fetcher},
    },
};

/// A free request is tried this often when it breaks, twice as late each time: for 16 s.
const FREE_TRIES: u32 = 7;
/// How often a result is asked for that comes as the failure of a server.
const DOUBTFUL_TRIES: u32 = 3;
const FIRST_PAUSE: Duration = Duration::from_millis(250);
/// A download that holds no usable picture is repeated until it was tried this often.
const UNUSABLE_TRIES: u32 = 2;
/// While a provider pushes, it is asked this many times less often.
const BACKSTOP: u32 = 4;
/// An accepted job is given up when our key is refused, or the job is not known, more often than
/// this in a row: a provider may need a moment to know a job it has just taken.
const REFUSED_POLLS: u32 = 3;
/// How long a job whose submit was lost may take to call back.
const CALLBACK_PATIENCE: Duration = Duration::from_mins(1);
const CANCEL_TIMEOUT: Duration = Duration::from_secs(5);

/// What an attempt came to.
#[derive(Debug)]
pub(crate) struct Finished {
    /// The pictures' bytes, in the provider's order; a picture may fail alone.
    pub(crate) pictures: Vec<(providers::Picture, Result<Blob, Failure>)>,
    /// What the provider says beside them.
    pub(crate) output: Output,
}

/// Where an attempt begins.
#[derive(Clone, Debug)]
pub(crate) enum Start {
    /// With its submit.
    Submit,
    /// With a job that the provider accepted from a process that is gone.
    Accepted(RemoteJob),
    /// With outputs that are ready to be fetched.
    Produced(Output),
    /// With a submit that may have been sent by a process that is gone.
    Lost,
}

/// Drives one attempt of one deployment.
pub(crate) struct Drive<'a> {
    /// Writes down how far it is.
    pub(crate) log: &'a Log<'a>,
    pub(crate) transport: &'a Transport,
    pub(crate) fetcher: &'a Fetcher,
    pub(crate) served: &'a Served,
    pub(crate) image: &'a ImageCall,
    /// The pictures the call names.
    pub(crate) inputs: &'a Inputs,
    /// Most pixels that a picture may come with.
    pub(crate) most_pixels: u64,
    pub(crate) deadline: Instant,
    /// Time spent waiting for the provider.
    pub(crate) upstream: Duration,
    /// Status requests sent.
    pub(crate) polls: u64,
    /// How often a result was asked for before there was one.
    early: u32,
    job: Option<RemoteJob>,
    reference: String,
    callback: Option<(String, String)>,
    pushes: Option<mpsc::Receiver<Push>>,
    /// Providers that wait to hear that what they pushed is written down.
    heard: Vec<oneshot::Sender<()>>,
    /// The request whose reply held the output, to ask again for a link that has expired.
    again: Option<(SendKind, WireRequest)>,
    blobs: Vec<Blob>,
}

impl<'a> Drive<'a> {
    pub(crate) fn new(
        engine: &'a Engine,
        log: &'a Log<'a>,
        served: &'a Served,
        image: &'a ImageCall,
        inputs: &'a Inputs,
        most_pixels: u64,
        deadline: Instant,
    ) -> Self {
        Self {
            log,
            transport: &engine.transport,
            fetcher: &engine.fetcher,
            served,
            image,
            inputs,
            most_pixels,
            deadline,
            upstream: Duration::ZERO,
            polls: 0,
            early: 0,
            job: None,
            reference: log.reference(),
            callback: log.callback(&served.deployment.provider),
            pushes: log.pushes(),
            heard: Vec::new(),
            again: None,
            blobs: Vec::new(),
        }
    }

    fn call(&self) -> Call<'_> {
        Call {
            deployment: &self.served.deployment,
            base_url: &self.served.base_url,
            hosts: &self.served.hosts,
            upstream: &self.served.upstream,
            image: self.image,
            client_ref: Some(&self.reference),
            callback_url: self.callback.as_ref().map(|(url, _)| url.as_str()),
            callback_secret: self.callback.as_ref().map(|(_, secret)| secret.as_str()),
        }
    }

    /// Runs the attempt to its end.
    pub(crate) async fn run(&mut self, start: Start) -> Result<Finished, Failure> {
        let begun = Instant::now();
        let result = self.steps(start).await;
        self.upstream = begun.elapsed();
        // What failed is lost with nothing paid.
        self.heard();
        match result {
            // Nobody waits any more. What cannot be ended may still be billed.
            Err(failure) if failure.class == Class::Deadline => {
                let owed = self.job.is_some() && !self.cancel().await;
                Err(Failure { owed: owed || failure.owed, ..failure })
            }
            other => other,
        }
    }

    /// Tells providers that what they pushed need not be sent again.
    fn heard(&mut self) {
        tell(std::mem::take(&mut self.heard));
    }

    async fn steps(&mut self, start: Start) -> Result<Finished, Failure> {
        let adapter = self.served.adapter;
        let step = match start {
            Start::Submit => adapter.begin(&self.call()),
            // Wherever it is, it runs and is billed.
            Start::Accepted(job) => {
                let resumed = adapter.resume(&self.call(), &job);
                return self.walk(resumed.map_err(|e| Failure::unknown(&e.message))?).await;
            }
            Start::Produced(output) => return self.collect(output).await,
            Start::Lost => {
                let recovered = self.recover().await.ok_or_else(|| {
                    Failure::unknown("nobody knows whether the provider took the job")
                })?;
                let step = recovered.map_err(|e| Failure::upstream(e, SendKind::Poll))?;
                return self.walk(step).await;
            }
        };
        self.walk(step.map_err(|e| Failure::upstream(e, SendKind::Submit))?).await
    }

    async fn walk(&mut self, mut step: Step) -> Result<Finished, Failure> {
        loop {
            step = match step {
                Step::Send { kind: SendKind::Submit, request } => {
                    let next = self.submit(&request).await?;
                    if let Step::Wait { job, .. } = &next {
                        self.log.accepted(job).await;
                    }
                    next
                }
                Step::Send { kind: SendKind::Upload, request } => self.upload(&request).await?,
                Step::Send { kind, request } => self.free(kind, request).await?,
                Step::Wait { job, poll, listen } => self.wait(job, poll, listen).await?,
                Step::Done(output) => {
                    // The download begins at once: the provider's links expire.
                    let (log, noted) = (self.log, output.clone());
                    let heard = std::mem::take(&mut self.heard);
                    let noting = async {
                        log.produced(&noted).await;
                        tell(heard);
                    };
                    let ((), finished) = tokio::join!(noting, self.collect(output));
                    return finished;
                }
            };
        }
    }

    /// The job of a submit in the provider's list of late jobs. Asked until the list shows all
    /// that it could be among.
    async fn search(&mut self, sent_at: u64) -> Option<RemoteJob> {
        let adapter = self.served.adapter;
        let request = adapter.search(&self.call(), sent_at)?;
        let mut pause = FIRST_PAUSE;
        for _ in 0..FREE_TRIES {
            // A list that cannot be had says nothing about the job.
            if let Ok(reply) = self.exchange(&request).await
                && let Ok(found) = adapter.found(&self.call(), sent_at, &reply)
            {
                match found.settle(|id| self.log.is_taken(id)) {
                    Settled::One(job) => return Some(*job),
                    Settled::Unclear => return None,
                    // A list may lag behind what was just taken.
                    Settled::Absent => {}
                }
            }
            if self.pause(pause).await.is_err() {
                break;
            }
            pause *= 2;
        }
        None
    }

    /// Looks for a job whose submit may have been sent by a process that is gone.
    /// None where nobody knows; an error is that of the job, once it is found.
    async fn recover(&mut self) -> Option<Result<Step, UpstreamError>> {
        point(Point::BeforeRecover);
        let sent_at = self.log.sent_at_s();
        let adapter = self.served.adapter;
        for step in adapter.recovery() {
            match step {
                // Looked up, or sent again under the same reference: it makes no second job.
                Recovery::ClientId => {
                    let step = adapter.again(&self.call());
                    if let Ok(Step::Wait { job, .. }) = &step {
                        point(Point::AfterRecover);
                        self.log.accepted(job).await;
                    }
                    return Some(step);
                }
                Recovery::Search => {
                    if let Some(job) = self.search(sent_at).await {
                        point(Point::AfterRecover);
                        self.log.accepted(&job).await;
                        return adapter.resume(&self.call(), &job).ok().map(Ok);
                    }
                }
                // Nothing can be pushed to a gateway that has no address for it.
                Recovery::Callback if self.callback.is_none() => {}
                Recovery::Callback => {
                    let until = self.deadline.min(Instant::now() + CALLBACK_PATIENCE);
                    let mut pushes = self.pushes.take();
                    while let Ok(push) = timeout_at(until, next_push(&mut pushes)).await {
                        if let Some(pushed) = adapter.callback(&self.call(), None, &push.reply) {
                            point(Point::AfterRecover);
                            self.heard.push(push.heard);
                            self.log.accepted(&pushed.job).await;
                            self.job = Some(pushed.job);
                            self.pushes = pushes;
                            return Some(pushed.step);
                        }
                    }
                }
            }
        }
        None
    }

    /// Sends the one request that costs money. Never repeated here.
    async fn submit(&mut self, request: &WireRequest) -> Result<Step, Failure> {
        point(Point::BeforeSubmit);
        let sent = self.exchange(request).await;
        point(Point::AfterSubmitReply);
        let reply = match sent {
            Ok(reply) => reply,
            Err(Some(error)) => return Err(Failure::transport(&error, SendKind::Submit)),
            // Nobody knows what became of it, but the deadline is what the caller must hear.
            Err(None) => return Err(Failure { owed: true, ..Failure::deadline() }),
        };
        self.advance(SendKind::Submit, &reply).map_err(|e| Failure::upstream(e, SendKind::Submit))
    }

    /// Takes a picture there ahead of the submit. Whatever breaks, nothing was asked for.
    async fn upload(&mut self, request: &WireRequest) -> Result<Step, Failure> {
        let kind = SendKind::Upload;
        match self.exchange(request).await {
            Ok(reply) => self.advance(kind, &reply).map_err(|e| Failure::upstream(e, kind)),
            Err(Some(error)) => Err(Failure::transport(&error, kind)),
            Err(None) => Err(Failure::deadline()),
        }
    }

    /// Sends a request that costs nothing, again and again while it breaks.
    async fn free(&mut self, kind: SendKind, request: WireRequest) -> Result<Step, Failure> {
        let mut pause = FIRST_PAUSE;
        for attempt in 1.. {
            let mut doubtful = false;
            let failure = match self.exchange(&request).await {
                Err(None) => return Err(Failure::deadline()),
                Err(Some(error)) => Failure::transport(&error, kind),
                Ok(reply) => match self.advance(kind, &reply) {
                    Ok(step) => {
                        if matches!(step, Step::Wait { .. }) {
                            // Said to be done, and not done: never ask in circles at full speed.
                            self.pause(FIRST_PAUSE * 2_u32.pow(self.early.min(5))).await?;
                            self.early += 1;
                        }
                        self.again = Some((kind, request));
                        return Ok(step);
                    }
                    Err(error) => {
                        // A bad moment of the provider's own door looks like a job that failed.
                        doubtful = reply.status >= 500 && attempt < DOUBTFUL_TRIES;
                        Failure::upstream(error, kind)
                    }
                },
            };
            let transient = matches!(
                failure.class,
                Class::ResultLost | Class::RateLimited | Class::Unavailable
            ) || (doubtful && failure.class == Class::Failed);
            if failure.class == Class::Operator {
                // The job is done, and billed, though we may not have it.
                return Err(Failure { class: Class::ResultLost, ..failure });
            }
            if !transient {
                return Err(failure);
            }
            if attempt >= FREE_TRIES {
                return Err(Failure { class: Class::ResultLost, ..failure });
            }
            self.pause(failure.retry_after.unwrap_or(pause)).await?;
            pause *= 2;
        }
        Err(Failure::deadline())
    }

    /// Waits for a job: listens where the provider pushes, and asks on a schedule.
    async fn wait(
        &mut self,
        job: RemoteJob,
        mut poll: WireRequest,
        listen: Option<WireRequest>,
    ) -> Result<Step, Failure> {
        let mut anchor = Instant::now();
        let mut state = job.state;
        self.job = Some(job);
        let mut listener = listen.map_or(Listener::Closed, |request| self.listener(request));
        let mut refused = 0;
        let mut not_before = None;
        let mut ask_now = false;
        let mut cancel_tried = false;
        let mut pushes = self.pushes.take();
        loop {
            let now = Instant::now();
            let mut wait = Prior::default().wait(now - anchor);
            if std::mem::take(&mut ask_now) {
                wait = Duration::ZERO;
            }
            if listener.is_alive() || pushes.is_some() {
                wait *= BACKSTOP;
            }
            let slot = self.served.spread.slot(now, wait);
            let slot = slot.max(not_before.unwrap_or(slot)).min(self.deadline);
            let answer = tokio::select! {
                push = next_push(&mut pushes) => {
                    let job = self.job.as_ref();
                    let pushed = self.served.adapter.callback(&self.call(), job, &push.reply);
                    let Some(pushed) = pushed else {
                        // About another job, or nothing of its end.
                        let _ = push.heard.send(());
                        continue;
                    };
                    self.heard.push(push.heard);
                    self.job = Some(pushed.job);
                    pushed.step
                }
                () = self.log.cancelled(), if !cancel_tried => {
                    cancel_tried = true;
                    if self.cancel().await {
                        return Err(Failure::cancelled());
                    }
                    continue;
                }
                event = listener.next(), if listener.is_alive() => {
                    let Some(data) = event else {
                        // The stream ended, perhaps because the job did: ask at once.
                        ask_now = true;
                        continue;
                    };
                    let reply =
                        Reply { status: 200, headers: Vec::new(), body: ReplyBody::Text(data) };
                    match self.advance(SendKind::Listen, &reply) {
                        // What cannot be read in a push is asked for.
                        Err(e) if e.fault == Fault::Malformed => continue,
                        other => other,
                    }
                }
                () = sleep_until(slot) => {
                    if Instant::now() >= self.deadline {
                        return Err(Failure::deadline());
                    }
                    self.polls += 1;
                    match self.exchange(&poll).await {
                        Err(None) => return Err(Failure::deadline()),
                        Err(Some(_)) => continue,
                        Ok(reply) => {
                            point(Point::AfterPoll);
                            self.advance(SendKind::Poll, &reply)
                        }
                    }
                }
            };
            match answer {
                Ok(Step::Wait { job, poll: next, .. }) => {
                    if state == RemoteState::Queued && job.state == RemoteState::Running {
                        anchor = Instant::now();
                    }
                    state = job.state;
                    self.heard();
                    self.log.queued(job.queue_position);
                    self.job = Some(job);
                    poll = next;
                    refused = 0;
                }
                Ok(step) => {
                    self.again = Some((SendKind::Poll, poll));
                    return Ok(step);
                }
                Err(error) => {
                    not_before = error.retry_after.map(|wait| Instant::now() + wait);
                    let failure = Failure::upstream(error, SendKind::Poll);
                    match failure.class {
                        Class::RateLimited | Class::Unavailable | Class::ResultLost => {}
                        Class::Operator if refused < REFUSED_POLLS => refused += 1,
                        Class::Failed
                            if failure.outcome == Fault::JobLost.name()
                                && refused < REFUSED_POLLS =>
                        {
                            refused += 1;
                        }
                        // The provider has it, and may bill it, whatever it says of our question.
                        Class::Operator => {
                            return Err(Failure { class: Class::Ambiguous, ..failure });
                        }
                        Class::Failed if failure.outcome == Fault::JobLost.name() => {
                            return Err(Failure { class: Class::Ambiguous, ..failure });
                        }
                        _ => return Err(failure),
                    }
                }
            }
        }
    }

    fn listener(&self, request: WireRequest) -> Listener {
        let transport = self.transport.clone();
        let access = self.served.access.clone();
        Listener::new(async move { transport.open(&access, &request, &Inputs::default()).await })
    }

    /// One request and its reply; `Err(None)` is the deadline.
    async fn exchange(&mut self, request: &WireRequest) -> Result<Reply, Option<TransportError>> {
        let sending = self.transport.send(&self.served.access, request, self.inputs);
        match timeout_at(self.deadline, sending).await {
            Ok(Ok((reply, blobs))) => {
                self.blobs = blobs;
                Ok(reply)
            }
            Ok(Err(error)) => Err(Some(error)),
            Err(_) => Err(None),
        }
    }

    fn advance(&self, sent: SendKind, reply: &Reply) -> Result<Step, UpstreamError> {
        self.served.adapter.advance(&self.call(), sent, self.job.as_ref(), reply)
    }

    async fn pause(&self, wait: Duration) -> Result<(), Failure> {
        let until = Instant::now() + wait;
        if until >= self.deadline {
            sleep_until(self.deadline).await;
            return Err(Failure::deadline());
        }
        sleep_until(until).await;
        Ok(())
    }

    /// Tells the provider that nobody waits any more. Gives whether it ended the job.
    async fn cancel(&self) -> bool {
        let Some(job) = &self.job else { return false };
        let Some(request) = self.served.adapter.cancel(&self.call(), job) else { return false };
        let sending = self.transport.send(&self.served.access, &request, self.inputs);
        let answer = tokio::time::timeout(CANCEL_TIMEOUT, sending).await;
        matches!(answer, Ok(Ok((reply, _))) if reply.is_success())
    }

    /// Brings every picture's bytes here.
    async fn collect(&mut self, output: Output) -> Result<Finished, Failure> {
        let mut pictures = Vec::with_capacity(output.pictures.len());
        for (index, picture) in output.pictures.iter().cloned().enumerate() {
            let blob = match &picture.source {
                Source::Base64(text) => Ok(Blob::from_base64(text.clone())),
                Source::Blob(number) => self.blobs.get(*number).cloned().ok_or_else(|| {
                    Failure::new(Class::Failed, "malformed_reply", "the reply holds no picture")
                }),
                Source::Url(url) => self.download(url, index).await.map_err(|failure| {
                    // Made and paid: late is lost, whatever the clock says.
                    match failure.class {
                        Class::Deadline => Failure { class: Class::ResultLost, ..failure },
                        _ => failure,
                    }
                }),
            };
            pictures.push((picture, blob));
        }
        if pictures.is_empty() {
            let message = "the provider's answer holds no picture";
            return Err(Failure::new(Class::Failed, "empty_reply", message));
        }
        point(Point::AfterDownload);
        Ok(Finished { pictures, output })
    }

    /// Downloads a paid picture: free to repeat, so it is repeated; a link that has expired is
    /// asked for anew, once.
    async fn download(&self, url: &str, index: usize) -> Result<Blob, Failure> {
        let mut url = url.to_owned();
        let mut renewed = false;
        let mut pause = FIRST_PAUSE;
        let mut tries = 0;
        loop {
            tries += 1;
            let lost = |m: &str| Err(Failure::new(Class::ResultLost, "result_lost", m));
            let error = match timeout_at(self.deadline, self.fetch(&url)).await {
                Ok(Ok(blob)) => match picture::inspect(&blob, self.most_pixels) {
                    Ok(_) => return Ok(blob),
                    // Perhaps the provider's file server was in trouble: look once more. The
                    // picture is paid, so no other provider is asked for it.
                    Err(unusable) if tries >= UNUSABLE_TRIES => return lost(&unusable.message),
                    Err(_) => {
                        self.pause(pause).await?;
                        continue;
                    }
                },
                Ok(Err(error)) => error,
                Err(_) => return Err(Failure::deadline()),
            };
            match error {
                FetchError::Expired(_) if !renewed => {
                    renewed = true;
                    match self.renewed_link(index).await {
                        Some(fresh) if fresh != url => url = fresh,
                        _ => return lost("the provider's link to the picture has expired"),
                    }
                }
                FetchError::Expired(_) => {
                    return lost("the provider's link to the picture has expired");
                }
                FetchError::Refused => return lost("the provider's link points where it must not"),
                _ if tries >= FREE_TRIES => return lost("the picture could not be downloaded"),
                _ => {
                    self.pause(pause).await?;
                    pause *= 2;
                }
            }
        }
    }

    async fn renewed_link(&self, index: usize) -> Option<String> {
        let (kind, request) = self.again.as_ref()?;
        let sending = self.transport.send(&self.served.access, request, self.inputs);
        let (reply, _) = timeout_at(self.deadline, sending).await.ok()?.ok()?;
        match self.advance(*kind, &reply).ok()? {
            Step::Done(output) => match &output.pictures.get(index)?.source {
                Source::Url(url) => Some(url.clone()),
                _ => None,
            },
            _ => None,
        }
    }

    async fn fetch(&self, url: &str) -> Result<Blob, FetchError> {
        let mut fetched = self.fetcher.get(url, None).await?;
        let mut writer = BlobWriter::new(Encoding::Raw, self.transport.budget());
        while let Some(chunk) = fetched.next_chunk().await? {
            writer.push(chunk).map_err(FetchError::Spool)?;
        }
        Ok(writer.finish())
    }
}

fn tell(heard: Vec<oneshot::Sender<()>>) {
    for provider in heard {
        // One that no longer waits asks again, and is told then.
        let _ = provider.send(());
    }
}

/// What is pushed next; never, where nothing is.
async fn next_push(pushes: &mut Option<mpsc::Receiver<Push>>) -> Push {
    if let Some(receiver) = pushes
        && let Some(push) = receiver.recv().await
    {
        return push;
    }
    std::future::pending().await
}

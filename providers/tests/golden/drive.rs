//! One case: find whom to call, then do what the engine would do.

use providers::{
    Adapter, Call, RemoteJob, SendKind, Step, adapter,
    catalog::{Catalog, Deployment, Provider},
};
use serde_json::Value;

use crate::{
    case::{Case, Check, Target},
    compare::{check_error, check_output, check_request, same, written},
};

pub(crate) struct Called {
    pub(crate) adapter: &'static dyn Adapter,
    pub(crate) deployment: Deployment,
    pub(crate) base_url: String,
    pub(crate) hosts: Vec<String>,
}

fn row<'a>(catalog: &'a Catalog, slug: &str) -> Option<(&'a Provider, &'a Deployment)> {
    let provider = catalog.providers.get(slug.split_once('/')?.0)?;
    Some((provider, provider.models.iter().find(|d| d.slug() == slug)?))
}

pub(crate) fn called(catalog: &Catalog, case: &Case, folder: &str) -> Check<Called> {
    let find = |name: &str| adapter(name).ok_or_else(|| format!("no adapter named {name:?}"));
    match &case.meta.deployment {
        Target::Row(slug) => {
            let (provider, deployment) =
                row(catalog, slug).ok_or_else(|| format!("{slug:?} is not in the catalogue"))?;
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

fn drive(case: &Case, called: &Called, lift: bool) -> Check {
    let image = case.meta.call.image();
    let call = Call {
        deployment: &called.deployment,
        base_url: &called.base_url,
        hosts: &called.hosts,
        upstream: &called.deployment.upstream,
        image: &image,
        client_ref: None,
        callback_url: None,
        callback_secret: None,
    };
    let expect = case.meta.expect.as_str();
    let mut blobs = Vec::new();
    let mut job: Option<RemoteJob> = None;
    let mut exchanges = case.exchanges.iter().enumerate();
    let mut step = called.adapter.begin(&call);
    loop {
        let left = exchanges.len();
        let (offered, listen) = match step {
            Ok(Step::Done(output)) => {
                return match (expect, left, &case.end) {
                    ("done", 0, Some(want)) => check_output(case, want, &output, &blobs),
                    ("done", _, _) => Err(format!("done, but {left} exchanges are left")),
                    _ => Err(format!("done, want {expect}")),
                };
            }
            Err(error) => {
                return match (&case.end, left) {
                    (Some(want), 0) if expect != "done" => check_error(case, want, &error),
                    _ => Err(format!("{error}; want {expect}, {left} exchanges are left")),
                };
            }
            Ok(Step::Send { kind, request }) => (vec![(kind, request)], None),
            Ok(Step::Wait { job: now, poll, listen }) => {
                if let Some(want) = &case.cancel {
                    let request = called.adapter.cancel(&call, &now);
                    same("cancel", want, &request.map_or(Ok(Value::Null), |r| written(&r))?)?;
                }
                job = Some(now);
                if left == 0 && expect == "wait" {
                    return Ok(());
                }
                let mut offered = vec![(SendKind::Poll, poll)];
                offered.extend(listen.clone().map(|request| (SendKind::Listen, request)));
                (offered, Some(listen))
            }
        };
        let Some((i, (want, answer))) = exchanges.next() else {
            return Err(format!("no exchange is left for {offered:?}"));
        };
        let at = format!("{:02}-send", i + 1);
        let Some((kind, request)) = offered.iter().find(|(kind, _)| *kind == want.kind) else {
            return Err(format!("{at}.kind: want {:?}, offered {offered:?}", want.kind));
        };
        check_request(&at, case, want, request)?;
        if let (Some(want), Some(got)) = (&want.listen, &listen) {
            let got = got.as_ref().map_or(Ok(Value::Null), written)?;
            same(&format!("{at}.listen"), want, &got)?;
        }
        if let Some(want) = &want.job {
            let got = serde_json::to_value(&job).map_err(|e| e.to_string())?;
            same(&format!("{at}.job"), want, &got)?;
        }
        let reply = case.reply(answer, lift, &mut blobs)?;
        step = called.adapter.advance(&call, *kind, job.as_ref(), &reply);
    }
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

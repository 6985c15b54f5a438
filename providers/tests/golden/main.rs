//! Every adapter against every fixture: what it sends and what it makes of each reply.
//!
//! `fixtures/README.md` describes the folders. Everything is compared both ways: a field too
//! many fails like a field too few. Each case runs twice, with base64 left in the replies and
//! with it lifted out as the engine does; both must end the same.

mod case;
mod compare;
mod drive;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use providers::{
    ADAPTERS,
    catalog::{Catalog, Deployment, EMBEDDED, Wire},
};
use serde_json::{Map, Value};

use case::{Case, Exchange, Send, cases, cases_in};
use drive::{called, check};

#[test]
fn every_fixture_is_sent_and_read_as_written() {
    let catalog = Catalog::embedded().unwrap();
    let mut wrong = Vec::new();
    for (provider, scenario, case) in cases() {
        if let Err(e) = case.and_then(|case| check(&catalog, &provider, &case)) {
            wrong.push(format!("fixtures/{provider}/{scenario}:\n{e}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n\n"));
}

#[test]
fn a_fixture_that_differs_in_one_field_fails() {
    let catalog = Catalog::embedded().unwrap();
    let mut tried = 0;
    for (provider, scenario, case) in cases() {
        let case = case.unwrap();
        let fails = |case: &Case, what: &str| {
            assert!(check(&catalog, &provider, case).is_err(), "{provider}/{scenario}: {what}");
        };
        for (i, exchange) in case.exchanges.iter().enumerate() {
            let changed = |change: &dyn Fn(&mut Exchange)| {
                let mut changed = case.clone();
                change(&mut changed.exchanges[i]);
                changed
            };
            match exchange {
                Exchange::Send(send, _) => {
                    for other in other_sends(send) {
                        let case = changed(&|exchange| {
                            if let Exchange::Send(slot, _) = exchange {
                                **slot = other.clone();
                            }
                        });
                        fails(&case, "another request passed");
                        tried += 1;
                    }
                }
                Exchange::Push(_) => fails(
                    &changed(&|exchange| {
                        if let Exchange::Push(push) = exchange {
                            push.ignored = !push.ignored;
                        }
                    }),
                    "a push that counts and one that does not passed for each other",
                ),
                Exchange::Search(..) => fails(
                    &changed(&|exchange| {
                        if let Exchange::Search(search, _) = exchange {
                            search.found.push("another".to_owned());
                        }
                    }),
                    "another find passed",
                ),
            }
        }
        if let Some(Value::Object(end)) = &case.end {
            for field in end.keys().filter(|field| *field != "message") {
                let mut changed = case.clone();
                changed.end = changed.end.map(|mut end| {
                    end[field] = "something else".into();
                    end
                });
                fails(&changed, "another end passed");
            }
        }
    }
    assert!(tried > 0, "no fixture was tried");
}

/// The request with another address, without one of its fields, and with one too many.
fn other_sends(send: &Send) -> Vec<Send> {
    let mut others = vec![Send { url: format!("{}x", send.url), ..send.clone() }];
    for (is_json, body) in [(true, &send.json), (false, &send.form)] {
        let Some(Value::Object(fields)) = body else { continue };
        let without = |left_out: &String| -> Map<String, Value> {
            fields.clone().into_iter().filter(|(k, _)| k != left_out).collect()
        };
        let mut bodies: Vec<Map<String, Value>> = fields.keys().map(without).collect();
        let mut more = fields.clone();
        more.insert("a_field_too_many".to_owned(), 1.into());
        bodies.push(more);
        others.extend(bodies.into_iter().map(|body| {
            let mut other = send.clone();
            *if is_json { &mut other.json } else { &mut other.form } = Some(Value::Object(body));
            other
        }));
    }
    others
}

/// Whether a scenario shows a call that goes well.
fn happy(scenario: &str) -> bool {
    scenario == "happy" || scenario.starts_with("happy-")
}

/// What tells one request shape of a provider from another: the fields' names, without the
/// constants that come with every call.
fn shape(deployment: &Deployment) -> String {
    let wire = Wire { set: BTreeMap::new(), ..deployment.wire.clone() };
    format!("{} {} {wire:?}", deployment.provider, deployment.task.name())
}

#[test]
fn every_adapter_and_every_request_shape_of_the_catalogue_has_a_happy_fixture() {
    let catalog = Catalog::embedded().unwrap();
    let (mut adapters, mut shapes) = (BTreeSet::new(), BTreeSet::new());
    for (provider, scenario, case) in cases() {
        let case = case.unwrap();
        if happy(&scenario) && case.meta.expect == "done" {
            let called = called(&catalog, &case, &provider).unwrap();
            adapters.insert(called.adapter.name());
            shapes.insert(shape(&called.deployment));
        }
    }
    let mut missing: BTreeMap<String, String> = ADAPTERS
        .iter()
        .map(|a| a.name())
        .filter(|name| !adapters.contains(name))
        .map(|name| (name.to_owned(), format!("adapter {name}")))
        .collect();
    for deployment in catalog.deployments() {
        let key = shape(deployment);
        if !shapes.contains(&key) {
            missing
                .entry(key)
                .or_insert_with(|| format!("{} ({})", deployment.slug(), deployment.task.name()));
        }
    }
    let missing: Vec<&String> = missing.values().collect();
    assert!(missing.is_empty(), "no happy fixture for the request shape of {missing:?}");
}

#[test]
fn every_rung_an_adapter_declares_has_fixtures() {
    let catalog = Catalog::embedded().unwrap();
    let mut shown: BTreeSet<(&str, &str)> = BTreeSet::new();
    for (provider, _, case) in cases() {
        let case = case.unwrap();
        let adapter = called(&catalog, &case, &provider).unwrap().adapter.name();
        let lost = |e: &Exchange| matches!(e, Exchange::Send(_, answer) if answer.lost);
        let after_loss = case.exchanges.iter().skip_while(|e| !lost(e)).skip(1);
        // A case that goes on to the end, from a submit whose reply was lost.
        let rung = after_loss.take(1).filter(|_| case.meta.expect == "done");
        shown.extend(rung.map(|exchange| match exchange {
            Exchange::Push(_) => (adapter, "callback"),
            Exchange::Search(..) => (adapter, "search"),
            Exchange::Send(..) => (adapter, "client_id"),
        }));
    }
    let declared: BTreeSet<(&str, &str)> = ADAPTERS
        .iter()
        .flat_map(|adapter| adapter.recovery().iter().map(|rung| (adapter.name(), rung.name())))
        .collect();
    assert_eq!(shown, declared);
}

/// The worked example of `docs/adding-a-provider.md`: nothing but its files is new.
#[test]
fn a_provider_of_a_known_dialect_is_one_file_and_one_folder() {
    let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/examples/brightbrush");
    let text = std::fs::read_to_string(example.join("catalog/brightbrush.toml")).unwrap();
    let files = EMBEDDED.iter().copied().chain([("brightbrush", text.as_str())]);
    let catalog = Catalog::parse(files).unwrap();
    let mut done: BTreeSet<String> = BTreeSet::new();
    for (provider, scenario, case) in cases_in(&example.join("fixtures")) {
        check(&catalog, &provider, &case.unwrap()).unwrap_or_else(|e| panic!("{scenario}:\n{e}"));
        done.insert(scenario);
    }
    assert!(done.iter().any(|s| happy(s)) && done.len() >= 3, "{done:?}");
    let row = catalog.deployments().find(|d| d.slug() == "brightbrush/brightbrush-2");
    assert_eq!(row.map(|d| d.upstream.as_str()), Some("bb-2-2026-09"));

    // The page shows the file piece by piece, up to where the fixtures begin.
    let page = std::fs::read_to_string(example.join("../../adding-a-provider.md")).unwrap();
    let shown = page.split("## 3.").next().unwrap().split("```toml\n").skip(1);
    let pieces: Vec<&str> = shown.filter_map(|piece| piece.split("```").next()).collect();
    assert!(pieces.len() >= 4, "the page shows the file");
    for piece in pieces {
        assert!(text.contains(piece), "the file lacks what the page shows:\n{piece}");
    }
}

//! `mediagate usage`, `credits` and `ledger`, on the database beside a running gateway and over its
//! admin listener: both say the same.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::usage::{ADMIN, Setup};

const BINARY: &str = env!("CARGO_BIN_EXE_mediagate");

pub(crate) fn command(setup: &Setup, words: &[&str], is_remote: bool) -> Output {
    let mut command = Command::new(BINARY);
    let directory = setup.directory();
    command.args(words).current_dir(directory).env_clear().env("MEDIAGATE_DATA_DIR", directory);
    if is_remote {
        command.args(["--url", &setup.admin]).env("MEDIAGATE_ADMIN_KEY", ADMIN);
    }
    // The gateway answers on the threads of this test.
    tokio::task::block_in_place(|| command.output().unwrap())
}

pub(crate) fn said(setup: &Setup, words: &[&str], is_remote: bool) -> String {
    let output = command(setup, words, is_remote);
    assert!(output.status.success(), "{words:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn json_of(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_command_line_says_what_the_listener_says() {
    let setup = Setup::start().await;
    let (org, id, _) = setup.key("mine").await;
    setup.use_up(&org, &id, "flux", 120_000_000).await;
    let funded =
        ["credits", "add", "--org", &org, "--usd", "10", "--id", "inv-1", "--memo", "paid"];
    for is_remote in [false, true] {
        // The second finds that the first has done it.
        let text = said(&setup, &funded, is_remote);
        assert!(text.contains("available_usd    10.000000000"), "{text}");
        let credits = said(&setup, &["credits", "show", "--org", &org, "--json"], is_remote);
        assert_eq!(json_of(&credits)["funded_usd"], "10.000000000");

        let usage = ["usage", "--group-by", "model,label", "--org", &org];
        let csv = said(&setup, &[&usage[..], &["--csv"]].concat(), is_remote);
        assert_eq!(
            csv,
            "model,label,value,requests,image,usd\r\nflux,team,'=1+1,2,3,0.120000000\r\n"
        );
        let rows = said(&setup, &[&usage[..], &["--json"]].concat(), is_remote);
        assert_eq!(json_of(&rows)["data"][0]["units"], json!({"image": "3"}));
        let shown =
            said(&setup, &["usage", "--label", "team==1+1", "--group-by", "key"], is_remote);
        let lines: Vec<&str> = shown.lines().collect();
        assert!(lines[0].starts_with("KEY ") && lines[1].starts_with(&id), "{shown}");

        let ledger = said(&setup, &["ledger", "list", "--org", &org, "--json"], is_remote);
        assert_eq!(json_of(&ledger)["data"][0]["memo"], "paid");
        let accounts = said(&setup, &["ledger", "accounts", "--csv"], is_remote);
        assert!(
            accounts.contains(&format!("credit:{org},{org},usd,-10.000000000,0.000000000")),
            "{accounts}"
        );
        let verified = said(&setup, &["ledger", "verify"], is_remote);
        assert_eq!(verified, "every balance equals its transfers\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn drift_ends_with_an_error() {
    let setup = Setup::start().await;
    let (org, ..) = setup.key("mine").await;
    said(&setup, &["credits", "add", "--org", &org, "--usd", "10"], false);
    setup.run("UPDATE account SET posted = posted - 1", vec![]).await;
    for is_remote in [false, true] {
        let output = command(&setup, &["ledger", "verify"], is_remote);
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        let shown = String::from_utf8(output.stdout).unwrap();
        assert!(
            shown.contains(&format!("credit:{org}")) && shown.contains("-10.000000001"),
            "{shown}"
        );
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(told, "error: 1 balances do not equal their transfers\n");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_words_are_told_apart_from_failures() {
    let setup = Setup::start().await;
    for (words, code, part) in [
        (&["usage", "--from", "yesterday"][..], 2, "no time"),
        (&["usage", "--group-by", "colour"], 2, "grouped by"),
        (&["usage", "--label", "team"], 2, "NAME=VALUE"),
        (&["usage", "--json", "--csv"], 2, "cannot be used with"),
        (&["credits", "add", "--usd=-1"], 2, "below zero"),
        (&["credits", "add", "--usd", "0"], 2, "above zero"),
        (&["credits", "add", "--usd", "1e3"], 2, "no amount"),
        (&["credits", "show", "--org", "none"], 1, "no organisation"),
        (&["ledger", "list", "--kind", "captured"], 2, "no kind"),
        (&["ledger"], 2, "Usage"),
    ] {
        for is_remote in [false, true] {
            if is_remote && words.len() == 1 {
                continue;
            }
            let output = command(&setup, words, is_remote);
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(code), "{words:?}: {told}");
            assert!(told.contains(part), "{words:?}: {told}");
        }
    }
}

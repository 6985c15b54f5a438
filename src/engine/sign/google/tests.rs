use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ring::signature::{RSA_PKCS1_2048_8192_SHA256, UnparsedPublicKey};
use rustls::pki_types::{PrivatePkcs8KeyDer, pem::PemObject as _};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::*;
use crate::{config::Secret, media::fetch::install_tls};

/// Made for tests; no account has its key.
const FILE: &str = include_str!("../../../../tests/data/service-account.json");

/// Gives out what it is told to, with a number in each token; counts what it is asked for.
async fn endpoint(status: u16, answer: &'static str) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&asked);
    tokio::spawn(async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut request = Vec::new();
            // The assertion is the last of it, and long.
            while !String::from_utf8_lossy(&request).contains("&assertion=") || request.len() < 800
            {
                if socket.read_buf(&mut request).await.unwrap() == 0 {
                    break;
                }
            }
            let number = counter.fetch_add(1, Ordering::SeqCst).to_string();
            let body = answer.replace('#', &number);
            let head = format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\n", body.len());
            let reply = format!("{head}connection: close\r\n\r\n{body}");
            socket.write_all(reply.as_bytes()).await.unwrap();
        }
    });
    (address, asked)
}

fn account(at: SocketAddr) -> Account {
    let file: Value = serde_json::from_str(FILE).unwrap();
    let pem = file["private_key"].as_str().unwrap();
    let key = PrivatePkcs8KeyDer::from_pem_slice(pem.as_bytes()).unwrap();
    let described = ServiceAccount {
        email: "drawer@example.iam.gserviceaccount.com".to_owned(),
        key_id: "k1".to_owned(),
        key: Secret::new(key.secret_pkcs8_der().to_vec()),
        token_url: format!("http://{at}/token"),
        project: None,
    };
    Account::new(&described, "https://www.googleapis.com/auth/cloud-platform").unwrap()
}

fn client() -> Client {
    install_tls();
    Client::builder().no_proxy().build().unwrap()
}

async fn shown(account: &Account, client: &Client) -> String {
    let headers = account.headers(client).await.unwrap();
    headers[AUTHORIZATION].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_token_is_kept_and_renewed_before_it_ends() {
    let (at, asked) = endpoint(200, r#"{"access_token":"t#","expires_in":3600}"#).await;
    let (account, client) = (account(at), client());
    // All who come together wait for one.
    let all = futures_util::future::join_all((0..8).map(|_| shown(&account, &client))).await;
    assert!(all.iter().all(|header| header == "Bearer t0"), "{all:?}");
    assert_eq!(asked.load(Ordering::SeqCst), 1);
    account.forget().await;
    assert_eq!(shown(&account, &client).await, "Bearer t1");

    // One that ends within five minutes is renewed at once.
    let (at, asked) = endpoint(200, r#"{"access_token":"t#","expires_in":300}"#).await;
    let account = self::account(at);
    for want in ["Bearer t0", "Bearer t1"] {
        assert_eq!(shown(&account, &client).await, want);
    }
    assert_eq!(asked.load(Ordering::SeqCst), 2);
    assert!(!format!("{account:?}").contains("t1"));
}

#[tokio::test]
async fn while_a_token_holds_it_outlasts_those_who_give_it() {
    let (at, _) = endpoint(503, "").await;
    let (account, client) = (account(at), client());
    let ends = Instant::now() + Duration::from_mins(1);
    let held = Token { header: HeaderValue::from_static("Bearer held"), ends };
    *account.token.lock().await = Some(held);
    assert_eq!(shown(&account, &client).await, "Bearer held");
    account.forget().await;
    assert!(matches!(account.headers(&client).await, Err(SignError::Unreachable(_))));
}

#[tokio::test]
async fn refusals_are_told_from_failures_and_hold_no_secret() {
    for (status, answer, refused, says) in [
        (400, r#"{"error":"invalid_grant","error_description":"secret"}"#, true, "invalid_grant"),
        (401, "secret", true, "401"),
        (403, r#"{"error":"Secret words"}"#, true, "403"),
        (429, "", false, ""),
        (500, "secret", false, ""),
        (200, r#"{"id_token":"secret"}"#, false, ""),
    ] {
        let (at, _) = endpoint(status, answer).await;
        let error = account(at).headers(&client()).await.unwrap_err();
        assert_eq!(matches!(error, SignError::Refused(_)), refused, "{status} {error:?}");
        let told = format!("{error} {error:?}");
        assert!(told.contains(says) && !told.to_lowercase().contains("secret"), "{told}");
    }
}

#[test]
fn the_claim_is_signed_for_the_token_address() {
    let account = account("127.0.0.1:9".parse().unwrap());
    let claim = account.claim(SystemTime::UNIX_EPOCH + Duration::from_secs(1000)).unwrap();
    let (message, signature) = claim.rsplit_once('.').unwrap();
    let decode = |text: &str| URL_SAFE_NO_PAD.decode(text).unwrap();
    let public = UnparsedPublicKey::new(&RSA_PKCS1_2048_8192_SHA256, account.key.public());
    public.verify(message.as_bytes(), &decode(signature)).unwrap();
    let (head, claims) = message.split_once('.').unwrap();
    let read = |text: &str| serde_json::from_slice::<Value>(&decode(text)).unwrap();
    assert_eq!(read(head), json!({"alg": "RS256", "typ": "JWT", "kid": "k1"}));
    let want = json!({
        "iss": "drawer@example.iam.gserviceaccount.com",
        "scope": "https://www.googleapis.com/auth/cloud-platform",
        "aud": "http://127.0.0.1:9/token", "iat": 1000, "exp": 4600,
    });
    assert_eq!(read(claims), want);
}

//! What tokens promise: only ours are taken, for their time, whichever of our keys signed them.

use atelier_shared::domain::ids::FamilyId;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use chrono::{Duration, SubsecRound};
use serde_json::{Value, json};

use super::*;
use crate::config::tests::parse;

fn pem() -> String {
    let folder = std::env::temp_dir().join(format!("atelier-{}", Uuid::now_v7()));
    let pem = keys::keep_signing_key(&folder).unwrap();
    std::fs::remove_dir_all(folder).unwrap();
    pem
}

fn ring(pem: &str) -> KeyRing {
    let mut config = parse(&[]).unwrap();
    config.jwt_private_key = Some(pem.to_owned());
    KeyRing::open(&config).unwrap()
}

fn secret_ring(secret: &str) -> Result<KeyRing, ConfigError> {
    let mut config = parse(&[]).unwrap();
    config.jwt_secret_key = Some(secret.to_owned());
    KeyRing::open(&config)
}

fn user() -> User {
    User {
        id: UserId::generate(),
        kind: UserKind::Account,
        username: "ana".into(),
        name: "Ana".into(),
        email: None,
        avatar_url: None,
        is_admin: true,
        created_at: Utc::now(),
    }
}

fn token(ring: &KeyRing, life: Duration) -> String {
    let now = Utc::now();
    access::issue(ring, &user(), FamilyId::generate(), now, now + life)
        .unwrap()
        .token
}

/// The token with its header or claims changed and the signature left as it was.
fn forged(token: &str, part: usize, change: impl Fn(&mut Value)) -> String {
    let mut parts: Vec<String> = token.split('.').map(str::to_owned).collect();
    let mut value: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(&parts[part]).unwrap()).unwrap();
    change(&mut value);
    parts[part] = URL_SAFE_NO_PAD.encode(value.to_string());
    parts.join(".")
}

#[test]
fn a_token_says_who_it_is_for() {
    let ring = ring(&pem());
    let (user, family, now) = (user(), FamilyId::generate(), Utc::now().trunc_subsecs(0));
    let end = now + Duration::minutes(15);
    let token = access::issue(&ring, &user, family, now, end).unwrap().token;
    let principal = access::verify(&ring, &token).unwrap();
    assert_eq!(principal.user_id, user.id);
    assert_eq!(principal.name.as_deref(), Some("Ana"));
    assert_eq!(principal.family, Some(family));
    assert_eq!(principal.expires_at, Some(end));
    assert!(principal.is_admin);
}

#[test]
fn an_old_token_is_told_from_a_forged_one() {
    let ring = ring(&pem());
    let old = token(&ring, Duration::seconds(-1));
    assert_eq!(access::verify(&ring, &old), Err(TokenError::Expired));
    let good = token(&ring, Duration::minutes(5));
    let richer = forged(&good, 1, |claims| claims["kind"] = json!("guest"));
    let unsigned = forged(&good, 0, |header| header["alg"] = json!("none"));
    let confused = forged(&good, 0, |header| header["alg"] = json!("HS256"));
    let keyless = forged(&good, 0, |header| header["kid"] = Value::Null);
    let plain = forged(&good, 0, |header| header["typ"] = json!("JWT"));
    for bad in [
        richer,
        unsigned,
        confused,
        keyless,
        plain,
        String::new(),
        "a.b.c".into(),
    ] {
        assert_eq!(
            access::verify(&ring, &bad),
            Err(TokenError::Invalid),
            "{bad}"
        );
    }
    let strangers = token(&super::tests::ring(&pem()), Duration::minutes(5));
    assert_eq!(access::verify(&ring, &strangers), Err(TokenError::Invalid));
}

/// RFC 8725, 2.1: the public key must not pass as the secret of an HS256 token.
#[test]
fn a_public_key_is_no_secret() {
    let ring = ring(&pem());
    let jwks = ring.jwks();
    let (kid, x) = (&jwks["keys"][0]["kid"], &jwks["keys"][0]["x"]);
    let public = URL_SAFE_NO_PAD.decode(x.as_str().unwrap()).unwrap();
    let mut header = jsonwebtoken::Header::new(jsonwebtoken::Algorithm::HS256);
    header.typ = Some("at+jwt".into());
    header.kid = kid.as_str().map(str::to_owned);
    let good = token(&ring, Duration::minutes(5));
    let claims: Value = serde_json::from_slice(
        &URL_SAFE_NO_PAD
            .decode(good.split('.').nth(1).unwrap())
            .unwrap(),
    )
    .unwrap();
    let key = jsonwebtoken::EncodingKey::from_secret(&public);
    let forged = jsonwebtoken::encode(&header, &claims, &key).unwrap();
    assert_eq!(access::verify(&ring, &forged), Err(TokenError::Invalid));
}

#[test]
fn keys_rotate_without_anybody_being_logged_out() {
    let (old, new) = (pem(), pem());
    let before = ring(&old);
    let between = ring(&format!("{new}{old}"));
    let after = ring(&new);
    let early = token(&before, Duration::minutes(5));
    assert!(access::verify(&between, &early).is_ok());
    assert_eq!(access::verify(&after, &early), Err(TokenError::Invalid));
    let late = token(&between, Duration::minutes(5));
    assert!(access::verify(&after, &late).is_ok());
    assert_eq!(between.jwks()["keys"].as_array().unwrap().len(), 2);
    let claim = claim();
    let resume = resume::seal(&before, &claim, Utc::now());
    assert_eq!(resume::open(&between, &resume, Utc::now()), Some(claim));
    let turned = ring(&format!("{old}{new}"));
    assert_eq!(turned.steady().id, between.steady().id);
    let flattened = format!("{new} {old}").replace('\n', " ");
    assert_eq!(ring(&flattened).jwks(), between.jwks());
}

#[test]
fn a_shared_secret_signs_and_is_not_published() {
    let ring = secret_ring(&"s".repeat(32)).unwrap();
    assert!(access::verify(&ring, &token(&ring, Duration::minutes(5))).is_ok());
    assert_eq!(ring.jwks(), json!({"keys": []}));
    let short = secret_ring("short").unwrap();
    assert!(access::verify(&short, &token(&short, Duration::minutes(5))).is_ok());
    // One that is set but empty is none, and a key is what there should be.
    let none = secret_ring("").err().unwrap();
    assert_eq!(none.setting, "JWT_PRIVATE_KEY");
}

#[test]
fn a_key_that_is_none_stops_the_start() {
    for bad in [
        "/nowhere/key.pem",
        "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----",
        "-----BEGIN PRIVATE KEY-----",
    ] {
        let mut config = parse(&[]).unwrap();
        config.jwt_private_key = Some(bad.to_owned());
        let error = KeyRing::open(&config).err().unwrap();
        assert_eq!(error.setting, "JWT_PRIVATE_KEY", "{bad}");
    }
}

fn claim() -> ResumeClaim {
    ResumeClaim {
        user_id: UserId::generate(),
        client_id: "tab-1".parse().unwrap(),
        anonymous: true,
    }
}

#[test]
fn a_resume_token_proves_one_client_id_for_a_while() {
    let ring = ring(&pem());
    let (claim, now) = (claim(), Utc::now());
    let token = resume::seal(&ring, &claim, now);
    assert_eq!(resume::open(&ring, &token, now), Some(claim.clone()));
    let late = now + resume::LIFETIME + Duration::seconds(1);
    assert_eq!(resume::open(&ring, &token, late), None);
    let mut bytes = URL_SAFE_NO_PAD.decode(&token).unwrap();
    for at in [0, 1, 5, 20, 28, bytes.len() - 1] {
        bytes[at] ^= 1;
        let forged = URL_SAFE_NO_PAD.encode(&bytes);
        assert_eq!(resume::open(&ring, &forged, now), None, "byte {at}");
        bytes[at] ^= 1;
    }
    for bad in ["", "AAAA", &"A".repeat(500)] {
        assert_eq!(resume::open(&ring, bad, now), None, "{bad}");
    }
}

#[test]
fn secrets_are_kept_for_their_owner_alone_and_stay_the_same() {
    let folder = std::env::temp_dir().join(format!("atelier-{}", Uuid::now_v7()));
    let first = keys::keep_admin_token(&folder).unwrap();
    assert_eq!(keys::keep_admin_token(&folder).unwrap(), first);
    let files: Vec<_> = std::fs::read_dir(&folder).unwrap().flatten().collect();
    assert_eq!(files.len(), 1, "nothing is left beside it");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        let mode = files[0].metadata().unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    std::fs::remove_dir_all(folder).unwrap();
}

#[test]
fn struck_tokens_are_refused_or_say_the_same() {
    let ring = ring(&pem());
    let (token, now) = (token(&ring, Duration::minutes(5)), Utc::now());
    let issued = access::verify(&ring, &token).unwrap();
    let claim = ResumeClaim {
        user_id: UserId::generate(),
        anonymous: true,
        client_id: "tab-1".parse().unwrap(),
    };
    let sealed = resume::seal(&ring, &claim, now);
    let samples = crate::fuzz::texts(&[&token, &sealed, "a.b.c", ""]);
    crate::fuzz::strike(&samples, |input| {
        let text = &*String::from_utf8_lossy(input);
        if let Ok(principal) = access::verify(&ring, text) {
            assert_eq!(principal.user_id, issued.user_id);
        }
        if let Some(opened) = resume::open(&ring, text, now) {
            assert_eq!(opened, claim);
        }
    });
}

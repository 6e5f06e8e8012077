//! The keys that sign: Ed25519 (several, for rotation) or one shared secret, and what is derived from them.

use std::fs;
use std::io::Write;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ed25519_dalek::SigningKey;
use ed25519_dalek::pkcs8::spki::der::pem::LineEnding;
use ed25519_dalek::pkcs8::{DecodePrivateKey, EncodePrivateKey};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey};
use rand::TryRngCore;
use rand::rngs::OsRng;
use serde_json::{Value, json};
use sha2::{Digest, Sha256};
use tracing::warn;

use crate::config::{ConfigError, GatewayConfig};

/// RFC 7518, section 3.2: an HS256 key should be at least as long as the hash. A shorter one is taken, with a warning.
const SECRET_MIN_BYTES: usize = 32;
/// Most keys in a rotation.
const KEYS_MAX: usize = 8;
const SETTING: &str = "JWT_PRIVATE_KEY";
const PEM_BEGIN: &str = "-----BEGIN PRIVATE KEY-----";
const PEM_END: &str = "-----END PRIVATE KEY-----";

/// What else the keys are used for. Each use has a key of its own, so that a tag of one can never pass for another's.
#[derive(Debug, Clone, Copy)]
pub(super) enum Use {
    Resume,
    Refresh,
    File,
    Answer,
}

pub(super) struct Key {
    /// `kid`: the thumbprint of RFC 7638.
    pub id: String,
    pub encoding: EncodingKey,
    pub decoding: DecodingKey,
    /// `x` of the public key; `None` for a shared secret.
    public: Option<String>,
    resume: [u8; 32],
    refresh: [u8; 32],
    file: [u8; 32],
    answer: [u8; 32],
    callback: [u8; 32],
}

impl Key {
    /// HMAC-SHA256 under the key derived for this use.
    pub fn tag(&self, purpose: Use, message: &[u8]) -> [u8; 32] {
        self.mac(purpose, message).finalize().into_bytes().into()
    }

    /// In constant time.
    pub fn tag_matches(&self, purpose: Use, message: &[u8], tag: &[u8]) -> bool {
        self.mac(purpose, message).verify_slice(tag).is_ok()
    }

    fn mac(&self, purpose: Use, message: &[u8]) -> Hmac<Sha256> {
        let key = match purpose {
            Use::Resume => &self.resume,
            Use::Refresh => &self.refresh,
            Use::File => &self.file,
            Use::Answer => &self.answer,
        };
        let mut mac =
            <Hmac<Sha256> as Mac>::new_from_slice(key).expect("HMAC takes a key of any length");
        mac.update(message);
        mac
    }
}

/// All keys: the first signs, every one verifies.
pub(super) struct KeyRing {
    algorithm: Algorithm,
    /// Never empty.
    keys: Vec<Key>,
}

impl KeyRing {
    pub fn open(config: &GatewayConfig) -> Result<Self, ConfigError> {
        // A worker's settings are not prepared: set but empty is how compose files spell "not set".
        let set = |key: &Option<String>| key.clone().filter(|key| !key.trim().is_empty());
        match (set(&config.jwt_private_key), set(&config.jwt_secret_key)) {
            (None, Some(secret)) => Self::of_secret(secret.as_bytes()),
            (Some(text), None) => Self::of_pem(&read_pem(&text)?),
            _ => Err(ConfigError::new(
                SETTING,
                "exactly one of JWT_PRIVATE_KEY and JWT_SECRET_KEY must be set",
            )),
        }
    }

    fn of_secret(secret: &[u8]) -> Result<Self, ConfigError> {
        if secret.is_empty() {
            return Err(ConfigError::new("JWT_SECRET_KEY", "is empty"));
        }
        let id = URL_SAFE_NO_PAD.encode(&derive(secret, b"kid")[..16]);
        Ok(Self {
            algorithm: Algorithm::HS256,
            keys: vec![Key {
                id,
                encoding: EncodingKey::from_secret(secret),
                decoding: DecodingKey::from_secret(secret),
                public: None,
                resume: derive(secret, b"resume token"),
                refresh: derive(secret, b"refresh token"),
                file: derive(secret, b"file link"),
                answer: derive(secret, b"kept answer"),
                callback: derive(secret, b"callback"),
            }],
        })
    }

    fn of_pem(text: &str) -> Result<Self, ConfigError> {
        let blocks = pem_blocks(text);
        if blocks.is_empty() || blocks.len() > KEYS_MAX {
            return Err(ConfigError::new(
                SETTING,
                format!("must hold 1 to {KEYS_MAX} Ed25519 private keys (PKCS #8 PEM)"),
            ));
        }
        let keys: Vec<Key> = blocks
            .iter()
            .map(|block| ed25519(block))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            algorithm: Algorithm::EdDSA,
            keys,
        })
    }

    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    pub fn signing(&self) -> &Key {
        &self.keys[0]
    }

    /// The key that all pods choose alike, in whatever order they were given the same keys: while a rotation rolls
    /// out, two of them must still derive one successor from one token.
    pub fn steady(&self) -> &Key {
        self.keys
            .iter()
            .min_by(|a, b| a.id.cmp(&b.id))
            .unwrap_or(&self.keys[0])
    }

    /// What signs callbacks where nothing else is configured, hexadecimal; the same on every process with these keys.
    pub fn callback_secret(&self) -> String {
        hex::encode(self.steady().callback)
    }

    pub fn find(&self, id: &str) -> Option<&Key> {
        self.keys.iter().find(|key| key.id == id)
    }

    pub fn all(&self) -> &[Key] {
        &self.keys
    }

    /// RFC 7517, RFC 8037. A shared secret is nobody's to read: the set is empty then.
    pub fn jwks(&self) -> Value {
        let keys: Vec<Value> = self
            .keys
            .iter()
            .filter_map(|key| {
                let x = key.public.as_ref()?;
                Some(json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": key.id, "x": x}))
            })
            .collect();
        json!({ "keys": keys })
    }
}

/// Refuses keys that can't be read, and warns of one that can be guessed.
pub(crate) fn check(config: &GatewayConfig) -> Result<(), ConfigError> {
    KeyRing::open(config)?;
    let secret = config.jwt_secret_key.as_deref();
    if secret.is_some_and(|secret| secret.len() < SECRET_MIN_BYTES) {
        warn!(
            "JWT_SECRET_KEY has less than {SECRET_MIN_BYTES} bytes: whoever guesses it can be anybody"
        );
    }
    Ok(())
}

/// See [`KeyRing::callback_secret`].
pub(crate) fn callback_secret(config: &GatewayConfig) -> Result<String, ConfigError> {
    Ok(KeyRing::open(config)?.callback_secret())
}

fn ed25519(pem: &str) -> Result<Key, ConfigError> {
    let broken =
        |reason: String| ConfigError::new(SETTING, format!("not an Ed25519 key: {reason}"));
    let signing = SigningKey::from_pkcs8_pem(pem).map_err(|error| broken(error.to_string()))?;
    let der = signing
        .to_pkcs8_der()
        .map_err(|error| broken(error.to_string()))?;
    let x = URL_SAFE_NO_PAD.encode(signing.verifying_key().as_bytes());
    // RFC 7638: the required members only, in alphabetical order, without white space.
    let thumbprint = Sha256::digest(format!(r#"{{"crv":"Ed25519","kty":"OKP","x":"{x}"}}"#));
    Ok(Key {
        id: URL_SAFE_NO_PAD.encode(thumbprint),
        encoding: EncodingKey::from_ed_der(der.as_bytes()),
        decoding: DecodingKey::from_ed_components(&x).map_err(|error| broken(error.to_string()))?,
        public: Some(x),
        resume: derive(signing.as_bytes(), b"resume token"),
        refresh: derive(signing.as_bytes(), b"refresh token"),
        file: derive(signing.as_bytes(), b"file link"),
        answer: derive(signing.as_bytes(), b"kept answer"),
        callback: derive(signing.as_bytes(), b"callback"),
    })
}

/// HKDF-SHA256 (RFC 5869): 32 bytes for one purpose.
fn derive(secret: &[u8], purpose: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    Hkdf::<Sha256>::new(Some(b"atelier"), secret)
        .expand(purpose, &mut out)
        .expect("32 bytes are within HKDF-SHA256's limit of 8160");
    out
}

/// PEM text as it is (a line break may be written `\n`), or the files at comma-separated paths.
fn read_pem(setting: &str) -> Result<String, ConfigError> {
    if setting.contains(PEM_BEGIN) {
        return Ok(setting.replace("\\n", "\n"));
    }
    let mut text = String::new();
    for path in setting.split(',').map(str::trim).filter(|p| !p.is_empty()) {
        let file = fs::read_to_string(path)
            .map_err(|error| ConfigError::new(SETTING, format!("{path}: {error}")))?;
        text.push_str(&file);
        text.push('\n');
    }
    Ok(text)
}

fn pem_blocks(text: &str) -> Vec<String> {
    text.split(PEM_BEGIN)
        .skip(1)
        .filter_map(|rest| rest.split_once(PEM_END))
        .map(|(body, _)| {
            // Environment files flatten line breaks into spaces; PEM wants lines again.
            let body: String = body.split_whitespace().collect::<Vec<_>>().join("\n");
            format!("{PEM_BEGIN}\n{body}\n{PEM_END}\n")
        })
        .collect()
}

/// The signing key of embedded mode: made once, kept in the data folder, readable by its owner alone.
pub(crate) fn keep_signing_key(data_dir: &Path) -> Result<String, ConfigError> {
    keep(data_dir, "signing-key.pem", || {
        let key = SigningKey::from_bytes(&random()?);
        let pem = key
            .to_pkcs8_pem(LineEnding::LF)
            .map_err(|error| error.to_string())?;
        Ok(pem.to_string())
    })
}

/// The administrator's token of embedded mode, kept beside the signing key.
pub(crate) fn keep_admin_token(data_dir: &Path) -> Result<String, ConfigError> {
    keep(data_dir, "admin-token", || {
        Ok(URL_SAFE_NO_PAD.encode(random()?))
    })
}

fn random() -> Result<[u8; 32], String> {
    let mut bytes = [0; 32];
    OsRng
        .try_fill_bytes(&mut bytes)
        .map_err(|error| error.to_string())?;
    Ok(bytes)
}

/// Reads the file, or makes it whole: written beside, then linked into place, so that of two starts at once both
/// read the same secret and a crash leaves no half of one.
fn keep(
    folder: &Path,
    name: &str,
    make: impl FnOnce() -> Result<String, String>,
) -> Result<String, ConfigError> {
    let path = folder.join(name);
    let failed = |what: &dyn std::fmt::Display| {
        ConfigError::new("ATELIER_DATA_DIR", format!("{}: {what}", path.display()))
    };
    if !path.exists() {
        fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        let secret = make().map_err(|error| failed(&error))?;
        let fresh = folder.join(format!(".{name}.{}", uuid::Uuid::now_v7()));
        private_file(&fresh)
            .and_then(|mut file| {
                file.write_all(secret.as_bytes())?;
                file.sync_all()
            })
            .map_err(|error| failed(&error))?;
        let linked = fs::hard_link(&fresh, &path);
        fs::remove_file(&fresh).map_err(|error| failed(&error))?;
        if let Err(error) = linked
            && error.kind() != std::io::ErrorKind::AlreadyExists
        {
            return Err(failed(&error));
        }
    }
    let secret = fs::read_to_string(&path).map_err(|error| failed(&error))?;
    let secret = secret.trim();
    if secret.is_empty() {
        return Err(failed(&"is empty"));
    }
    Ok(secret.to_owned())
}

fn private_file(path: &Path) -> std::io::Result<fs::File> {
    let mut options = fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    {
        use std::os::unix::fs::OpenOptionsExt;
        options.mode(0o600);
    }
    options.open(path)
}

//! Passwords and tokens.
//!
//! Tokens are signed with HS256 and not, as upstream, with RS256: only the root verifies what
//! only the root signs, so a second key would be given to nobody, and RSA would take a crate with
//! an open timing advisory (RUSTSEC-2023-0071) into a network service.

mod hs256;

use std::sync::Arc;

use argon2::{
    Argon2,
    password_hash::{PasswordHash, PasswordHasher, PasswordVerifier, SaltString},
};
use jiff::Timestamp;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use rand::RngCore;
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use xylem_store::{Store, StoreError, Table};

/// Seconds for which an access token is good.
const ACCESS_SECONDS: i64 = 10 * 60;
/// Seconds for which a refresh token is good.
const REFRESH_SECONDS: i64 = 7 * 24 * 60 * 60;
/// Passwords checked at a time: each check takes 19 MB of memory, and anybody may ask for one.
const CHECKS_AT_A_TIME: usize = 4;

const SECRETS: Table<Vec<u8>> = Table::new("secrets");
const SIGNING_KEY: &str = "token_signing_key";

/// What a token is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum TokenKind {
    Access,
    Refresh,
}

/// What a token says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Claims {
    /// User name.
    pub(crate) sub: String,
    /// User id.
    pub(crate) user: String,
    pub(crate) roles: Vec<String>,
    /// Name of the organization.
    pub(crate) organization: String,
    #[serde(rename = "type")]
    pub(crate) kind: TokenKind,
    /// Seconds since 1970.
    pub(crate) iat: i64,
    /// Seconds since 1970.
    pub(crate) exp: i64,
}

/// Why a token or a password could not be made or checked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AuthError {
    #[error("the token is not valid or has expired: log in again")]
    BadToken,
    #[error("cannot sign a token")]
    Sign(#[source] jsonwebtoken::errors::Error),
    #[error("cannot hash the password: {0}")]
    Hash(argon2::password_hash::Error),
    #[error("the process is shutting down")]
    ShuttingDown,
}

/// Signs and verifies tokens, hashes and checks passwords.
#[derive(Clone)]
pub(crate) struct Auth {
    signing: EncodingKey,
    verifying: DecodingKey,
    checks: Arc<Semaphore>,
    /// Checked when there is no such user, so that the time tells nothing.
    nobody: Arc<str>,
}

impl std::fmt::Debug for Auth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Auth").finish_non_exhaustive()
    }
}

impl Auth {
    /// With the key in the store; made at the first start.
    pub(crate) fn open(store: &Store) -> Result<Self, StoreError> {
        hs256::install();
        let key = store.transact_blocking(|tx| match tx.get(SECRETS, SIGNING_KEY)? {
            Some(key) => Ok(key),
            None => {
                let mut key = vec![0; 32];
                rand::rng().fill_bytes(&mut key);
                tx.put(SECRETS, SIGNING_KEY, &key)?;
                Ok::<_, StoreError>(key)
            }
        })?;
        Ok(Self {
            signing: EncodingKey::from_secret(&key),
            verifying: DecodingKey::from_secret(&key),
            checks: Arc::new(Semaphore::new(CHECKS_AT_A_TIME)),
            nobody: hash_password("").unwrap_or_default().into(),
        })
    }

    pub(crate) fn sign(
        &self,
        kind: TokenKind,
        user_id: &str,
        name: &str,
        roles: &[String],
        organization: &str,
        now: Timestamp,
    ) -> Result<String, AuthError> {
        let lifetime = match kind {
            TokenKind::Access => ACCESS_SECONDS,
            TokenKind::Refresh => REFRESH_SECONDS,
        };
        let claims = Claims {
            sub: name.to_owned(),
            user: user_id.to_owned(),
            roles: roles.to_vec(),
            organization: organization.to_owned(),
            kind,
            iat: now.as_second(),
            exp: now.as_second() + lifetime,
        };
        jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.signing)
            .map_err(AuthError::Sign)
    }

    pub(crate) fn verify(&self, token: &str, kind: TokenKind) -> Result<Claims, AuthError> {
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let claims = jsonwebtoken::decode::<Claims>(token, &self.verifying, &validation)
            .map_err(|_| AuthError::BadToken)?
            .claims;
        if claims.kind == kind { Ok(claims) } else { Err(AuthError::BadToken) }
    }

    /// Whether the password is the one of the hash; without a hash it is not.
    pub(crate) async fn check_password(
        &self,
        password: String,
        hash: Option<String>,
    ) -> Result<bool, AuthError> {
        let _permit = self.checks.acquire().await.map_err(|_| AuthError::ShuttingDown)?;
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.nobody.to_string());
        let matches = tokio::task::spawn_blocking(move || {
            PasswordHash::new(&hash).is_ok_and(|hash| {
                Argon2::default().verify_password(password.as_bytes(), &hash).is_ok()
            })
        })
        .await
        .map_err(|_| AuthError::ShuttingDown)?;
        Ok(matches && known)
    }
}

/// Hashes a password with argon2id and a salt of its own. Takes a while and 19 MB.
pub(crate) fn hash_password(password: &str) -> Result<String, AuthError> {
    let mut salt = [0; 16];
    rand::rng().fill_bytes(&mut salt);
    let salt = SaltString::encode_b64(&salt).map_err(AuthError::Hash)?;
    Argon2::default()
        .hash_password(password.as_bytes(), &salt)
        .map(|hash| hash.to_string())
        .map_err(AuthError::Hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn auth() -> (tempfile::TempDir, Auth) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("root.redb");
        let store = Store::open(&path, crate::persist::schema()).unwrap();
        (folder, Auth::open(&store).unwrap())
    }

    fn token(auth: &Auth, kind: TokenKind, at: Timestamp) -> String {
        auth.sign(kind, "1", "Admin", &["Admin".to_owned()], "root", at).unwrap()
    }

    #[test]
    fn a_token_is_good_for_its_kind_and_time_only() {
        let (_folder, auth) = auth();
        let now = Timestamp::now();
        let access = token(&auth, TokenKind::Access, now);
        assert_eq!(auth.verify(&access, TokenKind::Access).unwrap().user, "1");
        assert!(auth.verify(&access, TokenKind::Refresh).is_err());
        let old = now - std::time::Duration::from_secs(601);
        assert!(auth.verify(&token(&auth, TokenKind::Access, old), TokenKind::Access).is_err());
        assert!(auth.verify(&token(&auth, TokenKind::Refresh, old), TokenKind::Refresh).is_ok());
    }

    #[test]
    fn a_token_of_another_key_or_without_one_is_refused() {
        let (_folder, ours) = auth();
        let (_other_folder, other) = auth();
        let now = Timestamp::now();
        assert!(ours.verify(&token(&other, TokenKind::Access, now), TokenKind::Access).is_err());
        let good = token(&ours, TokenKind::Access, now);
        let body = good.split('.').nth(1).unwrap();
        // {"alg":"RS256","typ":"JWT"}
        let other_algorithm = good.replacen(
            good.split('.').next().unwrap(),
            "eyJhbGciOiJSUzI1NiIsInR5cCI6IkpXVCJ9",
            1,
        );
        assert!(ours.verify(&other_algorithm, TokenKind::Access).is_err());
        // {"alg":"none","typ":"JWT"}
        let unsigned = format!("eyJhbGciOiJub25lIiwidHlwIjoiSldUIn0.{body}.");
        assert!(ours.verify(&unsigned, TokenKind::Access).is_err());
    }

    #[tokio::test]
    async fn a_password_is_checked_against_its_hash() {
        let (_folder, auth) = auth();
        let hash = hash_password("secret").unwrap();
        assert!(auth.check_password("secret".to_owned(), Some(hash.clone())).await.unwrap());
        assert!(!auth.check_password("Secret".to_owned(), Some(hash)).await.unwrap());
        assert!(!auth.check_password(String::new(), None).await.unwrap());
    }
}

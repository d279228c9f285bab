//! The root's REST API over HTTP: sends the session's token, renews it when it has expired, and
//! turns refusals into errors that a person can act on.

#[cfg(test)]
mod tests;

use std::{fmt, time::Duration};

use reqwest::{Method, RequestBuilder, Response, StatusCode, Url, header::CONTENT_TYPE};
use serde::de::DeserializeOwned;
use xylem_types::rest::{LoginRequest, LoginResponse, RefreshResponse, Refusal};

use crate::config::{Config, ConfigError, RootUrl, Session};

/// A root that takes longer to accept a connection is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// No request of this API works for long on the root's side: what takes time is reported by
/// status afterwards.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);
/// As much of an answer that is not ours as is shown.
const EXCERPT_CHARS: usize = 200;

#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    #[error("not logged in at {root}; run `xylem login --root {root}`")]
    NotLoggedIn { root: RootUrl },
    #[error("the session at {root} has expired; run `xylem login --root {root}`")]
    SessionExpired { root: RootUrl },
    #[error("cannot reach the root at {root}; is it running, and is --root right?")]
    Unreachable { root: RootUrl, source: reqwest::Error },
    #[error("{method} {url} was not answered in full")]
    Interrupted { method: Method, url: Url, source: reqwest::Error },
    #[error("{}", Explained(.refusal))]
    Refused { status: StatusCode, refusal: Refusal },
    #[error("the answer to {method} {url} is not one of a Xylem root; is --root right?")]
    NotUnderstood { method: Method, url: Url, source: serde_json::Error },
    #[error(transparent)]
    Config(#[from] ConfigError),
}

impl ClientError {
    /// Whether asking again later may succeed without anybody doing anything.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Unreachable { .. } | Self::Interrupted { .. } => true,
            Self::Refused { status, .. } => status.is_server_error(),
            Self::NotLoggedIn { .. }
            | Self::SessionExpired { .. }
            | Self::NotUnderstood { .. }
            | Self::Config(_) => false,
        }
    }

    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Refused { status, .. } if *status == StatusCode::NOT_FOUND)
    }
}

/// The message, and under it every field that is wrong.
struct Explained<'a>(&'a Refusal);

impl fmt::Display for Explained<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Refusal { message, errors } = self.0;
        let Some(first) = errors.first() else { return f.write_str(message) };
        // A message may have the fields in one line already: they are easier to read apart.
        let head = message.split(&first.to_string()).next().unwrap_or_default();
        f.write_str(head.trim_end_matches([':', ' ']))?;
        for error in errors {
            write!(f, "\n  {error}")?;
        }
        Ok(())
    }
}

/// A connection to one root, for the person of one configuration file.
#[derive(Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    config: Config,
    root: RootUrl,
}

impl Client {
    /// # Errors
    /// When the HTTP client cannot be set up.
    pub(crate) fn new(config: Config, root: Option<RootUrl>) -> reqwest::Result<Self> {
        // In a build of the whole workspace the client can speak TLS, because the node engine
        // needs it, and then wants to know with which cryptography. The second call finds it set.
        rustls::crypto::ring::default_provider().install_default().ok();
        let http = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(REQUEST_TIMEOUT)
            .user_agent(concat!("xylem/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let root = config.root(root);
        Ok(Self { http, config, root })
    }

    pub(crate) fn root(&self) -> &RootUrl {
        &self.root
    }

    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// Opens a session and keeps it.
    ///
    /// # Errors
    /// When the root cannot be reached or refuses, or the session cannot be kept.
    pub(crate) async fn log_in(&mut self, login: &LoginRequest) -> Result<(), ClientError> {
        let target = Target::new(Method::POST, &self.root, &["api", "auth", "login"]);
        let answer = self.exchange(&target, target.request(&self.http).json(login)).await?;
        let LoginResponse { token, refresh_token } = target.decode(answer).await?;
        let session = Session { user: login.username.clone(), token, refresh_token };
        Ok(self.config.log_in(&self.root, session)?)
    }

    /// # Errors
    /// As for all requests: the root cannot be reached, or refuses.
    pub(crate) async fn get<T: DeserializeOwned>(
        &mut self,
        path: &[&str],
    ) -> Result<T, ClientError> {
        let target = Target::new(Method::GET, &self.root, path);
        let answer = self.request(&target, None).await?;
        target.decode(answer).await
    }

    /// Sends `json` as it is: the root checks it, and says what is wrong with it.
    ///
    /// # Errors
    /// As for all requests.
    pub(crate) async fn post<T: DeserializeOwned>(
        &mut self,
        path: &[&str],
        json: Option<Vec<u8>>,
    ) -> Result<T, ClientError> {
        let target = Target::new(Method::POST, &self.root, path);
        let answer = self.request(&target, json).await?;
        target.decode(answer).await
    }

    /// # Errors
    /// As for all requests.
    pub(crate) async fn put<T: DeserializeOwned>(
        &mut self,
        path: &[&str],
        json: Vec<u8>,
    ) -> Result<T, ClientError> {
        let target = Target::new(Method::PUT, &self.root, path);
        let answer = self.request(&target, Some(json)).await?;
        target.decode(answer).await
    }

    /// # Errors
    /// As for all requests.
    pub(crate) async fn delete(&mut self, path: &[&str]) -> Result<(), ClientError> {
        let target = Target::new(Method::DELETE, &self.root, path);
        self.request(&target, None).await.map(drop)
    }

    /// Sends the request with the session's token; if that has expired, once more with a new one.
    async fn request(
        &mut self,
        target: &Target,
        json: Option<Vec<u8>>,
    ) -> Result<Response, ClientError> {
        let Some(session) = self.config.session(&self.root) else {
            return Err(ClientError::NotLoggedIn { root: self.root.clone() });
        };
        let request = |token: &str| {
            let request = target.request(&self.http).bearer_auth(token);
            match &json {
                Some(json) => request.header(CONTENT_TYPE, "application/json").body(json.clone()),
                None => request,
            }
        };
        let first = self.exchange(target, request(&session.token)).await;
        let Err(ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. }) = first else {
            return first;
        };
        let renewed = Session { token: self.renewed_token(session).await?, ..session.clone() };
        let request = request(&renewed.token);
        // Before the request, so that one that changed something is not reported as failed.
        self.config.keep(&self.root, renewed)?;
        self.exchange(target, request).await
    }

    async fn renewed_token(&self, session: &Session) -> Result<String, ClientError> {
        let target = Target::new(Method::POST, &self.root, &["api", "auth", "refresh"]);
        let request = target.request(&self.http).bearer_auth(&session.refresh_token);
        match self.exchange(&target, request).await {
            Ok(answer) => Ok(target.decode::<RefreshResponse>(answer).await?.token),
            Err(ClientError::Refused { status, .. }) if status.is_client_error() => {
                Err(ClientError::SessionExpired { root: self.root.clone() })
            }
            Err(error) => Err(error),
        }
    }

    /// Sends and waits for the head of the answer; an answer that is no success is an error.
    async fn exchange(
        &self,
        target: &Target,
        request: RequestBuilder,
    ) -> Result<Response, ClientError> {
        let answer = request.send().await.map_err(|source| {
            if source.is_connect() {
                // The root is already in our message.
                let source = source.without_url();
                ClientError::Unreachable { root: self.root.clone(), source }
            } else {
                target.interrupted(source)
            }
        })?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let body = answer.bytes().await.map_err(|source| target.interrupted(source))?;
        let refusal = serde_json::from_slice(&body).unwrap_or_else(|_| foreign(target, &body));
        let refusal = if refusal.message.is_empty() {
            Refusal { message: format!("{} {}: {status}", target.method, target.url), ..refusal }
        } else {
            refusal
        };
        Err(ClientError::Refused { status, refusal })
    }
}

/// What somebody between us and the root, or in its place, says.
fn foreign(target: &Target, body: &[u8]) -> Refusal {
    let text = String::from_utf8_lossy(body);
    let excerpt: String =
        text.chars().map(|c| if c.is_control() { ' ' } else { c }).take(EXCERPT_CHARS).collect();
    let message = match excerpt.trim() {
        "" => String::new(),
        excerpt => format!("{} {}: {excerpt}", target.method, target.url),
    };
    Refusal { message, errors: Vec::new() }
}

/// Where a request goes: for the request itself and for what is said if it fails.
struct Target {
    method: Method,
    url: Url,
}

impl Target {
    fn new(method: Method, root: &RootUrl, path: &[&str]) -> Self {
        Self { method, url: root.join(path.iter().copied()) }
    }

    fn request(&self, http: &reqwest::Client) -> RequestBuilder {
        http.request(self.method.clone(), self.url.clone())
    }

    async fn decode<T: DeserializeOwned>(&self, answer: Response) -> Result<T, ClientError> {
        let body = answer.bytes().await.map_err(|source| self.interrupted(source))?;
        serde_json::from_slice(&body).map_err(|source| ClientError::NotUnderstood {
            method: self.method.clone(),
            url: self.url.clone(),
            source,
        })
    }

    fn interrupted(&self, source: reqwest::Error) -> ClientError {
        ClientError::Interrupted {
            method: self.method.clone(),
            url: self.url.clone(),
            // The URL is already in our message.
            source: source.without_url(),
        }
    }
}

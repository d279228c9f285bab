//! Images from a registry.

use std::{
    collections::HashSet,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use futures::TryStreamExt;
use oci_client::{
    Client, Reference,
    client::{ClientConfig, ClientProtocol},
    errors::OciDistributionError,
    manifest::{
        IMAGE_MANIFEST_LIST_MEDIA_TYPE, IMAGE_MANIFEST_MEDIA_TYPE, OCI_IMAGE_INDEX_MEDIA_TYPE,
        OCI_IMAGE_MEDIA_TYPE,
    },
    secrets::RegistryAuth,
};
use oci_spec::image::{Descriptor, Digest};
use tokio_util::io::StreamReader;

use super::blob::Content;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A transfer that brings nothing for this long is given up.
const READ_TIMEOUT: Duration = Duration::from_secs(30);

const MANIFEST_TYPES: &[&str] = &[
    OCI_IMAGE_MEDIA_TYPE,
    OCI_IMAGE_INDEX_MEDIA_TYPE,
    IMAGE_MANIFEST_MEDIA_TYPE,
    IMAGE_MANIFEST_LIST_MEDIA_TYPE,
];

/// How registries are spoken to.
#[derive(Clone, Debug, Default)]
pub struct RegistryOptions {
    /// `host` or `host:port` of registries that speak plain HTTP; those on this machine do anyway.
    pub insecure: Vec<String>,
    /// Whether a registry named with a port may be asked over plain HTTP when it does not speak
    /// TLS.
    pub plain_http_fallback: bool,
}

/// Client of all registries. Pulls are anonymous.
pub struct Registries {
    https: Client,
    http: Client,
    options: RegistryOptions,
    /// Registries that were found to speak plain HTTP only.
    fallen_back: Mutex<HashSet<String>>,
}

impl std::fmt::Debug for Registries {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Registries").field("options", &self.options).finish_non_exhaustive()
    }
}

#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    #[error("cannot set up the registry client")]
    Client(#[source] Box<OciDistributionError>),
    #[error("registry {registry} cannot be reached")]
    Unreachable {
        registry: String,
        #[source]
        source: Box<OciDistributionError>,
    },
    #[error("registry {registry} has no {what}")]
    NotFound { registry: String, what: String },
    #[error("registry {registry} refuses access to {what}; only public images can be pulled")]
    Unauthorized { registry: String, what: String },
    #[error("registry {registry} does not give {what}")]
    Failed {
        registry: String,
        what: String,
        #[source]
        source: Box<OciDistributionError>,
    },
}

impl RegistryError {
    /// Whether nothing was heard of the registry at all.
    pub fn is_unreachable(&self) -> bool {
        matches!(self, Self::Unreachable { .. })
    }
}

impl Registries {
    /// # Errors
    /// When the TLS client cannot be made (no root certificates on the machine).
    pub fn new(options: RegistryOptions) -> Result<Self, RegistryError> {
        let client = |protocol| {
            let config = ClientConfig {
                protocol,
                connect_timeout: Some(CONNECT_TIMEOUT),
                read_timeout: Some(READ_TIMEOUT),
                user_agent: concat!("xylem-node-engine/", env!("CARGO_PKG_VERSION")),
                ..ClientConfig::default()
            };
            Client::try_from(config).map_err(|source| RegistryError::Client(Box::new(source)))
        };
        Ok(Self {
            https: client(ClientProtocol::Https)?,
            http: client(ClientProtocol::Http)?,
            options,
            fallen_back: Mutex::default(),
        })
    }

    /// The manifest or index that `image` names, as it is.
    ///
    /// # Errors
    /// When the registry does not answer or does not have it.
    pub async fn manifest(&self, image: &Reference) -> Result<Vec<u8>, RegistryError> {
        let pull = |client: Client| async move {
            client.pull_manifest_raw(image, &RegistryAuth::Anonymous, MANIFEST_TYPES).await
        };
        let (bytes, _) = self.ask(image, &image.whole(), pull).await?;
        Ok(bytes.into())
    }

    /// The manifest of that digest in the repository of `image`.
    ///
    /// # Errors
    /// As [`Self::manifest`].
    pub async fn manifest_by_digest(
        &self,
        image: &Reference,
        digest: &Digest,
    ) -> Result<Vec<u8>, RegistryError> {
        self.manifest(&image.clone_with_digest(digest.to_string())).await
    }

    /// The content of a blob as it arrives, not yet verified.
    ///
    /// # Errors
    /// When the registry does not answer or does not have it.
    pub async fn blob(
        &self,
        image: &Reference,
        blob: &Descriptor,
    ) -> Result<Content, RegistryError> {
        let digest = blob.digest().to_string();
        let what = format!("blob {digest} of {image}");
        let digest = digest.as_str();
        let open = |client: Client| async move { client.pull_blob_stream(image, digest).await };
        let sized = self.ask(image, &what, open).await?;
        Ok(Box::new(StreamReader::new(sized.stream.map_err(with_causes))))
    }

    /// Asks over HTTPS or, where that is allowed, plain HTTP.
    async fn ask<T, F: Future<Output = Result<T, OciDistributionError>> + Send>(
        &self,
        image: &Reference,
        what: &str,
        request: impl Fn(Client) -> F + Send,
    ) -> Result<T, RegistryError> {
        let registry = image.resolve_registry();
        if self.speaks_plain_http(registry) {
            return request(self.http.clone()).await.map_err(|e| explain(registry, what, e));
        }
        let over_tls = match request(self.https.clone()).await {
            Err(error) if is_unreachable(&error) && self.may_fall_back(registry) => error,
            result => return result.map_err(|e| explain(registry, what, e)),
        };
        match request(self.http.clone()).await {
            // Whatever answers there, it is not a registry: the first error is the telling one.
            Err(error) if !matches!(error, OciDistributionError::RegistryError { .. }) => {
                Err(explain(registry, what, over_tls))
            }
            result => {
                tracing::warn!(registry, "registry does not speak tls, plain http is used");
                let mut known = self.fallen_back.lock().unwrap_or_else(PoisonError::into_inner);
                known.insert(registry.to_owned());
                result.map_err(|e| explain(registry, what, e))
            }
        }
    }

    fn speaks_plain_http(&self, registry: &str) -> bool {
        is_this_machine(registry)
            || self.options.insecure.iter().any(|insecure| insecure == registry)
            || self.fallen_back.lock().unwrap_or_else(PoisonError::into_inner).contains(registry)
    }

    fn may_fall_back(&self, registry: &str) -> bool {
        self.options.plain_http_fallback && split_port(registry).1.is_some()
    }
}

/// `host:port` or `host`; an IPv6 host is in brackets.
fn split_port(registry: &str) -> (&str, Option<&str>) {
    match registry.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, Some(port)),
        _ => (registry, None),
    }
}

fn is_this_machine(registry: &str) -> bool {
    let (host, _) = split_port(registry);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost"
        || address.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

fn is_unreachable(error: &OciDistributionError) -> bool {
    matches!(error, OciDistributionError::RequestError(e) if e.is_connect() || e.is_timeout())
}

fn explain(registry: &str, what: &str, error: OciDistributionError) -> RegistryError {
    use oci_client::errors::OciErrorCode as Code;
    let (registry, what) = (registry.to_owned(), what.to_owned());
    match error {
        error if is_unreachable(&error) => {
            RegistryError::Unreachable { registry, source: Box::new(error) }
        }
        OciDistributionError::RegistryError { envelope, .. }
            if envelope.errors.iter().any(|e| {
                matches!(
                    e.code,
                    Code::ManifestUnknown | Code::NameUnknown | Code::BlobUnknown | Code::NotFound
                )
            }) =>
        {
            RegistryError::NotFound { registry, what }
        }
        OciDistributionError::ImageManifestNotFoundError(_)
        | OciDistributionError::ServerError { code: 404, .. } => {
            RegistryError::NotFound { registry, what }
        }
        OciDistributionError::UnauthorizedError { .. }
        | OciDistributionError::AuthenticationFailure(_)
        | OciDistributionError::ServerError { code: 401 | 403, .. } => {
            RegistryError::Unauthorized { registry, what }
        }
        source => RegistryError::Failed { registry, what, source: Box::new(source) },
    }
}

/// An I/O error of the stream says only that the body could not be read; why is in its sources.
fn with_causes(error: std::io::Error) -> std::io::Error {
    let mut text = error.to_string();
    let mut source = error.get_ref().and_then(|inner| inner.source());
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    std::io::Error::new(error.kind(), text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn registries_on_this_machine_speak_plain_http() {
        for (registry, local) in [
            ("localhost:5000", true),
            ("localhost", true),
            ("127.0.0.1:5000", true),
            ("127.9.9.9", true),
            ("[::1]:5000", true),
            ("localhost.example.com", false),
            ("192.0.2.1:5000", false),
            ("docker.io", false),
        ] {
            assert_eq!(is_this_machine(registry), local, "{registry}");
        }
    }

    #[test]
    fn only_a_registry_named_with_a_port_may_fall_back() {
        for (registry, port) in
            [("a.example:5000", Some("5000")), ("a.example", None), ("[::1]", None)]
        {
            assert_eq!(split_port(registry).1, port, "{registry}");
        }
    }
}

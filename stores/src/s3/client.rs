//! One SDK client per region: its own connections, trust, signatures and limits; no retries of its own.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_runtime::auth::PayloadSigningOverride;
use aws_sdk_s3::config::interceptors::{
    AfterDeserializationInterceptorContextRef, BeforeDeserializationInterceptorContextMut,
    BeforeDeserializationInterceptorContextRef, BeforeTransmitInterceptorContextMut,
};
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::{
    BehaviorVersion, Builder, ConfigBag, IdentityCache, Intercept, Region, RequestChecksumCalculation,
    ResponseChecksumValidation, RuntimeComponents, SharedHttpClient, StalledStreamProtectionConfig,
};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::{Client, Config};
use aws_smithy_types::body::SdkBody;
use aws_smithy_types::date_time::Format;
use bytes::Bytes;
use lifeboat_vocabulary::{Sha256Digest, UtcTime};
use parking_lot::Mutex;
use rustls::RootCertStore;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject;
use tokio::io::AsyncReadExt;

use crate::error::StoreError;
use crate::profile::{Addressing, Profile};
use crate::s3::answer::{AnswerForm, Asked};
use crate::s3::credentials::{self, Identity};
use crate::s3::http1;
use crate::s3::moving_body::{Carries, Incoming, Outgoing};
use crate::settings::RegionSettings;
use crate::store::SealedBody;
use crate::transfer::Transfer;
use crate::url::Transport;

const CA_FILE_BYTES_MAX: u64 = 1 << 20;

/// Makes the configuration of a region's client. Nothing is taken from the environment except what the settings leave to
/// the SDK's chains: credentials, and the region of a profile that has none.
///
/// # Errors
/// [`StoreError::Misconfigured`] if a file is missing or of no use, or nobody says which region to sign for.
pub(crate) async fn configured(
    settings: &RegionSettings,
    profile: &Profile,
    http: SharedHttpClient,
) -> Result<Config, StoreError> {
    // Pinned: a newer version changes retries, time-outs and checksums under our feet.
    let version = BehaviorVersion::v2026_01_12();
    let Identity { provider, region } = credentials::identity(settings, version).await?;
    let named = settings.s3_region.clone().or_else(|| profile.default_region.clone()).map(Region::new);
    let region = named.or(region).ok_or_else(|| StoreError::Misconfigured {
        doing: format!("find the S3 region of region {}", settings.name),
        advice: "set s3_region, such as eu-central-1".to_owned(),
        source: "neither the settings nor AWS_REGION nor the AWS files name one".into(),
    })?;
    let mut config = Builder::new()
        .behavior_version(version)
        .http_client(http)
        .credentials_provider(provider)
        .region(region)
        .force_path_style(profile.addressing == Addressing::Path)
        // One layer retries: ours, which knows deadlines, breakers and what a lost answer means.
        .retry_config(RetryConfig::standard().with_max_attempts(1))
        // Explicitly, or the environment could switch on headers that many servers refuse.
        .request_checksum_calculation(RequestChecksumCalculation::WhenRequired)
        .response_checksum_validation(ResponseChecksumValidation::WhenRequired)
        // It goes by the system's clock, which people set. What moves is watched here: `transfer`, `moving_body`.
        .stalled_stream_protection(StalledStreamProtectionConfig::disabled())
        .disable_s3_express_session_auth(true)
        .disable_multi_region_access_points(true);
    if let Some(endpoint) = &settings.endpoint {
        config = config.endpoint_url(endpoint.as_str());
    }
    Ok(config.build())
}

/// A client with an empty cache of credentials.
pub(crate) fn fresh(config: &Config) -> Client {
    Client::from_conf(config.to_builder().identity_cache(IdentityCache::lazy().build()).build())
}

/// HTTP over the network, as the settings ask for it.
///
/// # Errors
/// [`StoreError::Misconfigured`] if `ca_file` is missing or of no use.
pub(crate) async fn http_client(settings: &RegionSettings) -> Result<SharedHttpClient, StoreError> {
    let plain = settings.endpoint.as_ref().is_some_and(|endpoint| endpoint.transport() == Transport::Plain);
    let roots = match &settings.ca_file {
        Some(path) => {
            let doing = format!("read certificate authorities from {}", path.display());
            certificates(path).await.map_err(|source| StoreError::Misconfigured {
                doing,
                advice: "ca_file must name a readable file with certificates in PEM form".to_owned(),
                source,
            })?
        }
        None if plain => RootCertStore::empty(),
        None => authorities_of_the_system().await.map_err(|source| StoreError::Misconfigured {
            doing: "read the certificate authorities of this system".to_owned(),
            advice: "install them (ca-certificates), or set ca_file".to_owned(),
            source,
        })?,
    };
    http1::client(roots).map_err(|source| StoreError::Misconfigured {
        doing: "prepare TLS".to_owned(),
        advice: "reinstall this program".to_owned(),
        source: source.into(),
    })
}

async fn authorities_of_the_system() -> Result<RootCertStore, crate::error::Cause> {
    let found = tokio::task::spawn_blocking(rustls_native_certs::load_native_certs).await?;
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    match found.errors.into_iter().next() {
        _ if !roots.is_empty() => Ok(roots),
        Some(error) => Err(error.into()),
        None => Err("there are none".into()),
    }
}

async fn certificates(path: &std::path::Path) -> Result<RootCertStore, crate::error::Cause> {
    let mut pem = Vec::new();
    tokio::fs::File::open(path).await?.take(CA_FILE_BYTES_MAX + 1).read_to_end(&mut pem).await?;
    if pem.len() as u64 > CA_FILE_BYTES_MAX {
        return Err("the file is larger than 1 MiB".into());
    }
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        roots.add(certificate?)?;
    }
    if roots.is_empty() { Err("the file holds no certificate".into()) } else { Ok(roots) }
}

/// Sits in one call: gives the signer the hash that we already have, adds the profile's headers, notes the server's clock, and sees
/// how the bodies move.
#[derive(Clone, Debug)]
pub(crate) struct Watch {
    payload: Option<Sha256Digest>,
    /// The body, if it has a hash. The buffer is shared.
    body: Bytes,
    transfer: Arc<Transfer>,
    asked: Asked,
    headers: Arc<BTreeMap<String, String>>,
    server_time: Arc<Mutex<Option<UtcTime>>>,
    form: Arc<Mutex<AnswerForm>>,
}

impl Watch {
    pub(crate) fn new(headers: &Arc<BTreeMap<String, String>>, asked: Asked, payload: Option<SealedBody>) -> Self {
        let transfer = Transfer::begin();
        let (payload, body) = payload.map(|sealed| (sealed.sha256, sealed.bytes)).unzip();
        let body = body.unwrap_or_default();
        if body.is_empty() {
            transfer.sent();
        }
        let headers = Arc::clone(headers);
        Self { payload, body, transfer, asked, headers, server_time: Arc::default(), form: Arc::default() }
    }

    /// How the request gets on.
    pub(crate) fn transfer(&self) -> &Arc<Transfer> {
        &self.transfer
    }

    /// Why the answer is none that S3 gives, if it is not.
    pub(crate) fn fault(&self) -> Option<String> {
        self.form.lock().fault(self.asked)
    }

    /// The `Date` of the answer, once there is one.
    pub(crate) fn server_time(&self) -> Option<UtcTime> {
        *self.server_time.lock()
    }
}

impl Intercept for Watch {
    fn name(&self) -> &'static str {
        "Watch"
    }

    fn modify_before_signing(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        for (name, value) in self.headers.iter() {
            context.request_mut().headers_mut().try_insert(name.clone(), value.clone())?;
        }
        if let Some(digest) = self.payload {
            // The server compares this with the body before it publishes the object: an end-to-end check that needs no
            // checksum feature, and no second pass over the bytes here.
            config.interceptor_state().store_put(PayloadSigningOverride::Precomputed(digest.to_string()));
        }
        Ok(())
    }

    fn modify_before_transmit(
        &self,
        context: &mut BeforeTransmitInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        // Only now, when it is signed: a body in pieces would be signed and encoded in pieces.
        if !self.body.is_empty() {
            *context.request_mut().body_mut() = Outgoing::body(self.body.clone(), Arc::clone(&self.transfer));
        }
        Ok(())
    }

    fn modify_before_deserialization(
        &self,
        context: &mut BeforeDeserializationInterceptorContextMut<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.transfer.came(0);
        let body = std::mem::replace(context.response_mut().body_mut(), SdkBody::taken());
        let transfer = Arc::clone(&self.transfer);
        let is_object = self.asked == Asked::Get && context.response().status().is_success();
        let carries = if is_object { Carries::Object } else { Carries::Document };
        *context.response_mut().body_mut() =
            body.map_preserve_contents(move |body| Incoming::body(body, Arc::clone(&transfer), carries));
        Ok(())
    }

    fn read_before_deserialization(
        &self,
        context: &BeforeDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let response = context.response();
        let header = |name| response.headers().get(name);
        *self.server_time.lock() = header("date").and_then(http_date);
        *self.form.lock() = AnswerForm {
            status: response.status().as_u16(),
            content_type: header("content-type").map(str::to_owned),
            etag: header("etag").map(str::to_owned),
            has_modified: header("last-modified").is_some(),
            body: None,
        };
        Ok(())
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _config: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        self.form.lock().body = context.response().body().bytes().map(<[u8]>::len);
        Ok(())
    }
}

/// `Fri, 20 Nov 2026 02:41:07 GMT`. Source: RFC 9110 section 5.6.7.
fn http_date(text: &str) -> Option<UtcTime> {
    let date = aws_smithy_types::DateTime::from_str(text, Format::HttpDate).ok()?;
    UtcTime::from_unix_micros(date.secs().checked_mul(1_000_000)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn the_servers_clock_is_read_from_an_http_date_and_nothing_else() {
        assert_eq!(http_date("Fri, 20 Nov 2026 02:41:07 GMT"), Some("2026-11-20T02:41:07Z".parse().unwrap()));
        for text in ["", "yesterday", "2026-11-20T02:41:07Z"] {
            assert_eq!(http_date(text), None, "{text}");
        }
    }

    #[tokio::test]
    async fn a_file_without_usable_certificates_is_refused() {
        for content in ["", "no pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"] {
            let mut file = tempfile::NamedTempFile::new().unwrap();
            file.write_all(content.as_bytes()).unwrap();
            assert!(certificates(file.path()).await.is_err(), "{content:?}");
        }
        assert!(certificates(std::path::Path::new("/nonexistent/ca.pem")).await.is_err());
    }
}

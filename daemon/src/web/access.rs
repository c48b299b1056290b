//! Who may ask: a bearer token (RFC 6750 section 2.1), and TLS.

use std::sync::Arc;

use anyhow::Context;
use hyper::HeaderMap;
use hyper::header::AUTHORIZATION;
use lifeboat_config::{Environment, HttpSettings};
use lifeboat_vocabulary::Secret;
use rustls::ServerConfig;
use rustls::crypto::aws_lc_rs;
use rustls::version::{TLS12, TLS13};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use subtle::ConstantTimeEq;
use tokio_rustls::TlsAcceptor;

/// Shorter ones can be guessed.
const TOKEN_BYTES_MIN: usize = 16;

/// What a request must show.
#[derive(Debug)]
pub(crate) struct Access {
    token: Option<Secret<String>>,
}

impl Access {
    /// Reads the token, if one is asked for.
    pub(crate) fn read(settings: &HttpSettings, environment: &Environment) -> anyhow::Result<Self> {
        let Some(token) = &settings.token else { return Ok(Self { token: None }) };
        let text = token.load(environment).context("read the token for http")?;
        let token = Secret::new(text.expose().trim().to_owned());
        let length = token.expose().len();
        anyhow::ensure!(length >= TOKEN_BYTES_MIN, "the token for http has {length} bytes; give it at least 16");
        Ok(Self { token: Some(token) })
    }

    /// Whether a request may be answered. Takes the same time for every wrong token of the right length.
    pub(crate) fn allows(&self, headers: &HeaderMap) -> bool {
        let Some(token) = &self.token else { return true };
        let mut given = headers.get_all(AUTHORIZATION).iter();
        let (Some(only), None) = (given.next(), given.next()) else { return false };
        let Some((scheme, shown)) = only.as_bytes().split_at_checked("bearer ".len()) else { return false };
        scheme.eq_ignore_ascii_case(b"bearer ") && bool::from(shown.ct_eq(token.expose().as_bytes()))
    }
}

/// TLS with the configured certificate, if there is one. Read anew whenever the server begins.
pub(crate) fn tls(settings: &HttpSettings, environment: &Environment) -> anyhow::Result<Option<TlsAcceptor>> {
    let Some(files) = &settings.tls else { return Ok(None) };
    let path = files.certificate.display();
    let chain: Vec<_> = CertificateDer::pem_file_iter(&files.certificate)
        .and_then(Iterator::collect)
        .with_context(|| format!("read the certificate {path}"))?;
    anyhow::ensure!(!chain.is_empty(), "there is no certificate in {path} (PEM is expected)");
    let key = files.key.load(environment).context("read the key of the certificate")?;
    // What the parser says may show parts of the key.
    let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
        .map_err(|_| anyhow::anyhow!("there is no private key for {path} (PEM without a passphrase is expected)"))?;
    let mut config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_protocol_versions(&[&TLS13, &TLS12])
        .context("set up TLS")?
        .with_no_client_auth()
        .with_single_cert(chain, key)
        .with_context(|| format!("use the certificate {path} with its key"))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Some(TlsAcceptor::from(Arc::new(config))))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(token: Option<&str>, given: &[&str]) -> bool {
        let access = Access { token: token.map(|token| Secret::new(token.to_owned())) };
        let mut headers = HeaderMap::new();
        for value in given {
            headers.append(AUTHORIZATION, value.parse().unwrap());
        }
        access.allows(&headers)
    }

    #[test]
    fn only_the_very_token_opens() {
        let token = Some("correct-horse-battery");
        for (why, given, allowed) in [
            ("the token", vec!["Bearer correct-horse-battery"], true),
            ("schemes have no case", vec!["bearer correct-horse-battery"], true),
            ("nothing", vec![], false),
            ("another", vec!["Bearer correct-horse-batterx"], false),
            ("a part of it", vec!["Bearer correct-horse"], false),
            ("more than it", vec!["Bearer correct-horse-battery-staple"], false),
            ("no scheme", vec!["correct-horse-battery"], false),
            ("another scheme", vec!["Basic correct-horse-battery"], false),
            ("an empty one", vec!["Bearer "], false),
            ("two of them", vec!["Bearer correct-horse-battery", "Bearer x"], false),
        ] {
            assert_eq!(allows(token, &given), allowed, "{why}");
        }
        assert!(allows(None, &[]), "where none is asked for, none is needed");
    }

    #[test]
    fn a_token_never_prints() {
        let access = Access { token: Some(Secret::new("correct-horse-battery".to_owned())) };
        assert!(!format!("{access:?}").contains("horse"));
    }
}

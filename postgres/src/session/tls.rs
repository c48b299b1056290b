//! TLS towards a server: whom to trust, and how to show who we are.

use std::path::Path;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};

use crate::session::error::TlsError;
use crate::session::settings::{OldestTls, ServerNameIndication, TlsSettings};
use crate::session::settings_words::{SslMode, SslNegotiation};
use crate::session::surroundings::{MayRead, read_bounded, read_secret};

/// The protocol's name in the handshake (ALPN), which `sslnegotiation=direct` needs. Source: IANA registry of ALPN ids.
pub(crate) const ALPN: &[u8] = b"postgresql";

/// Makes the configuration for one attempt. Files are read each time, so that renewed certificates need no restart.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let verifier = Arc::new(PeerCheck::new(settings, &provider)?);
    let versions: &[_] = match settings.oldest {
        OldestTls::V12 => &[&version::TLS13, &version::TLS12],
        OldestTls::V13 => &[&version::TLS13],
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match &settings.identity {
        Some((certificate, key)) => {
            builder.with_client_auth_cert(certificates("certificate", certificate)?, private_key(key)?)?
        }
        None => builder.with_no_client_auth(),
    };
    config.enable_sni = settings.server_name == ServerNameIndication::Send;
    if settings.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![ALPN.to_vec()];
    }
    // Every session reads its files anew, so that there is nothing to resume.
    config.resumption = rustls::client::Resumption::disabled();
    Ok(Arc::new(config))
}

/// The name that the server's certificate must have. A name that cannot stand in a certificate is only let through where
/// nobody compares it.
pub(crate) fn server_name(host: &str, mode: SslMode, peer: std::net::IpAddr) -> Result<ServerName<'static>, TlsError> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if mode != SslMode::VerifyFull => Ok(ServerName::from(peer)),
        Err(_) => Err(TlsError::Settings("`sslmode=verify-full` needs a host name that can stand in a certificate")),
    }
}

fn file_error(what: &'static str, path: &Path, why: &dyn ToString) -> TlsError {
    TlsError::File { what, path: path.display().to_string(), why: why.to_string() }
}

fn certificates(what: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let pem = read_bounded(path).map_err(|error| file_error(what, path, &error))?;
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
    match found {
        Ok(list) if !list.is_empty() => Ok(list),
        Ok(_) => Err(file_error(what, path, &"there is no certificate in it (PEM is expected)")),
        Err(error) => Err(file_error(what, path, &error)),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>, TlsError> {
    let pem = read_secret(path, MayRead::GroupOfRoot).map_err(|error| file_error("key", path, &error))?;
    let pem = lifeboat_vocabulary::Secret::new(pem);
    PrivateKeyDer::from_pem_slice(pem.expose())
        .map_err(|_| file_error("key", path, &"there is no private key in it (PEM without a passphrase is expected)"))
}

/// What is compared with a known authority.
#[derive(Debug)]
enum Trust {
    /// Nothing: encryption against listeners only.
    Anyone,
    /// The certificate's signatures.
    Signed(Authorities),
    /// And the host's name.
    SignedAndNamed(Authorities),
}

/// Those whose signature counts.
#[derive(Debug)]
struct Authorities {
    roots: RootCertStore,
    /// The very certificates in the file: a server may show one of them as its own, as it does when it signed itself.
    listed: Vec<CertificateDer<'static>>,
}

/// Judges a server's certificate as `sslmode` asks. Whatever the mode, the server must prove that the certificate is its own:
/// channel binding rests on it.
#[derive(Debug)]
struct PeerCheck {
    trust: Trust,
    provider: Arc<CryptoProvider>,
}

impl PeerCheck {
    fn new(settings: &TlsSettings, provider: &Arc<CryptoProvider>) -> Result<Self, TlsError> {
        let trust = match (settings.mode, settings.root.as_deref()) {
            (SslMode::VerifyCa | SslMode::VerifyFull, None) => {
                return Err(TlsError::Settings("`sslmode` asks to verify the server, and no `sslrootcert` is given"));
            }
            (SslMode::VerifyFull, Some(root)) => Trust::SignedAndNamed(Authorities::read(root)?),
            // As libpq does: a `require` with an authority at hand is a `verify-ca`.
            (SslMode::VerifyCa | SslMode::Require, Some(root)) => Trust::Signed(Authorities::read(root)?),
            // Modes that would go on unencrypted gain nothing from being strict here.
            (SslMode::Disable | SslMode::Allow | SslMode::Prefer, _) | (SslMode::Require, None) => Trust::Anyone,
        };
        Ok(Self { trust, provider: Arc::clone(provider) })
    }
}

impl Authorities {
    fn read(path: &Path) -> Result<Self, TlsError> {
        const WHAT: &str = "certificates of authorities";
        let system = path.as_os_str() == "system";
        let listed = if system { system_certificates()? } else { certificates(WHAT, path)? };
        let mut roots = RootCertStore::empty();
        let (usable, _unusable) = roots.add_parsable_certificates(listed.iter().cloned());
        if usable == 0 {
            return Err(file_error(WHAT, path, &"none of them can be used (X.509 version 3 is expected)"));
        }
        Ok(Self { roots, listed: if system { Vec::new() } else { listed } })
    }
}

fn system_certificates() -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let found = rustls_native_certs::load_native_certs();
    if found.certs.is_empty() {
        let why = found.errors.first().map_or_else(|| "there are none".to_owned(), ToString::to_string);
        return Err(file_error("certificates of the system's authorities", Path::new("system"), &why));
    }
    Ok(found.certs)
}

impl ServerCertVerifier for PeerCheck {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let authorities = match &self.trust {
            Trust::Anyone => return Ok(ServerCertVerified::assertion()),
            Trust::Signed(authorities) | Trust::SignedAndNamed(authorities) => authorities,
        };
        let certificate = ParsedCertificate::try_from(end_entity)?;
        if !authorities.listed.iter().any(|listed| listed == end_entity) {
            let algorithms = self.provider.signature_verification_algorithms.all;
            verify_server_cert_signed_by_trust_anchor(
                &certificate,
                &authorities.roots,
                intermediates,
                now,
                algorithms,
            )?;
        }
        if matches!(self.trust, Trust::SignedAndNamed(_)) {
            verify_server_name(&certificate, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

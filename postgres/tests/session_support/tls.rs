//! Certificates, and servers that show them.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use lifeboat_testkit::{PgServer, scratch_dir};
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, SignatureAlgorithm,
};

/// A certificate (chain) and its key, PEM.
pub struct Identity {
    pub cert: String,
    pub key: String,
}

/// An authority that signs for tests.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    pub pem: String,
}

impl Authority {
    pub fn new(name: &str) -> Self {
        Self::named(name, &[])
    }

    /// An authority that is also a server with these names, as servers are that sign their own certificate.
    pub fn named(name: &str, names: &[&str]) -> Self {
        Self::make(name, names, &rcgen::PKCS_ECDSA_P256_SHA256)
    }

    /// An authority whose signatures use `algorithm`.
    pub fn with(name: &str, algorithm: &'static SignatureAlgorithm) -> Self {
        Self::make(name, &[], algorithm)
    }

    fn make(name: &str, names: &[&str], algorithm: &'static SignatureAlgorithm) -> Self {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        let mut params = CertificateParams::new(names).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, name);
        let key = KeyPair::generate_for(algorithm).unwrap();
        let pem = params.self_signed(&key).unwrap().pem();
        Self { issuer: Issuer::new(params, key), pem }
    }

    /// The authority's own certificate.
    pub fn identity(&self) -> Identity {
        Identity { cert: self.pem.clone(), key: self.issuer.key().serialize_pem() }
    }

    /// A certificate for a server with these names and addresses.
    pub fn server(&self, names: &[&str]) -> Identity {
        let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
        self.sign(CertificateParams::new(names).unwrap())
    }

    /// A certificate for a client, whose common name is a role.
    pub fn client(&self, role: &str) -> Identity {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, role);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ClientAuth];
        self.sign(params)
    }

    fn sign(&self, params: CertificateParams) -> Identity {
        let key = KeyPair::generate().unwrap();
        let cert = params.signed_by(&key, &self.issuer).unwrap().pem();
        Identity { cert, key: key.serialize_pem() }
    }
}

/// Files of a client: certificates, keys, password files.
pub struct Files(tempfile::TempDir);

impl Files {
    pub fn new() -> Self {
        Self(scratch_dir("lifeboat-session-").unwrap())
    }

    pub fn put(&self, name: &str, content: &str, mode: u32) -> PathBuf {
        let path = self.0.path().join(name);
        let mut file = File::create(&path).unwrap();
        file.write_all(content.as_bytes()).unwrap();
        file.set_permissions(PermissionsExt::from_mode(mode)).unwrap();
        path
    }
}

/// A server with TLS, a role for every method (password `secret`), and clients' certificates from `authority`.
pub fn tls_server(major: u32, authority: &Authority, identity: &Identity, files: &Files) -> PgServer {
    let ca = files.put("server-ca.crt", &authority.pem, 0o644);
    let server = PgServer::builder(major)
        .tls(&identity.cert, &identity.key)
        .setting("ssl_ca_file", ca.to_str().unwrap())
        .hba(
            "hostssl all scram 127.0.0.1/32 scram-sha-256\n\
             hostssl replication scram 127.0.0.1/32 scram-sha-256\n\
             hostssl all hashed 127.0.0.1/32 md5\n\
             host all clear 127.0.0.1/32 password\n\
             hostssl all certified 127.0.0.1/32 cert\n\
             hostnossl all plain 127.0.0.1/32 scram-sha-256\n\
             host all trusted 127.0.0.1/32 trust",
        )
        .start()
        .unwrap();
    let roles = "SET password_encryption = 'scram-sha-256'; CREATE ROLE scram LOGIN REPLICATION PASSWORD 'secret'; \
                 CREATE ROLE plain LOGIN PASSWORD 'secret'; CREATE ROLE clear LOGIN PASSWORD 'secret'; \
                 SET password_encryption = 'md5'; CREATE ROLE hashed LOGIN PASSWORD 'secret'; \
                 CREATE ROLE certified LOGIN; CREATE ROLE trusted LOGIN;";
    server.psql("postgres", roles).unwrap();
    server
}

/// The server shows another certificate from now on.
pub fn change_certificate(server: &mut PgServer, identity: &Identity) {
    for (name, content) in [("server.crt", &identity.cert), ("server.key", &identity.key)] {
        overwrite(&server.data_dir().join(name), content);
    }
    // A reload is asked for and done later; only a new start is sure.
    server.restart().unwrap();
}

fn overwrite(path: &Path, content: &str) {
    let mut file = File::options().write(true).truncate(true).open(path).unwrap();
    file.write_all(content.as_bytes()).unwrap();
}

//! Proving who we are, and that the server is who it says: trust, clear text, MD5, SCRAM with and without channel binding.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol", sections "Start-up" and "SASL Authentication"; RFC 5802.

use std::sync::Arc;

use bytes::BytesMut;
use lifeboat_vocabulary::Secret;
use postgres_protocol::authentication::{md5_hash, sasl};
use postgres_protocol::message::frontend;

use crate::session::certificate_hash::server_end_point;
use crate::session::error::AuthError;
use crate::session::message::AuthRequest;
use crate::session::pgpass::{Lookup, Wanted, look_up};
use crate::session::settings::{ConnectionSettings, HostSettings, Purpose};
use crate::session::settings_words::ChannelBinding;
use crate::session::transport::Transport;

/// How far the exchange is.
enum Step {
    Nothing,
    /// The password, or a hash of it, has been sent.
    PasswordSent,
    /// SCRAM has begun; the server has proven nothing yet.
    Scram(sasl::ScramSha256),
    /// The server has proven that it knows the password.
    Proven,
    /// The server has let us in.
    Granted,
}

/// Whether others on the line could read what is sent.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Line {
    Private,
    Readable,
}

/// The client's side of the exchange.
pub(crate) struct Authenticator<'a> {
    settings: &'a ConnectionSettings,
    host: &'a HostSettings,
    purpose: Purpose,
    line: Line,
    /// What binds the exchange to the channel, where something can.
    binding: Option<Vec<u8>>,
    step: Step,
}

impl<'a> Authenticator<'a> {
    pub(crate) fn new(
        settings: &'a ConnectionSettings,
        host: &'a HostSettings,
        purpose: Purpose,
        transport: &Transport,
    ) -> Self {
        let certificate = transport.tls().and_then(|tls| tls.get_ref().1.peer_certificates()?.first());
        let line = if transport.is_readable_by_others() { Line::Readable } else { Line::Private };
        let binding = certificate.and_then(|certificate| server_end_point(certificate));
        Self { settings, host, purpose, line, binding, step: Step::Nothing }
    }

    pub(crate) fn is_granted(&self) -> bool {
        matches!(self.step, Step::Granted)
    }

    /// Answers one request; the answer, if there is one, is left in `out`.
    pub(crate) fn answer(&mut self, request: AuthRequest, out: &mut BytesMut) -> Result<(), AuthError> {
        let step = std::mem::replace(&mut self.step, Step::Nothing);
        self.step = match (request, step) {
            (AuthRequest::Ok, step) => self.granted(&step)?,
            (AuthRequest::CleartextPassword, Step::Nothing) => {
                self.permit("password")?;
                if self.line == Line::Readable {
                    return Err(AuthError::ClearOnPlainLine);
                }
                let password = self.password()?;
                frontend::password_message(password.expose().as_bytes(), out).map_err(AuthError::Send)?;
                Step::PasswordSent
            }
            (AuthRequest::Md5Password(salt), Step::Nothing) => {
                self.permit("md5")?;
                let password = self.password()?;
                let hash = md5_hash(self.settings.user.as_bytes(), password.expose().as_bytes(), salt);
                frontend::password_message(hash.as_bytes(), out).map_err(AuthError::Send)?;
                Step::PasswordSent
            }
            (AuthRequest::Sasl(mechanisms), Step::Nothing) => self.begin_scram(&mechanisms, out)?,
            (AuthRequest::SaslContinue(data), Step::Scram(mut scram)) => {
                scram.update(&data).map_err(AuthError::Scram)?;
                frontend::sasl_response(scram.message(), out).map_err(AuthError::Send)?;
                Step::Scram(scram)
            }
            (AuthRequest::SaslFinal(data), Step::Scram(mut scram)) => {
                scram.finish(&data).map_err(AuthError::Scram)?;
                Step::Proven
            }
            (AuthRequest::Other(method), _) => return Err(AuthError::Method(method_name(method))),
            _ => return Err(AuthError::Method("an authentication step out of turn".to_owned())),
        };
        Ok(())
    }

    fn granted(&self, step: &Step) -> Result<Step, AuthError> {
        match step {
            Step::Nothing => self.permit("none")?,
            // A server that asked for SCRAM and skips its own proof may not know the password at all.
            Step::Scram(_) | Step::Granted => return Err(AuthError::NotProven),
            Step::PasswordSent | Step::Proven => {}
        }
        Ok(Step::Granted)
    }

    /// Whether the settings allow a method that cannot bind the channel.
    fn permit(&self, method: &'static str) -> Result<(), AuthError> {
        if self.settings.channel_binding == ChannelBinding::Require {
            return Err(AuthError::ChannelBinding("the server does not ask for SCRAM"));
        }
        self.permit_method(method)
    }

    fn permit_method(&self, method: &'static str) -> Result<(), AuthError> {
        let Some(list) = &self.settings.require_auth else { return Ok(()) };
        let mut words = list.split(',').map(str::trim).peekable();
        let negated = words.peek().is_some_and(|word| word.starts_with('!'));
        let named = words.any(|word| word.trim_start_matches('!') == method);
        if named == negated { Err(AuthError::Excluded(method)) } else { Ok(()) }
    }

    fn begin_scram(&mut self, mechanisms: &[String], out: &mut BytesMut) -> Result<Step, AuthError> {
        self.permit_method("scram-sha-256")?;
        let offers = |name: &str| mechanisms.iter().any(|mechanism| mechanism == name);
        let wish = self.settings.channel_binding;
        let (mechanism, binding) = match (self.binding.take(), wish) {
            (Some(hash), ChannelBinding::Prefer | ChannelBinding::Require) if offers(sasl::SCRAM_SHA_256_PLUS) => {
                (sasl::SCRAM_SHA_256_PLUS, sasl::ChannelBinding::tls_server_end_point(hash))
            }
            (_, ChannelBinding::Require) => {
                return Err(AuthError::ChannelBinding("the connection is not encrypted, or the server cannot bind"));
            }
            // This tells the server that we could have: a listener that removed its offer is found out.
            (Some(_), ChannelBinding::Prefer) => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unrequested()),
            _ => (sasl::SCRAM_SHA_256, sasl::ChannelBinding::unsupported()),
        };
        if !offers(mechanism) {
            return Err(AuthError::Method(format!("SASL mechanisms {}", mechanisms.join(", "))));
        }
        let password = self.password()?;
        let scram = sasl::ScramSha256::new(password.expose().as_bytes(), binding);
        frontend::sasl_initial_response(mechanism, scram.message(), out).map_err(AuthError::Send)?;
        Ok(Step::Scram(scram))
    }

    /// The password from the settings, or from the password file.
    fn password(&self) -> Result<Arc<Secret<String>>, AuthError> {
        if let Some(password) = &self.settings.password {
            return Ok(Arc::clone(password));
        }
        let Some(path) = &self.settings.password_file else {
            return Err(AuthError::NoPassword { note: None });
        };
        let (host, port) = (self.host.password_file_name(), self.host.port);
        let database = self.settings.database.as_str();
        // Physical replication has no database: password files call it `replication`.
        let databases: &[&str] =
            if self.purpose == Purpose::PhysicalReplication { &["replication", database] } else { &[database] };
        let mut note = None;
        for database in databases {
            match look_up(path, Wanted { host: &host, port, database, user: &self.settings.user }) {
                Lookup::Found(password) => return Ok(Arc::new(password)),
                Lookup::Nothing(why) => note = why,
            }
        }
        Err(AuthError::NoPassword { note })
    }
}

fn method_name(method: i32) -> String {
    match method {
        2 => "Kerberos V5".to_owned(),
        7 | 8 => "GSSAPI".to_owned(),
        9 => "SSPI".to_owned(),
        other => format!("authentication method {other}"),
    }
}

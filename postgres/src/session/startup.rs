//! From an open connection to a session that awaits commands.

use std::collections::HashMap;

use postgres_protocol::message::frontend;

use crate::session::auth::Authenticator;
use crate::session::error::{AuthError, ProtocolFault, SessionError};
use crate::session::message::{BackendMessage, Decoded, ServerMessage, decode_message};
use crate::session::settings::{ConnectionSettings, HostSettings, Purpose};
use crate::session::transport::Transport;

/// The most settings that a server reports; PostgreSQL 18 reports 16.
pub(crate) const PARAMETERS_MAX: usize = 256;

/// Makes the server notice a dead client within about a minute. It notices by nothing else while it sends a base backup.
const REPLICATION_OPTIONS: &str = "-c tcp_keepalives_idle=30 -c tcp_keepalives_interval=10 -c tcp_keepalives_count=3";

/// What the server reported about itself.
pub(crate) struct Welcome {
    pub(crate) parameters: HashMap<String, String>,
    pub(crate) process_id: i32,
}

/// Who logs in where.
#[derive(Clone, Copy)]
pub(crate) struct Login<'a> {
    pub(crate) settings: &'a ConnectionSettings,
    pub(crate) host: &'a HostSettings,
    pub(crate) purpose: Purpose,
}

impl Login<'_> {
    fn failed(&self, source: AuthError) -> SessionError {
        SessionError::Authentication {
            host: self.host.to_string(),
            user: self.settings.user.clone(),
            purpose: self.purpose,
            source,
        }
    }

    fn refused(&self, message: ServerMessage) -> SessionError {
        // Class 28: invalid authorization specification.
        if message.code.starts_with("28") {
            self.failed(AuthError::Refused(Box::new(message)))
        } else {
            SessionError::Server(Box::new(message))
        }
    }

    fn write_startup(&self, transport: &mut Transport) -> Result<(), SessionError> {
        let settings = self.settings;
        // Dates and letters must not depend on how the server or the role is set up.
        let mut parameters = vec![("user", settings.user.as_str()), ("client_encoding", "UTF8"), ("datestyle", "ISO")];
        parameters.push(("application_name", &settings.application_name));
        let mut options = String::new();
        if self.purpose != Purpose::PhysicalReplication {
            parameters.push(("database", &settings.database));
        }
        if self.purpose != Purpose::Sql {
            let kind = if self.purpose == Purpose::PhysicalReplication { "true" } else { "database" };
            parameters.push(("replication", kind));
            options.push_str(REPLICATION_OPTIONS);
            options.push(' ');
        }
        // Those of the user come last: of two equal ones the last counts.
        options.push_str(&settings.options);
        if !options.is_empty() {
            parameters.push(("options", &options));
        }
        let written = frontend::startup_message(parameters, transport.outgoing());
        written.map_err(|error| transport.fault(ProtocolFault::Command(error.to_string())))
    }
}

/// Logs in and waits until the server is ready.
pub(crate) async fn log_in(transport: &mut Transport, login: Login<'_>) -> Result<Welcome, SessionError> {
    login.write_startup(transport)?;
    transport.flush().await?;
    let mut authenticator = Authenticator::new(login.settings, login.host, login.purpose, transport);
    let mut welcome = Welcome { parameters: HashMap::new(), process_id: 0 };
    loop {
        let (tag, body) = transport.next().await?;
        match decode_message(tag, body).map_err(|fault| transport.fault(fault.into()))? {
            Decoded::Authentication(request) => {
                authenticator.answer(request, transport.outgoing()).map_err(|error| login.failed(error))?;
                transport.flush().await?;
            }
            Decoded::Parameter(name, value) if welcome.parameters.len() < PARAMETERS_MAX => {
                welcome.parameters.insert(name, value);
            }
            Decoded::ProcessId(process_id) => welcome.process_id = process_id,
            Decoded::Message(BackendMessage::Error(message)) => return Err(login.refused(message)),
            Decoded::Message(BackendMessage::Notice(notice)) => {
                tracing::info!(host = transport.host(), %notice, "notice")
            }
            Decoded::Message(BackendMessage::ReadyForQuery) if authenticator.is_granted() => return Ok(welcome),
            Decoded::Ignored => {}
            Decoded::Parameter(..) | Decoded::Message(_) => {
                let what = format!("message `{}` during log-in", char::from(tag).escape_default());
                return Err(transport.fault(ProtocolFault::Unexpected(what)));
            }
        }
    }
}

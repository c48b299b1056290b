//! What the session tests have in common.

use lifeboat_postgres::{ConnectionSettings, Purpose, Session, SessionError};
use lifeboat_vocabulary::error_chain;

pub async fn connect(text: &str, purpose: Purpose) -> Result<Session, SessionError> {
    Session::connect(&ConnectionSettings::parse(text).unwrap(), purpose).await
}

/// The error of an attempt that must fail, with all its causes.
pub async fn refusal(text: &str) -> (SessionError, String) {
    match connect(text, Purpose::Sql).await {
        Ok(session) => panic!("{text} leads to {session:?}"),
        Err(error) => {
            let whole = error_chain(&error);
            assert!(!whole.contains("secret"), "{whole}");
            (error, whole)
        }
    }
}

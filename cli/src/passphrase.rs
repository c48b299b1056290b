//! The passphrase of a private key, from a terminal or a file.

use std::io::IsTerminal;

use crate::errln;
use lifeboat_repository::keys::read_private_file;
use lifeboat_vocabulary::Secret;

/// Asks for the passphrase of an identity, on a terminal or from `LIFEBOAT_PASSPHRASE_FILE`.
#[must_use]
pub(crate) fn ask_passphrase(of: &str) -> Option<Secret<String>> {
    if let Some(path) = std::env::var_os("LIFEBOAT_PASSPHRASE_FILE") {
        let text = read_private_file(path.as_ref());
        return match text {
            Ok(text) => Some(Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                errln!("warning: LIFEBOAT_PASSPHRASE_FILE: {error}");
                None
            }
        };
    }
    if !std::io::stdin().is_terminal() {
        return None;
    }
    match rpassword::prompt_password(format!("passphrase of {of}: ")) {
        Ok(text) => Some(Secret::new(text)),
        Err(error) => {
            errln!("warning: read the passphrase: {error}");
            None
        }
    }
}

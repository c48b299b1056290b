//! `lifeboat-restore keygen`.

use std::io::IsTerminal;

use anyhow::Context;
use lifeboat_repository::keys::{Identity, write_private_file};
use lifeboat_vocabulary::{Clock, Secret, SystemClock};

use crate::commands::command_line::KeygenArgs;
use crate::exit_code::Ending;

/// Writes a new identity and prints its public key alone on standard output, so that scripts can take it.
///
/// # Errors
/// If the file exists or cannot be written, or the passphrase is empty or mistyped.
pub fn run(args: &KeygenArgs) -> anyhow::Result<Ending> {
    let passphrase = if args.passphrase { Some(new_passphrase()?) } else { None };
    let identity = Identity::generate()?;
    let text = identity.to_file_text(SystemClock.now(), passphrase.as_ref()).context("protect the key")?;
    write_private_file(&args.out, &text)?;
    eprintln!("wrote the private key to {}; keep copies of it in two safe places", args.out.display());
    eprintln!("without it no backup can be read, by anybody; the public key for the configuration is:");
    println!("{}", identity.recipient());
    Ok(Ending::Done)
}

fn new_passphrase() -> anyhow::Result<Secret<String>> {
    if !std::io::stdin().is_terminal() {
        // For scripts: the first line of standard input.
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).context("read the passphrase from standard input")?;
        return Ok(Secret::new(line.trim_end_matches(['\r', '\n']).to_owned()));
    }
    let first = Secret::new(rpassword::prompt_password("passphrase: ").context("read the passphrase")?);
    let again = Secret::new(rpassword::prompt_password("again: ").context("read the passphrase")?);
    anyhow::ensure!(first.expose() == again.expose(), "the two passphrases differ; nothing was written");
    Ok(first)
}

/// Asks for the passphrase of an identity, on a terminal or from `LIFEBOAT_PASSPHRASE_FILE`.
#[must_use]
pub fn ask_passphrase(of: &str) -> Option<Secret<String>> {
    if let Some(path) = std::env::var_os("LIFEBOAT_PASSPHRASE_FILE") {
        let text = lifeboat_repository::keys::read_private_file(path.as_ref());
        return match text {
            Ok(text) => Some(Secret::new(text.expose().trim_end_matches(['\r', '\n']).to_owned())),
            Err(error) => {
                eprintln!("warning: LIFEBOAT_PASSPHRASE_FILE: {error}");
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
            eprintln!("warning: read the passphrase: {error}");
            None
        }
    }
}

//! `lifeboat-restore keygen`.

use std::io::IsTerminal;

use anyhow::Context;
use lifeboat_cli::exit_code::Ending;
use lifeboat_cli::{errln, outln};
use lifeboat_repository::keys::{Identity, SigningKey, write_private_file};
use lifeboat_vocabulary::{Clock, Secret, SystemClock};

use crate::command_line::KeygenArgs;

/// Writes a new identity and prints its public key alone on standard output, so that scripts can take it.
///
/// # Errors
/// If the file exists or cannot be written, or the passphrase is empty or mistyped.
pub fn run(args: &KeygenArgs) -> anyhow::Result<Ending> {
    if args.signing {
        return signing(args);
    }
    let passphrase = if args.passphrase { Some(new_passphrase()?) } else { None };
    let identity = Identity::generate()?;
    let text = identity.to_file_text(SystemClock.now(), passphrase.as_ref()).context("protect the key")?;
    write_private_file(&args.out, &text)?;
    errln!("wrote the private key to {}; keep copies of it in two safe places", args.out.display());
    errln!("without it no backup can be read, by anybody; the public key for the configuration is:");
    outln!("{}", identity.recipient());
    Ok(Ending::Done)
}

fn signing(args: &KeygenArgs) -> anyhow::Result<Ending> {
    let key = SigningKey::generate()?;
    write_private_file(&args.out, &key.to_file_text(SystemClock.now()))?;
    errln!("wrote the signing key to {}; a root key stays offline, with copies in two safe places", args.out.display());
    errln!("what is signed with it is checked with:");
    outln!("{}", key.verify_key());
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

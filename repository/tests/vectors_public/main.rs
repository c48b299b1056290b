//! Published test vectors, through the very code that seals backups.

#![cfg(test)]

mod cobblestone;
mod rfc;
mod wycheproof_sets;

/// Reads hexadecimal digits; white space is for the reader.
fn hex(text: &str) -> Vec<u8> {
    let digits: String = text.split_whitespace().collect();
    data_encoding::HEXLOWER_PERMISSIVE.decode(digits.as_bytes()).unwrap()
}

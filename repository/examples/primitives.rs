//! Measures every primitive of both libraries: `cargo run --release -p lifeboat-repository --example primitives`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "for people at a terminal")]

use std::hint::black_box;
use std::time::{Duration, Instant};

use lifeboat_repository::format::aead::{Aead, LcChaCha20Poly1305, LcSha256, RustChaCha20Poly1305, RustSha256, Sha256};
use lifeboat_repository::format::compression::{Compressor, Decompressor};
use lifeboat_repository::format::crc::crc32c;
use lifeboat_testkit::SeededRandom;

/// How long each primitive is measured, after one round to warm up.
const MEASURED: Duration = Duration::from_millis(1500);
const SIZES: [(&str, usize); 3] = [("4 KiB", 4 << 10), ("64 KiB", 64 << 10), ("1 MiB", 1 << 20)];

type Failure = Box<dyn std::error::Error>;

fn main() -> Result<(), Failure> {
    println!("{:<24}{:<12}{:>12}{:>12}{:>12}", "MB/s on one core", "library", SIZES[0].0, SIZES[1].0, SIZES[2].0);
    line("seal ChaCha20-Poly1305", "RustCrypto", &mut seal::<RustChaCha20Poly1305>()?)?;
    line("seal ChaCha20-Poly1305", "AWS-LC", &mut seal::<LcChaCha20Poly1305>()?)?;
    line("seal and open", "RustCrypto", &mut seal_and_open::<RustChaCha20Poly1305>()?)?;
    line("seal and open", "AWS-LC", &mut seal_and_open::<LcChaCha20Poly1305>()?)?;
    line("SHA-256", "RustCrypto", &mut digest::<RustSha256>())?;
    line("SHA-256", "AWS-LC", &mut digest::<LcSha256>())?;
    line("CRC-32C", "crc32c", &mut |bytes: &mut [u8]| {
        black_box(crc32c(bytes));
        Ok(())
    })?;
    for level in [1, 3] {
        let mut compressor = Compressor::new(level)?;
        let mut payload = Vec::new();
        line(&format!("zstd level {level}"), "zstd", &mut |bytes: &mut [u8]| {
            black_box(compressor.compress(bytes, &mut payload)?);
            Ok(())
        })?;
    }
    let (mut compressor, mut decompressor) = (Compressor::new(3)?, Decompressor::new()?);
    let mut payload = Vec::new();
    line("zstd 3 and back", "zstd", &mut |bytes: &mut [u8]| {
        let codec = compressor.compress(bytes, &mut payload)?;
        Ok(decompressor.decompress(codec, &payload, bytes)?)
    })?;
    Ok(())
}

fn seal<A: Aead>() -> Result<impl FnMut(&mut [u8]) -> Result<(), Failure>, Failure> {
    let aead = A::new(&[7; 32])?;
    Ok(move |bytes: &mut [u8]| {
        black_box(aead.seal([1; 12], &[0; 8], bytes)?);
        Ok(())
    })
}

/// Sealing and opening together, because only a genuine message is decrypted.
fn seal_and_open<A: Aead>() -> Result<impl FnMut(&mut [u8]) -> Result<(), Failure>, Failure> {
    let aead = A::new(&[7; 32])?;
    Ok(move |bytes: &mut [u8]| {
        let tag = aead.seal([1; 12], &[0; 8], bytes)?;
        aead.open([1; 12], &[0; 8], bytes, &tag)?;
        Ok(())
    })
}

fn digest<S: Sha256>() -> impl FnMut(&mut [u8]) -> Result<(), Failure> {
    |bytes: &mut [u8]| {
        black_box(S::digest(&[bytes]));
        Ok(())
    }
}

/// Bytes like those of a table: short numbers, repeated words, some noise; zstd level 3 shrinks them to about a third.
fn rows(length: usize) -> Vec<u8> {
    let mut random = SeededRandom::new(1);
    let mut bytes = Vec::with_capacity(length + 64);
    while bytes.len() < length {
        let noise = random.bits();
        bytes.extend_from_slice(&noise.to_le_bytes()[4..]);
        bytes.extend_from_slice(b"\0\0\0\0customer-");
        bytes.extend_from_slice(format!("{:06}", noise >> 44).as_bytes());
    }
    bytes.truncate(length);
    bytes
}

fn line(name: &str, library: &str, work: &mut dyn FnMut(&mut [u8]) -> Result<(), Failure>) -> Result<(), Failure> {
    print!("{name:<24}{library:<12}");
    for (_, size) in SIZES {
        let mut bytes = rows(size);
        work(&mut bytes)?;
        let (begun, mut rounds) = (Instant::now(), 0_u32);
        while begun.elapsed() < MEASURED {
            work(&mut bytes)?;
            rounds += 1;
        }
        let megabytes = f64::from(rounds) * f64::from(u32::try_from(size)?) / 1e6;
        print!("{:>12.0}", megabytes / begun.elapsed().as_secs_f64());
    }
    println!();
    Ok(())
}

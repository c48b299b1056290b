//! Sealed objects as a whole: known answers, everything that can be done to one in storage, packs, the index.

#![cfg(test)]

mod index;
mod known_answer;
mod negative;
mod negative_trailer;
mod packs;
mod samples;
mod vector_files;

//! Base backups of real servers, through the seam.

#![cfg(test)]

mod failures;
mod support;
mod whole;

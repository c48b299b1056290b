//! The test server as its users see it: through the SDK, through sockets, and as a program.

// The attribute tells the linter that helpers in here, too, are tests.
#[cfg(test)]
mod common;
#[cfg(test)]
mod conformance;
#[cfg(test)]
mod moto;
#[cfg(test)]
mod multipart;
#[cfg(test)]
mod network;
#[cfg(test)]
mod program;
#[cfg(test)]
mod switches;
#[cfg(test)]
mod versions_and_locks;

//! The settings of a connection that are one word out of a few.
//!
//! Source: PostgreSQL manual, chapter "libpq", section "Parameter Key Words".

use std::fmt;

macro_rules! words {
    ($(#[$meta:meta])* $name:ident: $list:literal { $($(#[$variant_meta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum $name {
            $($(#[$variant_meta])* $variant,)+
        }

        impl $name {
            /// The allowed words, for error texts.
            pub(crate) const LIST: &'static str = $list;

            /// The meaning of a word, if it has one.
            pub(crate) fn of_word(word: &str) -> Option<Self> {
                match word {
                    $($word => Some(Self::$variant),)+
                    _ => None,
                }
            }

            /// The word as libpq spells it.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)+
                }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.word())
            }
        }
    };
}

words!(
    /// Whether TCP connections are encrypted, and how sure the client is of the server. Sockets are never encrypted.
    SslMode: "disable, allow, prefer, require, verify-ca or verify-full" {
        /// Never.
        Disable = "disable",
        /// Only if the server insists.
        Allow = "allow",
        /// If the server can.
        Prefer = "prefer",
        /// Always, with whomever (with an authority's certificate at hand: as `verify-ca`).
        Require = "require",
        /// Always, with a server whose certificate a known authority signed.
        VerifyCa = "verify-ca",
        /// Always, with the very host that was asked for.
        VerifyFull = "verify-full",
    }
);

words!(
    /// How TLS begins.
    SslNegotiation: "postgres or direct" {
        /// After a request of the protocol.
        Postgres = "postgres",
        /// At once (PostgreSQL 17 and later).
        Direct = "direct",
    }
);

words!(
    /// Whether a client certificate is shown to a server that asks for one.
    SslCertMode: "allow or disable" {
        /// If there is one.
        Allow = "allow",
        /// Never.
        Disable = "disable",
    }
);

words!(
    /// Whether the password exchange is bound to the encrypted channel, so that nobody can stand in between.
    ChannelBinding: "disable, prefer or require" {
        /// Never.
        Disable = "disable",
        /// If both sides can.
        Prefer = "prefer",
        /// Always.
        Require = "require",
    }
);

words!(
    /// Which server of several is wanted.
    TargetSessionAttrs: "any, read-write, read-only, primary, standby or prefer-standby" {
        /// The first that answers.
        Any = "any",
        /// One that takes writes by default.
        ReadWrite = "read-write",
        /// One that does not.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is.
        Standby = "standby",
        /// One that is, or else any.
        PreferStandby = "prefer-standby",
    }
);

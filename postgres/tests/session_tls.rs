//! Encryption and log-in against real servers.

#![cfg(test)]

mod session_support;
#[path = "session_support/tls.rs"]
mod tls_support;

use lifeboat_postgres::{AuthError, Purpose, SessionError, TlsError};
use lifeboat_testkit::{PgServer, majors_under_test};
use lifeboat_vocabulary::error_chain;
use session_support::{connect, refusal};
use tls_support::{Authority, Files, Identity, change_certificate, tls_server};

/// What most connections of these tests begin with; `localhost` is the name in the server's certificate.
fn base(server: &PgServer) -> String {
    format!("host=localhost hostaddr=127.0.0.1 port={} dbname=postgres passfile=/nonexistent", server.port())
}

async fn is_encrypted(text: &str) -> bool {
    let mut session = connect(text, Purpose::Sql).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    let sql = "SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()";
    let answer = session.query_one_text(sql).await.unwrap();
    session.close().await;
    answer.as_deref() == Some("t")
}

#[tokio::test]
async fn a_server_that_cannot_prove_who_it_is_gets_no_session() {
    let (authority, stranger, files) = (Authority::new("test CA"), Authority::new("stranger"), Files::new());
    let root = files.put("root.crt", &authority.pem, 0o644);
    let other = files.put("stranger.crt", &stranger.pem, 0o644);
    let empty = files.put("empty.crt", "", 0o644);
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &authority.server(&["localhost"]), &files);
        let base = format!("{} user=trusted", base(&server));
        for (why, more, expected) in [
            (
                "no authority",
                "sslmode=verify-ca sslrootcert=/nonexistent".to_owned(),
                "read certificates of authorities",
            ),
            (
                "no certificate in the file",
                format!("sslmode=verify-ca sslrootcert={}", empty.display()),
                "no certificate in it",
            ),
            ("another authority", format!("sslmode=verify-ca sslrootcert={}", other.display()), "UnknownIssuer"),
            ("require with an authority", format!("sslmode=require sslrootcert={}", other.display()), "UnknownIssuer"),
            ("public authorities", "sslrootcert=system".to_owned(), "UnknownIssuer"),
        ] {
            let (error, whole) = refusal(&format!("{base} {more}")).await;
            assert!(matches!(error, SessionError::Tls { .. }), "{why}: {error:?}");
            assert!(whole.contains(expected), "{why}: {whole}");
        }
        let named = |name: &str, mode: &str| {
            base.replace("host=localhost", &format!("host={name}"))
                + &format!(" sslmode={mode} sslrootcert={}", root.display())
        };
        let (error, whole) = refusal(&named("elsewhere", "verify-full")).await;
        assert!(whole.contains("NotValidForName") || whole.contains("not valid for name"), "{whole}");
        assert!(error.remedy().unwrap().contains("subjectAltName"), "{:?}", error.remedy());
        let (_, whole) = refusal(&named("''", "verify-full")).await;
        assert!(whole.contains("not valid for name"), "an address is a name too: {whole}");
        assert!(is_encrypted(&named("elsewhere", "verify-ca")).await);
        assert!(is_encrypted(&named("localhost", "verify-full")).await);
        assert!(is_encrypted(&(named("localhost", "verify-full") + " ssl_min_protocol_version=TLSv1.3")).await);
    }
}

#[tokio::test]
async fn a_server_that_signed_itself_is_known_by_its_very_certificate() {
    let (authority, files) = (Authority::new("test CA"), Files::new());
    let (itself, twin) = (Authority::named("db", &["localhost"]), Authority::named("db", &["localhost"]));
    let root = files.put("itself.crt", &itself.pem, 0o644);
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &itself.identity(), &files);
        let root = format!("sslrootcert={}", root.display());
        let base = format!("{} user=trusted sslmode=verify-full", base(&server));
        let twin = files.put("twin.crt", &twin.pem, 0o644);
        let (error, _) = refusal(&format!("{base} sslrootcert={}", twin.display())).await;
        assert!(matches!(error, SessionError::Tls { source: TlsError::Handshake(_), .. }), "{error:?}");
        let (_, whole) = refusal(&format!("{base} {root}").replace("host=localhost", "host=elsewhere")).await;
        assert!(whole.contains("not valid for name"), "{whole}");
        assert!(is_encrypted(&format!("{base} {root}")).await);
    }
}

#[tokio::test]
async fn sslmode_decides_whether_the_connection_is_encrypted() {
    let (authority, files) = (Authority::new("test CA"), Files::new());
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &authority.server(&["localhost"]), &files);
        for (role, mode, expected) in [
            ("trusted", "disable", Some(false)),
            ("trusted", "allow", Some(false)),
            ("trusted", "prefer", Some(true)),
            ("trusted", "require", Some(true)),
            // Only encrypted lines are let in.
            ("hashed", "disable", None),
            ("hashed", "allow", Some(true)),
            // Only unencrypted ones.
            ("plain", "prefer", Some(false)),
            ("plain", "require", None),
        ] {
            let text = format!("{} user={role} password=secret sslmode={mode}", base(&server));
            match expected {
                Some(expected) => assert_eq!(is_encrypted(&text).await, expected, "{role} {mode}"),
                None => {
                    let (error, whole) = refusal(&text).await;
                    assert!(matches!(error, SessionError::Authentication { .. }), "{role} {mode}: {whole}");
                    assert!(error.remedy().unwrap().contains("pg_hba.conf"), "{role} {mode}: {whole}");
                }
            }
        }
    }
}

#[tokio::test]
async fn a_server_without_tls_is_only_used_if_sslmode_allows() {
    for major in majors_under_test() {
        let server = PgServer::builder(major).start().unwrap();
        let base = server.tcp_connection_string();
        let (error, _) = refusal(&format!("{base} sslmode=require")).await;
        assert!(matches!(error, SessionError::Tls { source: TlsError::NotOffered, .. }), "{error:?}");
        assert!(error.remedy().unwrap().contains("ssl = on"));
        for mode in ["disable", "allow", "prefer"] {
            assert!(!is_encrypted(&format!("{base} sslmode={mode}")).await, "{mode}");
        }
        // TLS is never asked of a socket.
        assert!(!is_encrypted(&format!("{} sslmode=verify-full", server.connection_string())).await);
    }
}

#[tokio::test]
async fn every_method_refuses_the_wrong_password_and_takes_the_right_one() {
    let (authority, files) = (Authority::new("test CA"), Files::new());
    let (good, open) = ("localhost:*:postgres:*:secret\nlocalhost:*:replication:scram:secret\n", "*:*:*:*:secret\n");
    let (good, open) = (files.put("pgpass", good, 0o600), files.put("open", open, 0o644));
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &authority.server(&["localhost"]), &files);
        let base = base(&server);
        for role in ["scram", "hashed", "clear"] {
            let (error, whole) = refusal(&format!("{base} user={role} password=wrong sslmode=require")).await;
            assert_eq!(error.server_message().unwrap().code, "28P01", "{role}: {whole}");
            assert!(error.remedy().unwrap().contains("check the password"), "{role}");
            let (_, whole) = refusal(&format!("{base} user={role} sslmode=require")).await;
            assert!(whole.contains("asks for a password and none is given"), "{role}: {whole}");
            let text = format!("{base} user={role} sslmode=require passfile={}", open.display());
            let (_, whole) = refusal(&text).await;
            assert!(whole.contains("chmod 0600"), "{role}: {whole}");
            assert!(is_encrypted(&format!("{base} user={role} password=secret sslmode=require")).await, "{role}");
            let text = format!("{base} user={role} sslmode=require passfile={}", good.display());
            assert!(is_encrypted(&text).await, "{role}");
        }
        let physical = format!("{base} user=scram sslmode=require passfile={}", good.display());
        let session = connect(&physical, Purpose::PhysicalReplication).await.unwrap();
        assert_eq!(session.host(), format!("localhost:{}", server.port()));
        let (error, _) = refusal(&format!("{base} user=clear password=secret sslmode=disable")).await;
        assert!(matches!(error, SessionError::Authentication { source: AuthError::ClearOnPlainLine, .. }), "{error:?}");
        for (role, list, fits) in [
            ("trusted", "scram-sha-256", false),
            ("hashed", "!md5,!password", false),
            ("hashed", "scram-sha-256,md5", true),
            ("scram", "!md5,!password,!none", true),
        ] {
            let text = format!("{base} user={role} password=secret sslmode=require require_auth={list}");
            match connect(&text, Purpose::Sql).await {
                Ok(_) => assert!(fits, "{role} {list}"),
                Err(error) => assert!(!fits, "{role} {list}: {error:?}"),
            }
        }
    }
}

#[tokio::test]
async fn channel_binding_holds_with_every_kind_of_certificate_that_has_a_hash() {
    let files = Files::new();
    for major in majors_under_test() {
        let first = Authority::new("test CA");
        let mut server = tls_server(major, &first, &first.server(&["localhost"]), &files);
        for (algorithm, binds) in [
            (&rcgen::PKCS_ED25519, false),
            (&rcgen::PKCS_ECDSA_P256_SHA256, true),
            (&rcgen::PKCS_ECDSA_P384_SHA384, true),
            (&rcgen::PKCS_ECDSA_P521_SHA512, true),
            (&rcgen::PKCS_RSA_SHA256, true),
            (&rcgen::PKCS_RSA_SHA512, true),
        ] {
            let authority = Authority::with("another CA", algorithm);
            change_certificate(&mut server, &authority.server(&["localhost"]));
            let root = files.put("root.crt", &authority.pem, 0o644);
            let text = format!(
                "{} user=scram password=secret sslmode=verify-full sslrootcert={}",
                base(&server),
                root.display()
            );
            let required = connect(&format!("{text} channel_binding=require"), Purpose::Sql).await;
            match required {
                Ok(_) => assert!(binds, "{algorithm:?}"),
                Err(error) => assert!(!binds, "{algorithm:?}: {}", error_chain(&error)),
            }
            for wish in ["prefer", "disable"] {
                assert!(is_encrypted(&format!("{text} channel_binding={wish}")).await, "{algorithm:?} {wish}");
            }
        }
    }
}

#[tokio::test]
async fn required_channel_binding_refuses_everything_else() {
    let (authority, files) = (Authority::new("test CA"), Files::new());
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &authority.server(&["localhost"]), &files);
        for (role, mode) in [
            ("trusted", "require"),
            ("hashed", "require"),
            ("clear", "require"),
            ("plain", "disable"),
            ("trusted", "disable"),
        ] {
            let more = format!("user={role} password=secret sslmode={mode} channel_binding=require");
            let (error, _) = refusal(&format!("{} {more}", base(&server))).await;
            let expected = matches!(error, SessionError::Authentication { source: AuthError::ChannelBinding(_), .. });
            assert!(expected, "{more}: {error:?}");
        }
    }
}

#[tokio::test]
async fn a_client_certificate_lets_its_role_in() {
    let (authority, stranger, files) = (Authority::new("test CA"), Authority::new("stranger"), Files::new());
    let put = |name: &str, identity: &Identity, mode| {
        let cert = files.put(&format!("{name}.crt"), &identity.cert, 0o644);
        let key = files.put(&format!("{name}.key"), &identity.key, mode);
        format!("sslcert={} sslkey={}", cert.display(), key.display())
    };
    let right = put("right", &authority.client("certified"), 0o600);
    let open = put("open", &authority.client("certified"), 0o644);
    let other = put("other", &authority.client("scram"), 0o600);
    let strange = put("strange", &stranger.client("certified"), 0o600);
    for major in majors_under_test() {
        let server = tls_server(major, &authority, &authority.server(&["localhost"]), &files);
        let base = format!("{} user=certified sslmode=require", base(&server));
        for (why, more, expected) in [
            ("none", "sslcertmode=disable".to_owned(), "28000"),
            ("that of another role", other.clone(), "28000"),
            ("one from a stranger", strange.clone(), "fatal alert"),
            ("one whose key others can read", open.clone(), "chmod 0600"),
            ("one that is not shown", format!("{right} sslcertmode=disable"), "28000"),
            ("a missing key", right.replace("right.key", "wrong.key"), "read key"),
        ] {
            let (error, whole) = refusal(&format!("{base} {more}")).await;
            assert!(whole.contains(expected), "{why}: {whole}");
            assert!(!error.is_transient(), "{why}: {error:?}");
        }
        assert!(is_encrypted(&format!("{base} {right}")).await);
    }
}

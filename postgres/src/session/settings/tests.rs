//! Tables of connection strings.

use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use crate::session::conninfo::{ConnInfoError, Place};
use crate::session::settings::ConnectionSettings;
use crate::session::settings_words::{ChannelBinding, SslMode, TargetSessionAttrs};
use crate::session::surroundings::Surroundings;

fn surroundings(variables: &[(&str, &str)]) -> Surroundings {
    Surroundings {
        variables: variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect(),
        user: Some("operator".to_owned()),
        home: Some(PathBuf::from("/nonexistent")),
    }
}

fn parse(text: &str) -> Result<ConnectionSettings, ConnInfoError> {
    ConnectionSettings::parse_in(text, &surroundings(&[]))
}

fn hosts(settings: &ConnectionSettings) -> Vec<String> {
    settings.hosts.iter().map(ToString::to_string).collect()
}

#[test]
fn wrong_strings_are_refused_with_their_place_and_the_nearest_keyword() {
    for (text, expected) in [
        ("hots=a", "`hots` at character 1 is not a connection keyword (did you mean `host`?)"),
        ("host=a  sslmod=require", "`sslmod` at character 9 is not a connection keyword (did you mean `sslmode`?)"),
        ("host=a ä pplication_name=x", "`=` is missing after the word at character 8"),
        ("xyzzy=plugh", "the word at character 1 is not a connection keyword"),
        ("host", "`=` is missing after the word at character 1"),
        ("user='a b", "the quote at character 6 is not closed"),
        ("user=a\0b", "there is a zero byte at character 7"),
        ("port=0", "`port` at character 1 must be a number from 1 to 65535"),
        ("port=65536", "`port` at character 1 must be a number from 1 to 65535"),
        ("port=x", "`port` at character 1 must be a number from 1 to 65535"),
        ("hostaddr=localhost", "`hostaddr` at character 1 must be an IPv4 or IPv6 address"),
        ("host=a,b,c port=1,2", "3 hosts, but 2 values of `port`: give one for all, or one for each"),
        ("host=a,b hostaddr=127.0.0.1", "2 hosts, but 1 value of `hostaddr`: give one for all, or one for each"),
        (
            "sslmode=requrie",
            "`sslmode` at character 1 must be disable, allow, prefer, require, verify-ca or verify-full",
        ),
        ("connect_timeout=soon", "`connect_timeout` at character 1 must be a whole number"),
        ("service=x", "`service` at character 1 is not supported: write the service's keywords out"),
        ("sslcrl=x", "`sslcrl` at character 1 is not supported: revocation lists are not read"),
        ("gssencmode=require", "`gssencmode` at character 1 is not supported: there is no GSSAPI; use TLS"),
        (
            "sslrootcert=system sslmode=require",
            "`sslrootcert=system` needs `sslmode=verify-full`: anybody can have a certificate",
        ),
        ("sslnegotiation=direct", "`sslnegotiation=direct` needs `sslmode=require` or more"),
        (
            "require_auth=md5,!none",
            "`require_auth` at character 1 must be a list of none, password, md5 and scram-sha-256, either all or none of \
             them with `!` before them",
        ),
        ("postgresql://[::1", "the address is wrong at character 14: `[` is not closed"),
        (
            "postgresql://[::1]x",
            "the address is wrong at character 19: only `:` and a port, `,` or `/` can follow a host",
        ),
        ("postgresql://a%2", "the address is wrong at character 14: `%` must be followed by two hexadecimal digits"),
        ("postgresql://a%00", "the address is wrong at character 14: `%00` cannot be sent"),
        ("postgresql://a%ff", "the address is wrong at character 14: the decoded text is not UTF-8"),
        ("postgresql://a/b?sslmode", "the address is wrong at character 18: a parameter needs `=` and a value"),
        ("postgresql://a/b?slmode=x", "`slmode` at character 18 is not a connection keyword (did you mean `sslmode`?)"),
    ] {
        assert_eq!(parse(text).unwrap_err().to_string(), expected, "{text}");
    }
    assert!(matches!(parse(&" ".repeat(70_000)), Err(ConnInfoError::TooLong { bytes: 70_000 })));
    assert!(matches!(parse(&format!("host={}", "a,".repeat(64))), Err(ConnInfoError::Conflict(_))));
}

#[test]
fn no_text_holds_a_password() {
    for text in ["password=hunter2 trustno1 host=a", "password=hunter2 trustno1=x", "user=u password='hunter2 trustno1"]
    {
        let error = parse(text).unwrap_err();
        let shown = format!("{error} {error:?}");
        assert!(!shown.contains("hunter2") && !shown.contains("trustno1"), "{shown}");
    }
    let settings = parse("host=a password=hunter2").unwrap();
    let shown = format!("{settings} {settings:?} {settings:#?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(!shown.contains("password"), "{shown}");
}

#[test]
fn quotes_and_backslashes_mean_what_they_mean_to_libpq() {
    for (text, user) in [
        ("user=a", "a"),
        ("user = a", "a"),
        ("  user  =  'a'  ", "a"),
        ("user='a b'", "a b"),
        (r"user='it\'s'", "it's"),
        (r"user=it\'s", "it's"),
        (r"user='a\\b'", r"a\b"),
        (r"user=a\ b", "a b"),
        ("user=a'b", "a'b"),
        ("user='a'dbname=x", "a"),
        ("user=a user=b", "b"),
        ("user=a\\", "a"),
        ("user=''", "operator"),
        ("", "operator"),
        ("\n\tuser=a\n", "a"),
        ("user==", "="),
    ] {
        assert_eq!(parse(text).unwrap().user, user, "{text}");
    }
}

#[test]
fn hosts_and_ports_pair_up() {
    let default = vec!["/var/run/postgresql:5432", "/tmp:5432", "localhost:5432"];
    for (text, expected) in [
        ("", default.clone()),
        ("host=''", default),
        ("port=6000", vec!["/var/run/postgresql:6000", "/tmp:6000", "localhost:6000"]),
        ("host=/run/x", vec!["/run/x:5432"]),
        ("host=a,b port=1,2", vec!["a:1", "b:2"]),
        ("host=a,b port=7", vec!["a:7", "b:7"]),
        ("host=a,b port=,7", vec!["a:5432", "b:7"]),
        ("hostaddr=::1 port=7", vec!["[::1]:7"]),
        ("host=a hostaddr=127.0.0.1", vec!["a:5432"]),
        ("host=a,b hostaddr=127.0.0.1,::1 port=1,2", vec!["a:1", "b:2"]),
        ("postgresql://", vec!["/var/run/postgresql:5432", "/tmp:5432", "localhost:5432"]),
        ("postgresql://a", vec!["a:5432"]),
        ("postgres://a:1,b:2,c/d", vec!["a:1", "b:2", "c:5432"]),
        ("postgresql://[2001:db8::1]:7,[::1]/d", vec!["[2001:db8::1]:7", "[::1]:5432"]),
        ("postgresql://%2Frun%2Fx:7/d", vec!["/run/x:7"]),
        ("postgresql:///d?host=/run/x&port=7", vec!["/run/x:7"]),
    ] {
        assert_eq!(hosts(&parse(text).unwrap()), expected, "{text}");
    }
}

#[test]
fn addresses_mean_what_they_mean_to_libpq() {
    let settings =
        parse("postgresql://li%66e:p%40s%3As@db.example/data?sslmode=verify-full&application_name=a%20b&").unwrap();
    assert_eq!((settings.user.as_str(), settings.database.as_str()), ("life", "data"));
    assert_eq!(settings.password.unwrap().expose(), "p@s:s");
    assert_eq!((settings.tls.mode, settings.application_name.as_str()), (SslMode::VerifyFull, "a b"));
    assert_eq!(parse("postgresql://a/?ssl=true").unwrap().tls.mode, SslMode::Require);
    assert_eq!(parse("postgresql://a/?user=u").unwrap().database, "u");
}

#[test]
fn the_environment_fills_gaps_and_never_overrides() {
    let variables = [
        ("PGHOST", "env"),
        ("PGPORT", "7"),
        ("PGUSER", "u"),
        ("PGDATABASE", "d"),
        ("PGSSLMODE", "require"),
        ("PGPASSFILE", "/p"),
        ("PGTARGETSESSIONATTRS", "primary"),
        ("PGCONNECT_TIMEOUT", "3"),
        ("PGCHANNELBINDING", "require"),
    ];
    let settings = ConnectionSettings::parse_in("dbname=mine", &surroundings(&variables)).unwrap();
    assert_eq!(hosts(&settings), ["env:7"]);
    assert_eq!((settings.user.as_str(), settings.database.as_str()), ("u", "mine"));
    assert_eq!(settings.password_file, Some(PathBuf::from("/p")));
    assert_eq!((settings.tls.mode, settings.target), (SslMode::Require, TargetSessionAttrs::Primary));
    assert_eq!(settings.connect_timeout, Some(Duration::from_secs(3)));
    assert_eq!(settings.channel_binding, ChannelBinding::Require);
    let wrong = ConnectionSettings::parse_in("", &surroundings(&[("PGSSLMODE", "yes")])).unwrap_err();
    assert!(matches!(wrong, ConnInfoError::Value { place: Place::Environment("PGSSLMODE"), .. }), "{wrong}");
    let nobody = Surroundings { user: None, ..surroundings(&[]) };
    assert!(matches!(ConnectionSettings::parse_in("", &nobody), Err(ConnInfoError::NoUser)));
}

#[test]
fn time_limits_have_safe_defaults() {
    for (text, timeout) in [("", Some(10)), ("connect_timeout=0", None), ("connect_timeout=2", Some(2))] {
        assert_eq!(parse(text).unwrap().connect_timeout, timeout.map(Duration::from_secs), "{text}");
    }
    let line = parse("").unwrap().line;
    let seconds = Duration::from_secs;
    assert_eq!((line.keepalive, line.user_timeout_ms), (Some((seconds(30), seconds(10), 3)), 60_000));
    let line = parse("keepalives=0 tcp_user_timeout=0").unwrap().line;
    assert_eq!((line.keepalive, line.user_timeout_ms), (None, 0));
}

#[test]
fn options_are_escaped_for_the_server_and_settings_print_as_a_connection_string() {
    let settings = parse("options='-c a=b' host='/run/x y' user=u").unwrap();
    let settings = settings.with_option("work_mem", "1 MB").with_option("x.y", r"\").with_application_name("it's");
    assert_eq!(settings.options, r"-c a=b -c work_mem=1\ MB -c x.y=\\");
    let shown = settings.to_string();
    assert_eq!(
        shown,
        r"host='/run/x y' port=5432 user=u dbname=u application_name='it\'s' sslmode=prefer target_session_attrs=any"
    );
    assert_eq!(parse(&shown).unwrap().to_string(), shown);
}

#[test]
fn password_files_know_default_sockets_as_localhost() {
    for (text, name) in [
        ("host=/var/run/postgresql", "localhost"),
        ("host=/tmp", "localhost"),
        ("host=/run/x", "/run/x"),
        ("host=a hostaddr=127.0.0.1", "a"),
        ("hostaddr=127.0.0.1", "127.0.0.1"),
    ] {
        assert_eq!(parse(text).unwrap().hosts[0].password_file_name(), name, "{text}");
    }
}

proptest! {
    #[test]
    fn any_text_is_understood_or_refused(
        text in "\\PC{0,60}",
        pieces in proptest::collection::vec(
            prop::sample::select(vec![
                "host", "port", "=", " ", "'", "\\", "postgresql://", "@", ":", "/", "[", "]", ",", "%4", "1", "a", "ä", "?", "&",
            ]),
            0..20,
        ),
    ) {
        drop(parse(&text));
        let likely = pieces.concat();
        drop(parse(&format!("postgresql://{likely}")));
        if let Ok(settings) = parse(&likely) {
            let shown = settings.to_string();
            prop_assert_eq!(parse(&shown).unwrap().to_string(), shown, "what is shown can be read again");
        }
    }

    #[test]
    fn any_value_survives_quoting(user in "[^\0]{1,20}") {
        let text = format!("user='{}'", user.replace('\\', "\\\\").replace('\'', "\\'"));
        prop_assert_eq!(parse(&text).unwrap().user, user);
    }
}

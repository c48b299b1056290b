//! Servers that are silent, broken, or not what they pretend to be: small scripts over real sockets.

#![cfg(test)]

use std::future::Future;
use std::time::Duration;

use lifeboat_postgres::{
    AuthError, ConnectionSettings, MessageError, ProtocolFault, Purpose, Session, SessionError, TlsError,
};
use lifeboat_vocabulary::error_chain;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

fn welcome() -> Vec<u8> {
    [frame(b'R', &[0; 4]), frame(b'S', b"server_version\x0015.3\0"), frame(b'K', &[0; 8]), frame(b'Z', b"I")].concat()
}

/// Reads a query, and answers with one value.
async fn answer_one(stream: &mut TcpStream, value: &str) -> String {
    assert_eq!(stream.read_u8().await.unwrap(), b'Q');
    let length = stream.read_u32().await.unwrap();
    let mut query = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut query).await.unwrap();
    let length = u32::try_from(value.len()).unwrap().to_be_bytes();
    let row = frame(b'D', &[&[0, 1], length.as_slice(), value.as_bytes()].concat());
    stream.write_all(&[row, frame(b'C', b"SELECT 1\0"), frame(b'Z', b"I")].concat()).await.unwrap();
    String::from_utf8(query).unwrap()
}

/// Lets a client in, up to its first command.
async fn let_in(stream: &mut TcpStream) {
    startup(stream).await;
    stream.write_all(&welcome()).await.unwrap();
    let query = answer_one(stream, "").await;
    assert!(query.starts_with("SELECT pg_catalog.set_config('search_path', '', false)"), "{query}");
}

/// Reads the startup packet.
async fn startup(stream: &mut TcpStream) {
    let length = stream.read_u32().await.unwrap();
    let mut packet = vec![0; usize::try_from(length).unwrap() - 4];
    stream.read_exact(&mut packet).await.unwrap();
}

/// Serves one connection by a script, on a port of its own; returns what the client gets, and what the script has.
async fn against<S, F, T>(more: &str, script: S) -> (Result<Session, SessionError>, T)
where
    S: FnOnce(TcpStream) -> F + Send + 'static,
    F: Future<Output = T> + Send + 'static,
    T: Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        script(stream).await
    });
    let text = format!("host=127.0.0.1 port={port} user=u password=secret {more}");
    let result = Session::connect(&ConnectionSettings::parse(&text).unwrap(), Purpose::Sql).await;
    (result, server.await.unwrap())
}

/// Says no more and reads to the end. A socket that is closed over unread bytes is reset, and what it has not sent yet is
/// lost (RFC 1122, section 4.2.2.13): the client would see a lost connection instead of the answer.
async fn hang_up(mut stream: TcpStream) {
    stream.shutdown().await.unwrap();
    // A client that resets the connection has gone as well.
    let _gone = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
}

/// A session with a server that answers the first command by `answer` and then ends the connection.
async fn session_with(answer: Vec<u8>) -> Session {
    let (session, ()) = against("sslmode=disable", |mut stream| async move {
        let_in(&mut stream).await;
        tokio::spawn(async move {
            stream.read_u8().await.unwrap();
            // A client that has read enough hangs up first.
            if stream.write_all(&answer).await.is_ok() {
                hang_up(stream).await;
            }
        });
    })
    .await;
    session.unwrap()
}

#[tokio::test]
async fn a_server_that_skips_its_own_proof_is_not_believed() {
    let (result, ()) = against("sslmode=disable", |mut stream| async move {
        startup(&mut stream).await;
        stream.write_all(&frame(b'R', b"\0\0\0\x0aSCRAM-SHA-256\0\0")).await.unwrap();
        stream.read_u8().await.unwrap();
        stream.write_all(&welcome()).await.unwrap();
        hang_up(stream).await;
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, SessionError::Authentication { source: AuthError::NotProven, .. }), "{error:?}");
    assert!(error.remedy().unwrap().contains("pretends to be the server"));
}

#[tokio::test]
async fn a_password_is_never_sent_in_clear_to_whoever_asks_for_it() {
    let (result, heard) = against("sslmode=disable", |mut stream| async move {
        startup(&mut stream).await;
        stream.write_all(&frame(b'R', &[0, 0, 0, 3])).await.unwrap();
        let mut heard = Vec::new();
        stream.read_to_end(&mut heard).await.unwrap();
        heard
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, SessionError::Authentication { source: AuthError::ClearOnPlainLine, .. }), "{error:?}");
    assert_eq!(heard, b"", "not a byte after the startup packet");
}

#[tokio::test]
async fn bytes_smuggled_in_front_of_the_handshake_do_not_reach_the_session() {
    let (result, ()) = against("sslmode=require", |mut stream| async move {
        startup(&mut stream).await;
        stream.write_all(&[b"S", welcome().as_slice()].concat()).await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
    })
    .await;
    let error = result.unwrap_err();
    assert!(matches!(error, SessionError::Tls { source: TlsError::Handshake(_), .. }), "{error:?}");
}

#[tokio::test]
async fn a_silent_server_is_given_up_in_time() {
    for (mode, answer) in [("disable", None), ("require", None), ("require", Some(b"S"))] {
        let begun = tokio::time::Instant::now();
        let (result, ()) = against(&format!("connect_timeout=1 sslmode={mode}"), move |mut stream| async move {
            startup(&mut stream).await;
            if let Some(answer) = answer {
                stream.write_all(answer).await.unwrap();
            }
            let mut rest = Vec::new();
            stream.read_to_end(&mut rest).await.unwrap();
        })
        .await;
        let error = result.unwrap_err();
        assert!(matches!(error, SessionError::TimedOut { .. }) && error.is_transient(), "{mode}: {error:?}");
        assert!(begun.elapsed() < Duration::from_secs(5), "{mode}");
    }
}

#[tokio::test]
async fn a_server_that_keeps_its_search_path_gets_no_session() {
    let (result, _) = against("sslmode=disable", |mut stream| async move {
        startup(&mut stream).await;
        stream.write_all(&welcome()).await.unwrap();
        answer_one(&mut stream, "public").await
    })
    .await;
    let error = error_chain(&result.unwrap_err());
    assert!(error.contains("the search path Some(\"public\")"), "{error}");
}

#[tokio::test]
async fn texts_of_a_server_are_cut_before_they_are_kept() {
    let long = "x".repeat(1 << 20);
    let said =
        [b"VERROR\0CXX000\0M", long.as_bytes(), b"\0D", long.as_bytes(), b"\0H", long.as_bytes(), b"\0\0"].concat();
    let settings = [b"y\0", long.as_bytes(), b"\0"].concat();
    let mut session = session_with([frame(b'S', &settings), frame(b'E', &said), frame(b'Z', b"I")].concat()).await;
    let error = session.query("select").await.unwrap_err();
    let message = error.server_message().unwrap();
    for text in [&message.message, message.detail.as_ref().unwrap(), message.hint.as_ref().unwrap()] {
        assert!(text.starts_with("xxxx") && text.ends_with("...") && text.len() <= 4096, "{} bytes", text.len());
    }
    let parameter = session.parameter("y").unwrap();
    assert!(parameter.len() <= 4096, "{} bytes", parameter.len());
}

#[tokio::test]
async fn nonsense_during_log_in_is_refused() {
    for (why, said, expected) in [
        ("another protocol", b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec(), "claims a length of 1414811695 bytes"),
        ("ready before anybody was let in", frame(b'Z', b"I"), "message `Z` during log-in"),
        ("data before anybody was let in", frame(b'd', b"x"), "message `d` during log-in"),
        ("no version", [frame(b'R', &[0; 4]), frame(b'Z', b"I")].concat(), "a server without a version"),
        ("malformed", frame(b'R', &[0]), "message `R` is malformed"),
        ("an old method", frame(b'R', &[0, 0, 0, 2]), "Kerberos V5"),
        ("unknown mechanisms", frame(b'R', b"\0\0\0\x0aX\0Y\0\0"), "SASL mechanisms X, Y"),
        ("the end", Vec::new(), "is lost"),
    ] {
        let (result, ()) = against("sslmode=disable", move |mut stream| async move {
            startup(&mut stream).await;
            stream.write_all(&said).await.unwrap();
        })
        .await;
        let error = result.unwrap_err();
        let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
        let whole = format!("{error}: {cause}");
        assert!(whole.contains(expected) && !whole.contains("secret"), "{why}: {whole}");
    }
}

#[tokio::test]
async fn an_answer_that_never_ends_stays_within_its_bounds() {
    let row = frame(b'D', &[&[0, 1, 0, 16, 0, 0][..], &[b'x'; 1 << 20]].concat());
    let mut session = session_with([frame(b'T', &[0, 0]), row.repeat(17)].concat()).await;
    let error = session.query("select").await.unwrap_err();
    assert!(matches!(error, SessionError::Protocol { what: ProtocolFault::TooLarge { .. }, .. }), "{error:?}");
    let error = session.query("select").await.unwrap_err();
    assert!(matches!(error, SessionError::Protocol { what: ProtocolFault::Unusable, .. }), "{error:?}");

    // Rows without columns have no bytes of their own, but take memory all the same.
    let mut session = session_with(frame(b'D', &[0, 0]).repeat(1 << 20)).await;
    let error = session.query("select").await.unwrap_err();
    assert!(matches!(error, SessionError::Protocol { what: ProtocolFault::TooLarge { .. }, .. }), "{error:?}");

    let mut session = session_with(vec![b'd', 0x40, 0, 0, 0]).await;
    session.send_query("x").await.unwrap();
    let error = session.next_message().await.unwrap_err();
    let expected = ProtocolFault::Message(MessageError::Length { tag: b'd', length: 1 << 30 });
    assert!(matches!(error, SessionError::Protocol { what, .. } if what == expected));
}

#[tokio::test]
async fn answers_that_do_not_belong_to_a_query_are_refused() {
    for (why, answer) in [
        ("copy data", frame(b'H', &[0, 0, 0])),
        ("text that is not UTF-8", frame(b'D', b"\0\x01\0\0\0\x01\xff")),
        ("authentication", frame(b'R', &[0; 4])),
        ("an unknown message", frame(b't', b"")),
    ] {
        let mut session = session_with(answer).await;
        let error = session.query("select").await.unwrap_err();
        assert!(matches!(error, SessionError::Protocol { .. }), "{why}: {error:?}");
        assert!(!error.is_transient(), "{why}");
        let error = session.send_query("select").await.unwrap_err();
        assert!(matches!(error, SessionError::Protocol { what: ProtocolFault::Unusable, .. }), "{why}: {error:?}");
    }
}

#[tokio::test]
async fn a_query_without_an_answer_is_given_up() {
    let (session, stream) = against("sslmode=disable", |mut stream| async move {
        let_in(&mut stream).await;
        stream
    })
    .await;
    let mut session = session.unwrap();
    session.set_query_timeout(Duration::from_millis(50));
    let error = session.query("select").await.unwrap_err();
    assert!(matches!(error, SessionError::TimedOut { .. }), "{error:?}");
    let error = session.next_message().await.unwrap_err();
    assert!(matches!(error, SessionError::Protocol { what: ProtocolFault::Unusable, .. }), "{error:?}");
    drop(stream);
}

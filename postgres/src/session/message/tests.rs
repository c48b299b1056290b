//! Bytes that are messages, and bytes that are not.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use crate::session::message::*;

fn decode(tag: u8, body: &[u8]) -> Result<Decoded, MessageError> {
    decode_message(tag, Bytes::copy_from_slice(body))
}

fn frame(tag: u8, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len() + 4).unwrap();
    [&[tag], length.to_be_bytes().as_slice(), body].concat()
}

#[test]
fn messages_that_end_early_or_lie_about_their_size_are_refused() {
    for (why, tag, body) in [
        ("row without count", b'D', &b"\0"[..]),
        ("row with more columns than bytes", b'D', b"\xff\xff\0\0\0\0"),
        ("column longer than the row", b'D', b"\0\x01\0\0\0\x05abcd"),
        ("column of negative length", b'D', b"\0\x01\xff\xff\xff\xfeabcd"),
        ("more names than bytes", b'T', b"\0\x09a\0"),
        ("name without end", b'T', b"\0\x01abcdefghijklmnopqrstuvwxyz"),
        ("type cut off", b'T', b"\0\x01ab\0aaaaaaaaaaaaaaaaa"),
        ("tag without end", b'C', b"SELECT 1"),
        ("error without end", b'E', b"SERROR\0"),
        ("error field without end", b'E', b"SERROR"),
        ("empty error", b'E', b""),
        ("parameter without value", b'S', b"a\0b"),
        ("authentication without method", b'R', b"\0\0\0"),
        ("salt cut off", b'R', b"\0\0\0\x05abc"),
        ("mechanisms without end", b'R', b"\0\0\0\x0aSCRAM-SHA-256\0"),
        ("process cut off", b'K', b"\0\0\0"),
    ] {
        assert!(matches!(decode(tag, body), Err(MessageError::Malformed { .. })), "{why}");
    }
    for tag in [b'1', b't', b'F', 0, 0xff] {
        assert_eq!(decode(tag, b"").unwrap_err(), MessageError::Unexpected { tag });
    }
    assert_eq!(MessageError::Unexpected { tag: 0xff }.to_string(), r"message `\u{ff}` is not expected here");
}

#[test]
fn lengths_that_cannot_be_right_are_refused_before_anything_is_allocated() {
    for length in [0u32, 3, 64 << 20, 1 << 30, u32::MAX] {
        let mut buffer = BytesMut::new();
        buffer.put_u8(b'd');
        buffer.put_u32(length);
        assert_eq!(split_message(&mut buffer).unwrap_err(), MessageError::Length { tag: b'd', length });
        assert_eq!(buffer.len(), 5, "nothing is consumed");
    }
    assert_eq!(message_length(&[b'd', 3, 0xff, 0xff, 0xff]).unwrap(), Some(MESSAGE_MAX));
    assert_eq!(message_length(b"d\0\0\0").unwrap(), None);
}

#[test]
fn messages_mean_what_the_protocol_says() {
    let text = |text: &str| text.to_owned();
    let row = vec![Some(Bytes::from_static(b"ab")), None, Some(Bytes::new())];
    let error = ServerMessage {
        severity: text("FATAL"),
        code: text("28000"),
        message: text("nein"),
        detail: Some(text("weil")),
        hint: None,
        routine: Some(text("auth_failed")),
    };
    let fields = b"SFEHLER\0VFATAL\0C28000\0Mnein\0Dweil\0Fauth.c\0Rauth_failed\0\0";
    for (tag, body, expected) in [
        (b'D', &b"\0\x03\0\0\0\x02ab\xff\xff\xff\xff\0\0\0\0"[..], BackendMessage::DataRow(row)),
        (b'T', b"\0\x01name\0ttttnnTTTTssmmmmff", BackendMessage::RowDescription(vec![text("name")])),
        (b'C', b"SELECT 1\0", BackendMessage::CommandComplete(text("SELECT 1"))),
        (b'H', b"\0\0\0", BackendMessage::CopyOut),
        (b'G', b"\0\0\0", BackendMessage::CopyIn),
        (b'W', b"\0\0\0", BackendMessage::CopyBoth),
        (b'd', b"\0\xffdata", BackendMessage::CopyData(Bytes::from_static(b"\0\xffdata"))),
        (b'c', b"", BackendMessage::CopyDone),
        (b'Z', b"I", BackendMessage::ReadyForQuery),
        (b'I', b"", BackendMessage::EmptyQuery),
        (b'E', fields, BackendMessage::Error(error.clone())),
        (b'N', fields, BackendMessage::Notice(error)),
    ] {
        assert_eq!(decode(tag, body).unwrap(), Decoded::Message(expected), "{}", char::from(tag));
    }
    for (tag, body, expected) in [
        (b'R', &b"\0\0\0\0"[..], Decoded::Authentication(AuthRequest::Ok)),
        (b'R', b"\0\0\0\x03", Decoded::Authentication(AuthRequest::CleartextPassword)),
        (b'R', b"\0\0\0\x05abcd", Decoded::Authentication(AuthRequest::Md5Password(*b"abcd"))),
        (b'R', b"\0\0\0\x0aA\0B\0\0", Decoded::Authentication(AuthRequest::Sasl(vec![text("A"), text("B")]))),
        (b'R', b"\0\0\0\x0bx", Decoded::Authentication(AuthRequest::SaslContinue(Bytes::from_static(b"x")))),
        (b'R', b"\0\0\0\x0cy", Decoded::Authentication(AuthRequest::SaslFinal(Bytes::from_static(b"y")))),
        (b'R', b"\0\0\0\x07", Decoded::Authentication(AuthRequest::Other(7))),
        (b'S', b"a\0b\0", Decoded::Parameter(text("a"), text("b"))),
        (b'K', b"\0\0\x01\0secr", Decoded::ProcessId(256)),
        (b'A', b"whatever", Decoded::Ignored),
    ] {
        assert_eq!(decode(tag, body).unwrap(), expected, "{}", char::from(tag));
    }
}

#[test]
fn copy_data_shares_the_receive_buffer() {
    let mut buffer = BytesMut::from(frame(b'd', b"payload").as_slice());
    let start = buffer.as_ptr() as usize;
    let (_, body) = split_message(&mut buffer).unwrap().unwrap();
    match decode_message(b'd', body).unwrap() {
        Decoded::Message(BackendMessage::CopyData(data)) => assert_eq!(data.as_ptr() as usize, start + 5),
        other => panic!("{other:?}"),
    }
}

proptest! {
    #[test]
    fn any_bytes_are_safe(tag: u8, body in proptest::collection::vec(any::<u8>(), 0..200)) {
        drop(decode(tag, &body));
        for tag in *b"dDTCHGWcNEZIRSKAv" {
            drop(decode(tag, &body));
        }
        let mut buffer = BytesMut::from(body.as_slice());
        let mut left = buffer.len();
        while let Ok(Some((tag, body))) = split_message(&mut buffer) {
            prop_assert!(buffer.len() < left);
            left = buffer.len();
            drop(decode_message(tag, body));
        }
    }

    #[test]
    fn messages_are_complete_however_the_network_splits_them(
        bodies in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..50), 0..10),
        cut in 1usize..20,
    ) {
        let line: Vec<u8> = bodies.iter().flat_map(|body| frame(b'd', body)).collect();
        let (mut buffer, mut found) = (BytesMut::new(), Vec::new());
        for piece in line.chunks(cut) {
            buffer.extend_from_slice(piece);
            while let Some((_, body)) = split_message(&mut buffer).unwrap() {
                found.push(body.to_vec());
            }
        }
        prop_assert_eq!(found, bodies);
        prop_assert!(buffer.is_empty());
    }
}

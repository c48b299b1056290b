#![no_main]
//! Messages of the PostgreSQL protocol.

use bytes::BytesMut;
use lifeboat_postgres::{decode_message, server_end_point, split_message};

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let mut buffer = BytesMut::from(data);
    while let Ok(Some((tag, body))) = split_message(&mut buffer) {
        std::hint::black_box(&decode_message(tag, body));
    }
    std::hint::black_box(&server_end_point(data));
});

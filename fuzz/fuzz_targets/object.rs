#![no_main]
//! A sealed object from storage: nobody's bytes are accepted without the key, and none of them may do harm.

use bytes::Bytes;
use lifeboat_fuzz::{epoch_key, expected};
use lifeboat_repository::format::compression::Decompressor;
use lifeboat_repository::format::header::ObjectHeader;
use lifeboat_repository::format::unseal::verify_object;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    if let Ok(header) = ObjectHeader::parse(data) {
        assert_eq!(header.encode().as_ref().map(|bytes| &bytes[..]), Ok(&data[..112]));
        let mut decompressor = Decompressor::new().expect("zstd has memory");
        let object = Bytes::copy_from_slice(data);
        assert!(verify_object(&epoch_key(), &expected(header.kind), &[], object, &mut decompressor).is_err());
    }
});

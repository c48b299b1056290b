//! Messages of the PostgreSQL protocol, as a server writes and reads them.
//!
//! Source: PostgreSQL manual, chapter "Frontend/Backend Protocol".

use std::io;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

/// A row of text values.
pub(super) type Row = Vec<Option<String>>;

/// The server's end of a connection.
pub(super) struct Line {
    stream: DuplexStream,
    incoming: BytesMut,
    outgoing: BytesMut,
}

impl Line {
    pub(super) fn new(stream: DuplexStream) -> Self {
        Self { stream, incoming: BytesMut::new(), outgoing: BytesMut::new() }
    }

    /// The client's first message: names and values.
    pub(super) async fn startup(&mut self) -> io::Result<Vec<String>> {
        loop {
            if let Some(length) = self.incoming.first_chunk::<4>() {
                let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
                if self.incoming.len() >= length {
                    let message = self.incoming.split_to(length).split_off(8);
                    let words = message.as_ref().split(|byte| *byte == 0);
                    return Ok(words.map(|word| String::from_utf8_lossy(word).into_owned()).collect());
                }
            }
            self.fill().await?;
        }
    }

    /// The client's next message. Cancel-safe.
    pub(super) async fn next(&mut self) -> io::Result<(u8, Bytes)> {
        loop {
            if let Some([tag, length @ ..]) = self.incoming.first_chunk::<5>() {
                let (tag, length) = (*tag, usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX));
                if self.incoming.len() > length {
                    let mut message = self.incoming.split_to(length + 1);
                    message.advance(5);
                    return Ok((tag, message.freeze()));
                }
            }
            self.fill().await?;
        }
    }

    async fn fill(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.incoming).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    /// Sends what was put.
    pub(super) async fn flush(&mut self) -> io::Result<()> {
        while self.outgoing.has_remaining() {
            self.stream.write_buf(&mut self.outgoing).await?;
        }
        Ok(())
    }

    pub(super) fn put(&mut self, tag: u8, body: &[u8]) {
        self.outgoing.put_u8(tag);
        self.outgoing.put_u32(u32::try_from(body.len() + 4).unwrap_or(u32::MAX));
        self.outgoing.put_slice(body);
    }

    /// Log-in is over: what the server says of itself.
    pub(super) fn put_welcome(&mut self, process: u32) {
        self.put(b'R', &0u32.to_be_bytes());
        for (name, value) in
            [("server_version", "17.2"), ("in_hot_standby", "off"), ("default_transaction_read_only", "off")]
        {
            self.put(b'S', format!("{name}\0{value}\0").as_bytes());
        }
        self.put(b'K', &[process.to_be_bytes(), 7u32.to_be_bytes()].concat());
        self.put_ready();
    }

    pub(super) fn put_ready(&mut self) {
        self.put(b'Z', b"I");
    }

    pub(super) fn put_complete(&mut self, tag: &str) {
        self.put(b'C', format!("{tag}\0").as_bytes());
    }

    pub(super) fn put_rows(&mut self, columns: usize, rows: &[Row]) {
        let mut head = BytesMut::new();
        head.put_u16(u16::try_from(columns).unwrap_or(0));
        for _ in 0..columns {
            head.put_slice(b"column\0");
            head.put_u32(0);
            head.put_u16(0);
            head.put_u32(25);
            head.put_i16(-1);
            head.put_i32(-1);
            head.put_u16(0);
        }
        self.put(b'T', &head);
        for row in rows {
            let mut body = BytesMut::new();
            body.put_u16(u16::try_from(row.len()).unwrap_or(0));
            for value in row {
                match value {
                    Some(text) => {
                        body.put_u32(u32::try_from(text.len()).unwrap_or(0));
                        body.put_slice(text.as_bytes());
                    }
                    None => body.put_i32(-1),
                }
            }
            self.put(b'D', &body);
        }
    }

    pub(super) fn put_error(&mut self, code: &str, message: &str) {
        let body = format!("SERROR\0VERROR\0C{code}\0M{message}\0\0");
        self.put(b'E', body.as_bytes());
    }
}

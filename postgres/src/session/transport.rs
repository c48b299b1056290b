//! Bytes to and from a server: socket, options of the socket, and the receive buffer.

use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes, BytesMut};
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use crate::session::error::{ProtocolFault, SessionError};
use crate::session::message::{message_length, split_message};
use crate::session::settings::LineSettings;

/// Receive buffer for conversation, in bytes.
const BLOCK_SMALL: usize = 16 << 10;
/// Receive buffer for copy data: whoever keeps a slice keeps at most this block.
const BLOCK_BULK: usize = 1 << 20;

/// A connection, encrypted or not.
pub(crate) enum Stream {
    Unix(UnixStream),
    Tcp(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
    /// To a server in this process.
    #[cfg(feature = "testing")]
    Memory(tokio::io::DuplexStream),
}

/// Opens a TCP connection.
pub(crate) async fn connect_tcp(address: SocketAddr, line: LineSettings) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    // Messages are collected before they are sent, so that waiting for more only delays them.
    stream.set_nodelay(true)?;
    if let Some((idle, interval, count)) = line.keepalive {
        sockopt::set_socket_keepalive(&stream, true)?;
        sockopt::set_tcp_keepidle(&stream, idle)?;
        sockopt::set_tcp_keepintvl(&stream, interval)?;
        sockopt::set_tcp_keepcnt(&stream, count)?;
    }
    if line.user_timeout_ms > 0 {
        sockopt::set_tcp_user_timeout(&stream, line.user_timeout_ms)?;
    }
    Ok(stream)
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_read(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => Pin::new(stream).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tcp(stream) => Pin::new(stream).poll_write(cx, buf),
            Self::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => Pin::new(stream).poll_write(cx, buf),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_flush(cx),
            Self::Tls(stream) => Pin::new(stream).poll_flush(cx),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Unix(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tcp(stream) => Pin::new(stream).poll_shutdown(cx),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
            #[cfg(feature = "testing")]
            Self::Memory(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}

/// A connection that speaks in messages. All methods may be cancelled and called again: nothing is lost or sent twice.
pub(crate) struct Transport {
    stream: Stream,
    /// For error texts.
    host: String,
    incoming: BytesMut,
    outgoing: BytesMut,
    block: usize,
}

impl Transport {
    pub(crate) fn new(stream: Stream, host: String) -> Self {
        Self { stream, host, incoming: BytesMut::new(), outgoing: BytesMut::new(), block: BLOCK_SMALL }
    }

    pub(crate) fn host(&self) -> &str {
        &self.host
    }

    /// Whether somebody on the line could listen.
    pub(crate) fn is_readable_by_others(&self) -> bool {
        matches!(self.stream, Stream::Tcp(_))
    }

    pub(crate) fn tls(&self) -> Option<&TlsStream<TcpStream>> {
        match &self.stream {
            Stream::Tls(stream) => Some(stream),
            _ => None,
        }
    }

    /// Much data is coming: read it in large blocks from now on.
    pub(crate) fn expect_bulk(&mut self) {
        self.block = BLOCK_BULK;
    }

    /// Where messages to the server are collected; [`Self::flush`] sends them.
    pub(crate) fn outgoing(&mut self) -> &mut BytesMut {
        &mut self.outgoing
    }

    /// Sends what is collected.
    pub(crate) async fn flush(&mut self) -> Result<(), SessionError> {
        while self.outgoing.has_remaining() {
            match self.stream.write_buf(&mut self.outgoing).await {
                Ok(0) => return Err(self.lost(io::ErrorKind::WriteZero.into())),
                Ok(_) => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
        self.stream.flush().await.map_err(|error| self.lost(error))
    }

    /// The next message: its tag and its content, which shares the receive buffer.
    pub(crate) async fn next(&mut self) -> Result<(u8, Bytes), SessionError> {
        loop {
            if let Some(message) = split_message(&mut self.incoming).map_err(|fault| self.fault(fault.into()))? {
                return Ok(message);
            }
            self.make_room()?;
            match self.stream.read_buf(&mut self.incoming).await {
                Ok(0) => return Err(self.lost(io::ErrorKind::UnexpectedEof.into())),
                Ok(_) => {}
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    /// Makes room for the rest of the message that has begun, and for a large read in any case.
    fn make_room(&mut self) -> Result<(), SessionError> {
        let begun = message_length(&self.incoming).map_err(|fault| self.fault(fault.into()))?;
        let missing = begun.unwrap_or_default().saturating_sub(self.incoming.len());
        let wanted = missing.max(self.block / 4);
        // A block that nobody else holds any more is used again; one that is held is left to its holders, never grown.
        if !self.incoming.try_reclaim(wanted) {
            let mut fresh = BytesMut::with_capacity(self.block.max(self.incoming.len() + wanted));
            fresh.extend_from_slice(&self.incoming);
            self.incoming = fresh;
        }
        Ok(())
    }

    /// Ends the connection in order. The server ends it too, so that nothing is left to be told if this fails.
    pub(crate) async fn shut_down(&mut self) -> io::Result<()> {
        self.stream.shutdown().await
    }

    pub(crate) fn fault(&self, what: ProtocolFault) -> SessionError {
        SessionError::Protocol { host: self.host.clone(), what }
    }

    pub(crate) fn lost(&self, source: io::Error) -> SessionError {
        let host = self.host.clone();
        // In TLS 1.3 the server judges the client's certificate after the handshake, from the client's point of view.
        match source.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>()) {
            Some(error) => SessionError::Tls { host, source: error.clone().into() },
            None => SessionError::Lost { host, source },
        }
    }
}

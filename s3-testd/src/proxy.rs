//! A TCP proxy that makes the network fail.

use std::net::{Ipv4Addr, SocketAddr};
use std::num::NonZeroU64;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use lifeboat_testkit::SeededRandom;
use parking_lot::Mutex;
use rustix::net::sockopt::set_socket_recv_buffer_size;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{ReadHalf, WriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc, watch};
use tokio::time::{Instant, sleep, sleep_until};

use crate::background::Background;
use crate::server::bind;

/// Bytes read at once.
const CHUNK: usize = 64 * 1024;

/// Chunks under way in one direction of one connection: with latency, the window is at most 8 MiB.
const CHUNKS_MAX: usize = 128;

/// Bytes that a slow line takes besides those that travel: more, and senders would not notice how slow it is.
const QUEUE: u64 = 64 * 1024;

/// What the system keeps for a slow line.
const SYSTEM_QUEUE: usize = 64 * 1024;

/// A slow line drips in pieces of this size.
const PIECE: usize = 4096;

/// The state of the network. `Network::default()` forwards everything at once.
#[derive(Clone, Debug, Default)]
pub struct Network {
    /// Whether anything passes at all.
    pub mode: Mode,
    /// Time that bytes take in each direction: a round trip takes twice as long.
    pub latency: Duration,
    /// Each chunk takes up to this much less or more, never overtaking; the same sequence in every run.
    pub jitter: Duration,
    /// From the client to the server.
    pub up: Line,
    /// From the server to the client.
    pub down: Line,
}

/// Whether anything passes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mode {
    /// Yes.
    #[default]
    Forward,
    /// Connections are accepted and nothing is ever answered; also those that were open before.
    Blackhole,
    /// The port is closed; open connections are reset.
    Refuse,
}

/// One direction of the network.
#[derive(Clone, Debug, Default)]
pub struct Line {
    /// Bytes per second of each connection; `None` is as fast as it goes.
    pub bytes_per_second: Option<NonZeroU64>,
    /// A line that all connections share, and those of all proxies that have the same one.
    pub shared: Option<SharedLine>,
    /// The connection is reset when this byte would pass.
    pub reset_after: Option<Strike>,
    /// This direction is closed in an orderly way when this byte would pass; the other stays open.
    pub half_close_after: Option<Strike>,
    /// All bits of this byte are turned round.
    pub flip_byte: Option<Strike>,
}

/// A line with a rate of its own. Who wants to send gets turns, a small piece each: no connection is behind another one's megabytes.
/// Clones are the same line.
#[derive(Clone, Debug)]
pub struct SharedLine {
    bytes_per_second: NonZeroU64,
    free_at: Arc<Mutex<Option<Instant>>>,
}

impl SharedLine {
    /// A line of this rate.
    #[must_use]
    pub fn new(bytes_per_second: NonZeroU64) -> Self {
        Self { bytes_per_second, free_at: Arc::default() }
    }

    /// Takes the next turn, and gives when it begins.
    fn turn(&self, bytes: usize) -> Instant {
        let mut free_at = self.free_at.lock();
        let now = Instant::now();
        let begins = free_at.map_or(now, |free_at| free_at.max(now));
        *free_at = Some(begins + time_for(bytes, self.bytes_per_second));
        begins
    }
}

fn time_for(bytes: usize, rate: NonZeroU64) -> Duration {
    Duration::from_nanos((bytes as u64).saturating_mul(1_000_000_000) / rate.get())
}

/// Where in a connection something happens, and to how many connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Strike {
    /// Bytes of this direction, from 0, that pass first.
    pub at: u64,
    /// Connections that are still to be hit.
    pub times: u64,
}

impl Strike {
    /// Hits one connection.
    #[must_use]
    pub fn once(at: u64) -> Self {
        Self { at, times: 1 }
    }

    /// Hits every connection.
    #[must_use]
    pub fn always(at: u64) -> Self {
        Self { at, times: u64::MAX }
    }
}

/// What passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ProxyCounters {
    /// Connections accepted since the start.
    pub accepted: u64,
    /// Connections open now.
    pub open: u64,
    /// Bytes delivered to the server.
    pub bytes_up: u64,
    /// Bytes delivered to clients.
    pub bytes_down: u64,
}

/// A running proxy. Dropping it closes the port and all connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    _background: Background,
}

#[derive(Debug)]
struct Shared {
    network: watch::Sender<Network>,
    accepted: AtomicU64,
    open: AtomicU64,
    bytes_up: AtomicU64,
    bytes_down: AtomicU64,
}

impl Proxy {
    /// Starts a proxy on a free port of 127.0.0.1 and on a thread of its own.
    pub fn start(upstream: SocketAddr) -> std::io::Result<Self> {
        let listener = bind(SocketAddr::from((Ipv4Addr::LOCALHOST, 0)))?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            network: watch::Sender::new(Network::default()),
            accepted: AtomicU64::new(0),
            open: AtomicU64::new(0),
            bytes_up: AtomicU64::new(0),
            bytes_down: AtomicU64::new(0),
        });
        let background = Background::run("tcp-proxy", serve(listener, upstream, Arc::clone(&shared)))?;
        Ok(Self { address, shared, _background: background })
    }

    /// Where the proxy listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.address
    }

    /// The port that the proxy listens on.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.address.port()
    }

    /// The proxy as a plain HTTP endpoint.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Changes the network; open connections feel it too.
    pub fn change(&self, change: impl FnOnce(&mut Network)) {
        self.shared.network.send_modify(change);
    }

    /// Makes the network whole again.
    pub fn clear(&self) {
        self.change(|network| *network = Network::default());
    }

    /// What passed so far.
    #[must_use]
    pub fn counters(&self) -> ProxyCounters {
        ProxyCounters {
            accepted: self.shared.accepted.load(Ordering::Relaxed),
            open: self.shared.open.load(Ordering::Relaxed),
            bytes_up: self.shared.bytes_up.load(Ordering::Relaxed),
            bytes_down: self.shared.bytes_down.load(Ordering::Relaxed),
        }
    }
}

async fn serve(listener: std::net::TcpListener, upstream: SocketAddr, shared: Arc<Shared>) {
    let Ok(address) = listener.local_addr() else { return };
    let mut network = shared.network.subscribe();
    let mut next = Some(listener);
    loop {
        // Rebinding can fail for a moment while the old listener's last connections go away.
        let listener = match next.take().map_or_else(|| bind(address), Ok).and_then(TcpListener::from_std) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!(%error, "the proxy cannot open its port yet");
                sleep(Duration::from_millis(10)).await;
                continue;
            }
        };
        tokio::select! {
            () = accept(&listener, upstream, &shared) => {}
            () = wait_for(&mut network, |mode| mode == Mode::Refuse) => {}
        }
        drop(listener);
        wait_for(&mut network, |mode| mode != Mode::Refuse).await;
    }
}

async fn accept(listener: &TcpListener, upstream: SocketAddr, shared: &Arc<Shared>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => {
                let shared = Arc::clone(shared);
                shared.accepted.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(async move {
                    shared.open.fetch_add(1, Ordering::Relaxed);
                    if let Err(error) = connection(client, upstream, &shared).await {
                        tracing::debug!(%error, "a proxied connection failed");
                    }
                    shared.open.fetch_sub(1, Ordering::Relaxed);
                });
            }
            Err(error) => tracing::warn!(%error, "the proxy could not accept a connection"),
        }
    }
}

/// Returns when the mode is as wanted. The sender lives as long as the proxy, so it never ends otherwise.
async fn wait_for(network: &mut watch::Receiver<Network>, wanted: impl Fn(Mode) -> bool) {
    if network.wait_for(|network| wanted(network.mode)).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn connection(mut client: TcpStream, upstream: SocketAddr, shared: &Shared) -> std::io::Result<()> {
    client.set_nodelay(true)?;
    let mut network = shared.network.subscribe();
    wait_for(&mut network, |mode| mode != Mode::Blackhole).await;
    let mut server = match TcpStream::connect(upstream).await {
        Ok(server) => server,
        Err(error) => {
            client.set_zero_linger()?;
            return Err(error);
        }
    };
    server.set_nodelay(true)?;
    for (side, from) in [(Side::Up, &client), (Side::Down, &server)] {
        if slowest(shared, side).is_some() {
            set_socket_recv_buffer_size(from, SYSTEM_QUEUE)?;
        }
    }
    let ended = {
        let (client_read, client_write) = client.split();
        let (server_read, server_write) = server.split();
        let up = Pump { shared, side: Side::Up, passed: 0, random: SeededRandom::new(1) };
        let down = Pump { shared, side: Side::Down, passed: 0, random: SeededRandom::new(2) };
        tokio::select! {
            both = async { tokio::try_join!(up.run(client_read, server_write), down.run(server_read, client_write)) } => both.map(drop),
            () = wait_for(&mut network, |mode| mode == Mode::Refuse) => Err(reset()),
        }
    };
    if ended.is_err() {
        client.set_zero_linger()?;
        server.set_zero_linger()?;
    }
    ended
}

fn reset() -> std::io::Error {
    std::io::ErrorKind::ConnectionReset.into()
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Side {
    Up,
    Down,
}

/// What comes after a chunk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Then {
    GoOn,
    Close,
    Reset,
}

/// A chunk on its way.
struct Packet {
    due: Instant,
    bytes: Vec<u8>,
    then: Then,
}

/// One direction of one connection.
struct Pump<'a> {
    shared: &'a Shared,
    side: Side,
    passed: u64,
    random: SeededRandom,
}

impl Pump<'_> {
    async fn run(mut self, from: ReadHalf<'_>, to: WriteHalf<'_>) -> std::io::Result<()> {
        let (sender, packets) = mpsc::channel(CHUNKS_MAX);
        let (shared, side, travelling) = (self.shared, self.side, Travelling::default());
        let read = self.read(from, sender, &travelling);
        tokio::try_join!(read, write(shared, side, to, packets, &travelling)).map(drop)
    }

    async fn read(
        &mut self,
        mut from: ReadHalf<'_>,
        packets: mpsc::Sender<Packet>,
        travelling: &Travelling,
    ) -> std::io::Result<()> {
        let mut network = self.shared.network.subscribe();
        let mut last_due = Instant::now();
        loop {
            while window(self.shared, self.side).is_some_and(|window| travelling.bytes() >= window) {
                travelling.landed.notified().await;
            }
            let mut bytes = vec![0; CHUNK];
            let length = from.read(&mut bytes).await?;
            bytes.truncate(length);
            wait_for(&mut network, |mode| mode != Mode::Blackhole).await;
            let then = if length == 0 { Then::Close } else { self.strike(&mut bytes) };
            last_due = last_due.max(Instant::now() + self.travel_time());
            travelling.sum.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            let sent = packets.send(Packet { due: last_due, bytes, then }).await;
            if then != Then::GoOn || sent.is_err() {
                return Ok(());
            }
        }
    }

    /// Does to a chunk what is planned for its place in the stream, and says what follows.
    fn strike(&mut self, bytes: &mut Vec<u8>) -> Then {
        let start = self.passed;
        self.passed += bytes.len() as u64;
        let (side, mut then) = (self.side, Then::GoOn);
        // Using up a strike changes nothing that anybody waits for.
        self.shared.network.send_if_modified(|network| {
            let line = match side {
                Side::Up => &mut network.up,
                Side::Down => &mut network.down,
            };
            if let Some(byte) = hit(&mut line.flip_byte, start, bytes.len()).and_then(|at| bytes.get_mut(at)) {
                *byte = !*byte;
            }
            if let Some(at) = hit(&mut line.half_close_after, start, bytes.len()) {
                bytes.truncate(at);
                then = Then::Close;
            }
            if let Some(at) = hit(&mut line.reset_after, start, bytes.len()) {
                bytes.truncate(at);
                then = Then::Reset;
            }
            false
        });
        then
    }

    fn travel_time(&mut self) -> Duration {
        let (latency, jitter) = {
            let network = self.shared.network.borrow();
            (network.latency, network.jitter)
        };
        let spread = u32::try_from(self.random.below(2001)).unwrap_or(0);
        (latency + jitter * spread / 1000).saturating_sub(jitter)
    }
}

/// The place in this chunk that a strike hits, which uses it up by one.
fn hit(strike: &mut Option<Strike>, start: u64, length: usize) -> Option<usize> {
    let planned = strike.as_mut().filter(|strike| strike.times > 0)?;
    let at = usize::try_from(planned.at.checked_sub(start)?).ok().filter(|at| *at < length)?;
    planned.times -= 1;
    Some(at)
}

/// Bytes of one direction of one connection that were read and not delivered yet.
#[derive(Default)]
struct Travelling {
    sum: AtomicU64,
    landed: Notify,
}

impl Travelling {
    fn bytes(&self) -> u64 {
        self.sum.load(Ordering::Relaxed)
    }

    fn land(&self, bytes: usize) {
        self.sum.fetch_sub(bytes as u64, Ordering::Relaxed);
        self.landed.notify_one();
    }
}

fn line(shared: &Shared, side: Side) -> (Option<NonZeroU64>, Option<SharedLine>) {
    let network = shared.network.borrow();
    let line = match side {
        Side::Up => &network.up,
        Side::Down => &network.down,
    };
    (line.bytes_per_second, line.shared.clone())
}

/// The rate that bounds a connection if it is alone.
fn slowest(shared: &Shared, side: Side) -> Option<NonZeroU64> {
    let (own, common) = line(shared, side);
    own.into_iter().chain(common.map(|common| common.bytes_per_second)).min()
}

/// How many bytes may be under way on a slow line: what travels, and a short queue.
fn window(shared: &Shared, side: Side) -> Option<u64> {
    let rate = slowest(shared, side)?.get();
    let latency = shared.network.borrow().latency;
    let travels = u128::from(rate).saturating_mul(2 * latency.as_millis()) / 1000;
    Some(QUEUE.saturating_add(u64::try_from(travels).unwrap_or(u64::MAX)))
}

async fn write(
    shared: &Shared,
    side: Side,
    mut to: WriteHalf<'_>,
    mut packets: mpsc::Receiver<Packet>,
    travelling: &Travelling,
) -> std::io::Result<()> {
    let mut free_at = Instant::now();
    while let Some(packet) = packets.recv().await {
        sleep_until(packet.due).await;
        // Small pieces, so that a slow line drips instead of bursting.
        let piece_size = if slowest(shared, side).is_some() { PIECE } else { CHUNK };
        for piece in packet.bytes.chunks(piece_size) {
            let (own, common) = line(shared, side);
            if let Some(common) = common {
                sleep_until(common.turn(piece.len())).await;
            }
            if let Some(rate) = own {
                sleep_until(free_at).await;
                free_at = free_at.max(Instant::now()) + time_for(piece.len(), rate);
            }
            to.write_all(piece).await?;
            travelling.land(piece.len());
            let counter = if side == Side::Up { &shared.bytes_up } else { &shared.bytes_down };
            counter.fetch_add(piece.len() as u64, Ordering::Relaxed);
        }
        match packet.then {
            Then::GoOn => {}
            Then::Close => return to.shutdown().await,
            Then::Reset => return Err(reset()),
        }
    }
    Ok(())
}

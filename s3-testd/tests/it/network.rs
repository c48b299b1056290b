//! The proxy's faults, on bare sockets where their exact form matters and through the SDK where the effect does.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::num::NonZeroU64;
use std::time::{Duration, Instant};

use aws_sdk_s3::primitives::ByteStream;
use lifeboat_s3_testd::{Config, Mode, Proxy, Server, SharedLine, Strike};

use crate::common::{BUCKET, body, client, get, put, refusal};

const MILLIS: fn(u64) -> Duration = Duration::from_millis;

/// A server that sends back what it gets, until the end of it.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || {
                let mut stream = stream?;
                let mut copy = stream.try_clone()?;
                std::io::copy(&mut stream, &mut copy)?;
                copy.shutdown(Shutdown::Write)
            });
        }
    });
    address
}

fn proxy() -> Proxy {
    Proxy::start(echo()).unwrap()
}

fn connect(proxy: &Proxy) -> TcpStream {
    let stream = TcpStream::connect(proxy.addr()).unwrap();
    stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
    stream
}

/// Sends, closes its side, and gives all that comes back and how it ended.
fn exchange(proxy: &Proxy, sent: &[u8]) -> (Vec<u8>, Option<ErrorKind>) {
    let mut stream = connect(proxy);
    let (mut writer, sent) = (stream.try_clone().unwrap(), sent.to_vec());
    let sending = std::thread::spawn(move || writer.write_all(&sent).and_then(|()| writer.shutdown(Shutdown::Write)));
    let mut received = Vec::new();
    let receiving = stream.read_to_end(&mut received);
    let sending = sending.join().unwrap();
    (received, receiving.err().or(sending.err()).map(|error| error.kind()))
}

#[test]
fn a_whole_network_changes_nothing_and_counts() {
    let proxy = proxy();
    let sent = body(3 << 20);
    assert!(exchange(&proxy, &sent) == (sent, None));
    let counters = proxy.counters();
    assert_eq!((counters.accepted, counters.bytes_up, counters.bytes_down), (1, 3 << 20, 3 << 20));
    let deadline = Instant::now() + Duration::from_secs(5);
    while proxy.counters().open > 0 {
        assert!(Instant::now() < deadline);
        std::thread::sleep(MILLIS(5));
    }
}

#[test]
fn one_byte_is_flipped_in_the_direction_and_place_asked_for_and_once() {
    let proxy = proxy();
    proxy.change(|network| network.up.flip_byte = Some(Strike::once(2)));
    assert_eq!(exchange(&proxy, b"abcd"), (b"ab\x9cd".to_vec(), None));
    assert_eq!(exchange(&proxy, b"abcd"), (b"abcd".to_vec(), None));
    proxy.change(|network| network.down.flip_byte = Some(Strike::always(0)));
    assert_eq!(exchange(&proxy, b"abcd").0[0], 0x9e);
    assert_eq!(exchange(&proxy, b"abcd").0[0], 0x9e);
}

#[test]
fn a_connection_is_reset_or_closed_after_so_many_bytes() {
    let proxy = proxy();
    proxy.change(|network| network.down.half_close_after = Some(Strike::once(3)));
    assert_eq!(exchange(&proxy, b"abcdef"), (b"abc".to_vec(), None), "an orderly end");
    proxy.change(|network| network.down.reset_after = Some(Strike::once(3)));
    assert_eq!(exchange(&proxy, b"abcdef").1, Some(ErrorKind::ConnectionReset));
    assert_eq!(exchange(&proxy, b"abcdef"), (b"abcdef".to_vec(), None), "one connection only");

    proxy.change(|network| network.down.half_close_after = Some(Strike::once(0)));
    let mut stream = connect(&proxy);
    stream.write_all(b"x").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    let before = proxy.counters().bytes_up;
    stream.write_all(b"still open").unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    while proxy.counters().bytes_up < before + 10 {
        assert!(Instant::now() < deadline, "the other direction is open");
        std::thread::sleep(MILLIS(5));
    }
}

#[test]
fn latency_is_paid_per_round_trip_and_not_per_byte() {
    let proxy = proxy();
    proxy.change(|network| (network.latency, network.jitter) = (MILLIS(100), MILLIS(20)));
    let start = Instant::now();
    assert!(exchange(&proxy, &body(4 << 20)) == (body(4 << 20), None));
    let took = start.elapsed();
    assert!(took >= MILLIS(160) && took < MILLIS(4000), "64 chunks one after the other would take 5 s: {took:?}");
}

#[test]
fn a_slow_line_takes_its_time() {
    let proxy = proxy();
    proxy.change(|network| network.up.bytes_per_second = NonZeroU64::new(100_000));
    let start = Instant::now();
    assert_eq!(exchange(&proxy, &body(40_000)).0.len(), 40_000);
    let took = start.elapsed();
    assert!(took >= MILLIS(300) && took < MILLIS(4000), "{took:?}");
}

#[test]
fn one_line_is_shared_by_connections_of_several_proxies_and_each_gets_its_part() {
    let (large, small) = (proxy(), proxy());
    let line = SharedLine::new(NonZeroU64::new(200_000).unwrap());
    for proxy in [&large, &small] {
        proxy.change(|network| network.up.shared = Some(line.clone()));
    }
    let start = Instant::now();
    std::thread::scope(|scope| {
        let sending = scope.spawn(|| exchange(&large, &body(300_000)).0.len());
        std::thread::sleep(MILLIS(300));
        let behind = Instant::now();
        assert_eq!(exchange(&small, &body(20_000)).0.len(), 20_000);
        let took = behind.elapsed();
        assert!(took < MILLIS(1000), "it is not behind all of the other one's bytes: {took:?}");
        assert_eq!(sending.join().unwrap(), 300_000);
    });
    assert!(start.elapsed() >= MILLIS(1400), "both together have no more than the line: {:?}", start.elapsed());
}

#[test]
fn a_slow_line_takes_little_more_than_it_carries() {
    let proxy = proxy();
    proxy.change(|network| network.up.bytes_per_second = NonZeroU64::new(50_000));
    let stream = connect(&proxy);
    stream.set_nonblocking(true).unwrap();
    let (start, mut taken) = (Instant::now(), 0);
    while start.elapsed() < MILLIS(500) {
        match (&stream).write(&[0; 16384]) {
            Ok(length) => taken += length,
            Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::sleep(MILLIS(5)),
            Err(error) => panic!("{error}"),
        }
    }
    let passed = proxy.counters().bytes_up;
    assert!(passed > 10_000 && passed < 60_000, "{passed}");
    assert!(taken < 6 << 20, "beside the buffers of the system, which has up to 4 MiB: {taken}");
}

#[test]
fn a_black_hole_accepts_and_never_answers_until_it_is_closed() {
    let proxy = proxy();
    let mut open_before = connect(&proxy);
    open_before.write_all(b"a").unwrap();
    open_before.read_exact(&mut [0]).unwrap();
    proxy.change(|network| network.mode = Mode::Blackhole);
    for mut stream in [open_before, connect(&proxy)] {
        stream.write_all(b"b").unwrap();
        stream.set_read_timeout(Some(MILLIS(200))).unwrap();
        assert!(matches!(stream.read(&mut [0]).unwrap_err().kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut));
        proxy.clear();
        stream.set_read_timeout(Some(Duration::from_secs(5))).unwrap();
        stream.read_exact(&mut [0]).expect("what was held back arrives");
        proxy.change(|network| network.mode = Mode::Blackhole);
    }
}

#[test]
fn a_closed_port_refuses_and_resets_and_opens_again() {
    let proxy = proxy();
    let mut open_before = connect(&proxy);
    open_before.write_all(b"a").unwrap();
    open_before.read_exact(&mut [0]).unwrap();
    proxy.change(|network| network.mode = Mode::Refuse);
    assert_eq!(open_before.read(&mut [0]).unwrap_err().kind(), ErrorKind::ConnectionReset);
    let deadline = Instant::now() + Duration::from_secs(5);
    let refused = || TcpStream::connect(proxy.addr()).err().map(|error| error.kind());
    while refused().is_none() {
        assert!(Instant::now() < deadline, "the port closes");
    }
    assert_eq!(refused(), Some(ErrorKind::ConnectionRefused));
    proxy.clear();
    while refused().is_some() {
        assert!(Instant::now() < deadline, "the port opens");
    }
    assert_eq!(exchange(&proxy, b"back"), (b"back".to_vec(), None));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bit_that_flips_on_the_way_up_is_caught_by_the_signed_payload() {
    let server = Server::start(Config::default()).unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let client = client(&proxy.url());
    proxy.change(|network| network.up.flip_byte = Some(Strike::once(50_000)));
    let upload = || client.put_object().bucket(BUCKET).key("k").body(ByteStream::from(body(100_000))).send();
    assert_eq!(refusal(upload().await), ("XAmzContentSHA256Mismatch".to_owned(), 400));
    assert!(server.keys(BUCKET).is_empty());
    upload().await.unwrap();
    assert!(get(&client, "k").await == body(100_000));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_that_breaks_half_way_publishes_nothing() {
    let server = Server::start(Config::default()).unwrap();
    let proxy = Proxy::start(server.addr()).unwrap();
    let client = client(&proxy.url());
    put(&client, "k", b"old").await;
    proxy.change(|network| network.up.reset_after = Some(Strike::always(50_000)));
    let upload = client.put_object().bucket(BUCKET).key("k").body(ByteStream::from(body(100_000))).send();
    assert_eq!(refusal(upload.await).1, 0);
    proxy.clear();
    assert_eq!(get(&client, "k").await, b"old");
}

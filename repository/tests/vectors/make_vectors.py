#!/usr/bin/env python3
"""Writes test vectors for sealed objects, from docs/FORMAT.md alone and without our code.

Needs the Python package `cryptography`. Existing files are never overwritten: vectors are added, not changed.
"""
import base64
import hashlib
import pathlib

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.ciphers.aead import ChaCha20Poly1305
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

HERE = pathlib.Path(__file__).parent
KEY = bytes(range(0x40, 0x60))
REPOSITORY, EPOCH, OBJECT, SALT = b"\xa1" * 16, b"\xb2" * 16, b"\xc3" * 16, b"\xd4" * 24
SIGNER = Ed25519PrivateKey.from_private_bytes(b"\xe5" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"\xe6" * 32)
MAGIC = b"\x89LFB1\r\n\x1a"
DATA, TOC, END = 1, 2, 0xFF
PACK, SHARD, SLICE, SEGMENT, BLOB = 1, 2, 3, 4, 5
WAL = (0x1000000, 0x2000000, 7)


def le(number, length):
    return number.to_bytes(length, "little")


def public(key):
    return key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)


def header(kind, *, major=1, suite=1, flags=None, reserved=(0, 0), repository=REPOSITORY, epoch=EPOCH, obj=OBJECT,
           salt=SALT, wal=None):
    signed = kind in (SLICE, SEGMENT)
    start, end, timeline = wal if wal is not None else WAL if signed else (0, 0, 0)
    flags = (1 if signed else 0) if flags is None else flags
    out = MAGIC + bytes([major, suite, kind, flags]) + le(reserved[0], 4) + repository + epoch + obj + salt
    return out + le(start, 8) + le(end, 8) + le(timeline, 4) + le(reserved[1], 4)


class Sealer:
    def __init__(self, head, key=KEY, label=b"lifeboat.v1/object+", aead=b"AEAD_CHACHA20_POLY1305"):
        okm = HKDFExpand(SHA256(), 76, label + aead + b"\0" + head).derive(key)
        self.key, self.base, commitment = okm[:32], okm[32:44], okm[44:]
        self.out, self.number, self.raw, self.data, self.toc, self.last = head + commitment, 0, 0, 0, b"", 0

    def frame(self, kind, payload, codec=0, flags=0, number=None, claimed=None):
        number = self.number if number is None else number
        nonce = (int.from_bytes(self.base, "big") ^ number).to_bytes(12, "big")
        head = bytes([kind, codec]) + le(flags, 2) + le(len(payload) + 16 if claimed is None else claimed, 4)
        self.number += 1
        return head + ChaCha20Poly1305(self.key).encrypt(nonce, payload, head)

    def content(self, payload, codec=0, raw=None):
        sealed = self.frame(DATA, payload, codec)
        raw = len(payload) if raw is None else raw
        self.toc += varint(len(self.out) - self.last) + varint(raw) + varint(len(sealed) - 8)
        self.last = len(self.out)
        self.out, self.raw, self.data = self.out + sealed, self.raw + raw, self.data + 1

    def end(self, frames=None, raw=None):
        frames, raw = self.data if frames is None else frames, self.raw if raw is None else raw
        self.out += self.frame(END, le(frames, 8) + le(raw, 8))

    def finish_pack(self, toc=None, footer=None):
        offset = len(self.out)
        sealed = self.frame(TOC, self.toc if toc is None else toc)
        self.out += sealed
        self.end()
        right = le(offset, 8) + le(len(sealed), 4) + le(self.data, 4) + b"LFB1FOOT" + bytes(8)
        self.out += right if footer is None else footer(offset, len(sealed), self.data)
        return self.out


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def sign(body, key=SIGNER, label=b"lifeboat.v1/sig\0"):
    key_id = hashlib.sha256(b"lifeboat.v1/keyid\0" + public(key)).digest()[:8]
    return body + key_id + key.sign(label + hashlib.sha256(body + key_id).digest())


def sealed(kind, contents, head=None, **options):
    sealer = Sealer(head or header(kind), **options)
    for content in contents:
        sealer.content(*content) if isinstance(content, tuple) else sealer.content(content)
    if kind == PACK:
        return sealer.finish_pack()
    sealer.end()
    return sign(sealer.out) if kind in (SLICE, SEGMENT) else sealer.out


def zstd_rle(blocks, size=131072):
    """A zstd frame without magic number: run-length blocks of zeros, window of 1 MiB."""
    out = b"\0\x50"
    for block in range(blocks):
        last = 1 if block + 1 == blocks else 0
        out += le(last | 1 << 1 | size << 3, 3) + b"\0"
    return out


def zstd_raw(data):
    return b"\0\x50" + le(1 | len(data) << 3, 3) + data


def write(name, expect, reason, kind, body, signer=None, key=KEY):
    path = HERE / f"{name}.lfb1"
    if path.exists():
        return
    lines = [f"reason: {reason}", f"expect: {expect}", f"kind: {kind}", f"repository: {REPOSITORY.hex()}",
             f"epoch: {EPOCH.hex()}", f"epoch-key: {key.hex()}"]
    if signer is not None:
        lines.append(f"signer: {public(signer).hex()}")
    text = base64.b64encode(body).decode()
    path.write_text("\n".join(lines) + "\n\n" + "\n".join(text[i:i + 100] for i in range(0, len(text), 100)) + "\n")


def flip(body, offset, bit=0):
    return body[:offset] + bytes([body[offset] ^ 1 << bit]) + body[offset + 1:]


def places(body):
    out, offset = [], 144
    while True:
        length = 8 + int.from_bytes(body[offset + 4:offset + 8], "little")
        out.append((offset, length))
        if body[offset] == END:
            return out
        offset += length


def order(body, numbers):
    parts = [body[offset:offset + length] for offset, length in places(body)]
    offset, length = places(body)[-1]
    return body[:144] + b"".join(parts[n] for n in numbers) + body[offset + length:]


def successes():
    content = [b"hello, ", b"lifeboat", b"!" * 300]
    for name, kind, signer in [("pack", PACK, None), ("shard", SHARD, None), ("slice", SLICE, SIGNER),
                               ("segment", SEGMENT, SIGNER), ("blob", BLOB, None)]:
        write(f"good_{name}", "success 3 315", "nothing is wrong with it", kind, sealed(kind, content), signer)
        write(f"good_{name}_empty", "success 0 0", "no content frame at all", kind, sealed(kind, []), signer)
    write("good_empty_frames", "success 2 0", "content frames may be empty", SHARD, sealed(SHARD, [b"", b""]))
    write("good_zstd_raw", "success 1 9", "a zstd frame with one raw block", PACK,
          sealed(PACK, [(zstd_raw(b"lifeboats"), 1, 9)]))
    write("good_zstd_largest", "success 1 16777216", "16 MiB is the most that a frame may hold", SHARD,
          sealed(SHARD, [(zstd_rle(128), 1, 1 << 24)]))
    history = header(BLOB, flags=1, wal=(0, 0, 7))
    write("good_history_signed", "success 1 4", "a timeline's history may be signed", BLOB,
          sign(sealed(BLOB, [b"1\t0/"], history)), SIGNER)
    for name, kind, wal, mark, why in [
            ("slice", SLICE, WAL, (0x1F00028, 0x1F00060, 0x1F00000, 0xDEADBEEF), "WAL with its last whole record"),
            ("segment", SEGMENT, WAL, (0, 0, 0, 0), "WAL in which no record ends"),
            ("history", BLOB, (0, 0, 7), (0, 0, 0, 0), "a timeline's history, as writers write it")]:
        start, end, previous, checksum = mark
        body = sealed(kind, [b"1\t0/"], header(kind, flags=3, wal=wal))
        body = body[:-72] if kind != BLOB else body
        marked = body + b"".join([le(start, 8), le(end, 8), le(previous, 8), le(checksum, 4), le(0x01020304, 4)])
        signed = sign(marked)
        write(f"good_{name}_marked", "success 1 4", why, kind, signed, SIGNER)
        write(f"mark_{name}_changed", "signature-wrong", "the mark is signed", kind, flip(signed, len(body)), SIGNER)
        write(f"mark_{name}_missing", "signature-wrong", "the mark was cut out", kind, body + signed[-72:], SIGNER)
    write("good_many_frames", "success 300 300", "frame numbers above 255 change two bytes of the nonce", SHARD,
          sealed(SHARD, [b"x"] * 300))


def headers():
    good = sealed(SHARD, [b"hello"])
    for name, expect, reason, head in [
        ("major_2", "unsupported-major", "a later major version", header(SHARD, major=2)),
        ("major_0", "unsupported-major", "version 0 never existed", header(SHARD, major=0)),
        ("suite_2", "unsupported-suite", "reserved for AES-256-GCM", header(SHARD, suite=2)),
        ("suite_0", "unsupported-suite", "suite 0 never existed", header(SHARD, suite=0)),
        ("kind_0", "malformed-header", "kind 0 never existed", header(0)),
        ("kind_6", "malformed-header", "kind 6 is not known", header(6)),
        ("flag_2", "malformed-header", "flag 2 is not known", header(SHARD, flags=2)),
        ("blob_marked", "malformed-header", "of kind 5 only a history has a mark", header(BLOB, flags=3)),
        ("flag_high", "malformed-header", "flag 128 is not known", header(SHARD, flags=128)),
        ("reserved_1", "malformed-header", "reserved bytes 12 to 15 are not zero", header(SHARD, reserved=(1, 0))),
        ("reserved_2", "malformed-header", "reserved bytes 108 to 111 are not zero", header(SHARD, reserved=(0, 1))),
        ("shard_signed", "malformed-header", "index shards carry no signature", header(SHARD, flags=1)),
        ("shard_wal", "malformed-header", "an index shard has no part of the WAL", header(SHARD, wal=WAL)),
        ("shard_history", "malformed-header", "an index shard has no timeline", header(SHARD, wal=(0, 0, 7))),
        ("shard_half_range", "malformed-header", "a start without an end", header(SHARD, wal=(1, 0, 7))),
    ]:
        write(f"header_{name}", expect, reason, SHARD, sealed(SHARD, [b"hello"], head))
    for name, expect, reason, head in [
        ("slice_unsigned", "malformed-header", "parts of the WAL are signed", header(SLICE, flags=0)),
        ("slice_nowhere", "malformed-header", "a slice has a part of the WAL", header(SLICE, wal=(0, 0, 0))),
        ("slice_backwards", "malformed-header", "ends before it starts", header(SLICE, wal=(2, 1, 7))),
        ("slice_nothing", "malformed-header", "ends where it starts", header(SLICE, wal=(2, 2, 7))),
        ("slice_timeline_0", "malformed-header", "timeline 0 does not exist", header(SLICE, wal=(1, 2, 0))),
    ]:
        write(f"header_{name}", expect, reason, SLICE, sealed(SLICE, [b"hello"], head), SIGNER)
    write("other_kind", "wrong-object", "a genuine blob in the place of a shard", SHARD, sealed(BLOB, [b"hello"]))
    write("other_repository", "wrong-object", "from another repository", SHARD,
          sealed(SHARD, [b"hello"], header(SHARD, repository=bytes(16))))
    write("other_epoch", "wrong-object", "sealed under another epoch", SHARD,
          sealed(SHARD, [b"hello"], header(SHARD, epoch=bytes(16))))
    write("other_object_id", "commitment", "the object id was changed after sealing", SHARD, flip(good, 48))
    write("other_salt", "commitment", "the salt was changed after sealing", SHARD, flip(good, 87, 7))
    write("commitment_first", "commitment", "the first bit of the commitment", SHARD, flip(good, 112))
    write("commitment_last", "commitment", "the last bit of the commitment", SHARD, flip(good, 143, 7))
    write("wrong_key", "commitment", "the key of another epoch", SHARD, good, key=bytes(32))
    write("wrong_label", "commitment", "derived under another label", SHARD, sealed(SHARD, [b"a"], label=b"other/"))
    write("wrong_aead_name", "commitment", "derived for another cipher", SHARD,
          sealed(SHARD, [b"a"], aead=b"AEAD_AES_256_GCM"))
    write("magic", "not-lfb1", "the high bit of the first byte was lost on the way", SHARD, flip(good, 0, 7))
    write("magic_newline", "not-lfb1", "CR LF became LF on the way", SHARD, good[:5] + good[6:])
    write("empty", "truncated", "nothing at all", SHARD, b"")
    write("plain_text", "not-lfb1", "an error page instead of an object", SHARD, b"<html>not found</html>")


def frames():
    good = sealed(SHARD, [b"hello, ", b"lifeboat", b"!" * 30])
    other = sealed(SHARD, [b"hello, ", b"lifeboat", b"!" * 30], header(SHARD, obj=b"\xc4" * 16))
    first, second, third, end = places(good)
    for name, expect, reason, body in [
        ("flip_type", "frame-head", "no such type", flip(good, first[0], 3)),
        ("flip_codec", "frame-not-genuine", "stored or compressed is authenticated", flip(good, first[0] + 1)),
        ("flip_flags", "frame-head", "flags are zero", flip(good, first[0] + 2)),
        ("flip_length", "frame-not-genuine", "one byte shorter", flip(good, first[0] + 4)),
        ("flip_ciphertext", "frame-not-genuine", "one bit of content", flip(good, second[0] + 8)),
        ("flip_tag", "frame-not-genuine", "one bit of a tag", flip(good, second[0] + second[1] - 1)),
        ("flip_end", "frame-not-genuine", "one bit of the end", flip(good, end[0] + 9)),
        ("swapped", "frame-not-genuine", "the first two frames swapped", order(good, [1, 0, 2, 3])),
        ("doubled", "frame-not-genuine", "the first frame twice", order(good, [0, 0, 1, 2, 3])),
        ("dropped_first", "frame-not-genuine", "the first frame is missing", order(good, [1, 2, 3])),
        ("dropped_last", "frame-not-genuine", "the last frame is missing, the end is there", order(good, [0, 1, 3])),
        ("end_first", "frame-not-genuine", "the end stands first", order(good, [3, 0, 1, 2])),
        ("end_missing", "truncated", "cut between two frames: the classical hole of streaming ciphers",
         good[:end[0]]),
        ("cut_in_head", "truncated", "cut inside the plain part of a frame", good[:second[0] + 5]),
        ("cut_in_frame", "truncated", "cut inside a frame", good[:second[0] + 12]),
        ("cut_last_byte", "truncated", "the last byte is missing", good[:-1]),
        ("cut_at_head", "truncated", "nothing but the head", good[:144]),
        ("append_byte", "trailing-bytes", "one more byte", good + b"\0"),
        ("append_end", "trailing-bytes", "the end twice", good + good[end[0]:]),
        ("append_object", "trailing-bytes", "another object behind it", good + other),
        ("spliced", "frame-not-genuine", "the second frame comes from another object under the same key",
         good[:second[0]] + other[second[0]:third[0]] + good[third[0]:]),
        ("other_body", "frame-not-genuine", "all frames come from another object", good[:144] + other[144:]),
    ]:
        write(f"frame_{name}", expect, reason, SHARD, body)
    for name, expect, reason, act in [
        ("type_0", "frame-head", "a sealed frame of unknown type", lambda s: s.frame(0, b"a")),
        ("codec_2", "frame-head", "codec 2 is reserved", lambda s: s.frame(DATA, b"a", codec=2)),
        ("flags_1", "frame-head", "flag 1 is reserved for padding", lambda s: s.frame(DATA, b"a", flags=1)),
        ("number", "frame-not-genuine", "sealed under the next frame's number", lambda s: s.frame(DATA, b"a", number=1)),
        ("length_below_tag", "frame-head", "shorter than its own tag", lambda s: s.frame(DATA, b"", claimed=15)),
        ("length_17_mib", "frame-head", "longer than a frame may be", lambda s: s.frame(DATA, b"", claimed=17 << 20)),
        ("length_4_gib", "frame-head", "the longest length there is", lambda s: s.frame(DATA, b"", claimed=2**32 - 1)),
        ("toc", "frame-misplaced", "a table of contents outside a pack", lambda s: s.frame(TOC, b"")),
        ("end_short", "frame-head", "an end of 15 bytes", lambda s: s.frame(END, bytes(15))),
        ("end_long", "frame-head", "an end of 17 bytes", lambda s: s.frame(END, bytes(17))),
        ("end_compressed", "frame-head", "an end is never compressed", lambda s: s.frame(END, bytes(16), codec=1)),
    ]:
        sealer = Sealer(header(SHARD))
        sealer.out += act(sealer)
        sealer.end()
        write(f"sealed_{name}", expect, f"genuine, and still refused: {reason}", SHARD, sealer.out)
    for name, reason, frames_, raw in [("frames_less", "one frame less", 0, 5), ("frames_more", "one frame more", 2, 5),
                                       ("bytes_less", "one byte less", 1, 4), ("bytes_more", "one byte more", 1, 6),
                                       ("huge", "numbers at their limit", 2**64 - 1, 2**64 - 1)]:
        sealer = Sealer(header(SHARD))
        sealer.content(b"hello")
        sealer.end(frames_, raw)
        write(f"counts_{name}", "counts", f"the end speaks of {reason}", SHARD, sealer.out)
    for name, reason, payload, raw in [
        ("garbage", "content that is not zstd", b"\xff" * 40, 40),
        ("magic", "zstd with its magic number", b"\x28\xb5\x2f\xfd" + zstd_raw(b"lifeboats"), 9),
        ("bomb", "129 blocks of 128 KiB of zeros in 518 bytes: more than a frame may hold", zstd_rle(129), 129 << 17),
        ("cut", "a zstd frame without its last byte", zstd_raw(b"lifeboats")[:-1], 9),
    ]:
        write(f"zstd_{name}", "decompress", reason, SHARD, sealed(SHARD, [(payload, 1, raw)]))


def packs():
    def pack(toc=None, footer=None):
        sealer = Sealer(header(PACK))
        for content in (b"hello, ", b"lifeboat"):
            sealer.content(content)
        return sealer, sealer.finish_pack(toc and toc(sealer), footer)

    _, good = pack()
    toc_frame = places(good)[2]
    write("pack_no_footer", "truncated", "the footer is missing", PACK, good[:-32])
    write("pack_footer_cut", "truncated", "the last byte of the footer is missing", PACK, good[:-1])
    write("pack_footer_twice", "trailing-bytes", "the footer twice", PACK, good + good[-32:])
    write("pack_footer_magic", "toc", "the footer's magic was changed", PACK, flip(good, len(good) - 16))
    write("pack_footer_reserved", "toc", "the footer's reserved bytes are not zero", PACK, flip(good, len(good) - 1))
    write("pack_footer_offset", "toc", "the footer points elsewhere", PACK, flip(good, len(good) - 32))
    write("pack_footer_frames", "toc", "the footer counts wrongly", PACK, flip(good, len(good) - 20))
    write("pack_toc_dropped", "frame-not-genuine", "the table of contents is missing", PACK, order(good, [0, 1, 3]))
    write("pack_toc_flip", "frame-not-genuine", "one bit of it", PACK, flip(good, toc_frame[0] + 8))
    for name, reason, toc in [("empty", "it is empty", lambda s: b""),
                              ("short", "it lacks its last byte", lambda s: s.toc[:-1]),
                              ("long", "it has a byte more", lambda s: s.toc + b"\0"),
                              ("padded", "a number is not in its shortest form",
                               lambda s: b"\x90\x81\x00" + s.toc[2:])]:
        sealer = Sealer(header(PACK))
        for content in (b"hello, ", b"lifeboat"):
            sealer.content(content)
        write(f"pack_toc_{name}", "toc", f"a genuine table of contents, but {reason}", PACK,
              sealer.finish_pack(toc(sealer)))
    sealer = Sealer(header(PACK))
    sealer.content(b"hello, ")
    sealer.end()
    footer = le(144, 8) + le(31, 4) + le(1, 4) + b"LFB1FOOT" + bytes(8)
    write("pack_without_toc", "toc", "sealed without a table of contents", PACK, sealer.out + footer)
    sealer = Sealer(header(PACK))
    sealer.content(b"hello, ")
    sealer.out += sealer.frame(TOC, sealer.toc)
    sealer.content(b"lifeboat")
    sealer.end()
    write("pack_content_after_toc", "frame-misplaced", "content behind the table of contents", PACK, sealer.out)
    sealer = Sealer(header(PACK))
    sealer.content(b"hello, ")
    sealer.out += sealer.frame(TOC, sealer.toc)
    write("pack_toc_twice", "toc", "two tables of contents", PACK, sealer.finish_pack())


def signatures():
    good = sealed(SLICE, [b"hello, ", b"lifeboat"])
    other = sealed(SLICE, [b"hello, ", b"lifeboat"], header(SLICE, obj=b"\xc4" * 16))
    body = good[:-72]
    for name, expect, reason, changed in [
        ("missing", "signature-unknown-key", "the signature was cut off: what stands last is taken for it", body),
        ("of_other", "signature-wrong", "the signature of another object", body + other[-72:]),
        ("stranger", "signature-unknown-key", "signed by a stranger", sign(body, STRANGER)),
        ("stranger_as_us", "signature-wrong", "signed by a stranger under our key's name",
         body + good[-72:-64] + sign(body, STRANGER)[-64:]),
        ("other_label", "signature-wrong", "signed for another purpose", sign(body, label=b"lifeboat.v1/other\0")),
        ("flip_key_id", "signature-unknown-key", "the key's name was changed", flip(good, len(good) - 72)),
        ("flip_r", "signature-wrong", "first half of the signature", flip(good, len(good) - 64)),
        ("flip_s", "signature-wrong", "second half of the signature", flip(good, len(good) - 32)),
        ("flip_position", "signature-wrong", "another WAL position in the header", flip(good, 89, 1)),
        ("flip_content", "signature-wrong", "content is checked by the signature before it is decrypted",
         flip(good, 153)),
        ("zero", "signature-wrong", "a signature of zeros", good[:-64] + bytes(64)),
    ]:
        write(f"signature_{name}", expect, reason, SLICE, changed, SIGNER)
    write("signature_trailing", "trailing-bytes", "our own signature over an object with bytes behind its end", SLICE,
          sign(body + b"\0"), SIGNER)
    write("signature_truncated", "truncated", "our own signature over an object without its end", SLICE,
          sign(body[:places(good)[-1][0]]), SIGNER)
    write("signature_on_damage", "frame-not-genuine", "our own signature over a changed frame", SLICE,
          sign(flip(body, 153)), SIGNER)
    write("signature_not_asked", "signature-unknown-key", "no key to check it with", SLICE, good)
    write("signature_due", "signature-missing", "a blob that should be signed and is not", BLOB,
          sealed(BLOB, [b"hello"]), SIGNER)


for make in (successes, headers, frames, packs, signatures):
    make()

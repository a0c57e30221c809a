//! Files that are cut, flipped or made up: an error or a keyspace, never a panic, and never memory
//! beyond what the file could stand for.

use crate::support::*;
use proptest::prelude::*;
use varve_engine::keyspace::Limits;
use varve_persistence::rdb;

fn small_file(compress: bool) -> Vec<u8> {
    let mut all = varied();
    all.retain(|(_, key), (content, _)| match content {
        Content::Str(text) => text.len() < 100,
        Content::List(elements) => elements.len() < 10 && key != b"wide list",
        Content::Set(members) => members.len() < 10,
        Content::Hash(pairs) => pairs.len() < 10 && key != b"long values",
        Content::Zset(members) => members.len() < 110,
    });
    save(&keyspace(&all), &rdb::SaveOptions { compress, ..options(12) })
}

#[test]
fn every_cut_is_seen() {
    let file = small_file(true);
    assert!(load(&file).is_ok());
    for end in 0..file.len() {
        assert!(load(&file[..end]).is_err(), "cut at {end} of {}", file.len());
    }
}

#[test]
fn every_flipped_byte_is_seen() {
    for compress in [true, false] {
        let file = small_file(compress);
        let checksum_at = file.len() - 8;
        for at in 0..file.len() {
            for flip in [0x01, 0x40, 0x80, 0xff] {
                let mut damaged = file.clone();
                damaged[at] ^= flip;
                // The one digit whose change leaves a version without, or with an older, checksum.
                let seen = load(&damaged).is_err();
                assert!(seen || at < 9, "byte {at} of {checksum_at} ^ {flip:x}");
            }
        }
    }
}

#[test]
fn without_a_checksum_nothing_panics() {
    for compress in [true, false] {
        let mut file = small_file(compress);
        let end = file.len() - 8;
        file[end..].fill(0);
        for at in 9..end {
            for byte in [0x81, 0xc3, 0xff, file[at] ^ 0x01] {
                let mut damaged = file.clone();
                damaged[at] = byte;
                if let Ok(ks) = load(&damaged) {
                    contents(&ks);
                }
            }
        }
    }
}

#[test]
fn errors_say_where_and_what() {
    let text = |file: &[u8]| load(file).err().unwrap().to_string();
    assert_eq!(text(b"REDIS"), "at byte 0: too short for an RDB file");
    assert_eq!(text(b"RIDES0010"), "at byte 0: no RDB file begins with 'RIDES'");
    assert!(text(b"VALKEY080").starts_with("at byte 0: a version of Valkey's own"));
    assert_eq!(text(b"REDIS0080"), "at byte 0: RDB version 0080; 1 to 12 are supported");
    assert_eq!(
        text(&file(10, b"\x0f\x03key")),
        "at byte 9, key 'key': type 15 (stream) is not supported by this version"
    );
    assert_eq!(text(&file(10, b"\x30\x03key")), "at byte 9, key 'key': no value has type 48");
    assert!(text(&file(10, b"\xf5\x03lib")).contains("functions"));
    let twice = text(&file(10, b"\x04\x01h\x02\x01f\x01v\x01f\x01w"));
    assert!(twice.contains("key 'h'") && twice.contains("twice"), "{twice}");
    let mut flipped = save(&keyspace(&varied()), &options(10));
    let last = flipped.len() - 1;
    flipped[last] ^= 1;
    assert!(text(&flipped).contains("checksum"));
}

#[test]
fn counts_are_not_believed() {
    // Each claims 2^32 - 1 or 2^63 elements or bytes, and has none.
    for ty in [0u8, 1, 2, 3, 4, 5, 9, 10, 11, 12, 13, 14, 16, 17, 18, 20] {
        for len in [&b"\x80\xff\xff\xff\xff"[..], b"\x81\x80\0\0\0\0\0\0\0"] {
            let mut record = vec![ty, 1, b'k'];
            record.extend(len);
            assert!(load(&file(10, &record)).is_err(), "type {ty}");
            let mut compressed = vec![ty, 1, b'k', 0xc3, 1];
            compressed.extend(len);
            compressed.push(0);
            assert!(load(&file(10, &compressed)).is_err(), "type {ty}");
        }
    }
}

proptest! {
    #[test]
    fn any_payload_is_restored_or_refused(
        ty in prop_oneof![0u8..=20, any::<u8>()],
        body in prop::collection::vec(prop_oneof![0u8..20, 0xc0u8..=0xc3, any::<u8>()], 0..80),
    ) {
        let mut payload = vec![ty];
        payload.extend(body);
        payload.extend(10u16.to_le_bytes());
        payload.extend(rdb::crc64(&payload).to_le_bytes());
        if let Ok(entry) = rdb::restore(&payload, b"k", &Limits::default(), None) {
            let again = rdb::dump(&entry, 12);
            let copy = rdb::restore(&again, b"k", &Limits::default(), None).unwrap();
            prop_assert!(content(&copy) == content(&entry));
        }
    }

    #[test]
    fn any_file_is_read_or_refused(
        body in prop::collection::vec(prop_oneof![0u8..20, 0xf4u8..=0xff, any::<u8>()], 0..120),
        version in 1u32..=12,
    ) {
        if let Ok(ks) = load(&file(version, &body)) {
            contents(&ks);
        }
    }
}

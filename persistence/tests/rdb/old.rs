//! Every encoding that Redis ever wrote and this encoder does not, byte by byte.

use crate::support::*;

fn strings(texts: &[&str]) -> Vec<Vec<u8>> {
    texts.iter().map(|t| t.as_bytes().to_vec()).collect()
}

fn ziplist(entries: &[&[u8]]) -> Vec<u8> {
    let (mut body, mut tail, mut before) = (vec![], 10, 0u8);
    for entry in entries {
        tail = 10 + body.len();
        body.push(before);
        body.extend(*entry);
        before = entry.len() as u8 + 1;
    }
    let mut blob = (body.len() as u32 + 11).to_le_bytes().to_vec();
    blob.extend((tail as u32).to_le_bytes());
    blob.extend((entries.len() as u16).to_le_bytes());
    blob.extend(body);
    blob.push(255);
    blob
}

fn record(ty: u8, parts: &[&[u8]]) -> Vec<u8> {
    [&[ty, 1, b'k'], &parts.concat()[..]].concat()
}

fn string(bytes: &[u8]) -> Vec<u8> {
    assert!(bytes.len() < 64);
    [&[bytes.len() as u8], bytes].concat()
}

#[test]
fn strings_of_every_encoding() {
    for (encoded, text) in [
        (&b"\x05hello"[..], "hello"),
        (b"\xc0\x80", "-128"),
        (b"\xc1\x00\x80", "-32768"),
        (b"\xc2\xff\xff\xff\x7f", "2147483647"),
        (b"\x40\x03abc", "abc"),
        (b"\x80\0\0\0\x03abc", "abc"),
        (b"\x81\0\0\0\0\0\0\0\x03abc", "abc"),
        (b"\xc3\x05\x0c\x00a\xe0\x02\x00", "aaaaaaaaaaaa"),
    ] {
        let read = load_record(1, &record(0, &[encoded]));
        assert_eq!(read.unwrap(), Content::Str(text.as_bytes().to_vec()), "{encoded:x?}");
    }
}

#[test]
fn plain_collections() {
    let list = load_record(1, &record(1, &[b"\x03\x01a\xc0\x05\x01a"])).unwrap();
    assert_eq!(list, Content::List(strings(&["a", "5", "a"])));
    let set = load_record(1, &record(2, &[b"\x02\x01b\x01a"])).unwrap();
    assert_eq!(set, Content::Set(strings(&["a", "b"])));
    let hash = load_record(1, &record(4, &[b"\x01\x01f\xc0\x07"])).unwrap();
    assert_eq!(hash, Content::Hash([(b"f".to_vec(), b"7".to_vec())].into()));
}

#[test]
fn sorted_sets_with_scores_as_text() {
    let zset = load_record(1, &record(3, &[b"\x03\x01c\xfe\x01a\xff\x01b\x041.25"])).unwrap();
    let members = [("a", f64::NEG_INFINITY), ("b", 1.25), ("c", f64::INFINITY)];
    assert_eq!(zset, Content::Zset(members.map(|(m, s)| (m.into(), s)).into()));
    assert!(load_record(1, &record(3, &[b"\x01\x01a\xfd"])).is_err(), "not a number");
    assert!(load_record(1, &record(3, &[b"\x01\x01a\x01x"])).is_err());
}

#[test]
fn ziplists() {
    let blob = string(&ziplist(&[b"\x01a", b"\xf3", b"\x01b", b"\xfe\xff"]));
    let list = load_record(6, &record(10, &[&blob])).unwrap();
    assert_eq!(list, Content::List(strings(&["a", "2", "b", "-1"])));
    let hash = load_record(6, &record(13, &[&blob])).unwrap();
    let pairs = [(b"a".to_vec(), b"2".to_vec()), (b"b".to_vec(), b"-1".to_vec())];
    assert_eq!(hash, Content::Hash(pairs.into()));
    // The scores are not in order: sorted as they are read.
    let zset = load_record(6, &record(12, &[&blob])).unwrap();
    assert_eq!(zset, Content::Zset(vec![(b"b".to_vec(), -1.0), (b"a".to_vec(), 2.0)]));
    let quicklist = load_record(7, &record(14, &[b"\x02", &blob, &blob])).unwrap();
    let twice = ["a", "2", "b", "-1", "a", "2", "b", "-1"];
    assert_eq!(quicklist, Content::List(strings(&twice)));

    let odd = string(&ziplist(&[b"\x01a", b"\xf3", b"\x01b"]));
    assert!(load_record(6, &record(13, &[&odd])).is_err());
    let twice = string(&ziplist(&[b"\x01a", b"\xf3", b"\x01a", b"\xf4"]));
    assert!(load_record(6, &record(13, &[&twice])).is_err());
    assert!(load_record(6, &record(12, &[&twice])).is_err());
}

#[test]
fn zipmaps() {
    let blob = string(b"\x02\x03foo\x03\0bar\x05hello\x05\0world\xff");
    let pairs = [("foo", "bar"), ("hello", "world")].map(|(f, v)| (f.into(), v.into()));
    let hash = load_record(3, &record(9, &[&blob])).unwrap();
    assert_eq!(hash, Content::Hash(pairs.into()));
}

#[test]
fn intsets_and_listpacks() {
    let intset = string(b"\x02\0\0\0\x03\0\0\0\xff\xff\x01\0\x07\0");
    let set = load_record(2, &record(11, &[&intset])).unwrap();
    assert_eq!(set, Content::Set(strings(&["-1", "1", "7"])));
    let unsorted = string(b"\x02\0\0\0\x02\0\0\0\x07\0\x01\0");
    assert!(load_record(2, &record(11, &[&unsorted])).is_err());

    // a, 2, b, -1
    let elements = b"\x81a\x02\x02\x01\x81b\x02\xdf\xff\x02";
    let mut listpack = vec![elements.len() as u8 + 7, 0, 0, 0, 4, 0];
    listpack.extend(elements);
    listpack.push(255);
    let listpack = string(&listpack);
    let texts = strings(&["-1", "2", "a", "b"]);
    assert_eq!(load_record(11, &record(20, &[&listpack])).unwrap(), Content::Set(texts));
    let pairs = [(b"a".to_vec(), b"2".to_vec()), (b"b".to_vec(), b"-1".to_vec())];
    assert_eq!(load_record(10, &record(16, &[&listpack])).unwrap(), Content::Hash(pairs.into()));
    let members = vec![(b"b".to_vec(), -1.0), (b"a".to_vec(), 2.0)];
    assert_eq!(load_record(10, &record(17, &[&listpack])).unwrap(), Content::Zset(members));
    let nodes = load_record(10, &record(18, &[b"\x02\x02", &listpack, b"\x01\x04long"])).unwrap();
    assert_eq!(nodes, Content::List(strings(&["a", "2", "b", "-1", "long"])));
}

/// What a module keeps beside its keys is data too, and is not left out without a word.
#[test]
fn what_a_module_keeps_is_refused_by_its_name() {
    let id = b"\x81\x04\x8d\x15\x9e\x24\x2a\xf0\x02";
    let records = [b"\xf7", &id[..], b"\x02\x01\x05\x01s\x00\x00\x01a\x01x"].concat();
    let error = load(&file(12, &records)).err().expect("a module's data").to_string();
    assert_eq!(error, "at byte 9: data of the module 'BI0VniQq8', which are not supported");
}

#[test]
fn what_is_not_a_key_is_stepped_over() {
    let mut records = b"\xfa\x03abc\xc0\x05".to_vec();
    // A slot's sizes.
    records.extend(b"\xf4\x01\x02\x00");
    records.extend(b"\xfe\x02\xfb\x02\x01");
    records.extend(b"\xfd\x10\0\0\0\xf8\x05\x00\x01a\x01x");
    // An empty list with a time to live, which are nobody's.
    records.extend(b"\xfc\x10\0\0\0\0\0\0\0\x01\x05empty\x00");
    records.extend(b"\xf9\x07\x00\x01b\x01y");
    let ks = load(&file(12, &records)).unwrap();
    let text = |t: &str| Content::Str(t.into());
    let expected: Contents =
        [((2, b"a".to_vec()), (text("x"), Some(16_000))), ((2, b"b".to_vec()), (text("y"), None))]
            .into();
    assert_eq!(contents(&ks), expected);
}

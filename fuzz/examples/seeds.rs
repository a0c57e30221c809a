//! Writes the inputs that a campaign begins with: `seeds <folder>` makes a folder in it for each target.
//!
//! They are made by the code itself, so they follow its formats; a campaign adds its own finds beside
//! them.

use std::path::{Path, PathBuf};
use varve_fuzz::support;
use varve_persistence::log::fake::FakeDisk;
use varve_persistence::log::index::{self, Indexer};
use varve_persistence::log::{Disk, lz4};
use varve_persistence::offset::Offset;
use varve_persistence::rdb;
use varved::config::DIRECTIVES;

struct Corpus {
    folder: PathBuf,
}

impl Corpus {
    fn add(&self, target: &str, name: &str, input: &[u8]) {
        let folder = self.folder.join(target);
        std::fs::create_dir_all(&folder).expect("a folder for the corpus");
        std::fs::write(folder.join(name), input).expect("a file of the corpus");
    }
}

fn command(words: &[&str]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len());
    words.iter().for_each(|word| bytes += &format!("${}\r\n{word}\r\n", word.len()));
    bytes.into_bytes()
}

fn commands() -> Vec<u8> {
    [
        command(&["SELECT", "1"]),
        command(&["SET", "k", "v"]),
        command(&["MULTI"]),
        command(&["RPUSH", "list", "1", "", "three"]),
        command(&["SELECT", "2"]),
        command(&["DEL", "k"]),
        command(&["EXEC"]),
        command(&["PING"]),
        command(&["REPLCONF", "GETACK", "*"]),
        command(&["ZADD", "z", "1.5", "a"]),
    ]
    .concat()
}

fn with_head(head: &[u8], body: &[u8]) -> Vec<u8> {
    [head, body].concat()
}

fn resp(corpus: &Corpus) {
    for flags in [0u8, 1, 4, 8] {
        let head = [flags, 3, 50];
        corpus.add("resp", &format!("commands-{flags}"), &with_head(&head, &commands()));
        let inline = b"PING\r\nSET k \"a\\x00\\n b\" 'it\\'s'\r\n\r\n*0\r\n*1\r\n$4\r\nPING\r\n";
        corpus.add("resp", &format!("inline-{flags}"), &with_head(&head, inline));
        let long = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$40000\r\n\xff\r\n*1\r\n$4\r\nPING\r\n";
        corpus.add("resp", &format!("long-{flags}"), &with_head(&head, long));
    }
}

/// Small keyspaces, of one type each, and one of all.
fn data(corpus: &Corpus) {
    let small = |contents: support::Contents| -> support::Contents {
        contents
            .into_iter()
            .filter(|(_, (content, _))| {
                let mut probe = support::Contents::new();
                probe.insert((0, vec![]), (content.clone(), None));
                support::save(&support::keyspace(&probe), &support::options(10)).len() < 3000
            })
            .collect()
    };
    let contents = small(support::varied());
    for version in 9..=12 {
        let file = support::save(&support::keyspace(&contents), &support::options(version));
        corpus.add("rdb", &format!("all-{version}"), &file);
    }
    for ((db, key), value) in &contents {
        let name = format!("{db}-{}", String::from_utf8_lossy(key).replace([' ', ':'], "-"));
        let one = [((*db, key.clone()), value.clone())].into();
        let ks = support::keyspace(&one);
        let options = rdb::SaveOptions { lfu: *db == 0, evicts: *db < 2, ..support::options(9) };
        corpus.add("rdb", &name, &support::save(&ks, &options));
        let entry = ks.dbs[*db].keys().iter().next().expect("one key");
        for version in [9u8, 12] {
            let payload = rdb::dump(entry, version.into());
            let value = &payload[..payload.len() - 10];
            corpus.add("restore", &format!("{name}-{version}"), &with_head(&[version], value));
            let large = with_head(&[0x80 | version], value);
            corpus.add("restore", &format!("{name}-{version}-large"), &large);
        }
    }
    // Types that are read and not written: each with its header, for the fuzzer to go on from.
    let ziplist = b"\x0f\0\0\0\x0c\0\0\0\x02\0\0\x01a\x03\xf2\xff";
    let zipmap = b"\x01\x01a\x01\0b\xff";
    let old: [(u8, &[u8]); 9] = [
        (1, b"\x02\x01a\xc0\x05"),
        (2, b"\x02\x01a\xc0\x05"),
        (3, b"\x02\x01a\x031.5\x01b\xfe"),
        (4, b"\x01\x01f\x01v"),
        (9, &with_head(&[zipmap.len() as u8], zipmap)),
        (10, &with_head(&[ziplist.len() as u8], ziplist)),
        (12, &with_head(&[ziplist.len() as u8], ziplist)),
        (13, &with_head(&[ziplist.len() as u8], ziplist)),
        (14, &with_head(&[1, ziplist.len() as u8], ziplist)),
    ];
    for (ty, value) in old {
        corpus.add("restore", &format!("type-{ty}"), &with_head(&[7, ty], value));
        let key = with_head(&[ty, 1, b'k'], value);
        corpus.add("rdb", &format!("type-{ty}"), &support::file(7, &key));
    }
    corpus.add("rdb", "module-aux", &support::file(10, b"\xf7\x05\x02\x01\x05\x01a\x04abcdefgh\0"));
}

fn log(corpus: &Corpus) {
    let segment = [&b"#TS:1700000000\r\n"[..], &commands()].concat();
    corpus.add("aof", "commands", &segment);
    corpus.add("aof", "cut", &segment[..segment.len() - 5]);
    corpus.add("aof", "zeros", &with_head(&segment, &[0; 20]));
    let id = "a".repeat(40);
    let varve = format!(
        "# varve history {id}\n# varve second {id} 77\n# varve own\n# varve boot 1\n\
         # varve folder 1\n# varve fsync always\n# varve closed 140\n\
         file a.1.base.rdb seq 1 type h startoffset 40 sealedat 5\n\
         file a.2.base.aof seq 2 type b startoffset 100\n\
         file a.1.incr.aof.lz4 seq 1 type h startoffset 40 endoffset 60 sealedat 5\n\
         file a.2.incr.aof seq 2 type h startoffset 60 endoffset 100 db 3 sealedat 6\n\
         file a.3.incr.aof seq 3 type i startoffset 100 endoffset 120\n\
         file a.4.incr.aof seq 4 type i startoffset 120 db 1\n"
    );
    corpus.add("manifest", "varve", varve.as_bytes());
    let redis = b"file a.1.base.aof seq 1 type b\nfile \"a.1.incr\\x2eaof\" seq 1 type i\n";
    corpus.add("manifest", "redis", redis);
    corpus.add("manifest", "segment", b"file x seq 1 type i\n");

    let disk = FakeDisk::new(1);
    let path = Path::new("d/s");
    let segment = b"*2\r\n$3\r\nDEL\r\n$1\r\nk\r\n".repeat(30);
    disk.put(path, &segment);
    let start = Offset(1000);
    let open = || disk.open(path).expect("it was put there");
    let mut indexer = Indexer::create(&*disk, path, open(), start).expect("it is made");
    for end in [20, 25, 300, 600] {
        indexer.advance(start + end, end).expect("it is written");
    }
    let file = disk.contents(&index::path_of(path)).expect("it was written");
    for flags in [0u8, 1, 2, 3] {
        for count in [30u8, 10] {
            let name = format!("records-{flags}-{count}");
            corpus.add("index", &name, &with_head(&[flags, count], &file));
        }
    }

    for len in [20, 600] {
        let to = disk.create(Path::new("d/s.lz4")).expect("it is made");
        lz4::compress(&*open(), start, len, &*to, &|| true).expect("it compresses");
        let file = disk.contents(Path::new("d/s.lz4")).expect("it was written");
        corpus.add("lz4history", &format!("file-{len}"), &with_head(&[0], &file));
        corpus.add("lz4history", &format!("file-{len}-as-it-is"), &with_head(&[1], &file));
    }
    corpus.add("lz4history", "raw", &with_head(&[2], &segment));
    corpus.add("lz4history", "raw-long", &with_head(&[0xfe], &segment));
}

fn config(corpus: &Corpus) {
    let config = varved::config::Config::default();
    let mut all = Vec::new();
    for directive in DIRECTIVES {
        // The folder has to be there, and is this machine's.
        if directive.name == "dir" {
            continue;
        }
        let lines: Vec<_> =
            directive.lines(&config).iter().map(|l| format!("{} {l}\n", directive.name)).collect();
        let lines = lines.concat();
        corpus.add("config", directive.name, lines.as_bytes());
        all.extend(lines.into_bytes());
    }
    corpus.add("config", "all", &all);
    let special = b"# c\nsave 900 1\nsave 60 5\nrename-command CONFIG \"\"\nslaveof a.b 7\n\
        client-output-buffer-limit pubsub 2mb 3 4\nbind 127.0.0.1 -::1\nrequirepass \"a \\x01\\n'\"\n\
        notify-keyspace-events KEA\nshutdown-on-sigterm save now\nmaxmemory 2gb\nunixsocketperm 700\n\
        \xffport 1\nport 2\nsave \"\"\n# Generated by CONFIG REWRITE\n";
    corpus.add("config", "special", special);
}

fn psync(corpus: &Corpus) {
    let id = "a".repeat(40);
    let mark = "m".repeat(40);
    let ok = "+PONG\r\n+OK\r\n+OK\r\n+OK\r\n";
    let answers = [
        ("continue", format!("{ok}+CONTINUE\r\n")),
        ("continue-id", format!("{ok}+CONTINUE {id}\r\n")),
        ("continue-former", format!("{ok}+CONTINUE {id} former={id}:700 lz4\r\n")),
        ("full-sized", format!("{ok}+FULLRESYNC {id} 500\r\n\n\n$4\r\nRDB!")),
        ("full-marked", format!("{ok}+FULLRESYNC {id} 500 lz4\r\n\n$EOF:{mark}\r\nRDB!{mark}")),
        ("full-refused", format!("{ok}+FULLRESYNC {id} 500\r\n-ERR no\r\n")),
        ("rollback", format!("{ok}-ROLLBACK {id} 900\r\n+CONTINUE {id}\r\n")),
        ("no-link", format!("{ok}-NOMASTERLINK wait\r\n")),
        ("loading", format!("{ok}-LOADING wait\r\n")),
        ("noauth", format!("-NOAUTH Authentication required.\r\n{ok}+CONTINUE\r\n")),
        ("sync", format!("{ok}-ERR unknown command 'PSYNC'\r\n$4\r\nRDB!")),
    ];
    for (name, answer) in answers {
        let connection = [answer.as_bytes(), &commands()].concat();
        for flags in [0u8, 1, 17, 23, 16, 16 | 32, 64 | 32 | 17, 128 | 17] {
            let mut input = with_head(&[flags, 2, 40], &connection);
            if flags == 17 {
                input.push(0xff);
                input.extend(&connection);
            }
            corpus.add("psync", &format!("{name}-{flags}"), &input);
        }
    }
}

fn main() {
    let folder = std::env::args_os().nth(1).expect("the folder of the corpus");
    let corpus = Corpus { folder: folder.into() };
    resp(&corpus);
    data(&corpus);
    log(&corpus);
    config(&corpus);
    psync(&corpus);
}

use super::supply::{AfterBulk, Supply, SupplyView};
use super::*;
use crate::file::FileId;
use crate::wire::GETACK;
use varve_engine::OwnedArgs;

fn id(byte: u8) -> HistoryId {
    HistoryId::from_random([byte; 20])
}

fn log() -> LogView {
    LogView {
        histories: Histories::with_former(id(1), [(id(2), Offset(500))]),
        first: Offset(100),
        end: Offset(1000),
        linked: true,
        top: true,
    }
}

const FORK: SupplyView =
    SupplyView { end: None, base: None, file: None, disk_child: None, can_fork: true };

fn primary() -> Primary {
    Primary::new(Config::default(), 0)
}

fn replconf(
    primary: &mut Primary,
    conn: ConnId,
    text: &str,
    now_ms: u64,
) -> Result<Replconf, Error> {
    let args = OwnedArgs::new(text.split(' '));
    primary.replconf(conn, &args.args(), now_ms)
}

/// Connects a replica that can read streamed RDB files, and lets it ask for everything.
fn ask_full(primary: &mut Primary, conn: ConnId, now_ms: u64) {
    replconf(primary, conn, "REPLCONF capa eof capa psync2", now_ms).unwrap();
    let decision = primary.psync(conn, b"?", -1, &log(), now_ms);
    assert!(matches!(decision, Decision::Full { .. }), "{decision:?}");
}

fn online(primary: &mut Primary, conn: ConnId, now_ms: u64) {
    let decision = primary.psync(conn, id(1).as_bytes(), 101, &log(), now_ms);
    assert!(matches!(decision, Decision::Continue { .. }), "{decision:?}");
}

fn reason(id: &[u8], next: i64) -> String {
    match primary().psync(1, id, next, &log(), 0) {
        Decision::Full { reason } => reason,
        other => panic!("{other:?}"),
    }
}

#[test]
fn psync_continues_wherever_the_log_reaches() {
    for (history, next, from) in
        [(id(1), 101, 100), (id(1), 1001, 1000), (id(2), 501, 500), (id(2), 101, 100)]
    {
        let mut primary = primary();
        replconf(&mut primary, 1, "REPLCONF capa psync2", 0).unwrap();
        let reply = format!("+CONTINUE {}\r\n", id(1)).into_bytes();
        assert_eq!(
            primary.psync(1, history.as_bytes(), next, &log(), 0),
            Decision::Continue { reply, from: Offset(from) }
        );
        assert_eq!(primary.sync_counts(), (0, 1, 0));
        assert_eq!(primary.psync(1, b"?", -1, &log(), 0), Decision::Ignore);
    }
    let mut old = primary();
    let decision = old.psync(1, id(1).as_bytes(), 200, &log(), 0);
    assert_eq!(
        decision,
        Decision::Continue { reply: b"+CONTINUE\r\n".to_vec(), from: Offset(199) }
    );
}

#[test]
fn a_full_resync_says_why() {
    for (history, next, word) in [
        (&b"?"[..], -1, "nothing to continue"),
        (id(1).as_bytes(), 100, "begins at 100"),
        (id(1).as_bytes(), 1002, "ahead"),
        (id(1).as_bytes(), i64::MAX, "ahead"),
        (id(1).as_bytes(), 0, "no history has"),
        (id(1).as_bytes(), i64::MIN, "no history has"),
        (id(2).as_bytes(), 502, "only 500"),
        (id(3).as_bytes(), 200, "not ours"),
        (b"garbage\r\n", 200, "'garbage??' is no history"),
    ] {
        let reason = reason(history, next);
        assert!(reason.contains(word), "{reason}");
    }
    let mut primary = primary();
    primary.psync(1, b"?", -1, &log(), 0);
    primary.psync(2, id(3).as_bytes(), 1, &log(), 0);
    assert_eq!(primary.sync_counts(), (2, 0, 1));
}

#[test]
fn a_replica_without_its_own_primary_refuses() {
    let view = LogView { linked: false, ..log() };
    let Decision::Refuse(error) = primary().psync(1, b"?", -1, &view, 0) else { panic!() };
    assert_eq!(error.to_string(), "NOMASTERLINK Can't SYNC while not connected with my master");
    assert!(matches!(primary().sync(1, &view, 0), Decision::Refuse(_)));
}

#[test]
fn replconf_knows_its_options() {
    let mut p = primary();
    for ok in [
        "listening-port 6380",
        "listening-port 65536",
        "listening-port -5",
        "LISTENING-PORT 1 ip-address 10.1.1.1",
        "capa eof capa psync2 capa unknown",
        "rdb-only 1",
        "rdb-only 0",
        "rdb-filter-only functions",
        "version 8.0.1",
    ] {
        assert_eq!(replconf(&mut p, 1, &format!("REPLCONF {ok}"), 0), Ok(Replconf::Ok), "{ok}");
    }
    assert_eq!(replconf(&mut p, 1, "REPLCONF ack 12", 0), Ok(Replconf::Silent));
    assert_eq!(replconf(&mut p, 1, "REPLCONF getack *", 0), Ok(Replconf::GetAck));
    for (bad, text) in [
        ("listening-port", "ERR syntax error"),
        ("listening-port abc", "ERR value is not an integer or out of range"),
        ("listening-port 9223372036854775808", "ERR value is not an integer or out of range"),
        ("colour red", "ERR Unrecognized REPLCONF option: colour"),
        ("rdb-only x", "ERR value is not an integer or out of range"),
        ("rdb-only 2", "ERR value is out of range, value must between 0 and 1"),
        ("rdb-only -1", "ERR value is out of range, value must between 0 and 1"),
        ("rdb-filter-only keys", "ERR Unsupported rdb-filter-only option: keys"),
    ] {
        assert_eq!(
            replconf(&mut p, 1, &format!("REPLCONF {bad}"), 0).unwrap_err().to_string(),
            text
        );
    }
    assert!(p.is_empty(), "talking does not make a replica");
    let long = format!("REPLCONF ip-address {}", "x".repeat(256));
    assert!(replconf(&mut p, 1, &long, 0).is_err());
    online(&mut p, 1, 0);
    let listed: Vec<_> = p.listed(3500).collect();
    assert_eq!(
        listed,
        [Listed {
            conn: 1,
            announced_ip: Some("10.1.1.1"),
            port: 1,
            state: "online",
            online: true,
            offset: Offset(100),
            lag_s: 3,
            version: Some("8.0.1"),
        }]
    );
}

#[test]
fn streams_wait_for_company_or_the_delay() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    assert_eq!(p.supply(&FORK, 4999), None);
    ask_full(&mut p, 2, 4000);
    let no = SupplyView { can_fork: false, ..FORK };
    assert_eq!(p.supply(&no, 5000), None);
    let fork = Supply::Fork { target: Target::Socket, conns: vec![1, 2] };
    assert_eq!(p.supply(&FORK, 5000), Some(fork));

    let mut p = Primary::new(Config { diskless_max_replicas: 2, ..Config::default() }, 0);
    ask_full(&mut p, 1, 0);
    assert_eq!(p.supply(&FORK, 10), None);
    ask_full(&mut p, 2, 10);
    assert!(matches!(p.supply(&FORK, 10), Some(Supply::Fork { conns, .. }) if conns == [1, 2]));

    // Without EOF, or by configuration, the child writes to disk; then nothing is gained by waiting.
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    p.psync(2, b"?", -1, &log(), 0);
    let fork = p.supply(&FORK, 5000);
    assert!(matches!(fork, Some(Supply::Fork { target: Target::Disk, .. })), "{fork:?}");
    let mut p = Primary::new(Config { diskless: false, ..Config::default() }, 0);
    ask_full(&mut p, 1, 0);
    let fork = p.supply(&FORK, 0);
    assert!(matches!(fork, Some(Supply::Fork { target: Target::Disk, .. })), "{fork:?}");
}

#[test]
fn who_wants_no_keys_is_not_sent_any() {
    let mut p = Primary::new(Config { diskless_delay_ms: 0, ..Config::default() }, 0);
    replconf(&mut p, 1, "REPLCONF rdb-filter-only functions", 0).unwrap();
    ask_full(&mut p, 1, 0);
    ask_full(&mut p, 2, 0);
    let base = SupplyView { base: Some(Offset(700)), ..FORK };
    assert_eq!(p.supply(&base, 0), Some(Supply::Base { from: Offset(700), conns: vec![2] }));
    assert_eq!(p.supply(&base, 0), None, "in the middle of a transaction");
    let end = SupplyView { end: Some(Offset(800)), ..FORK };
    assert_eq!(p.supply(&end, 0), Some(Supply::Empty { from: Offset(800), conns: vec![1] }));
    p.bulk_started(1, 0);
    assert_eq!(p.bulk_done(1, 0), Some(AfterBulk::Feed { from: Offset(800) }));
}

#[test]
fn a_streamed_sync_goes_through_its_states() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    ask_full(&mut p, 2, 0);
    p.closed(2, 0);
    assert_eq!(p.forked(&[1, 2], Target::Socket, Offset(900), 0), [1]);
    assert_eq!(
        p.fullresync(1, Histories::new(id(1)), None),
        Some(format!("+FULLRESYNC {} 900\r\n", id(1)).into_bytes())
    );
    assert_eq!(p.supply(&FORK, 99_000), None, "everyone is served");
    p.bulk_started(1, 10);
    assert_eq!(p.listed(0).next().unwrap().state, "wait_bgsave");
    assert_eq!(p.feeds_from(1), Some(Offset(900)));
    assert_eq!(p.bulk_done(1, 20), Some(AfterBulk::AwaitAck));
    assert_eq!(p.bulk_done(1, 20), None);
    assert_eq!(p.feeds_from(1), Some(Offset(900)));
    let start = Replconf::Ack { start: Some(Offset(900)) };
    assert_eq!(replconf(&mut p, 1, "REPLCONF ACK 900", 30), Ok(start));
    let later = Replconf::Ack { start: None };
    assert_eq!(replconf(&mut p, 1, "REPLCONF ACK 950", 30), Ok(later));
}

#[test]
fn an_ack_may_come_before_the_child_is_known_to_be_done() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    p.forked(&[1], Target::Socket, Offset(900), 0);
    p.bulk_started(1, 0);
    assert_eq!(replconf(&mut p, 1, "REPLCONF ACK 900", 0), Ok(Replconf::Ack { start: None }));
    assert_eq!(p.bulk_done(1, 0), Some(AfterBulk::Feed { from: Offset(900) }));
}

#[test]
fn a_child_that_writes_to_disk_is_joined_and_shared() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    let view = SupplyView { disk_child: Some(Offset(800)), can_fork: false, ..FORK };
    assert_eq!(p.supply(&view, 0), Some(Supply::Join { from: Offset(800), conns: vec![1] }));
    ask_full(&mut p, 2, 0);
    assert_eq!(p.supply(&view, 0), Some(Supply::Join { from: Offset(800), conns: vec![2] }));
    assert_eq!(p.supply(&view, 0), None);
    assert_eq!(p.child_done(true, 0), [1, 2]);
    for conn in [1, 2] {
        assert!(p.fullresync(conn, Histories::new(id(1)), None).unwrap().ends_with(b" 800\r\n"));
        p.bulk_started(conn, 0);
        assert_eq!(
            p.listed(0).next().unwrap().state,
            if conn == 1 { "send_bulk" } else { "online" }
        );
        assert_eq!(p.bulk_done(conn, 0), Some(AfterBulk::Feed { from: Offset(800) }));
    }
    assert_eq!(p.child_done(false, 0), []);
    assert_eq!(p.len(), 2);
}

#[test]
fn children_that_fail_take_their_replicas_with_them() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    assert_eq!(p.fork_failed(&[1], 0), [1]);
    assert!(p.is_empty());
    ask_full(&mut p, 1, 0);
    ask_full(&mut p, 2, 0);
    p.forked(&[1], Target::Disk, Offset(900), 0);
    p.forked(&[2], Target::Socket, Offset(900), 0);
    online(&mut p, 3, 0);
    assert_eq!(p.child_done(false, 0), [1]);
    p.bulk_started(2, 0);
    assert_eq!(p.stream_failed(0), [2]);
    assert_eq!(p.len(), 1);
}

#[test]
fn sync_and_rdb_only_end_in_their_own_ways() {
    let mut p = Primary::new(Config { diskless_delay_ms: 0, ..Config::default() }, 0);
    assert!(matches!(p.sync(1, &log(), 0), Decision::Full { .. }));
    replconf(&mut p, 2, "REPLCONF rdb-only 1 capa eof", 0).unwrap();
    ask_full(&mut p, 2, 0);
    p.forked(&[1, 2], Target::Disk, Offset(900), 0);
    assert_eq!(p.fullresync(1, Histories::new(id(1)), None), None);
    assert!(p.fullresync(2, Histories::new(id(1)), None).is_some());
    p.bulk_started(1, 0);
    p.bulk_started(2, 0);
    assert_eq!(p.bulk_done(1, 0), Some(AfterBulk::Feed { from: Offset(900) }));
    assert_eq!(p.bulk_done(2, 0), Some(AfterBulk::Nothing));
    assert_eq!(p.listed(0).nth(1).unwrap().state, "rdb_transmitted");
    let mut out = vec![];
    p.tick(60_000, true, &mut out);
    assert_eq!(out, [Output::Append(PING)], "one that never acknowledges is not late");
    out.clear();
    p.tick(60_001, true, &mut out);
    let why = "it took nothing of its RDB for repl-timeout";
    assert_eq!(out, [Output::Drop { conn: 2, why }], "it may still have some of its RDB to take");
}

#[test]
fn who_takes_no_log_after_its_rdb_is_given_no_old_one() {
    let config = Config { diskless: false, ..Config::default() };
    let end = log().end;
    let view = |base: Option<Offset>, disk_child| SupplyView { base, disk_child, ..FORK };
    let old = Offset(end.0 - 1);
    for backup in [true, false] {
        let mut p = Primary::new(config.clone(), 0);
        match backup {
            true => {
                replconf(&mut p, 1, "REPLCONF rdb-only 1", 0).unwrap();
                ask_full(&mut p, 1, 0);
            }
            false => drop(p.sync(1, &log(), 0)),
        }
        let supply = p.supply(&view(Some(old), Some(old)), 0);
        assert!(matches!(supply, Some(Supply::Fork { .. })), "{supply:?}");
        let supply = p.supply(&view(Some(end), None), 0);
        assert!(matches!(supply, Some(Supply::Base { .. })), "{supply:?}");
    }
}

#[test]
fn acknowledgements_are_counted() {
    let mut p = Primary::new(Config { min_replicas: 2, ..Config::default() }, 0);
    online(&mut p, 1, 0);
    assert!(!p.may_write(0));
    online(&mut p, 2, 0);
    ask_full(&mut p, 3, 0);
    assert!(p.may_write(0));
    assert_eq!(p.acked(Offset(100)), 2);
    assert_eq!(p.acked(Offset(101)), 0);
    replconf(&mut p, 1, "REPLCONF ACK 150 FACK 120", 9000).unwrap();
    replconf(&mut p, 1, "REPLCONF ACK 140 FACK 110", 9000).unwrap();
    replconf(&mut p, 2, "REPLCONF ACK nonsense", 9000).unwrap();
    replconf(&mut p, 3, "REPLCONF ACK 900", 9000).unwrap();
    assert_eq!(p.acked(Offset(150)), 1);
    assert_eq!(p.acked_on_disk(Offset(120)), 1);
    assert_eq!(p.acked_on_disk(Offset(121)), 0);
    assert_eq!(p.acked_on_disk(Offset(0)), 1, "the other did not say that it has a disk");
    assert_eq!(p.good(10_000), 2);
    assert_eq!(p.good(10_001), 1);
    assert!(!p.may_write(10_001));
    p.newline(2, 10_001);
    assert!(p.may_write(10_001));
    assert_eq!(p.drop_all(0).len(), 3);
    assert_eq!(p.acked(Offset(0)), 0);
}

fn tick(primary: &mut Primary, now_ms: u64) -> Vec<Output> {
    let mut out = vec![];
    primary.tick(now_ms, true, &mut out);
    out
}

#[test]
fn time_brings_pings_newlines_and_timeouts() {
    let mut p = primary();
    assert_eq!(tick(&mut p, 10_000), [], "nobody is there to be told");
    online(&mut p, 1, 10_000);
    assert_eq!(tick(&mut p, 19_999), []);
    assert_eq!(tick(&mut p, 20_000), [Output::Append(PING)]);
    let mut out = vec![];
    p.tick(30_000, false, &mut out);
    assert_eq!(out, [], "a replica must not add to what it received");
    ask_full(&mut p, 2, 31_000);
    assert_eq!(tick(&mut p, 31_000), [Output::Newline(2)]);
    assert_eq!(tick(&mut p, 31_500), []);
    p.forked(&[2], Target::Disk, Offset(900), 31_500);
    assert_eq!(tick(&mut p, 32_000), [Output::Newline(2)]);
    p.bulk_started(2, 32_500);
    assert_eq!(tick(&mut p, 33_000), [], "a newline would be taken for a byte of the RDB");
    let drops = |out: Vec<Output>| -> Vec<ConnId> {
        let drop = |output: &Output| match output {
            Output::Drop { conn, .. } => Some(*conn),
            _ => None,
        };
        out.iter().filter_map(drop).collect()
    };
    assert_eq!(drops(tick(&mut p, 70_000)), []);
    assert_eq!(drops(tick(&mut p, 70_001)), [1]);
    p.bulk_progress(2, 80_000);
    assert_eq!(drops(tick(&mut p, 140_000)), []);
    assert_eq!(drops(tick(&mut p, 140_001)), [2]);
    assert!(p.is_empty());
}

#[test]
fn newlines_stop_before_a_stream_may_begin() {
    let mut p = primary();
    ask_full(&mut p, 1, 0);
    p.forked(&[1], Target::Socket, Offset(900), 0);
    assert_eq!(tick(&mut p, 2000), []);
}

#[test]
fn the_backlog_expires_once_when_nobody_comes() {
    let mut p = Primary::new(Config { backlog_ttl_ms: 5000, ..Config::default() }, 0);
    assert_eq!(tick(&mut p, 4999), []);
    assert_eq!(tick(&mut p, 5000), [Output::BacklogExpired]);
    assert_eq!(tick(&mut p, 50_000), []);
    online(&mut p, 1, 50_000);
    assert_eq!(tick(&mut p, 59_000), []);
    assert!(p.closed(1, 59_500));
    assert!(!p.closed(1, 59_500));
    assert_eq!(tick(&mut p, 64_000), []);
    assert_eq!(tick(&mut p, 64_500), [Output::BacklogExpired]);
}

#[test]
fn a_primary_can_read_the_question_it_asks() {
    // What GETACK says is an option that REPLCONF knows.
    let mut framer = crate::frame::Framer::default();
    assert!(framer.next(GETACK).unwrap().unwrap().getack);
    assert_eq!(replconf(&mut primary(), 1, "REPLCONF GETACK *", 0), Ok(Replconf::GetAck));
}

#[test]
fn a_replica_that_is_ahead_is_asked_to_roll_back_if_it_can() {
    for (history, next, to) in
        [(id(1), 1002, 1000), (id(1), i64::MAX, 1000), (id(2), 502, 500), (id(2), 5000, 500)]
    {
        let mut primary = primary();
        replconf(&mut primary, 1, "REPLCONF capa psync2 capa varve", 0).unwrap();
        let decision = primary.psync(1, history.as_bytes(), next, &log(), 0);
        let reply = format!("-ROLLBACK {history} {to}\r\n").into_bytes();
        let Decision::Rollback { reply: got, to: place, reason } = decision else {
            panic!("{decision:?}")
        };
        assert_eq!((got, place), (reply, Offset(to)));
        assert!(reason.contains(&to.to_string()), "{reason}");
        // It is no replica yet, and nothing failed.
        assert!(primary.is_empty());
        assert_eq!((primary.sync_counts(), primary.rollbacks()), ((0, 0, 0), 1));
        let decision = primary.psync(1, history.as_bytes(), to as i64 + 1, &log(), 0);
        assert!(matches!(decision, Decision::Continue { .. }), "{decision:?}");

        // All others get what they know.
        let mut redis = self::primary();
        replconf(&mut redis, 1, "REPLCONF capa eof capa psync2", 0).unwrap();
        let decision = redis.psync(1, history.as_bytes(), next, &log(), 0);
        assert!(matches!(decision, Decision::Full { .. }), "{decision:?}");
    }
}

#[test]
fn nobody_rolls_back_to_where_the_log_does_not_reach() {
    let histories = Histories::with_former(log().histories.current, [(id(2), Offset(99))]);
    let view = LogView { histories, ..log() };
    let mut primary = primary();
    replconf(&mut primary, 1, "REPLCONF capa varve", 0).unwrap();
    let decision = primary.psync(1, id(2).as_bytes(), 200, &view, 0);
    assert!(matches!(decision, Decision::Full { .. }), "{decision:?}");
}

#[test]
fn what_may_still_come_is_waited_for() {
    let view = LogView { top: false, ..log() };
    for capa in ["varve", "psync2"] {
        let mut primary = primary();
        replconf(&mut primary, 1, &format!("REPLCONF capa {capa}"), 0).unwrap();
        let decision = primary.psync(1, id(1).as_bytes(), 1002, &view, 0);
        let Decision::Refuse(error) = decision else { panic!("{decision:?}") };
        // The word that makes a Redis replica try again.
        assert!(error.to_string().starts_with("NOMASTERLINK "), "{error}");
        let later = LogView { end: Offset(1001), ..view };
        let decision = primary.psync(1, id(1).as_bytes(), 1002, &later, 0);
        assert!(matches!(decision, Decision::Continue { .. }), "{decision:?}");
    }
    // Under the former name nothing more comes.
    let mut primary = primary();
    replconf(&mut primary, 1, "REPLCONF capa varve", 0).unwrap();
    let decision = primary.psync(1, id(2).as_bytes(), 502, &view, 0);
    assert!(matches!(decision, Decision::Rollback { .. }), "{decision:?}");
}

#[test]
fn a_node_is_not_its_own_replica() {
    let mut primary = primary();
    let capa = |node: u8| format!("REPLCONF capa varve capa varve-node={}", id(node));
    assert_eq!(replconf(&mut primary, 1, &capa(9), 0), Ok(Replconf::Ok));
    primary.set_node(id(9));
    let error = replconf(&mut primary, 2, &capa(9), 0).unwrap_err();
    assert_eq!(error.to_string(), "ERR can't replicate from itself");
    assert_eq!(replconf(&mut primary, 3, &capa(8), 0), Ok(Replconf::Ok));
    assert_eq!(replconf(&mut primary, 4, "REPLCONF capa varve-node=?", 0), Ok(Replconf::Ok));
}

#[test]
fn a_snapshot_that_was_sent_counts_once_it_is_loaded() {
    for streams in [false, true] {
        let mut primary = primary();
        ask_full(&mut primary, 1, 0);
        if streams {
            let Some(Supply::Fork { target, conns, .. }) = primary.supply(&FORK, 10_000) else {
                panic!("nothing to do for a replica that waits")
            };
            primary.forked(&conns, target, Offset(900), 10_000);
        } else {
            let view = SupplyView { base: Some(Offset(900)), ..FORK };
            primary.supply(&view, 10_000).unwrap();
        }
        primary.bulk_started(1, 10_000);
        primary.bulk_done(1, 10_000).unwrap();
        assert_eq!(primary.acked(Offset(900)), 0, "it may still fail to load");
        assert_eq!(primary.acked(Offset(0)), 0, "nor has it what was before it");
        replconf(&mut primary, 1, "REPLCONF ack 900", 10_000).unwrap();
        assert_eq!(primary.acked(Offset(900)), 1);
    }
}

#[test]
fn a_link_is_compressed_if_both_ends_want_it() {
    let partial = |lz4, words: &str| {
        let mut p = Primary::new(Config { lz4, ..Config::default() }, 0);
        replconf(&mut p, 1, &format!("REPLCONF {words}"), 0).unwrap();
        match p.psync(1, id(1).as_bytes(), 101, &log(), 0) {
            Decision::Continue { reply, .. } => (reply, p.is_compressed(1)),
            other => panic!("{other:?}"),
        }
    };
    let both = "capa eof capa psync2 capa varve-lz4";
    let plain = format!("+CONTINUE {}\r\n", id(1)).into_bytes();
    let compressed = format!("+CONTINUE {} lz4\r\n", id(1)).into_bytes();
    assert_eq!(partial(true, both), (compressed, true));
    assert_eq!(partial(false, both), (plain.clone(), false));
    assert_eq!(partial(true, "capa eof capa psync2"), (plain.clone(), false));
    assert_eq!(partial(true, &format!("{both} rdb-only 1")), (plain, false));
    // Its reply has no place for the word.
    assert_eq!(partial(true, "capa varve-lz4"), (b"+CONTINUE\r\n".to_vec(), false));
}

#[test]
fn a_full_sync_is_plain_up_to_its_reply() {
    let config = Config { diskless_delay_ms: 0, lz4: true, ..Config::default() };
    let mut p = Primary::new(config.clone(), 0);
    for (conn, words) in [(1, "capa eof capa psync2 capa varve-lz4"), (2, "capa eof capa psync2")] {
        replconf(&mut p, conn, &format!("REPLCONF {words}"), 0).unwrap();
        p.psync(conn, b"?", -1, &log(), 0);
        assert!(!p.is_compressed(conn), "it waits for a snapshot");
    }
    replconf(&mut p, 3, "REPLCONF capa varve-lz4", 0).unwrap();
    p.sync(3, &log(), 0);
    let Some(Supply::Fork { conns, .. }) = p.supply(&FORK, 1) else { panic!() };
    p.forked(&conns, Target::Disk, Offset(900), 1);
    let line = |end| Some(format!("+FULLRESYNC {} 900{end}\r\n", id(1)).into_bytes());
    assert_eq!(p.fullresync(1, Histories::new(id(1)), None), line(" lz4"));
    assert_eq!(p.fullresync(2, Histories::new(id(1)), None), line(""));
    assert_eq!(p.fullresync(3, Histories::new(id(1)), None), None);
    assert_eq!([1, 2, 3].map(|conn| p.is_compressed(conn)), [true, false, false]);
    // A link stays as it was announced.
    p.set_config(Config { lz4: false, ..config });
    assert!(p.is_compressed(1));
}

#[test]
fn only_a_varve_that_is_sent_everything_hears_of_former_names() {
    let config = Config { diskless_delay_ms: 0, ..Config::default() };
    let mut p = Primary::new(config, 0);
    for (conn, words) in [(1, "capa eof capa psync2 capa varve"), (2, "capa eof capa psync2")] {
        replconf(&mut p, conn, &format!("REPLCONF {words}"), 0).unwrap();
        p.psync(conn, b"?", -1, &log(), 0);
    }
    let Some(Supply::Fork { conns, .. }) = p.supply(&FORK, 1) else { panic!() };
    p.forked(&conns, Target::Disk, Offset(900), 1);
    let names = || Histories::with_former(id(1), [(id(2), Offset(900)), (id(3), Offset(50))]);
    let line = |end: &str| Some(format!("+FULLRESYNC {} 900{end}\r\n", id(1)).into_bytes());
    let former = format!(" former={}:900 former={}:50", id(2), id(3));
    assert_eq!(p.fullresync(1, names(), None), line(&former));
    assert_eq!(p.fullresync(2, names(), None), line(""));
}

const FILE: FileId = FileId { size: 1000, crc: 0xabc, offset: Offset(900) };

/// Asks for everything, holding `bytes` of [`FILE`].
fn ask_for_the_rest(p: &mut Primary, conn: ConnId, bytes: &str) {
    let capa = format!("REPLCONF capa eof capa psync2 capa varve capa varve-resume={FILE}:{bytes}");
    assert_eq!(replconf(p, conn, &capa, 0), Ok(Replconf::Ok));
    let decision = p.psync(conn, b"?", -1, &log(), 0);
    assert!(matches!(decision, Decision::Full { .. }), "{decision:?}");
}

fn line(p: &mut Primary, conn: ConnId, file: Option<FileId>) -> String {
    String::from_utf8(p.fullresync(conn, Histories::new(id(1)), file).expect("it is due one"))
        .unwrap()
}

#[test]
fn who_holds_a_part_is_sent_the_rest_of_that_file() {
    let mut p = primary();
    replconf(&mut p, 1, "REPLCONF capa eof capa psync2 capa varve", 0).unwrap();
    p.psync(1, b"?", -1, &log(), 0);
    ask_for_the_rest(&mut p, 2, "400");
    ask_full(&mut p, 3, 0);
    // The file is not what newcomers get: only one is there for the rest of it.
    let view = SupplyView { file: Some(FILE), can_fork: false, ..FORK };
    let base = |conns| Some(Supply::Base { from: Offset(900), conns });
    assert_eq!(p.supply(&view, 0), base(vec![2]));
    assert_eq!(p.supply(&view, 0), None);
    // It is what all get.
    let view = SupplyView { base: Some(Offset(900)), ..view };
    assert_eq!(p.supply(&view, 0), base(vec![1, 3]));
    assert_eq!(p.sync_counts().0, 2);
    let named = format!("+FULLRESYNC {} 900 file={FILE}", id(1));
    assert_eq!(line(&mut p, 1, Some(FILE)), format!("{named}\r\n"));
    assert_eq!(line(&mut p, 2, Some(FILE)), format!("{named} from=400\r\n"));
    // What is no Varve hears what it knows.
    assert_eq!(line(&mut p, 3, Some(FILE)), format!("+FULLRESYNC {} 900\r\n", id(1)));
    assert_eq!([1, 2, 3].map(|conn| p.sends_from(conn)), [0, 400, 0]);
    assert_eq!((p.sync_counts().0, p.resumed()), (2, 1));
    assert_eq!(p.fullresync(2, Histories::new(id(1)), Some(FILE)), None, "it was told");
}

#[test]
fn who_holds_a_part_of_something_else_begins_anew() {
    for other in [
        None,
        Some(FileId { size: 1001, ..FILE }),
        Some(FileId { crc: 0xabd, ..FILE }),
        Some(FileId { offset: Offset(901), ..FILE }),
    ] {
        let mut p = primary();
        ask_for_the_rest(&mut p, 1, "400");
        let from = other.map_or(Offset(900), |file| file.offset);
        let view = SupplyView { file: other, can_fork: false, ..FORK };
        assert_eq!(p.supply(&view, 0), None);
        let view = SupplyView { base: Some(from), ..view };
        assert_eq!(p.supply(&view, 0), Some(Supply::Base { from, conns: vec![1] }));
        assert!(!line(&mut p, 1, other).contains("from="));
        assert_eq!((p.sends_from(1), p.sync_counts().0, p.resumed()), (0, 1, 0));
    }
}

#[test]
fn absurd_claims_are_not_listened_to() {
    for bytes in ["0", "1000", "1001", "-4", "18446744073709551616", "x", "", "4:4"] {
        let mut p = primary();
        ask_for_the_rest(&mut p, 1, bytes);
        let view = SupplyView { base: Some(Offset(900)), file: Some(FILE), ..FORK };
        assert!(p.supply(&view, 0).is_some());
        assert!(line(&mut p, 1, Some(FILE)).ends_with(&format!(" file={FILE}\r\n")), "{bytes}");
        assert_eq!((p.sends_from(1), p.sync_counts().0, p.resumed()), (0, 1, 0));
    }
    // An RDB-only replica takes none of it, and neither does one that says SYNC.
    let mut p = primary();
    replconf(&mut p, 1, "REPLCONF rdb-only 1", 0).unwrap();
    ask_for_the_rest(&mut p, 1, "400");
    let capa = format!("REPLCONF capa varve capa varve-resume={FILE}:400");
    replconf(&mut p, 2, &capa, 0).unwrap();
    p.sync(2, &LogView { end: Offset(900), ..log() }, 0);
    let view = SupplyView { file: Some(FILE), can_fork: false, ..FORK };
    assert_eq!(p.supply(&view, 0), None);
    p.forked(&[1, 2], Target::Disk, Offset(1000), 0);
    assert_eq!(line(&mut p, 1, Some(FILE)), format!("+FULLRESYNC {} 1000\r\n", id(1)));
    assert_eq!(p.fullresync(2, Histories::new(id(1)), Some(FILE)), None);
    assert_eq!((p.sends_from(1), p.sends_from(2), p.sync_counts().0), (0, 0, 2));
}

#[test]
fn the_reply_waits_for_the_file_that_it_names() {
    let mut p = Primary::new(Config { diskless: false, ..Config::default() }, 0);
    replconf(&mut p, 1, "REPLCONF capa eof capa psync2 capa varve", 0).unwrap();
    p.psync(1, b"?", -1, &log(), 0);
    ask_full(&mut p, 2, 0);
    let Some(Supply::Fork { target: Target::Disk, conns, .. }) = p.supply(&FORK, 0) else {
        panic!("a child for the disk is due")
    };
    p.forked(&conns, Target::Disk, Offset(900), 0);
    assert_eq!([1, 2].map(|conn| p.hears_of_file(conn)), [true, false]);
    let mut out = vec![];
    p.tick(1000, true, &mut out);
    assert!(out.contains(&Output::Newline(1)), "it hears that the primary is alive: {out:?}");
    assert_eq!(p.child_done(true, 0), [1, 2]);
    p.bulk_started(1, 0);
    assert!(!p.hears_of_file(1));
    assert!(line(&mut p, 1, Some(FILE)).contains(" file="));
    // A stream is no file.
    let mut p = primary();
    ask_for_the_rest(&mut p, 1, "400");
    p.forked(&[1], Target::Socket, Offset(900), 0);
    assert!(!p.hears_of_file(1));
    assert_eq!(line(&mut p, 1, None), format!("+FULLRESYNC {} 900\r\n", id(1)));
    assert_eq!((p.sync_counts().0, p.resumed()), (1, 0));
}

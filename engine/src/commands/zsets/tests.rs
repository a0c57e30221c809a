//! Replies and effects of the sorted set commands; each test runs on a small and on a large one
//! where that could make a difference.

use crate::command::{Block, Ctx, OnTimeout, call};
use crate::commands::all;
use crate::commands::tests::Bench;
use crate::{OwnedArgs, Reply};

/// A bench whose sorted sets are small, and one whose sorted sets are large from the first member.
fn benches() -> [Bench; 2] {
    let mut large = Bench::new();
    large.ks.limits.zset_max_listpack_entries = 0;
    [Bench::new(), large]
}

/// Runs a command with RESP 3 or where it may not block; the reply and what it waits for.
fn run_as(b: &mut Bench, line: &str, resp3: bool, may_block: bool) -> (String, Option<Block>) {
    let words: Vec<&str> = line.split(' ').collect();
    let name = words[0].to_lowercase();
    let command = all().find(|c| c.spec.name == name).expect("a command");
    let mut reply = Reply::new();
    reply.resp3 = resp3;
    let owned = OwnedArgs::new(&words);
    let mut ctx = Ctx::new(&mut b.ks, 0, &mut reply);
    ctx.may_block = may_block;
    let (_, result) = call(&mut ctx, command.run, &mut owned.args());
    let block = ctx.block.take();
    result.expect("no error");
    b.ks.effects.clear();
    (String::from_utf8_lossy(&reply.to_vec()).replace("\r\n", "|"), block)
}

fn resp3(b: &mut Bench, line: &str) -> String {
    run_as(b, line, true, true).0
}

#[test]
fn zadd_obeys_its_words() {
    for mut b in benches() {
        assert_eq!(b.run("ZADD z 1 a 2 b 3 a"), ":2|");
        assert_eq!(b.effects, ["ZADD z 1 a 2 b 3 a"]);
        assert_eq!(b.ks.dirty, 3);
        assert_eq!(b.run("ZADD z CH 3 a 5 b 1 c"), ":2|");
        assert_eq!(b.run("ZADD z NX 9 a 9 d"), ":1|");
        assert_eq!(b.run("ZADD z XX CH 8 a 9 e"), ":1|");
        assert_eq!(b.run("ZADD z GT CH 7 a 9 b 4 f"), ":2|");
        assert_eq!(b.run("ZADD z LT CH 7 a 10 b"), ":1|");
        assert_eq!(
            b.run("ZRANGE z 0 -1 WITHSCORES"),
            "*10|$1|c|$1|1|$1|f|$1|4|$1|a|$1|7|$1|b|$1|9|$1|d|$1|9|"
        );
        assert_eq!(b.run("ZADD z INCR 1.5 a"), "$3|8.5|");
        assert_eq!(b.run("ZADD z NX INCR 1 a"), "$-1|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("ZADD z INCR 0 a"), "$3|8.5|");
        assert!(b.effects.is_empty());
        assert_eq!(b.run("ZINCRBY z -1 new"), "$2|-1|");
        assert_eq!(b.run("ZADD none XX 1 a"), ":0|");
        assert_eq!(b.run("ZADD none XX INCR 1 a"), "$-1|");
        assert_eq!(b.run("EXISTS none"), ":0|");
        b.run("ZADD i inf m");
        assert_eq!(b.run("ZINCRBY i -inf m"), "-ERR resulting score is not a number (NaN)|");
        assert_eq!(b.run("ZSCORE i m"), "$3|inf|");
        b.run("SET str v");
        for (line, error) in [
            ("ZADD z NX XX 1 a", "ERR XX and NX options at the same time are not compatible"),
            (
                "ZADD z GT LT 1 a",
                "ERR GT, LT, and/or NX options at the same time are not compatible",
            ),
            ("ZADD z INCR 1 a 2 b", "ERR INCR option supports a single increment-element pair"),
            ("ZADD z 1 a 2", "ERR syntax error"),
            ("ZADD z 1 a x b", "ERR value is not a valid float"),
            ("ZADD z nan a", "ERR value is not a valid float"),
            ("ZADD str 1 a", "WRONGTYPE Operation against a key holding the wrong kind of value"),
        ] {
            assert_eq!(b.run(line), format!("-{error}|"), "{line}");
        }
    }
}

#[test]
fn small_becomes_large_and_stays() {
    let mut b = Bench::new();
    for i in 0..128 {
        b.run(&format!("ZADD z {i} m{i}"));
    }
    assert_eq!(b.run("OBJECT ENCODING z"), "$8|listpack|");
    b.run("ZADD z 0.5 one-more");
    assert_eq!(b.run("OBJECT ENCODING z"), "$8|skiplist|");
    assert_eq!(b.run("ZRANK z one-more"), ":1|");
    assert_eq!(b.run("ZRANK z m127"), ":128|");
    b.run("ZREMRANGEBYRANK z 1 -1");
    assert_eq!(b.run("OBJECT ENCODING z"), "$8|skiplist|");
    b.run(&format!("ZADD long 1 {}", "x".repeat(65)));
    assert_eq!(b.run("OBJECT ENCODING long"), "$8|skiplist|");
}

#[test]
fn ranges_by_rank_score_and_bytes() {
    for mut b in benches() {
        b.run("ZADD z 1 a 2 b 3 c 4 d 5 e");
        b.run("ZADD l 0 a 0 b 0 c 0 d");
        for (line, reply) in [
            ("ZRANGE z 1 2", "*2|$1|b|$1|c|"),
            ("ZRANGE z 0 1 REV", "*2|$1|e|$1|d|"),
            ("ZREVRANGE z -2 -1", "*2|$1|b|$1|a|"),
            ("ZRANGE z 5 9", "*0|"),
            ("ZRANGE z (1 3 BYSCORE", "*2|$1|b|$1|c|"),
            ("ZRANGE z 3 (1 BYSCORE REV WITHSCORES", "*4|$1|c|$1|3|$1|b|$1|2|"),
            ("ZRANGEBYSCORE z -inf +inf LIMIT 1 2", "*2|$1|b|$1|c|"),
            ("ZREVRANGEBYSCORE z +inf -inf LIMIT 1 2", "*2|$1|d|$1|c|"),
            ("ZRANGEBYSCORE z -inf +inf LIMIT 3 -1", "*2|$1|d|$1|e|"),
            ("ZRANGEBYSCORE z -inf +inf LIMIT -1 2", "*0|"),
            ("ZRANGEBYSCORE z 4 1", "*0|"),
            ("ZRANGEBYSCORE none 4 1", "*0|"),
            ("ZRANGEBYLEX l [b (d", "*2|$1|b|$1|c|"),
            ("ZREVRANGEBYLEX l + (b", "*2|$1|d|$1|c|"),
            ("ZRANGE l - + BYLEX LIMIT 1 1", "*1|$1|b|"),
            ("ZRANGEBYLEX l + -", "*0|"),
            ("ZCOUNT z (1 inf", ":4|"),
            ("ZLEXCOUNT l - (c", ":2|"),
            (
                "ZRANGE z 0 1 LIMIT 0 1",
                "-ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX|",
            ),
            (
                "ZRANGE l - + BYLEX WITHSCORES",
                "-ERR syntax error, WITHSCORES not supported in combination with BYLEX|",
            ),
            ("ZRANGEBYSCORE z a b", "-ERR min or max is not a float|"),
            ("ZRANGEBYLEX z a b", "-ERR min or max not valid string range item|"),
            ("ZRANGE z a b", "-ERR value is not an integer or out of range|"),
            ("ZREVRANGE z 0 1 REV", "-ERR syntax error|"),
        ] {
            assert_eq!(b.run(line), reply, "{line}");
        }
        assert_eq!(resp3(&mut b, "ZRANGE z 0 0 WITHSCORES"), "*1|*2|$1|a|,1|");
        assert_eq!(b.run("ZRANGESTORE d z 2 4 BYSCORE REV"), ":0|");
        assert_eq!(b.run("ZRANGESTORE d z 4 2 BYSCORE REV LIMIT 0 2"), ":2|");
        assert_eq!(b.effects, ["ZRANGESTORE d z 4 2 BYSCORE REV LIMIT 0 2"]);
        assert_eq!(b.run("ZRANGE d 0 -1"), "*2|$1|c|$1|d|");
        assert_eq!(b.run("ZRANGESTORE d none 0 1"), ":0|");
        assert_eq!(b.run("EXISTS d"), ":0|");
        assert_eq!(b.run("ZREMRANGEBYSCORE z (4 inf"), ":1|");
        assert_eq!(b.run("ZREMRANGEBYRANK z 0 1"), ":2|");
        assert_eq!(b.run("ZRANGE z 0 -1"), "*2|$1|c|$1|d|");
        assert_eq!(b.run("ZREMRANGEBYLEX l [b [c"), ":2|");
        assert_eq!(b.run("ZREMRANGEBYLEX l - +"), ":2|");
        assert_eq!(b.run("ZREM z c d x"), ":2|");
        assert_eq!(b.run("EXISTS z l"), ":0|");
    }
}

#[test]
fn single_members() {
    for mut b in benches() {
        b.run("ZADD z 1 a 2.5 b 3 c");
        assert_eq!(b.run("ZCARD z"), ":3|");
        assert_eq!(b.run("ZSCORE z b"), "$3|2.5|");
        assert_eq!(b.run("ZMSCORE z a x"), "*2|$1|1|$-1|");
        assert_eq!(b.run("ZRANK z c"), ":2|");
        assert_eq!(b.run("ZREVRANK z c WITHSCORE"), "*2|:0|$1|3|");
        assert_eq!(b.run("ZRANK z x"), "$-1|");
        assert_eq!(b.run("ZRANK z x WITHSCORE"), "*-1|");
        assert_eq!(b.run("ZRANK z x y"), "-ERR syntax error|");
        assert_eq!(resp3(&mut b, "ZSCORE z b"), ",2.5|");
        assert_eq!(b.run("ZSCAN z 0 MATCH [ab] COUNT 100"), "*2|$1|0|*4|$1|a|$1|1|$1|b|$3|2.5|");
        assert!(b.run("ZRANDMEMBER z -7").starts_with("*7|"));
        assert_eq!(b.run("ZRANDMEMBER z 9 WITHSCORES"), "*6|$1|a|$1|1|$1|b|$3|2.5|$1|c|$1|3|");
        assert_eq!(resp3(&mut b, "ZRANDMEMBER z 9 WITHSCORES").matches("*2|").count(), 3);
        assert_eq!(b.run("ZRANDMEMBER none 3"), "*0|");
        assert_eq!(b.run("ZRANDMEMBER none"), "$-1|");
        assert_eq!(b.run("ZRANDMEMBER z 1 x"), "-ERR syntax error|");
        for i in 0..300 {
            b.run(&format!("ZADD many {i} m{i}"));
        }
        let reply = b.run("ZRANDMEMBER many 50");
        let distinct: std::collections::HashSet<&str> =
            reply.split('|').skip(2).step_by(2).collect();
        assert_eq!(distinct.len(), 50);
    }
}

#[test]
fn popping_leaves_what_was_popped_in_the_log() {
    for mut b in benches() {
        b.run("ZADD z 1 a 2 b 3 c 4 d 5 e 6 f");
        assert_eq!(b.run("ZPOPMIN z"), "*2|$1|a|$1|1|");
        assert_eq!(b.effects, ["ZPOPMIN z"]);
        assert_eq!(b.run("ZPOPMAX z 2"), "*4|$1|f|$1|6|$1|e|$1|5|");
        assert_eq!(b.run("ZMPOP 2 none z MAX"), "*2|$1|z|*1|*2|$1|d|$1|4|");
        assert_eq!(b.effects, ["ZPOPMAX z 1"]);
        assert_eq!(b.run("BZPOPMIN none z 1"), "*3|$1|z|$1|b|$1|2|");
        assert_eq!(b.effects, ["ZPOPMIN z"]);
        assert_eq!(b.run("BZMPOP 0 1 z MIN COUNT 5"), "*2|$1|z|*1|*2|$1|c|$1|3|");
        assert_eq!(b.effects, ["ZPOPMIN z 1"]);
        assert_eq!(b.run("EXISTS z"), ":0|");
        assert_eq!(b.run("ZPOPMIN z 3"), "*0|");
        assert_eq!(b.run("ZMPOP 1 z MIN"), "*-1|");
        b.run("ZADD z 1 a 2 b");
        assert_eq!(b.run("ZPOPMIN z 0"), "*0|");
        assert_eq!(resp3(&mut b, "ZPOPMIN z"), "*2|$1|a|,1|");
        assert_eq!(resp3(&mut b, "ZPOPMIN z 1"), "*1|*2|$1|b|,2|");
        assert_eq!(b.run("ZPOPMIN z x"), "-ERR value is out of range, must be positive|");
        assert_eq!(b.run("ZMPOP 0 z MIN"), "-ERR numkeys should be greater than 0|");
        assert_eq!(b.run("ZMPOP 1 z MIN COUNT 0"), "-ERR count should be greater than 0|");
        assert_eq!(b.run("ZMPOP 5 z MIN"), "-ERR syntax error|");
        assert_eq!(b.run("BZPOPMIN z -1"), "-ERR timeout is negative|");
    }
}

#[test]
fn waiting_names_the_keys_and_the_end() {
    let mut b = Bench::new();
    let (reply, block) = run_as(&mut b, "BZPOPMIN x y 1.5", false, true);
    let block = block.expect("it waits");
    assert_eq!(reply, "");
    assert_eq!(block.keys, [Box::from(&b"x"[..]), Box::from(&b"y"[..])]);
    assert_eq!(block.until_ms, Some(b.ks.now_ms + 1500));
    assert_eq!(block.on_timeout, OnTimeout::NullArray);
    let (reply, block) = run_as(&mut b, "BZMPOP 0 2 x y MAX", false, true);
    let block = block.expect("it waits");
    assert_eq!((reply.as_str(), block.keys.len(), block.until_ms), ("", 2, None));
    let (reply, block) = run_as(&mut b, "BZPOPMAX x 0", false, false);
    assert_eq!((reply.as_str(), block.is_none()), ("*-1|", true));
    b.ks.wait_for(0, b"x");
    b.run("ZADD x 1 a");
    assert_eq!(b.ks.ready.len(), 1);
}

#[test]
fn sorted_sets_meet_join_and_part() {
    for mut b in benches() {
        b.run("ZADD a 1 x 2 y 3 z");
        b.run("ZADD b 10 y 20 z 30 w");
        b.run("SADD s y q");
        for (line, reply) in [
            ("ZUNION 2 a b WITHSCORES", "*8|$1|x|$1|1|$1|y|$2|12|$1|z|$2|23|$1|w|$2|30|"),
            ("ZUNION 2 a b WEIGHTS 2 0.5 AGGREGATE MAX", "*4|$1|x|$1|y|$1|z|$1|w|"),
            ("ZINTER 2 a b WITHSCORES AGGREGATE MIN", "*4|$1|y|$1|2|$1|z|$1|3|"),
            ("ZINTER 2 a s WITHSCORES", "*2|$1|y|$1|3|"),
            ("ZINTER 2 a none", "*0|"),
            ("ZDIFF 2 a s WITHSCORES", "*4|$1|x|$1|1|$1|z|$1|3|"),
            ("ZDIFF 1 none", "*0|"),
            ("ZUNION 1 s WITHSCORES", "*4|$1|q|$1|1|$1|y|$1|1|"),
            ("ZINTERCARD 2 a b", ":2|"),
            ("ZINTERCARD 2 a b LIMIT 1", ":1|"),
            ("ZUNION 0 a", "-ERR at least 1 input key is needed for 'zunion' command|"),
            ("ZUNION 2 a", "-ERR syntax error|"),
            ("ZUNION 1 a WEIGHTS x", "-ERR weight value is not a float|"),
            ("ZDIFF 1 a WEIGHTS 1", "-ERR syntax error|"),
            ("ZINTERCARD 1 a LIMIT -1", "-ERR LIMIT can't be negative|"),
            ("ZUNIONSTORE d 1 a WITHSCORES", "-ERR syntax error|"),
        ] {
            assert_eq!(b.run(line), reply, "{line}");
        }
        assert_eq!(resp3(&mut b, "ZINTER 2 a s WITHSCORES"), "*1|*2|$1|y|,3|");
        assert_eq!(b.run("ZUNIONSTORE d 2 a b"), ":4|");
        assert_eq!(b.effects, ["ZUNIONSTORE d 2 a b"]);
        assert_eq!(b.run("ZDIFFSTORE d 2 d b"), ":1|");
        assert_eq!(b.run("ZRANGE d 0 -1 WITHSCORES"), "*2|$1|x|$1|1|");
        assert_eq!(b.run("ZINTERSTORE d 2 d none"), ":0|");
        assert_eq!(b.run("EXISTS d"), ":0|");
        b.run("ZADD p inf m");
        b.run("ZADD n -inf m");
        assert_eq!(b.run("ZUNION 2 p n WITHSCORES"), "*2|$1|m|$1|0|");
        assert_eq!(b.run("ZUNION 1 p WEIGHTS 0 WITHSCORES"), "*2|$1|m|$1|0|");
        b.run("SET str v");
        assert!(b.run("ZUNION 1 str").starts_with("-WRONGTYPE"));
    }
}

/// As Redis does, or its data would be others than those of the server whose log it follows.
#[test]
fn sums_begin_with_the_smallest_and_what_is_no_number_changes_no_extreme() {
    for mut b in benches() {
        b.run("ZADD three 0.1 m 1 x 1 y");
        b.run("ZADD two 0.2 m 1 x");
        b.run("ZADD one 0.7 m");
        b.run("ZUNIONSTORE d 3 three two one");
        let sum = crate::num::format_double((0.7 + 0.2) + 0.1);
        assert_ne!(sum, crate::num::format_double((0.1 + 0.2) + 0.7));
        assert_eq!(b.run("ZSCORE d m"), format!("${}|{sum}|", sum.len()));
        b.run("ZADD a 5 m");
        b.run("ZADD b inf m 1 x");
        for (aggregate, score) in [("SUM", "0"), ("MIN", "5"), ("MAX", "5")] {
            b.run(&format!("ZINTERSTORE d 2 a b WEIGHTS 1 0 AGGREGATE {aggregate}"));
            assert_eq!(b.run("ZSCORE d m"), format!("$1|{score}|"), "{aggregate}");
        }
    }
}

/// A replica that had the set in another form took out others than its primary had.
#[test]
fn a_range_of_members_is_told_by_its_ranks() {
    let [small, large] = benches();
    let [other_small, other_large] = benches();
    for (mut at, mut other) in [(small, other_large), (large, other_small)] {
        let fill = "ZADD z 1 b 1 d 2 a 2 c 2 e";
        at.run(fill);
        other.run(fill);
        for range in ["[b +", "- (c", "[b (c"] {
            at.run(&format!("ZRANGESTORE d z {range} BYLEX"));
            at.effects.iter().for_each(|effect| _ = other.run(effect));
            assert_eq!(at.run("ZRANGE d 0 -1"), other.run("ZRANGE d 0 -1"), "{range}");
        }
        at.run("ZREMRANGEBYLEX z [b +");
        assert!(at.effects[0].starts_with("ZREMRANGEBYRANK z "), "{:?}", at.effects);
        other.run(&at.effects[0]);
        assert_eq!(at.run("ZRANGE z 0 -1"), other.run("ZRANGE z 0 -1"));
    }
}

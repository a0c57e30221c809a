//! Which commands are tried, as a weighted list of templates, and how a template becomes a command.
//!
//! Words stand for themselves. `(a b|c|)` chooses one alternative, `5*(…)` repeats 1 to 5 times, and
//! `@name` is a value of a kind, drawn from few enough values that commands collide on keys, fields
//! and members, and wide enough ones that every encoding's threshold is crossed now and then.
//!
//! Nothing here may depend on when or in which order a server does what is left to it: expiry
//! times are far away or long past, `GT` and `LT` meet absolute times only, and sums of scores have
//! two terms at most, since a third would make their order visible.

use crate::support::{Command, Random};

/// Commands whose reply and effect are the same on any server.
pub const PLAIN: &[(u32, &str)] = &[
    // Strings.
    (60, "SET @s @v (|||EX @ttl|PX @pttl|EXAT @at|PXAT @pat|KEEPTTL) (|||NX|XX) (|||GET)"),
    (40, "GET @s"),
    (8, "SETNX @s @v"),
    (5, "SETEX @s (@ttl|@ttl|@bad) @v"),
    (5, "PSETEX @s (@pttl|@pttl|@bad) @v"),
    (8, "GETSET @s @v"),
    (6, "GETDEL @s"),
    (8, "GETEX @s (|EX @ttl|PX @pttl|EXAT (@at|1)|PXAT (@pat|1)|PERSIST|@bad)"),
    (10, "APPEND @s @v"),
    (6, "STRLEN @s"),
    (8, "SETRANGE @s (@o|@bad) @v"),
    (8, "GETRANGE @s @i @i"),
    (2, "SUBSTR @s @i @i"),
    (12, "INCR @s"),
    (8, "DECR @s"),
    (10, "INCRBY @s @n"),
    (8, "DECRBY @s @n"),
    (8, "MGET 4*(@s)"),
    (6, "MSET 4*(@s @v)"),
    (4, "MSETNX 2*(@s @v)"),
    (4, "LCS @s @s (|LEN|IDX|IDX WITHMATCHLEN|IDX MINMATCHLEN 2|LEN IDX)"),
    (8, "SETBIT @s (@o|@bad) (0|1|1|2)"),
    (5, "GETBIT @s (@o|@bad)"),
    (6, "BITCOUNT @s (|@i @i|@i @i BIT|@i @i BYTE|1)"),
    (5, "BITPOS @s (0|1|2) (|@i|@i @i|@i @i BIT|@i @i BYTE)"),
    (5, "BITOP (AND|OR|XOR|XOR) @s 3*(@s)"),
    (2, "BITOP NOT @s (@s|@s|@s @s)"),
    (
        6,
        "BITFIELD @s 3*(GET @bits @o|SET @bits #(0|1|7) @n|INCRBY @bits @o @n|OVERFLOW (SAT|WRAP|FAIL|NO))",
    ),
    (2, "BITFIELD_RO @s 2*(GET @bits @o)"),
    // Lists.
    (30, "(RPUSH|LPUSH) @l 4*(@v)"),
    (4, "(RPUSH|LPUSH) @l 200*(@e)"),
    (8, "(RPUSHX|LPUSHX) @l 2*(@v)"),
    (25, "(LPOP|RPOP) @l (|||@i)"),
    (6, "LLEN @l"),
    (25, "LRANGE @l @i @i"),
    (6, "LRANGE @l 0 -1"),
    (12, "LINDEX @l @i"),
    (12, "LSET @l @i @v"),
    (10, "LINSERT @l (BEFORE|AFTER|NEAR) @f @v"),
    (10, "LREM @l (0|1|-1|2|-2|@bad) @f"),
    (6, "LTRIM @l @i @i"),
    (6, "LPOS @l @f (|RANK (1|-1|2|0)) (|COUNT (0|2|-1)) (|MAXLEN (0|3|-1))"),
    (6, "RPOPLPUSH @l @l"),
    (10, "LMOVE @l @l (LEFT|RIGHT) (LEFT|RIGHT|UP)"),
    (6, "LMPOP (1 @l|2 @l @l|0 @l|2 @l) (LEFT|RIGHT) (|COUNT (1|3|0))"),
    // Hashes.
    (40, "HSET @h 4*(@f @v)"),
    (5, "HSET @h 150*(@e @v)"),
    (3, "HMSET @h 2*(@f @v)"),
    (8, "HSETNX @h @f @v"),
    (20, "HGET @h @f"),
    (8, "HMGET @h 4*(@f)"),
    (12, "HDEL @h 3*(@f)"),
    (3, "HDEL @h 60*(@e)"),
    (5, "HLEN @h"),
    (6, "HEXISTS @h @f"),
    (4, "HSTRLEN @h @f"),
    (12, "HGETALL @h"),
    (5, "(HKEYS|HVALS) @h"),
    (15, "HINCRBY @h @f @n"),
    // Sets.
    (35, "SADD @t 4*(@f)"),
    (15, "SADD @t 4*(@n)"),
    (5, "SADD @t 300*(@e)"),
    (3, "SADD @t 300*(@small)"),
    (15, "SREM @t 4*(@f)"),
    (4, "SREM @t 60*(@e)"),
    (6, "SCARD @t"),
    (10, "SISMEMBER @t @f"),
    (5, "SMISMEMBER @t 4*(@f)"),
    (12, "SMEMBERS @t"),
    (8, "SMOVE @t @t @f"),
    (12, "(SINTER|SUNION|SDIFF) 3*(@t)"),
    (10, "(SINTERSTORE|SUNIONSTORE|SDIFFSTORE) @t 3*(@t)"),
    (5, "SINTERCARD (1 @t|2 @t @t|0 @t|3 @t) (|LIMIT (0|2|-1))"),
    // Sorted sets.
    (40, "ZADD @z (||||NX|XX) (|||GT|LT) (|||CH) 4*(@d @f)"),
    (6, "ZADD @z 160*(@d @e)"),
    (12, "ZADD @z (||NX|XX|GT|LT) INCR @d @f"),
    (15, "ZINCRBY @z @d @f"),
    (12, "ZREM @z 3*(@f)"),
    (3, "ZREM @z 60*(@e)"),
    (5, "ZCARD @z"),
    (12, "(ZSCORE|ZRANK|ZREVRANK) @z @f"),
    (5, "ZMSCORE @z 4*(@f)"),
    (5, "ZCOUNT @z @bound @bound"),
    (20, "ZRANGE @z @i @i (|WITHSCORES|REV|REV WITHSCORES|LIMIT 0 1)"),
    (10, "ZRANGE @z @bound @bound BYSCORE (|REV) (|LIMIT (0|1|-1) (2|-1|0)) (|WITHSCORES)"),
    (6, "ZREVRANGE @z @i @i (|WITHSCORES)"),
    (8, "(ZRANGEBYSCORE|ZREVRANGEBYSCORE) @z @bound @bound (|WITHSCORES) (|LIMIT (0|1) (2|-1))"),
    (5, "ZRANGESTORE @z @z @i @i (|REV)"),
    (3, "ZRANGESTORE @z @z @bound @bound BYSCORE (|REV) (|LIMIT 0 3)"),
    (4, "ZREMRANGEBYRANK @z @i @i"),
    (4, "ZREMRANGEBYSCORE @z @bound @bound"),
    (8, "(ZPOPMIN|ZPOPMAX) @z (||(2|0|5)|@bad)"),
    (5, "ZMPOP (1 @z|2 @z @z|0 @z) (MIN|MAX) (|COUNT (1|3|0))"),
    (
        6,
        "(ZUNION|ZINTER) 2 @zt @zt (|WEIGHTS (1|2|-1) (0.5|3)) (|AGGREGATE (SUM|MIN|MAX|AVG)) (|WITHSCORES)",
    ),
    (3, "(ZUNION|ZINTER) 3 @zt @zt @zt AGGREGATE (MIN|MAX) (|WITHSCORES)"),
    (
        6,
        "(ZUNIONSTORE|ZINTERSTORE) @z 2 @zt @zt (|WEIGHTS (1|2|x) (0.5|3)) (|AGGREGATE (SUM|MIN|MAX))",
    ),
    (5, "ZDIFF 2 @zt @zt (|WITHSCORES)"),
    (3, "ZDIFFSTORE @z 2 @zt @zt"),
    (3, "ZINTERCARD 2 @zt @zt (|LIMIT (0|2|-1))"),
    // Sorted sets of one score, where the order of bytes is defined.
    (15, "ZADD @y 4*(0 @f)"),
    (5, "ZREM @y 2*(@f)"),
    (6, "ZRANGEBYLEX @y @lex @lex (|LIMIT (0|1) (2|-1))"),
    (6, "ZREVRANGEBYLEX @y @lex @lex (|LIMIT (0|1) (2|-1))"),
    (6, "ZRANGE @y @lex @lex BYLEX (|REV) (|LIMIT 1 2)"),
    (5, "ZLEXCOUNT @y @lex @lex"),
    (3, "ZREMRANGEBYLEX @y @lex @lex"),
    // Keys.
    (20, "DEL 2*(@k)"),
    (6, "UNLINK 2*(@k)"),
    (8, "EXISTS 3*(@k)"),
    (3, "TOUCH 3*(@k)"),
    (12, "TYPE @k"),
    (8, "RENAME @k @k"),
    (5, "RENAMENX @k @k"),
    (10, "COPY @k @k (|REPLACE) (|||DB (0|1|99))"),
    (4, "MOVE @k (0|1|1|99)"),
    (10, "EXPIRE @k @ttl (|||NX|XX)"),
    (6, "PEXPIRE @k @pttl (|||NX|XX|NX XX)"),
    (6, "EXPIREAT @k (@at|@at|@at|1|-1) (|NX|XX|GT|LT|GT LT)"),
    (6, "PEXPIREAT @k (@pat|@pat|@pat|1|0) (|NX|XX|GT|LT)"),
    (3, "(EXPIRE|PEXPIRE) @k (0|-1|-100000|@bad)"),
    (12, "(TTL|PTTL) @k"),
    (8, "(EXPIRETIME|PEXPIRETIME) @k"),
    (8, "PERSIST @k"),
    (3, "DBSIZE"),
    (4, "KEYS @pattern"),
    (2, "SELECT (0|0|0|1|99|x)"),
    (1, "SWAPDB 0 1"),
    (6, "SORT (@l|@t|@z) (|LIMIT 1 3) (|ASC|DESC) ALPHA (|STORE @l)"),
    (6, "SORT (@l|@t|@z) (|LIMIT 0 4) (|ASC|DESC) (|STORE @l)"),
    (4, "SORT (@l|@z) BY nosort (|GET # GET s*) (|LIMIT 0 4)"),
    (2, "SORT @t BY nosort"),
    (4, "SORT (@l|@t) BY s* (|GET #) (|GET h*->f1)"),
    (3, "SORT_RO @l ALPHA (|LIMIT 0 5)"),
    // The server.
    (2, "PING (|@v)"),
    (2, "ECHO @v"),
    // What must fail.
    (2, "(GET|HGET @h|LINDEX @l|ZADD @z 1|SADD @t|SPOP|EXEC|DISCARD|NOSUCH @v @s|nosuch)"),
    (1, "(SPOP @t -1|SRANDMEMBER @t x|HRANDFIELD @h x|ZRANDMEMBER @z x|SCAN x|HSCAN @h x)"),
    (
        1,
        "(RESTORE @s 0 @v|RESTORE @s -1 x|RESTORE @s 0 \0\n\0\0\0\0\0\0\0\0|OBJECT ENCODING|OBJECT NOSUCH @s)",
    ),
];

/// Commands whose reply is left to chance; what they change is made equal on the other server.
pub const CHANCE: &[(u32, &str)] = &[
    (6, "SRANDMEMBER @t (|(0|1|3|50|-1|-7))"),
    (4, "HRANDFIELD @h (|(0|1|3|50|-1|-7) (|WITHVALUES))"),
    (4, "ZRANDMEMBER @z (|(0|1|3|50|-1|-7) (|WITHSCORES))"),
    (2, "RANDOMKEY"),
];

/// A set's random members, taken.
pub const POP: &[(u32, &str)] = &[(8, "SPOP @t (||(0|1|2|3|20))")];

/// Sums of decimal fractions, which Redis makes in 80 bits.
pub const FLOAT: &[(u32, &str)] = &[(8, "INCRBYFLOAT @s @float"), (8, "HINCRBYFLOAT @h @f @float")];

/// Cursors: `@cursor` is where it goes.
pub const SCAN: &[(u32, &str)] = &[
    (3, "SCAN @cursor (|MATCH @pattern) (|COUNT (1|10|1000)) (|TYPE (hash|string|nosuch))"),
    (2, "SSCAN @t @cursor (|MATCH @pattern) (|COUNT 100)"),
    (2, "HSCAN @h @cursor (|MATCH @pattern) (|COUNT 1)"),
    (2, "ZSCAN @z @cursor (|MATCH @pattern) (|COUNT 0)"),
];

/// Draws templates and fills them.
pub struct Grammar {
    pub random: Random,
}

impl Grammar {
    /// A command from a list of templates, by weight.
    pub fn draw(&mut self, list: &[(u32, &str)]) -> Command {
        let total: u32 = list.iter().map(|(weight, _)| weight).sum();
        let mut at = self.random.below(total as usize) as u32;
        let template = list.iter().find(|(weight, _)| {
            let here = at < *weight;
            at = at.saturating_sub(*weight);
            here
        });
        let mut words = Vec::new();
        self.expand(template.unwrap().1, &mut words);
        Command(words)
    }

    /// A plain command, one in thirty of them with an argument lost, added or spoilt.
    pub fn plain(&mut self) -> Command {
        let mut command = self.draw(PLAIN);
        // Keys `y…` must keep one score; ZRANK takes an argument more from 7.2 on.
        let fragile = command.0.iter().any(|a| a.starts_with(b"y"))
            || matches!(command.name().as_str(), "ZRANK" | "ZREVRANK");
        if !fragile && self.random.one_in(30) {
            let at = self.random.below(command.0.len());
            match self.random.below(3) {
                0 => command.0.truncate(at.max(1)),
                1 => command.0.push(self.bad()),
                _ if at > 0 => command.0[at] = self.bad(),
                _ => {}
            }
        }
        match command.name().as_str() {
            // Cut short, these are right, and answered by chance.
            "HRANDFIELD" | "SRANDMEMBER" | "ZRANDMEMBER" | "SPOP" if command.0.len() == 2 => {
                self.plain()
            }
            _ => command,
        }
    }

    pub fn key(&mut self) -> Vec<u8> {
        self.value("k")
    }

    /// Expands a template's alternatives, repeats and values, depth first.
    fn expand(&mut self, template: &str, out: &mut Vec<Vec<u8>>) {
        let mut rest = template;
        while !rest.is_empty() {
            rest = rest.trim_start_matches(' ');
            let word_end = rest.find([' ', '(']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(word_end);
            if after.starts_with('(') {
                let close = closing(after);
                let inner = &after[1..close];
                rest = &after[close + 1..];
                let repeats = match word.strip_suffix('*') {
                    Some(most) => 1 + self.random.below(most.parse().unwrap()),
                    None => 1,
                };
                for _ in 0..repeats {
                    let alternatives = split_top(inner);
                    let chosen = *self.random.pick(&alternatives);
                    let first = out.len();
                    self.expand(chosen, out);
                    // `#(0|1)`: the word before the parenthesis is the choice's prefix.
                    if repeats == 1 && !word.is_empty() && !word.ends_with('*') {
                        out[first].splice(0..0, word.bytes());
                    }
                }
            } else {
                match word.strip_prefix('@') {
                    Some(kind) => out.push(self.value(kind)),
                    None if word.is_empty() => {}
                    None => out.push(word.as_bytes().to_vec()),
                }
                rest = after;
            }
        }
    }

    fn value(&mut self, kind: &str) -> Vec<u8> {
        const HOUR_MS: i64 = 3_600_000;
        // 2100-01-01, in seconds.
        const FAR: i64 = 4_102_444_800;
        let r = &mut self.random;
        match kind {
            "s" | "l" | "h" | "t" | "z" => {
                let kind = if r.one_in(16) { *r.pick(&["s", "l", "h", "t", "z"]) } else { kind };
                format!("{kind}{}", r.below(5)).into_bytes()
            }
            "y" => format!("y{}", r.below(2)).into_bytes(),
            "zt" => format!("{}{}", r.pick(&["z", "z", "t"]), r.below(5)).into_bytes(),
            "k" => format!("{}{}", r.pick(&["s", "l", "h", "t", "z"]), r.below(6)).into_bytes(),
            "f" => match r.below(12) {
                0 => r.between(-3, 20).to_string().into_bytes(),
                1 => self.string(),
                _ => format!("f{}", r.below(12)).into_bytes(),
            },
            "e" => match r.below(200) {
                0 => self.string(),
                1 => r.between(-70_000, 70_000).to_string().into_bytes(),
                _ => format!("e{}", r.below(400)).into_bytes(),
            },
            "small" => r.between(-400, 400).to_string().into_bytes(),
            "v" => match r.below(4) {
                0 => self.integer(),
                1 => format!("f{}", r.below(12)).into_bytes(),
                _ => self.string(),
            },
            "n" => self.integer(),
            "i" => match r.below(30) {
                0 => self.integer(),
                1 => self.bad(),
                _ => r.between(-8, 14).to_string().into_bytes(),
            },
            "o" => match r.below(20) {
                0 => r.between(8_000, 40_000).to_string().into_bytes(),
                _ => r.between(0, 90).to_string().into_bytes(),
            },
            "d" => self.score(),
            "bound" => match r.below(10) {
                0 => b"-inf".to_vec(),
                1 => b"+inf".to_vec(),
                2 => b"inf".to_vec(),
                3 => self.bad(),
                4 | 5 => [b"(".to_vec(), self.score()].concat(),
                _ => self.score(),
            },
            "lex" => match r.below(10) {
                0 => b"-".to_vec(),
                1 => b"+".to_vec(),
                2 => self.bad(),
                _ => format!("{}f{}", r.pick(&["[", "("]), r.below(12)).into_bytes(),
            },
            "float" => match r.below(8) {
                0 => self.score(),
                1 => self.integer(),
                2 => self.bad(),
                _ => format!("{}.{}", r.between(-50, 50), r.below(1000)).into_bytes(),
            },
            "bits" => format!("{}{}", r.pick(&["u", "i"]), r.pick(&[1, 4, 8, 13, 32, 63, 64, 65]))
                .into_bytes(),
            "ttl" => r.between(100, 100_000).saturating_mul(3600).to_string().into_bytes(),
            "pttl" => (r.between(100, 100_000) * HOUR_MS).to_string().into_bytes(),
            "at" => (FAR + r.between(0, 9)).to_string().into_bytes(),
            "pat" => (FAR * 1000 + r.between(0, 9)).to_string().into_bytes(),
            "pattern" => {
                let patterns = [
                    "*",
                    "s*",
                    "*1",
                    "?2",
                    "[hl]*",
                    "[^s]?",
                    "[a-m][0-2]",
                    "\\s*",
                    "nosuch",
                    "f1?",
                    "*e*",
                    "**",
                    "[z-a]1",
                    "f[",
                    "",
                ];
                r.pick(&patterns).as_bytes().to_vec()
            }
            "bad" => self.bad(),
            "cursor" => b"@cursor".to_vec(),
            other => panic!("no such kind of value: @{other}"),
        }
    }

    /// Strings around the lengths where an encoding, or a length's own width, changes.
    fn string(&mut self) -> Vec<u8> {
        let lengths = [0, 1, 3, 11, 12, 19, 20, 21, 43, 44, 45, 62, 63, 64, 65, 127, 128, 200];
        let r = &mut self.random;
        let len = match r.below(60) {
            0 => *r.pick(&[254, 255, 256, 4095, 4096, 8191, 8192, 8193, 20_000, 100_000]),
            _ => *r.pick(&lengths),
        };
        match r.below(3) {
            0 => r.bytes(len),
            1 => vec![b'a' + r.below(26) as u8; len],
            _ => b"the quick brown fox jumps over ".iter().copied().cycle().take(len).collect(),
        }
    }

    fn integer(&mut self) -> Vec<u8> {
        let edges = [
            0,
            1,
            -1,
            12,
            13,
            127,
            128,
            -128,
            -129,
            32_767,
            32_768,
            -32_769,
            1 << 23,
            i64::from(i32::MAX),
            i64::from(i32::MAX) + 1,
            i64::from(i32::MIN) - 1,
            1 << 53,
            i64::MAX,
            i64::MAX - 1,
            i64::MIN,
            i64::MIN + 1,
        ];
        let r = &mut self.random;
        match r.below(3) {
            0 => r.pick(&edges).to_string().into_bytes(),
            _ => r.between(-20, 100).to_string().into_bytes(),
        }
    }

    /// Scores: mostly sums of powers of two, so that arithmetic is exact and prints short.
    fn score(&mut self) -> Vec<u8> {
        let edges = [
            "inf",
            "-inf",
            "+inf",
            "1e308",
            "-1e308",
            "1e-300",
            "0.1",
            "3.14159",
            "-0",
            "1e3",
            "9007199254740993",
            "123456789012345680",
            "0x10",
            "+5",
            ".5",
            "2.",
            "Infinity",
        ];
        let r = &mut self.random;
        match r.below(12) {
            0 => r.pick(&edges).as_bytes().to_vec(),
            1 | 2 => format!("{}", r.between(-40, 40) as f64 / 8.0).into_bytes(),
            _ => r.between(-5, 12).to_string().into_bytes(),
        }
    }

    /// What is no valid argument almost anywhere; never a time that is near. Nothing beyond a double's
    /// range: in Redis 7.0 that leaves an `errno` behind which a later `SORT` takes for its own.
    fn bad(&mut self) -> Vec<u8> {
        let bad = [
            "",
            "abc",
            "-1",
            "1.5",
            " 1",
            "1 ",
            "01",
            "+1",
            "-0",
            "nan",
            "0x",
            "--1",
            "9223372036854775807",
            "9223372036854775808",
            "-9223372036854775808",
            "-9223372036854775809",
            "18446744073709551615",
            "1e5",
            "inf",
            "\0",
            "1\0",
            "\u{fffd}",
        ];
        self.random.pick(&bad).as_bytes().to_vec()
    }
}

/// The position of the parenthesis that closes the one `text` begins with.
fn closing(text: &str) -> usize {
    let mut depth = 0;
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return i;
        }
    }
    panic!("unbalanced template: {text}");
}

/// Splits at the bars that are in no inner parenthesis.
fn split_top(text: &str) -> Vec<&str> {
    let (mut parts, mut depth, mut start) = (Vec::new(), 0, 0);
    for (i, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            '|' if depth == 0 => {
                parts.push(&text[start..i]);
                start = i + 1;
            }
            _ => {}
        }
    }
    parts.push(&text[start..]);
    parts
}

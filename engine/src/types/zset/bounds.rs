//! The ends of ranges: of scores (`1`, `(1`, `-inf`) and of members (`[a`, `(a`, `-`, `+`).

/// One end of a range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreBound {
    pub score: f64,
    pub exclusive: bool,
}

impl ScoreBound {
    /// Reads `1.5`, `(1.5`, `-inf`, `+inf` and the like.
    pub fn parse(text: &[u8]) -> Option<ScoreBound> {
        let (text, exclusive) = match text {
            [b'(', rest @ ..] => (rest, true),
            text => (text, false),
        };
        // Redis reads what C takes for a string: up to a zero byte, space before it passed over,
        // and nothing at all is 0.
        let end = text.iter().position(|&b| b == 0).unwrap_or(text.len());
        let score = match &text[..end] {
            [] => 0.0,
            text => crate::num::parse_double_lossy(text.trim_ascii_start())?,
        };
        Some(ScoreBound { score, exclusive })
    }
}

/// A range of scores.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoreRange {
    pub min: ScoreBound,
    pub max: ScoreBound,
}

impl ScoreRange {
    #[inline]
    pub fn within_min(&self, score: f64) -> bool {
        if self.min.exclusive { score > self.min.score } else { score >= self.min.score }
    }

    #[inline]
    pub fn within_max(&self, score: f64) -> bool {
        if self.max.exclusive { score < self.max.score } else { score <= self.max.score }
    }
}

/// One end of a range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LexBound<'a> {
    /// `-`: before every member.
    First,
    /// `+`: behind every member.
    Last,
    Included(&'a [u8]),
    Excluded(&'a [u8]),
}

impl<'a> LexBound<'a> {
    pub fn parse(text: &'a [u8]) -> Option<LexBound<'a>> {
        match text {
            b"-" => Some(LexBound::First),
            b"+" => Some(LexBound::Last),
            [b'[', rest @ ..] => Some(LexBound::Included(rest)),
            [b'(', rest @ ..] => Some(LexBound::Excluded(rest)),
            _ => None,
        }
    }
}

/// A range of members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LexRange<'a> {
    pub min: LexBound<'a>,
    pub max: LexBound<'a>,
}

impl LexRange<'_> {
    pub fn within_min(&self, member: &[u8]) -> bool {
        match self.min {
            LexBound::First => true,
            LexBound::Last => false,
            LexBound::Included(bound) => member >= bound,
            LexBound::Excluded(bound) => member > bound,
        }
    }

    pub fn within_max(&self, member: &[u8]) -> bool {
        match self.max {
            LexBound::First => false,
            LexBound::Last => true,
            LexBound::Included(bound) => member <= bound,
            LexBound::Excluded(bound) => member < bound,
        }
    }
}

//! The RDB codec from outside: round trips, old encodings, damage, and Redis itself.

mod child;
mod damage;
mod old;
mod redis;
mod round_trip;
mod support;

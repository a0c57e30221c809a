//! Replies and effects of the sorted set commands.

//! Black-box tests: real servers, real sockets, and Debian's `redis-server` as the oracle.
//!
//! Everything is one test binary, so that it links once. `VARVE_TEST_SERVER=/usr/bin/redis-server`
//! puts another server in the daemon's place: with Redis against Redis every test here must pass,
//! which is how the tests themselves are proven.
//!
//! | variable | meaning | default |
//! | --- | --- | --- |
//! | `VARVE_TEST_SERVER` | the program under test | the `varved` just built |
//! | `VARVE_SEED`, `VARVE_COMMANDS` | differential: one seed, commands in all | 4 seeds, 200000 |
//! | `VARVE_KILLS` | crash: SIGKILLs per fsync policy | 10 |
//! | `VARVE_POWER_CUTS` | powercut: power cuts per fsync policy | 5 |
//! | `VARVE_POWER_FS` | powercut: the file system, such as `xfs` or `btrfs` (its `mkfs` is needed) | `ext4` |
//! | `VARVE_NO_MOUNT` | 1 leaves out powercut, which needs root and a loop device | |
//! | `VARVE_REPLICATION_SECONDS` | replication: seconds of writes per topology | 10 |
//! | `VARVE_RESYNC` | resync: the scenarios with this in their name | all |
//! | `VARVE_SLOW_SECONDS` | resync: how long a replica is too slow | 6 |
//! | `VARVE_RESYNC_DATA`, `VARVE_RESYNC_PAIRS` | resync: measures these pairs, into that file | |
//! | `VARVE_FORKS` | faults: snapshots in a row under writers | 30 |
//! | `VARVE_PIPE_COMMANDS` | interop: commands through `redis-cli --pipe` | 200000 |

mod clients;
mod clock;
mod compress;
mod crash;
mod differential;
mod directives;
mod failover;
mod faults;
mod history;
mod interop;
mod migrate;
mod pages;
mod pause;
mod powercut;
mod protocol;
mod replication;
mod resume;
mod resync;
mod rollback;
mod sentinel;
mod service;
mod support;
mod tool;
mod tracking;

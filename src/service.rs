//! What the daemon tells systemd: `Type=notify`. Without a notify socket, or where `supervised` does not
//! say so, nothing happens.

use crate::config::Supervised;
use sd_notify::NotifyState;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};

static TELLS: AtomicBool = AtomicBool::new(false);

/// Takes what `supervised` says.
pub fn init(supervised: Supervised) {
    TELLS.store(matches!(supervised, Supervised::Systemd | Supervised::Auto), Relaxed);
}

/// Whether there is somebody who is told.
pub fn is_supervised() -> bool {
    TELLS.load(Relaxed) && std::env::var_os("NOTIFY_SOCKET").is_some()
}

fn tell(states: &[NotifyState<'_>]) {
    if TELLS.load(Relaxed) {
        let _ = sd_notify::notify(states);
    }
}

/// All data is loaded and clients are served, and nothing else is to be told any more.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("Ready to accept connections")]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Stopping")]);
}

/// One line for `systemctl status`; it also keeps a long start or save from timing out.
pub fn status(what: &str) {
    let extend = NotifyState::ExtendTimeoutUsec(60_000_000);
    tell(&[NotifyState::Status(what), extend, NotifyState::Watchdog]);
}

/// The loop is alive.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

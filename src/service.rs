//! What the daemon tells systemd: `Type=notify`. Without a notify socket nothing happens.

use crate::server::Server;
use sd_notify::NotifyState;

fn tell(states: &[NotifyState<'_>]) {
    let _ = sd_notify::notify(states);
}

/// All data is loaded and clients are served.
pub fn ready() {
    tell(&[NotifyState::Ready, NotifyState::Status("Ready to accept connections")]);
}

/// The end has begun.
pub fn stopping() {
    tell(&[NotifyState::Stopping, NotifyState::Status("Stopping")]);
}

/// One line for `systemctl status`; it also keeps a long start or save from timing out.
pub fn status(server: &Server, what: &str) {
    let _ = server;
    let extend = NotifyState::ExtendTimeoutUsec(60_000_000);
    tell(&[NotifyState::Status(what), extend, NotifyState::Watchdog]);
}

/// The loop is alive.
pub fn watchdog() {
    tell(&[NotifyState::Watchdog]);
}

//! The clients, the event loop and the links between hosts.

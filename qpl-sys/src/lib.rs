//! Raw bindings of Intel libqpl.

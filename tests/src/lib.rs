//! What the end-to-end tests share: the real program, started on free ports and ended by its PID.

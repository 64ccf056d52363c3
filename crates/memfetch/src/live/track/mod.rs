//! Which pages of a running process were written since a moment.

pub mod soft_dirty;

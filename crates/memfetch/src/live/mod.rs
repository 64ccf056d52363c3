//! A running process as a source.

//! Where the bytes of an image go.

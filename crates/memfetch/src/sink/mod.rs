//! Where the bytes of an image go.

pub mod file;
pub mod stream;

pub use file::OutputFile;
pub use stream::OutputStream;

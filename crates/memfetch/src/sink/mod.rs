//! Where the bytes of an image go.

pub mod directory;
pub mod file;
pub mod stream;

pub use directory::OutputDirectory;
pub use file::OutputFile;
pub use stream::OutputStream;

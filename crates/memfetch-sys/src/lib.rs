//! The unsafe wall of memfetch: one system call, ioctl or ptrace request is one safe function.
//!
//! Every function names its man page or kernel file. Nothing here has policy: what to call, when, and what an
//! errno means is decided above.

#[cfg(not(all(target_os = "linux", target_arch = "x86_64")))]
compile_error!("memfetch runs on x86-64 Linux");

pub mod buffer;
pub mod object;
pub mod pagemap;
pub mod process;
pub mod ptrace;
pub mod signals;
pub mod socket;
pub mod userfaultfd;
pub mod wait;
pub mod xsave;

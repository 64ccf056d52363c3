//! What memfetch's tests share: target programs with roles, address spaces built from literals, and the
//! conformance suite that every [`memfetch::Memory`] must pass.

pub mod conformance;
pub mod footprint;
pub mod invariants;
pub mod peers;
pub mod signals;
pub mod space;
pub mod swap;
pub mod target;
pub mod userfault;

pub use conformance::Expected;
pub use footprint::Footprint;
pub use space::Space;
pub use swap::Swap;
pub use target::Target;

//! From a live process to an image.

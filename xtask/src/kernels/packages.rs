//! The kernels: Debian's packages, downloaded once, and unpacked without being installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::run::{must, output};
use crate::tools;

/// A kernel that the tests are run on.
#[derive(Clone, Copy, Debug)]
pub struct Series {
    /// The first numbers of its version.
    pub name: &'static str,
    /// Packages that depend on the newest package of the series, in one release of Debian or the other.
    metapackages: &'static [&'static str],
}

/// 6.1 has no `PAGEMAP_SCAN`; 6.12 has it, and no guard pages.
pub const SERIES: &[Series] = &[
    Series { name: "6.1", metapackages: &["linux-image-cloud-amd64"] },
    Series { name: "6.12", metapackages: &["linux-image-6.12-cloud-amd64", "linux-image-cloud-amd64"] },
];

/// What a disk needs, in the order of loading; what is not in the package is built into the kernel.
const MODULES: &[&str] =
    &["virtio_ring", "virtio", "virtio_pci_modern_dev", "virtio_pci_legacy_dev", "virtio_pci", "virtio_blk"];

/// An unpacked kernel.
#[derive(Debug)]
pub struct Kernel {
    pub image: PathBuf,
    /// Modules to load, in this order.
    pub modules: Vec<PathBuf>,
}

/// Downloads the newest kernel of a series that apt knows, unless there is one in `cache` from an earlier time.
pub fn kernel(series: Series, cache: &Path) -> Result<Kernel, String> {
    let prefix = format!("linux-image-{}.", series.name);
    let package = match package_in(cache, &prefix) {
        Some(package) => package,
        None => {
            download(series, cache, &prefix)?;
            package_in(cache, &prefix).ok_or("apt-get download left no package")?
        }
    };
    let folder = package.with_extension("");
    if !folder.is_dir() {
        // Under another name until it is whole.
        let part = package.with_extension("part");
        let _ = std::fs::remove_dir_all(&part);
        must(Command::new("dpkg-deb").arg("-x").arg(&package).arg(&part))?;
        std::fs::rename(&part, &folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    }
    let image = names(&folder.join("boot")).into_iter().find(|path| name(path).starts_with("vmlinuz-"));
    let files = below(&folder.join("lib").join("modules"));
    let module = |wanted: &&str| {
        let is_it = |path: &&PathBuf| name(path).split_once(".ko").is_some_and(|(stem, _)| stem == *wanted);
        files.iter().find(is_it).cloned()
    };
    Ok(Kernel {
        image: image.ok_or_else(|| format!("{} has no kernel", package.display()))?,
        modules: MODULES.iter().filter_map(module).collect(),
    })
}

fn package_in(cache: &Path, prefix: &str) -> Option<PathBuf> {
    let mut packages = names(cache);
    packages.retain(|path| name(path).starts_with(prefix) && name(path).ends_with(".deb"));
    packages.pop()
}

fn download(series: Series, cache: &Path, prefix: &str) -> Result<(), String> {
    match try_download(series, cache, prefix) {
        // What apt knows may be old.
        Err(_) if tools::may_install(Path::new("")) => {
            must(Command::new("apt-get").args(["update", "-qq"]))?;
            try_download(series, cache, prefix)
        }
        done => done,
    }
}

fn try_download(series: Series, cache: &Path, prefix: &str) -> Result<(), String> {
    let depends = |metapackage: &str| {
        let text = output(Command::new("apt-cache").args(["depends", metapackage])).unwrap_or_default();
        let package = |line: &str| line.trim().strip_prefix("Depends: ").map(str::to_owned);
        text.lines().filter_map(package).find(|package| package.starts_with(prefix))
    };
    let package = series
        .metapackages
        .iter()
        .find_map(|metapackage| depends(metapackage))
        .ok_or_else(|| format!("apt knows no package {prefix}*-cloud-amd64 (`apt-get update`?)"))?;
    must(Command::new("apt-get").args(["download", "-qq", &package]).current_dir(cache))
}

/// The contents of a module, which the kernel takes as they are or compressed.
pub fn module(path: &Path) -> Result<Vec<u8>, String> {
    if path.extension().is_none_or(|extension| extension != "xz") {
        return std::fs::read(path).map_err(|error| format!("{}: {error}", path.display()));
    }
    let done = Command::new("xz").args(["--decompress", "--stdout"]).arg(path).output();
    let done = done.map_err(|error| format!("xz: {error}"))?;
    if done.status.success() { Ok(done.stdout) } else { Err(format!("xz: {}", done.status)) }
}

/// What lies in a folder, sorted; nothing if it cannot be read.
fn names(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).map(|entries| entries.flatten().map(|entry| entry.path()));
    let mut paths: Vec<PathBuf> = entries.into_iter().flatten().collect();
    paths.sort();
    paths
}

fn below(folder: &Path) -> Vec<PathBuf> {
    let (folders, mut files): (Vec<_>, Vec<_>) =
        names(folder).into_iter().partition(|path| path.is_dir() && !path.is_symlink());
    files.extend(folders.iter().flat_map(|folder| below(folder)));
    files
}

fn name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

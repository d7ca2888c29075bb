//! Kernel modules: where a named one is, and which others it needs first. It reads the modules themselves, so that no
//! depmod has to have run.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// A module ready to be loaded: its name, and its uncompressed content.
pub(crate) type Module = (String, Vec<u8>);

/// The modules `wanted` and everything they need, each after what it needs. `read` uncompresses one file.
pub(crate) fn with_dependencies(
    folder: &Path,
    wanted: &[&str],
    mut read: impl FnMut(&Path) -> io::Result<Vec<u8>>,
) -> io::Result<Vec<Module>> {
    let mut files = BTreeMap::new();
    index(folder, &mut files)?;
    let mut ordered = Vec::new();
    for name in wanted {
        add(&canonical(name), &files, &mut read, &mut ordered)?;
    }
    Ok(ordered)
}

/// Depth first: a module goes behind its dependencies. The kernel has no cycles among them.
fn add(
    name: &str,
    files: &BTreeMap<String, PathBuf>,
    read: &mut impl FnMut(&Path) -> io::Result<Vec<u8>>,
    ordered: &mut Vec<Module>,
) -> io::Result<()> {
    if ordered.iter().any(|(present, _)| present == name) {
        return Ok(());
    }
    let missing = || io::Error::other(format!("the guest's kernel has no module {name}"));
    let content = read(files.get(name).ok_or_else(missing)?)?;
    for dependency in dependencies(&content) {
        add(&dependency, files, read, ordered)?;
    }
    ordered.push((name.to_owned(), content));
    Ok(())
}

fn index(folder: &Path, files: &mut BTreeMap<String, PathBuf>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        let path = entry.path();
        if entry.file_type()?.is_dir() {
            index(&path, files)?;
        } else if let Some((name, _)) = entry.file_name().to_string_lossy().split_once(".ko") {
            files.insert(canonical(name), path);
        }
    }
    Ok(())
}

/// Dashes and underscores are the same to the kernel.
fn canonical(name: &str) -> String {
    name.replace('-', "_")
}

/// The `depends=` entry of a module's information section, whose entries are separated by zeroes.
fn dependencies(module: &[u8]) -> Vec<String> {
    const KEY: &[u8] = b"\0depends=";
    let Some(start) = module.windows(KEY.len()).position(|window| window == KEY) else {
        return Vec::new();
    };
    let value = module[start + KEY.len()..].split(|byte| *byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(canonical).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dependencies_come_first_and_once() {
        let folder = tempfile::tempdir().unwrap();
        let deep = folder.path().join("kernel/fs");
        fs::create_dir_all(&deep).unwrap();
        let modules = [
            ("ext4.ko.xz", "\0license=GPL\0depends=jbd2,mb-cache\0"),
            ("jbd2.ko.xz", "\0depends=crc32c_generic\0"),
            ("mb_cache.ko.xz", "\0depends=\0"),
            ("crc32c-generic.ko", "\0alias=crc32c\0"),
        ];
        for (name, content) in modules {
            fs::write(deep.join(name), content).unwrap();
        }
        let found = with_dependencies(folder.path(), &["crc32c-generic", "ext4"], |p| fs::read(p));
        let names: Vec<String> = found.unwrap().into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["crc32c_generic", "jbd2", "mb_cache", "ext4"]);
        let missing = with_dependencies(folder.path(), &["xfs"], |p| fs::read(p));
        assert!(missing.unwrap_err().to_string().contains("xfs"));
    }
}

//! The "newc" archive the kernel unpacks as its first root file system (Linux, Documentation/driver-api/early-userspace/
//! buffer-format.rst). It knows nothing of what is in it.

use std::io::{self, Write};

const FILE: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const LINK: u32 = 0o120_000;

/// Writes an archive entry by entry. Folders come before what is in them.
pub(crate) struct Archive<W: Write> {
    out: W,
    entries: u32,
    written_bytes: usize,
}

impl<W: Write> Archive<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, entries: 0, written_bytes: 0 }
    }

    pub(crate) fn folder(&mut self, path: &str) -> io::Result<()> {
        self.entry(path, FOLDER | 0o755, &[])
    }

    pub(crate) fn link(&mut self, path: &str, target: &str) -> io::Result<()> {
        self.entry(path, LINK | 0o777, target.as_bytes())
    }

    pub(crate) fn file(&mut self, path: &str, executable: bool, content: &[u8]) -> io::Result<()> {
        let mode = if executable { 0o755 } else { 0o644 };
        self.entry(path, FILE | mode, content)
    }

    /// Writes the end mark, and hands back what was written to.
    pub(crate) fn finish(mut self) -> io::Result<W> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    /// A header of hexadecimal fields, the name and the content, each padded to four bytes. Everything belongs to
    /// root, is as old as the epoch, and has one link: the same inputs give the same archive.
    fn entry(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let size = |len: usize| u32::try_from(len).map_err(|_| io::Error::other(format!("{path} is over 4 GiB")));
        self.entries += 1;
        let (inode, content_bytes, name_bytes) = (self.entries, size(content.len())?, size(path.len() + 1)?);
        let header = format!(
            "070701{inode:08x}{mode:08x}{0:08x}{0:08x}{1:08x}{0:08x}{content_bytes:08x}\
             {0:08x}{0:08x}{0:08x}{0:08x}{name_bytes:08x}{0:08x}",
            0, 1
        );
        self.put(header.as_bytes())?;
        self.put(path.as_bytes())?;
        self.put(&[0])?;
        self.pad()?;
        self.put(content)?;
        self.pad()
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written_bytes += bytes.len();
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written_bytes.next_multiple_of(4) - self.written_bytes;
        self.put(&[0; 3][..missing])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_has_the_layout_the_kernel_reads() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("bin").unwrap();
        archive.file("bin/sh", true, b"hello").unwrap();
        let bytes = archive.finish().unwrap();
        let text = String::from_utf8(bytes.clone()).unwrap();
        // The folder: 110 bytes of header, "bin\0", 2 bytes of padding.
        assert!(text.starts_with("07070100000001000041ed"), "{text}");
        let file = &text[116..];
        assert!(file.starts_with("07070100000002000081ed"), "{file}");
        // Field 7 is the content's size, field 12 the name's with its final zero.
        assert_eq!(&file[54..62], "00000005");
        assert_eq!(&file[94..102], "00000007");
        assert_eq!(&file[110..117], "bin/sh\0");
        // The name ends at 117, the content starts at the next multiple of four.
        assert_eq!(&file[120..125], "hello");
        assert_eq!(bytes.len() % 4, 0);
        assert!(text.contains("TRAILER!!!\0"));
    }
}

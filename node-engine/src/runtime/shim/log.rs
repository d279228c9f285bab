//! The output of an instance, bounded: two files, the older of which gives way.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::PathBuf,
};

use crate::runtime::folder::InstanceFolder;

/// Writes what it is given to `log`; a full `log` becomes `log.1`.
#[derive(Debug)]
pub(super) struct Log {
    path: PathBuf,
    old: PathBuf,
    file: File,
    length: u64,
    /// Half of what may be kept, in bytes.
    half: u64,
}

impl Log {
    pub(super) fn open(folder: &InstanceFolder, bytes_max: u64) -> io::Result<Self> {
        let path = folder.log();
        let file = append(&path)?;
        let length = file.metadata()?.len();
        Ok(Self { path, old: folder.old_log(), file, length, half: (bytes_max / 2).max(1) })
    }

    pub(super) fn write(&mut self, output: &[u8]) -> io::Result<()> {
        let half = usize::try_from(self.half).unwrap_or(usize::MAX);
        output.chunks(half).try_for_each(|part| self.write_part(part))
    }

    /// At most half of what may be kept.
    fn write_part(&mut self, output: &[u8]) -> io::Result<()> {
        if self.length > 0 && self.length + output.len() as u64 > self.half {
            std::fs::rename(&self.path, &self.old)?;
            self.file = append(&self.path)?;
            self.length = 0;
        }
        self.file.write_all(output)?;
        self.length += output.len() as u64;
        Ok(())
    }
}

fn append(path: &PathBuf) -> io::Result<File> {
    OpenOptions::new().create(true).append(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn output_is_bounded_and_the_newest_is_kept() {
        let dir = tempfile::tempdir().unwrap();
        let folder = InstanceFolder::new(dir.path().to_owned());
        let mut log = Log::open(&folder, 100).unwrap();
        for n in 0..100 {
            log.write(format!("line {n:04}\n").as_bytes()).unwrap();
        }
        let (new, old) =
            (std::fs::read(folder.log()).unwrap(), std::fs::read(folder.old_log()).unwrap());
        assert!(new.len() + old.len() <= 100);
        assert!(String::from_utf8(new).unwrap().ends_with("line 0099\n"));

        log.write(&[b'x'; 1000]).unwrap();
        let sizes = [folder.log(), folder.old_log()].map(|path| path.metadata().unwrap().len());
        assert!(sizes.iter().sum::<u64>() <= 100, "{sizes:?}");
    }
}

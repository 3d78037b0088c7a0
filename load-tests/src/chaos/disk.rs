//! A disk that can be filled: a small file system in memory with a tablespace of the database.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use sqlx::AssertSqlSafe;
use sqlx::{Connection, PgConnection};

/// A migrated database has about 20 MB, a batch of the suite some more.
const OPTIONS: &str = "size=96m,mode=0700";

/// Mounted until dropped.
pub struct Disk {
    path: PathBuf,
    pub tablespace: String,
}

impl Drop for Disk {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the directory stays and shows it.
        unmount(&self.path, UnmountFlags::DETACH).ok();
        std::fs::remove_dir(&self.path).ok();
    }
}

impl Disk {
    /// `None`: this process may not mount, or the server's files are elsewhere.
    pub async fn mount(database_url: &str, name: &str) -> Result<Option<Self>> {
        let mut connection = PgConnection::connect(database_url).await?;
        let data: String =
            sqlx::query_scalar("SHOW data_directory").fetch_one(&mut connection).await?;
        let Ok(owner) = std::fs::metadata(&data) else { return Ok(None) };
        let path = Path::new(&data).with_file_name(name);
        if std::fs::create_dir(&path).is_err() {
            return Ok(None);
        }
        let options = format!("{OPTIONS},uid={},gid={}\0", owner.uid(), owner.gid());
        let options = std::ffi::CStr::from_bytes_with_nul(options.as_bytes())?;
        if mount("tmpfs", &path, "tmpfs", MountFlags::NODEV, options).is_err() {
            std::fs::remove_dir(&path)?;
            return Ok(None);
        }
        let disk = Self { path, tablespace: name.to_owned() };
        let create = format!("CREATE TABLESPACE {name} LOCATION '{}'", disk.path.display());
        sqlx::query(AssertSqlSafe(create)).execute(&mut connection).await?;
        Ok(Some(disk))
    }

    fn filler(&self) -> PathBuf {
        self.path.join("filler")
    }

    /// Writes until nothing more fits.
    pub fn fill(&self) -> Result<()> {
        let mut filler = File::create(self.filler()).context("fill the disk")?;
        for size in [64 * 1024, 1] {
            let bytes = vec![0; size];
            while filler.write_all(&bytes).is_ok() {}
        }
        Ok(())
    }

    pub fn free(&self) -> Result<()> {
        std::fs::remove_file(self.filler()).context("free the disk")
    }

    /// Takes the tablespace away; its database must be gone.
    pub async fn remove(self, database_url: &str) -> Result<()> {
        let mut connection = PgConnection::connect(database_url).await?;
        let drop = format!("DROP TABLESPACE {}", self.tablespace);
        sqlx::query(AssertSqlSafe(drop)).execute(&mut connection).await?;
        Ok(())
    }
}

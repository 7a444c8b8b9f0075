//! A data directory with its database, for the tests of this room.

use std::path::PathBuf;

use super::{Accounts, Passwords, Role, User};
use crate::state::{DataDir, Db};

pub(super) struct Place {
    pub(super) db: Db,
    pub(super) accounts: Accounts,
    pub(super) data: DataDir,
    pub(super) passwords: Passwords,
    dir: tempfile::TempDir,
}

impl Place {
    pub(super) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let data = DataDir::open_shared(dir.path()).unwrap();
        let db = Db::open(&data.database_path()).unwrap();
        let passwords = Passwords::new();
        let accounts = Accounts::new(&data, db.clone(), passwords.clone());
        Self { db, accounts, data, passwords, dir }
    }

    pub(super) fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub(super) async fn user(&self, name: &str, role: Role, password: &str) -> User {
        self.accounts.add(&name.parse().unwrap(), role, password.to_owned()).await.unwrap()
    }
}

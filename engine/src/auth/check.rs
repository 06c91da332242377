//! Whether a command may be applied, at its place in the log.

use super::{Asker, AuthCommand, Refusal};
use crate::command::{Command, DeleteRange, KeyRange, Op, Put, Txn};
use crate::lease::LeaseTable;

use super::state::Auth;

impl Auth {
    /// Checks a command as it is about to be applied. What is not named here was checked where it was asked for, or
    /// concerns nobody's keys: compaction, the granting of leases, alarms.
    pub(crate) fn check_command(&self, asker: &Asker, command: &Command, leases: &LeaseTable) -> Result<(), Refusal> {
        if !self.enabled {
            return Ok(());
        }
        match command {
            Command::Put(put) => self.check_put(asker, put, leases),
            Command::DeleteRange(delete) => self.check_delete(asker, delete),
            Command::Txn(txn) => self.check_txn(asker, txn, leases),
            Command::LeaseRevoke { id } => self.check_lease(asker, *id, leases),
            Command::Auth(AuthCommand::Authenticate { .. }) => Ok(()),
            Command::Auth(_) => self.check_admin(asker),
            Command::Asked(asked) => self.check_command(&asked.by, &asked.command, leases),
            _ => Ok(()),
        }
    }

    /// Every range that a transaction reads or writes, on whichever branch.
    ///
    /// # Errors
    /// As [`Auth::check_read`].
    pub(crate) fn check_txn(&self, asker: &Asker, txn: &Txn, leases: &LeaseTable) -> Result<(), Refusal> {
        for compare in &txn.compares {
            self.check_read(asker, &compare.range)?;
        }
        for op in txn.success.iter().chain(&txn.failure) {
            match op {
                Op::Range(request) => self.check_read(asker, &request.range)?,
                Op::Put(put) => self.check_put(asker, put, leases)?,
                Op::DeleteRange(delete) => self.check_delete(asker, delete)?,
                Op::Txn(nested) => self.check_txn(asker, nested, leases)?,
            }
        }
        Ok(())
    }

    fn check_put(&self, asker: &Asker, put: &Put, leases: &LeaseTable) -> Result<(), Refusal> {
        let key = KeyRange { start: put.key.clone(), end: Default::default() };
        self.check_write(asker, &key)?;
        // Who may not revoke a lease may not have a key end with it either.
        if put.lease != 0 {
            self.check_lease(asker, put.lease, leases)?;
        }
        if put.prev_kv { self.check_read(asker, &key) } else { Ok(()) }
    }

    fn check_delete(&self, asker: &Asker, delete: &DeleteRange) -> Result<(), Refusal> {
        self.check_write(asker, &delete.range)?;
        if delete.prev_kv { self.check_read(asker, &delete.range) } else { Ok(()) }
    }

    /// Whether every key on the lease may be written; a lease that does not exist is nobody's.
    fn check_lease(&self, asker: &Asker, id: i64, leases: &LeaseTable) -> Result<(), Refusal> {
        if self.check_admin(asker).is_ok() {
            return Ok(());
        }
        let keys = leases.get(id).map(|lease| lease.keys).unwrap_or_default();
        keys.into_iter().try_for_each(|key| self.check_write(asker, &KeyRange { start: key, end: Default::default() }))
    }
}

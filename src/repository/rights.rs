//! What the key in use may do. The store's own permissions decide what can be written or deleted at all; what counts is
//! decided by signatures (`keyring.rs`). This is the place that refuses early, in words, what could not succeed or would
//! not count.

use super::{Repository, Snapshot};
use crate::fault::{Error, Fault, Result};
use crate::seal::Role;

/// What a command needs of the key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Right {
    /// To read names and contents: a reader or a full key.
    Read,
    /// To add snapshots: a writer or a full key.
    Add,
    /// Everything else that writes: a full key.
    Manage,
}

impl Repository {
    /// What the key in use may do.
    pub fn role(&self) -> Role {
        self.keys.role
    }

    /// Refuses what the key in use may not do.
    ///
    /// # Errors
    /// `Denied`, with the role that is needed.
    pub fn allow(&self, right: Right, doing: &str) -> Result<()> {
        if right != Right::Read && self.config.ended.contains(&self.keys.public()) {
            return Err(Error::new(Fault::Denied, format!("{doing} with a key that has ended"))
                .hint("nothing that it writes counts; use another key, or have one made: `pastfs key add`"));
        }
        match (right, self.keys.role) {
            (_, Role::Full) | (Right::Read, Role::Reader) | (Right::Add, Role::Writer) => Ok(()),
            (Right::Read, _) => Err(lacks(Role::Reader, doing)),
            (Right::Add, _) => Err(lacks(Role::Writer, doing)),
            (Right::Manage, _) => Err(lacks(Role::Full, doing)),
        }
    }

    /// Whether the key in use may write a manifest for this host.
    ///
    /// # Errors
    /// `Denied` with a reader key, or with a writer key of another host.
    pub(super) fn may_add(&self, doing: &str, host: &[u8]) -> Result<()> {
        self.allow(Right::Add, doing)?;
        let own = self.own_host()?;
        if own.is_empty() || own == host {
            return Ok(());
        }
        let name = |host: &[u8]| String::from_utf8_lossy(host).into_owned();
        let text = format!("{doing} for host {} with the key of host {}", name(host), name(&own));
        Err(Error::new(Fault::Denied, text)
            .hint("this key adds snapshots of its own host alone: leave --host out"))
    }

    /// The host that a writer key is bound to; empty: to none.
    ///
    /// # Errors
    /// None, of a repository that could be opened.
    pub fn own_host(&self) -> Result<Vec<u8>> {
        Ok(self.keys.myself()?.host)
    }

    /// Whether what is unchanged comes from a table of files in the cache, since the key reads no trees.
    pub fn keeps_files(&self) -> bool {
        self.keys.role == Role::Writer
    }

    /// Whether what a snapshot's author says of chunks can be relied on unread: it is this key, or a full one.
    pub fn believes(&self, snapshot: &Snapshot) -> bool {
        // Of a key that has ended, what is listed was accepted by another full key.
        snapshot.author.role == Role::Full || self.is_mine(snapshot)
    }

    /// Whether the key in use wrote a snapshot.
    pub fn is_mine(&self, snapshot: &Snapshot) -> bool {
        snapshot.author.public == self.keys.public()
    }
}

/// The error where a key of this role, or a full one, is needed.
pub(super) fn lacks(role: Role, doing: &str) -> Error {
    let (with, advice) = match role {
        Role::Full => ("without a full key", "only a full key can do that; open the repository with one"),
        Role::Reader => (
            "with a writer key",
            "a writer key backs up, and reads no names and no content; use a reader or a full key",
        ),
        Role::Writer => ("with a reader key", "a reader key writes nothing; use a writer or a full key"),
    };
    Error::new(Fault::Denied, format!("{doing} {with}")).hint(advice)
}

//! Extended attributes.

use super::errno::Errno;
use super::inodes::{Node, ROOT, What};
use super::owners;
use super::view::View;
use crate::format::tree::{Content, Entry, Xattr};
use crate::tree::FileReader;

/// Longest value, and longest list of names, that Linux passes on (XATTR_SIZE_MAX, XATTR_LIST_MAX).
const XATTR_MAX: u64 = 64 << 10;
/// Attributes that are answered when asked by name, and never listed, or `rsync -X` would see a difference.
const OF_SNAPSHOT: &[u8] = b"user.pastfs.snapshot";
const OF_REPOSITORY: &[u8] = b"user.pastfs.repository";
const STATISTICS: &[u8] = b"user.pastfs.statistics";

impl View {
    /// The value of an xattr.
    pub fn xattr(&self, ino: u64, name: &[u8]) -> Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        let What::Saved(snapshot, folder) = &node.what else {
            return match name {
                OF_REPOSITORY if ino == ROOT => Ok(self.setting.repository.hex().into_bytes()),
                STATISTICS if ino == ROOT => {
                    let store = self.setting.store.costs();
                    Ok(self.counters.json(self.nodes.len(), &self.caches(), &store).into_bytes())
                }
                _ => Err(Errno::ENODATA),
            };
        };
        let entry = self.entry(&node)?;
        match entry.xattrs.binary_search_by(|x| x.name.as_slice().cmp(name)) {
            Ok(_) if self.setting.owners.hides(name) => Err(Errno::ENODATA),
            Ok(i) => Ok(self.setting.owners.xattr(name, self.value(&node, &entry.xattrs[i])?)),
            Err(_) if name == OF_SNAPSHOT && folder.is_some() => Ok(snapshot.id.hex().into_bytes()),
            Err(_) => Err(Errno::ENODATA),
        }
    }

    fn value(&self, node: &Node, xattr: &Xattr) -> Result<Vec<u8>, Errno> {
        let length = xattr.value.len().map_err(|e| self.failed(node, &e))?;
        if length > XATTR_MAX {
            return Err(Errno::E2BIG);
        }
        if let Content::Inline(bytes) = &xattr.value {
            return Ok(bytes.clone());
        }
        let mut value = Vec::new();
        FileReader::new(xattr.value.clone())
            .read_at(self.chunks(), 0, length as usize, &mut value)
            .map_err(|e| self.failed(node, &e))?;
        Ok(value)
    }

    /// The names of all xattrs, sorted, each with a zero behind it. Those in `trusted.` are root's: the kernel
    /// answers others who ask for one that there is none, so they are not listed for them either (xattr(7)).
    pub fn xattrs(&self, ino: u64, for_root: bool) -> Result<Vec<u8>, Errno> {
        let node = self.node(ino)?;
        if node.snapshot().is_none() {
            return Ok(Vec::new());
        }
        let entry = self.entry(&node)?;
        let mut names = Vec::new();
        let shown =
            |name: &[u8]| !self.setting.owners.hides(name) && (for_root || !name.starts_with(b"trusted."));
        for x in entry.xattrs.iter().filter(|x| shown(&x.name)) {
            names.extend_from_slice(&x.name);
            names.push(0);
        }
        if names.len() as u64 > XATTR_MAX { Err(Errno::E2BIG) } else { Ok(names) }
    }

    /// The mode under which an entry is shown.
    pub(super) fn mode(&self, entry: &Entry) -> u32 {
        let hidden = |x: &&Xattr| x.name == owners::ACCESS && self.setting.owners.hides(&x.name);
        let Some(acl) = entry.xattrs.iter().find(hidden) else { return entry.stat.mode };
        match &acl.value {
            Content::Inline(value) => owners::narrowed(entry.stat.mode, Some(value)),
            // An ACL of more than a hundred people is not worth a read for each stat.
            Content::Extents(_) => owners::narrowed(entry.stat.mode, None),
        }
    }
}

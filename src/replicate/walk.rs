//! The walk through what a snapshot needs: each page of each tree once.

use crate::event::Stop;
use crate::fault::{Error, Result};
use crate::format::pack::Space;
use crate::id::ChunkId;
use crate::index::{Mark, Seen};
use crate::repository::{Intake, Need, Repository, Snapshot, Took, is_finding};
use std::sync::Arc;

/// Of a page: all below it is seen to.
const DONE: Mark = 1;

/// What was walked through already.
pub struct Walk {
    source: Arc<Repository>,
    seen: Seen,
}

impl Walk {
    /// Nothing yet.
    pub fn new(source: &Arc<Repository>) -> Result<Self> {
        Ok(Self { source: source.clone(), seen: source.index()?.seen()? })
    }

    /// What was seen to counts no more.
    pub fn forget(&mut self) -> Result<()> {
        self.seen = self.source.index()?.seen()?;
        Ok(())
    }

    /// Sees to all that a snapshot needs. What is lost of it, if anything is; `anew` counts chunks that were stored anew.
    ///
    /// # Errors
    /// What the stores say where it is not about what is read; `Stopped`.
    pub fn snapshot(
        &mut self,
        intake: &mut Intake,
        s: &Snapshot,
        anew: &mut u64,
        stop: &Stop,
    ) -> Result<Option<Error>> {
        let reader = intake.reader().clone();
        let seen = &self.seen;
        let mut need = |space: Space, id: &ChunkId| -> Result<()> {
            match intake.need(space, id)? {
                Some(Took::Anew) => *anew += 1,
                Some(_) => {}
                None => return Err(Error::damaged(format!("chunk {} that it needs is lost", id.short()))),
            }
            Ok(())
        };
        let walked = reader.needs(s, stop, &mut |what| match what {
            Need::Page(id) => {
                if seen.get(&id)?.is_some() {
                    return Ok(false);
                }
                need(Space::Trees, &id)?;
                seen.set(&id, DONE)?;
                Ok(true)
            }
            Need::Content(id, _) => need(Space::Data, &id).map(|()| true),
        });
        match walked {
            Ok(()) => Ok(None),
            Err(e) if is_finding(&e) => {
                // Pages were noted below which something is lost: others that have them must meet it too.
                self.forget()?;
                Ok(Some(e))
            }
            Err(e) => Err(e),
        }
    }
}

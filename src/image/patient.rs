//! Reads of an image that end in time, or with an error: its file may lie where nobody answers.

use std::path::PathBuf;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use super::part::failed;
use crate::memory::lazy::{Found, Haste, PageSource};
use crate::model::error::{Error, Result};
use crate::model::interrupt::Uninterrupted;
use crate::model::room;
use crate::model::wait::{Deadline, Monitor};
use crate::sys::errno::{self, ETIMEDOUT};

/// A keeper of bytes with a bound on the time that it may take.
#[derive(Debug)]
pub struct Patient {
    source: Arc<dyn PageSource>,
    path: PathBuf,
    timeout: Option<Duration>,
    /// Whether a thread reads: one at a time, so that at most one is ever left behind.
    is_reading: Arc<Monitor<bool>>,
}

type Answer = (Result<Found>, Vec<u8>);

impl Patient {
    /// A source that is named by a path, and that may take so long; `None` for as long as it likes.
    pub fn new(source: Arc<dyn PageSource>, path: PathBuf, timeout: Option<Duration>) -> Self {
        Self { source, path, timeout, is_reading: Arc::default() }
    }

    fn late(&self) -> Error {
        failed(
            &self.path,
            &errno::refusal(ETIMEDOUT, "the image is not read in time: its disk or server does not answer"),
        )
    }

    fn wait_for(&self, at: u64, bytes: &mut [u8]) -> Result<Found> {
        let deadline = Deadline::after(self.timeout);
        let Some(mut is_reading) = self.is_reading.wait_until(deadline, &Uninterrupted, |is_reading| *is_reading)?
        else {
            return Err(self.late());
        };
        let answer = self.start(at, bytes.len())?;
        *is_reading = true;
        drop(is_reading);
        while let Some(slice) = deadline.slice() {
            if let Ok((found, read)) = answer.recv_timeout(slice) {
                bytes.copy_from_slice(&read);
                return found;
            }
        }
        Err(self.late())
    }

    /// Begins to read, on a thread that may be left behind.
    fn start(&self, at: u64, size: usize) -> Result<mpsc::Receiver<Answer>> {
        let (sender, receiver) = mpsc::channel();
        let (source, is_reading, mut bytes) =
            (Arc::clone(&self.source), Arc::clone(&self.is_reading), room::zeroed(size)?);
        let read = move || {
            let found = source.read(at, &mut bytes, Haste::Waits);
            // Nobody is left to hear it when the caller has given up, or in a forked child.
            let _ = is_reading.change(|is_reading| *is_reading = false);
            let _ = sender.send((found, bytes));
        };
        thread::Builder::new().name("image-read".into()).spawn(read).map_err(|error| failed(&self.path, &error))?;
        Ok(receiver)
    }
}

impl PageSource for Patient {
    fn read(&self, at: u64, bytes: &mut [u8], haste: Haste) -> Result<Found> {
        // What is in memory needs no thread.
        match self.source.read(at, bytes, Haste::AtOnce)? {
            Found::NotYet if haste == Haste::Waits => self.wait_for(at, bytes),
            found => Ok(found),
        }
    }
}

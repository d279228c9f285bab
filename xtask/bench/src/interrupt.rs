//! Ctrl-C: what is being measured is measured to its end, and everything is removed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use anyhow::{Result, bail};
use nix::sys::signal::{SigSet, Signal};
use xylem_tests::wait;

/// The first SIGINT or SIGTERM; later ones change nothing, so that the removal is not disturbed.
#[derive(Debug)]
pub(crate) struct Interrupt(Arc<State>);

#[derive(Debug, Default)]
struct State {
    happened: AtomicBool,
    /// Nothing is left to interrupt.
    over: AtomicBool,
}

impl Interrupt {
    /// To be called before any other thread is there: threads inherit which signals are blocked.
    pub(crate) fn catch() -> Self {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block().expect("the signals exist");
        let state = Arc::new(State::default());
        let told = Arc::clone(&state);
        thread::spawn(move || {
            signals.wait().expect("the signals exist");
            if !told.over.load(Ordering::SeqCst) {
                eprintln!("interrupted; everything is being removed");
                // First, so that who sees that it happened can take this back.
                wait::interrupt();
                told.happened.store(true, Ordering::SeqCst);
            }
        });
        Self(state)
    }

    pub(crate) fn happened(&self) -> bool {
        self.0.happened.load(Ordering::SeqCst)
    }

    /// # Errors
    /// If it happened.
    pub(crate) fn check(&self) -> Result<()> {
        if self.happened() { bail!("interrupted") } else { Ok(()) }
    }

    /// From here on it changes nothing: waits of the removal are not cut short.
    pub(crate) fn end(&self) {
        self.0.over.store(true, Ordering::SeqCst);
        wait::take_interrupt();
    }
}

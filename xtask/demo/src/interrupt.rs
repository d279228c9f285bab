//! Ctrl-C: what is being waited for ends, and everything is removed on the way out.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    thread,
};

use nix::sys::signal::{SigSet, Signal};
use xylem_tests::wait;

/// The first SIGINT or SIGTERM; later ones change nothing, so that the removal is not disturbed.
#[derive(Debug)]
pub(crate) struct Interrupt {
    happened: Arc<AtomicBool>,
    came: Receiver<()>,
}

impl Interrupt {
    /// To be called before any other thread is there: threads inherit which signals are blocked.
    pub(crate) fn catch() -> Self {
        let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
        signals.thread_block().expect("the signals exist");
        let happened = Arc::new(AtomicBool::new(false));
        let (tell, came) = channel();
        let flag = Arc::clone(&happened);
        thread::spawn(move || {
            signals.wait().expect("the signals exist");
            flag.store(true, Ordering::SeqCst);
            wait::interrupt();
            // Nobody waits when main is already on its way out.
            tell.send(()).ok();
        });
        Self { happened, came }
    }

    pub(crate) fn happened(&self) -> bool {
        self.happened.load(Ordering::SeqCst)
    }

    /// Waits for it, and clears the way for waits of the removal.
    pub(crate) fn wait(&self) {
        self.came.recv().expect("the sender tells once, before it ends");
        wait::take_interrupt();
    }
}

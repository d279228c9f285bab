//! Asks the live program what it would do with a packet, without doing it.

use std::{
    borrow::Cow,
    io,
    path::{Path, PathBuf},
};

use aya::programs::{
    ProgramError, SchedClassifier, TestRun, TestRunOptions,
    links::{FdLink, LinkError, PinnedLink},
    loaded_programs,
};
use net_common::{Explanation, explain::DRY_RUN_MARK};
use nix::net::if_::if_indextoname;

use crate::{MapsError, PinnedMaps, open::LINKS_DIR, turns::Turn};

/// Why the program cannot be asked.
#[derive(Debug, thiserror::Error)]
pub enum DryRunError {
    #[error(
        "no interface with the index {ifindex} in this network namespace: run this where the net \
         manager runs"
    )]
    NoInterface {
        ifindex: u32,
        #[source]
        source: io::Error,
    },
    #[error(
        "no program is attached to {ifname} by the link {}: restart the net manager, which attaches \
         what is missing",
        path.display()
    )]
    NotAttached {
        ifname: String,
        path: PathBuf,
        #[source]
        source: Box<LinkError>,
    },
    #[error("the program that is attached to {ifname} cannot be found: run as root")]
    NoProgram { ifname: String },
    #[error("the kernel does not run the program that is attached to {ifname} for a test")]
    Refused {
        ifname: String,
        #[source]
        source: Box<ProgramError>,
    },
    #[error("cannot lock {}", dir.display())]
    Lock {
        dir: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error(transparent)]
    Maps(#[from] MapsError),
}

/// The first fields of `struct __sk_buff`, in which the kernel takes the mark and the interface of
/// a packet that it is given for a test; the others must be zero.
#[repr(C)]
#[derive(zerocopy::IntoBytes, zerocopy::Immutable)]
struct Context {
    _before_mark: [u32; 2],
    mark: u32,
    _before_ifindex: [u32; 7],
    ifindex: u32,
}

impl PinnedMaps {
    /// Runs the program that is attached to the instance's interface `ifindex` with `frame`, an
    /// Ethernet frame as the instance would send it, marked so that nothing is changed and the
    /// steps of the decision are noted. Waits for who else does this.
    ///
    /// # Errors
    /// There is no such interface here or no program on it, or the kernel refuses.
    pub fn dry_run(&mut self, ifindex: u32, frame: &[u8]) -> Result<Explanation, DryRunError> {
        let dir = self.dir().to_owned();
        let (ifname, program) = program_on(&dir, ifindex)?;
        let _turn = Turn::Explain.wait(&dir).map_err(|source| DryRunError::Lock { dir, source })?;
        self.clear_explanation()?;
        let context =
            Context { _before_mark: [0; 2], mark: DRY_RUN_MARK, _before_ifindex: [0; 7], ifindex };
        let mut out = vec![0; frame.len() + 256];
        let run = TestRunOptions {
            data_in: Some(frame),
            data_out: Some(&mut out),
            ctx_in: Some(zerocopy::IntoBytes::as_bytes(&context)),
            ..TestRunOptions::default()
        };
        program
            .test_run(run)
            .map_err(|source| DryRunError::Refused { ifname, source: Box::new(source) })?;
        Ok(self.explanation()?)
    }
}

/// The program on an instance's interface: the net manager pins its link under the name of the
/// interface.
fn program_on(dir: &Path, ifindex: u32) -> Result<(String, SchedClassifier), DryRunError> {
    let ifname = if_indextoname(ifindex)
        .map_err(|source| DryRunError::NoInterface { ifindex, source: source.into() })?;
    let ifname = ifname.to_string_lossy().into_owned();
    let path = dir.join(LINKS_DIR).join(&ifname);
    let link = PinnedLink::from_pin(&path).and_then(|link| FdLink::from(link).info());
    let id = match link {
        Ok(link) => link.program_id(),
        Err(source) => {
            return Err(DryRunError::NotAttached { ifname, path, source: Box::new(source) });
        }
    };
    let program = loaded_programs().filter_map(Result::ok).find(|program| program.id() == id);
    let Some(program) = program else { return Err(DryRunError::NoProgram { ifname }) };
    let name = Cow::Borrowed("from_instance");
    match SchedClassifier::from_program_info(program, name) {
        Ok(program) => Ok((ifname, program)),
        Err(source) => Err(DryRunError::Refused { ifname, source: Box::new(source) }),
    }
}

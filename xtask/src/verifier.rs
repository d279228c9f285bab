//! What the kernel's verifier makes of the built programs: each is loaded, looked at and let go.

use std::{error::Error, io, path::Path};

use anyhow::{Context, Result, bail};
use aya::{
    EbpfLoader,
    programs::{Program, ProgramError, ProgramInfo},
};
use nix::errno::Errno;
use serde::Serialize;

/// Bytes of an instruction, before it is compiled for the machine.
const INSTRUCTION_BYTES: u32 = 8;

/// Lines of the verifier's log that tell why it refused a program: the last ones.
const LOG_LINES: usize = 25;

/// One program as the kernel has taken it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Count {
    pub(crate) program: String,
    /// The kind of hook that it is for.
    pub(crate) kind: String,
    /// Instructions after the verifier has removed and rewritten some.
    pub(crate) instructions: u32,
    /// Instructions that the verifier looked at on all ways through the program; it gives up at
    /// a million.
    pub(crate) verified_instructions: u32,
    /// Bytes of machine code; 0 where the kernel interprets.
    pub(crate) jited_bytes: u32,
}

/// Why there are no counts.
#[derive(Debug)]
pub(crate) enum NotCounted {
    /// Loading programs takes root, or `CAP_BPF` and `CAP_NET_ADMIN`.
    NotAllowed,
    Failed(anyhow::Error),
}

/// Loads every program of the object, whatever its kind. Nothing is pinned or attached, so
/// nothing is left of them or their maps.
///
/// # Errors
/// Programs may not be loaded here, or one of them is refused.
pub(crate) fn count(object: &Path) -> Result<Vec<Count>, NotCounted> {
    counted(object).map_err(|error| {
        let not_allowed = error.chain().any(is_not_allowed);
        if not_allowed { NotCounted::NotAllowed } else { NotCounted::Failed(error) }
    })
}

/// What the verifier refuses is `EACCES`, `EINVAL` or `E2BIG`.
fn is_not_allowed(error: &(dyn Error + 'static)) -> bool {
    let error = error.downcast_ref::<io::Error>();
    error.and_then(io::Error::raw_os_error) == Some(Errno::EPERM as i32)
}

fn counted(object: &Path) -> Result<Vec<Count>> {
    let mut ebpf = EbpfLoader::new()
        .load_file(object)
        .with_context(|| format!("{} cannot be loaded", object.display()))?;
    let mut counts = ebpf
        .programs_mut()
        .map(|(name, program)| {
            let info = load(program).with_context(|| format!("the program {name}"))?;
            Ok(Count {
                program: name.to_owned(),
                kind: kind(program),
                instructions: info.size_translated().unwrap_or(0) / INSTRUCTION_BYTES,
                verified_instructions: info
                    .verified_instruction_count()
                    .context("this kernel does not tell what it has verified; 5.16 does")?,
                jited_bytes: info.size_jitted(),
            })
        })
        .collect::<Result<Vec<_>>>()?;
    counts.sort_by(|a, b| a.program.cmp(&b.program));
    Ok(counts)
}

fn kind(program: &Program) -> String {
    format!("{:?}", program.prog_type())
}

fn load(program: &mut Program) -> Result<ProgramInfo> {
    // Kinds that need to be told what they are for (tracing, LSM) are not among ours.
    macro_rules! load {
        ($($kind:ident),+) => {
            match program {
                $(Program::$kind(program) => program.load().and_then(|()| program.info()),)+
                other => bail!(
                    "programs of the kind {} are not loaded yet: add it to xtask/src/verifier.rs",
                    kind(other)
                ),
            }
        };
    }
    let info = load!(
        SchedClassifier,
        Xdp,
        SockOps,
        SkMsg,
        SkSkb,
        SkLookup,
        CgroupSkb,
        CgroupSock,
        CgroupSockAddr,
        CgroupSockopt,
        SocketFilter,
        FlowDissector
    );
    info.map_err(|error| match error {
        ProgramError::LoadError { io_error, verifier_log } => {
            let log = verifier_log.to_string();
            let lines: Vec<_> = log.lines().collect();
            let last = &lines[lines.len().saturating_sub(LOG_LINES)..];
            anyhow::Error::new(io_error)
                .context(format!("the verifier refused it; its last words:\n{}", last.join("\n")))
        }
        other => other.into(),
    })
}

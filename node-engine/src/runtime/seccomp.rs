//! System calls that no instance needs, refused: those that reach out of the instance although
//! its capabilities are gone, and those that have been the way into the kernel before.
//!
//! A deny list and not an allow list: what a newer kernel or libc uses keeps working. Programs
//! of another architecture than the worker's are killed, else they would evade the list.

use std::collections::BTreeMap;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter,
    SeccompRule, apply_filter,
};

/// Fail with EPERM.
const REFUSED: &[libc::c_long] = &[
    libc::SYS_acct,
    libc::SYS_add_key,
    libc::SYS_bpf,
    libc::SYS_delete_module,
    libc::SYS_finit_module,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fsopen,
    libc::SYS_fspick,
    libc::SYS_init_module,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_io_uring_setup,
    libc::SYS_kexec_file_load,
    libc::SYS_kexec_load,
    libc::SYS_keyctl,
    libc::SYS_lookup_dcookie,
    libc::SYS_mount,
    libc::SYS_mount_setattr,
    libc::SYS_move_mount,
    libc::SYS_move_pages,
    libc::SYS_nfsservctl,
    libc::SYS_open_by_handle_at,
    libc::SYS_open_tree,
    libc::SYS_perf_event_open,
    libc::SYS_pivot_root,
    libc::SYS_quotactl,
    libc::SYS_reboot,
    libc::SYS_request_key,
    libc::SYS_setns,
    libc::SYS_swapoff,
    libc::SYS_swapon,
    libc::SYS_syslog,
    libc::SYS_umount2,
    libc::SYS_unshare,
    libc::SYS_userfaultfd,
    libc::SYS_vhangup,
];

/// Flags of `clone` that make a namespace.
const NAMESPACE_FLAGS: &[libc::c_int] = &[
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWNET,
    libc::CLONE_NEWNS,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWUTS,
];

#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    #[error("this architecture has no system call filter")]
    Architecture(#[source] seccompiler::BackendError),
    #[error("the system call filter cannot be made")]
    Build(#[source] seccompiler::BackendError),
    #[error("the system call filter cannot be applied")]
    Apply(#[source] seccompiler::Error),
}

/// Filters, made before the process is about to start, so that little is left to do then.
#[derive(Clone, Debug)]
pub struct Filters(Vec<BpfProgram>);

impl Filters {
    /// # Errors
    /// When there is no filter for this architecture.
    pub fn new() -> Result<Self, SeccompError> {
        let mut refused: BTreeMap<i64, Vec<SeccompRule>> =
            REFUSED.iter().map(|call| (*call, vec![])).collect();
        let namespaces = NAMESPACE_FLAGS.iter().map(|flag| {
            let flag = u64::from(flag.unsigned_abs());
            let set = SeccompCmpOp::MaskedEq(flag);
            SeccompRule::new(vec![SeccompCondition::new(0, SeccompCmpArgLen::Qword, set, flag)?])
        });
        let namespaces = namespaces.collect::<Result<_, _>>().map_err(SeccompError::Build)?;
        refused.insert(libc::SYS_clone, namespaces);
        // The flags of clone3 are in memory, where a filter cannot look. "No such call" makes
        // every libc use clone.
        let unknown = BTreeMap::from([(libc::SYS_clone3, vec![])]);
        Ok(Self(vec![program(refused, libc::EPERM)?, program(unknown, libc::ENOSYS)?]))
    }

    /// Puts the filters on this process and what it starts, for good.
    ///
    /// # Errors
    /// When the kernel refuses, for example without `no_new_privs`.
    pub fn apply(&self) -> Result<(), SeccompError> {
        self.0.iter().try_for_each(|filter| apply_filter(filter)).map_err(SeccompError::Apply)
    }
}

fn program(
    rules: BTreeMap<i64, Vec<SeccompRule>>,
    error: libc::c_int,
) -> Result<BpfProgram, SeccompError> {
    let architecture = std::env::consts::ARCH.try_into().map_err(SeccompError::Architecture)?;
    let refuse = SeccompAction::Errno(error.unsigned_abs());
    SeccompFilter::new(rules, SeccompAction::Allow, refuse, architecture)
        .and_then(TryInto::try_into)
        .map_err(SeccompError::Build)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_filters_can_be_made() {
        assert_eq!(Filters::new().unwrap().0.len(), 2);
    }
}

//! The container of an instance as a runtime specification: the same file runs under runc.
//!
//! Every instance gets its own process, network, IPC, host name, mount and control group
//! namespaces, the capabilities that containers usually have, no new privileges, and no devices
//! but the harmless ones.

use std::{collections::HashSet, path::Path};

use oci_spec::{
    OciSpecError,
    runtime::{
        Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxCpuBuilder, LinuxDevice,
        LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
        LinuxMemoryBuilder, LinuxPidsBuilder, LinuxResources, LinuxResourcesBuilder, Mount,
        MountBuilder, PosixRlimitBuilder, PosixRlimitType, ProcessBuilder, RootBuilder, Spec,
        SpecBuilder, UserBuilder, get_default_maskedpaths, get_default_mounts,
        get_default_namespaces, get_default_readonly_paths,
    },
};

use super::{
    bundle::{Bundle, Limits},
    folder::InstanceFolder,
    user::User,
};

/// Microseconds over which a CPU limit is enforced.
const CPU_PERIOD: u64 = 100_000;
/// CPU shares of one CPU, as the kernel counts.
const CPU_SHARES: f64 = 1024.0;
const OPEN_FILES_SOFT: u64 = 1024;
const OPEN_FILES_HARD: u64 = 524_288;
/// Device number of `/dev/fuse`.
const FUSE: (i64, i64) = (10, 229);

/// What the kernel of this machine has.
#[derive(Clone, Copy, Debug)]
pub struct Kernel {
    /// Whether a control group decides which devices may be opened.
    pub device_cgroup: bool,
    /// Whether swap can be limited.
    pub swap_limit: bool,
    pub message_queues: bool,
    /// Files that a process of ours could open at most; more needs a capability of its own.
    pub open_files_max: u64,
}

/// # Errors
/// Never for the values this is given; the builders cannot know.
pub fn spec(
    bundle: &Bundle,
    folder: &InstanceFolder,
    user: &User,
    kernel: Kernel,
) -> Result<Spec, OciSpecError> {
    let linux = LinuxBuilder::default()
        .namespaces(get_default_namespaces())
        .cgroups_path(&bundle.cgroup)
        .resources(resources(&bundle.limits, bundle.privileged, kernel)?)
        .devices(devices(bundle.privileged)?)
        .masked_paths(masked_paths())
        .readonly_paths(get_default_readonly_paths())
        .build()?;
    SpecBuilder::default()
        .root(RootBuilder::default().path(folder.root()).readonly(false).build()?)
        .hostname(&bundle.process.hostname)
        .mounts(mounts(folder, kernel)?)
        .process(process(bundle, user, kernel)?)
        .linux(linux)
        .build()
}

fn process(
    bundle: &Bundle,
    user: &User,
    kernel: Kernel,
) -> Result<oci_spec::runtime::Process, OciSpecError> {
    let process = &bundle.process;
    let mut env = process.env.clone();
    if !env.iter().any(|entry| entry.starts_with("HOME=")) {
        env.push(format!("HOME={}", user.home));
    }
    let capabilities = capabilities(kernel);
    let capabilities = LinuxCapabilitiesBuilder::default()
        .bounding(capabilities.clone())
        .effective(capabilities.clone())
        .permitted(capabilities)
        .inheritable(HashSet::new())
        .ambient(HashSet::new())
        .build()?;
    let open_files = PosixRlimitBuilder::default()
        .typ(PosixRlimitType::RlimitNofile)
        .soft(OPEN_FILES_SOFT.min(kernel.open_files_max))
        .hard(OPEN_FILES_HARD.min(kernel.open_files_max))
        .build()?;
    ProcessBuilder::default()
        .terminal(false)
        .args(process.args.clone())
        .env(env)
        .cwd(&process.cwd)
        .user(
            UserBuilder::default()
                .uid(user.uid)
                .gid(user.gid)
                .additional_gids(user.groups.clone())
                .build()?,
        )
        .capabilities(capabilities)
        .rlimits(vec![open_files])
        .no_new_privileges(true)
        .oom_score_adj(0)
        .build()
}

/// The usual fourteen. Without a control group for devices, making one would be opening any disk.
fn capabilities(kernel: Kernel) -> HashSet<Capability> {
    let mut usual = HashSet::from([
        Capability::AuditWrite,
        Capability::Chown,
        Capability::DacOverride,
        Capability::Fowner,
        Capability::Fsetid,
        Capability::Kill,
        Capability::Mknod,
        Capability::NetBindService,
        Capability::NetRaw,
        Capability::Setfcap,
        Capability::Setgid,
        Capability::Setpcap,
        Capability::Setuid,
        Capability::SysChroot,
    ]);
    if !kernel.device_cgroup {
        usual.remove(&Capability::Mknod);
    }
    usual
}

fn resources(
    limits: &Limits,
    privileged: bool,
    kernel: Kernel,
) -> Result<LinuxResources, OciSpecError> {
    let mut devices = vec![rule(false, None)?];
    if privileged {
        devices.push(rule(true, Some(FUSE))?);
    }
    let mut resources = LinuxResourcesBuilder::default().devices(devices);
    if limits.memory_bytes > 0 {
        let bytes = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
        let mut memory = LinuxMemoryBuilder::default().limit(bytes);
        if kernel.swap_limit {
            // The sum of memory and swap: a limit is not to be evaded by swapping.
            memory = memory.swap(bytes);
        }
        resources = resources.memory(memory.build()?);
    }
    if limits.cpus > 0.0 {
        // A float to integer cast saturates; the kernel refuses a quota below 1 ms.
        let quota = ((limits.cpus * CPU_PERIOD as f64) as i64).max(1000);
        let shares = ((limits.cpus * CPU_SHARES) as u64).clamp(2, 262_144);
        let cpu =
            LinuxCpuBuilder::default().period(CPU_PERIOD).quota(quota).shares(shares).build()?;
        resources = resources.cpu(cpu);
    }
    if limits.processes > 0 {
        let processes = i64::try_from(limits.processes).unwrap_or(i64::MAX);
        resources = resources.pids(LinuxPidsBuilder::default().limit(processes).build()?);
    }
    resources.build()
}

/// Allows one character device, or forbids all; the container library adds the harmless ones.
fn rule(allow: bool, device: Option<(i64, i64)>) -> Result<LinuxDeviceCgroup, OciSpecError> {
    let rule = LinuxDeviceCgroupBuilder::default().allow(allow).access("rwm");
    match device {
        None => rule.build(),
        Some((major, minor)) => rule.typ(LinuxDeviceType::C).major(major).minor(minor).build(),
    }
}

fn devices(privileged: bool) -> Result<Vec<LinuxDevice>, OciSpecError> {
    if !privileged {
        return Ok(vec![]);
    }
    let fuse = LinuxDeviceBuilder::default()
        .path("/dev/fuse")
        .typ(LinuxDeviceType::C)
        .major(FUSE.0)
        .minor(FUSE.1)
        .file_mode(0o666u32)
        .uid(0u32)
        .gid(0u32)
        .build()?;
    Ok(vec![fuse])
}

fn masked_paths() -> Vec<String> {
    let more = ["/proc/interrupts", "/sys/devices/virtual/powercap"];
    get_default_maskedpaths().into_iter().chain(more.map(str::to_owned)).collect()
}

fn mounts(folder: &InstanceFolder, kernel: Kernel) -> Result<Vec<Mount>, OciSpecError> {
    let mut mounts = get_default_mounts();
    mounts.retain(|mount| kernel.message_queues || mount.destination() != Path::new("/dev/mqueue"));
    for mount in &mut mounts {
        if mount.destination() == Path::new("/proc") {
            mount.set_options(Some(["nosuid", "noexec", "nodev"].map(str::to_owned).into()));
        }
    }
    for name in ["hosts", "hostname", "resolv.conf"] {
        let mount = MountBuilder::default()
            .destination(Path::new("/etc").join(name))
            .typ("bind")
            .source(folder.etc(name))
            .options(["bind", "rprivate", "nosuid", "noexec", "nodev"].map(str::to_owned))
            .build()?;
        mounts.push(mount);
    }
    Ok(mounts)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::process::Process;

    fn made(limits: Limits, device_cgroup: bool) -> Spec {
        let process = Process {
            args: vec!["/web".into()],
            env: vec!["PATH=/bin".into()],
            cwd: "/".into(),
            user: String::new(),
            stop_signal: 15,
            hostname: "instance-0".into(),
        };
        let bundle = Bundle {
            id: "a.b.c.d.0".into(),
            process,
            layers_folder: "/state/content/layers".into(),
            needs: Default::default(),
            cgroup: "/xylem/a.b.c.d.0".into(),
            limits,
            privileged: false,
            log_bytes_max: 0,
        };
        let folder = InstanceFolder::new("/state/instances/a.b.c.d.0".into());
        let user = User { uid: 1, gid: 2, groups: vec![], home: "/home".into() };
        let kernel = Kernel {
            device_cgroup,
            swap_limit: true,
            message_queues: false,
            open_files_max: 20_000,
        };
        spec(&bundle, &folder, &user, kernel).unwrap()
    }

    #[test]
    fn limits_are_what_was_asked_for_and_absent_when_0() {
        let limits = Limits { memory_bytes: 64 << 20, cpus: 0.5, processes: 10 };
        let spec = made(limits, true);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        let memory = resources.memory().unwrap();
        assert_eq!((memory.limit(), memory.swap()), (Some(64 << 20), Some(64 << 20)));
        let cpu = resources.cpu().clone().unwrap();
        assert_eq!(
            (cpu.quota(), cpu.period(), cpu.shares()),
            (Some(50_000), Some(100_000), Some(512))
        );

        let spec = made(Limits::default(), true);
        let resources = spec.linux().as_ref().unwrap().resources().clone().unwrap();
        assert!(resources.memory().is_none() && resources.cpu().is_none());
    }

    #[test]
    fn devices_can_be_made_only_where_a_control_group_guards_them() {
        for (device_cgroup, count) in [(true, 14), (false, 13)] {
            let spec = made(Limits::default(), device_cgroup);
            let process = spec.process().clone().unwrap();
            let bounding = process.capabilities().clone().unwrap().bounding().clone().unwrap();
            assert_eq!(bounding.len(), count);
            assert_eq!(bounding.contains(&Capability::Mknod), device_cgroup);
            assert_eq!(process.no_new_privileges(), Some(true));
        }
    }
}

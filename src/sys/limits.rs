//! What this process may have.

use std::fs;
use std::path::Path;

#[cfg(target_env = "musl")]
type Resource = libc::c_int;
#[cfg(not(target_env = "musl"))]
type Resource = libc::__rlimit_resource_t;

fn soft_limit(resource: Resource) -> u64 {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the kernel fills the struct.
    let result = unsafe { libc::getrlimit(resource, &raw mut limit) };
    if result == 0 { limit.rlim_cur } else { u64::MAX }
}

/// How many descriptors may be open.
#[must_use]
pub fn open_files() -> u64 {
    soft_limit(libc::RLIMIT_NOFILE)
}

/// How many bytes may be locked; no limit for a process with `CAP_IPC_LOCK`.
#[must_use]
pub fn locked_memory() -> u64 {
    const CAP_IPC_LOCK: u32 = 14;
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let effective = status.lines().find_map(|line| u64::from_str_radix(line.strip_prefix("CapEff:")?.trim(), 16).ok());
    let is_free = effective.is_some_and(|capabilities| capabilities & (1 << CAP_IPC_LOCK) != 0);
    if is_free { u64::MAX } else { soft_limit(libc::RLIMIT_MEMLOCK) }
}

/// Bytes that this process's cgroups, v2, still allow; `None` without a limit.
#[must_use]
pub fn cgroup_memory_left() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::"))?;
    let root = Path::new("/sys/fs/cgroup");
    let number = |path: &Path| fs::read_to_string(path).ok()?.trim().parse::<u64>().ok();
    let left =
        |group: &Path| Some(number(&group.join("memory.max"))?.saturating_sub(number(&group.join("memory.current"))?));
    let group = root.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|group| group.starts_with(root)).filter_map(left).min()
}

//! The memory that the control groups of a process still allow: version 2, and version 1 where a controller is of that.

use std::path::{Path, PathBuf};

use super::host::{Host, line, number};

/// The files of a limit and of what is used of it, in both versions.
struct Account {
    controller: &'static str,
    unified: [String; 2],
    legacy: [String; 2],
}

impl Host {
    /// Bytes of memory that this process's groups still allow; `None` without a limit.
    #[must_use]
    pub fn cgroup_memory_left(&self) -> Option<u64> {
        self.left(&Account {
            controller: "memory",
            unified: ["memory.max", "memory.current"].map(Into::into),
            legacy: ["memory.limit_in_bytes", "memory.usage_in_bytes"].map(Into::into),
        })
    }

    /// Bytes of huge pages of a size that this process's groups still allow, by what is in use and by what is reserved.
    #[must_use]
    pub fn cgroup_huge_left(&self, page_size: u64) -> Option<u64> {
        let size = size_name(page_size);
        let account = |kind: &str| Account {
            controller: "hugetlb",
            unified: ["max", "current"].map(|name| format!("hugetlb.{size}.{kind}{name}")),
            legacy: ["limit_in_bytes", "usage_in_bytes"].map(|name| format!("hugetlb.{size}.{kind}{name}")),
        };
        ["", "rsvd."].iter().filter_map(|kind| self.left(&account(kind))).min()
    }

    fn left(&self, account: &Account) -> Option<u64> {
        let groups = self.sysfs.join("fs/cgroup");
        let unified = line(&self.procfs.join("self/cgroup"), "0::");
        let unified = unified.and_then(|path| tightest(&groups, &path, &account.unified));
        let legacy = self.legacy_path(account.controller);
        let legacy = legacy.and_then(|path| tightest(&groups.join(account.controller), &path, &account.legacy));
        unified.into_iter().chain(legacy).min()
    }

    /// The path of this process's group of a controller of version 1.
    fn legacy_path(&self, controller: &str) -> Option<String> {
        let text = std::fs::read_to_string(self.procfs.join("self/cgroup")).ok()?;
        text.lines().find_map(|line| {
            let (controllers, path) = line.split_once(':')?.1.split_once(':')?;
            controllers.split(',').any(|name| name == controller).then(|| path.to_owned())
        })
    }
}

/// The least that a group and those above it leave: their limits count as well.
fn tightest(root: &Path, path: &str, [most, used]: &[String; 2]) -> Option<u64> {
    let left = |group: &Path| {
        // A group may be above a limit that was lowered: nothing is left then.
        Some(number(&group.join(most))?.saturating_sub(number(&group.join(used))?))
    };
    let group: PathBuf = root.join(path.trim_start_matches('/'));
    group.ancestors().take_while(|group| group.starts_with(root)).filter_map(left).min()
}

/// `2MB`: the size in the names of files.
fn size_name(page_size: u64) -> String {
    match page_size.trailing_zeros() {
        30.. => format!("{}GB", page_size >> 30),
        20.. => format!("{}MB", page_size >> 20),
        _ => format!("{}KB", page_size >> 10),
    }
}
